"""
Data sets of `datasets`, their columns and their rows, as videos for the pipeline.

They are known by what they have: `datasets` need not be installed where the pipeline runs. Their videos stay undecoded,
so that torchcodec, with which `datasets` decodes, is not needed either.
"""

import dataclasses
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import fsspec
from transformers.pipelines.pt_utils import KeyDataset

VIDEO_KEYS = ("video", "start", "end", "source_fps")
# Words in the names of columns that say where a part begins or ends, in whatever unit.
WORDS_OF_A_PART = {
    "start": {"start", "starttime", "begin", "onset", "offset"},
    "end": {"end", "endtime", "stop"},
}


def is_data_set(inputs: Any) -> bool:
    """Whether this is a `Dataset` or an `IterableDataset` of `datasets`."""
    return all(hasattr(inputs, name) for name in ("column_names", "features", "cast_column"))


def undecoded(inputs: Any, names: Sequence[str] = ("video",)) -> Any:
    """
    A data set with its videos undecoded in the column `video`; a column or `KeyDataset` of one with its videos
    undecoded; everything else as it is.

    Args:
        names: what the column of the clips may be called, such as `visual_features` for a model that reads these.

    Raises:
        ValueError: for a data set of several splits, and for one without a column of videos.
    """
    if is_data_set(inputs):
        column = _clip_column(inputs, names)
        inputs = _undecoded_columns(inputs)
        if column == "video":
            return inputs
        others = [name for name in inputs.column_names or () if name == "video"]
        return inputs.remove_columns(others).rename_column(column, "video")
    if isinstance(inputs, dict) and inputs and all(map(is_data_set, inputs.values())):
        raise ValueError(
            f"Pass one split of the data set, such as dataset[{next(iter(inputs))!r}]; got {list(inputs)}."
        )
    if isinstance(inputs, KeyDataset) and is_data_set(inputs.dataset):
        return KeyDataset(_undecoded_columns(inputs.dataset), inputs.key)
    if hasattr(inputs, "column_name") and is_data_set(getattr(inputs, "source", None)):
        column = _undecoded_columns(inputs.source)[inputs.column_name]
        return column if hasattr(inputs.source, "__len__") else iter(column)
    return inputs


def _clip_column(data_set: Any, names: Sequence[str]) -> str:
    if data_set.features is None:  # a stream that does not tell its columns
        return names[0]
    kinds = {name: type(kind).__name__ for name, kind in data_set.features.items()}
    found = [name for name in kinds if name == names[0]] or [name for name in kinds if name.casefold() in names]
    if "video" in names:
        found = found or [name for name, kind in kinds.items() if kind == "Video"]
    if len(found) != 1:
        raise ValueError(
            f"`{names[0]}` must be a column of the data set, got columns {list(kinds)}. Rename the one with the "
            f"{'videos' if 'video' in names else 'clips'}: dataset.rename_column(..., {names[0]!r})."
        )
    return found[0]


def _undecoded_columns(data_set: Any) -> Any:
    """Also pictures and sound beside the videos: whoever takes a row decodes all of it."""
    for name, kind in (data_set.features or {}).items():
        if getattr(kind, "decode", False):
            data_set = data_set.cast_column(name, dataclasses.replace(kind, decode=False))
    return data_set


@contextmanager
def without_torchcodec() -> Iterator[None]:
    """Say what to do where `datasets` was asked for a decoded video and cannot decode it."""
    try:
        yield
    except ImportError as error:
        if "torchcodec" not in str(error):
            raise
        raise ImportError(
            "`datasets` decodes videos with torchcodec, which is not installed. It is not needed here: pass the data "
            "set itself, or rows whose videos are not decoded: dataset.cast_column('video', "
            "datasets.Video(decode=False))."
        ) from error


def values_of_row(row: dict[str, Any], arguments: Collection[str], names: Sequence[str] = ("video",)) -> dict[str, Any]:
    """
    Of a row, or of a dictionary made by hand, what is read of it: `video`, and of `start`, `end` and `source_fps` those
    that are not `None`, in whatever letter case their names are. What `datasets` has of one video, `{"path": ...,
    "bytes": ...}`, is the video itself.

    Args:
        arguments: names that belong into the call, not into a row.
        names: what the clip may be called. One that is no `video` is a whole clip: `start` and `end` of its row say
            where in a video it was.

    Raises:
        ValueError: for a row without a video, and for names that seem to say which part of it is meant, or how to
            translate it, but are not read. All other columns of a row are for others.
    """
    values: dict[str, Any] = {}
    plain_names = {str(name).casefold() for name in row}
    clip_name = next((name for name in names if name in plain_names), "video")
    if clip_name != "video":
        not_read = {"video", "start", "end"}
        row = {
            "video" if str(name).casefold() == clip_name else name: value
            for name, value in row.items()
            if str(name).casefold() not in not_read
        }
    is_bare_video = not any(str(name).casefold() == "video" for name in row) and {"path", "bytes"} & set(row)
    others = []
    for name, value in row.items():
        key = str(name).casefold()
        if key not in VIDEO_KEYS or is_bare_video:
            others.append(str(name))
        elif key in values:
            raise ValueError(f"A row must name {key!r} once, got the keys {sorted(map(str, row))}.")
        else:
            values[key] = value
    unread = sorted(name for name in others if name in arguments or _seems_a_part(name, values))
    if unread:
        advice = ' Pass {"video": {"path": ...}, "start": ..., "end": ...}.' if is_bare_video else ""
        raise ValueError(
            f"A video given as a dictionary has the keys {', '.join(VIDEO_KEYS)}, got {unread} too. Rename what says "
            f"where to start and end, in seconds, to start and end, and leave the rest of these out.{advice}"
        )
    if is_bare_video:
        return {"video": row}
    if values.get("video") is None:
        raise ValueError(f"A row must have a video in `video`, got {'None' if 'video' in values else sorted(row)}.")
    values = {name: _plain(value) for name, value in values.items()}
    return {name: value for name, value in values.items() if value is not None}


def _seems_a_part(name: str, values: dict[str, Any]) -> bool:
    words = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)}
    return any(words & meant and end not in values for end, meant in WORDS_OF_A_PART.items())


def _plain(value: Any) -> Any:
    """A number, where a data set with a format has an array of no dimensions; `None` for its NaN, an empty field."""
    if getattr(value, "ndim", None) != 0:
        return value
    return None if value != value else value.item()


def with_content(video: Any) -> Any:
    """
    What a stream from the Hub has as `hf://...` with its bytes; every other video as it is.

    Raises:
        ValueError: if it cannot be read.
    """
    encoded = getattr(video, "_hf_encoded", video)
    path = encoded.get("path") if isinstance(encoded, dict) and encoded.get("bytes") is None else None
    if not isinstance(path, str) or "hf://" not in path:
        return video
    try:
        with fsspec.open(path, "rb") as file:
            return {"path": path, "bytes": file.read()}
    except OSError as error:
        raise ValueError(f"'{path}' could not be read: {error}") from error
