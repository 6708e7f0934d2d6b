"""Clips and their sentences as data sets for torch."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import datasets
import torch
from torch.utils.data import Dataset

from modeling_flallm.own_processing import ClipValues, FLaLLMProcessor, Modality, SampleIndices, num_array_dimensions

from ..arguments.encoder_arguments import advice_for_columns
from ..languages.target_languages import target_languages
from .augmentation import ClipAugmentation, MiddleFrames, item_seed
from .description_store import DESCRIPTIONS_COLUMN
from .description_targets import DescriptionScale, DescriptionTargets


class ClipReader:
    """What is used of a clip: as in evaluation or, with augmentation, drawn from a seed. See `Modality.item`."""

    def __init__(
        self,
        modality: Modality,
        augmentation: ClipAugmentation | MiddleFrames | None = None,
        preprocess_on_device: bool = False,
    ):
        self.modality = modality
        self.augmentation = augmentation
        self.preprocess_on_device = preprocess_on_device

    def __call__(
        self,
        read: Callable[[SampleIndices], torch.Tensor],
        seed: int,
        read_row: Callable[[], dict[str, Any]] = dict,
        targets_of: Callable[[list[int], int], dict[str, Any]] | None = None,
        is_mirrored: bool = False,
    ) -> dict[str, Any]:
        """
        Args:
            read: returns the requested indices of the clip, `(length, ...)`.
            read_row: returns the row of the clip, see `Modality.complete`.
            targets_of: returns what else the item holds of the requested indices, of a clip of this length.
            is_mirrored: mirror the clip, before augmentation, which may mirror it again.
        """
        taken: list[int] = []
        length_of_clip = 0

        def read_noted(sample: SampleIndices) -> torch.Tensor:
            def noted(length: int, rate: float | None) -> list[int]:
                nonlocal length_of_clip
                taken[:], length_of_clip = sample(length, rate), length
                return list(taken)

            values = read(noted)
            return self.modality.mirrored(values) if is_mirrored else values

        item = self._item(read_noted, seed)
        is_drawn = isinstance(self.augmentation, ClipAugmentation)
        item = self.modality.complete(item, taken, read_row, seed if is_drawn else None, is_mirrored)
        return item if targets_of is None else {**item, **targets_of(taken, length_of_clip)}

    def _item(self, read: Callable[[SampleIndices], torch.Tensor], seed: int) -> dict[str, Any]:
        if isinstance(self.augmentation, MiddleFrames):
            return self.modality.item(lambda sample: read(self.augmentation.instead_of(sample)))
        return self.modality.item(read, self.augmentation, seed, self.preprocess_on_device)

    def longest_length(self, length: int, rate: float | None = None) -> int:
        """The maximum number of frames or features used from a clip of this length and rate."""
        augmentation = None if isinstance(self.augmentation, MiddleFrames) else self.augmentation
        return self.modality.longest_length(length, augmentation, rate)


class RandomDataset(Dataset):
    """
    The random draws for an item depend only on `seed`, the epoch (`set_epoch`) and the index, not on the number of
    processes, workers or restarts.
    """

    def __init__(self, seed: int):
        self.seed = seed
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()  # worker processes see it too

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        self._epoch.fill_(epoch)

    def seed_of(self, index: int) -> int:
        """For the random draws of one item in this epoch."""
        return item_seed(self.seed, self.epoch, index)


class ClipDataset(RandomDataset):
    """
    Clips as a modality returns them, such as sampled uint8 frames `(frames, 3, height, width)`. See `ClipReader`.

    Args:
        mirror_left_handed: mirror the clips whose `handedness` is left.

    Raises:
        ValueError: for a data set without the clips that the model reads, and as `are_left_handed`.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        modality: Modality,
        augmentation: ClipAugmentation | MiddleFrames | None = None,
        keep_decoded_videos: bool = False,
        preprocess_on_device: bool = False,
        seed: int = 0,
        mirror_left_handed: bool = False,
    ):
        super().__init__(seed)
        self.modality = modality
        self.dataset = _checked_clips(dataset, modality)
        self.read_clip = ClipReader(modality, augmentation, preprocess_on_device)
        self.descriptions: DescriptionTargets | None = None
        self.are_mirrored = are_left_handed(dataset) if mirror_left_handed else [False] * len(dataset)
        self._decoded: dict[int, ClipValues] | None = {} if keep_decoded_videos else None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.clip_of(index, self.seed_of(index))

    def clip_of(self, index: int, seed: int) -> dict[str, Any]:
        """What `ClipReader` returns for a clip and a seed."""
        return self.read_clip(
            functools.partial(self._sampled_values, index),
            seed,
            functools.partial(self.dataset.__getitem__, index),
            None if self.descriptions is None else functools.partial(self.descriptions.of_clip, index),
            self.are_mirrored[index],
        )

    def forget_decoded_clips(self) -> None:
        """Free the memory of `keep_decoded_videos`."""
        if self._decoded is not None:
            self._decoded.clear()

    def longest_lengths(self, indices: Sequence[int] | None = None) -> list[int]:
        """
        The maximum number of frames or features of each clip, or of each of `indices`, after sampling and augmentation;
        nothing is decoded.
        """
        indices = range(len(self)) if indices is None else indices
        column = self.modality.length_column
        known = self.dataset[column] if column in self.dataset.column_names else [None] * len(self)
        counts = [int(known[index]) if known[index] else self.modality.count(self.dataset[index]) for index in indices]
        rates = [self.modality.rate(self.dataset[index]) if self.modality.knows_rates else None for index in indices]
        return [self.read_clip.longest_length(*each) for each in zip(counts, rates, strict=True)]

    def _sampled_values(self, index: int, sample: SampleIndices) -> torch.Tensor:
        """-> `(sampled length, ...)`"""
        if self._decoded is None:
            return self.modality.read(self.dataset[index], sample).values
        if index not in self._decoded:
            self._decoded[index] = self.modality.read(self.dataset[index])
        clip = self._decoded[index]
        return clip.values[sample(len(clip.values), clip.rate)]


