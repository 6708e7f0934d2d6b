"""Clips in which nobody signs, to measure what a model guesses without them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from .data import SignClipDataset

NOISE, FROZEN = CONTROLS = ("noise", "frozen")


class ControlClips(Dataset):
    """
    Some clips of a data set with their sentences, each replaced by one of the same length, see `Modality.noise` and
    `Modality.frozen`. The random numbers of a clip depend only on its index.

    Args:
        control: "noise" or "frozen".
        indices: of the clips.
    """

    def __init__(self, dataset: SignClipDataset, control: str, indices: Sequence[int]):
        if control not in CONTROLS:
            raise ValueError(f"`control` must be {' or '.join(map(repr, CONTROLS))}, got {control!r}.")
        self.dataset, self.control, self.indices = dataset, control, list(indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> dict[str, Any]:
        index = self.indices[place]
        item, modality = self.dataset[index], self.dataset.modality
        if self.control == FROZEN:
            return modality.frozen(item)
        return modality.noise(item, torch.Generator().manual_seed(index))
