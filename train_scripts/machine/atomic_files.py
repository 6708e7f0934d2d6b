"""
Files that are whole or not there, however the process that writes them ends. Imports nothing heavy.

Each is written beside its place and then renamed into it, so that a reader sees the old content or the new one, never
half of either, and a full disk costs nothing that was there before.
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

LEAVINGS = ".flallm-*.partial"  # what stays of a process that was killed while it wrote; nobody misses it


@contextlib.contextmanager
def open_atomic(path: str | Path, mode: str = "w", newline: str | None = "\n") -> Iterator[IO[Any]]:
    """
    A file to write, as UTF-8 text or in mode "wb": at the end of the block it takes the place of `path` and the old
    file's permissions; after an error `path` is as it was. What a link names is written, and the link stays.

    Raises:
        OSError: if it cannot be written; it names `path`.
    """
    path = Path(path).resolve()
    text_options = {} if "b" in mode else {"encoding": "utf-8", "newline": newline}
    if path.exists() and not path.is_file():  # a pipe or a terminal, which nothing can take the place of
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
    """As `open_atomic`."""
    with open_atomic(path, "wb") as file:
        file.write(content)


def write_text(path: str | Path, text: str, newline: str | None = "\n") -> None:
    """As `open_atomic`; `newline` as `open` has it, "" for text whose line ends are to stay."""
    with open_atomic(path, newline=newline) as file:
        file.write(text)


def write_json(path: str | Path, value: Any, **options: Any) -> None:
    """As `open_atomic`; `options` of `json.dumps`, by default readable and not escaped."""
    write_text(path, json.dumps(value, **{"indent": 2, "ensure_ascii": False, **options}) + "\n")


def write_json_lines(path: str | Path, values: Iterable[Any]) -> None:
    """As `open_atomic`, one value a line."""
    with open_atomic(path) as file:
        file.writelines(json.dumps(value, ensure_ascii=False) + "\n" for value in values)


def write_csv(path: str | Path, columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    """As `open_atomic`; a row without a column has an empty cell there."""
    with open_atomic(path, newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def unfinished_folder(path: Path) -> Path:
    """Where `write_folder` fills what becomes `path`: within it if it is there, as it may be another file system."""
    return path / ".flallm-folder.partial" if path.is_dir() else path.with_name(f".flallm-{path.name}.partial")


def holds_something(folder: Path) -> bool:
    """But for what killed processes have left, which `write_folder` replaces."""
    if unfinished_folder(folder).is_dir():
        return False
    return any(not path.match(LEAVINGS) for path in folder.iterdir())


def write_folder(path: str | Path, fill: Callable[[Path], None]) -> None:
    """
    A new folder that is whole or not there, or the content of an empty one: `fill` writes into another folder, which
    is then renamed, or whose content is moved. What an earlier call left that was killed is deleted first.

    Raises:
        ValueError: if `path` holds anything but leavings.
        OSError: if it cannot be written.
    """
    path = Path(path).resolve()
    if path.is_dir() and holds_something(path):
        raise ValueError(f"{path} must be a new or empty folder, and it holds something. Name another, or remove it.")
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
