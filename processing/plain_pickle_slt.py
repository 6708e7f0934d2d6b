# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""
Reads labels, features and poses that other projects store as pickles, refusing every class. The only file that
unpickles anything.
"""

import gzip
import io
import pickle
import sys
import zlib
from pathlib import Path
from typing import Any

UnpicklingError = pickle.UnpicklingError
MOST_BYTES = 1 << 30  # the largest known one, PHOENIX14T's training labels, unpacks to 51 MB
GZIP_START = b"\x1f\x8b"


# The pure-Python unpickler: the C one allocates memory for any size a file states, 64 GB for a file of 7 bytes.
class PlainUnpickler(pickle._Unpickler):
    """Builds dictionaries, lists, tuples, sets, strings and numbers; refuses anything else a pickle asks for."""

    expected = "plain dictionaries, lists, strings and numbers"

    def load_bytearray8(self) -> None:
        """As read-only bytes, of which no more are made than the file has."""
        size = int.from_bytes(self.read(8), "little")
        content = self.read(min(size, sys.maxsize))
        if len(content) != size:
            raise UnpicklingError(f"it ends before the {size} bytes that it states")
        self.append(content)

    dispatch = pickle._Unpickler.dispatch | {pickle.BYTEARRAY8[0]: load_bytearray8}

    def find_class(self, module_name: str, global_name: str) -> Any:
        raise UnpicklingError(f"it asks for {module_name}.{global_name}, which could run code")


def read_plain_pickle(
    path: Path, most_bytes: int = MOST_BYTES, unpickler: type[PlainUnpickler] = PlainUnpickler
) -> Any:
    """
    The content of a pickle of plain containers, gzipped or not, and of what else the `unpickler` builds.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: for anything that is not such a pickle, or is larger than `most_bytes` when unpacked.
    """
    content = _unpacked(path, most_bytes)
    try:
        return unpickler(io.BytesIO(content), encoding="utf-8").load()
    except Exception as error:  # broken pickles can raise almost anything, from IndexError to RecursionError
        raise ValueError(f"{path} must be a pickle of {unpickler.expected}, but {_reason(error)}.") from error


def _unpacked(path: Path, most_bytes: int) -> bytes:
    with path.open("rb") as file:
        is_packed = file.read(len(GZIP_START)) == GZIP_START
    content = bytearray()
    try:
        with gzip.open(path) if is_packed else path.open("rb") as file:
            while len(content) <= most_bytes and (part := file.read(1 << 20)):
                content += part
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is broken: {error}. Download it again.") from error
    if len(content) > most_bytes:
        raise ValueError(f"{path} unpacks to more than {most_bytes:,} bytes, more than any file of labels does.")
    return bytes(content)


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, UnpicklingError) else f"it is broken ({type(error).__name__}: {error})"
