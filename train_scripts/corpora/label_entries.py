"""Entries of label files that other projects store as pickles: their strings, and the lengths they state."""

from collections.abc import Mapping
from typing import Any

from .corpus_files import num_pictures
from .corpus_rows import Gathered
from .corpus_schema import Problem, RawClip
from .corpus_tables import RowError, check_characters


def string_of(entry: Mapping[str, Any], key: str, needed: bool = True) -> str:
    value = entry.get(key)
    if value is None and not needed:
        return ""
    if not isinstance(value, str):
        raise RowError(f"`{key}` must be a string, got {type(value).__name__}")
    check_characters([value])
    return value


def strings_of(entry: Mapping[str, Any], key: str) -> list[str]:
    values = entry.get(key)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise RowError(f"`{key}` must be a list of strings")
    check_characters(values)
    return values


def compare_length(clip: RawClip, length: Any, gathered: Gathered) -> None:
    """Reports a clip whose label states a different number of frames than its folder holds; the clip is kept."""
    count = num_pictures(clip.video)
    if isinstance(length, int) and length != count:
        what = f"its label states {length} frames, but its folder holds {count} pictures; the clip is kept"
        gathered.problems.append(Problem(f"{clip.split} {clip.name}", what))
