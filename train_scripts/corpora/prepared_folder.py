"""The folder that a data set is written to; an interrupted run can be resumed in it."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..machine.atomic_files import LEAVINGS, write_json
from ..machine.kept_lines import append_lines, read_lines, state_of_file
from .corpus_schema import SPLITS
from .prepared_videos import ClipOutcome, ClipTask

STATE_FOLDER = ".preparation"
FINISHED_FILE = "finished.jsonl"


class OutputFolder:
    """
    The output folder, with what earlier runs have finished; inside its `with` block no other process may use it.

    Args:
        arguments: everything that determines the content; a folder can only be resumed with the same arguments.

    Raises:
        ValueError: if the folder holds anything else, was made with other arguments, or is in use by another process;
            nothing has been written in that case.
    """

    def __init__(self, path: Path, arguments: dict[str, Any]):
        self.path = path
        self.state = path / STATE_FOLDER
        self._check(arguments)
        self.state.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.state / "lock")
        with contextlib.suppress(NotImplementedError):  # on file systems without locks
            try:
                self._lock.acquire(timeout=0)
            except Timeout as error:
                raise ValueError(
                    f"Another flallm prepare is using --output_dir {self.path}. Wait until it has finished."
                ) from error
        self._remove_leavings()
        write_json(self.state / "arguments.json", arguments)
        self.finished = dict(self._read_finished())

    def __enter__(self) -> "OutputFolder":
        return self

    def __exit__(self, *_: object) -> None:
        self._remove_leavings()
        self._lock.release()

    def _remove_leavings(self) -> None:
        """Remove what processes left behind that were killed while writing a video or a table."""
        places = (self.path, *(self.path / split for split in SPLITS))
        leavings = [leaving for place in places for leaving in place.glob(LEAVINGS)]
        for leaving in [*leavings, *self.state.glob("*.partial")]:
            leaving.unlink(missing_ok=True)

    def _check(self, arguments: dict[str, Any]) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"--output_dir {self.path} is a file. Name a new or empty folder.")
        if not self.path.is_dir() or not any(self.path.iterdir()):
            return
        # A run that was killed right at the start leaves an empty state folder.
        saved_file = self.state / "arguments.json"
        is_new = [child.name for child in self.path.iterdir()] == [STATE_FOLDER] and not saved_file.exists()
        if is_new and not self.state.is_symlink():
            return
        try:
            saved = json.loads(saved_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            saved = None
        if not isinstance(saved, dict):
            raise ValueError(f"--output_dir {self.path} is not empty. Name a new folder, or remove this one.")
        links = [name for name in (STATE_FOLDER, *SPLITS) if (self.path / name).is_symlink()]
        if links:
            raise ValueError(f"--output_dir {self.path} holds a link instead of its folder {links[0]}. Name a new one.")
        for name, value in arguments.items():
            if saved.get(name) != value:
                raise ValueError(
                    f"--output_dir {self.path} was made with {name} {saved.get(name)!r}, not {value!r}. Resume with "
                    "the same arguments, or name a new folder."
                )

    def _read_finished(self) -> Iterator[tuple[str, dict[str, Any]]]:
        path = self.state / FINISHED_FILE
        for entry in read_lines(path) if path.exists() else ():
            yield entry["key"], entry

    def outcome_of(self, task: ClipTask) -> ClipOutcome | None:
        """What an earlier run found out about a file, if neither it nor its source has changed since."""
        entry = self.finished.get(task.key)
        if entry is None or entry["state"] != _state(task):
            return None
        lengths = [length if isinstance(length, str) else task.length_class(*length) for length in entry["lengths"]]
        return ClipOutcome(entry["how"], lengths)

    def remember(self, task: ClipTask, outcome: ClipOutcome) -> None:
        """Only existing files count as finished: broken ones are tried again, because they may have been repaired."""
        if outcome.how is None:
            return
        lengths = [length if isinstance(length, str) else astuple(length) for length in outcome.lengths]
        entry = {"key": task.key, "state": _state(task), "how": outcome.how, "lengths": lengths}
        self.finished[task.key] = entry
        append_lines(self.state / FINISHED_FILE, [entry])

    def remove_forgotten(self, kept: set[str]) -> None:
        """Delete files of earlier runs that the corpus no longer names."""
        for key in self.finished.keys() - kept:
            (self.path / key).unlink(missing_ok=True)


def _state(task: ClipTask) -> list[Any]:
    """Changes whenever a source, its file or the clips of it change; JSON-serializable."""
    files = [state_of_file(path) or "missing" for path in (task.source, task.target)]
    return [*map(list, task.intervals), *files, *task.settings]
