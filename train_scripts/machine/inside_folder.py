"""The one check on file names that come from other people's files: nothing outside a folder is read or uploaded."""

import functools
import os
from pathlib import Path, PurePosixPath, PureWindowsPath


def inside(folder: Path, name: str) -> Path:
    """
    The path of a file, existing or not, that a table, an index or a configuration names within its folder.

    Raises:
        ValueError: for an absolute path, a path that goes through `..`, a hidden file such as `.env` or a file in a
            hidden folder such as `.git`, and for a link that leads to one of these.
    """
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise ValueError(f"{name!r} is not the name of a file in {folder}. Correct the file that names it.")
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if parts[:1] == ("/",) or PureWindowsPath(name).drive or ".." in parts:
        raise ValueError(f"{name!r} would leave {folder}. Put the file into that folder, and name it from there.")
    path = folder / name
    target = _target(path)
    root = next((root for root in roots(folder) if target.is_relative_to(root)), None)
    if root is None:
        raise ValueError(f"{path} is a link to {target}, outside its folder. Put the file itself in its place.")
    if any(part.startswith(".") for part in (*parts, *target.relative_to(root).parts)):
        raise ValueError(f"{path} leads to the hidden {target}. Hidden files are neither read nor sent.")
    return path


def _target(path: Path) -> Path:
    try:
        target = path.resolve()
        if target.is_symlink():  # of circular links, Python 3.13 makes no error
            raise OSError("it is a link that leads back to itself")
        return target
    except (OSError, RuntimeError) as error:  # circular links, or a name that is too long
        raise ValueError(f"{path} cannot be read: {error}. Put the file itself in its place.") from error


def roots(folder: Path) -> list[Path]:
    """The folder; for a snapshot in the Hub's cache, whose files are links, also the folder they point into."""
    return _roots(folder.absolute())  # a relative path means another folder once the process has changed its own


@functools.lru_cache(maxsize=100)  # a table names thousands of files in one folder
def _roots(folder: Path) -> list[Path]:
    root = folder.resolve()
    snapshot = next((path for path in (root, *root.parents) if path.parent.name == "snapshots"), None)
    return [root] if snapshot is None else [root, snapshot.parent.parent / "blobs"]


def is_also_outside(path: Path, folder: Path) -> bool:
    """Whether a file also has a hard link outside the folder: if so, it could be any file on this machine."""
    file = path.stat()
    if file.st_nlink == 1:
        return False
    others = (other.stat() for other in folder.rglob("*") if not other.is_symlink())
    return sum(os.path.samestat(file, other) for other in others) < file.st_nlink
