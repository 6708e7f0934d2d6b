"""Splits of data sets, from folders of clips or from the Hub, with every row checked."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets

from modeling_flallm.own_processing import MODALITIES, Modality

from ..arguments.data_arguments import DataArguments, DatasetArguments
from ..corpora.corpus_tables import MOST_SECONDS, split_of
from ..corpora.data_set_columns import CLIP_COLUMNS, NUMBERS, WORDS, check_split, tell_unused, unused, with_texts
from ..scores.metrics import comparable
from .clip_folders import find_metadata, load_clip_folder
from .hub_data_sets import (
    check_is_of_hub,
    files_type,
    is_clip_folder,
    load_alone_from_hub,
    open_on_hub,
    split_names_on_hub,
    undecoded,
    without_bytes,
)

WHAT_NUMBERS_ARE = {
    "num_frames": "a number of frames",
    "frames_per_second": "a number of frames per second",
    "num_features": "a number of features",
    "features_per_second": "a number of features per second",
}


def load_split(
    arguments: DatasetArguments,
    split: str,
    max_clips: int | None = None,
    dataset: str | None = None,
    also_used: Sequence[str] = (),
    with_sentences: bool = True,
) -> datasets.Dataset:
    """
    One split, with the column of sentences and those of its clips: of `{"path", "bytes"}` that is not decoded, as
    videos are, or of paths or arrays.

    Args:
        dataset: which of the data sets. Default: the first.
        also_used: columns that are not reported as unused.
        with_sentences: False for clips alone, whose sentences may be missing and are not read.

    Raises:
        FileNotFoundError: for a missing folder, split or metadata file, or a video that the metadata names.
        ValueError: for a missing column, an empty sentence, an invalid or repeated part of a file, or a split without
            clips.
    """
    name = dataset or arguments.dataset[0]
    shown = f"{name} ({split})"
    check_most_clips(max_clips)
    text_column = arguments.text_column if with_sentences else None
    if is_clip_folder(name):
        clips = load_clip_folder(Path(name), split, text_column)
    else:
        clips = _load_from_hub_for(arguments, name, split, max_clips, text_column)
        for row, value in enumerate(clips["split"] if "split" in clips.column_names else ()):
            check_split(value, split, f"{shown}: row {row} (counted from 0)")
    tell_unused(unused(clips.column_names, text_column) - {*also_used}, name)
    if len(clips) == 0:
        raise ValueError(f"{shown} has no clips.")
    if text_column is not None:
        _check_sentences(clips, text_column, shown)
    clips = with_texts(clips, (text_column, *WORDS), shown)
    clips = _with_numbers(clips, shown)
    return clips if max_clips is None else clips.select(range(min(max_clips, len(clips))))


def split_names(dataset: str) -> list[str]:
    """
    The splits that a data set has, in a folder in alphabetical order.

    Raises:
        FileNotFoundError: for a folder without any, or if there is no such data set.
    """
    folder = Path(dataset)
    if not is_clip_folder(dataset):
        return split_names_on_hub(dataset)
    found = sorted(child.name for child in folder.iterdir() if child.is_dir() and find_metadata(child) is not None)
    if not found:
        raise FileNotFoundError(f"{folder} must hold a folder for each split, each with metadata.csv.")
    return found


def wanted_splits(data_sets: Sequence[str], chosen: Sequence[str] | None) -> dict[str, list[tuple[str, str]]]:
    """
    By the usual name of a split, the data sets that have it and what it is called there.

    Args:
        chosen: names of splits; None for all.

    Raises:
        FileNotFoundError: for a data set that is not there.
        ValueError: if a data set has several splits of one kind, such as dev and validation.
    """
    places: dict[str, list[tuple[str, str]]] = {}
    for dataset in data_sets:
        for name in chosen or split_names(dataset):
            usual_name = split_of(name) or name
            of_split = places.setdefault(usual_name, [])
            if any(other == dataset for other, _ in of_split):
                raise ValueError(f"{dataset} has several splits for {usual_name!r}. Choose with --splits.")
            of_split.append((dataset, name))
    return places


def load_training_split(arguments: DataArguments) -> tuple[datasets.Dataset, list[int]]:
    """
    The training splits of all data sets, concatenated, and the number of clips of each; `max_train_clips` limits each
    of them.

    Raises:
        FileNotFoundError, ValueError: as `load_split`.
    """
    parts = [
        load_split(arguments, arguments.train_split, arguments.max_train_clips, name) for name in arguments.dataset
    ]
    sizes = [len(part) for part in parts]
    return parts[0] if len(parts) == 1 else _one_after_another(parts, arguments.text_column), sizes


def _load_from_hub_for(
    arguments: DatasetArguments, name: str, split: str, max_clips: int | None, text_column: str | None
) -> datasets.Dataset:
    if arguments.streaming:
        clips = load_alone_from_hub(name, split, max_clips, text_column)
    else:
        clips = open_on_hub(name, split, text_column=text_column)
    for modality in MODALITIES:
        if modality.datasets_type is not None and modality.column in clips.column_names:
            clips = clips.cast_column(modality.column, files_type(modality))
            _check_files(clips, modality.column, f"{name} ({split})")
    return clips


def _check_files(clips: datasets.Dataset, column: str, name: str) -> None:
    for row, file in enumerate(without_bytes(clips, column)):
        if file["path"] is None and file["bytes"] is None:
            raise ValueError(f"{name}: row {row} (counted from 0) has no {column}.")
        check_is_of_hub(file, f"{name}: row {row} (counted from 0)")


def check_most_clips(max_clips: int | None) -> None:
    """
    Raises:
        ValueError: for a limit that leaves no clip.
    """
    if max_clips is not None and max_clips < 1:
        raise ValueError(f"The number of clips to use must be 1 or more, got {max_clips}.")


def _one_after_another(parts: list[datasets.Dataset], text_column: str) -> datasets.Dataset:
    """
    Columns that not all data sets have stay if they are used here, and are empty in the others; `load_split` has
    reported the rest.
    """
    columns = {text_column: "string", **dict.fromkeys(WORDS, "string"), **dict.fromkeys(NUMBERS, "float64")}
    columns = {name: kind for name, kind in columns.items() if any(name in part.column_names for part in parts)}
    features = datasets.Features({name: datasets.Value(kind) for name, kind in columns.items()})
    features |= _shared_clip_columns(parts)
    for index, part in enumerate(parts):
        for name in set(columns) - set(part.column_names):
            part = part.add_column(name, [None] * len(part), feature=features[name])
        parts[index] = part.select_columns(list(features)).cast(features)
    return datasets.concatenate_datasets(parts)


def _shared_clip_columns(parts: list[datasets.Dataset]) -> dict[str, Any]:
    """The clip columns that all data sets have, and their kinds."""
    shared = [name for name in CLIP_COLUMNS if all(name in part.column_names for part in parts)]
    if not shared:
        got = [[name for name in CLIP_COLUMNS if name in part.column_names] for part in parts]
        raise ValueError(f"All of several data sets must have the same columns of clips, got {got}. Leave some out.")
    for name in shared:
        kinds = {str(part.features[name]) for part in parts}
        if len(kinds) > 1:
            raise ValueError(
                f"The column {name} must be of one kind in all data sets, got {' and '.join(sorted(kinds))}."
            )
    return {name: parts[0].features[name] for name in shared}


def _with_numbers(clips: datasets.Dataset, name: str) -> datasets.Dataset:
    """Converts text to numbers and empty fields to None; raises for invalid parts of files."""
    values = {column: list(clips[column]) for column in NUMBERS if column in clips.column_names}
    for column, texts in values.items():
        numbers = [_as_number(text, column, row, name) for row, text in enumerate(texts)]
        values[column] = numbers
        clips = clips.remove_columns(column).add_column(column, numbers, feature=datasets.Value("float64"))
    nothing = [None] * len(clips)
    for row, (start, end) in enumerate(zip(values.get("start", nothing), values.get("end", nothing), strict=True)):
        _check_part(start, end, row, name)
    return clips


def _check_part(start: float | None, end: float | None, row: int, name: str) -> None:
    if end is not None and end <= (start or 0):
        raise ValueError(
            f"{name}: row {row} (counted from 0) ends at {end:g} s, but starts at {start or 0:g} s. Each part of a "
            "video must end after its start."
        )


def checked_row(
    row: dict[str, Any], text_column: str, number: int, name: str, modality: type[Modality]
) -> dict[str, Any]:
    """
    The parts of one row that are used in training, as `load_split` would return them, with the sentence as `text`.

    Args:
        number: of the row, and `name`: of what it is a row of, for the texts of errors.
        modality: whose clip is used.

    Raises:
        ValueError: for an empty sentence, a missing clip or an invalid part of a file.
    """
    text, clip = row.get(text_column), row.get(modality.column)
    if text is None or not comparable(str(text)):
        raise ValueError(
            f"{name}: the sentence in row {number} (counted from 0) is empty. Every clip needs its sentence."
        )
    if isinstance(text, list | dict | bool):
        raise ValueError(f"{name}: row {number} (counted from 0): {text_column} must be a text, got {text!r}.")
    if clip is None:
        raise ValueError(f"{name}: row {number} (counted from 0) has no {modality.column}.")
    start, end = (_as_number(row.get(column), column, number, name) for column in ("start", "end"))
    _check_part(start, end, number, name)
    return {
        "text": str(text),
        modality.column: undecoded(clip, modality),
        "start": start,
        "end": end,
        "frames_per_second": _as_number(row.get("frames_per_second"), "frames_per_second", number, name),
        "spoken_language": row.get("spoken_language"),
    }


def _as_number(value: Any, column: str, row: int, name: str) -> float | None:
    if value is None or not str(value).strip():
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    what = WHAT_NUMBERS_ARE.get(column, "seconds from the beginning of the video")
    if not 0 <= number <= (math.inf if column in WHAT_NUMBERS_ARE else MOST_SECONDS) or number == math.inf:
        raise ValueError(f"{name}: {column} must be {what}, got {value!r} in row {row} (counted from 0).")
    return number


def _check_sentences(dataset: datasets.Dataset, text_column: str, name: str) -> None:
    check_text_column(dataset.column_names, text_column, name)
    empty = [index for index, text in enumerate(dataset[text_column]) if text is None or not comparable(str(text))]
    if empty:
        raise ValueError(
            f"{len(empty)} sentence(s) of {name} are empty, the first in row {empty[0]} (counted from 0). Every clip "
            "needs its sentence."
        )


def check_text_column(columns: list[str], text_column: str, name: str) -> None:
    """
    Raises:
        ValueError: if there is no column of sentences.
    """
    if text_column not in columns:
        raise ValueError(f"`{text_column}` must be a column of {name}, got columns {columns}. Pass --text_column.")


def name_of_clip(row: dict[str, Any]) -> str | None:
    """The path of the file that a row of `load_split` names; `None` for bytes and arrays."""
    clips = ((modality, row.get(modality.column)) for modality in MODALITIES)
    return next((modality.path_of(clip) for modality, clip in clips if clip is not None), None)
