"""Folders of clips: one for each split, in it metadata.csv or metadata.jsonl, which names files and their sentences."""

import csv
import io
import json
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import datasets

from modeling_flallm.own_processing import MODALITIES, Modality

from ..corpora.corpus_tables import csv_rows, plain_name, split_of
from ..corpora.data_set_columns import by_our_names, check_split, usual_split_name
from ..machine.inside_folder import inside
from .hub_data_sets import files_type

METADATA_FILES = ("metadata.csv", "metadata.jsonl")


def load_clip_folder(folder: Path, split: str, text_column: str | None) -> datasets.Dataset:
    """
    One split as its table has it, with a column for each kind of clips: paths, not decoded where `datasets` would do
    so, or arrays.

    Args:
        text_column: None for clips alone, whose sentences are not read.

    Raises:
        FileNotFoundError, ValueError: as `read_metadata`, and for a folder without this split.
    """
    split_folder = find_split_folder(folder, split)
    if split_folder is None:
        found = sorted(path.name for path in folder.iterdir() if path.is_dir())
        raise FileNotFoundError(
            f"{folder} must hold a folder for the split {usual_split_name(split)!r}, it has {found}."
        )
    rows = read_metadata(split_folder, text_column)
    clips = [modality for modality in MODALITIES if modality.table_column in rows[0]]
    not_others = {name for modality in MODALITIES for name in (modality.column, modality.table_column)}
    names = dict.fromkeys(name for row in rows for name in row if name not in not_others)
    columns = {name: [row.get(name) for row in rows] for name in names}
    columns |= {modality.column: [_clip_in(split_folder, row, modality) for row in rows] for modality in clips}
    # Not load_dataset("videofolder"): it reads the sentence "NA" as none and "007" as 7, and folders as glob patterns.
    dataset = datasets.Dataset.from_dict({name: _of_one_kind(values) for name, values in columns.items()})
    for modality in clips:
        if modality.datasets_type is not None:
            dataset = dataset.cast_column(modality.column, files_type(modality))
    return dataset


def _clip_in(split_folder: Path, row: dict[str, Any], modality: type[Modality]) -> Any:
    """The clip in a row of `read_metadata`, a file by its path from here."""
    clip = row[modality.table_column]
    if not isinstance(clip, str):
        return clip
    name, part = modality.split_file_name(clip)
    return f"{split_folder / name}{part}"


def find_split_folder(folder: Path, split: str) -> Path | None:
    """
    The folder of a split, in any letter case; if it has several names (validation, dev, ...), the one of this name.

    Raises:
        ValueError: if several folders match, or for a link that leads out of the data set.
    """
    folders = sorted(path for path in folder.iterdir() if path.is_dir())
    same = [path for path in folders if path.name == split]
    alike = same or [path for path in folders if plain_name(path.name) == plain_name(split)]
    alike = alike or [path for path in folders if split_of(path.name) == split_of(split) is not None]
    if len(alike) > 1:
        names = ", ".join(path.name for path in alike)
        raise ValueError(f"{folder} has several folders for the split {split!r}: {names}. Leave one of them.")
    return inside(folder, alike[0].name) if alike else None


