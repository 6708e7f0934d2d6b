# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""Poses as a modality: read, thinned, augmented in time and in their coordinates, normalised, and padded."""

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from transformers.utils import logging

from .feature_extraction_poses_slt import PoseFeatureExtractor
from .feature_files_slt import split_name
from .modality_slt import (
    Augmentation,
    ClipArguments,
    ClipValues,
    Modality,
    ModalityWords,
    SampleIndices,
    limit_of_hands,
    random_numbers_of,
)
from .pose_files_slt import (
    POSE_SUFFIXES,
    is_one_clip_of_poses,
    is_pose_file,
    list_of_clips_of_poses,
    name_of_poses,
    part_of_clip,
    read_poses,
)
from .pose_layouts_slt import POINTS_OF_PARTS
from .pose_normalisation_slt import body_box

logger = logging.get_logger(__name__)

STATING_SUFFIXES = (".safetensors", ".npz")  # files that can state what extracted their poses


class PoseModality(Modality):
    """
    The column `poses` holds the path of a file of poses, or an array `(frames, points, channels)`. `start` and `end` of
    a row (seconds) may name a part, for which the file, or else the column `frames_per_second`, must state its frame
    rate.

    An item has float32 `poses` `(frames, 133, 3)`: x, y and score before normalisation.
    """

    argument = "poses"
    column = "poses"
    column_names = ("poses", "pose", "keypoints")
    length_column = "num_frames"
    input_names = ("pose_values", "pose_attention_mask")
    slot = "feature_extractor"
    item_key = "poses"
    table_column = "poses"
    array_dimensions = 3
    space_augmentations = frozenset({"rotation_degrees", "horizontal_flip", "scale", "joint_noise", "hand_drop"})
    words = ModalityWords(
        clip="poses",
        clips="poses",
        reads="follows the poses of a signer",
        encoder="pose encoder",
        files="file(s) of poses",
        example="clip.pose",
        shape="(frames, points, channels)",
    )

    @classmethod
    def build_part(cls, arguments: ClipArguments, encoder_config: Any = None) -> PoseFeatureExtractor:
        """See `Modality.build_part`; poses are sampled as frames of videos are."""
        return PoseFeatureExtractor(
            arguments.frame_sampling_rate,
            arguments.max_num_frames,
            keep_aspect_ratio=arguments.keep_aspect_ratio,
        )

    @classmethod
    def is_file(cls, path: str | os.PathLike) -> bool:
        return is_pose_file(path)

    @classmethod
    def split_file_name(cls, name: str) -> tuple[str, str]:
        """See `Modality.split_file_name`: `clips.npz#clip_1` -> `clips.npz` and `#clip_1`."""
        path, array = split_name(name)
        if not is_pose_file(path):
            raise ValueError(
                f"{cls.column} must be in a file of {', '.join(POSE_SUFFIXES)}, got {name!r}. If this column is "
                "something else, rename it."
            )
        return str(path), "" if array is None else f"#{array}"

    @classmethod
    def limits(cls, settings: dict[str, Any]) -> list[str]:
        rate = settings.get("frame_sampling_rate")
        frames = "every frame" if rate == 1 else f"a fraction of {rate} of the frames"
        return [
            f"It sees {len(POINTS_OF_PARTS)} points of the body, the hands and the face in {frames}, not the picture. "
            "What their extractor\nmisses or confuses, such as crossed or blurred hands, is lost. Use the same "
            "extractor as in training.",
            limit_of_hands(settings),
        ]

    def learn_origin(self, clips: Iterable[Any]) -> None:
        """See `Modality.learn_origin`: what extracted the poses, if all files that say so agree."""
        files = (clip for clip in clips if split_name(clip)[0].suffix.lower() in STATING_SUFFIXES)
        stated = sorted({self.part.facts(clip).extractor for clip in files} - {None})
        before = {self.part.extractor} - {None}
        if len({*stated, *before}) > 1:
            logger.warning_once(
                f"The clips hold poses of {', '.join(stated)}; the model knows those of {', '.join(before) or 'none'}. "
                "Poses of different extractors are not alike."
            )
        if len(stated) == 1:
            self.part.extractor = stated[0]

    def origin(self) -> str | None:
        return self.part.extractor

    def is_one(self, clips: Any) -> bool:
        return is_one_clip_of_poses(clips)

    def as_list(self, clips: Any) -> list[Any]:
        return list_of_clips_of_poses(clips)

    def open(
        self, source: Any, start: float | None = None, end: float | None = None, rate: float | None = None
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """See `Modality.open`; the `rate` of a file that states it is not needed, and takes its place if given."""
        facts = self.part.facts(source)
        rate = facts.frames_per_second if rate is None else rate
        name = name_of_poses(source)
        first, _ = part_of_clip(facts.num_frames, start, end, rate, name)
        values = self.part.values_of(read_poses(source, start, end, rate), name)
        indices = self.part.sample_frame_indices(len(values))
        metadata = {
            "fps": rate,
            "total_num_frames": len(values),
            "frames_indices": indices,
            "duration": None if rate is None else len(values) / rate,
            "start_in_seconds": None if rate is None else first / rate,
        }
        return values[indices], metadata

    def prepare(self, values: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """See `Modality.prepare`; the poses are normalised."""
        return self.part.pad(values)

    def read(self, row: dict[str, Any], sample: SampleIndices | None = None) -> ClipValues:
        source = row[self.column]
        poses = read_poses(source, row.get("start"), row.get("end"), self._stated_in_row(row))
        values = self.part.values_of(poses, name_of_poses(source))
        rate = poses.frames_per_second
        return ClipValues(values if sample is None else values[sample(len(values), rate)], rate)

    def count(self, row: dict[str, Any]) -> int:
        source = row[self.column]
        num_frames, rate = self.part.facts(source).num_frames, self.rate(row)
        first, last = part_of_clip(num_frames, row.get("start"), row.get("end"), rate, name_of_poses(source))
        return last - first

    def rate(self, row: dict[str, Any]) -> float | None:
        return self._stated_in_row(row) or self.part.facts(row[self.column]).frames_per_second

    def _stated_in_row(self, row: dict[str, Any]) -> float | None:
        """The frame rate in a column of the data set, for poses that do not state it themselves."""
        stated = row.get("frames_per_second") or None
        return None if stated is None or self.part.facts(row[self.column]).frames_per_second else stated

    def sample_indices(self, length: int, rate: float | None = None) -> list[int]:
        return self.part.sample_frame_indices(length)

    def item(
        self,
        read: Callable[[SampleIndices], torch.Tensor],
        augmentation: Augmentation | None = None,
        seed: int = 0,
        preprocess_on_device: bool = False,
    ) -> dict[str, Any]:
        """See `Modality.item`; the coordinates are also augmented."""
        if augmentation is None:
            return {"poses": read(self.sample_indices)}
        with random_numbers_of(seed):
            poses = read(self.augmented(augmentation))
            spatial_seed = int(torch.randint(2**62, ()))
        box = body_box(poses, self.part.score_threshold)
        return {"poses": augmentation.apply_to_poses(poses, spatial_seed, 0.0 if box is None else float(box[1]))}

    def collate(self, items: Sequence[dict[str, Any]], preprocess_on_device: bool = False) -> dict[str, Any]:
        """See `Modality.collate`; normalising costs so little that nothing is left to the device."""
        return self.part.pad([item["poses"] for item in items])
