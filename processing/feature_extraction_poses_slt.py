# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""Reads poses from files and arrays for models that take them."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import SequenceFeatureExtractor
from transformers.feature_extraction_utils import BatchFeature
from transformers.utils import logging

from .padding_slt import padded_in_time
from .pose_files_slt import list_of_clips_of_poses, name_of_poses, pose_facts, read_poses
from .pose_layouts_slt import POINTS_OF_PARTS
from .pose_normalisation_slt import normalised_poses, smoothed_poses
from .poses_slt import USUAL_FRAMES_PER_SECOND, PoseFacts, Poses, values_of_poses
from .sampling_slt import check_training_fps, fraction_as_in_training, sampled_evenly

logger = logging.get_logger(__name__)

MOST_SMOOTHING_SECONDS = 1  # more would blur several signs into one


class PoseFeatureExtractor(SequenceFeatureExtractor):
    """Reads the poses of signers, thins them in time, normalises them as Uni-Sign does, and pads them to a batch.

    `frame_sampling_rate` is the fraction of frames to keep, `max_num_frames` the most frames of a clip; longer ones are
    thinned evenly (Uni-Sign draws them at random, also in evaluation), and None keeps all. `training_fps` is the frame
    rates of the slowest and the fastest training clip: of slower and faster poses as many per second are taken as of
    the nearest of these. Points with a score up to `score_threshold` are not seen. `keep_aspect_ratio=False` divides x
    by the width and y by the height of the picture, each alone, as Uni-Sign's published weights expect.
    `smoothing_seconds` averages each point over neighbouring frames, weighted by its scores and a Gaussian of this
    standard deviation, and fills short gaps; 0 leaves the poses as they are. `extractor` names what made the poses that
    the model was trained on: those of another one are read with a warning. `hand_crops=True` is for a model that also
    sees crops of the hands (`rgb_fusion` of its sign encoder): in data sets, the column `video` beside the poses gives
    them.

    Example: `PoseFeatureExtractor()(["clip.pose"], return_tensors="pt")["pose_values"].shape`
    """

    model_input_names = ["pose_values", "pose_attention_mask"]

    def __init__(
        self,
        frame_sampling_rate: float = 1.0,
        max_num_frames: int | None = 256,
        score_threshold: float = 0.3,
        keep_aspect_ratio: bool = True,
        smoothing_seconds: float = 0.0,
        extractor: str | None = None,
        hand_crops: bool = False,
        training_fps: Sequence[float] | None = None,
        **kwargs,
    ):
        _check_sampling(frame_sampling_rate, max_num_frames)
        check_training_fps(training_fps)
        if not 0 <= score_threshold < 1:
            raise ValueError(f"`score_threshold` must be from 0 to below 1, got {score_threshold}.")
        if not 0 <= smoothing_seconds <= MOST_SMOOTHING_SECONDS:
            raise ValueError(
                f"`smoothing_seconds` must be from 0 to {MOST_SMOOTHING_SECONDS}, got {smoothing_seconds}."
            )
        # Required by the base class: poses have no samples per second, and masks mark the padding.
        kwargs = {"feature_size": len(POINTS_OF_PARTS), "sampling_rate": None, "padding_value": 0.0, **kwargs}
        super().__init__(**kwargs)
        self.frame_sampling_rate = frame_sampling_rate
        self.max_num_frames = max_num_frames
        self.score_threshold = score_threshold
        self.keep_aspect_ratio = keep_aspect_ratio
        self.smoothing_seconds = smoothing_seconds
        self.extractor = extractor
        self.hand_crops = hand_crops
        self.training_fps = training_fps

    def __call__(
        self,
        poses: Any,
        frame_sampling_rate: float | None = None,
        max_num_frames: int | None = None,
        start: float | None = None,
        end: float | None = None,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """Read one clip or a list of clips, each a path, an array `(frames, points, channels)`, or `Poses`; with
        `start` and `end` (seconds) a part of each.

        Returns `pose_values`, float32 (batch, frames, 69, 3), padded with zeros, and `pose_attention_mask`
        (batch, frames). Raises `ValueError` as `read`."""
        _check_sampling(1.0 if frame_sampling_rate is None else frame_sampling_rate, max_num_frames)
        sampled = []
        for source in list_of_clips_of_poses(poses):
            clip = read_poses(source, start, end)
            rate = clip.frames_per_second
            indices = self.sample_frame_indices(len(clip), frame_sampling_rate, max_num_frames, rate)
            sampled.append(self.values_of(clip, name_of_poses(source))[indices])
        return BatchFeature(self.pad(sampled), tensor_type=return_tensors)

    def read(self, source: Any, start: float | None = None, end: float | None = None) -> torch.Tensor:
        """Read one clip: float32 (frames, 133, 3), x, y and score, in a unit that is the same for x and y.

        `source` is what `read_poses` takes. Raises `ValueError` for what cannot be read, and for poses in pixels of
        a picture of unknown size if `keep_aspect_ratio` is False."""
        return self.values_of(read_poses(source, start, end), name_of_poses(source))

    def values_of(self, poses: Poses, name: str) -> torch.Tensor:
        """The poses of the clip `name` as `read` returns them."""
        self._compare_extractor(poses.extractor)
        values = torch.from_numpy(values_of_poses(poses, self.keep_aspect_ratio, name))
        return self._smoothed(values, poses.frames_per_second) if self.smoothing_seconds else values

    def _smoothed(self, values: torch.Tensor, frames_per_second: float | None) -> torch.Tensor:
        if frames_per_second is None:
            logger.warning_once(
                f"Poses that state no frame rate are smoothed as if they had {USUAL_FRAMES_PER_SECOND:g} frames per "
                "second."
            )
        deviation = self.smoothing_seconds * (frames_per_second or USUAL_FRAMES_PER_SECOND)
        return smoothed_poses(values, deviation, self.score_threshold)

    def facts(self, source: Any) -> PoseFacts:
        """Number of poses of a clip, their rate and extractor; of most files only the header is read."""
        return pose_facts(source)

    def sample_frame_indices(
        self,
        num_frames: int,
        frame_sampling_rate: float | None = None,
        max_num_frames: int | None = None,
        fps: float | None = None,
    ) -> list[int]:
        """Return the sorted indices of the frames that are kept of this many, at `fps` frames per second if that is
        known."""
        rate = frame_sampling_rate or fraction_as_in_training(self.frame_sampling_rate, fps, self.training_fps)
        return sampled_evenly(num_frames, rate, max_num_frames or self.max_num_frames)

    def pad(self, clips: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Pad clips (frames, 133, 3) with zeros to a batch with its mask, and normalise each."""
        poses, mask = padded_in_time(clips)
        values = normalised_poses(poses, self.score_threshold)
        return dict(zip(self.model_input_names, (values, mask), strict=True))

    def _compare_extractor(self, found: str | None) -> None:
        if self.extractor is not None and found is not None and found != self.extractor:
            logger.warning_once(
                f"The clips hold poses of {found}, but the model was trained on those of {self.extractor}. Expect "
                "worse translations."
            )


def _check_sampling(frame_sampling_rate: float, max_num_frames: int | None) -> None:
    if not 0 < frame_sampling_rate <= 1:
        raise ValueError(f"`frame_sampling_rate` must be above 0 and up to 1, got {frame_sampling_rate}.")
    if max_num_frames is not None and max_num_frames < 1:
        raise ValueError(f"`max_num_frames` must be 1 or more, or None for no limit, got {max_num_frames}.")
