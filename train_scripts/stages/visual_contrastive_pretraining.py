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

import sys
from collections.abc import Sequence
from typing import Any

import torch
from transformers import TrainerCallback, set_seed

from modeling_flallm import (
    LlavaSltContrastiveConfig,
    LlavaSltForContrastivePreTraining,
    LlavaSltVisualConfig,
    LlavaSltVisualEncoder,
    SignEncoder,
)
from modeling_flallm.own_processing import modality_of_input

from ..arguments.command_line import GO_ON_TRAINING, run_command
from ..arguments.commands import COMMANDS
from ..arguments.data_arguments import AugmentationArguments, DataArguments, VideoArguments
from ..arguments.encoder_arguments import ENCODER_ROWS
from ..arguments.stage_arguments import VisualContrastivePretrainingArguments
from ..arguments.training_defaults import CONTRASTIVE_SCORES
from ..clips.collators import IGNORED_LABEL
from ..runs.contrastive_training import (
    ContrastiveTrainer,
    ContrastiveTrainingArguments,
    open_contrastive_splits,
    print_retrieval,
    run_contrastive_training,
)
from ..runs.damaged_models import reading_model
from ..runs.encoder_adapters import add_encoder_adapters
from ..runs.text_targets import TextTargets, load_text_targets, load_word_targets
from ..runs.tokenizers import open_tokenizer
from ..runs.training import build_processor, choose_fast_attention, prepare_visual_encoder, start_run
from ..scores.retrieval import word_scores


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


class WordTrainer(ContrastiveTrainer):
    """Evaluation also counts how many words of each video were found."""

    scores_of_measures = staticmethod(word_scores)

    def measured(self, output: Any, inputs: dict[str, Any]) -> torch.Tensor:
        return _count_words(output.word_logits, inputs["word_ids"])


def _count_words(word_logits: torch.Tensor | None, word_ids: torch.Tensor) -> torch.Tensor:
    """-> `(batch, 3)`: words that are both in the sentence and predicted, predicted, and in the sentence."""
    if word_logits is None:
        return word_ids.new_zeros(len(word_ids), 3)
    is_word = (word_ids != IGNORED_LABEL).long()
    present = torch.zeros_like(word_logits, dtype=torch.long).scatter_add(1, word_ids.clamp(min=0), is_word) > 0
    found = word_logits > 0
    return torch.stack([(found & present).sum(1), found.sum(1), present.sum(1)], dim=1)


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
    opened = open_contrastive_splits(arguments, data, training, CONTRASTIVE_SCORES)
    splits = opened.splits
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
    callbacks = [*callbacks, *start_run(training)]
    tokenizer = open_tokenizer(arguments.text_model_name_or_path)
    column = data.text_column
    targets = load_text_targets(arguments, splits.train[column], opened.evaluated(column), tokenizer, training.device)
    set_seed(training.seed)
    model = build_model(arguments, targets)
    prepare_visual_encoder(model, training)
    choose_fast_attention(model, training)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # processors want one, and nothing is padded with it here
    processor = build_processor(video, tokenizer, model.vision_model)
    return run_contrastive_training(
        WordTrainer,
        model,
        processor,
        opened,
        targets,
        (arguments, data, video, augmentation, training),
        callbacks,
        processing_class=processor.video_processor,
    )


def train(argv: Sequence[str] | None = None, callbacks: Sequence[TrainerCallback] = ()) -> dict[str, float]:
    """Stage 2 from command-line arguments; returns the scores of `run_pretraining`. `callbacks` go to the Trainer."""
    command = COMMANDS["train visual-contrastive-pretraining"]
    arguments, data, video, augmentation, training = command.parse(argv, ContrastiveTrainingArguments)
    scores = run_pretraining(arguments, data, video, augmentation, training, callbacks)
    if training.process_index == 0:
        print_retrieval(scores, arguments, data)
    return scores


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(train, argv, GO_ON_TRAINING)


if __name__ == "__main__":
    sys.exit(main())
