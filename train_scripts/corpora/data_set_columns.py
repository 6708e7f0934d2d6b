"""
Columns of ready data sets, in the tables of video folders and on the Hub, by the names that are used here: what is
understood is used whatever its letter case and Unicode form, what is not used is named, and never taken for nothing.
"""

import functools
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets

from modeling_flallm.own_processing import MODALITIES

from .corpus_schema import COLUMNS
from .corpus_tables import COLUMN_NAMES, check_unused_columns, find_columns, split_of

NUMBERS = ("start", "end", "num_frames")  # columns that a CSV file, or the Hub, may hold as text
WORDS = ("spoken_language", "sign_language", "signer")
MOST_SHOWN = 20  # a table of landmarks has thousands
NAMES_OF_CLIPS = {modality.column: modality.column_names for modality in MODALITIES}
CLIP_COLUMNS = tuple(NAMES_OF_CLIPS)
TABLE_COLUMNS = [modality.table_column for modality in MODALITIES]
USED = tuple(dict.fromkeys(("file_name", *CLIP_COLUMNS, *TABLE_COLUMNS, "split", *NUMBERS, *WORDS)))


def by_our_names(row: dict[str, Any], text_column: str, name: str) -> dict[str, Any]:
    """A row with the names of `our_names`, which says what it raises."""
    names = our_names(tuple(column for column in row if column is not None), text_column, name)
    return {names.get(column, column): value for column, value in row.items()}


@functools.lru_cache(maxsize=1000)
def our_names(columns: tuple[str, ...], text_column: str, name: str) -> dict[str, str]:
    """
    What is used here of the columns of a data set, and what it is called here: `{"Start Time": "start"}`.

    Args:
        name: of the data set or of its file, for the texts of errors.

    Raises:
        ValueError: if two columns are the same one, or a column may hold splits or times and is not understood.
    """
    known = {**COLUMN_NAMES, **NAMES_OF_CLIPS}
    names = {column: known.get(column, (column,)) for column in (*USED, text_column)}
    names[text_column] = (text_column,)
    places = find_columns(list(columns), names, (), Path(name))
    found = {columns[place]: ours for ours, place in places.items()}
    check_unused_columns([column for column in columns if column not in (*found, *COLUMNS)], places, Path(name))
    return found


@functools.cache
def tell_unused(columns: frozenset[str], name: str) -> None:
    """Once for each data set, by the first of several processes."""
    if columns and os.environ.get("RANK", "0") == "0":
        print(f"{name}: {say_unused(columns)}.", file=sys.stderr)


def say_unused(columns: Iterable[str]) -> str:
    names = sorted(columns)
    shown = ", ".join(names[:MOST_SHOWN]) + (f" and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else "")
    # Without what would move the cursor of a terminal.
    return "not used are the columns " + "".join(c if c.isprintable() else "\ufffd" for c in shown)


def unused(columns: Iterable[str], text_column: str) -> frozenset[str]:
    """Of columns by our names; those that `flallm prepare` writes are known."""
    return frozenset(columns) - {*USED, *COLUMNS, text_column}


def usual_split_name(name: str) -> str:
    """As the Hub calls a split: `dev` is `validation` there."""
    return "validation" if name == "dev" else name


def check_split(value: Any, split: str, where: str) -> None:
    """
    A table may say of each clip to which split it belongs, and hold those of other splits, too.

    Args:
        split: of which the clip is to be; not checked where it is none of the usual ones.

    Raises:
        ValueError: for another split, and for what is none.
    """
    expected = split_of(split.partition("[")[0])
    if expected is None or value is None or not str(value).strip():
        return
    if split_of(str(value)) != expected:
        raise ValueError(
            f"{where}: its column split says {value!r}, but it is read as a clip of {split}. Put each clip into its "
            "own split, or take the column out."
        )


def with_texts(clips: datasets.Dataset, columns: Iterable[str], name: str) -> datasets.Dataset:
    """
    These columns as texts: names of classes and not their numbers; numbers as they are written.

    Raises:
        ValueError: for what is no text, such as a dictionary of translations.
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
        ValueError: for a column whose values are no texts, and no numbers that could be ones.
    """
    is_value = isinstance(feature, datasets.Value) and not feature.dtype.startswith(("bool", "binary", "large_binary"))
    if not is_value and not isinstance(feature, datasets.ClassLabel):
        raise ValueError(f"{name}: the column {column} must hold texts, got {feature}.")


def check_stream(features: datasets.Features | None, columns: Iterable[str], name: str) -> None:
    """
    Raises:
        ValueError: for columns of texts that hold something else, also numbers of classes, which have names only where
            the data set is not streamed.
    """
    for column in columns:
        feature = (features or {}).get(column)
        if isinstance(feature, datasets.ClassLabel):
            raise ValueError(f"{name}: the column {column} holds numbers of classes. Leave out --streaming.")
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
