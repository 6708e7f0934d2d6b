"""
Atomic writes: a file is either complete or absent, however the writing process ends. Imports nothing heavy.

Each file is written next to its destination and then renamed into place. Readers see either the old content or the new,
never half of either, and a full disk destroys nothing that was there before.
"""

import contextlib
import csv
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

LEAVINGS = ".flallm-*.partial"  # left behind by a process that was killed while writing; safe to delete


@contextlib.contextmanager
def open_atomic(path: str | Path, mode: str = "w", newline: str | None = "\n") -> Iterator[IO[Any]]:
    """
    Open a file for writing, as UTF-8 text or in mode "wb". At the end of the block it replaces `path` and keeps the old
    file's permissions; after an error `path` is unchanged. A symbolic link stays, and its target is replaced.

    Raises:
        OSError: if the file cannot be written; the error names `path`.
    """
    path = Path(path).resolve()
    text_options = {} if "b" in mode else {"encoding": "utf-8", "newline": newline}
    if path.exists() and not path.is_file():  # a pipe or a terminal, which cannot be replaced
        with path.open(mode, **text_options) as file:
            yield file
        return
    unfinished = path.with_name(f".flallm-{secrets.token_hex(8)}.partial")
    try:
        with unfinished.open(mode.replace("w", "x"), **text_options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, unfinished)
        os.replace(unfinished, path)
    except OSError as error:
        if error.filename in (None, str(unfinished)):
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise
    finally:
        unfinished.unlink(missing_ok=True)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Like `open_atomic`."""
    with open_atomic(path, "wb") as file:
        file.write(content)


def write_text(path: str | Path, text: str, newline: str | None = "\n") -> None:
    """Like `open_atomic`; `newline` as in `open`: "" keeps the line ends of the text."""
    with open_atomic(path, newline=newline) as file:
        file.write(text)


def write_json(path: str | Path, value: Any, **options: Any) -> None:
    """Like `open_atomic`; `options` go to `json.dumps`. By default the output is indented and not ASCII-escaped."""
    write_text(path, json.dumps(value, **{"indent": 2, "ensure_ascii": False, **options}) + "\n")


def write_json_lines(path: str | Path, values: Iterable[Any]) -> None:
    """Like `open_atomic`, one value per line."""
    with open_atomic(path) as file:
        file.writelines(json.dumps(value, ensure_ascii=False) + "\n" for value in values)


def write_csv(path: str | Path, columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    """Like `open_atomic`; a column that a row lacks is left empty."""
    with open_atomic(path, newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def unfinished_folder(path: Path) -> Path:
    """Where `write_folder` fills `path`: inside it if it exists, because it may be a separate file system."""
    return path / ".flallm-folder.partial" if path.is_dir() else path.with_name(f".flallm-{path.name}.partial")


def holds_something(folder: Path) -> bool:
    """Ignores the leftovers of killed processes, which `write_folder` replaces."""
    if unfinished_folder(folder).is_dir():
        return False
    return any(not path.match(LEAVINGS) for path in folder.iterdir())


def write_folder(path: str | Path, fill: Callable[[Path], None]) -> None:
    """
    Create a folder atomically, or fill an empty one: `fill` writes into a temporary folder, which is then renamed, or
    whose content is moved. Leftovers of an earlier call that was killed are deleted first.

    Raises:
        ValueError: if `path` holds anything except such leftovers.
        OSError: if it cannot be written.
    """
    path = Path(path).resolve()
    if path.is_dir() and holds_something(path):
        raise ValueError(f"{path} must be a new or empty folder, but it is not empty. Name another, or remove it.")
    unfinished = unfinished_folder(path)
    _remove(unfinished)
    try:
        unfinished.mkdir(parents=True)
        fill(unfinished)
        if not path.is_dir():
            os.replace(unfinished, path)
            return
        for entry in unfinished.iterdir():
            _remove(path / entry.name)
            os.replace(entry, path / entry.name)
        for leaving in path.glob(LEAVINGS):
            _remove(leaving)
    finally:
        _remove(unfinished)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
