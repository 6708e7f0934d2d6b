"""The clips of a run: its splits or streams, their torch data sets, and how they are drawn in training."""

import dataclasses
import itertools
import math
from dataclasses import dataclass

import datasets
from torch.utils.data import Dataset

from modeling_flallm.own_processing import FLaLLMProcessor, Modality

from ..arguments.data_arguments import DataArguments
from ..arguments.description_arguments import DescriptionArguments
from ..arguments.training_arguments import FLaLLMTrainingArguments
from ..clips.augmentation import ClipAugmentation, MiddleFrames
from ..clips.data import SignClipDataset
from ..clips.description_store import DESCRIPTIONS_COLUMN, description_width, join_descriptions
from ..clips.description_targets import DescriptionScale
from ..clips.samplers import ClipSampler, FrameBudgetBatchSampler
from ..clips.splits import load_split, load_training_split
from ..clips.streaming import MixedClips, StreamedClipDataset, open_streams

MOST_CLIPS_TO_LOOK_AT = 50


@dataclass
class Splits:
    """
    What a run reads: the clips or streams to train on, and the clips to evaluate on; with a `description_scale`, their
    column of `join_descriptions` names the descriptions of each.
    """

    train: datasets.Dataset | None
    evaluation: datasets.Dataset
    sizes: list[int]
    streams: MixedClips | None
    description_scale: DescriptionScale | None = None

    def by_name(self, data: DataArguments) -> dict[str, datasets.Dataset | None]:
        return {data.train_split: self.train, data.evaluation_split: self.evaluation}


def open_splits(data: DataArguments, training: FLaLLMTrainingArguments) -> Splits:
    """
    Raises:
        FileNotFoundError, ValueError: as `load_split` and `open_streams`.
    """
    streams = open_streams(data, training) if data.streaming else None
    train_split, sizes = (None, []) if streams else load_training_split(data)
    evaluation_split = load_split(data, data.evaluation_split, data.max_evaluation_clips)
    return Splits(train_split, evaluation_split, sizes, streams)


def with_descriptions(
    splits: Splits, modality: type[Modality], data: DataArguments, arguments: DescriptionArguments
) -> Splits:
    """
    The splits with the descriptions of their clips, if there are any.

    Args:
        modality: of the clips that are described.

    Raises:
        FileNotFoundError, ValueError: as `join_descriptions`, for several data sets, and for streams.
    """
    store = arguments.descriptions
    if store is None:
        return splits
    if splits.streams is not None:
        raise ValueError(
            "--descriptions cannot be combined with --streaming: they are looked up by the clips of a split before "
            "training. Leave out --streaming, and download the data set."
        )
    if len(data.dataset) > 1:
        raise ValueError(
            f"--descriptions names those of one data set, got {len(data.dataset)} data sets, whose clips may have the "
            "same names. Name one for --dataset."
        )
    train, evaluation = (
        join_descriptions(split, modality, store, name)
        for split, name in ((splits.train, data.train_split), (splits.evaluation, data.evaluation_split))
    )
    scale = DescriptionScale.of(train[DESCRIPTIONS_COLUMN], description_width(store))
    return dataclasses.replace(splits, train=train, evaluation=evaluation, description_scale=scale)


def learn_origin_of_clips(splits: Splits, processor: FLaLLMProcessor) -> None:
    """
    Let the processor keep what the files of the clips say of their origin. Arrays in a table say nothing.

    Raises:
        ValueError: for clips that cannot be of one model, as `Modality.learn_origin`.
    """
    modality = processor.modality
    for split in (splits.train, splits.evaluation):
        if split is not None and split.features.get(modality.column) == datasets.Value("string"):
            modality.learn_origin(split[modality.column])


@dataclass
class TrainingClips:
    """
    The torch data sets of a run, the order of the training clips, how frames are preprocessed, and the frame rates that
    the processor is to keep.
    """

    train: Dataset
    evaluation: Dataset
    sampler: ClipSampler | FrameBudgetBatchSampler | MixedClips | None
    augmentation: ClipAugmentation | MiddleFrames
    training_fps: list[float] | None = None


