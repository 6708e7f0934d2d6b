"""What a reader of a raw corpus returns, and the columns of the data set that is made from it."""

from dataclasses import dataclass, field
from pathlib import Path

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
# The columns where clips are files of ready-made features.
FEATURE_COLUMNS = ("visual_features", *COLUMNS[1:-1], "num_features", "features_per_second")
# The columns where clips are files of poses, each of one clip alone: they have no start and end.
POSE_COLUMNS = ("poses", "text", *COLUMNS[4:], "frames_per_second")


@dataclass(frozen=True)
class RawClip:
    """
    One clip as its corpus describes it; whether the video exists and is intact is not known yet.

    Args:
        split: one of `SPLITS`.
        video: a video file, or a folder of pictures, one per frame, in the order of their names; in a corpus of
            ready-made features, or of poses, the file or folder that holds them.
        start, end: seconds within the file, if the clip is part of it.
        array: the name of the clip's features, or poses, in a file that holds several arrays.
        features_per_second: if the corpus states it for each clip.
        poses: the poses of the whole video, beside it: their file or folder, and the name of their array in it.
    """

    name: str
    split: str
    text: str
    video: Path
    start: float | None = None
    end: float | None = None
    signer: str | None = None
    gloss: str | None = None
    array: str | None = None
    features_per_second: float | None = None
    poses: tuple[Path, str | None] | None = None


@dataclass(frozen=True)
class Problem:
    """Something that is missing or wrong: where (file and line, or the name of a clip), and what."""

    where: str
    what: str


@dataclass
class RawCorpus:
    """
    All clips that a corpus lists, and everything in its files that could not be read as a clip.

    Args:
        sign_language: ISO 639-3 code.
        frames_per_second: for folders of pictures, which do not contain it.
        official_sizes: clips per split according to the corpus's paper, if it gives them.
        notes: parts of its files that were not used, although nothing is wrong with them.
        clips_are: "videos", "features" or "poses".
    """

    clips: list[RawClip]
    problems: list[Problem] = field(default_factory=list)
    sign_language: str | None = None
    spoken_language: str | None = None
    frames_per_second: float | None = None
    official_sizes: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    clips_are: str = "videos"
