"""Where the features of a clip are, by its name: in a file of their own, or in an array of a file of many clips."""

import functools
import os
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import ClassVar

from modeling_flallm.own_processing import VIDEO_SUFFIXES

from .corpus_files import FilesBelow, same_name, split_above
from .corpus_schema import Problem
from .corpus_tables import RowError, shown_path, split_of
from .feature_sources import (
    CONTAINER_SUFFIXES,
    HDF5_SUFFIXES,
    SOURCE_SUFFIXES,
    TORCH_ADVICE,
    TORCH_SUFFIXES,
    arrays_in,
    clip_names,
    import_h5py,
    suffix_of,
)
from .prepared_videos import ClipError

# What SpaMo (Hwang et al., 2025) adds to names: for features of two sizes, and of windows that share so many frames.
POSTFIX = re.compile(r"(.+)(_s2wrapping|_overlap-\d+)")
Place = tuple[Path, str | None]  # a file, and the array in it


class FeatureFolder:
    """
    All files of features below a folder.

    Attributes:
        what: is in the files.
        suffixes: of the files that are read; `containers`: of those that may hold several clips.
        problems: links and folders that are not followed.

    Raises:
        FileNotFoundError: if there are none.
        ValueError: if all of them are of a kind that is not read.
    """

    what: ClassVar[str] = "features"
    suffixes: ClassVar[tuple[str, ...]] = SOURCE_SUFFIXES
    containers: ClassVar[tuple[str, ...]] = CONTAINER_SUFFIXES

    def __init__(self, folder: Path):
        self.folder = folder
        self._files = FilesBelow(folder, self.suffix_of)
        self.problems: list[Problem] = list(self._files.problems)
        self._check()
        self._without_postfix: dict[str, list[Path]] = defaultdict(list)
        for stem, paths in self._files.by_stem.items():
            if match := POSTFIX.fullmatch(stem):
                self._without_postfix[match[1]] += paths
        self._used: dict[Path, set[str | None]] = defaultdict(set)
        self._unreadable: dict[Path, str] = {}
        self.postfixes: Counter[str] = Counter()

    def suffix_of(self, path: Path) -> str:
        """The suffix of a file that may hold clips; empty for others."""
        return suffix_of(path)

    def names_in(self, path: Path) -> dict[str, str]:
        """
        What the clips in a file of several may be called, and their arrays.

        Raises:
            ClipError: for a file that cannot be read.
        """
        return clip_names(arrays_in(path))

    def check_any(self) -> None:
        """
        Raises:
            FileNotFoundError: if there is no file.
        """
        if not self._files.clips():
            raise FileNotFoundError(
                f"There is no file of {self.what} ({', '.join(self.suffixes)}) below {self.folder}. Name the folder "
                "that holds them with --videos."
            )

    def _check(self) -> None:
        self.check_any()
        suffixes = {suffix_of(path) for path in self._files.clips()}
        if suffixes <= set(TORCH_SUFFIXES):
            raise ValueError(f"{shown_path(self._files.clips()[0], self.folder)}: {TORCH_ADVICE}")
        if suffixes & set(HDF5_SUFFIXES):
            import_h5py()

    def find(self, name: str, split: str | None) -> Place:
        """
        The place of the features of a clip, which counts as used.

        Args:
            split: of the clip, if its table names it. Features of another split are refused unless the name is a path:
                many corpora number the clips of each split from 1.

        Raises:
            RowError: if there are none, or several.
        """
        place = self.look_for(name, split)
        if place is None:
            raise RowError(f"there is no file of {self.what} {name!r}, nor an array of that name in any of them")
        return place

    def look_for(self, name: str, split: str | None) -> Place | None:
        """As `find`, but returns None if there are none."""
        place = self._file(name, split) or self._array_of_file(name, split) or self._array(name, split)
        if place is None:
            return None
        path, array = place
        if self.suffix_of(path) in TORCH_SUFFIXES:
            self._used[path].add(None)
            raise RowError(f"{shown_path(path, self.folder)}: {TORCH_ADVICE}")
        if not os.path.exists(path):
            raise RowError(f"{shown_path(path, self.folder)} is a broken link")
        self._used[path].add(array)
        return place

    def split_of(self, place: Place) -> str | None:
        """The split after which a folder above a file or, if it holds many clips, a part of its name is named."""
        path, array = place
        parts = {split for part in re.split(r"[._-]", path.name) if array and (split := split_of(part))}
        return split_above(path, self.folder) or (parts.pop() if len(parts) == 1 else None)

    def unused(self, tables: str) -> list[Problem]:
        """Files and arrays from which no clip is made; `tables` are those whose rows should name them."""
        unused = {}
        if any(array for arrays in self._used.values() for array in arrays):
            arrays: dict[Path, dict[str, None]] = defaultdict(dict)
            for path, array in (place for places in self._places.values() for place in places):
                if path in self._used and not {None, array} & self._used[path]:
                    arrays[path][array] = None
            unused |= {
                path: f"{len(names)} of its arrays, such as {next(iter(names))!r}" for path, names in arrays.items()
            }
        unused |= {path: "this file" for path in self._files.clips() if path not in self._used}
        why = {path: f"no clip is made from {what}: no valid row of {tables} names it" for path, what in unused.items()}
        return [Problem(self._shown(path), self._unreadable.get(path, text)) for path, text in why.items()]

    def _shown(self, path: Path) -> str:
        return shown_path(path, self.folder)

    def _file(self, name: str, split: str | None) -> Place | None:
        """By its path below the folder or its name, with or without suffix."""
        for spelling in _spellings(name):
            key = same_name(os.path.normpath(spelling))
            paths = [path for path in self._files.matches(key) if self.suffix_of(path)]
            postfixed = [] if paths else self._without_postfix.get(key.rpartition("/")[2], [])
            places = [(path, None) for path in paths or postfixed]
            if found := self._the_one(places, name, None if "/" in key else split):
                self.postfixes.update(POSTFIX.fullmatch(found[0].stem)[2] for _ in postfixed[:1])
                return found
        return None

    def _array_of_file(self, name: str, split: str | None) -> Place | None:
        """`clips.h5#name`"""
        file, mark, array = name.partition("#")
        found = self._file(file, split) if mark else None
        places = self._places.get(array, []) if found else []
        return self._the_one([place for place in places if place[0] == found[0]], name, None)

    def _array(self, name: str, split: str | None) -> Place | None:
        """By its whole name in a file of many clips, or by the last part of it."""
        found = (self._the_one(self._places.get(spelling, []), name, split) for spelling in _spellings(name))
        return next(filter(None, found), None)

    @functools.cached_property
    def _places(self) -> dict[str, list[Place]]:
        """The arrays of all files that may hold several, by their names; opened only if a clip has no file alone."""
        places: dict[str, list[Place]] = defaultdict(list)
        for path in self._files.clips():
            if self.suffix_of(path) not in self.containers:
                continue
            try:
                names = self.names_in(path)
            except ClipError as error:
                self._unreadable[path] = str(error)
                continue
            for name, array in names.items():
                for each in dict.fromkeys((name, name.rpartition("/")[2])):
                    places[each].append((path, array))
        return places

    def _the_one(self, places: list[Place], name: str, split: str | None) -> Place | None:
        places = list(dict.fromkeys(places))
        fitting = [place for place in places if split is None or self.split_of(place) in (None, split)]
        if places and not fitting:
            raise RowError(
                f"{self._shown(places[0][0])} is of the split {self.split_of(places[0])}, but this clip of {split}: "
                f"correct the split, or write the path of its {self.what} into the table"
            )
        own = [place for place in fitting if self.split_of(place) == split]
        places = own if len(fitting) > 1 and own else fitting
        if len(places) > 1:
            shown = " and ".join("#".join(filter(None, (self._shown(path), array))) for path, array in places[:2])
            raise RowError(
                f"{len(places)} places hold {self.what} of {name!r}, such as {shown}: name the folder of those that "
                "are meant with --videos, or write their paths into the table"
            )
        return places[0] if places else None


def _spellings(name: str) -> list[str]:
    """A name, and what it is without the suffix of a video, which a table may name instead of its features."""
    suffix = next((each for each in VIDEO_SUFFIXES if name.lower().endswith(each)), "")
    return list(dict.fromkeys((name, name[: len(name) - len(suffix)])))
