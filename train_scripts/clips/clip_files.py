"""Files that hold one tensor or more for each clip of a data set: their names, and what their headers say."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import datasets
from safetensors import SafetensorError, safe_open

from modeling_flallm.own_processing import Modality

from .hub_data_sets import without_bytes

LONGEST_STEM = 200  # characters of a file name; file systems take 255 bytes


def paths_of_clips(clips: datasets.Dataset, modality: Modality | type[Modality]) -> list[str | None]:
    """The names of the files that the clips are in or parts of; None for arrays, and bytes without a name."""
    if modality.datasets_type is not None:
        return [file["path"] for file in without_bytes(clips, modality.column)]
    return [modality.path_of(row[modality.column]) for row in clips.select_columns(modality.column)]


def file_names(paths: Sequence[str | None]) -> list[str]:
    """After the files of the clips; parts of a file, and files of the same name, get their number in the split."""
    stems = [re.sub(r"[^\w.-]+", "_", Path(path or "clip").stem).strip(".")[:LONGEST_STEM] or "clip" for path in paths]
    counts = Counter(stem.casefold() for stem in stems)
    numbered = [f"{stem}_{number:06d}" for number, stem in enumerate(stems)]
    names = [one if counts[one.casefold()] == 1 else other for one, other in zip(stems, numbered, strict=True)]
    if len({name.casefold() for name in names}) < len(names):
        names = numbered
    return [f"{name}.safetensors" for name in names]


def read_header(path: Path) -> dict[str, str]:
    """Of a file that is complete; empty for others, which are written anew."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError):
        return {}
