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
    name, is_video = string_of(entry, "name").strip("/"), entry.get("video_path") is not None
    first, _, rest = name.partition("/")
    gloss = entry.get("gloss")
    clip = RawClip(
        name=clip_name((rest if first in SPLIT_NAMES and rest else name).replace("/", "_")),
        split=split,
        text=sentence(string_of(entry, "text")),
        video=files().one(path_below(string_of(entry, "video_path")))
        if is_video
        else _labelled_folder(entry, name, root),
        gloss=(
            " ".join(strings_of(entry, "gloss")) if isinstance(gloss, list) else string_of(entry, "gloss", False)
        ).strip()
        or None,
    )
    if not is_video:
        compare_length(clip, len(entry.get("imgs_path", ())) or entry.get("length"), gathered)
    return clip


def _labelled_folder(entry: Mapping[str, Any], name: str, root: Path) -> Path:
    """The folder with the pictures of a label, taken from their paths or, if it has none, from its name."""
    paths = strings_of(entry, "imgs_path") if "imgs_path" in entry else []
    folders = {str(PurePosixPath(path).parent) for path in paths} or {name}
    if len(folders) > 1:
        raise RowError(f"`imgs_path` names pictures in {len(folders)} folders, expected one folder per clip")
    return frame_folder(root, path_below(folders.pop()))
