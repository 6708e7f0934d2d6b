# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""
Crops of the hands in some frames of a clip, for Uni-Sign's prior-guided fusion (arXiv 2501.15187): which frames, where
the hands are in them, and the pixels.

Frames matter where the pose is least sure of the fingertips, but sees the hand. In training they are drawn from a seed;
in evaluation, where Uni-Sign draws too, they are the same in every run (ours, see `frames_to_crop`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torchvision.transforms.v2.functional import normalize, resize
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from .pose_files_slt import read_poses
from .pose_layouts_slt import LEFT_HAND, RIGHT_HAND
from .poses_slt import Poses, are_fractions
from .video_decoding_slt import decode_video

HAND_CROP_NAMES = ("hand_pixel_values", "hand_frame_indices", "hand_crop_keypoints")
COLUMN_OF_VIDEOS = "video"
NO_FRAME = -1
CROP_SIZE = 112  # pixels
FRACTION_OF_FRAMES = 0.1
SCORE_THRESHOLD = 0.3
MARGIN = 1.2  # the side of a crop, in largest extents of a hand
HANDS = (list(LEFT_HAND), list(RIGHT_HAND))
FINGERTIPS = [4, 8, 12, 16, 20]  # in a hand
LEAST_WEIGHT = 1e-5
# Seconds by which the lengths of a video and of its poses may differ, and the part of the longer one.
TOLERANCE_IN_SECONDS, TOLERANCE = 0.5, 0.1


@dataclass(frozen=True)
class HandCrops:
    """
    The crops of both hands of a clip, first the left one.

    Args:
        pixels: uint8 `(2, crops, 3, 112, 112)`, 0 outside the picture.
        frame_indices: int64 `(2, crops)`, the frame of the clip that each is of, rising; -1 after the last one.
        keypoints: float32 `(2, crops, 21, 2)`, x and y of the hand's points in the crop, from 0 to 1; points that are
            not seen are in the middle.
    """

    pixels: torch.Tensor
    frame_indices: torch.Tensor
    keypoints: torch.Tensor

    def mirrored(self) -> "HandCrops":
        """What they would be of a mirrored signer."""
        keypoints = self.keypoints * torch.tensor([-1.0, 1.0]) + torch.tensor([1.0, 0.0])
        return HandCrops(self.pixels.flip(0, -1), self.frame_indices.flip(0), keypoints.flip(0))

    def noise(self, generator: torch.Generator) -> "HandCrops":
        """As many crops at the same times that show nothing, with random points."""
        pixels = torch.randint(256, self.pixels.shape, generator=generator, dtype=torch.uint8)
        return HandCrops(pixels, self.frame_indices, torch.rand(self.keypoints.shape, generator=generator))

    def frozen(self) -> "HandCrops":
        """As many crops at the same times, of each hand the first of them."""
        pixels, keypoints = (each[:, :1].expand_as(each).contiguous() for each in (self.pixels, self.keypoints))
        return HandCrops(pixels, self.frame_indices, keypoints)


@dataclass(frozen=True)
class PosesInVideo:
    """Poses as `read_poses` takes them, and their video as `decode_video` does."""

    poses: Any
    video: Any


def frames_to_crop(scores: np.ndarray, seed: int | None = None) -> tuple[list[int], list[int]]:
    """
    Choose the frames in which the left and the right hand are cropped, in order: a tenth of those that show the hand
    (mean score above .3), rounded up, more often those with an unsure fingertip.

    The weight of a frame is how far its least sure fingertip is below the best such value of the clip, as in Uni-Sign's
    code (its paper has 1 - mean score). With a `seed` frames are drawn without replacement. Without one, those that
    show the hand are split into as many runs of equal length, and the frame with the largest weight of each is taken:
    spread over the clip, and the same in every run.

    Args:
        scores: of the frames of a clip, `(frames, 133)`.
    """
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    left, right = (_frames_of_hand(scores[:, hand], generator) for hand in HANDS)
    return left, right


def _frames_of_hand(scores: np.ndarray, generator: torch.Generator | None) -> list[int]:
    candidates = np.flatnonzero(scores.mean(1) > SCORE_THRESHOLD)
    if not len(candidates):
        return []
    least_sure = scores[candidates][:, FINGERTIPS].min(1)
    weights = least_sure.max() - least_sure + LEAST_WEIGHT
    count = math.ceil(FRACTION_OF_FRAMES * len(candidates))
    if generator is None:
        runs = np.array_split(np.arange(len(candidates)), count)
        chosen = [run[weights[run].argmax()] for run in runs]
    else:
        chosen = torch.multinomial(torch.from_numpy(weights).double(), count, generator=generator).numpy()
    return sorted(candidates[chosen].tolist())


def hand_crops_of_row(
    row: dict[str, Any],
    indices: Sequence[int],
    scores: np.ndarray,
    is_mirrored: bool = False,
    seed: int | None = None,
) -> HandCrops:
    """
    The hand crops of a row of a data set with the columns `poses` and `video`; `start` and `end` (seconds) of the row
    name a part of both.

    Args:
        indices: which of the poses are the frames of the clip.
        scores: of these frames, `(frames, 133)`, after augmentation, which may have hidden a hand.
        is_mirrored: whether augmentation has mirrored the signer.
        seed: see `frames_to_crop`.

    Raises:
        ValueError: for a row without a video, and as `read_hand_crops`.
    """
    if row.get(COLUMN_OF_VIDEOS) is None:
        raise ValueError(
            "The model also sees crops of the hands: the data set needs the column `video` beside `poses`, got columns "
            f"{sorted(row)}. Streamed data sets give no videos beside poses. With `hand_crops=False` of the feature "
            "extractor, the model reads the poses alone."
        )
    start, end = row.get("start"), row.get("end")
    poses = read_poses(row["poses"], start, end)
    left, right = frames_to_crop(scores, seed)
    crops = read_hand_crops(
        row[COLUMN_OF_VIDEOS], poses, indices, (right, left) if is_mirrored else (left, right), start, end
    )
    return crops.mirrored() if is_mirrored else crops


def read_hand_crops(
    video: Any,
    poses: Poses,
    indices: Sequence[int],
    chosen: tuple[Sequence[int], Sequence[int]],
    start: float | None = None,
    end: float | None = None,
) -> HandCrops:
    """
    Cut the hands out of a video; only the frames that are needed are decoded.

    Args:
        video: what `decode_video` takes.
        poses: of the same part of the video, at any frame rate.
        indices: which of the poses are the frames of the clip.
        chosen: frames of the clip to crop, of the left and of the right hand.
        start, end: the part of the video in seconds.

    Raises:
        ValueError: for a video that cannot be read, or that is not as long as its poses.
    """
    wanted = sorted({indices[frame] for frames in chosen for frame in frames})
    if not wanted:
        return NO_HAND_CROPS

    def sample(num_frames: int, fps: float | None) -> list[int]:
        _check_lengths(len(poses), poses.frames_per_second, num_frames, fps)
        return [_same_time(pose, len(poses), num_frames) for pose in wanted]

    decoded = decode_video(video, start=start, end=end, sample_frame_indices=sample)
    # A damaged video lacks frames; two poses may fall on one frame.
    pictures = dict(zip(decoded.frame_indices, decoded.frames, strict=True))
    shown = {pose: pictures.get(_same_time(pose, len(poses), decoded.num_source_frames)) for pose in wanted}
    keypoints = _in_pixels(poses, *decoded.frames.shape[-2:])

    def hand_in(frame: int, points: list[int]) -> _Hand:
        pose = indices[frame]
        return _Hand(frame, shown[pose], keypoints[pose, points], poses.scores[pose, points] > 0)

    hands = [[hand_in(frame, points) for frame in frames] for frames, points in zip(chosen, HANDS, strict=True)]
    side = _side_of_crops([hand for of_side in hands for hand in of_side], max(decoded.frames.shape[-2:]))
    return _stacked([[_crop(hand, side) for hand in of_side if hand.picture is not None] for of_side in hands])


@dataclass(frozen=True)
class _Hand:
    """A hand in one frame of the clip: the picture, if it came, the hand's points in it, `(21, 2)`, and which of them
    are seen."""

    frame: int
    picture: torch.Tensor | None
    points: np.ndarray
    seen: np.ndarray

    @property
    def box(self) -> tuple[np.ndarray, np.ndarray]:
        """The corners of what is seen."""
        return self.points[self.seen].min(0), self.points[self.seen].max(0)


def _same_time(pose: int, num_poses: int, num_frames: int) -> int:
    """The frame of a video that is at the time of a pose, where both are of the same part."""
    return min(int((pose + 0.5) * num_frames / num_poses), num_frames - 1)


def _check_lengths(num_poses: int, poses_per_second: float | None, num_frames: int, fps: float | None) -> None:
    if poses_per_second is None or fps is None:
        return
    of_poses, of_video = num_poses / poses_per_second, num_frames / fps
    if abs(of_poses - of_video) > max(TOLERANCE_IN_SECONDS, TOLERANCE * max(of_poses, of_video)):
        raise ValueError(
            f"The poses last {of_poses:.2f} seconds and their video {of_video:.2f}: hand crops need poses of the same "
            "part of the same video. Correct the row, or extract the poses again."
        )


def _in_pixels(poses: Poses, height: int, width: int) -> np.ndarray:
    """The keypoints in pixels of the video, whatever size the picture had in which they were found."""
    if poses.width is not None and poses.height is not None:
        return poses.keypoints * np.float32([width / poses.width, height / poses.height])
    is_fraction = are_fractions(poses.keypoints, poses.scores)
    return poses.keypoints * np.float32([width, height]) if is_fraction else poses.keypoints


def _side_of_crops(hands: Sequence[_Hand], longest: int) -> int:
    """One side for all crops of a clip, in even pixels: 1.2 times the largest extent of a hand, and at most the
    picture."""
    largest = max(float((most - least).max()) for least, most in (hand.box for hand in hands))
    return max(2 * round(min(MARGIN * largest, longest) / 2), 2)


def _crop(hand: _Hand, side: int) -> tuple[int, torch.Tensor, np.ndarray]:
    """The frame, the square around the hand, uint8 `(3, 112, 112)`, and the hand's points in it, `(21, 2)`."""
    left, top = np.round(sum(hand.box) / 2 - side / 2).astype(np.int64).tolist()
    places = np.where(hand.seen[:, None], (hand.points - [left, top]) / side, 0.5).clip(0, 1)
    pixels = resize(_square(hand.picture, left, top, side), [CROP_SIZE, CROP_SIZE], antialias=True)
    return hand.frame, pixels, places.astype(np.float32)


def _square(picture: torch.Tensor, left: int, top: int, side: int) -> torch.Tensor:
    """`(3, side, side)` of a picture `(3, height, width)`, 0 outside of it."""
    height, width = picture.shape[-2:]
    square = picture.new_zeros(3, side, side)
    columns, rows = slice(max(left, 0), min(left + side, width)), slice(max(top, 0), min(top + side, height))
    if columns.start < columns.stop and rows.start < rows.stop:
        inside = picture[:, rows, columns]
        square[:, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = inside
    return square


def _stacked(crops: Sequence[Sequence[tuple[int, torch.Tensor, np.ndarray]]]) -> HandCrops:
    most = max(len(of_side) for of_side in crops)
    pixels = torch.zeros(len(HANDS), most, 3, CROP_SIZE, CROP_SIZE, dtype=torch.uint8)
    frame_indices = torch.full((len(HANDS), most), NO_FRAME)
    keypoints = torch.zeros(len(HANDS), most, len(LEFT_HAND), 2)
    for side, of_side in enumerate(crops):
        for place, (frame, crop, points) in enumerate(of_side):
            pixels[side, place], frame_indices[side, place] = crop, frame
            keypoints[side, place] = torch.from_numpy(points)
    return HandCrops(pixels, frame_indices, keypoints)


NO_HAND_CROPS = _stacked([[], []])


def pad_hand_crops(clips: Sequence[HandCrops]) -> dict[str, torch.Tensor]:
    """
    The crops of several clips as a batch: `hand_pixel_values`, float32 `(batch, 2, crops, 3, 112, 112)` with ImageNet's
    mean and standard deviation, `hand_frame_indices` `(batch, 2, crops)`, -1 for padding, and `hand_crop_keypoints`
    `(batch, 2, crops, 21, 2)`. There is at least one place for a crop.
    """
    most = max(1, *(clip.frame_indices.shape[1] for clip in clips))
    frame_indices = torch.full((len(clips), len(HANDS), most), NO_FRAME)
    pixels = torch.zeros(*frame_indices.shape, 3, CROP_SIZE, CROP_SIZE)
    keypoints = torch.zeros(*frame_indices.shape, len(LEFT_HAND), 2)
    for row, clip in enumerate(clips):
        count = clip.frame_indices.shape[1]
        normalised = normalize(clip.pixels / 255, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
        pixels[row, :, :count], frame_indices[row, :, :count] = normalised, clip.frame_indices
        keypoints[row, :, :count] = clip.keypoints
    return dict(zip(HAND_CROP_NAMES, (pixels, frame_indices, keypoints), strict=True))
