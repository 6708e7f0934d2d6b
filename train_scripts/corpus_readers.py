"""
Raw corpora as their owners publish them, read into `RawClip`s: `read_corpus("phoenix14t", folder)`.

A reader opens annotation files and looks whether videos are there; it never opens a video. What it cannot turn into a
clip, it lists as a `Problem` with file and line, and nothing is left out silently. Names that would leave the folder
are refused; links are followed, as corpora are often linked into place.
"""

import math
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from modeling_flallm.own_processing import VIDEO_SUFFIXES, is_picture_file, is_video_file

from .corpus_schema import SPLITS, Problem, RawClip, RawCorpus
from .corpus_tables import Row, RowError, check_characters, read_rows, shown_path
from .legacy_labels import read_plain_pickle

SPLIT_NAMES = {"train": "train", "dev": "validation", "val": "validation", "valid": "validation"} | {
    split: split for split in SPLITS
}
TABLE_SUFFIXES = (".csv", ".tsv")
TABLE_COLUMNS = ("file", "text", "start", "end", "name", "signer", "gloss", "split")


@dataclass
class Gathered:
    """What was read so far; a name counts once in each split."""

    clips: list[RawClip] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    first_use: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, rows: Iterable[Row | Problem], to_clip: Callable[[dict[str, Any]], RawClip]) -> None:
        """A clip or a problem for every row."""
        for row in rows:
            if isinstance(row, Problem):
                self.problems.append(row)
                continue
            try:
                self._add_clip(to_clip(row.values), row.where)
            except RowError as error:
                self.problems.append(Problem(row.where, str(error)))

    def _add_clip(self, clip: RawClip, where: str) -> None:
        key = (clip.split, clip.name)
        if key in self.first_use:
            raise RowError(f"the name {clip.name!r} was used in {self.first_use[key]}; this row is left out")
        self.first_use[key] = where
        self.clips.append(clip)


def read_corpus(
    kind: str,
    folder: Path,
    videos: Path | None = None,
    table: Path | None = None,
    columns: Mapping[str, str] | None = None,
) -> RawCorpus:
    """
    All clips of a corpus and everything that is wrong with it. Clips' names hold no `/` or `\\`, and are unique in
    their split.

    Args:
        kind: one of `KINDS`.
        videos: folder of the videos or frame folders, where they are not in their usual place below `folder`.
        table: the file of the kinds `table` and `frame_folders`, where `folder` holds more than one.
        columns: for these two, what the file calls our columns `TABLE_COLUMNS`, such as `{"text": "Satz"}`.

    Raises:
        FileNotFoundError: for a missing folder or annotation file, saying what was expected where.
        ValueError: for an unknown kind, an annotation file that is another than expected, or options that do not fit.
    """
    if kind not in KINDS:
        raise ValueError(f"The kind of corpus must be one of {', '.join(KINDS)}, got {kind!r}.")
    for path in (folder, videos):
        if path is not None and not path.is_dir():
            raise FileNotFoundError(f"{path} must be a folder, and it is not there.")
    if kind in TABLE_KINDS:
        return KINDS[kind](folder, videos, table, columns or {})
    if table is not None or columns:
        raise ValueError(f"Only {' and '.join(TABLE_KINDS)} take a table and names of columns, got kind {kind!r}.")
    return KINDS[kind](folder, videos)


# The corpora


def read_phoenix14t(folder: Path, videos: Path | None) -> RawCorpus:
    """
    RWTH-PHOENIX-Weather 2014 T (Camgoz et al., CVPR 2018). The archive unpacks to `PHOENIX-2014-T`; its tables are
    divided by `|`, unquoted, and their column `video` has a `/1/` that no folder has. Sizes and 25 frames per second
    are the paper's. Sentences stay as they are: nothing is appended to them.
    """
    places = ("", "PHOENIX-2014-T", "PHOENIX-2014-T-release-v3/PHOENIX-2014-T")
    tables = {split: f"annotations/manual/PHOENIX-2014-T.{split}.corpus.csv" for split in ("train", "dev", "test")}
    root = _root_with(folder, places, tables["train"])
    pictures = videos or _folder_with_frames(root, ("features/fullFrame-210x260px",))
    gathered = Gathered()
    for split, name in tables.items():
        path = _needed_file(root / name)
        rows = read_rows(path, folder, "|", ("name", "speaker", "orth", "translation"))
        gathered.add(rows, lambda values, split=split: _phoenix_clip(values, split, pictures))
    return RawCorpus(
        gathered.clips,
        gathered.problems,
        sign_language="gsg",
        spoken_language="de",
        frames_per_second=25.0,
        official_sizes={"train": 7096, "validation": 519, "test": 642},
    )


