"""
Raw corpora as their owners publish them, read into `RawClip`s: `read_corpus("phoenix14t", folder)`.

A reader opens annotation files and looks whether videos are there; it never opens a video. What it cannot turn into a
clip, it lists as a `Problem` with file and line, and nothing is left out silently. Names and links that would leave the
folder are refused; a split that is not understood ends the reading, so that no clip gets into another split.
"""

import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from modeling_flallm.own_processing import VIDEO_SUFFIXES  # noqa: F401 (other programs ask for it here)

from .corpus_files import FilesBelow, folder_with_frames, frame_folder, needed_file, num_pictures, root_with
from .corpus_rows import Gathered, clip_name, part_of, path_below, sentence, split_named
from .corpus_schema import Problem, RawClip, RawCorpus
from .corpus_tables import SPLIT_NAMES, Row, RowError, check_characters, read_rows, shown_path
from .legacy_labels import read_plain_pickle
from .own_corpora import read_frame_folders, read_table


def read_corpus(
    kind: str,
    folder: Path,
    videos: Path | None = None,
    table: Path | None = None,
    columns: Mapping[str, str] | None = None,
    tier: str | None = None,
) -> RawCorpus:
    """
    All clips of a corpus and everything that is wrong with it. Clips' names hold no `/` or `\\`, and are unique in
    their split.

    Args:
        kind: one of `KINDS`.
        videos: folder of the videos or frame folders, where they are not in their usual place below `folder`.
        table: the file of the kinds `table` and `frame_folders`, where `folder` holds more than one.
        columns: for these two, what the file calls our columns `TABLE_COLUMNS`, such as `{"text": "Satz"}`.
        tier: for annotations of ELAN with several tiers, the one that holds the sentences.

    Raises:
        FileNotFoundError: for a missing folder or annotation file, saying what was expected where.
        ValueError: for an unknown kind, an annotation file that is another than expected, a split or a column that is
            not understood, links that leave the folder, or options that do not fit.
    """
    if kind not in KINDS:
        raise ValueError(f"The kind of corpus must be one of {', '.join(KINDS)}, got {kind!r}.")
    for path in (folder, videos):
        if path is not None and not path.is_dir():
            raise FileNotFoundError(f"{path} must be a folder, and it is not there.")
    if kind in TABLE_KINDS:
        return KINDS[kind](folder, videos, table, columns or {}, tier)
    if table is not None or columns or tier is not None:
        raise ValueError(
            f"Only {' and '.join(TABLE_KINDS)} take a table, names of columns and a tier, got kind {kind!r}."
        )
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
    root = root_with(folder, places, tables["train"])
    pictures = videos or folder_with_frames(root, ("features/fullFrame-210x260px",))
    gathered = Gathered()
    for split, name in tables.items():
        path = needed_file(root / name, folder)
        rows = read_rows(path, folder, "|", ("name", "speaker", "orth", "translation"))
        gathered.add(rows, lambda values, split=split: _phoenix_clip(values, split, pictures))
    return gathered.corpus(
        sign_language="gsg",
        spoken_language="de",
        frames_per_second=25.0,
        official_sizes={"train": 7096, "validation": 519, "test": 642},
    )


