"""
Raw corpora as their owners publish them, read into `RawClip`s: `read_corpus("phoenix14t", folder)`.

Each kind of corpus is one file, `reader_KIND.py`, and needs no registration. It has one function:

    def read(folder: Path, videos: Path | None) -> RawCorpus

or, for people's own corpora, marked by `TAKES_TABLE = True`:

    def read(folder: Path, videos: Path | None, table: Path | None, columns: Mapping[str, str], tier: str | None)

A reader opens annotation files and checks that the videos exist; it never opens a video, and of features only the names
of the arrays in a file. Whatever it cannot turn into a clip, it lists as a `Problem` with file and line; nothing is
dropped silently. Names and links that would leave the
folder are refused. An unknown split stops the reading, so that no clip ends up in the wrong split.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from .corpus_schema import RawCorpus

PREFIX = "reader_"


def find_kinds() -> tuple[str, ...]:
    """The kinds of corpora, one per reader file."""
    names = (module.name for module in pkgutil.iter_modules(importlib.import_module(__package__).__path__))
    return tuple(sorted(name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX)))


KINDS = find_kinds()


def read_corpus(
    kind: str,
    folder: Path,
    videos: Path | None = None,
    table: Path | None = None,
    columns: Mapping[str, str] | None = None,
    tier: str | None = None,
) -> RawCorpus:
    """
    Read all clips of a corpus and everything that is wrong with it. Names of clips contain no `/` or `\\`, and are
    unique within their split.

    Args:
        kind: one of `KINDS`.
        videos: folder of the videos, frame folders or features, if they are not in their usual place below `folder`.
        table: the file to read, for kinds that take tables, if `folder` holds more than one.
        columns: for these kinds, the names of our columns `TABLE_COLUMNS` in the file, such as `{"text": "Satz"}`.
        tier: for ELAN annotations with several tiers, the one that holds the sentences.

    Raises:
        FileNotFoundError: for a missing folder or annotation file, saying what was expected where.
        ValueError: for an unknown kind, an unexpected kind of annotation file, a split or column that is not
            understood, links that leave the folder, or options that do not apply.
    """
    if kind not in KINDS:
        raise ValueError(f"The kind of corpus must be one of {', '.join(KINDS)}, got {kind!r}.")
    for path in (folder, videos):
        if path is not None and not path.is_dir():
            raise FileNotFoundError(f"{path} must be a folder, but it is not there.")
    reader = _reader_of(kind)
    if _takes_table(reader):
        return reader.read(folder, videos, table, columns or {}, tier)
    if table is not None or columns or tier is not None:
        taking = [kind for kind in KINDS if _takes_table(_reader_of(kind))]
        kinds = f"{', '.join(taking[:-1])} and {taking[-1]}"
        raise ValueError(f"Only {kinds} take a table, column names and a tier, got kind {kind!r}.")
    return reader.read(folder, videos)


def _reader_of(kind: str) -> ModuleType:
    return importlib.import_module(f".{PREFIX}{kind}", __package__)


def _takes_table(reader: ModuleType) -> bool:
    return getattr(reader, "TAKES_TABLE", False)


def __getattr__(name: str) -> Any:
    """Callers can import `VIDEO_SUFFIXES` from here, while `--help`, which lists the kinds, imports nothing slow."""
    if name == "VIDEO_SUFFIXES":
        return importlib.import_module("modeling_flallm.own_processing").VIDEO_SUFFIXES
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
