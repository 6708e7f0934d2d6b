"""Files of ready-made features as other projects publish them: which arrays they hold, and one array of them."""

import functools
import importlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from modeling_flallm.own_processing import array_files, feature_files, read_array_pickle

from .prepared_videos import FATAL_ERRORS, ClipError

HDF5_SUFFIXES = (".h5", ".hdf5")
PICKLE_SUFFIXES = (".pkl", ".pickle", ".pkl.gz", ".pickle.gz")
SOURCE_SUFFIXES = (*feature_files.FEATURE_SUFFIXES, *HDF5_SUFFIXES, *PICKLE_SUFFIXES)
CONTAINER_SUFFIXES = (*array_files.FILES_OF_SEVERAL, *HDF5_SUFFIXES, *PICKLE_SUFFIXES)
# Their metadata can say how many features there are per second.
SUFFIXES_WITH_RATE = (".safetensors", *HDF5_SUFFIXES)
TORCH_SUFFIXES = (".pt", ".pth")
TORCH_ADVICE = (
    "files of torch.save are pickles, which could run code, and are not read. Convert them where you trust them: "
    "numpy.save('clip.npy', torch.load('clip.pt', weights_only=True).float().numpy())"
)


def suffix_of(path: Path) -> str:
    """The suffix of a file of features, in lower case; empty for other files."""
    name = path.name.lower()
    fitting = [suffix for suffix in (*SOURCE_SUFFIXES, *TORCH_SUFFIXES) if name.endswith(suffix)]
    return "" if name.startswith(".") else max(fitting, key=len, default="")


def import_h5py() -> ModuleType:
    """
    Raises:
        ValueError: if it is not installed.
    """
    try:
        return importlib.import_module("h5py")
    except ImportError as error:
        raise ValueError('HDF5 files are read with h5py: pip install "flallm[features]".') from error


def arrays_in(path: Path) -> list[str]:
    """
    The names of the arrays of a file that may hold several: `video/clip` for one in a group or an inner dictionary.

    Raises:
        ClipError: for a file that cannot be read.
    """
    suffix = suffix_of(path)
    with _as_clip_errors(path):
        if suffix in HDF5_SUFFIXES:
            with import_h5py().File(path) as file:
                return _data_sets_of(file)
        if suffix in PICKLE_SUFFIXES:
            return list(_arrays_of_pickle(path))
        if suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return list(file.files)
        with safe_open(path, framework="pt") as file:
            return list(file.keys())


def clip_names(arrays: Sequence[str]) -> dict[str, str]:
    """
    What a clip may be called, and its array: by the whole name and, for an array alone in its group or with a usual
    name there (`clip/features`), by that of the group. What is beside an array with a usual name is no clip.
    """
    siblings = Counter(name.rpartition("/")[0] for name in arrays)
    usual = {f"{group}/{name}" if group else name for group in siblings for name in feature_files.USUAL_NAMES}
    groups_of_one_clip = {name.rpartition("/")[0] for name in usual.intersection(arrays)} - {""}
    names = {}
    for name in arrays:
        group = name.rpartition("/")[0]
        if group in groups_of_one_clip and name not in usual:
            continue
        names[name] = name
        if group and (siblings[group] == 1 or group in groups_of_one_clip):
            names.setdefault(group, name)
    return names


def read_array(path: Path, array: str | None) -> tuple[torch.Tensor, dict[str, str]]:
    """
    One array as it is, and the metadata of its file: of `.safetensors` all of it, of HDF5 the attribute
    `features_per_second`.

    Args:
        array: its name, if the file holds several.

    Raises:
        ClipError: for a file that cannot be read, and for an array that is not there.
    """
    suffix = suffix_of(path)
    with _as_clip_errors(path):
        if suffix in HDF5_SUFFIXES:
            return _read_hdf5(path, array)
        if suffix in PICKLE_SUFFIXES:
            arrays = _arrays_of_pickle(path)
            values = feature_files.load_visual_features(arrays[_chosen(list(arrays), array, path)])
            return values.float() if values.is_floating_point() else values, {}  # Python has float64 alone
        metadata = {}
        if suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
        return feature_files.load_visual_features(path if array is None else f"{path}#{array}"), metadata


@contextmanager
def _as_clip_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except ClipError:
        raise
    except ValueError as error:  # from code of ours, which names the file
        text = str(error)
        raise ClipError(text if str(path) in text else f"'{path}': {text}") from error
    except Exception as error:  # damaged HDF5 files can raise almost anything
        if isinstance(error, OSError) and error.errno in FATAL_ERRORS:
            raise
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ClipError(f"'{path}' cannot be read: {reason}.") from error


def _chosen(names: list[str], wanted: str | None, path: Path) -> str:
    """By the name of an array or, in a file of one clip, by what its arrays are usually called."""
    if wanted is None and len(names) > 1:
        usual = [name for name in names if name.rpartition("/")[2] in feature_files.USUAL_NAMES]
        names = usual if len(usual) == 1 else names
    return array_files.chosen_array(names, wanted, path, feature_files.USUAL_NAMES)


# HDF5


def _data_sets_of(file: Any) -> list[str]:
    """Their paths; links to other files, which could lead anywhere, are not followed."""
    data_set, found = import_h5py().Dataset, []
    file.visititems(lambda name, item: found.append(name) if isinstance(item, data_set) else None)
    return found


def _read_hdf5(path: Path, wanted: str | None) -> tuple[torch.Tensor, dict[str, str]]:
    h5py = import_h5py()
    with h5py.File(path) as file:
        data_set = file.get(_chosen(_data_sets_of(file), None, path) if wanted is None else wanted)
        if not isinstance(data_set, h5py.Dataset):
            raise ClipError(f"'{path}' must hold an array {wanted!r}, but does not.")
        if data_set.external or data_set.is_virtual:
            raise ClipError(f"'{path}' has {data_set.name} in other files, which are not read. Copy it into this one.")
        values = np.asarray(data_set[()])
        stated = [
            holder.attrs[feature_files.RATE_KEY]
            for holder in (data_set, data_set.parent, file)
            if feature_files.RATE_KEY in holder.attrs
        ]
    metadata = {feature_files.RATE_KEY: str(stated[0])} if stated else {}
    return feature_files.load_visual_features(values), metadata


# Pickles


def _arrays_of_pickle(path: Path) -> dict[str, Any]:
    return _read_pickle(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=1)  # one file holds many clips
def _read_pickle(path: Path, changed_at: int) -> dict[str, Any]:
    """
    Arrays and lists of numbers by the names of the dictionaries that they are in; one alone is called `features`.
    """
    try:
        content = read_array_pickle(path)
    except ValueError as error:
        raise ClipError(str(error)) from error
    if isinstance(content, list | tuple | np.ndarray):
        return {feature_files.USUAL_NAMES[1]: content}
    return dict(_lists_in(content, "")) if isinstance(content, Mapping) else {}


def _lists_in(content: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _lists_in(value, f"{prefix}{name}/")
        elif isinstance(value, np.ndarray) or (
            isinstance(value, list | tuple) and value and isinstance(value[0], list | tuple | np.ndarray)
        ):
            yield f"{prefix}{name}", value
