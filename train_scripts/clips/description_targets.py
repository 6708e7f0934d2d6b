"""Descriptions of clips as targets of the frames that a training takes of them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from modeling_flallm.encoder_described_slt import DESCRIPTION_INPUTS

from .description_store import read_descriptions


class DescriptionTargets:
    """
    The descriptions of the clips of a split.

    Args:
        paths: of the file of each clip, as `join_descriptions` names it; None for clips without descriptions.
        width: of an embedding.
    """

    def __init__(self, paths: Sequence[str | None], width: int):
        self.paths = list(paths)
        self.width = width

    def of_clip(self, index: int, frames: Sequence[int], num_frames: int) -> dict[str, torch.Tensor]:
        """
        For frames of one clip, by their numbers: `description_embeddings` `(frames, width)`, 0 where there is no
        description, and `description_attention_mask` `(frames,)`, 1 for those that have one.

        Raises:
            ValueError: as `read_descriptions`, and for descriptions of a clip that does not have `num_frames`.
        """
        path, frames = self.paths[index], torch.tensor(frames, dtype=torch.long)
        embeddings, mask = torch.zeros(len(frames), self.width), torch.zeros_like(frames)
        if path is not None:
            found = read_descriptions(path)
            if found.num_frames != num_frames:
                raise ValueError(
                    f"{path} describes a clip of {found.num_frames} frames, but the clip has {num_frames}. Run "
                    "`flallm describe` again, or name the store of this data set for --descriptions."
                )
            starts, ends = found.frames.T.contiguous()
            places = torch.searchsorted(starts, frames, right=True) - 1
            is_described = (places >= 0) & (frames < ends[places]) if len(starts) else mask.bool()
            embeddings[is_described] = found.embeddings[places[is_described]]
            mask = is_described.long()
        return dict(zip(DESCRIPTION_INPUTS, (embeddings, mask), strict=True))


def padded_descriptions(items: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """What `of_clip` gives for each item, as a batch padded with 0; nothing for items without it."""
    names = [name for name in DESCRIPTION_INPUTS if name in items[0]]
    return {name: pad_sequence([item[name] for item in items], batch_first=True) for name in names}
