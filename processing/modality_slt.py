# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""
The interface of modalities, the kinds of input that signing comes in: videos, visual features, poses, ...

A modality of your own is three files: a `Modality`, the part of the processor that it reads with, and a sign encoder
that takes its `input_names`. It is found by that part, through `MODALITIES` in `modalities_slt.py`. Shared code asks
the modality for all that it has to know, and names none.
"""

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch

from .sampling_slt import fraction_as_in_training, slowest_and_fastest

# From the length of a clip and its frames per second, None if it has no times, to indices.
SampleIndices = Callable[[int, float | None], list[int]]


class Augmentation(Protocol):
    """What a modality needs from the augmentation of training clips, which draws from torch's CPU generator."""

    def sample_frame_indices(self, num_sampled: int, num_frames: int) -> list[int]:
        """Training indices for a clip of `num_frames`, of which evaluation takes `num_sampled`."""

    def longest_length(self, num_sampled: int, num_frames: int) -> int:
        """The most indices that `sample_frame_indices` can give."""

    def apply_spatial(self, frames: torch.Tensor, seed: int) -> torch.Tensor:
        """Frames of any size -> frames of the size that the model sees, drawn from a seed."""

    def apply_to_poses(self, poses: torch.Tensor, seed: int, body_size: float) -> tuple[torch.Tensor, bool]:
        """Poses `(frames, 133, 3)` before normalisation -> the same, drawn from a seed, and whether the signer is
        mirrored; `body_size` is the side of the square around the body."""


class ClipArguments(Protocol):
    """What a modality asks of the flags on clips, of which it reads what it has a use for."""

    frame_size: int
    crop_size: int
    frame_sampling_rate: float
    max_num_frames: int | None
    keep_aspect_ratio: bool
    smoothing_seconds: float


@dataclass(frozen=True)
class ModalityWords:
    """
    What model cards, help texts and errors say of the clips of a modality.

    Args:
        clip, clips: one and several: "video" and "videos".
        reads: what a model does with one, in front of "of German Sign Language": "watches a video".
        encoder: what the sign encoder is called: "video encoder".
        files: files of clips, however many: "video(s)".
        example: the path of a clip: "clip.mp4".
        shape: dimensions of one clip as an array: "(frames, height, width, channels)".
    """

    clip: str
    clips: str
    reads: str
    encoder: str
    files: str
    example: str
    shape: str


@dataclass(frozen=True)
class ClipFacts:
    """
    When a clip ends, in seconds from the beginning of its file, None if it has no times; and the size of its picture in
    pixels, None if it has none.
    """

    seconds: float | None
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True)
class ClipValues:
    """What was read of a clip: `values` `(length, ...)`, and their number per second, if known."""

    values: torch.Tensor
    rate: float | None = None


