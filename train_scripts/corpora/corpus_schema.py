"""What a reader of a raw corpus gives, and the columns of the data set that is made of it."""

from dataclasses import dataclass, field
from pathlib import Path

# Those that `corpus_readers` reads.
CORPORA = ("phoenix14t", "csl_daily", "how2sign", "openasl", "gfslt_labels", "table", "frame_folders")
SPLITS = ("train", "validation", "test")
COLUMNS = (
    "file_name",
    "text",
    "start",
    "end",
    "name",
    "signer",
    "gloss",
    "sign_language",
    "spoken_language",
    "duration_in_seconds",
    "num_frames",
)


@dataclass(frozen=True)
class RawClip:
    """
    One clip as its corpus describes it; whether the video is there and whole is not known yet.

    Args:
        split: one of `SPLITS`.
        video: a video file, or a folder of pictures, one a frame, in the order of their names.
        start, end: seconds within the file, where the clip is a part of it.
    """

    name: str
    split: str
    text: str
    video: Path
    start: float | None = None
    end: float | None = None
    signer: str | None = None
    gloss: str | None = None


@dataclass(frozen=True)
class Problem:
    """Something that is missing or wrong: where (a file and its line, or a clip's name), and what."""

    where: str
    what: str


@dataclass
class RawCorpus:
    """
    All clips that a corpus names, and everything in its files that could not be read as one.

    Args:
        sign_language: ISO 639-3 code.
        frames_per_second: of folders of pictures, which do not say it themselves.
        official_sizes: clips per split in the corpus's paper, where it gives them.
        notes: what of its files was not used, without anything being wrong with it.
    """

    clips: list[RawClip]
    problems: list[Problem] = field(default_factory=list)
    sign_language: str | None = None
    spoken_language: str | None = None
    frames_per_second: float | None = None
    official_sizes: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