def _phoenix_clip(values: dict[str, str], split: str, pictures: Path) -> RawClip:
    name = _clip_name(values["name"])
    return RawClip(
        name=name,
        split=SPLIT_NAMES[split],
        text=_sentence(values["translation"]),
        video=_frame_folder(pictures / split, name),
        signer=values["speaker"].strip() or None,
        gloss=values["orth"].strip() or None,
    )


def read_csl_daily(folder: Path, videos: Path | None) -> RawCorpus:
    """
    CSL-Daily (Zhou et al., CVPR 2021: sizes, 30 frames per second). `csl2020ct_v2.pkl` holds a list "info" of
    `name, length, label_char, label_gloss, ...`, `split_1.txt` the splits. They disagree: the split lists
    S000005_P0004_T00, the annotation S000007_P0003_T00, which others put in its place; both are listed as problems
    here, and so is the sentence that is empty. The signer is the P of the name.
    """
    labels = _root_with(folder, ("sentence_label", "", "sentence_labels"), "csl2020ct_v2.pkl")
    path = labels / "csl2020ct_v2.pkl"
    split_path = _needed_file(labels / "split_1.txt")
    places = ("sentence/frames_512x512", "sentence_frames-512x512/frames_512x512", "frames_512x512")
    pictures = videos or _folder_with_frames(folder, places)
    content = read_plain_pickle(path)
    if not isinstance(content, dict) or not isinstance(content.get("info"), list):
        raise ValueError(f"{path} must hold a dictionary with a list 'info', as CSL-Daily's does.")
    gathered, annotations = Gathered(), {}
    for number, entry in enumerate(content["info"]):
        where = f"{shown_path(path, folder)}, entry {number} of 'info'"
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            gathered.problems.append(Problem(where, "has no name"))
        elif entry["name"] in annotations:
            gathered.problems.append(Problem(where, f"names {entry['name']!r} again; this entry is left out"))
        else:
            annotations[entry["name"]] = entry
    in_split: set[str] = set()

    def to_clip(values: dict[str, str]) -> RawClip:
        in_split.add(values["name"].strip())
        return _csl_daily_clip(values, annotations, pictures, gathered)

    gathered.add(read_rows(split_path, folder, "|", ("name", "split")), to_clip)
    gathered.problems += [
        Problem(shown_path(path, folder), f"has the clip {name!r}, which {split_path.name} puts in no split")
        for name in annotations
        if name not in in_split
    ]
    return RawCorpus(
        gathered.clips,
        gathered.problems,
        sign_language="csl",
        spoken_language="zh",
        frames_per_second=30.0,
        official_sizes={"train": 18401, "validation": 1077, "test": 1176},
    )


def _csl_daily_clip(values: dict[str, str], annotations: dict[str, Any], pictures: Path, gathered: Gathered) -> RawClip:
    name = _clip_name(values["name"])
    if name not in annotations:
        raise RowError(f"{name!r} is not in csl2020ct_v2.pkl")
    entry = annotations[name]
    signer = re.search(r"_(P\d+)_", name)
    clip = RawClip(
        name=name,
        split=_split(values["split"]),
        text=_sentence("".join(_strings(entry, "label_char"))),
        video=_frame_folder(pictures, name),
        signer=signer.group(1) if signer else None,
        gloss=" ".join(_strings(entry, "label_gloss") if "label_gloss" in entry else []) or None,
    )
    _compare_length(clip, entry.get("length"), gathered)
    return clip


def read_how2sign(folder: Path, videos: Path | None) -> RawCorpus:
    """
    How2Sign (Duarte et al., CVPR 2021: sizes) with its manually re-aligned sentences, in tables divided by tabs. The
    videos may lie anywhere below the folder, as its download script puts them or elsewhere.

    The times belong to the whole videos, VIDEO_NAME; the published clips, SENTENCE_NAME, were cut by older times
    (how2sign.github.io says so). Where a whole video is there, it is taken; else the clip. The signer is the number
    before the camera in the name.
    """
    tables = {split: f"how2sign_realigned_{split}.csv" for split in ("train", "val", "test")}
    files = FilesBelow(folder)
    paths = {split: files.the_one(name) for split, name in tables.items()}
    index = files.with_videos() if videos is None else FilesBelow(videos).with_videos()
    gathered = Gathered(problems=list(dict.fromkeys(files.problems + index.problems)))
    needed = ("VIDEO_NAME", "SENTENCE_NAME", "START_REALIGNED", "END_REALIGNED", "SENTENCE")
    for split, path in paths.items():
        rows = read_rows(path, folder, "\t", needed)
        gathered.add(rows, lambda values, split=split: _how2sign_clip(values, split, index))
    return RawCorpus(
        gathered.clips,
        gathered.problems,
        sign_language="ase",
        spoken_language="en",
        official_sizes={"train": 31128, "validation": 1741, "test": 2322},
    )


