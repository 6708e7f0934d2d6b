"""
Uni-Sign's fine-tuning: all of a pretrained model, for one data set and one task (https://arxiv.org/abs/2501.15187).

    flallm train unified-fine-tuning --config uni_sign_unified_fine_tuning --dataset csl_daily/ \
        --model_name_or_path pretrained --spoken_language zh --output_dir fine_tuned

`--model_name_or_path` is a whole model: of `flallm train pose-pretraining`, of an earlier fine-tuning, or Uni-Sign's
published weights, imported with `flallm import-checkpoint`. With `--target gloss` the model learns to write the glosses
of a clip, or the one gloss of an isolated sign, and evaluation also reports word error rate and accuracy.
"""

import sys
from collections.abc import Sequence

import torch
from transformers import TrainerCallback

from modeling_flallm import UniSignForTranslation
from modeling_flallm.own_processing import FLaLLMProcessor, spoken_language_name
from modeling_flallm.systems import find_stage

from ..arguments.command_line import GO_ON_TRAINING, run_command
from ..arguments.commands import COMMANDS
from ..arguments.data_arguments import FineTuningVideoArguments
from ..arguments.stage_arguments import UnifiedFineTuningArguments
from ..arguments.training_arguments import FLaLLMTrainingArguments
from ..runs.generation_defaults import set_generation_defaults
from ..runs.trained_models import load_trained
from ..runs.training import run_training

COMMAND = COMMANDS["train unified-fine-tuning"]


def build_model(
    arguments: UnifiedFineTuningArguments, video: FineTuningVideoArguments, spoken_language: str | None = None
) -> tuple[UniSignForTranslation, FLaLLMProcessor]:
    """
    The pretrained model and its processor, which prepares clips as in pretraining, except for the flags that are given.

    Args:
        spoken_language: tag of the language that the prompt names if the data set does not specify one. Default: the
            one that the model was saved with.

    Raises:
        ValueError: for what is no trained Uni-Sign model, and a prompt for a model that reads none.
    """
    name, system = arguments.model_name_or_path, find_stage(arguments.stage_name)[0]
    model, processor = load_trained(name, dtype=torch.get_default_dtype())
    if type(model).__name__ != system.model_class:
        raise ValueError(
            f"--model_name_or_path {name!r} must hold a whole {system.title} model, {system.model_class}, got "
            f"{type(model).__name__}."
        )
    model.config.label_smoothing = arguments.label_smoothing
    for setting, value in video.given().items():
        if hasattr(processor.modality.part, setting):
            setattr(processor.modality.part, setting, value)
    if arguments.prompt is not None:
        if not model.config.has_prompt:
            raise ValueError(f"--prompt: the model {name!r} reads none (`has_prompt` of its configuration is False).")
        processor.prompt = arguments.prompt
    if spoken_language is not None:
        processor.spoken_language = spoken_language_name(spoken_language)
    set_generation_defaults(model, processor.tokenizer, arguments.num_beams)
    return model, processor


def train(argv: Sequence[str] | None = None, callbacks: Sequence[TrainerCallback] = ()) -> dict[str, float]:
    """Fine-tune from command-line arguments, with additional callbacks; returns the scores on the evaluation split."""
    arguments, data, video, augmentation, training = COMMAND.parse(argv, FLaLLMTrainingArguments)
    return run_training(
        lambda: build_model(arguments, video, data.spoken_language),
        arguments,
        data,
        video.completed(),
        augmentation,
        training,
        callbacks=callbacks,
    )


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(train, argv, GO_ON_TRAINING)


if __name__ == "__main__":
    sys.exit(main())
