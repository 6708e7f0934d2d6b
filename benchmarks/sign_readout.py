"""
How well features of single frames tell the signs of the rendered corpus apart: a ridge regression from the features of
a sign to its gloss, which is fitted to training clips and tested on signers that it never saw. It is a measurement, and
no model learns from it: the glosses, and the frames of each sign, are known only because the corpus is rendered.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from label_free_vit import crop_centre, read_frames
from torch.nn import functional

from train_scripts.arguments.corpus_arguments import CorpusArguments
from train_scripts.clips.clip_folders import read_metadata
from train_scripts.commands.generate_corpus import STREAMS, create_signers, signer_of_clip
from train_scripts.rendered_corpus.signing_renderer import find_signs

FRAMES_APART = 2
PENALTIES = (1.0, 10.0, 100.0, 1000.0)


@dataclass
class SignedClip:
    """Frames uint8 `(frames, 3, height, width)`, and the gloss and the frames of each sign"""

    frames: torch.Tensor
    signs: list[tuple[str, range]]


def read_signed_clips(corpus: Path, split: str, num_clips: int, seed: int, resolution: int) -> list[SignedClip]:
    """The first clips of a split of the corpus with this seed, at every second frame"""
    signers = create_signers(CorpusArguments(output_dir=str(corpus), seed=seed))
    rows = read_metadata(corpus / split, "text")[:num_clips]
    frames_of_clips = read_frames([corpus / split / row["file_name"] for row in rows], FRAMES_APART)
    clips = []
    for index, (row, frames) in enumerate(zip(rows, frames_of_clips, strict=True)):
        glosses, generator = row["gloss"].split(), np.random.default_rng((seed, STREAMS[split], index))
        places = find_signs(glosses, signer_of_clip(split, index, signers), resolution, generator)
        kept = [range(-(-place.start // FRAMES_APART), -(-place.stop // FRAMES_APART)) for place in places]
        clips.append(SignedClip(frames, list(zip(glosses, kept, strict=True))))
    return clips


@torch.no_grad()
def features_of_signs(
    clips: Sequence[SignedClip], features_of_frames: Callable[[torch.Tensor], torch.Tensor], mirrored: bool = False
) -> torch.Tensor:
    """
    -> `(signs, 2 * width)`: the mean over the first half of a sign's frames, and over the second, because some signs
    differ only in the direction of their movement
    """
    rows = []
    for clip in clips:
        frames = crop_centre(clip.frames)
        features = features_of_frames(frames.flip(-1) if mirrored else frames)
        for _, place in clip.signs:
            middle = (place.start + place.stop) // 2
            halves = features[place.start : middle], features[middle : place.stop]
            rows.append(torch.cat([half.mean(0) for half in halves]))
    return torch.stack(rows)


def ridge_predictions(train: torch.Tensor, labels: torch.Tensor, test: torch.Tensor, penalty: float) -> torch.Tensor:
    """The labels of the test rows, from a ridge regression of one-hot labels on standardised features"""
    mean, spread = train.mean(0), train.std(0) + 1e-6
    train, test = (functional.pad((rows - mean) / spread, (0, 1), value=1.0).double() for rows in (train, test))
    products = train.T @ train + penalty * torch.eye(train.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(products, train.T @ functional.one_hot(labels).double())
    return (test @ weights).argmax(1)


def share_of_signs_told(
    splits: dict[str, Sequence[SignedClip]], features_of_frames: Callable[[torch.Tensor], torch.Tensor]
) -> float:
    """
    The share of the test clips' signs that are told right. The training clips also count mirrored, as left-handed
    signers sign; the dev clips choose the penalty.
    """
    glosses = sorted({gloss for clips in splits.values() for clip in clips for gloss, _ in clip.signs})
    labels = {
        split: torch.tensor([glosses.index(gloss) for clip in clips for gloss, _ in clip.signs])
        for split, clips in splits.items()
    }
    features = {split: features_of_signs(clips, features_of_frames) for split, clips in splits.items()}
    train = torch.cat([features["train"], features_of_signs(splits["train"], features_of_frames, mirrored=True)])

    def share(split: str, penalty: float) -> float:
        predictions = ridge_predictions(train, labels["train"].repeat(2), features[split], penalty)
        return (predictions == labels[split]).float().mean().item()

    return share("test", max(PENALTIES, key=lambda penalty: share("dev", penalty)))
