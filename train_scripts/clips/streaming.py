"""
Training clips that are read during training: a data set on the Hub is never downloaded in full.

A stream has no length and no end. Each data set is read pass after pass, in a new order each time, and within a pass no
two processes train on the same clip. One reader per process hands undecoded clips to the data loader's workers, which
decode them: so the clips and their order do not depend on the number of workers, there is one shuffle buffer
instead of one per worker, and a resumed run skips what it was trained on without decoding it.
"""

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import datasets
import torch
from torch.utils.data import Dataset, Sampler

from modeling_flallm.own_processing import FLaLLMProcessor, Modality, SampleIndices, VideoDecodingError

from ..arguments.data_arguments import DataArguments
from ..arguments.training_arguments import FLaLLMTrainingArguments
from ..corpora.data_set_columns import WORDS, check_split, check_stream, tell_unused, unused
from ..languages.target_languages import target_languages
from .augmentation import ClipAugmentation, item_seed
from .data import ClipReader, check_handedness, is_left_handed
from .hub_data_sets import check_row_is_of_hub, column_names, is_clip_folder, open_on_hub, with_content
from .splits import check_most_clips, check_text_column, checked_row, load_split


@dataclass
class StreamedClip:
    """One row of a data set, not decoded; `number` is its row in `source`, for error messages."""

    row: dict[str, Any]
    source: str
    number: int
    seed: int


@dataclass
class FolderRows:
    """A folder of clips, whose rows hold nothing but paths and sentences; each is a part of its own."""

    clips: datasets.Dataset
    name: str

    @property
    def num_parts(self) -> int:
        return len(self.clips)

    @property
    def num_clips(self) -> int | None:
        return len(self.clips)

    def read(self, part: int) -> Iterator[tuple[str, int, dict[str, Any]]]:
        yield self.name, part, self.clips[part]


@dataclass
class HubRows:
    """A data set on the Hub, whose parts are its files. If there is a limit of `max_clips`, it is a single part."""

    rows: datasets.IterableDataset
    name: str
    split: str
    max_clips: int | None = None

    @property
    def num_parts(self) -> int:
        return self.rows.num_shards if self.max_clips is None else 1

    @property
    def num_clips(self) -> int | None:
        """As stated in the data set's README.md, if at all."""
        known = (self.rows.info.splits or {}).get(self.split)
        if known is None or not known.num_examples:
            return None
        return min(known.num_examples, self.max_clips or known.num_examples)

    def read(self, part: int) -> Iterator[tuple[str, int, dict[str, Any]]]:
        """Rows with their numbers, counted from 0 in each part."""
        rows = self.rows.take(self.max_clips) if self.max_clips else self.rows.shard(self.num_parts, part)
        of_part = f", file {part + 1} of {self.num_parts}" if self.num_parts > 1 else ""
        source = f"{self.name} ({self.split}{of_part})"
        for number, row in enumerate(rows):
            where = f"{source}: row {number} (counted from 0)"
            check_split(row.get("split"), self.split, where)
            check_row_is_of_hub(row, where)
            yield source, number, row


class ClipStream:
    """
    The clips of one data set that this process trains on, pass after pass without end.

    In each pass the parts are read in a new order and shared out among the processes; if there are fewer parts than
    processes, each process reads all of them and skips the rows of the others. The order depends only on the arguments
    and the pass; the random draws of a clip's augmentation (`StreamedClip.seed`) do not depend on the processes either.

    Args:
        index: of the data set among all.
        buffer_size: how many undecoded clips are buffered to draw the next one from.

    Raises:
        ValueError: if a pass has no clip for this process.
    """

    def __init__(
        self,
        source: FolderRows | HubRows,
        buffer_size: int = 1,
        seed: int = 0,
        index: int = 0,
        num_processes: int = 1,
        process_index: int = 0,
    ):
        self.source = source
        self.buffer_size = buffer_size
        self.seed = seed
        self.index = index
        self.num_processes = num_processes
        self.process_index = process_index

    def __iter__(self) -> Iterator[StreamedClip]:
        for pass_number in itertools.count():
            clip = None
            for clip in self.one_pass(pass_number):
                yield clip
            if clip is None:
                raise ValueError(
                    f"{self.source.name} has no clip for process {self.process_index + 1} of {self.num_processes}. "
                    "It must have at least one for each."
                )

    def one_pass(self, pass_number: int) -> Iterator[StreamedClip]:
        """Each clip of this process once."""
        generator = torch.Generator().manual_seed(hash((self.seed, self.index, pass_number)) % 2**63)
        parts = torch.randperm(self.source.num_parts, generator=generator).tolist()
        return _shuffled(self._read(parts, pass_number), self.buffer_size, generator)

    def _read(self, parts: list[int], pass_number: int) -> Iterator[StreamedClip]:
        shares_parts = len(parts) >= self.num_processes
        if shares_parts:
            parts = parts[self.process_index :: self.num_processes]
        for part in parts:
            for source, number, row in self.source.read(part):
                if shares_parts or number % self.num_processes == self.process_index:
                    seed = item_seed(self.seed, pass_number, hash((self.index, part, number)))
                    yield StreamedClip(row, source, number, seed)


def _shuffled(clips: Iterator[StreamedClip], buffer_size: int, generator: torch.Generator) -> Iterator[StreamedClip]:
    """Each clip once, in an order shuffled through a buffer of `buffer_size` clips."""
    waiting: list[StreamedClip] = []
    for clip in clips:
        if len(waiting) < buffer_size:
            waiting.append(clip)
            continue
        position = int(torch.randint(buffer_size, (), generator=generator))
        drawn, waiting[position] = waiting[position], clip
        yield drawn
    order = torch.randperm(len(waiting), generator=generator).tolist()
    waiting = [waiting[position] for position in order]
    while waiting:
        yield waiting.pop()