def _of_one_kind(values: list[Any]) -> list[Any]:
    """A column of a data set has one type of value; in JSON a signer may be 1 in one row and "S2" in the next."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) < 2 or kinds <= {int, float}:
        return values
    return [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]


def read_metadata(split_folder: Path, text_column: str | None) -> list[dict[str, Any]]:
    """
    Rows of the metadata file of one split, checked; values of a CSV file are strings. A clip is a file in the
    `table_column` of its modality or, in JSON, the array of one that has arrays; a row may have clips of several.

    Raises:
        FileNotFoundError: if there is no metadata file, or it names a file that is not there.
        ValueError: for a file that cannot be read, a missing column, a part of a file that is named twice, or a file
            outside of the folder.
    """
    path = find_metadata(split_folder)
    if path is None:
        columns = "column file_name" if text_column is None else f"columns file_name,{text_column}"
        raise FileNotFoundError(f"{split_folder} must hold metadata.csv with the {columns}.")
    rows = [by_our_names(row, text_column, str(path)) for row in _read_rows(path)]
    if not rows:
        raise ValueError(f"{path} names no video.")
    columns = list(dict.fromkeys(column for row in rows for column in row))
    modalities = [modality for modality in MODALITIES if modality.table_column in columns] or MODALITIES[:1]
    needed = (*(modality.table_column for modality in modalities), text_column)
    for column in filter(None, needed):
        if column not in columns:
            advice = " Pass --text_column." if column == text_column else ""
            raise ValueError(f"{path} must have the column {column!r}, got {columns}.{advice}")
    for number, row in enumerate(rows, 1):
        where = f"{path}: row {number}"
        check_split(row.get("split"), split_folder.name, where)
        _check_texts(row, modalities, text_column, where)
        try:
            _find_files(row, modalities, split_folder)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
    _check_files(rows, modalities, split_folder, path)
    return rows


def _find_files(row: dict[str, Any], modalities: list[type[Modality]], split_folder: Path) -> None:
    """Complete the names of files in a row, which must lie inside the folder; raises a `ValueError` for others."""
    for modality in modalities:
        clip = row[modality.table_column]
        if isinstance(clip, str):
            name, part = modality.split_file_name(clip)
            row[modality.table_column] = f"{_as_it_is_there(split_folder, name)}{part}"


def _check_files(rows: list[dict[str, Any]], modalities: list[type[Modality]], split_folder: Path, path: Path) -> None:
    """Each clip once, and all files there; `path` is that of the table."""
    clips = [row[modalities[0].table_column] for row in rows]
    names = [str(Path(clip)) if isinstance(clip, str) else index for index, clip in enumerate(clips)]
    parts = Counter((name, *_part_of_file(row)) for name, row in zip(names, rows, strict=True))
    duplicates = sorted({name for (name, *_), count in parts.items() if count > 1})
    if duplicates:
        raise ValueError(
            f"{path} names {_some(duplicates)} more than once. Every clip needs its own file, or its own part of a "
            "file in the columns start and end (seconds)."
        )
    for modality in modalities:
        clips = [row[modality.table_column] for row in rows]
        files = {split_folder / modality.split_file_name(clip)[0] for clip in clips if isinstance(clip, str)}
        missing = sorted(str(file.relative_to(split_folder)) for file in files if not file.is_file())
        if missing:
            kind = modality.words.files
            raise FileNotFoundError(f"{path} names {len(missing)} {kind} that are not there: {_some(missing)}.")


def find_metadata(split_folder: Path) -> Path | None:
    """
    The table of a split, in any letter case.

    Raises:
        ValueError: if there are several, or for a link that leads out of the folder.
    """
    found = sorted(path.name for path in split_folder.iterdir() if path.name.casefold() in METADATA_FILES)
    if len(found) > 1:
        raise ValueError(f"{split_folder} has {' and '.join(found)}. Leave one of them.")
    return inside(split_folder, found[0]) if found else None


def _as_it_is_there(split_folder: Path, name: str) -> str:
    """A name in the Unicode form that the file system uses: macOS stores umlauts as two characters."""
    forms = (name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD")))
    return next((form for form in forms if inside(split_folder, form).is_file()), name)


def _check_texts(row: dict[str, Any], modalities: list[type[Modality]], text_column: str | None, where: str) -> None:
    """JSON can hold anything where a text belongs; a sentence may be a number, and some clips arrays."""
    for modality in modalities:
        column = modality.table_column
        clip = row.get(column)
        if not clip:
            raise ValueError(f"{where} has no {column}.")
        if not isinstance(clip, str) and (modality.array_dimensions is None or not isinstance(clip, list)):
            raise ValueError(f"{where}: {column} must be a text, got {repr(clip)[:100]}.")
    sentence = None if text_column is None else row.get(text_column)
    if isinstance(sentence, list | dict | bool):
        raise ValueError(f"{where}: {text_column} must be a text, got {sentence!r}.")


def _part_of_file(row: dict[str, Any]) -> tuple[Any, Any]:
    """`start` and `end` in a form in which "1.50" and 1.5 are the same."""
    values = []
    for name in ("start", "end"):
        try:
            values.append(float(row.get(name) or 0))
        except (TypeError, ValueError):
            values.append(str(row[name]))  # `_with_numbers` reports it with the number of its row
    return values[0], values[1]


def _read_rows(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
        if path.suffix.lower() == ".csv":
            rows = list(csv_rows(text, is_strict=True))
        else:
            rows = [json.loads(line) for line in io.StringIO(text, newline="") if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}. Save it as UTF-8.") from error
    except (csv.Error, json.JSONDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}.") from error
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise ValueError(f'{path}: row {number} must be an object, such as {{"file_name": ..., "text": ...}}.')
        if None in row:  # where DictReader puts surplus values
            raise ValueError(f"{path}: row {number} has more values than the header. Put commas in double quotes.")
    return rows


def _some(names: list[str], most: int = 5) -> str:
    shown = ", ".join(repr(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
