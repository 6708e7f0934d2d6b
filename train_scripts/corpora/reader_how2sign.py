"""How2Sign: instructions in American Sign Language, as whole videos or as clips cut from them."""

import re
from pathlib import Path

from .corpus_files import FilesBelow
from .corpus_rows import Gathered, clip_name, part_of, sentence, without_added_quotes
from .corpus_schema import RawClip, RawCorpus
from .corpus_tables import SPLIT_NAMES, RowError, read_rows


def read(folder: Path, videos: Path | None) -> RawCorpus:
    """
    How2Sign (Duarte et al., CVPR 2021: sizes) with its manually re-aligned sentences, in tab-separated tables. The
    videos may be anywhere below the folder, where its download script puts them or elsewhere.

    The times refer to the whole videos, VIDEO_NAME; the published clips, SENTENCE_NAME, were cut by older times
    (how2sign.github.io says so). The whole video is used if it exists, otherwise the clip. The signer is the number
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
    text = sentence(without_added_quotes(values["SENTENCE"]))
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
