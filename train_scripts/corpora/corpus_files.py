"""
The files and folders of a raw corpus. Names match regardless of Unicode form and letter case, because macOS and Windows
change them. System files are skipped, and only what is inside the corpus folder is read.
"""

import functools
import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from modeling_flallm.own_processing import is_picture_file, is_video_file

from ..machine.inside_folder import roots
from .corpus_schema import Problem
from .corpus_tables import RowError, shown_path, split_of

# Folders that macOS, Windows and network drives add.
FOLDERS_OF_SYSTEMS = frozenset(
    ("__macosx", ".appledouble", ".trashes", ".spotlight-v100", ".fseventsd", "@eadir", "$recycle.bin", "lost+found")
)
OUTSIDE = (
    "is a link that leads out of the folder, and is not followed: name the folder it leads to with --videos, or "
    "replace it with a copy"
)


def is_of_a_system(name: str) -> bool:
    """Whether the operating system created this file or folder: `._clip.mp4`, `__MACOSX`"""
    return name.startswith("._") or name.casefold() in FOLDERS_OF_SYSTEMS


def same_name(name: str) -> str:
    """A normal form for comparing names that macOS or Windows treat as equal: composed and case-folded."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


@dataclass
class FilesBelow:
    """
    All files below a folder, indexed by path, by name and, for videos, by name without suffix. Each folder counts once,
    and links that lead out of the folder become problems.

    Args:
        suffix_of: the suffix of a video, or of other clips; empty for all other files.
    """

    folder: Path
    suffix_of: Callable[[Path], str] = lambda path: path.suffix if is_video_file(path) else ""
    problems: list[Problem] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.all: list[Path] = []
        self.by_path: dict[str, list[Path]] = defaultdict(list)
        self.by_name: dict[str, list[Path]] = defaultdict(list)
        self.by_stem: dict[str, list[Path]] = defaultdict(list)
        visited: set[tuple[int, int]] = set()
        for directory, folders, names in os.walk(self.folder, followlinks=True, onerror=self._not_listed):
            status = os.stat(directory)
            if (status.st_dev, status.st_ino) in visited:  # a link to a folder above or beside it
                folders.clear()
                continue
            visited.add((status.st_dev, status.st_ino))
            folders[:] = [name for name in folders if self._is_ours(Path(directory, name))]
            folders.sort(key=lambda name, directory=directory: (os.path.islink(os.path.join(directory, name)), name))
            for name in sorted(names):
                if self._is_ours(path := Path(directory, name)):
                    self._add(path)

    def _is_ours(self, path: Path) -> bool:
        if is_of_a_system(path.name):
            return False
        if os.path.islink(path) and leads_outside(path, self.folder):
            self.problems.append(Problem(shown_path(path, self.folder), OUTSIDE))
            return False
        return True

    def _add(self, path: Path) -> None:
        below = path.relative_to(self.folder)
        self.all.append(path)
        self.by_path[same_name(below.as_posix())].append(path)
        self.by_name[same_name(path.name)].append(path)
        if suffix := self.suffix_of(path):
            self.by_path[same_name(below.as_posix()[: -len(suffix)])].append(path)
            self.by_stem[same_name(path.name[: -len(suffix)])].append(path)

    def _not_listed(self, error: OSError) -> None:
        self.problems.append(Problem(str(error.filename), f"the folder cannot be listed: {error.strerror}"))

    def with_videos(self) -> "FilesBelow":
        if not self.by_stem:
            problems = "".join(f" {problem.where} {problem.what}." for problem in self.problems[:3])
            raise FileNotFoundError(
                f"There is no video below {self.folder}. Name the folder that holds them.{problems}"
            )
        return self

    def clips(self) -> list[Path]:
        """The files that hold clips."""
        return [path for paths in self.by_stem.values() for path in paths]

    def matches(self, key: str) -> list[Path]:
        """The files with this path or, if there are none, this name, with or without suffix; as `same_name` has it."""
        return self.by_path.get(key) or self.by_name.get(key) or self.by_stem.get(key, [])

    def the_one(self, name: str) -> Path:
        """The file with this name, which must exist exactly once; for annotation files."""
        paths = self.by_name.get(same_name(name), [])
        if not paths:
            raise FileNotFoundError(f"{name} is expected anywhere below {self.folder}, but is not there.")
        if len(paths) > 1:
            raise ValueError(f"{name} exists more than once: {', '.join(map(str, paths))}. Keep only one of them.")
        return needed_file(paths[0], self.folder)

    def find(self, name: str) -> Path | None:
        """A video by its path below the folder, or by its name, with or without suffix, if that is unique."""
        direct = self.folder / name
        if os.path.isfile(direct):
            check_inside(direct, self.folder)
            return direct
        paths = self.matches(same_name(os.path.normpath(name)))
        if not paths:
            return None
        if len(paths) > 1:
            paths = [path for path in paths if name in (path.name, path.stem)] or paths
        if len(paths) > 1:
            shown = " and ".join(shown_path(path, self.folder) for path in paths[:2])
            raise RowError(f"{len(paths)} files are named {name!r}, such as {shown}")
        if not os.path.isfile(paths[0]):
            raise RowError(f"{shown_path(paths[0], self.folder)} is a broken link")
        return paths[0]

    def one(self, name: str) -> Path:
        """Like `find`, but raises if there is no such video."""
        path = self.find(name)
        if path is None:
            raise RowError(f"there is no video {name!r} below {self.folder}")
        return path


def split_above(path: Path, folder: Path) -> str | None:
    """The split after which the nearest folder above is named."""
    parts = path.relative_to(folder).parts[-2::-1] if path.is_relative_to(folder) else ()
    return next(filter(None, map(split_of, parts)), None)


# Links


def leads_outside(path: Path, folder: Path) -> bool:
    """Whether a link in the path leads out of the folder."""
    target = Path(os.path.realpath(path))
    return not any(target.is_relative_to(root) for root in roots(folder))


def check_inside(path: Path, folder: Path) -> None:
    """
    Raises:
        RowError: for a path that leads out of the folder through a link.
    """
    if leads_outside(path, folder):
        raise RowError(f"{shown_path(path, folder)} {OUTSIDE}")


# Folders of pictures


def frame_folder(root: Path, name: str) -> Path:
    """
    The folder with the pictures of a clip, given by its path below the root.

    Raises:
        RowError: if it does not exist, holds no pictures, or if it or a picture is a link that leads out of the root.
    """
    path = _existing_folder(root, name)
    if not os.path.isdir(path):
        raise RowError(f"there is no folder of frames {path}")
    check_inside(path, root)
    if not num_pictures(path, root):
        raise RowError(f"the folder {path} holds no pictures")
    return path


def num_pictures(folder: Path, root: Path | None = None) -> int:
    """Number of pictures in a folder; if a root is given, none of them may be a link that leads out of it."""
    count = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_picture_file(entry.name):
                    count += 1
                    if root is not None and entry.is_symlink():
                        check_inside(Path(entry.path), root)
    except OSError as error:
        raise RowError(f"the folder {folder} cannot be listed: {error.strerror}") from error
    return count


def _existing_folder(root: Path, name: str) -> Path:
    """The folder at exactly this path, else the only one that differs from it just in Unicode form or letter case."""
    path = root / name
    if os.path.isdir(path):
        return path
    paths = [root]
    for part in path.relative_to(root).parts:
        paths = [folder / found for folder in paths for found in _names_in(folder).get(same_name(part), [])]
    folders = [folder for folder in paths if os.path.isdir(folder)]
    return folders[0] if len(folders) == 1 else path


def _names_in(folder: Path) -> dict[str, list[str]]:
    """The names in a folder, grouped by `same_name`; empty if it is not a folder."""
    return _names_in_folder(folder, os.stat(folder).st_mtime_ns) if os.path.isdir(folder) else {}


@functools.lru_cache(maxsize=64)
def _names_in_folder(folder: Path, changed_at: int) -> dict[str, list[str]]:
    names: dict[str, list[str]] = defaultdict(list)
    for name in os.listdir(folder):
        names[same_name(name)].append(name)
    return names


# Required files and folders


def needed_file(path: Path, folder: Path | None = None) -> Path:
    """The path of a file that must exist and, if a folder is given, must be inside it."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is expected, but is not there.")
    if folder is not None:
        check_inside(path, folder)
    return path


def root_with(folder: Path, places: Iterable[str], name: str) -> Path:
    """The first of these places below the folder that holds the file `name`."""
    candidates = [folder / place for place in places]
    root = next((root for root in candidates if (root / name).is_file()), None)
    if root is None:
        raise FileNotFoundError(f"{candidates[0] / name} is expected, but is not there.")
    return root


def folder_with_frames(folder: Path, places: tuple[str, ...]) -> Path:
    found = next((folder / place for place in places if (folder / place).is_dir()), None)
    if found is None:
        raise FileNotFoundError(f"The frames are expected in {folder / places[0]}, but it is not there.")
    check_inside(found, folder)
    return found
