"""Descriptions of clips as targets of the frames that a training takes of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from modeling_flallm.encoder_described_slt import DESCRIPTION_INPUTS

from .description_store import read_descriptions


@dataclass(frozen=True)
class DescriptionScale:
    """
    What embeddings are measured from, and in: targets are `(embedding - mean) / spread`.

    Embeddings of descriptions are alike, and as long as their text encoder makes them: elements of one of length 1 and
    width 384 are around 0.05, far below what a new mapper answers. Scaled ones were learned in fewer steps (ours;
    MMSLT's code takes those of BERT as they are).

    Args:
        mean: `(width,)`, float32, over the descriptions of the training clips.
        spread: root mean square of an element's distance from it.
    """

    mean: torch.Tensor
    spread: float

    @classmethod
    def of(cls, paths: Sequence[str | None], width: int) -> "DescriptionScale":
        """
        Of the descriptions in files of `join_descriptions`; without any, 0 and 1.

        Raises:
            ValueError: as `read_descriptions`.
        """
        count, total, squares = 0, torch.zeros(width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64)
        for path in dict.fromkeys(path for path in paths if path is not None):
            embeddings = read_descriptions(path).embeddings.double()
            count += len(embeddings)
            total += embeddings.sum(0)
            squares += embeddings.square().sum(0)
        mean = total / max(count, 1)
        variance = (squares / max(count, 1) - mean.square()).clamp(min=0).mean().item()
        return cls(mean.float(), variance**0.5 or 1.0)


class DescriptionTargets:
    """
    The descriptions of the clips of a split.

    Args:
        paths: of the file of each clip, as `join_descriptions` names it; None for clips without descriptions.
        scale: of the training clips, also for other splits.
    """

    def __init__(self, paths: Sequence[str | None], scale: DescriptionScale):
        self.paths = list(paths)
        self.scale = scale

    def of_clip(self, index: int, frames: Sequence[int], num_frames: int) -> dict[str, torch.Tensor]:
        """
        For frames of one clip, by their numbers: `description_embeddings` `(frames, width)`, scaled, and 0 where there
        is no description, and `description_attention_mask` `(frames,)`, 1 for those that have one.

        Raises:
            ValueError: as `read_descriptions`, and for descriptions of a clip that does not have `num_frames`.
        """
        path, frames = self.paths[index], torch.tensor(frames, dtype=torch.long)
        embeddings, mask = torch.zeros(len(frames), len(self.scale.mean)), torch.zeros_like(frames)
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
            scaled = (found.embeddings - self.scale.mean) / self.scale.spread
            embeddings[is_described] = scaled[places[is_described]]
            mask = is_described.long()
        return dict(zip(DESCRIPTION_INPUTS, (embeddings, mask), strict=True))


def padded_descriptions(items: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """What `of_clip` gives for each item, as a batch padded with 0; nothing for items without it."""
    names = [name for name in DESCRIPTION_INPUTS if name in items[0]]
    return {name: pad_sequence([item[name] for item in items], batch_first=True) for name in names}
