# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""Poses as a modality: read, thinned, augmented in time and in their coordinates, normalised, and padded."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from transformers.utils import logging

from .array_files_slt import split_clip_name, split_name
from .feature_extraction_poses_slt import PoseFeatureExtractor
from .hand_crops_slt import (
    COLUMN_OF_VIDEOS,
    HAND_CROP_NAMES,
    NO_HAND_CROPS,
    PosesInVideo,
    frames_to_crop,
    hand_crops_of_row,
    pad_hand_crops,
    read_hand_crops,
)
from .modality_slt import (
    Augmentation,
    ClipArguments,
    ClipFacts,
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
from .pose_normalisation_slt import body_box, mirrored_poses
from .pose_openpose_slt import is_openpose_folder
from .pose_pictures_slt import draw_poses
from .pose_segmentation_slt import measure_pose_motion
from .poses_live_slt import LivePoses
from .poses_of_videos_slt import is_extractor_installed, path_of_video, poses_of_video
from .poses_slt import Poses, size_of_picture
from .sampling_slt import evenly_spread
from .segmentation_slt import SegmentLengths, VideoSegment, split_motion
from .video_inputs_slt import open_path
from .video_times_slt import read_facts

logger = logging.get_logger(__name__)

MOST_TIMES_AS_LONG = 3  # the longer side of a drawn picture as the other
STATING_SUFFIXES = (".safetensors", ".npz")  # files that can state what extracted their poses


class PoseModality(Modality):
    """
    The column `poses` holds the path of a file of poses, or an array `(frames, points, channels)`. `start` and `end` of
    a row (seconds) may name a part, for which the file, or else the column `frames_per_second`, must state its frame
    rate.

    An item has float32 `poses` `(frames, 133, 3)`, x, y and score before normalisation, and `is_mirrored`, by
    augmentation. If the model also sees crops of the hands, it has `hand_crops`, from the column `video` of its row.
    """

    argument = "poses"
    column = "poses"
    column_names = ("poses", "pose", "keypoints", "poses.npy")
    length_column = "num_frames"
    input_names = ("pose_values", "pose_attention_mask")
    slot = "feature_extractor"
    item_key = "poses"
    table_column = "poses"
    array_dimensions = 3
    has_rests = True
    has_parts = True
    has_pictures = True
    prepared_shape = ("frames", len(POINTS_OF_PARTS), 3)
    packages = ("pose-format",)
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

    def __init__(self, part: Any):
        super().__init__(part)
        if part.hand_crops:
            self.input_names = (*self.input_names, *HAND_CROP_NAMES)
            self.more_columns = (COLUMN_OF_VIDEOS,)

    @classmethod
    def build_part(cls, arguments: ClipArguments, encoder_config: Any = None) -> PoseFeatureExtractor:
        """See `Modality.build_part`; poses are sampled as frames of videos are."""
        return PoseFeatureExtractor(
            arguments.frame_sampling_rate,
            arguments.max_num_frames,
            keep_aspect_ratio=arguments.keep_aspect_ratio,
            smoothing_seconds=arguments.smoothing_seconds,
        )

    @classmethod
    def is_file(cls, path: str | os.PathLike) -> bool:
        return is_pose_file(path)

    @classmethod
    def is_clip_folder(cls, path: str | os.PathLike) -> bool:
        return is_openpose_folder(path)

    @classmethod
    def split_file_name(cls, name: str) -> tuple[str, str]:
        """See `Modality.split_file_name`: `clips.npz#clip_1` -> `clips.npz` and `#clip_1`."""
        return split_clip_name(name, cls.column, is_pose_file, POSE_SUFFIXES)

    @classmethod
    def limits(cls, settings: dict[str, Any]) -> list[str]:
        rate = settings.get("frame_sampling_rate")
        frames = "every frame" if rate == 1 else f"a fraction of {rate} of the frames"
        return [
            f"It sees {len(POINTS_OF_PARTS)} points of the body, the hands and the face in {frames}, not the picture: "
            "of the face only\nthe jaw, the mouth and the tip of the nose. Eyebrows, gaze, cheeks and tongue are lost, "
            "and so is depth.",
            "What their extractor misses or confuses, such as crossed or blurred hands, is lost, too. Use the same "
            "extractor as in\ntraining.",
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

    def with_row(self, clip: Any, row: dict[str, Any]) -> Any:
        """See `Modality.with_row`: the video of the same row, from which hand crops are cut."""
        columns = {str(name).casefold(): value for name, value in row.items()}
        video = next((columns[name] for name in self.more_columns if name in columns), None)
        has_poses = any(name in columns for name in self.column_names)
        return PosesInVideo(clip, video) if has_poses and video is not None else clip

    def is_one(self, clips: Any) -> bool:
        return isinstance(clips, PosesInVideo) or is_one_clip_of_poses(clips)

    def as_list(self, clips: Any) -> list[Any]:
        return list_of_clips_of_poses(clips)

    def open(
        self, source: Any, start: float | None = None, end: float | None = None, rate: float | None = None
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """
        See `Modality.open`; the `rate` of a file that states it is not needed, and takes its place if given. For a
        model that sees hand crops, the metadata of a video has them as `hand_crops`.
        """
        source, video = (source.poses, source.video) if isinstance(source, PosesInVideo) else (source, None)
        poses, begin = self.poses_of(source, start, end, rate)
        rate = poses.frames_per_second
        values = self.part.values_of(poses, name_of_poses(source))
        indices = self.part.sample_frame_indices(len(values), fps=rate)
        metadata = {
            "fps": rate,
            "total_num_frames": len(values),
            "frames_indices": indices,
            "duration": None if rate is None else len(values) / rate,
            "start_in_seconds": begin,
        }
        video = path_of_video(source) if video is None else video
        if self.part.hand_crops and video is not None:
            end = None if rate is None else begin + len(poses) / rate
            chosen = frames_to_crop(poses.scores[indices])
            metadata["hand_crops"] = read_hand_crops(video, poses, indices, chosen, begin, end)
        return values[indices], metadata

    def poses_of(
        self, source: Any, start: float | None = None, end: float | None = None, rate: float | None = None
    ) -> tuple[Poses, float | None]:
        """
        The poses of a clip in any form that `open` takes, all of its frames, and the second of the first of them; None
        without a frame rate. Those of a video are extracted.

        Raises:
            ValueError: as `open`.
        """
        source = source.poses if isinstance(source, PosesInVideo) else source
        name, video = name_of_poses(source), path_of_video(source)
        if video is not None:
            part = poses_of_video(video, self.part.extractor, start, end)
            rate = part.poses.frames_per_second if rate is None else rate
            from_start = [None if second is None else second - part.start for second in (start, end)]
            first, last = part_of_clip(len(part.poses), *from_start, rate, name)
            poses = replace(part.poses.part(first, last), frames_per_second=rate)
            return poses, None if rate is None else part.start + first / rate
        facts = self.part.facts(source)
        rate = facts.frames_per_second if rate is None else rate
        first, _ = part_of_clip(facts.num_frames, start, end, rate, name)
        return read_poses(source, start, end, rate), None if rate is None else first / rate

    def split_at_rests(
        self,
        source: Any,
        start: float | None = None,
        end: float | None = None,
        rate: float | None = None,
        **lengths: float,
    ) -> list[VideoSegment]:
        """See `Modality.split_at_rests`; motion is measured as `measure_pose_motion` says."""
        settings = SegmentLengths(**lengths)
        name = name_of_poses(source)
        poses, begin = self.poses_of(source, start, end, rate)
        if begin is None:
            raise ValueError(f"{name} states no frame rate, and rests are found by their seconds. Pass `source_fps`.")
        threshold = self.part.score_threshold
        motion = measure_pose_motion(poses.keypoints, poses.scores, poses.frames_per_second, begin, threshold, name)
        return split_motion(motion, settings)

    def read_segments(
        self, source: Any, segments: Sequence[VideoSegment | tuple[float, float]], rate: float | None = None
    ) -> Iterator[dict[str, Any]]:
        """
        See `Modality.read_segments`; the poses of all segments are read at once. Those of a video are kept, and for a
        model that sees hand crops it is read again for each segment.
        """
        segments = [part if isinstance(part, VideoSegment) else VideoSegment(*part, *part) for part in segments]
        if not segments:
            return
        first, last = min(part.start for part in segments), max(part.end for part in segments)
        poses, begin = self.poses_of(source, first, last, rate)
        for segment in segments:
            if self.part.hand_crops and (isinstance(source, PosesInVideo) or path_of_video(source) is not None):
                values, metadata = self.open(source, segment.start, segment.end, rate)
            else:
                values, metadata = self.open(poses, max(segment.start - begin, 0.0), segment.end - begin)
                metadata["start_in_seconds"] += begin
            times = {name: second for name, second in vars(segment).items() if name != "cut"}
            prepared = self.prepare([values])[self.input_names[0]][0]
            yield {self.input_names[0]: prepared, "video_metadata": metadata, **times}

    def live(self, **lengths: float) -> LivePoses:
        return LivePoses(SegmentLengths(**lengths), self.open, self.part.score_threshold)

    @staticmethod
    def is_video(path: str | os.PathLike) -> bool:
        """Tell by its name whether a file is a video, whose poses are extracted."""
        return path_of_video(path) is not None

    @staticmethod
    def takes_videos() -> bool:
        """Whether a program is installed that extracts the poses of videos."""
        return is_extractor_installed()

    def look(self, path: str | os.PathLike) -> ClipFacts:
        """See `Modality.look`; of a video, that of the video."""
        video = path_of_video(path)
        if video is not None:
            picture = read_facts(*open_path(video))
            return ClipFacts(picture.end, picture.width, picture.height)
        facts = self.part.facts(path)
        rate = facts.frames_per_second
        _, last = part_of_clip(facts.num_frames, None, None, rate, name_of_poses(path))
        return ClipFacts(None if rate is None else last / rate)

    def pictures(
        self,
        path: str | os.PathLike,
        start: float | None = None,
        end: float | None = None,
        most: int | None = None,
        shorter_side: int = 256,
    ) -> list[tuple[float, np.ndarray]]:
        """See `Modality.pictures`: skeletons."""
        poses, begin = self.poses_of(path, start, end)
        indices = evenly_spread(len(poses), most)
        width, height = size_of_picture(poses)
        longest_side = round(shorter_side * min(max(width, height) / min(width, height), MOST_TIMES_AS_LONG))
        drawn = (poses.keypoints[indices], poses.scores[indices], width, height)
        pictures = draw_poses(*drawn, longest_side, self.part.score_threshold)
        rate = poses.frames_per_second or 1.0
        return [((begin or 0.0) + index / rate, picture) for index, picture in zip(indices, pictures, strict=True)]

    def prepare(self, values: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """See `Modality.prepare`; the poses are normalised."""
        return self.part.pad(values)

    def prepare_more(self, metadata: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """See `Modality.prepare_more`: the hand crops of videos. Files of poses have none, and are read by their poses
        alone."""
        return (
            pad_hand_crops([each.get("hand_crops", NO_HAND_CROPS) for each in metadata]) if self.part.hand_crops else {}
        )

    def read(self, row: dict[str, Any], sample: SampleIndices | None = None) -> ClipValues:
        source = row[self.column]
        poses = read_poses(source, row.get("start"), row.get("end"), self._stated_in_row(row))
        values = self.part.values_of(poses, name_of_poses(source))
        rate = poses.frames_per_second
        return ClipValues(values if sample is None else values[sample(len(values), rate)], rate)

    def exported_settings(self) -> dict[str, Any]:
        """See `Modality.exported_settings`; crops of the hands cannot be prepared without torch."""
        if self.more_columns:
            raise ValueError(
                "An exported model reads poses alone, and this one reads crops of the hands, too. Translate with the "
                "model itself."
            )
        names = (
            "frame_sampling_rate", "training_fps", "max_num_frames", "score_threshold", "keep_aspect_ratio",
            "smoothing_seconds",
        )  # fmt: skip
        shape = [len(POINTS_OF_PARTS), 3]
        return {**{name: getattr(self.part, name) for name in names}, "value_shape": shape}

    def mirrored(self, values: torch.Tensor) -> torch.Tensor:
        """See `Modality.mirrored`; where the mirror stands does not matter, as poses are measured from the body."""
        return mirrored_poses(values)

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

    def complete(
        self,
        item: dict[str, Any],
        indices: Sequence[int],
        read_row: Callable[[], dict[str, Any]],
        seed: int | None = None,
        is_mirrored: bool = False,
    ) -> dict[str, Any]:
        """See `Modality.complete`: crops of the hands that are seen, after augmentation too."""
        if not self.part.hand_crops:
            return item
        scores = item["poses"][..., 2].numpy()
        is_mirrored = is_mirrored != item["is_mirrored"]  # augmentation mirrors what was mirrored back
        return {**item, "hand_crops": hand_crops_of_row(read_row(), indices, scores, is_mirrored, seed)}

    def sample_indices(self, length: int, rate: float | None = None) -> list[int]:
        return self.part.sample_frame_indices(length, fps=rate)

    def item(
        self,
        read: Callable[[SampleIndices], torch.Tensor],
        augmentation: Augmentation | None = None,
        seed: int = 0,
        preprocess_on_device: bool = False,
    ) -> dict[str, Any]:
        """See `Modality.item`; the coordinates are also augmented."""
        if augmentation is None:
            return {"poses": read(self.sample_indices), "is_mirrored": False}
        with random_numbers_of(seed):
            poses = read(self.augmented(augmentation))
            spatial_seed = int(torch.randint(2**62, ()))
        _, body_size = body_box(poses, self.part.score_threshold)
        poses, is_mirrored = augmentation.apply_to_poses(poses, spatial_seed, float(body_size))
        return {"poses": poses, "is_mirrored": is_mirrored}

    def noise(self, item: dict[str, Any], generator: torch.Generator) -> dict[str, Any]:
        """See `Modality.noise`: all points are seen, anywhere in the box around the points of the clip that are seen.
        Crops of the hands are random, too, at the same times."""
        poses = item["poses"]
        seen = poses[..., :2][poses[..., 2] > 0] if (poses[..., 2] > 0).any() else poses[..., :2].reshape(-1, 2)
        low, high = seen.amin(0), seen.amax(0)
        places = low + torch.rand(poses[..., :2].shape, generator=generator) * (high - low)
        noise = {**item, "poses": torch.cat([places, torch.ones_like(poses[..., 2:])], -1)}
        return noise | ({"hand_crops": item["hand_crops"].noise(generator)} if "hand_crops" in item else {})

    def frozen(self, item: dict[str, Any]) -> dict[str, Any]:
        """See `Modality.frozen`; of each hand the first crop is repeated."""
        frozen = super().frozen(item)
        return frozen | ({"hand_crops": item["hand_crops"].frozen()} if "hand_crops" in item else {})

    def collate(self, items: Sequence[dict[str, Any]], preprocess_on_device: bool = False) -> dict[str, Any]:
        """See `Modality.collate`; normalising costs so little that nothing is left to the device."""
        crops = [item["hand_crops"] for item in items] if self.part.hand_crops else []
        return self.part.pad([item["poses"] for item in items]) | (pad_hand_crops(crops) if crops else {})
