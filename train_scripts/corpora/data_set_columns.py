"""
Columns of ready-made data sets, in the tables of video folders and on the Hub, under the names used here. Columns are
recognised regardless of letter case and Unicode form; unused columns are reported, never silently ignored.
"""

import functools
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets

from modeling_flallm.own_processing import MODALITIES

from .corpus_schema import COLUMNS, FEATURE_COLUMNS, POSE_COLUMNS
from .corpus_tables import COLUMN_NAMES, check_unused_columns, find_columns, split_of

# Columns that a CSV file, or the Hub, may hold as text.
NUMBERS = ("start", "end", "num_frames", "frames_per_second", "num_features", "features_per_second")
WORDS = ("spoken_language", "sign_language", "signer", "handedness")
# Of WebDataset, whose columns are the ends of file names.
TEXTS_OF_SHARDS = ("txt",)
OF_SHARDS = ("__key__", "__url__")
MOST_SHOWN = 20  # a table of landmarks has thousands of columns
NAMES_OF_CLIPS = {modality.column: modality.column_names for modality in MODALITIES}
CLIP_COLUMNS = tuple(NAMES_OF_CLIPS)
TABLE_COLUMNS = [modality.table_column for modality in MODALITIES]
USED = tuple(dict.fromkeys(("file_name", *CLIP_COLUMNS, *TABLE_COLUMNS, "split", *NUMBERS, *WORDS)))


def by_our_names(row: dict[str, Any], text_column: str | None, name: str) -> dict[str, Any]:
    """A row with its columns renamed as in `our_names`, which documents the errors."""
    names = our_names(tuple(column for column in row if column is not None), text_column, name)
    return {names.get(column, column): value for column, value in row.items()}


@functools.lru_cache(maxsize=1000)
def our_names(columns: tuple[str, ...], text_column: str | None, name: str) -> dict[str, str]:
    """
    The columns of a data set that are used here, with our names for them: `{"Start Time": "start"}`.

    Args:
        text_column: None where sentences are not read.
        name: of the data set or its file, for error messages.

    Raises:
        ValueError: if two columns get the same name, or if an unrecognised column may hold splits or times.
    """
    known = {**COLUMN_NAMES, **NAMES_OF_CLIPS}
    names = {column: known.get(column, (column,)) for column in USED}
    if text_column is not None:
        names[text_column] = (text_column,) if text_column in columns else (text_column, *TEXTS_OF_SHARDS)
    places = find_columns(list(columns), names, (), Path(name))
    found = {columns[place]: ours for ours, place in places.items()}
    known_columns = {*found, *COLUMNS, *FEATURE_COLUMNS, *POSE_COLUMNS}
    check_unused_columns([column for column in columns if column not in known_columns], places, Path(name))
    return found


@functools.cache
def tell_unused(columns: frozenset[str], name: str) -> None:
    """Once per data set, and only in the first of several processes."""
    if columns and os.environ.get("RANK", "0") == "0":
        print(f"{name}: {say_unused(columns)}.", file=sys.stderr)


def say_unused(columns: Iterable[str]) -> str:
    names = sorted(columns)
    shown = ", ".join(names[:MOST_SHOWN]) + (f" and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else "")
    # Replace characters that would move a terminal's cursor.
    return "unused columns: " + "".join(c if c.isprintable() else "\ufffd" for c in shown)


def unused(columns: Iterable[str], text_column: str | None) -> frozenset[str]:
    """Of columns under our names; the columns that `flallm prepare` writes do not count."""
    return frozenset(columns) - {*USED, *COLUMNS, *FEATURE_COLUMNS, *POSE_COLUMNS, *OF_SHARDS, text_column}


def usual_split_name(name: str) -> str:
    """The Hub's name for a split: `dev` becomes `validation`."""
    return "validation" if name == "dev" else name


def check_split(value: Any, split: str, where: str) -> None:
    """
    A table may state the split of each clip, and may hold clips of other splits too.

    Args:
        split: the split that the clip is read for; not checked if it is not one of the usual ones.

    Raises:
        ValueError: for a different split, and for a value that is not a split.
    """
    expected = split_of(split.partition("[")[0])
    if expected is None or value is None or not str(value).strip():
        return
    if split_of(str(value)) != expected:
        raise ValueError(
            f"{where}: its column split says {value!r}, but it is read as a clip of {split}. Move the clip to its "
            "own split, or remove the column."
        )


def with_texts(clips: datasets.Dataset, columns: Iterable[str], name: str) -> datasets.Dataset:
    """
    Convert these columns to text: class names instead of their numbers, and numbers as they are written.

    Raises:
        ValueError: for columns that are not text, such as dictionaries of translations.
    """
    for column in columns:
        feature = clips.features.get(column)
        if feature is None or getattr(feature, "dtype", None) == "string":
            continue
        check_text_column_kind(feature, column, name)
        as_text = feature.int2str if isinstance(feature, datasets.ClassLabel) else str
        texts = [None if value is None else as_text(value) for value in clips[column]]
        clips = clips.remove_columns(column).add_column(column, texts, feature=datasets.Value("string"))
    return clips


def check_text_column_kind(feature: Any, column: str, name: str) -> None:
    """
    Raises:
        ValueError: for a column whose values are neither text nor numbers, which could be read as text.
    """
    is_value = isinstance(feature, datasets.Value) and not feature.dtype.startswith(("bool", "binary", "large_binary"))
    if not is_value and not isinstance(feature, datasets.ClassLabel):
        raise ValueError(f"{name}: the column {column} must hold text, got {feature}.")


def check_stream(features: datasets.Features | None, columns: Iterable[str], name: str) -> None:
    """
    Raises:
        ValueError: for text columns that hold something else, including class numbers, whose names are only available
            if the data set is not streamed.
    """
    for column in columns:
        feature = (features or {}).get(column)
        if isinstance(feature, datasets.ClassLabel):
            raise ValueError(f"{name}: the column {column} holds class numbers. Leave out --streaming.")
        if feature is not None:
            check_text_column_kind(feature, column, name)


def check_clip_columns(features: datasets.Features | None, name: str) -> None:
    """
    Raises:
        ValueError: for a column of clips of a data set on the Hub that cannot hold them.
    """
    for modality in MODALITIES:
        feature = (features or {}).get(modality.column)
        if feature is not None:
            modality.check_column(feature, name)
