"""
Results that a command has finished so far, saved as they come, so that the same command can resume after them. Imports
nothing heavy.

The format is JSON lines. A line that was cut off by a kill or a full disk is ignored, and the next one starts after it.
"""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .atomic_files import write_text


def read_lines(path: Path) -> Iterator[Any]:
    """The values of all complete lines."""
    for line in path.read_bytes().split(b"\n"):
        try:
            yield json.loads(line)
        except ValueError:
            continue


def append_lines(path: Path, values: Iterable[Any]) -> None:
    """
    Raises:
        OSError: if the file cannot be written.
    """
    with path.open("a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.writelines(json.dumps(value).encode() + b"\n" for value in values)
        file.flush()
        os.fsync(file.fileno())


def state_of_file(path: Path) -> list[int] | None:
    """A value that changes whenever the file does; `None` if there is no file. JSON-serializable."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


class KeptLines:
    """
    A file whose first line holds the settings that all following lines depend on. It is created with the first line.

    Args:
        settings: JSON values.
        what: what the file holds, for error messages.

    Raises:
        ValueError: if the file exists and its settings cannot be read.
    """

    def __init__(self, path: Path, settings: dict[str, Any], what: str):
        self.path = path
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        self.lines: list[Any] = []
        self._settings_before: dict[str, Any] = self.settings
        self._is_begun = path.is_file()
        if self._is_begun:
            self._read(what)

    def _read(self, what: str) -> None:
        try:
            self._settings_before = dict(json.loads(self.path.read_bytes().split(b"\n")[0])["settings"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.path} cannot be read as {what}. Delete it to start over.") from error
        _, *self.lines = read_lines(self.path)

    def changed_settings(self) -> dict[str, tuple[Any, Any]]:
        """Old and new value of each setting that has changed since the file was created; `None` if it had none."""
        names = dict.fromkeys([*self.settings, *self._settings_before])
        values = {name: (self._settings_before.get(name), self.settings.get(name)) for name in names}
        return {name: (before, now) for name, (before, now) in values.items() if before != now}

    def forget(self) -> None:
        """Start a new file with the next line."""
        self.lines, self._is_begun = [], False

    def append(self, *values: Any) -> None:
        if not self._is_begun:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.path, json.dumps({"settings": self.settings}) + "\n")
            self._is_begun = True
        append_lines(self.path, values)

    def delete(self) -> None:
        """Call this once the results are written."""
        self.path.unlink(missing_ok=True)
