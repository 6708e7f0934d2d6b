"""
Stage 2 of LLaVA-SLT, visual contrastive pretraining: the hierarchical visual encoder learns to match each video with
the embedding of its sentence from a frozen text encoder, and its word-like tokens with those tokens of the language
model that occur in the sentence (https://arxiv.org/abs/2412.16524).

    flallm train visual-contrastive-pretraining --config llava_slt_visual_contrastive_pretraining \
        --dataset phoenix14t/ --text_model_name_or_path stage1 --text_encoder_name_or_path BAAI/bge-m3 \
        --output_dir stage2

The output folder holds the encoder with its two projections, for `flallm train visual-language-tuning`. The run is
scored by retrieval: for each video of the evaluation split, all distinct sentences of the split are ranked by their
similarity to it, and the rank of its own sentence counts. A small run on a CPU:

    flallm train visual-contrastive-pretraining --config quickstart_llava_slt_visual_contrastive_pretraining \
        --dataset corpus --text_model_name_or_path stage1 --output_dir stage2
"""

import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import torch
from transformers import (
    EvalPrediction,
    TrainerCallback,
    set_seed,
)

from modeling_flallm import (
    LlavaSltContrastiveConfig,
    LlavaSltForContrastivePreTraining,
    LlavaSltVisualConfig,
    LlavaSltVisualEncoder,
    SignEncoder,
)
from modeling_flallm.own_processing import FLaLLMProcessor, modality_of_input

from ..arguments.command_line import GO_ON_TRAINING, run_command
from ..arguments.commands import COMMANDS
from ..arguments.data_arguments import AugmentationArguments, DataArguments, VideoArguments
from ..arguments.encoder_arguments import ENCODER_ROWS
from ..arguments.stage_arguments import VisualContrastivePretrainingArguments
from ..arguments.training_arguments import FLaLLMTrainingArguments
from ..arguments.training_defaults import CONTRASTIVE_SCORES, ContrastiveTrainingDefaults
from ..clips.augmentation import ClipAugmentation
from ..clips.collators import IGNORED_LABEL, TranslationCollator
from ..clips.data import SignClipDataset
from ..clips.splits import load_split
from ..hub.hub_names import check_model_names
from ..hub.training_run import add_retrieval, describe_run
from ..runs.damaged_models import reading_model
from ..runs.encoder_adapters import add_encoder_adapters
from ..runs.resuming import check_run
from ..runs.text_targets import TextTargets, load_text_targets, load_word_targets, normal_form
from ..runs.tokenizers import open_tokenizer
from ..runs.trainers import ClipTrainer
from ..runs.training import (
    as_prepared,
    build_processor,
    build_trainer,
    check_score_name,
    choose_fast_attention,
    prepare_visual_encoder,
    start_run,
    train_and_finish,
)
from ..runs.training_clips import open_splits, prepare_clips
from ..scores.retrieval import format_retrieval, retrieval_scores, word_scores


@dataclass
class ContrastiveTrainingArguments(ContrastiveTrainingDefaults, FLaLLMTrainingArguments):
    """Evaluation by retrieval instead of generation."""


def load_frame_encoder(arguments: VisualContrastivePretrainingArguments) -> SignEncoder | None:
    """That of --vision_model_name_or_path, with the temporal module that a new CNN would have."""
    if arguments.vision_model_name_or_path is None:
        return None
    with reading_model(*arguments.vision_model_name_or_path):
        return arguments.load_encoder(
            "Name an image model.",
            temporal_blocks=arguments.temporal_blocks,
            temporal_norm=arguments.temporal_norm,
            hidden_size=arguments.visual_hidden_size,
        )