def _how2sign_clip(values: dict[str, str], split: str, index: "FilesBelow") -> RawClip:
    name = _clip_name(values["SENTENCE_NAME"])
    text = _sentence(_without_quotes(values["SENTENCE"]))
    whole = index.find(_clip_name(values["VIDEO_NAME"]))
    video = whole or index.find(name)
    if video is None:
        raise RowError(f"there is no video {values['VIDEO_NAME']!r} and no clip {name!r} below {index.folder}")
    start, end = _part_of(whole, values, "START_REALIGNED", "END_REALIGNED") if whole else (None, None)
    signer = re.search(r"-(\d+)-rgb_\w+$", name)
    return RawClip(
        name=name,
        split=SPLIT_NAMES[split],
        text=text,
        video=video,
        start=start,
        end=end,
        signer=signer.group(1) if signer else None,
    )


def read_openasl(folder: Path, videos: Path | None) -> RawCorpus:
    """
    OpenASL (Shi et al., EMNLP 2022: sizes). `openasl-v1.0.tsv` has no quoting: a quotation mark is a part of its
    sentence. Its `prep/crop_video.py` writes `<vid>.mp4`, cropped to the signer, from `<yid>.mp4`, start and end; the
    first is taken where it is there, else the part of the second. Copies for Windows have `-` or `_` for the colons.
    """
    files = FilesBelow(folder)
    path = files.the_one("openasl-v1.0.tsv")
    index = files.with_videos() if videos is None else FilesBelow(videos).with_videos()
    gathered = Gathered(problems=list(dict.fromkeys(files.problems + index.problems)))
    rows = read_rows(path, folder, "\t", ("vid", "yid", "start", "end", "raw-text", "gloss", "split"))
    gathered.add(rows, lambda values: _openasl_clip(values, index))
    return RawCorpus(
        gathered.clips,
        gathered.problems,
        sign_language="ase",
        spoken_language="en",
        official_sizes={"train": 96476, "validation": 966, "test": 975},
    )


def _openasl_clip(values: dict[str, str], index: "FilesBelow") -> RawClip:
    name = _clip_name(values["vid"])
    text = _sentence(values["raw-text"])
    clip = next((path for colon in ":-_" if (path := index.find(name.replace(":", colon)))), None)
    video = clip or index.find(_clip_name(values["yid"]))
    if video is None:
        raise RowError(f"there is no clip {name!r} and no video {values['yid']!r} below {index.folder}")
    start, end = (None, None) if clip else _part_of(video, values, "start", "end")
    return RawClip(
        name=name,
        split=_split(values["split"]),
        text=text,
        video=video,
        start=start,
        end=end,
        gloss=values["gloss"].strip() or None,
    )


def read_gfslt_labels(folder: Path, videos: Path | None) -> RawCorpus:
    """
    Label files of GFSLT-VLP and sltbaselines: `labels.train`, `labels.dev`, `labels.test`, pickles packed with gzip,
    `{id: {name, gloss, text, length, imgs_path}}` for PHOENIX14T; those for CSL-Daily have no `imgs_path`, where the
    folder is the name. Names may start with their split. `videos` is their `img_path`, the folder of all frames.
    """
    pictures, gathered = videos or folder, Gathered()
    for split in ("train", "dev", "test"):
        path = _needed_file(folder / f"labels.{split}")
        labels = read_plain_pickle(path)
        if not isinstance(labels, dict):
            raise ValueError(f"{path} must hold a dictionary {{id: {{name, gloss, text, ...}}}}, got {type(labels)}.")
        rows = (Row(f"{shown_path(path, folder)}, {key!r}", {"entry": entry}) for key, entry in labels.items())
        gathered.add(
            rows, lambda values, split=split: _gfslt_clip(values["entry"], SPLIT_NAMES[split], pictures, gathered)
        )
    return RawCorpus(gathered.clips, gathered.problems)


