"""Label files of GFSLT-VLP, sltbaselines and Uni-Sign, for whichever corpus they describe."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from modeling_flallm.own_processing import read_plain_pickle

from .corpus_files import FilesBelow, frame_folder, needed_file
from .corpus_rows import Gathered, clip_name, path_below, sentence
from .corpus_schema import RawClip, RawCorpus
from .corpus_tables import SPLIT_NAMES, Row, RowError, shown_path
from .label_entries import compare_length, string_of, strings_of


def read(folder: Path, videos: Path | None) -> RawCorpus:
    """
    Label files of GFSLT-VLP and sltbaselines: `labels.train`, `labels.dev`, `labels.test`, gzipped pickles of
    `{id: {name, gloss, text, length, imgs_path}}` for PHOENIX14T; those for CSL-Daily have no `imgs_path`, and the
    folder is the name. Names may start with their split. `videos` is their `img_path`, the folder of all frames.

    Those of Uni-Sign (Li et al., ICLR 2025) have a `video_path`, an mp4 file, and a `gloss` that is a list of words.
    """
    pictures, gathered = videos or folder, Gathered()

    @functools.cache
    def files() -> FilesBelow:
        index = FilesBelow(pictures).with_videos()
        gathered.problems += index.problems
        return index

    def to_clip(entry: Mapping[str, Any], split: str) -> RawClip:
        if entry.get("video_path") is not None:
            return clip_of_label(entry, split, files().one(path_below(string_of(entry, "video_path"))))
        clip = clip_of_label(entry, split, _labelled_folder(entry, string_of(entry, "name").strip("/"), pictures))
        compare_length(clip, len(entry.get("imgs_path", ())) or entry.get("length"), gathered)
        return clip

    gather_labels(gathered, folder, to_clip)
    return gathered.corpus()


def gather_labels(gathered: Gathered, folder: Path, to_clip: Callable[[Mapping[str, Any], str], RawClip]) -> None:
    """Adds a clip for each entry of the three files, from `to_clip(entry, split)`."""

    def checked(values: dict[str, Any]) -> RawClip:
        if not isinstance(values["entry"], dict):
            raise RowError(f"the label must be a dictionary, got {type(values['entry']).__name__}")
        return to_clip(**values)

    for name in ("train", "dev", "test"):
        path = needed_file(folder / f"labels.{name}", folder)
        labels = read_plain_pickle(path)
        if not isinstance(labels, dict):
            raise ValueError(f"{path} must hold a dictionary {{id: {{name, gloss, text, ...}}}}, got {type(labels)}.")
        entries = ((key, {"entry": entry, "split": SPLIT_NAMES[name]}) for key, entry in labels.items())
        gathered.add((Row(f"{shown_path(path, folder)}, {key!r}", values) for key, values in entries), checked)


def clip_of_label(entry: Mapping[str, Any], split: str, video: Path) -> RawClip:
    """The clip of an entry, whose name may begin with its split, and whose gloss may be a list of words."""
    name = string_of(entry, "name").strip("/")
    first, _, rest = name.partition("/")
    has_words = isinstance(entry.get("gloss"), list)
    gloss = " ".join(strings_of(entry, "gloss")) if has_words else string_of(entry, "gloss", False)
    return RawClip(
        name=clip_name((rest if first in SPLIT_NAMES and rest else name).replace("/", "_")),
        split=split,
        text=sentence(string_of(entry, "text")),
        video=video,
        gloss=gloss.strip() or None,
    )


def _labelled_folder(entry: Mapping[str, Any], name: str, root: Path) -> Path:
    """The folder with the pictures of a label, taken from their paths or, if it has none, from its name."""
    paths = strings_of(entry, "imgs_path") if "imgs_path" in entry else []
    folders = {str(PurePosixPath(path).parent) for path in paths} or {name}
    if len(folders) > 1:
        raise RowError(f"`imgs_path` names pictures in {len(folders)} folders, expected one folder per clip")
    return frame_folder(root, path_below(folders.pop()))
