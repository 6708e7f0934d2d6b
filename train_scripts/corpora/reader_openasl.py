"""OpenASL: American Sign Language from the web, as videos or as clips cropped to the signer."""

from pathlib import Path

from .corpus_files import FilesBelow
from .corpus_rows import Gathered, clip_name, part_of, sentence, split_named
from .corpus_schema import RawClip, RawCorpus
from .corpus_tables import RowError, read_rows


def read(folder: Path, videos: Path | None) -> RawCorpus:
    """
    OpenASL (Shi et al., EMNLP 2022: sizes). `openasl-v1.0.tsv` has no quoting: a quotation mark is part of its
    sentence. OpenASL's `prep/crop_video.py` cuts `<vid>.mp4`, cropped to the signer, from `<yid>.mp4`, start and end.
    The former is used if it exists, otherwise that part of the latter. Copies for Windows have `-` or `_` for colons.
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