class Modality(ABC):
    """
    How one kind of input gets from the row of a data set to the named tensors of a batch:

        row --read--> values --sample, augment--> item --collate--> tensors by `input_names`    (training, scoring)
        clip --open--> values --prepare--> tensors by `input_names`                             (translating)

    Attributes:
        argument: name of the argument for clips in a processor's call.
        column: our name of the column of a data set that holds a clip.
        column_names: all names that the column may have, ours first, whatever their letter case.
        length_column: the column of a data set that may give the length of each clip, if there is one.
        input_names: of the tensors that the model's sign encoder takes: the values, then their mask.
        slot: where the processor keeps the part that reads this modality.
        item_key: under which an item holds its values.
        table_column: our name of the column in the table of a folder that names the files of clips.
        datasets_type: name of the class of `datasets` for a column of files; None for a column of paths or arrays.
        array_dimensions: of the arrays that a column may hold in place of files; None if it may not hold any.
        has_space: whether clips are pictures, which have a size.
        space_augmentations: the flags of augmentation in space that have an effect on clips.
        has_rests: whether long clips can be split where the signer rests.
        has_parts: whether `start` and `end` of a row name the part of its file that is the clip; otherwise they say
            where in a video the whole clip was.
        has_pictures: whether `look` and `pictures` show clips to people.
        more_columns: columns of other clips that the model also reads.
        prepared_shape: of one clip from `prepare`, each dimension a number, or a word if clips differ in it.
        packages: to be installed for reading clips beside those that every model needs.
        words: what texts for people say of the clips.
    """

    argument: ClassVar[str]
    column: ClassVar[str]
    column_names: ClassVar[tuple[str, ...]]
    length_column: ClassVar[str | None] = None
    input_names: ClassVar[tuple[str, str]]
    slot: ClassVar[str]
    item_key: ClassVar[str]
    table_column: ClassVar[str]
    datasets_type: ClassVar[str | None] = None
    array_dimensions: ClassVar[int | None] = None
    has_space: ClassVar[bool] = False
    space_augmentations: ClassVar[frozenset[str]] = frozenset()
    has_rests: ClassVar[bool] = False
    has_parts: ClassVar[bool] = False
    has_pictures: ClassVar[bool] = False
    prepared_shape: ClassVar[tuple[str | int, ...]] = ()
    more_columns: tuple[str, ...] = ()
    packages: ClassVar[tuple[str, ...]] = ()
    words: ClassVar[ModalityWords]

    def __init__(self, part: Any):
        self.part = part

    @classmethod
    def is_read_by(cls, part: Any) -> bool:
        """Whether a part of a processor reads this modality: by its outputs, not by its class, which remote code may
        load a second time."""
        return cls.input_names[0] in part.model_input_names

    @classmethod
    @abstractmethod
    def build_part(cls, arguments: ClipArguments, encoder_config: Any = None) -> Any:
        """The part of a processor that reads clips as a new model with this sign encoder will take them."""

    def change_part(self, given: dict[str, Any], encoder_config: Any = None) -> None:
        """Change how clips are prepared, by the names of the arguments of `build_part`; it ignores unknown ones."""
        for name, value in given.items():
            if hasattr(self.part, name):
                setattr(self.part, name, value)

    @classmethod
    @abstractmethod
    def is_file(cls, path: str | os.PathLike) -> bool:
        """Tell by its name whether a file holds a clip; hidden files do not."""

    @classmethod
    def is_clip_folder(cls, path: str | os.PathLike) -> bool:
        """Tell by the names of its files whether a folder is one clip, which `flallm translate` takes."""
        return False

    @classmethod
    def split_file_name(cls, name: str) -> tuple[str, str]:
        """
        What the table of a folder says of a clip: the name of its file, and what follows it to say what in the file.

        Raises:
            ValueError: for a file of another kind.
        """
        return name, ""

    @classmethod
    def path_of(cls, clip: Any) -> str | None:
        """The path in what a column holds of a clip; None for bytes and arrays."""
        return clip if isinstance(clip, str) else None

    @classmethod
    def check_column(cls, feature: Any, name: str) -> None:
        """
        Check the kind of a column of the data set `name` on the Hub, `feature` as `datasets` has it.

        Raises:
            ValueError: for a column that cannot hold clips. Files are read from folders alone.
        """
        if getattr(feature, "dtype", None) == "string":
            raise ValueError(
                f"The column {cls.column} of the data set {name} names files, which are read from a folder on disk. "
                f"Download it: hf download {name} --repo-type dataset --local-dir FOLDER. Then name that folder."
            )
        if num_array_dimensions(feature) != cls.array_dimensions:
            raise ValueError(
                f"The column {cls.column} of the data set {name} must hold arrays of numbers "
                f"(datasets.Array{cls.array_dimensions}D, or {' of '.join(['lists'] * cls.array_dimensions)}), got "
                f"{feature}. If it is something else, rename it."
            )

    @classmethod
    def limits(cls, settings: dict[str, Any]) -> list[str]:
        """Sentences of the model card on what the model cannot see, by the settings of its training."""
        return []

    def with_row(self, clip: Any, row: dict[str, Any]) -> Any:
        """A clip as `open` takes it, with what else of its row the model reads, `more_columns`; by default the clip."""
        return clip

    def learn_origin(self, clips: Iterable[Any]) -> None:  # noqa: B027
        """
        Learn from the column of the training clips what made them, for the processor to keep. Default: nothing.

        Raises:
            ValueError: for clips that cannot be of one model.
        """

    @property
    def samples_by_time(self) -> bool:
        """Whether the part samples clips of other rates than those of training otherwise, once it knows these."""
        return hasattr(self.part, "training_fps")

    @property
    def knows_rates(self) -> bool:
        """Whether it does: then lengths after sampling depend on the rates of clips."""
        return self.samples_by_time and self.part.training_fps is not None

    def tempo(self, row: dict[str, Any]) -> float:
        """By which factor the clip of a row is sampled otherwise than one of a rate in training, see `training_fps`."""
        return fraction_as_in_training(1.0, self.rate(row), self.part.training_fps) if self.knows_rates else 1.0

    def rates_of(self, rows: Iterable[dict[str, Any]]) -> list[float] | None:
        """The `training_fps` of a part that is trained on these rows. Those that cannot be read are left out."""
        return slowest_and_fastest(self._rate_when_read(row) for row in rows)

    def _rate_when_read(self, row: dict[str, Any]) -> float | None:
        """Values per second by the times of the values, as sampling sees it; headers may say something else."""
        try:
            return self.read(row, lambda length, rate: [0]).rate
        except (OSError, ValueError):
            return None

    def origin(self) -> str | None:
        """What made the clips that the model was trained on, for its card; None if that is not known, or nothing did.
        Default: None."""
        return None

    @abstractmethod
    def is_one(self, clips: Any) -> bool:
        """Tell one clip, as a processor takes it, from several."""

    @abstractmethod
    def as_list(self, clips: Any) -> list[Any]:
        """
        Clips as a processor takes them, one or several, as a list.

        Raises:
            ValueError: for none.
        """

    @abstractmethod
    def open(
        self, source: Any, start: float | None = None, end: float | None = None, rate: float | None = None
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """
        Read one clip in any form that a processor takes, to translate it. Returns its sampled values for `prepare`, and
        the metadata with its times, as a video processor gives them with `return_metadata`.

        Args:
            start, end: seconds of the part that is read; `rate`: values per second, if the source does not give it.

        Raises:
            ValueError: for a clip that cannot be read.
        """

    @abstractmethod
    def prepare(self, values: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Values of several clips from `open` -> tensors by `input_names`, on the same device."""

    def prepare_more(self, metadata: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """What else the model reads of several clips, from the metadata that `open` gave; by default nothing."""
        return {}

    def split_at_rests(
        self,
        source: Any,
        start: float | None = None,
        end: float | None = None,
        rate: float | None = None,
        **lengths: float,
    ) -> list[Any]:
        """
        Find the sentences of a long clip: the parts between the moments at which the hands rest, `VideoSegment`s in
        order of time; none if nobody moves. Arguments as in `open`; `lengths` are those of `SegmentLengths`.

        Raises:
            ValueError: for a clip that cannot be read, and a modality that does not tell when hands rest.
        """
        raise ValueError(self._why_no_segments())

    def read_segments(
        self, source: Any, segments: Sequence[Any], rate: float | None = None
    ) -> Iterator[dict[str, Any]]:
        """
        Read parts of one clip, `VideoSegment`s or pairs of seconds in order of time, one after the other.

        Yields for each the dictionary that the translation pipeline takes as a prepared clip: its values from `prepare`
        by name, without the dimension of the batch; the `video_metadata` of `open`; `start`, `end`, `caption_start`
        and `caption_end` in seconds.

        Raises:
            ValueError: as `split_at_rests`.
        """
        raise ValueError(self._why_no_segments())

    def live(self, **lengths: float) -> Any:
        """
        A clip that is being recorded, `LiveClip`, whose sentences are found as they are signed. Arguments as in
        `split_at_rests`.

        Raises:
            ValueError: as `split_at_rests`.
        """
        raise ValueError(self._why_no_segments())

    def _why_no_segments(self) -> str:
        return (
            f"Long videos are split where hands rest, which {self.words.clips} do not show. Pass one sentence a clip."
        )

    def look(self, path: str | os.PathLike) -> ClipFacts:
        """
        What the file of a clip says of it, without reading it where that is possible.

        Raises:
            ValueError: for a clip that cannot be read, and a modality that is not shown to people.
        """
        raise ValueError(f"{self.words.clips} are not shown as pictures.")

    def pictures(
        self,
        path: str | os.PathLike,
        start: float | None = None,
        end: float | None = None,
        most: int | None = None,
        shorter_side: int = 256,
    ) -> list[tuple[float, np.ndarray]]:
        """
        Pictures of a clip for people, spread evenly over it: second of the file, and uint8 `(height, width, 3)`.

        Args:
            most: number of pictures; None for all frames.
            shorter_side: of a picture in pixels.

        Raises:
            ValueError: as `look`.
        """
        raise ValueError(f"{self.words.clips} are not shown as pictures.")

    @abstractmethod
    def read(self, row: dict[str, Any], sample: SampleIndices | None = None) -> ClipValues:
        """
        Read the clip of a row; with `sample`, only the values that it picks.

        Raises:
            ValueError: for a clip that cannot be read.
        """

    def exported_settings(self) -> dict[str, Any]:
        """
        How clips are prepared, for a program that does so without this part and without torch; as `value_shape`, the
        shape of what the model reads of one frame.

        Raises:
            ValueError: for clips that such a program cannot prepare.
        """
        raise ValueError(f"An exported model cannot read {self.words.clips}. Use the model itself.")

    def mirrored(self, values: torch.Tensor) -> torch.Tensor:
        """
        Values from `read` as they would be of a mirrored signer, whose left hand is the right one.

        Raises:
            ValueError: for a modality that cannot be mirrored.
        """
        raise ValueError(
            f"{self.words.clips} cannot be mirrored: which of their numbers belong to the left and to the right is not "
            "known. Mirror the videos, and make them again."
        )

    @abstractmethod
    def count(self, row: dict[str, Any]) -> int:
        """Length of the clip of a row before sampling, if that is possible without reading it."""

    def rate(self, row: dict[str, Any]) -> float | None:
        """Values per second of the clip of a row before sampling, if it has times; it is not read for that."""
        return None

    @abstractmethod
    def sample_indices(self, length: int, rate: float | None = None) -> list[int]:
        """The sorted indices that evaluation takes from a clip of this length."""

    @abstractmethod
    def collate(self, items: Sequence[dict[str, Any]], preprocess_on_device: bool = False) -> dict[str, Any]:
        """Items of `item` -> tensors by `input_names`, padded at the end of each clip."""

    def length_of(self, item: dict[str, Any]) -> int:
        """Length of an item, after sampling."""
        return len(item[self.item_key])

    def longest_length(self, length: int, augmentation: Augmentation | None = None, rate: float | None = None) -> int:
        """The most values that are taken from a clip of this length, and of this rate if the part samples by it."""
        num_sampled = len(self.sample_indices(length, rate))
        return num_sampled if augmentation is None else augmentation.longest_length(num_sampled, length)

    def item(
        self,
        read: Callable[[SampleIndices], torch.Tensor],
        augmentation: Augmentation | None = None,
        seed: int = 0,
        preprocess_on_device: bool = False,
    ) -> dict[str, Any]:
        """
        A clip as in evaluation or, with an augmentation, as the seed draws it; here it draws only the indices.

        Args:
            read: returns the values that a `SampleIndices` picks.
            preprocess_on_device: leave what is possible to the model's device.
        """
        if augmentation is None:
            return {self.item_key: read(self.sample_indices)}
        with random_numbers_of(seed):
            return {self.item_key: read(self.augmented(augmentation))}

    def complete(
        self,
        item: dict[str, Any],
        indices: Sequence[int],
        read_row: Callable[[], dict[str, Any]],
        seed: int | None = None,
        is_mirrored: bool = False,
    ) -> dict[str, Any]:
        """
        Add to an item what else of its row the model reads, for `collate`. Default: nothing.

        Args:
            indices: those of the clip that are in the item.
            read_row: returns the row, with all of its columns.
            seed: for random draws in training; None in evaluation.
            is_mirrored: whether the values of the item were `mirrored` before augmentation.

        Raises:
            ValueError: for a row without it.
        """
        return item

    def noise(self, item: dict[str, Any], generator: torch.Generator) -> dict[str, Any]:
        """An item of the same length that shows nothing: random bytes in place of bytes, else normal numbers with the
        mean and the standard deviation of the clip. A translation of it is what a model guesses without the clip."""
        values = item[self.item_key]
        if values.dtype == torch.uint8:
            random = torch.randint(256, values.shape, generator=generator, dtype=torch.uint8)
        else:
            random = torch.randn(values.shape, generator=generator) * values.std(correction=0) + values.mean()
        return {**item, self.item_key: random.to(values.dtype)}

    def frozen(self, item: dict[str, Any]) -> dict[str, Any]:
        """An item of the same length in which nobody moves: its first frame, or feature, in place of every one."""
        values = item[self.item_key]
        return {**item, self.item_key: values[:1].expand_as(values).contiguous()}

    def augmented(self, augmentation: Augmentation) -> SampleIndices:
        """The indices that training takes from a clip, drawn anew in every call."""

        def sample(length: int, rate: float | None) -> list[int]:
            return augmentation.sample_frame_indices(len(self.sample_indices(length, rate)), length)

        return sample


def num_array_dimensions(feature: Any) -> int | None:
    """Dimensions of the arrays in a column of `datasets`, which need not be installed; None for other columns."""
    if re.fullmatch(r"Array\dD", type(feature).__name__):
        return len(feature.shape)
    depth = 0
    while getattr(feature, "feature", None) is not None:
        feature, depth = feature.feature, depth + 1
    is_number = type(feature).__name__ == "Value" and feature.dtype.startswith("float")
    return depth if depth and is_number else None


def limit_of_hands(settings: dict[str, Any]) -> str:
    """A sentence of the model card on left-handed signers, by the settings of the training."""
    flip = settings.get("horizontal_flip")
    if settings.get("mirror_left_handed"):
        at_random = f" After that, training clips were mirrored with probability {flip}." if flip else ""
        return (
            "Hands: clips of left-handed signers were mirrored for training and validation, so it saw one way of "
            f"signing.{at_random}\nTranslate left-handed signers with `left_handed=True`, or with "
            '`left_handed="auto"` if you do not know.'
        )
    if flip:
        return (
            f"Hands: training clips were mirrored with probability {flip}, so it saw left-handed and right-handed "
            "signing. In most sign\nlanguages a mirrored sign can mean something else, such as left and right."
        )
    return (
        "Hands: no training clip was mirrored. If few of the signers were left-handed, expect worse results for "
        "left-handed\nsigners."
    )


@contextmanager
def random_numbers_of(seed: int) -> Iterator[None]:
    """Draw from a seed, on the CPU alone: `torch.manual_seed` would also seed the accelerator."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