def _gfslt_clip(entry: Any, split: str, pictures: Path, gathered: Gathered) -> RawClip:
    if not isinstance(entry, dict):
        raise RowError(f"the label must be a dictionary, got {type(entry).__name__}")
    name, gloss = _string(entry, "name").strip("/"), _string(entry, "gloss", needed=False)
    paths = _strings(entry, "imgs_path") if "imgs_path" in entry else []
    folders = {str(PurePosixPath(path).parent) for path in paths} or {name}
    if len(folders) > 1:
        raise RowError(f"`imgs_path` names pictures of {len(folders)} folders, expected one folder a clip")
    first, _, rest = name.partition("/")
    clip = RawClip(
        name=_clip_name((rest if first in SPLIT_NAMES and rest else name).replace("/", "_")),
        split=split,
        text=_sentence(_string(entry, "text")),
        video=_frame_folder(pictures, folders.pop()),
        gloss=gloss.strip() or None,
    )
    _compare_length(clip, len(paths) or entry.get("length"), gathered)
    return clip


def read_table(folder: Path, videos: Path | None, table: Path | None, columns: Mapping[str, str]) -> RawCorpus:
    """
    Anyone's own corpus: a CSV or TSV file with the columns `file` and `text`, and any other of `TABLE_COLUMNS`.

    `file` is a path below the folder, or a file's name (its suffix may be left out) that occurs once anywhere below.
    Rows without a split are of the one that the file is named after (`dev.csv`), else of `train`. Videos that no row
    names are problems too.
    """
    tables, index = _tables(folder, table), FilesBelow(videos or folder).with_videos()
    gathered = Gathered(problems=list(index.problems))

    def find(name: str) -> Path:
        path = index.find(name)
        if path is None:
            raise RowError(f"there is no video {name!r} below {index.folder}")
        return path

    for path in tables:
        _add_table(gathered, path, folder, columns, lambda values, split: _table_clip(values, split, find))
    used = {os.path.realpath(clip.video) for clip in gathered.clips}
    tables_named = " or ".join(path.name for path in tables)
    gathered.problems += [
        Problem(
            shown_path(path, index.folder), f"no clip is made of this video: no good row of {tables_named} names it"
        )
        for path in index.videos()
        if os.path.realpath(path) not in used
    ]
    return RawCorpus(gathered.clips, gathered.problems)


def read_frame_folders(folder: Path, videos: Path | None, table: Path | None, columns: Mapping[str, str]) -> RawCorpus:
    """As `read_table`, but the column `file` names a folder of pictures, one a frame, below the folder."""
    gathered = Gathered()

    def to_clip(values: dict[str, str], split: str) -> RawClip:
        if values["start"] or values["end"]:
            raise RowError("start and end are for videos: make a folder of the pictures of this clip alone")
        return _table_clip(values, split, lambda name: _frame_folder(videos or folder, name))

    for path in _tables(folder, table):
        _add_table(gathered, path, folder, columns, to_clip)
    return RawCorpus(gathered.clips, gathered.problems)


def _add_table(
    gathered: Gathered,
    path: Path,
    folder: Path,
    columns: Mapping[str, str],
    to_clip: Callable[[dict[str, str], str], RawClip],
) -> None:
    """All rows of one table through `to_clip(values by our names, split of the file)`."""
    unknown = sorted(set(columns) - set(TABLE_COLUMNS))
    if unknown:
        raise ValueError(f"Columns that can be given other names are {', '.join(TABLE_COLUMNS)}; got {unknown}.")
    theirs = {name: columns.get(name, name) for name in TABLE_COLUMNS}
    needed = [theirs[name] for name in TABLE_COLUMNS if name in {"file", "text", *columns}]
    split = SPLIT_NAMES.get(path.stem.lower(), "train")

    def renamed(values: dict[str, str]) -> RawClip:
        return to_clip({name: values.get(column, "").strip() for name, column in theirs.items()}, split)

    gathered.add(read_rows(path, folder, None, needed), renamed)


def _table_clip(values: dict[str, str], split: str, find: Callable[[str], Path]) -> RawClip:
    file = _path_below(values["file"])
    text = _sentence(values["text"])
    start, end = _times(values, "start", "end")
    suffix = PurePosixPath(file).suffix
    default_name = file.removesuffix(suffix if suffix.lower() in VIDEO_SUFFIXES else "").strip("/").replace("/", "_")
    if start is not None or end is not None:
        default_name += f"-{values['start'] or 0}-{values['end'] or 'end'}"
    return RawClip(
        name=_clip_name(values["name"] or default_name),
        split=_split(values["split"]) if values["split"] else split,
        text=text,
        video=find(file),
        start=start,
        end=end,
        signer=values["signer"] or None,
        gloss=values["gloss"] or None,
    )


