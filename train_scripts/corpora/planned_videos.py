"""Decides which files a data set gets, under which names, and which clips cannot be used as their corpus describes."""

import hashlib
import os
import re
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from .corpus_schema import COLUMNS, SPLITS, RawClip
from .prepared_folder import STATE_FOLDER
from .prepared_videos import ClipOutcome, ClipTask, VideoTask
from .video_encoding import VideoLength

# Suffixes that `datasets` and the Hub treat as videos; other files are read by their content, whatever their name.
HUB_VIDEO_SUFFIXES = (".mp4", ".mkv", ".avi", ".mpeg", ".mov", ".webm")
# The Hub accepts at most 10,000 files per folder.
MOST_FILES_IN_A_FOLDER = 5000
LONGEST_NAME = 80
RESERVED_NAMES = {"con", "prn", "aux", "nul", *(f"{name}{digit}" for name in ("com", "lpt") for digit in range(10))}


class Plan(ABC):
    """
    How the clips of a corpus get into a data set: which files, from what, with which columns.

    Attributes:
        columns: of metadata.csv, the first of which names the file of a clip.
        unit: what is counted, for the progress bar; `kind`: what a clip is in its corpus.
    """

    columns: ClassVar[tuple[str, ...]]
    unit: ClassVar[str]
    kind: ClassVar[str]

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The arguments that determine the content of the files; JSON-serializable."""

    @abstractmethod
    def tasks(
        self, clips: Sequence[RawClip], source_folder: Path, output_dir: Path
    ) -> list[tuple[ClipTask, list[RawClip]]]:
        """One task per file; file names are safe on every system, and the same in every run."""

    @abstractmethod
    def values_of(self, length: Any) -> dict[str, Any]:
        """The columns of what was measured of a clip, among them `duration_in_seconds`."""

    def misfits(self, outcomes: Mapping[str, ClipOutcome]) -> dict[str, str]:
        """What is wrong with files that are fine by themselves but do not fit the others, by their keys."""
        return {}

    def notes(self, outcomes: Mapping[str, ClipOutcome]) -> list[str]:
        """What people should know of how files were made."""
        return []


class VideoPlan(Plan):
    """Videos as they are, and folders of pictures encoded with this frame rate and quality."""

    columns = COLUMNS
    unit = kind = "video"

    def __init__(self, frames_per_second: float, quality: int):
        self.encoding = (frames_per_second, quality)

    @property
    def settings(self) -> dict[str, Any]:
        return dict(zip(("frames_per_second", "quality"), self.encoding, strict=True))

    def tasks(
        self, clips: Sequence[RawClip], source_folder: Path, output_dir: Path
    ) -> list[tuple[ClipTask, list[RawClip]]]:
        return plan_tasks(clips, source_folder, output_dir, self.encoding)

    def values_of(self, length: VideoLength) -> dict[str, Any]:
        return {
            "duration_in_seconds": round(float(length.duration_in_seconds), 6),
            "num_frames": length.num_frames,
        }


def plan_tasks(
    clips: Sequence[RawClip], source_folder: Path, output_dir: Path, encoding: tuple[float, int]
) -> list[tuple[VideoTask, list[RawClip]]]:
    """One task per video and split; file names are safe on every system, and the same in every run."""
    clips_of_video: dict[tuple[str, Path], list[RawClip]] = defaultdict(list)
    for clip in clips:
        clips_of_video[clip.split, clip.video].append(clip)
    names = [_video_name(video, of_it) for (_, video), of_it in clips_of_video.items()]
    # Not normalised: two spellings of the same path are two tasks.
    addresses = [str(video).removeprefix(str(source_folder)) for _, video in clips_of_video]
    file_names = unique_names([split for split, _ in clips_of_video], names, addresses)
    tasks = []
    for ((split, video), clips_of_it), name in zip(clips_of_video.items(), file_names, strict=True):
        is_folder = os.path.isdir(video)
        suffix = video.suffix.lower() if not is_folder and video.suffix.lower() in HUB_VIDEO_SUFFIXES else ".mp4"
        task = VideoTask(
            split=split,
            source=video,
            file_name=f"{name}{suffix}",
            split_folder=output_dir / split,
            work_folder=output_dir / STATE_FOLDER,
            intervals=tuple((clip.start, clip.end) for clip in clips_of_it),
            encoding=encoding if is_folder else None,
        )
        tasks.append((task, clips_of_it))
    return tasks


def unique_names(splits: Sequence[str], names: Sequence[str], addresses: Sequence[str]) -> list[str]:
    """
    Safe names without a suffix for the files of all splits, in a subfolder where a split has many files.

    Args:
        addresses: what tells apart the files of a split, the same in every run.
    """
    safe = [_safe_name(name) for name in names]
    counts = Counter((split, name.casefold()) for split, name in zip(splits, safe, strict=True))
    sizes = Counter(splits)
    found = []
    for split, wanted, name, address in zip(splits, names, safe, addresses, strict=True):
        digest = hashlib.sha256(repr(address).encode()).hexdigest()
        if name != wanted or counts[split, name.casefold()] > 1:
            name = f"{name}-{digest[:10]}"
        found.append(f"{digest[:2]}/{name}" if sizes[split] > MOST_FILES_IN_A_FOLDER else name)
    return found


def _video_name(video: Path, clips: list[RawClip]) -> str:
    return clips[0].name if len(clips) == 1 else video.stem


def _safe_name(name: str) -> str:
    """A name that every file system, shell and archive accepts; not unique."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._-")[:LONGEST_NAME].rstrip(".")
    return f"_{safe}" if not safe or safe.split(".")[0].casefold() in RESERVED_NAMES else safe


def find_faults(clips: Iterable[RawClip], kind: str = "video") -> Iterator[tuple[RawClip, str | None]]:
    """Each clip with what is wrong with its description, or None; `kind` is what its corpus has of clips."""
    seen = set()
    for clip in clips:
        place = (clip.split, clip.video, clip.array, clip.start, clip.end)
        if clip.split not in SPLITS:
            fault = f"the split must be one of {', '.join(SPLITS)}, got {clip.split!r}."
        elif not clip.text.strip():
            fault = "has no sentence."
        elif "\0" in clip.text or not clip.text.isascii() and _has_surrogates(clip.text):
            fault = "the sentence contains NUL bytes or bytes that are not UTF-8 text."
        elif place in seen:
            fault = f"is listed twice: an earlier line names the same {kind} and the same part of it."
        else:
            fault = None
            seen.add(place)
        yield clip, fault


def _has_surrogates(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)
