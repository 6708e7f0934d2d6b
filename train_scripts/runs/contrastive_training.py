"""What the stages share that contrast clips with embeddings of their sentences: batches, retrieval scores, the run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch
from transformers import EvalPrediction, PreTrainedModel, TrainerCallback

from modeling_flallm.own_processing import MODALITIES, FLaLLMProcessor

from ..arguments.data_arguments import AugmentationArguments, DataArguments, VideoArguments
from ..arguments.description_arguments import DescriptionArguments
from ..arguments.training_arguments import FLaLLMTrainingArguments
from ..arguments.training_defaults import ContrastiveTrainingDefaults
from ..clips.augmentation import ClipAugmentation
from ..clips.collators import TranslationCollator
from ..clips.data import SignClipDataset
from ..clips.description_store import join_descriptions
from ..clips.splits import load_split
from ..hub.hub_names import check_model_names
from ..hub.training_run import add_retrieval, describe_run
from ..scores.retrieval import format_retrieval, retrieval_scores
from .resuming import check_run
from .text_targets import SentenceTargets, normal_form
from .trainers import ClipTrainer
from .training import as_prepared, build_trainer, check_score_name, train_and_finish
from .training_clips import Splits, open_splits, prepare_clips, with_descriptions


@dataclass
class ContrastiveTrainingArguments(ContrastiveTrainingDefaults, FLaLLMTrainingArguments):
    """Evaluation by retrieval instead of generation."""


class ContrastiveCollator(TranslationCollator):
    """Items of `SignClipDataset` -> what a model takes that contrasts clips with their sentences, padded."""

    def __init__(self, processor: FLaLLMProcessor, targets: SentenceTargets, preprocess_on_device: bool = False):
        super().__init__(processor, preprocess_on_device)
        self.targets = targets

    def text_inputs(self, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return self.targets.inputs_of([item["text"] for item in items])


class ContrastiveTrainer(ClipTrainer):
    """
    Evaluation gathers the embedding of each video, and what `measured` says of it. A subclass turns the latter into
    `scores_of_measures`.
    """

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None, **generation_arguments):
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            output = model(**inputs)
        if prediction_loss_only:
            return output.loss, None, None
        return output.loss, output.video_embeddings, self.measured(output, inputs)

    def measured(self, output: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """-> `(batch, numbers)`, for a batch of the evaluation"""
        raise NotImplementedError

    @staticmethod
    def scores_of_measures(measures: np.ndarray) -> dict[str, float]:
        """Scores of all clips, from their rows `(clips, numbers)`."""
        raise NotImplementedError


def build_compute_scores(
    targets: SentenceTargets, texts: Sequence[str], scores_of_measures: Callable[[np.ndarray], dict[str, float]]
) -> Callable[[EvalPrediction], dict[str, float]]:
    """`compute_metrics` for clips with these sentences, in the order of the data set."""
    texts = [normal_form(text) for text in texts]
    distinct = list(dict.fromkeys(texts))
    row_of = {text: row for row, text in enumerate(distinct)}
    own = torch.tensor([row_of[text] for text in texts])
    sentences = targets.embeddings_of(distinct)

    def compute_scores(evaluation: EvalPrediction) -> dict[str, float]:
        # With several processes the first clips are repeated at the end, to fill the last batch.
        videos = torch.from_numpy(evaluation.predictions[: len(texts)])
        return {
            **retrieval_scores(videos, sentences, own),
            **scores_of_measures(evaluation.label_ids[: len(texts)]),
        }

    return compute_scores


@dataclass
class ContrastiveSplits:
    """The splits of a run, with the one that is also measured at the end, if there is one."""

    splits: Splits
    other: datasets.Dataset | None

    def evaluated(self, column: str) -> list[str]:
        """The sentences of all splits that are evaluated."""
        return [text for split in (self.splits.evaluation, self.other) if split is not None for text in split[column]]


def open_contrastive_splits(
    arguments: Any,
    data: DataArguments,
    training: FLaLLMTrainingArguments,
    scores: tuple[str, ...],
    descriptions: DescriptionArguments | None = None,
) -> ContrastiveSplits:
    """
    Check a run and open what it reads.

    Args:
        arguments: the stage's own, with `also_measure_on`.
        scores: those that may choose the best checkpoint, besides the loss.
        descriptions: those of the clips, for a model that learns from them.

    Raises:
        ValueError, FileNotFoundError: for mistakes that the user has to fix.
    """
    check_run(training)
    check_model_names(arguments)
    if descriptions is not None:
        arguments.check_descriptions(descriptions.descriptions)
    check_score_name(training, scores)
    if data.streaming:
        raise ValueError(
            "--streaming is not for this stage: all sentences are embedded before training. Leave it out, and download "
            "the data set."
        )
    splits = open_splits(data, training)
    other_name = arguments.also_measure_on
    other = None if other_name is None else load_split(data, other_name)
    if descriptions is None or descriptions.descriptions is None:
        return ContrastiveSplits(splits, other)
    modality = MODALITIES[0]
    splits = with_descriptions(splits, modality, data, descriptions)
    if other is not None:
        other = join_descriptions(other, modality, descriptions.descriptions, other_name)
    return ContrastiveSplits(splits, other)


def run_contrastive_training(
    trainer_class: type[ContrastiveTrainer],
    model: PreTrainedModel,
    processor: FLaLLMProcessor,
    opened: ContrastiveSplits,
    targets: SentenceTargets,
    all_arguments: tuple[Any, DataArguments, VideoArguments, AugmentationArguments, FLaLLMTrainingArguments],
    callbacks: Sequence[TrainerCallback],
    processing_class: Any,
    descriptions: dict[str, Any] | None = None,
) -> dict[str, float]:
    """
    Train, choose the best checkpoint and save model, `processing_class` and model card in the output folder.

    Args:
        all_arguments: those of the stage, of the data, of the video processor, of the augmentation, of the training.
        descriptions: what the model card says about the descriptions of the clips, if there are any.

    Returns:
        `dict[str, float]`: the scores of the best checkpoint, prefixed with `eval_`, and those of the additionally
        measured split, prefixed with its name.
    """
    arguments, data, video, augmentation, training = all_arguments
    video = as_prepared(video, processor)
    splits = opened.splits
    clips = prepare_clips(splits, processor, data, ClipAugmentation(augmentation, video), training)
    trainer = build_trainer(
        trainer_class,
        model,
        clips,
        ContrastiveCollator(processor, targets, training.preprocess_on_device),
        training,
        callbacks,
        processing_class=processing_class,
        compute_metrics=build_compute_scores(targets, clips.evaluation.texts, trainer_class.scores_of_measures),
    )
    trainer.training_run = describe_run(arguments, data, video, augmentation, training, splits.by_name(data), model)
    trainer.training_run.descriptions = descriptions
    scores = train_and_finish(trainer, data)
    if opened.other is not None:
        scores |= _measure(trainer, opened, arguments.also_measure_on, data, targets)
        trainer.create_model_card()
        if training.push_to_hub:
            trainer.push_to_hub()
    return scores


def _measure(
    trainer: ContrastiveTrainer, opened: ContrastiveSplits, name: str, data: DataArguments, targets: SentenceTargets
) -> dict[str, float]:
    """Scores of one more split, with its name in front, also in the model card."""
    clips = SignClipDataset(
        opened.other,
        trainer.data_collator.processor,
        text_column=data.text_column,
        description_scale=opened.splits.description_scale,
        mirror_left_handed=data.mirror_left_handed,
    )
    trainer.compute_metrics = build_compute_scores(targets, clips.texts, trainer.scores_of_measures)
    scores = trainer.evaluate(clips, metric_key_prefix=name)
    trainer.save_metrics(name, scores)
    add_retrieval(trainer.training_run, scores, name, name)
    return scores


def print_retrieval(scores: dict[str, float], arguments: Any, data: DataArguments) -> None:
    """One line for each split that `run_contrastive_training` has scored."""
    for prefix, name in (("eval", data.evaluation_split), (arguments.also_measure_on, arguments.also_measure_on)):
        if prefix is not None:
            of_split = {key.removeprefix(f"{prefix}_"): value for key, value in scores.items()}
            print(format_retrieval(of_split, name))
