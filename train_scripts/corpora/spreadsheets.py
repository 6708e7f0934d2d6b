"""Spreadsheets of people's own corpora: which files they are, and their rows as clips."""

import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from modeling_flallm.own_processing import VIDEO_SUFFIXES

from .annotation_files import is_annotation_file
from .corpus_files import FilesBelow, check_inside, is_of_a_system, needed_file
from .corpus_rows import Gathered, clip_name, path_below, sentence, split_named, times_of
from .corpus_schema import SPLITS, RawClip
from .corpus_tables import (
    COLUMN_NAMES,
    SAVE_AS_UTF8,
    check_for_splits,
    check_unused_columns,
    open_table,
    split_of,
)

TABLE_SUFFIXES = (".csv", ".tsv")
SPREADSHEET_SUFFIXES = (".xlsx", ".xls", ".ods", ".numbers")


def refuse_tier(tier: str | None) -> None:
    if tier is not None:
        raise ValueError(f"Only ELAN annotations have tiers, got --tier {tier!r} for a spreadsheet.")


def find_sources(folder: Path, table: Path | None, files: FilesBelow | None) -> list[Path]:
    """
    The given table, or the only spreadsheet in the folder, or several that are named after their splits, or, if there
    is no spreadsheet, all annotations of videos below it.
    """
    if table is not None:
        if table.suffix.lower() in SPREADSHEET_SUFFIXES:
            raise ValueError(f"{table} is in a spreadsheet program's own format. {SAVE_AS_UTF8}, and name that one.")
        return [needed_file(table)]
    here = sorted(path for path in folder.iterdir() if path.is_file() and not is_of_a_system(path.name))
    annotations = [path for path in files.all if is_annotation_file(path)] if files else []
    tables = [path for path in here if path.suffix.lower() in TABLE_SUFFIXES and path not in annotations]
    for path in tables:
        check_inside(path, folder)
    if len(tables) > 1 and not all(split_of(path.stem) for path in tables):
        names = ", ".join(path.name for path in tables)
        raise ValueError(f"{folder} holds {len(tables)} tables, {names}: name the one to use.")
    if not tables and not annotations:
        beside = ", or subtitles (.srt, .vtt) or ELAN files (.eaf) beside its videos" if files else ""
        advice = [f"{path.name}: {SAVE_AS_UTF8}." for path in here if path.suffix.lower() in SPREADSHEET_SUFFIXES]
        advice += [f"{problem.where} {problem.what}." for problem in (files.problems if files else [])[:3]]
        raise FileNotFoundError(
            f"{folder} must hold a .csv or .tsv file with the columns file and text{beside}, or name one. "
            f"{' '.join(advice)}".strip()
        )
    return tables or annotations


def add_tables(
    gathered: Gathered,
    paths: Iterable[Path],
    folder: Path,
    columns: Mapping[str, str],
    to_clip: Callable[[dict[str, str], str | None], RawClip],
    column_names: Mapping[str, tuple[str, ...]] = COLUMN_NAMES,
) -> None:
    """Passes every row through `to_clip(values by our names, split of the file)`, which is None if it names none."""
    unknown = sorted(set(columns) - set(column_names))
    if unknown:
        raise ValueError(f"Only the columns {', '.join(column_names)} can be renamed; got {unknown}.")
    names = {ours: (columns[ours],) if ours in columns else theirs for ours, theirs in column_names.items()}
    for path in paths:
        table = open_table(path, folder, None, names, ["file", "text", *columns])
        check_unused_columns(table.unused, table.columns, path)
        check_for_splits(table, path)
        if table.unused:
            gathered.notes.append(f"{path.name} has unused columns: {', '.join(table.unused)}")
        split, put_in_train = split_of(path.stem), []
        gathered.add(table.rows, functools.partial(_clip_of_table, to_clip, split, put_in_train))
        if put_in_train:
            gathered.notes.append(f"{path.name} names no split for {len(put_in_train)} clip(s): they are put in train")


def _clip_of_table(
    to_clip: Callable[[dict[str, str], str | None], RawClip],
    split: str | None,
    put_in_train: list[str],
    values: dict[str, str],
) -> RawClip:
    values = {name: value.strip() for name, value in values.items()}
    clip = to_clip(values, split)
    if not values["split"] and split is None and clip.split == SPLITS[0]:
        put_in_train.append(clip.name)
    return clip


def table_clip(
    values: dict[str, str], split: str, find: Callable[[str], Path], suffixes: tuple[str, ...] = VIDEO_SUFFIXES
) -> RawClip:
    """`suffixes` are those of files of clips, which do not belong to the name of a clip."""
    file = path_below(values["file"])
    text = sentence(values["text"])
    start, end = times_of(values, "start", "end")
    suffix = max((each for each in suffixes if file.lower().endswith(each)), key=len, default="")
    default_name = file[: len(file) - len(suffix)].strip("/").replace("/", "_")
    if start is not None or end is not None:
        default_name += f"-{values['start'] or 0}-{values['end'] or 'end'}"
    return RawClip(
        name=clip_name(values["name"] or default_name),
        split=split_named(values["split"]) if values["split"] else split,
        text=text,
        video=find(file),
        start=start,
        end=end,
        signer=values["signer"] or None,
        gloss=values["gloss"] or None,
    )
