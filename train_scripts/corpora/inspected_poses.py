"""Poses as `flallm inspect` finds them: what is seen of the hands, which one moves more, and pictures of them."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from modeling_flallm.own_processing import Poses, array_files, draw_poses, pose_files, pose_layouts

from .planned_poses import told_of_people

NUM_STRIP_FRAMES = 5
STRIP_SIZE_IN_PIXELS = 160  # the longest side of each of its pictures
SEEN = 0.3  # scores above it, as models of poses have it
SHOULDERS, WRISTS = (5, 6), (9, 10)
HANDS = {"left": pose_layouts.LEFT_HAND, "right": pose_layouts.RIGHT_HAND}
CLEARLY_MORE = 1.25  # ours: how much farther the wrist of one hand must move than the other for a clip to say which


@dataclass
class PoseMeasurement:
    """
    What the poses of a clip are like; `error` says why they cannot be read.

    Args:
        unseen_hands: shares of the frames in which the left and the right hand are not seen.
        moving_hand: left or right, whichever wrist moves clearly more; None if neither does.
        pictures: uint8 `(frames, height, width, 3)`, from first to last, if they were asked for.
    """

    error: str = ""
    num_frames: int = 0
    frames_per_second: float | None = None
    width: float | None = None
    height: float | None = None
    extractor: str | None = None
    shows_several_people: bool = False
    unseen_hands: tuple[float, float] = (1.0, 1.0)
    moving_hand: str | None = None
    content_hash: str = ""
    pictures: np.ndarray | None = None

    @property
    def never_shows_hands(self) -> bool:
        return self.num_frames > 0 and min(self.unseen_hands) == 1.0

    @property
    def duration_in_seconds(self) -> float | None:
        return self.num_frames / self.frames_per_second if self.frames_per_second else None


class PartOfPoses(Protocol):
    """What is asked of a clip of `inspected_clips`."""

    start: float | None
    end: float | None
    wants_strip: bool


@dataclass
class PosesToMeasure:
    """A path, or an array of a data set on the Hub, with the clips in it."""

    source: Any
    clips: Sequence[PartOfPoses]


def measure_poses(file: PosesToMeasure) -> list[PoseMeasurement]:
    """The poses of all clips of a file, which is hashed once."""
    torch.set_num_threads(1)  # there are as many processes as cores
    try:
        digest = _digest_of(file.source)
    except OSError as error:
        return [PoseMeasurement(error=str(error)) for _ in file.clips]
    return [_measure(file.source, clip, digest) for clip in file.clips]


def _digest_of(source: Any) -> str:
    """Of a file or an array; of a folder its name, because it holds a file for each frame."""
    if not isinstance(source, str | Path):
        return hashlib.sha256(np.ascontiguousarray(source).tobytes()).hexdigest()
    path, array = array_files.split_name(source)
    if path.is_dir():
        return str(path)
    with path.open("rb") as content:
        return f"{hashlib.file_digest(content, 'sha256').hexdigest()}{array or ''}"


def _measure(source: Any, clip: PartOfPoses, digest: str) -> PoseMeasurement:
    try:
        with told_of_people() as told:
            poses = pose_files.read_poses(source, clip.start, clip.end)
    # Data sets hold surprises, and one clip must not stop the work on all others.
    except Exception as error:
        is_known = isinstance(error, OSError | ValueError)
        return PoseMeasurement(error=str(error) if is_known else f"{type(error).__name__}: {error}")
    seen = poses.scores > SEEN
    unseen = tuple(float(1 - seen[:, hand.start : hand.stop].any(1).mean()) for hand in HANDS.values())
    return PoseMeasurement(
        num_frames=len(poses),
        frames_per_second=poses.frames_per_second,
        width=poses.width,
        height=poses.height,
        extractor=poses.extractor,
        shows_several_people=bool(told),
        unseen_hands=unseen,
        moving_hand=moving_hand(poses),
        content_hash=digest,
        pictures=_pictures(poses) if clip.wants_strip else None,
    )


def moving_hand(poses: Poses) -> str | None:
    """Whose wrist goes the longer way past the shoulders, in the frames in which it is seen."""
    ways = [_way_of(wrist, poses) for wrist in WRISTS]
    if max(ways) == 0 or max(ways) < CLEARLY_MORE * min(ways):
        return None
    return tuple(HANDS)[int(np.argmax(ways))]


def _way_of(wrist: int, poses: Poses) -> float:
    """How far a wrist goes, in the unit of the keypoints."""
    seen = (poses.scores[:, [*SHOULDERS, wrist]] > SEEN).all(1)
    places = poses.keypoints[seen, wrist] - poses.keypoints[seen][:, SHOULDERS].mean(1)
    return float(np.linalg.norm(np.diff(places, axis=0), axis=-1).sum())


def _pictures(poses: Poses) -> np.ndarray:
    chosen = np.linspace(0, len(poses) - 1, NUM_STRIP_FRAMES).round().astype(int)
    size = (poses.width, poses.height) if poses.width and poses.height else _size_of(poses)
    return draw_poses(poses.keypoints[chosen], poses.scores[chosen], *size, longest_side=STRIP_SIZE_IN_PIXELS)


def _size_of(poses: Poses) -> tuple[float, float]:
    """A square that holds all points that are seen, where the size of the picture is not known."""
    seen = poses.keypoints[poses.scores > SEEN]
    largest = max(float(seen.max()), 1.0) if len(seen) else 1.0
    return largest, largest


# Figures


def figures_of_poses(measured: Mapping[Any, Sequence[PoseMeasurement]]) -> dict[str, Any]:
    """
    Of the clips of a split that can be read.

    Args:
        measured: by their signers, None where a row names none.
    """
    clips = [clip for of_signer in measured.values() for clip in of_signer]
    total = sum(clip.num_frames for clip in clips)
    unseen = {
        hand: sum(clip.unseen_hands[place] * clip.num_frames for clip in clips) / total if total else 0.0
        for place, hand in enumerate(HANDS)
    }
    hands = {signer: Counter(clip.moving_hand for clip in of_it) for signer, of_it in measured.items()}
    return {
        "clips": len(clips),
        "extractors": dict(Counter(clip.extractor or "not stated" for clip in clips).most_common()),
        "frame_rates": dict(
            Counter(f"{clip.frames_per_second:.2f}" for clip in clips if clip.frames_per_second).most_common()
        ),
        "unseen_hands": unseen,
        "clips_without_hands": sum(clip.never_shows_hands for clip in clips),
        "clips_of_several_people": sum(clip.shows_several_people for clip in clips),
        "moving_hands": {str(hand or "neither"): count for hand, count in _sum(hands).most_common()},
        "left_handed_signers": sorted(
            signer for signer, counts in hands.items() if signer is not None and counts["left"] > counts["right"]
        ),
    }


def _sum(counters: Mapping[Any, Counter]) -> Counter:
    return sum(counters.values(), Counter())