class MixedClips(Sampler[StreamedClip]):
    """
    Endless clips from several streams, each drawn from one of them with the probability of its share.

    It replaces a sampler of indices, so that the data loader's workers receive the clips themselves to decode.
    """

    def __init__(self, streams: list[ClipStream], shares: list[float], seed: int = 0):
        self.streams = streams
        self.shares = torch.tensor(shares, dtype=torch.float64)
        self.seed = seed

    def __iter__(self) -> Iterator[StreamedClip]:
        generator = torch.Generator().manual_seed(hash((self.seed, self.streams[0].process_index)) % 2**63)
        streams = [iter(stream) for stream in self.streams]
        while True:
            yield next(streams[int(torch.multinomial(self.shares, 1, generator=generator))])


class StreamedClipDataset(Dataset):
    """
    Clips of a stream -> the same items as `SignClipDataset` makes of the clips of an index.

    Raises:
        ValueError: for a row that cannot be used, with its data set and number.
    """

    def __init__(
        self,
        processor: FLaLLMProcessor,
        text_column: str = "text",
        augmentation: ClipAugmentation | None = None,
        preprocess_on_device: bool = False,
        mirror_left_handed: bool = False,
    ):
        self.mirror_left_handed = mirror_left_handed
        self.tokenizer = processor.tokenizer
        self.text_column = text_column
        self.read_clip = ClipReader(processor.modality, augmentation, preprocess_on_device)

    def __getitem__(self, clip: StreamedClip) -> dict[str, Any]:
        modality = self.read_clip.modality
        row = checked_row(clip.row, self.text_column, clip.number, clip.source, type(modality))
        try:
            (language,) = target_languages(self.tokenizer, [row["spoken_language"]])
            is_mirrored = self.mirror_left_handed and is_left_handed(clip.row.get("handedness"), "its signer")
            values = functools.partial(_sampled_values, modality, row)
            item = self.read_clip(values, clip.seed, lambda: row, is_mirrored=is_mirrored)
        except VideoDecodingError as error:
            raise VideoDecodingError(_in_row(clip, error)) from error
        except ValueError as error:
            raise ValueError(_in_row(clip, error)) from error
        sentence = {"text": row["text"], "target_language": language, "spoken_language": row["spoken_language"]}
        return {**item, **sentence}


def _sampled_values(modality: Modality, row: dict[str, Any], sample: SampleIndices) -> torch.Tensor:
    return modality.read(with_content(row), sample).values


def _in_row(clip: StreamedClip, error: Exception) -> str:
    return f"{clip.source}: row {clip.number} (counted from 0): {error}"


def open_streams(data: DataArguments, training: FLaLLMTrainingArguments) -> MixedClips:
    """
    The training split of every data set as one stream for this process, mixed by `dataset_weights` or in proportion to
    the numbers of clips; columns are checked, and what a folder holds.

    Raises:
        FileNotFoundError, ValueError: as `load_split`, and for what cannot go together with streaming.
    """
    _check_arguments(data, training)
    sources = [_open_source(data, name) for name in data.dataset]
    streams = [
        ClipStream(source, data.shuffle_buffer_size, training.seed, index, training.world_size, training.process_index)
        for index, source in enumerate(sources)
    ]
    return MixedClips(streams, data.dataset_weights or _natural_shares(sources), training.seed)


def _check_arguments(data: DataArguments, training: FLaLLMTrainingArguments) -> None:
    if training.max_steps <= 0:
        raise ValueError(
            "--streaming needs --max_steps: a stream has no end. For N epochs use N x clips / clips of a step."
        )
    strategy = training.train_sampling_strategy
    reasons = {
        "--max_frames_per_batch": training.max_frames_per_batch and "lengths of later clips are not known",
        f"--train_sampling_strategy {strategy}": strategy != "random" and "the clips come in the order of the stream",
        "--keep_decoded_videos": data.keep_decoded_videos and "a stream keeps nothing",
    }
    for flag, reason in reasons.items():
        if reason:
            raise ValueError(f"--streaming cannot be combined with {flag}: {reason}. Leave out one of the two.")


def _open_source(data: DataArguments, name: str) -> FolderRows | HubRows:
    if is_clip_folder(name):
        clips = load_split(data, data.train_split, data.max_train_clips, name)
        if data.mirror_left_handed:
            check_handedness(clips.column_names)
        return FolderRows(clips, f"{name} ({data.train_split})")
    check_most_clips(data.max_train_clips)
    rows = open_on_hub(name, data.train_split, streaming=True, text_column=data.text_column)
    columns = column_names(rows)
    check_text_column(columns, data.text_column, f"{name} ({data.train_split})")
    if data.mirror_left_handed:
        check_handedness(columns)
    check_stream(rows.features, (data.text_column, *WORDS), name)
    tell_unused(unused(columns, data.text_column), name)
    return HubRows(rows, name, data.train_split, data.max_train_clips)


def _natural_shares(sources: list[FolderRows | HubRows]) -> list[float]:
    if len(sources) == 1:
        return [1.0]
    unknown = [source.name for source in sources if source.num_clips is None]
    if unknown:
        raise ValueError(
            f"--dataset_weights must be given: {unknown[0]} does not say how many clips it has, so the data sets "
            "cannot be mixed in proportion."
        )
    return [float(source.num_clips) for source in sources]
