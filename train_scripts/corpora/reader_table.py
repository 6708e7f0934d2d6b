"""Anyone's own videos, with a spreadsheet, or with subtitles or ELAN annotations beside them."""

import functools
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from modeling_flallm.own_processing import VIDEO_SUFFIXES

from .annotation_files import Annotations, is_annotation_file, read_annotations
from .corpus_files import FilesBelow, same_name, split_above
from .corpus_rows import Gathered, part_of
from .corpus_schema import Problem, RawClip, RawCorpus
from .corpus_tables import TABLE_COLUMNS, RowError, check_characters, plain_name, shown_path
from .spreadsheets import add_tables, find_sources, refuse_tier, table_clip

TAKES_TABLE = True


def read(
    folder: Path, videos: Path | None, table: Path | None, columns: Mapping[str, str], tier: str | None = None
) -> RawCorpus:
    """
    A CSV or TSV file with the columns `file` and `text`, and any other of `TABLE_COLUMNS`; without one, all subtitle
    files (srt, vtt) and ELAN annotations (eaf, tab-delimited exports) below the folder, each next to its video.

    `file` is a path below the folder, or a file name (the suffix is optional) that is unique anywhere below it. Rows
    without a split belong to the split that the file is named after (`dev.csv`), else to `train`; sentences of
    subtitles and ELAN files to the split that a folder above them is named after. Videos that no row
    names are problems.
    """
    files = FilesBelow(folder)
    index = FilesBelow(videos) if videos else files
    sources = find_sources(folder, table, files)
    gathered = Gathered(problems=list(dict.fromkeys(files.problems + index.with_videos().problems)))
    if all(map(is_annotation_file, sources)):
        if columns:
            raise ValueError(f"Only spreadsheets have column names, got {sorted(columns)} for {sources[0].name}.")
        _add_annotations(gathered, sources, folder, index, tier)
    else:
        refuse_tier(tier)
        add_tables(
            gathered, sources, folder, columns, lambda values, split: table_clip(values, split or "train", index.one)
        )
        others = [path for path in files.all if is_annotation_file(path) and path not in sources]
        if others:
            names = ", ".join(shown_path(path, folder) for path in others[:5])
            gathered.notes.append(f"{len(others)} file(s) with subtitles or annotations are not used, such as {names}")
    used = {os.path.realpath(clip.video) for clip in gathered.clips}
    named = " or ".join(path.name for path in sources[:5])
    gathered.problems += [
        Problem(shown_path(path, index.folder), f"no clip is made from this video: no valid row of {named} names it")
        for path in index.clips()
        if os.path.realpath(path) not in used
    ]
    return gathered.corpus()


def _add_annotations(gathered: Gathered, paths: list[Path], folder: Path, index: FilesBelow, tier: str | None) -> None:
    """Adds all sentences of all files; each file belongs to one video."""
    annotations = _read_annotations(gathered, paths, folder)
    tier = _chosen_tier(annotations, tier, gathered)
    file_of: dict[Path, Path] = {}
    without_split = []
    for path, content in annotations.items():
        try:
            video, origin = _video_of(path, content, folder, index)
        except RowError as error:
            gathered.problems.append(Problem(shown_path(path, folder), str(error)))
            continue
        if video in file_of:
            raise ValueError(
                f"{shown_path(video, index.folder)} has more than one file with sentences, {file_of[video].name} and "
                f"{path.name}. Choose one with --table, or keep only one of them."
            )
        file_of[video] = path
        rows = [*content.tiers.get("", []), *(content.tiers.get(tier, []) if tier else [])]
        if not rows:
            what = f"it has no sentences in the tier {tier!r}" if tier else "it holds no sentences"
            gathered.problems.append(Problem(shown_path(path, folder), what))
        split = split_above(path, folder) or split_above(video, index.folder)
        without_split += [] if split else [shown_path(path, folder)]
        name = video.relative_to(index.folder).as_posix()
        gathered.add(rows, functools.partial(_annotated_clip, video, origin, name, split or "train"))
    if without_split:
        gathered.notes.append(
            f"{len(without_split)} file(s), such as {without_split[0]}, are not in a folder named after a split: "
            "their clips are put in train"
        )


def _read_annotations(gathered: Gathered, paths: list[Path], folder: Path) -> dict[Path, Annotations]:
    """Of every file that can be read; unreadable files become problems, but a single one raises."""
    annotations = {}
    for path in paths:
        try:
            annotations[path] = read_annotations(path, folder)
        except (OSError, ValueError) as error:
            if len(paths) == 1:
                raise
            gathered.problems.append(Problem(shown_path(path, folder), str(error)))
    return annotations


def _annotated_clip(video: Path, origin: float, name: str, split: str, values: dict[str, str]) -> RawClip:
    start, end = part_of(video, values, "start", "end")
    if start + origin < 0:
        raise RowError(f"it begins {-start - origin:g} seconds before the video does")
    times = {"start": str(round(start + origin, 6)), "end": str(round(end + origin, 6))}
    check_characters(values.values())
    empty = dict.fromkeys(TABLE_COLUMNS, "")
    return table_clip(empty | values | times | {"file": name}, split, lambda _: video)


def _chosen_tier(annotations: Mapping[Path, Annotations], tier: str | None, gathered: Gathered) -> str:
    """The requested tier, or the only one; subtitles have none, which is an empty name."""
    names = list(dict.fromkeys(name for content in annotations.values() for name in content.tiers if name))
    shown = ", ".join(repr(name) for name in names) or "none"
    if tier is None and len(names) > 1:
        raise ValueError(f"The annotations have the tiers {shown}: choose the one with the sentences with --tier.")
    if tier is None:
        return names[0] if names else ""
    found = [name for name in names if name == tier] or [name for name in names if plain_name(name) == plain_name(tier)]
    if not found:
        raise ValueError(f"The annotations have no tier {tier!r}. Set --tier to one of: {shown}.")
    if len(names) > 1:
        others = ", ".join(repr(name) for name in names if name != found[0])
        gathered.notes.append(f"unused tiers: {others}")
    return found[0]


def _video_of(path: Path, content: Annotations, folder: Path, index: FilesBelow) -> tuple[Path, float]:
    """The video that an annotation file belongs to, and the second in it at which the annotations' times begin."""
    beside = path.relative_to(folder).parent if path.is_relative_to(folder) else Path()
    media = {}
    for name, origin in content.media.items():
        if PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES:
            video = index.find(str(beside / name)) or index.find(name)
            media |= {} if video is None else {video: origin}
    same = {video: origin for video, origin in media.items() if same_name(video.stem) == same_name(path.stem)}
    fitting = media if len(media) == 1 else same
    if len(fitting) == 1:
        return next(iter(fitting.items()))
    if media:
        names = ", ".join(shown_path(video, index.folder) for video in media)
        raise RowError(f"it belongs to {len(media)} videos, {names}: keep only one, or name this file after its video")
    for stem in (path.stem, path.stem.rpartition(".")[0]):  # talk.en.srt belongs to talk.mp4
        video = (index.find(str(beside / stem)) or index.find(stem)) if stem else None
        if video is not None and any(content.media.values()):
            raise RowError(f"its times begin within {', '.join(content.media)}, but none of these videos exists")
        if video is not None:
            return video, 0.0
    raise RowError(f"there is no video {path.stem!r} below {index.folder}")