def _tables(folder: Path, table: Path | None) -> list[Path]:
    """The table that is given, or the only one in the folder, or several that are named after their splits."""
    if table is not None:
        return [_needed_file(table)]
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in TABLE_SUFFIXES and path.is_file())
    if not found:
        raise FileNotFoundError(f"{folder} must hold a .csv or .tsv file with the columns file and text, or name one.")
    if len(found) > 1 and not all(path.stem.lower() in SPLIT_NAMES for path in found):
        names = ", ".join(path.name for path in found)
        raise ValueError(f"{folder} holds {len(found)} tables, {names}: say which one it is.")
    return found


# Values of a row


def _sentence(text: str) -> str:
    """The text without blanks at its ends and line breaks within."""
    text = re.sub(r"\s*[\r\n]+\s*", " ", text.strip())
    if not text:
        raise RowError("the sentence is empty")
    check_characters([text])
    return text


def _clip_name(name: str) -> str:
    """A name that can be a part of a file's name."""
    name = name.strip()
    if not name or name in {".", ".."} or re.search(r"[/\\\x00-\x1f]", name):
        raise RowError(f"{name!r} cannot be the name of a clip: it must not be empty or hold / or \\")
    check_characters([name])
    return name


def _path_below(name: str) -> str:
    """A path as written, with `/` between its parts, refused if it would leave its folder."""
    name = name.strip().replace("\\", "/")
    if not name.strip("/."):
        raise RowError(f"the path {name!r} names no file")
    if name.startswith("/") or re.match("[A-Za-z]:/", name) or ".." in name.split("/"):
        raise RowError(f"the path {name!r} would leave the folder of the corpus, and is refused")
    check_characters([name])
    return name


def _split(name: str) -> str:
    split = SPLIT_NAMES.get(name.strip().lower())
    if split is None:
        raise RowError(f"the split must be one of {', '.join(sorted(SPLIT_NAMES))}, got {name!r}")
    return split


def _times(values: dict[str, str], start_column: str, end_column: str) -> tuple[float | None, float | None]:
    """Start and end in seconds, None where there is no value."""
    start, end = _seconds(values[start_column], start_column), _seconds(values[end_column], end_column)
    if end is not None and end <= (start or 0.0):
        raise RowError(f"{end_column} must come after {start_column}, got {start or 0.0} to {end} seconds")
    return start, end


def _part_of(video: Path, values: dict[str, str], start_column: str, end_column: str) -> tuple[float, float]:
    """Start and end of a sentence in a video of many, where both are needed."""
    start, end = _times(values, start_column, end_column)
    if start is None or end is None:
        raise RowError(f"it has no {start_column} or no {end_column}, which say where in {video.name} it is")
    return start, end


def _seconds(text: str, column: str) -> float | None:
    """`12.5`, `12,5`, `1:02.5` and `00:01:02.500` -> seconds; an empty text -> None"""
    text = text.strip()
    if not text:
        return None
    *larger, last = text.replace(",", ".").split(":")
    try:
        units = [int(unit) for unit in larger]
        seconds = float(last)
    except ValueError:
        units, seconds = [], math.nan
    if len(units) > 2 or min(units, default=0) < 0 or not 0 <= seconds < math.inf:
        raise RowError(f"{column} must be seconds or hours:minutes:seconds, got {text!r}")
    return seconds + sum(unit * 60**power for power, unit in enumerate(reversed(units), 1))


def _without_quotes(text: str) -> str:
    """
    A sentence that a program has quoted although its table has no quoting: all marks within are doubled. Where they
    are not, the outer ones are a part of the sentence.
    """
    inner = text.strip()[1:-1]
    is_quoted = text.strip() == f'"{inner}"' and '""' in inner and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if is_quoted else text


def _string(entry: Mapping[str, Any], key: str, needed: bool = True) -> str:
    value = entry.get(key)
    if value is None and not needed:
        return ""
    if not isinstance(value, str):
        raise RowError(f"`{key}` must be a string, got {type(value).__name__}")
    check_characters([value])
    return value


def _strings(entry: Mapping[str, Any], key: str) -> list[str]:
    values = entry.get(key)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise RowError(f"`{key}` must be a list of strings")
    check_characters(values)
    return values


# Files and folders


