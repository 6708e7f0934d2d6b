"""
Data sets of `datasets`, their columns and their rows, as videos for the pipeline.

They are recognised by their attributes, so that `datasets` need not be installed. Their videos stay undecoded, so that
torchcodec, which `datasets` decodes with, is not needed either.
"""

import dataclasses
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import fsspec
from transformers.pipelines.pt_utils import KeyDataset

VIDEO_KEYS = ("video", "start", "end", "source_fps")
# Of how many values of a clip there are per second, if the clip is no video.
RATE_COLUMNS = ("features_per_second", "frames_per_second")
# Words in column names that say where a part begins or ends, in any unit.
WORDS_OF_A_PART = {
    "start": {"start", "starttime", "begin", "onset", "offset"},
    "end": {"end", "endtime", "stop"},
}


def is_data_set(inputs: Any) -> bool:
    """Whether this is a `Dataset` or an `IterableDataset` of `datasets`."""
    return all(hasattr(inputs, name) for name in ("column_names", "features", "cast_column"))


def undecoded(inputs: Any, names: Sequence[str] = ("video",), more_columns: Sequence[str] = ()) -> Any:
    """
    Return a data set with undecoded videos in the column `video`, a column or `KeyDataset` of one with undecoded
    videos, and everything else unchanged.

    Args:
        names: possible names of the column of clips, such as `visual_features` for a model that reads these.
        more_columns: that the model also reads: then the rows stay whole, and keep their names.

    Raises:
        ValueError: for a data set of several splits, and for one without a column of videos.
    """
    if is_data_set(inputs):
        column = _clip_column(inputs, names)
        inputs = _undecoded_columns(inputs)
        if column == "video" or more_columns:
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
    if data_set.features is None:  # a stream with unknown columns
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
    """Pictures and sound beside the videos, too: reading a row decodes all of its columns."""
    for name, kind in (data_set.features or {}).items():
        if getattr(kind, "decode", False):
            data_set = data_set.cast_column(name, dataclasses.replace(kind, decode=False))
    return data_set


@contextmanager
def without_torchcodec() -> Iterator[None]:
    """Explain what to do if `datasets` should decode a video but cannot."""
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


def values_of_row(
    row: dict[str, Any], arguments: Collection[str], names: Sequence[str] = ("video",), has_parts: bool = True
) -> dict[str, Any]:
    """
    What is read from a row or a handmade dictionary: `video`, and those of `start`, `end` and `source_fps` that are not
    `None`, in any letter case. A dictionary that `datasets` has for one video, `{"path": ..., "bytes": ...}`, is the
    video itself.

    Args:
        arguments: names that belong in the call, not in a row.
        names: possible names of the clip. Of a clip that is not called `video`, `features_per_second` or
            `frames_per_second` is its `source_fps`, unless the row has one.
        has_parts: `has_parts` of the modality; without parts, `start` and `end` are not read.

    Raises:
        ValueError: for a row without a video, and for names that seem to say which part is meant, or how to translate
            it, but are not read. All other columns are ignored.
    """
    values: dict[str, Any] = {}
    plain_names = {str(name).casefold() for name in row}
    clip_name = next((name for name in names if name in plain_names), "video")
    if clip_name != "video":
        not_read = {"video", *(RATE_COLUMNS if "source_fps" in plain_names else ())}
        not_read |= set() if has_parts else {"start", "end"}
        ours = {clip_name: "video"} | dict.fromkeys(RATE_COLUMNS, "source_fps")
        row = {
            ours.get(str(name).casefold(), name): value
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
            f"A video given as a dictionary takes only the keys {', '.join(VIDEO_KEYS)}, got {unread}. Rename the "
            f"start and end times, in seconds, to start and end, and remove the others.{advice}"
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
    """Turn the 0-dimensional array of a formatted data set into a number, and NaN, an empty field, into `None`."""
    if getattr(value, "ndim", None) != 0:
        return value
    return None if value != value else value.item()


def with_content(video: Any) -> Any:
    """
    Read the bytes of a video that a stream from the Hub names as `hf://...`; return every other video unchanged.

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