def build_model(
    arguments: VisualContrastivePretrainingArguments, targets: TextTargets
) -> LlavaSltForContrastivePreTraining:
    """A visual encoder with random or ImageNet weights, and the targets from the text side."""
    word_targets = load_word_targets(arguments.text_model_name_or_path, targets.token_ids)
    frame_encoder = load_frame_encoder(arguments)
    config = LlavaSltContrastiveConfig(
        vision_config=LlavaSltVisualConfig(
            frame_config=arguments.frame_encoder_config() if frame_encoder is None else frame_encoder.config,
            word_window_size=arguments.word_window_size,
            word_window_stride=arguments.word_window_stride,
            word_hidden_size=arguments.word_hidden_size,
            word_layers=arguments.word_layers,
            word_attention_heads=arguments.word_attention_heads,
            word_feed_forward_size=arguments.word_feed_forward_size,
            dropout=arguments.word_dropout,
        ),
        sentence_target_size=targets.width,
        word_target_size=word_targets.shape[1],
        word_vocabulary_size=len(word_targets),
        temperature_init=arguments.temperature,
        word_alignment_weight=arguments.word_alignment_weight,
        memory_bank_size=arguments.memory_bank_size,
    )
    model = LlavaSltForContrastivePreTraining(config)
    if frame_encoder is not None:
        model.vision_model.frame_encoder = frame_encoder
        if arguments.vision_lora:
            add_encoder_adapters(frame_encoder, arguments.lora_config(target_modules="all-linear"))
    elif arguments.imagenet_weights:
        model.vision_model.load_imagenet_weights()
    if model.has_word_level:
        model.set_word_targets(word_targets)
    return model


class ContrastiveCollator(TranslationCollator):
    """Items of `SignClipDataset` -> what `LlavaSltForContrastivePreTraining` takes, padded."""

    def __init__(self, processor: FLaLLMProcessor, targets: TextTargets, preprocess_on_device: bool = False):
        super().__init__(processor, preprocess_on_device)
        self.targets = targets

    def text_inputs(self, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        texts = [item["text"] for item in items]
        return {
            "sentence_embeddings": self.targets.embeddings_of(texts),
            "word_ids": self.targets.word_ids_of(texts),
        }


class ContrastiveTrainer(ClipTrainer):
    """Evaluation gathers the embedding of each video, and how many of its words were found."""

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None, **generation_arguments):
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            output = model(**inputs)
        if prediction_loss_only:
            return output.loss, None, None
        return output.loss, output.video_embeddings, _count_words(output.word_logits, inputs["word_ids"])


def _count_words(word_logits: torch.Tensor | None, word_ids: torch.Tensor) -> torch.Tensor:
    """-> `(batch, 3)`: words that are both in the sentence and predicted, predicted, and in the sentence."""
    if word_logits is None:
        return word_ids.new_zeros(len(word_ids), 3)
    is_word = (word_ids != IGNORED_LABEL).long()
    present = torch.zeros_like(word_logits, dtype=torch.long).scatter_add(1, word_ids.clamp(min=0), is_word) > 0
    found = word_logits > 0
    return torch.stack([(found & present).sum(1), found.sum(1), present.sum(1)], dim=1)


def build_compute_scores(targets: TextTargets, texts: Sequence[str]) -> Callable[[EvalPrediction], dict[str, float]]:
    """`compute_metrics` for clips with these sentences, in the order of the data set."""
    texts = [normal_form(text) for text in texts]
    distinct = list(dict.fromkeys(texts))
    row_of = {text: row for row, text in enumerate(distinct)}
    own = torch.tensor([row_of[text] for text in texts])
    sentences = targets.embeddings_of(distinct)

    def compute_scores(evaluation: EvalPrediction) -> dict[str, float]:
        # With several processes the first clips are repeated at the end, to fill the last batch.
        videos = torch.from_numpy(evaluation.predictions[: len(texts)])
        return {**retrieval_scores(videos, sentences, own), **word_scores(evaluation.label_ids[: len(texts)])}

    return compute_scores