@dataclass
class FilesBelow:
    """All files below a folder by their names and, of videos, by their names without suffix; no folder counts twice."""

    folder: Path
    problems: list[Problem] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.by_name: dict[str, list[Path]] = defaultdict(list)
        self.by_stem: dict[str, list[Path]] = defaultdict(list)
        visited: set[tuple[int, int]] = set()
        for directory, folders, names in os.walk(self.folder, followlinks=True, onerror=self._not_listed):
            status = os.stat(directory)
            if (status.st_dev, status.st_ino) in visited:  # a link to a folder above or beside it
                folders.clear()
                continue
            visited.add((status.st_dev, status.st_ino))
            folders.sort(key=lambda name, directory=directory: (os.path.islink(os.path.join(directory, name)), name))
            for name in sorted(names):
                path = Path(directory, name)
                self.by_name[name].append(path)
                if is_video_file(path):
                    self.by_stem[path.stem].append(path)

    def _not_listed(self, error: OSError) -> None:
        self.problems.append(Problem(str(error.filename), f"the folder cannot be listed: {error.strerror}"))

    def with_videos(self) -> "FilesBelow":
        if not self.by_stem:
            raise FileNotFoundError(f"There is no video below {self.folder}. Name the folder that holds them.")
        return self

    def videos(self) -> list[Path]:
        return [path for paths in self.by_stem.values() for path in paths]

    def the_one(self, name: str) -> Path:
        """The file of this name: an annotation, which must be there once."""
        paths = self.by_name.get(name, [])
        if not paths:
            raise FileNotFoundError(f"{name} is expected anywhere below {self.folder}, and is not there.")
        if len(paths) > 1:
            raise ValueError(f"{name} is there more than once: {', '.join(map(str, paths))}. Leave one of them.")
        return _needed_file(paths[0])

    def find(self, name: str) -> Path | None:
        """A video by its path below the folder, or by its name with or without suffix where that occurs once."""
        direct = self.folder / name
        if os.path.isfile(direct):
            return direct
        paths = self.by_name.get(name) or self.by_stem.get(name, [])
        if not paths:
            return None
        if len(paths) > 1:
            shown = " and ".join(shown_path(path, self.folder) for path in paths[:2])
            raise RowError(f"{len(paths)} files are called {name!r}, such as {shown}")
        if not os.path.isfile(paths[0]):
            raise RowError(f"{shown_path(paths[0], self.folder)} is a link to nothing")
        return paths[0]


def _frame_folder(root: Path, name: str) -> Path:
    path = root / _path_below(name)
    if not os.path.isdir(path):
        raise RowError(f"there is no folder of frames {path}")
    if not _num_pictures(path):
        raise RowError(f"the folder {path} holds no pictures")
    return path


def _num_pictures(folder: Path) -> int:
    try:
        with os.scandir(folder) as entries:
            return sum(is_picture_file(entry.name) for entry in entries)
    except OSError as error:
        raise RowError(f"the folder {folder} cannot be listed: {error.strerror}") from error


def _compare_length(clip: RawClip, length: Any, gathered: Gathered) -> None:
    """List a clip whose label counts other frames than its folder holds; it stays a clip."""
    num_pictures = _num_pictures(clip.video)
    if isinstance(length, int) and length != num_pictures:
        what = f"its label counts {length} frames, its folder holds {num_pictures} pictures; the clip is kept"
        gathered.problems.append(Problem(f"{clip.split} {clip.name}", what))


def _needed_file(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is expected, and is not there.")
    return path


def _root_with(folder: Path, places: Iterable[str], name: str) -> Path:
    """The first of the places below the folder that holds the file `name`."""
    roots = [folder / place for place in places]
    root = next((root for root in roots if (root / name).is_file()), None)
    if root is None:
        raise FileNotFoundError(f"{roots[0] / name} is expected, and is not there.")
    return root


def _folder_with_frames(folder: Path, places: tuple[str, ...]) -> Path:
    found = next((folder / place for place in places if (folder / place).is_dir()), None)
    if found is None:
        raise FileNotFoundError(f"The frames are expected in {folder / places[0]}, which is not there.")
    return found


TABLE_KINDS = ("table", "frame_folders")
KINDS: dict[str, Callable[..., RawCorpus]] = {
    "phoenix14t": read_phoenix14t,
    "csl_daily": read_csl_daily,
    "how2sign": read_how2sign,
    "openasl": read_openasl,
    "gfslt_labels": read_gfslt_labels,
    "table": read_table,
    "frame_folders": read_frame_folders,
}
