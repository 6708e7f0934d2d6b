"""Video folders: one for each split, in it metadata.csv or metadata.jsonl, which names files and their sentences."""

import csv
import io
import json
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import datasets

from modeling_flallm.own_processing import FEATURE_SUFFIXES, VisualFeaturesModality, is_feature_file, split_name

from ..corpora.corpus_tables import csv_rows, plain_name, split_of
from ..corpora.data_set_columns import by_our_names, check_split, usual_split_name
from ..machine.inside_folder import inside

METADATA_FILES = ("metadata.csv", "metadata.jsonl")
FEATURES = VisualFeaturesModality.column
CLIP_COLUMNS = ("file_name", FEATURES)  # of the tables of video folders, in which `file_name` is the video


def load_video_folder(folder: Path, split: str, text_column: str) -> datasets.Dataset:
    """
    One split as its table has it: paths of the videos as a column `video` that is not decoded, those of visual features
    as texts.

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
    names = dict.fromkeys(name for row in rows for name in row if name != "file_name")
    columns = {name: _of_one_kind([row.get(name) for row in rows]) for name in names if name != "video"}
    # Not load_dataset("videofolder"): it reads the sentence "NA" as none and "007" as 7, and folders as glob patterns.
    if "file_name" not in rows[0]:
        return datasets.Dataset.from_dict(columns)
    clips = datasets.Dataset.from_dict({**columns, "video": [str(split_folder / row["file_name"]) for row in rows]})
    return clips.cast_column("video", datasets.Video(decode=False))


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


def read_metadata(split_folder: Path, text_column: str) -> list[dict[str, Any]]:
    """
    Rows of the metadata file of one split, checked; values of a CSV file are strings. A clip is a video, `file_name`,
    or visual features (the path of a file, or in JSON an array), or both. Paths of features are made those from here.

    Raises:
        FileNotFoundError: if there is no metadata file, or it names a file that is not there.
        ValueError: for a file that cannot be read, a missing column, a part of a file that is named twice, or a file
            outside of the folder.
    """
    path = find_metadata(split_folder)
    if path is None:
        raise FileNotFoundError(f"{split_folder} must hold metadata.csv with the columns file_name,{text_column}.")
    rows = [by_our_names(row, text_column, str(path)) for row in _read_rows(path)]
    if not rows:
        raise ValueError(f"{path} names no video.")
    columns = list(dict.fromkeys(column for row in rows for column in row))
    clip_columns = [column for column in CLIP_COLUMNS if column in columns] or ["file_name"]
    for column in (*clip_columns, text_column):
        if column not in columns:
            advice = " Pass --text_column." if column == text_column else ""
            raise ValueError(f"{path} must have the column {column!r}, got {columns}.{advice}")
    for number, row in enumerate(rows, 1):
        where = f"{path}: row {number}"
        check_split(row.get("split"), split_folder.name, where)
        _check_texts(row, clip_columns, text_column, where)
        try:
            _find_files(row, split_folder)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
    _check_files(rows, clip_columns[0], split_folder, path)
    return rows


def _find_files(row: dict[str, Any], split_folder: Path) -> None:
    """Complete the names of files in a row, which must lie inside the folder; raises a `ValueError` for others."""
    if row.get("file_name"):
        row["file_name"] = _as_it_is_there(split_folder, row["file_name"])
    features = row.get(FEATURES)
    if isinstance(features, str):
        name, array = split_name(features)
        if not is_feature_file(name):
            raise ValueError(
                f"{FEATURES} must be in a file of {', '.join(FEATURE_SUFFIXES)}, got {features!r}. If this column is "
                "something else, rename it."
            )
        found = split_folder / _as_it_is_there(split_folder, str(name))
        row[FEATURES] = str(found) if array is None else f"{found}#{array}"


def _check_files(rows: list[dict[str, Any]], clip_column: str, split_folder: Path, path: Path) -> None:
    """Each clip once, and all files there; `path` is that of the table."""
    names = [
        str(Path(row[clip_column])) if isinstance(row[clip_column], str) else index for index, row in enumerate(rows)
    ]
    parts = Counter((name, *_part_of_file(row)) for name, row in zip(names, rows, strict=True))
    duplicates = sorted({name for (name, *_), count in parts.items() if count > 1})
    if duplicates:
        raise ValueError(
            f"{path} names {_some(duplicates)} more than once. Every clip needs its own file, or its own part of a "
            "file in the columns start and end (seconds)."
        )
    videos = {split_folder / row["file_name"] for row in rows if row.get("file_name")}
    features = {Path(split_name(row[FEATURES])[0]) for row in rows if isinstance(row.get(FEATURES), str)}
    for kind, files in (("video(s)", videos), ("file(s) of features", features)):
        missing = sorted(str(path.relative_to(split_folder)) for path in files if not path.is_file())
        if missing:
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


def _check_texts(row: dict[str, Any], clip_columns: list[str], text_column: str, where: str) -> None:
    """JSON can hold anything where a text belongs; a sentence may be a number, and features an array."""
    for column in clip_columns:
        name = row.get(column)
        if not name:
            raise ValueError(f"{where} has no {column}.")
        if not isinstance(name, str) and not (column == FEATURES and isinstance(name, list)):
            raise ValueError(f"{where}: {column} must be a text, got {repr(name)[:100]}.")
    sentence = row.get(text_column)
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
