"""
The output of `flallm poses`: files of poses and, for a data set, its tables with one more column.

    <folder>/.poses.jsonl, <split>/metadata.csv, <split>/poses/<clip>.safetensors, <split>/<clip>.mp4, ...
"""

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from modeling_flallm.own_processing import PoseModality, is_hidden_file, is_video_file

from ..arguments.flag_values import check_new_folder
from ..machine.atomic_files import LEAVINGS, write_csv, write_json_lines
from ..machine.kept_lines import KeptLines, state_of_file
from .clip_folders import find_metadata, read_metadata
from .pose_tasks import ExtractorSettings, PoseOutcome, PoseTask

FINISHED_FILE = ".poses.jsonl"
CARD = "README.md"
VIDEO_COLUMN, POSES_COLUMN = "file_name", PoseModality.table_column


@dataclass(frozen=True)
class ClipTable:
    """
    The table of one split, or of a folder without splits.

    Args:
        path: of the table.
        split: name of its folder below that of the data set; empty if it is the folder itself.
        rows: as in `read_metadata`.
    """

    path: Path
    split: str
    rows: list[dict[str, Any]]

    def videos(self) -> dict[str, tuple[tuple[float | None, float | None], ...] | None]:
        """By their names in the table: the parts of videos that are clips; None for a clip that is the whole video."""
        parts: dict[str, list[tuple[float | None, float | None]]] = {}
        for row in self.rows:
            parts.setdefault(row[VIDEO_COLUMN], []).append((_seconds(row.get("start")), _seconds(row.get("end"))))
        return {name: None if (None, None) in found else tuple(found) for name, found in parts.items()}


def find_tables(folder: Path, text_column: str) -> list[ClipTable]:
    """
    The tables of a data set; none if it is a folder of other files.

    Raises:
        FileNotFoundError, ValueError: as `read_metadata`, for a data set that has poses, and for one without videos.
    """
    places = [folder] if find_metadata(folder) else sorted(path for path in folder.iterdir() if path.is_dir())
    tables = []
    for place in places:
        path = None if is_hidden_file(place.name) else find_metadata(place)
        if path is not None:
            tables.append(ClipTable(path, "" if place == folder else place.name, read_metadata(place, text_column)))
    for table in tables:
        columns = {column for row in table.rows for column in row}
        if POSES_COLUMN in columns:
            raise ValueError(f"{table.path} already has the column {POSES_COLUMN!r}.")
        if VIDEO_COLUMN not in columns:
            raise ValueError(f"{table.path} must have the column {VIDEO_COLUMN!r}, which names videos.")
    return tables


def find_videos(paths: Sequence[Path]) -> dict[str, Path]:
    """
    Videos by the names that their files of poses get, without suffix: files as they are named, and all videos below
    folders.

    Raises:
        FileNotFoundError: for a path that is not there.
        ValueError: if there is no video.
    """
    names, videos = [], []
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(
                f"There is no {path}. Of a data set on the Hub, download the files first: hf download OWNER/NAME "
                "--repo-type dataset --local-dir FOLDER."
            )
        found = sorted(path.rglob("*")) if path.is_dir() else [path]
        root = path if path.is_dir() else path.parent
        found = [file for file in found if file == path or (file.is_file() and is_video_file(file.relative_to(root)))]
        videos += found
        names += [file.relative_to(root).as_posix() for file in found]
    if not videos:
        raise ValueError(f"There is no video in {', '.join(map(str, paths))}.")
    return dict(zip(pose_names(names), videos, strict=True))


def pose_names(names: Sequence[str]) -> list[str]:
    """
    The names of files of poses, without their suffix, by those of the videos: `a/clip.mp4` -> `a/clip`, and
    `a/clip.mp4` where others have that name.
    """
    stems = [str(PurePosixPath(name).with_suffix("")) for name in names]
    counts = Counter(stem.casefold() for stem in stems)
    chosen = [stem if counts[stem.casefold()] == 1 else name for stem, name in zip(stems, names, strict=True)]
    twice = [name for name, count in Counter(name.casefold() for name in chosen).items() if count > 1]
    if twice:
        raise ValueError(f"Several videos are named {twice[0]}. Extract their poses into different folders.")
    return chosen


