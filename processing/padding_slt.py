# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""Pads sequences in time to a batch, whatever they hold."""

from collections.abc import Sequence

import torch
from torch.nn.utils.rnn import pad_sequence


def padded_in_time(sequences: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad tensors (length, ...) with zeros to (batch, longest, ...), and return them with their int64 mask."""
    masks = [torch.ones(len(sequence), dtype=torch.long, device=sequence.device) for sequence in sequences]
    return pad_sequence(list(sequences), batch_first=True), pad_sequence(masks, batch_first=True)
