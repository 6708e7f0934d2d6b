"""
Visual features on disk, addressed by the digest of everything they depend on.

    <folder>/<digest of the settings>/settings.json, <digest of the content>.arrow, ...

A file of features is written under a temporary name, renamed when it is complete, and never changed; its name is its
digest, so that damage is noticed.
"""

import hashlib
import io
import json
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow
import torch
from accelerate import PartialState

from ..machine.atomic_files import LEAVINGS, write_bytes

SHARD_SCHEMA = pyarrow.schema({"key": pyarrow.string(), "features": pyarrow.binary()})
DAY_IN_SECONDS = 24 * 3600


class FeatureStore:
    """
    Features by their keys, in the folder of one group of settings; read from disk when they are requested.

    Args:
        width: number of values in a feature.
        settings: everything the features depend on apart from the clips, as JSON values.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], width: int, dtype: torch.dtype):
        text = json.dumps(settings, sort_keys=True, indent=2)
        self.folder = folder / _name_of_group(text.encode())
        self.width = width
        self.dtype = dtype
        self._rows: dict[str, tuple[Path, int]] = {}
        self._columns: dict[Path, pyarrow.ChunkedArray] = {}
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "settings.json").is_file():
            write_bytes(self.folder / "settings.json", text.encode())
        os.utime(self.folder / "settings.json")  # for `remove_unused`

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def __getitem__(self, key: str) -> torch.Tensor:
        """-> `(tokens, width)`"""
        path, row = self._rows[key]
        values = bytearray(self._column(path)[row].as_buffer())  # a writable copy
        return torch.frombuffer(values, dtype=self.dtype).view(-1, self.width)

    def count(self, key: str) -> int:
        """Number of features of a clip."""
        path, row = self._rows[key]
        return len(self._column(path)[row].as_buffer()) // (self.width * self.dtype.itemsize)

    def _column(self, path: Path) -> pyarrow.ChunkedArray:
        if path not in self._columns:
            self._columns[path] = _read_shard(path)["features"]
        return self._columns[path]

    def __getstate__(self) -> dict[str, Any]:
        """Open files are not pickled: another process opens them again."""
        return {**self.__dict__, "_columns": {}}

    def look_again(self) -> None:
        """Find new features, also of other processes. One process per machine first removes damaged ones."""
        if PartialState().is_local_main_process:
            self._remove_damaged()
        PartialState().wait_for_everyone()
        for path in self._unknown():
            with suppress(FileNotFoundError):  # another run may remove it
                keys = _read_shard(path)["key"].to_pylist()
                self._rows.update((key, (path, row)) for row, key in enumerate(keys))

    def _unknown(self) -> list[Path]:
        known = {path for path, _ in self._rows.values()}
        return sorted(set(self.folder.glob("*.arrow")) - known)

    def _remove_damaged(self) -> None:
        for path in self._unknown():
            with suppress(FileNotFoundError):
                if digest_of_file(path) != path.stem:
                    print(f"{path} is damaged: it is removed, and its features are computed again.")
                    path.unlink()

    def add(self, features: dict[str, torch.Tensor]) -> None:
        """Write `(tokens, width)` for each key into a new file."""
        values = [tokens.to(self.dtype).contiguous().view(torch.uint8) for tokens in features.values()]
        rows = {"key": list(features), "features": [tokens.numpy().tobytes() for tokens in values]}
        buffer = io.BytesIO()
        with pyarrow.ipc.new_file(buffer, SHARD_SCHEMA) as writer:
            writer.write_table(pyarrow.table(rows, schema=SHARD_SCHEMA))
        content = buffer.getvalue()
        write_bytes(self.folder / f"{hashlib.sha256(content).hexdigest()}.arrow", content)


def _read_shard(path: Path) -> pyarrow.Table:
    """Memory-mapped; the mapping outlives the open file."""
    with pyarrow.memory_map(str(path)) as source:
        return pyarrow.ipc.open_file(source).read_all()


def remove_unused(folder: Path, days: float) -> None:
    """Remove each group of features that no run has used for this many days, and report it."""
    for settings in folder.glob("*/settings.json"):
        with suppress(FileNotFoundError):  # another run may remove it, too
            unused = (time.time() - settings.stat().st_mtime) / DAY_IN_SECONDS
            # A folder of features is recognised by its name: `folder` may hold anything else.
            if unused > days and settings.parent.name == _name_of_group(settings.read_bytes()):
                shutil.rmtree(settings.parent)
                print(f"Removed the features in {settings.parent}: no run has used them for {unused:.0f} days.")


def remove_leavings(folder: Path) -> None:
    """Remove leftovers of runs that were killed while writing a file; no file takes a day to write."""
    for path in (*folder.glob(f"*/{LEAVINGS}"), *folder.glob("*/*.arrow.*.part")):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > DAY_IN_SECONDS:
                path.unlink()


def _name_of_group(settings: bytes) -> str:
    return hashlib.sha256(settings).hexdigest()[:32]


def digest_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
