# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""A video while it is recorded: the motion and the frames of the current sentence."""

from collections.abc import Callable
from typing import Any

import torch

from .live_clip_slt import LiveClip, LivePart, SampleIndices
from .segmentation_slt import Motion, SegmentLengths
from .video_decoding_slt import stream_grey_pictures
from .video_segmentation_slt import CAMERA_NOISE, PICTURE_SIZE_IN_PIXELS, PictureChanges


class LiveVideo(LiveClip):
    """
    Frames are pictures: arrays, tensors, PIL images or paths, as `decode_video` takes them in lists.

    Args:
        lengths, sample: see `LiveClip`.
        read_frame: maps a picture to a frame as it is kept, uint8 `(3, height, width)`.
    """

    noise_levels = CAMERA_NOISE

    def __init__(
        self,
        lengths: SegmentLengths,
        sample: SampleIndices | None,
        read_frame: Callable[[Any], torch.Tensor],
    ):
        super().__init__(lengths, sample)
        self._read_frame = read_frame
        self._changes = PictureChanges()

    def values(self, part: LivePart) -> torch.Tensor:
        """See `LiveClip.values`: uint8 `(frames, 3, height, width)`."""
        return torch.stack(part.frames)

    def _read(self, frame: Any, seconds: float) -> torch.Tensor:
        ((_, grey),) = stream_grey_pictures([frame], PICTURE_SIZE_IN_PIXELS, fps=1.0)
        self._changes.add(seconds, grey)
        return self._read_frame(frame)

    def _motion(self, usual_before: float) -> Motion:
        return self._changes.motion(usual_before)

    def _forget_motion(self, before: float) -> None:
        self._changes.forget(before)

    def _restart_motion(self) -> None:
        self._changes = PictureChanges()


__all__ = ["LiveVideo"]