class SignClipDataset(ClipDataset):
    """
    Clips with their sentences.

    A column `spoken_language` holds the language tag of each sentence; `target_language` is what a multilingual
    tokenizer calls it. With a `description_scale`, the column of `join_descriptions` names the descriptions of each
    clip, and items hold those of their frames, see `DescriptionTargets`.

    Raises:
        ValueError: for a language that the tokenizer lacks, and for a data set without the clips that the model reads.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        processor: FLaLLMProcessor,
        text_column: str = "text",
        description_scale: DescriptionScale | None = None,
        **options: Any,
    ):
        super().__init__(dataset, processor.modality, **options)
        if description_scale is not None:
            self.descriptions = DescriptionTargets(dataset[DESCRIPTIONS_COLUMN], description_scale)
        self.texts: list[str] = [str(text) for text in dataset[text_column]]
        tags = dataset["spoken_language"] if "spoken_language" in dataset.column_names else [None] * len(dataset)
        self.spoken_languages: list[str | None] = list(tags)
        self.target_languages = target_languages(processor.tokenizer, self.spoken_languages)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**super().__getitem__(index), **self.sentence_of(index)}

    def sentence_of(self, index: int) -> dict[str, Any]:
        return {
            "text": self.texts[index],
            "target_language": self.target_languages[index],
            "spoken_language": self.spoken_languages[index],
        }


def are_left_handed(dataset: datasets.Dataset) -> list[bool]:
    """
    Of each clip whether its column `handedness` says left.

    Raises:
        ValueError: for a data set without that column, and as `is_left_handed`.
    """
    check_handedness(dataset.column_names)
    return [is_left_handed(hand, f"row {row} (counted from 0)") for row, hand in enumerate(dataset["handedness"])]


def check_handedness(columns: Sequence[str]) -> None:
    """
    Raises:
        ValueError: if these columns do not say with which hand a signer signs.
    """
    if "handedness" not in columns:
        raise ValueError(
            "--mirror_left_handed needs a column `handedness` that says left or right of each clip, got columns "
            f"{list(columns)}. Add it to the data set, or leave the flag out."
        )


def is_left_handed(hand: str | None, where: str) -> bool:
    """
    Whether a value of the column `handedness` is left; nothing counts as right.

    Raises:
        ValueError: for another word.
    """
    word = (hand or "right").strip().casefold() or "right"
    if word not in ("left", "right"):
        raise ValueError(f"{where}: handedness must be left or right, got {hand!r}.")
    return word == "left"


def _checked_clips(dataset: datasets.Dataset, modality: Modality) -> datasets.Dataset:
    """The data set, with its arrays read as arrays instead of lists of lists."""
    column = modality.column
    if column not in dataset.column_names:
        raise ValueError(
            f"`{column}` must be a column of the data set, as it is what the model reads, got columns "
            f"{dataset.column_names}.{advice_for_columns(dataset.column_names)}"
        )
    if num_array_dimensions(dataset.features[column]) is not None:
        return dataset.with_format("numpy", columns=[column], output_all_columns=True)
    return dataset
