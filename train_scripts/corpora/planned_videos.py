"""Decides which videos a data set gets, under which names, and which clips cannot be used as their corpus describes."""

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from .corpus_schema import SPLITS, RawClip
from .prepared_folder import STATE_FOLDER
from .prepared_videos import VideoTask

# Suffixes that `datasets` and the Hub treat as videos; other files are read by their content, whatever their name.
HUB_VIDEO_SUFFIXES = (".mp4", ".mkv", ".avi", ".mpeg", ".mov", ".webm")
# The Hub accepts at most 10,000 files per folder.
MOST_FILES_IN_A_FOLDER = 5000
LONGEST_NAME = 80
RESERVED_NAMES = {"con", "prn", "aux", "nul", *(f"{name}{digit}" for name in ("com", "lpt") for digit in range(10))}


def plan_tasks(
    clips: Sequence[RawClip], source_folder: Path, output_dir: Path, encoding: tuple[float, int]
) -> list[tuple[VideoTask, list[RawClip]]]:
    """One task per video and split; file names are safe on every system, and the same in every run."""
    clips_of_video: dict[tuple[str, Path], list[RawClip]] = defaultdict(list)
    for clip in clips:
        clips_of_video[clip.split, clip.video].append(clip)
    names = {key: _video_name(key[1], clips) for key, clips in clips_of_video.items()}
    counts = Counter((split, _safe_name(names[split, video]).casefold()) for split, video in names)
    sizes = Counter(split for split, _ in names)
    tasks = []
    for (split, video), clips_of_it in clips_of_video.items():
        is_folder = os.path.isdir(video)
        name = _safe_name(names[split, video])
        # Not normalised: two spellings of the same path are two tasks.
        address = hashlib.sha256(repr(str(video).removeprefix(str(source_folder))).encode()).hexdigest()
        if name != names[split, video] or counts[split, name.casefold()] > 1:
            name = f"{name}-{address[:10]}"
        suffix = video.suffix.lower() if not is_folder and video.suffix.lower() in HUB_VIDEO_SUFFIXES else ".mp4"
        subfolder = f"{address[:2]}/" if sizes[split] > MOST_FILES_IN_A_FOLDER else ""
        task = VideoTask(
            split=split,
            source=video,
            file_name=f"{subfolder}{name}{suffix}",
            split_folder=output_dir / split,
            work_folder=output_dir / STATE_FOLDER,
            encoding=encoding if is_folder else None,
            intervals=tuple((clip.start, clip.end) for clip in clips_of_it),
        )
        tasks.append((task, clips_of_it))
    return tasks


def _video_name(video: Path, clips: list[RawClip]) -> str:
    return clips[0].name if len(clips) == 1 else video.stem


def _safe_name(name: str) -> str:
    """A name that every file system, shell and archive accepts; not unique."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._-")[:LONGEST_NAME].rstrip(".")
    return f"_{safe}" if not safe or safe.split(".")[0].casefold() in RESERVED_NAMES else safe


def find_faults(clips: Iterable[RawClip]) -> Iterator[tuple[RawClip, str | None]]:
    """Each clip with what is wrong with its description, or None."""
    seen = set()
    for clip in clips:
        place = (clip.split, clip.video, clip.start, clip.end)
        if clip.split not in SPLITS:
            fault = f"the split must be one of {', '.join(SPLITS)}, got {clip.split!r}."
        elif not clip.text.strip():
            fault = "has no sentence."
        elif "\0" in clip.text or not clip.text.isascii() and _has_surrogates(clip.text):
            fault = "the sentence contains NUL bytes or bytes that are not UTF-8 text."
        elif place in seen:
            fault = "is listed twice: an earlier line names the same video and the same part of it."
        else:
            fault = None
            seen.add(place)
        yield clip, fault


def _has_surrogates(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)
