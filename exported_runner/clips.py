"""Clips of each kind, from a file or an array to what the sign encoder of an exported model reads."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .sampling_slt import evenly_spread, fraction_as_in_training, sampled_evenly

# A clip, a path or an array, and from which second to which it is read -> float32 `(length, ...)`.
Reader = Callable[[Any, float | None, float | None], np.ndarray]


def reader_of(settings: dict[str, Any]) -> Reader:
    """The reader of the clips of a model, by the `modality` in its settings; it imports only what this one needs."""
    return {"videos": _video_reader, "poses": _pose_reader, "visual_features": _feature_reader}[settings["modality"]](
        settings
    )


def padded(clips: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Clips `(length, ...)` -> a batch of them with zeros at the end, and its mask `(clips, longest)`, int64."""
    longest = max(map(len, clips))
    values = np.zeros((len(clips), longest, *clips[0].shape[1:]), np.float32)
    mask = np.zeros((len(clips), longest), np.int64)
    for row, clip in enumerate(clips):
        values[row, : len(clip)], mask[row, : len(clip)] = clip, 1
    return values, mask


def _is_file(clip: Any) -> bool:
    return isinstance(clip, str | Path)


def _check_no_part(start: float | None, end: float | None) -> None:
    if start is not None or end is not None:
        raise ValueError("`start` and `end` are seconds of a file, and an array has none. Pass the part itself.")


def _video_reader(settings: dict[str, Any]) -> Reader:
    from .pixels import FramePreparation

    preparation = FramePreparation(settings)

    def sample(num_frames: int, rate: float | None) -> list[int]:
        kept = settings["frame_sampling_rate"]
        kept = fraction_as_in_training(1.0 if kept is None else kept, rate, settings["training_fps"])
        if settings["fps"] is not None:
            if rate is None:
                raise ValueError(
                    f"The model reads {settings['fps']} frames per second, and the clip has no frame rate. Pass a file."
                )
            kept = min(1.0, settings["fps"] / rate)
        return sampled_evenly(num_frames, kept, settings["max_num_frames"])

    def read(clip: Any, start: float | None, end: float | None) -> np.ndarray:
        if _is_file(clip):
            from .video_file_frames_slt import decode_file
            from .video_requests_slt import FrameRequest, check_request

            check_request(start, end, None)
            if not Path(clip).is_file():
                raise ValueError(f"There is no file '{clip}'.")
            request = FrameRequest(start, end, None, sample, preparation.resized)
            frames = next(decode_file(str(clip), f"'{clip}'", [request])).frames
        else:
            _check_no_part(start, end)
            frames = np.asarray(clip)
            if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not len(frames):
                raise ValueError(
                    "The frames of a clip must be uint8 of the shape (frames, height, width, 3), got "
                    f"{frames.dtype} {frames.shape}."
                )
            chosen = frames[sample(len(frames), None)].transpose(0, 3, 1, 2)
            frames = np.stack([preparation.resized(frame) for frame in chosen])
        return preparation.normalised(frames)

    return read


def _pose_reader(settings: dict[str, Any]) -> Reader:
    from .pose_files_slt import read_poses
    from .poses import PosePreparation

    preparation = PosePreparation(settings)

    def read(clip: Any, start: float | None, end: float | None) -> np.ndarray:
        poses = read_poses(clip, start, end)
        values = preparation.values_of(poses, f"'{clip}'" if _is_file(clip) else "the clip")
        rate = fraction_as_in_training(
            settings["frame_sampling_rate"], poses.frames_per_second, settings["training_fps"]
        )
        kept = sampled_evenly(len(values), rate, settings["max_num_frames"])
        return preparation.normalised(values[kept])

    return read


def _feature_reader(settings: dict[str, Any]) -> Reader:
    def read(clip: Any, start: float | None, end: float | None) -> np.ndarray:
        _check_no_part(start, end)
        if _is_file(clip):
            raise ValueError(f"Pass the visual features of a clip as an array, not the file '{clip}'.")
        values = np.asarray(clip)
        if (
            values.dtype.kind != "f"
            or values.ndim != 2
            or values.shape[1] != settings["feature_size"]
            or not len(values)
        ):
            raise ValueError(
                "The visual features of a clip must be floating point numbers of the shape (features, "
                f"{settings['feature_size']}), got {values.dtype} {values.shape}."
            )
        return values[evenly_spread(len(values), settings["max_num_features"])].astype(np.float32)

    return read