def _phoenix_clip(values: dict[str, str], split: str, pictures: Path) -> RawClip:
    name = clip_name(values["name"])
    return RawClip(
        name=name,
        split=SPLIT_NAMES[split],
        text=sentence(values["translation"]),
        video=frame_folder(pictures, f"{split}/{name}"),
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
    labels = root_with(folder, ("sentence_label", "", "sentence_labels"), "csl2020ct_v2.pkl")
    path = labels / "csl2020ct_v2.pkl"
    split_path = needed_file(labels / "split_1.txt", folder)
    places = ("sentence/frames_512x512", "sentence_frames-512x512/frames_512x512", "frames_512x512")
    pictures = videos or folder_with_frames(folder, places)
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
    return gathered.corpus(
        sign_language="csl",
        spoken_language="zh",
        frames_per_second=30.0,
        official_sizes={"train": 18401, "validation": 1077, "test": 1176},
    )


def _csl_daily_clip(values: dict[str, str], annotations: dict[str, Any], pictures: Path, gathered: Gathered) -> RawClip:
    name = clip_name(values["name"])
    if name not in annotations:
        raise RowError(f"{name!r} is not in csl2020ct_v2.pkl")
    entry = annotations[name]
    signer = re.search(r"_(P\d+)_", name)
    clip = RawClip(
        name=name,
        split=split_named(values["split"]),
        text=sentence("".join(_strings(entry, "label_char"))),
        video=frame_folder(pictures, name),
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
    return gathered.corpus(
        sign_language="ase",
        spoken_language="en",
        official_sizes={"train": 31128, "validation": 1741, "test": 2322},
    )


def _how2sign_clip(values: dict[str, str], split: str, index: FilesBelow) -> RawClip:
    name = clip_name(values["SENTENCE_NAME"])
    text = sentence(_without_quotes(values["SENTENCE"]))
    whole = index.find(clip_name(values["VIDEO_NAME"]))
    video = whole or index.find(name)
    if video is None:
        raise RowError(f"there is no video {values['VIDEO_NAME']!r} and no clip {name!r} below {index.folder}")
    start, end = part_of(whole, values, "START_REALIGNED", "END_REALIGNED") if whole else (None, None)
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
    return gathered.corpus(
        sign_language="ase",
        spoken_language="en",
        official_sizes={"train": 96476, "validation": 966, "test": 975},
    )


def _openasl_clip(values: dict[str, str], index: FilesBelow) -> RawClip:
    name = clip_name(values["vid"])
    text = sentence(values["raw-text"])
    clip = next((path for colon in ":-_" if (path := index.find(name.replace(":", colon)))), None)
    video = clip or index.find(clip_name(values["yid"]))
    if video is None:
        raise RowError(f"there is no clip {name!r} and no video {values['yid']!r} below {index.folder}")
    start, end = (None, None) if clip else part_of(video, values, "start", "end")
    return RawClip(
        name=name,
        split=split_named(values["split"]),
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

    Those of Uni-Sign (Li et al., ICLR 2025) have a `video_path`, an mp4 file, and a `gloss` that is a list of words.
    """
    pictures, gathered = videos or folder, Gathered()

    @functools.cache
    def files() -> FilesBelow:
        index = FilesBelow(pictures).with_videos()
        gathered.problems += index.problems
        return index

    for split in ("train", "dev", "test"):
        path = needed_file(folder / f"labels.{split}", folder)
        labels = read_plain_pickle(path)
        if not isinstance(labels, dict):
            raise ValueError(f"{path} must hold a dictionary {{id: {{name, gloss, text, ...}}}}, got {type(labels)}.")
        rows = (Row(f"{shown_path(path, folder)}, {key!r}", {"entry": entry}) for key, entry in labels.items())
        to_clip = functools.partial(
            _label_clip, split=SPLIT_NAMES[split], root=pictures, files=files, gathered=gathered
        )
        gathered.add(rows, lambda values, to_clip=to_clip: to_clip(values["entry"]))
    return gathered.corpus()


def _label_clip(entry: Any, split: str, root: Path, files: Callable[[], FilesBelow], gathered: Gathered) -> RawClip:
    if not isinstance(entry, dict):
        raise RowError(f"the label must be a dictionary, got {type(entry).__name__}")
    name, is_video = _string(entry, "name").strip("/"), entry.get("video_path") is not None
    first, _, rest = name.partition("/")
    gloss = entry.get("gloss")
    clip = RawClip(
        name=clip_name((rest if first in SPLIT_NAMES and rest else name).replace("/", "_")),
        split=split,
        text=sentence(_string(entry, "text")),
        video=files().one(path_below(_string(entry, "video_path")))
        if is_video
        else _labelled_folder(entry, name, root),
        gloss=(
            " ".join(_strings(entry, "gloss")) if isinstance(gloss, list) else _string(entry, "gloss", False)
        ).strip()
        or None,
    )
    if not is_video:
        _compare_length(clip, len(entry.get("imgs_path", ())) or entry.get("length"), gathered)
    return clip


def _labelled_folder(entry: Mapping[str, Any], name: str, root: Path) -> Path:
    """The folder of a label's pictures: of their paths or, where there are none, of its name."""
    paths = _strings(entry, "imgs_path") if "imgs_path" in entry else []
    folders = {str(PurePosixPath(path).parent) for path in paths} or {name}
    if len(folders) > 1:
        raise RowError(f"`imgs_path` names pictures of {len(folders)} folders, expected one folder a clip")
    return frame_folder(root, path_below(folders.pop()))


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


def _compare_length(clip: RawClip, length: Any, gathered: Gathered) -> None:
    """List a clip whose label counts other frames than its folder holds; it stays a clip."""
    count = num_pictures(clip.video)
    if isinstance(length, int) and length != count:
        what = f"its label counts {length} frames, its folder holds {count} pictures; the clip is kept"
        gathered.problems.append(Problem(f"{clip.split} {clip.name}", what))


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
