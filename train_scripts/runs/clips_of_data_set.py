"""The clips of a split as flallm translate takes them: named, and read by their number wherever they are translated."""

import functools
import threading
from collections import Counter
from dataclasses import dataclass
from typing import Any

import datasets

from modeling_flallm.own_processing import Modality

from ..arguments.data_arguments import SENTENCE, DatasetArguments
from ..clips.clip_files import paths_of_clips
from ..clips.splits import load_split
from ..corpora.data_set_columns import TEXTS_OF_SHARDS

_LOCK = threading.Lock()


@dataclass(frozen=True)
class ClipOfDataSet:
    """
    A clip of a split, which each process opens itself: in another process or machine it takes a few words.

    Args:
        name: unlike that of any other clip of the split.
        index: in the split.
    """

    dataset: str
    split: str
    index: int
    name: str

    def __str__(self) -> str:
        return self.name

    def row(self) -> dict[str, Any]:
        """What the pipeline reads: the clip, where it begins and ends, and all other columns."""
        with _LOCK:
            rows = _open(self.dataset, self.split)
        return rows[self.index]


def clips_of_data_set(dataset: str, split: str, modality: Modality) -> list[ClipOfDataSet]:
    """
    Clips are called after their files, parts of a file with their seconds, and clips without a file, or with the name
    of another one, by their row.

    Raises:
        FileNotFoundError, ValueError: as `load_split`, and for a data set without clips that the model reads.
    """
    rows = _open(dataset, split)
    if modality.column not in rows.column_names:
        raise ValueError(
            f"The model reads {modality.words.clips}, and {dataset} ({split}) has no column `{modality.column}`, only "
            f"{rows.column_names}."
        )
    starts, ends = (rows[name] if name in rows.column_names else [None] * len(rows) for name in ("start", "end"))
    names = list(map(_name, paths_of_clips(rows, modality), starts, ends))
    counts = Counter(names)
    return [
        ClipOfDataSet(dataset, split, index, name if name and counts[name] == 1 else f"{name or 'clip'} (row {index})")
        for index, name in enumerate(names)
    ]


def _name(path: str | None, start: float | None, end: float | None) -> str:
    """ "" for a clip without a file."""
    if path is None or (start is None and end is None):
        return path or ""
    return f"{path} ({start or 0:g} to {'the end' if end is None else f'{end:g}'} s)"


@functools.lru_cache(maxsize=1)
def _open(dataset: str, split: str) -> datasets.Dataset:
    return load_split(DatasetArguments([dataset]), split, also_used=[SENTENCE, *TEXTS_OF_SHARDS], with_sentences=False)
