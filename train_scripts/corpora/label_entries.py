"""Entries of the label files that others keep as pickles: their texts, and the lengths that they count."""

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
    """List a clip whose label counts other frames than its folder holds; it stays a clip."""
    count = num_pictures(clip.video)
    if isinstance(length, int) and length != count:
        what = f"its label counts {length} frames, its folder holds {count} pictures; the clip is kept"
        gathered.problems.append(Problem(f"{clip.split} {clip.name}", what))