def prepare_clips(
    splits: Splits,
    processor: FLaLLMProcessor,
    data: DataArguments,
    augmentation: ClipAugmentation | MiddleFrames,
    training: FLaLLMTrainingArguments,
) -> TrainingClips:
    """
    Raises:
        ValueError: as `build_train_sampler`.
    """
    shared = {
        "processor": processor,
        "text_column": data.text_column,
        "keep_decoded_videos": data.keep_decoded_videos,
        "preprocess_on_device": training.preprocess_on_device,
        "description_scale": splits.description_scale,
        "mirror_left_handed": data.mirror_left_handed,
    }
    _tell_mirrored(splits, data, augmentation, training)
    evaluation = SignClipDataset(splits.evaluation, **shared)
    if splits.streams:
        training_fps = training_fps_of(evaluation.dataset, [len(evaluation)], processor.modality)
        on_device = training.preprocess_on_device
        train = StreamedClipDataset(processor, data.text_column, augmentation, on_device, data.mirror_left_handed)
        return TrainingClips(train, evaluation, splits.streams, augmentation, training_fps)
    train = SignClipDataset(splits.train, augmentation=augmentation, seed=training.seed, **shared)
    training_fps = training_fps_of(train.dataset, splits.sizes, processor.modality)
    sampler = build_train_sampler(train, splits.sizes, data.dataset_weights, training)
    return TrainingClips(train, evaluation, sampler, augmentation, training_fps)


def training_fps_of(clips: datasets.Dataset, sizes: list[int], modality: Modality) -> list[float] | None:
    """
    The frame rates of the slowest and the fastest clip, by a part of them. None if the model's clips were those of an
    earlier training, or have no rate.

    Args:
        sizes: clips of each of the data sets that are concatenated in `clips`.
    """
    if not modality.samples_by_time or modality.knows_rates:
        return None
    rows = []
    for first, stop in itertools.pairwise(itertools.accumulate([0, *sizes])):
        rows += range(first, stop, math.ceil((stop - first) / MOST_CLIPS_TO_LOOK_AT) or 1)
    return modality.rates_of(clips[index] for index in rows)


def _tell_mirrored(
    splits: Splits,
    data: DataArguments,
    augmentation: ClipAugmentation | MiddleFrames,
    training: FLaLLMTrainingArguments,
) -> None:
    flip = augmentation.arguments.horizontal_flip
    flags = [f"--horizontal_flip {flip:g}"] * bool(flip) + ["--mirror_left_handed"] * data.mirror_left_handed
    if splits.description_scale is not None and flags and training.process_index == 0:
        print(
            f"{' and '.join(flags)} {'mirrors' if len(flags) == 1 else 'mirror'} clips, but not their descriptions: "
            "these speak of the left and the right of the clip as it is.",
            flush=True,
        )


def build_train_sampler(
    dataset: SignClipDataset, sizes: list[int], weights: list[float] | None, training: FLaLLMTrainingArguments
) -> ClipSampler | FrameBudgetBatchSampler | None:
    """
    Draws the clips or batches of an epoch; `None` leaves it to the Trainer, for all clips in random order.

    Args:
        sizes: clips of each of the data sets that are concatenated in `dataset`.

    Raises:
        ValueError: for a frame budget that is too small for a single clip.
    """
    grouped = training.train_sampling_strategy == "group_by_length"
    budget = training.max_frames_per_batch
    if weights is None and not grouped and budget is None:
        return None
    lengths = dataset.longest_lengths() if grouped or budget is not None else []
    num_together = training.train_batch_size * training.gradient_accumulation_steps * training.world_size
    if budget is not None:
        num_together = max(budget * len(lengths) * training.world_size // sum(lengths), 1)
    sampler = ClipSampler(sizes, weights, lengths if grouped else None, num_together, training.seed)
    if budget is None:
        return sampler
    return FrameBudgetBatchSampler(
        sampler, lengths, budget, training.world_size, _most_epochs(training, sum(lengths) / budget)
    )


def _most_epochs(training: FLaLLMTrainingArguments, fewest_batches: float) -> int:
    """The maximum number of epochs of a training whose epochs have at least this many batches."""
    if training.max_steps <= 0:
        return max(math.ceil(training.num_train_epochs), 1)
    num_batches = training.max_steps * training.gradient_accumulation_steps * training.world_size
    return math.ceil(num_batches / max(fewest_batches, 1)) + 1