def run_pretraining(
    arguments: VisualContrastivePretrainingArguments,
    data: DataArguments,
    video: VideoArguments,
    augmentation: AugmentationArguments,
    training: ContrastiveTrainingArguments,
    callbacks: Sequence[TrainerCallback] = (),
) -> dict[str, float]:
    """
    Train, choose the best checkpoint and save model, video processor and model card in the output folder.

    Returns:
        `dict[str, float]`: the scores of the best checkpoint, prefixed with `eval_`, and those of the additionally
        measured split, prefixed with its name.

    Raises:
        ValueError, FileNotFoundError: for mistakes that the user has to fix, before any training.
    """
    check_run(training)
    check_model_names(arguments)
    check_score_name(training, CONTRASTIVE_SCORES)
    if data.streaming:
        raise ValueError(
            "--streaming is not for this stage: all sentences are embedded before training. Leave it out, and download "
            "the data set."
        )
    splits = open_splits(data, training)
    modality = modality_of_input(LlavaSltVisualEncoder.main_input_name)
    if modality.column not in splits.train.column_names:
        raise ValueError(
            f"Visual contrastive pretraining trains a visual encoder on {modality.words.clips}; the data set has none."
            + "".join(
                f" For its {row.clips} go on with stage 3, flallm train visual-language-tuning, with --{row.flag}."
                for row in ENCODER_ROWS
                if row.column in splits.train.column_names
            )
        )
    other_split = None if arguments.also_measure_on is None else load_split(data, arguments.also_measure_on)
    callbacks = [*callbacks, *start_run(training)]
    tokenizer = open_tokenizer(arguments.text_model_name_or_path)
    evaluated = [split[data.text_column] for split in (splits.evaluation, other_split) if split is not None]
    targets = load_text_targets(
        arguments, splits.train[data.text_column], list(itertools.chain(*evaluated)), tokenizer, training.device
    )
    set_seed(training.seed)
    model = build_model(arguments, targets)
    prepare_visual_encoder(model, training)
    choose_fast_attention(model, training)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # processors want one, and nothing is padded with it here
    processor = build_processor(video, tokenizer, model.vision_model)
    video = as_prepared(video, processor)
    clips = prepare_clips(splits, processor, data, ClipAugmentation(augmentation, video), training)
    trainer = build_trainer(
        ContrastiveTrainer,
        model,
        clips,
        ContrastiveCollator(processor, targets, training.preprocess_on_device),
        training,
        callbacks,
        processing_class=processor.video_processor,
        compute_metrics=build_compute_scores(targets, clips.evaluation.texts),
    )
    trainer.training_run = describe_run(arguments, data, video, augmentation, training, splits.by_name(data), model)
    scores = train_and_finish(trainer, data)
    if other_split is not None:
        scores |= _measure(trainer, other_split, arguments.also_measure_on, data, targets)
        trainer.create_model_card()
        if training.push_to_hub:
            trainer.push_to_hub()
    return scores


def _measure(
    trainer: ContrastiveTrainer, split: datasets.Dataset, name: str, data: DataArguments, targets: TextTargets
) -> dict[str, float]:
    """Scores of one more split, with its name in front, also in the model card."""
    clips = SignClipDataset(split, trainer.data_collator.processor, text_column=data.text_column)
    trainer.compute_metrics = build_compute_scores(targets, clips.texts)
    scores = trainer.evaluate(clips, metric_key_prefix=name)
    trainer.save_metrics(name, scores)
    add_retrieval(trainer.training_run, scores, name, name)
    return scores


def train(argv: Sequence[str] | None = None, callbacks: Sequence[TrainerCallback] = ()) -> dict[str, float]:
    """Stage 2 from command-line arguments; returns the scores of `run_pretraining`. `callbacks` go to the Trainer."""
    command = COMMANDS["train visual-contrastive-pretraining"]
    arguments, data, video, augmentation, training = command.parse(argv, ContrastiveTrainingArguments)
    scores = run_pretraining(arguments, data, video, augmentation, training, callbacks)
    if training.process_index == 0:
        for prefix, name in (("eval", data.evaluation_split), (arguments.also_measure_on, arguments.also_measure_on)):
            if prefix is not None:
                of_split = {key.removeprefix(f"{prefix}_"): value for key, value in scores.items()}
                print(format_retrieval(of_split, name))
    return scores


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(train, argv, GO_ON_TRAINING)


if __name__ == "__main__":
    sys.exit(main())
