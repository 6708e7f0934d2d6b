"""A whole model that is trained further, with its processor."""

from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedModel, TrainerCallback

from modeling_flallm.own_processing import FLaLLMProcessor, spoken_language_name
from modeling_flallm.systems import find_stage

from ..arguments.commands import Command
from ..arguments.data_arguments import FineTuningVideoArguments
from ..arguments.described_stage_arguments import TranslationFineTuningArguments
from ..arguments.stage_arguments import UnifiedFineTuningArguments
from ..arguments.training_arguments import FLaLLMTrainingArguments
from .generation_defaults import set_generation_defaults
from .trained_models import load_to_train_further
from .training import run_training


def run_fine_tuning(
    command: Command,
    build: Callable[..., tuple[PreTrainedModel, FLaLLMProcessor]],
    argv: Sequence[str] | None,
    callbacks: Sequence[TrainerCallback],
) -> dict[str, float]:
    """
    A stage that trains a whole model further, from command-line arguments, as `run_training`.

    Args:
        build: from the stage's arguments, those of its clips and the tag of the spoken language, makes the model and
            its processor, as `load_to_fine_tune` does.
    """
    arguments, data, video, augmentation, training = command.parse(argv, FLaLLMTrainingArguments)
    return run_training(
        lambda: build(arguments, video, data.spoken_language),
        arguments,
        data,
        video.completed(),
        augmentation,
        training,
        callbacks=callbacks,
    )


def load_to_fine_tune(
    arguments: UnifiedFineTuningArguments | TranslationFineTuningArguments,
    video: FineTuningVideoArguments,
    spoken_language: str | None = None,
) -> tuple[PreTrainedModel, FLaLLMProcessor]:
    """
    The pretrained model and its processor, which prepares clips as in pretraining, except for the flags that are given.

    Args:
        spoken_language: tag of the language that the prompt names if the data set does not specify one. Default: the
            one that the model was saved with.

    Raises:
        ValueError: for what is no trained model of the stage's system, and a prompt for a model that reads none.
    """
    name, system = arguments.model_name_or_path, find_stage(arguments.stage_name)[0]
    model, processor = load_to_train_further(name, dtype=torch.get_default_dtype())
    if type(model).__name__ != system.model_class:
        raise ValueError(
            f"--model_name_or_path {name!r} must hold a whole {system.title} model, {system.model_class}, got "
            f"{type(model).__name__}."
        )
    model.config.label_smoothing = arguments.label_smoothing
    processor.modality.change_part(video.given(), model.vision_model.config)
    if arguments.prompt is not None:
        if not model.config.has_prompt:
            raise ValueError(f"--prompt: the model {name!r} reads none (`has_prompt` of its configuration is False).")
        processor.prompt = arguments.prompt
    if spoken_language is not None:
        processor.spoken_language = spoken_language_name(spoken_language)
    set_generation_defaults(model, processor.tokenizer, arguments.num_beams)
    return model, processor
