# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""Thins sequences in time evenly, whatever they hold, and pads them to a batch."""

from collections.abc import Sequence

import torch
from torch.nn.utils.rnn import pad_sequence


def evenly_spread(length: int, most: int | None) -> list[int]:
    """Return the indices of a sequence, thinned evenly from the first one on if it is longer than `most`."""
    if most is None or length <= most:
        return list(range(length))
    return [index * length // most for index in range(most)]


def padded_in_time(sequences: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad tensors (length, ...) with zeros to (batch, longest, ...), and return them with their int64 mask."""
    masks = [torch.ones(len(sequence), dtype=torch.long, device=sequence.device) for sequence in sequences]
    return pad_sequence(list(sequences), batch_first=True), pad_sequence(masks, batch_first=True)