class PoseFolder:
    """
    The output folder, new or of an interrupted run with the same extractor, with what that run has finished.

    Raises:
        ValueError: if it holds anything else, or poses of another extractor or format; nothing has been written then.
    """

    def __init__(self, path: Path, description: str, pose_format: str):
        self.path = path
        journal = path / FINISHED_FILE
        if not journal.is_file():
            check_new_folder(path)
        settings = {"extractor": description, "format": pose_format}
        self._journal = KeptLines(journal, settings, f"what is finished of --output_dir {path}")
        for name, (before, now) in self._journal.changed_settings().items():
            raise ValueError(
                f"--output_dir {path} was made with the {name} {before!r}, now it is {now!r}. Go on with the same, or "
                "name a new folder."
            )
        self._finished = {entry["file"]: entry for entry in self._journal.lines if isinstance(entry, dict)}
        path.mkdir(parents=True, exist_ok=True)
        self._journal.append()  # from now on the folder is known to be ours
        for leaving in path.rglob(LEAVINGS):
            shutil.rmtree(leaving) if leaving.is_dir() else leaving.unlink()

    def outcome_of(self, task: PoseTask) -> PoseOutcome | None:
        """Of an earlier run, if neither the video nor its poses have changed since; broken videos are tried again."""
        entry = self._finished.get(self._key(task))
        if entry is None or entry["state"] != _state(task):
            return None
        return PoseOutcome(entry["num_frames"])

    def remember(self, task: PoseTask, outcome: PoseOutcome) -> None:
        if outcome.error is None:
            self._journal.append({"file": self._key(task), "state": _state(task), "num_frames": outcome.num_frames})

    def tasks_of_videos(self, videos: dict[str, Path], suffix: str, settings: ExtractorSettings) -> dict[str, PoseTask]:
        """The tasks of `find_videos`, by name."""
        return {name: PoseTask(video, self.path / f"{name}{suffix}", None, settings) for name, video in videos.items()}

    def tasks_of_table(self, table: ClipTable, suffix: str, settings: ExtractorSettings) -> dict[str, PoseTask]:
        """The tasks of a table, by the names of its videos."""
        videos, folder = table.videos(), self.path / table.split / POSES_COLUMN
        names = dict(zip(videos, pose_names(list(videos)), strict=True))
        return {
            video: PoseTask(table.path.parent / video, folder / f"{names[video]}{suffix}", parts, settings)
            for video, parts in videos.items()
        }

    def write_table(self, table: ClipTable, tasks: dict[str, PoseTask], with_videos: bool) -> int:
        """
        Write the table with the column of poses, without broken videos; the others are linked, or copied where the file
        system cannot link. Returns the number of clips.

        Args:
            tasks: of the videos that are not broken.
            with_videos: False leaves them out, with their column.
        """
        folder = self.path / table.split
        rows = [
            self._row(row, tasks[row[VIDEO_COLUMN]], folder, with_videos)
            for row in table.rows
            if row[VIDEO_COLUMN] in tasks
        ]
        if not rows:
            return 0
        for name, task in tasks.items() if with_videos else ():
            _link(task.source, folder / name)
        target = folder / table.path.name.lower()
        if target.suffix == ".csv":
            write_csv(target, list(dict.fromkeys(name for row in rows for name in row)), rows)
        else:
            write_json_lines(target, rows)
        return len(rows)

    @staticmethod
    def _row(row: dict[str, Any], task: PoseTask, folder: Path, with_videos: bool) -> dict[str, Any]:
        video = {VIDEO_COLUMN: row[VIDEO_COLUMN]} if with_videos else {}
        others = {name: value for name, value in row.items() if name != VIDEO_COLUMN}
        return {**video, POSES_COLUMN: task.target.relative_to(folder).as_posix(), **others}

    def _key(self, task: PoseTask) -> str:
        return task.target.relative_to(self.path).as_posix()


def _state(task: PoseTask) -> list[Any]:
    """Changes whenever the video, its poses or the parts that are needed change; JSON-serializable."""
    parts = None if task.parts is None else [list(part) for part in task.parts]
    return [parts, state_of_file(task.source), state_of_file(task.target)]


def _seconds(value: Any) -> float | None:
    return None if value is None or not str(value).strip() else float(value)


def _link(source: Path, target: Path) -> None:
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
