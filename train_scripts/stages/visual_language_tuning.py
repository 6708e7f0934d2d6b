"""
Stage 3 of LLaVA-SLT, visual language tuning: trains only a new connector between the visual encoder of stage 2 and the
language model of stage 1, which are both frozen (https://arxiv.org/abs/2412.16524).

    flallm train visual-language-tuning --config llava_slt_visual_language_tuning --dataset phoenix14t/ \
        --vision_model_name_or_path stage2 --text_model_name_or_path stage1 --spoken_language de --output_dir stage3

With `--lora True` (ours) low-rank adapters in the language model are trained, too. With `--cache_features True` each
clip goes through the encoder once, for all epochs and all later runs (`feature_cache.py`). If the data set has a column
`spoken_language`, the prompt names the language of each sentence, otherwise that of `--spoken_language`. A small run on
a CPU, continuing the example of `visual_contrastive_pretraining.py`:

    flallm train visual-language-tuning --config quickstart_llava_slt_visual_language_tuning --dataset corpus \
        --vision_model_name_or_path stage2 --text_model_name_or_path stage1 --output_dir stage3
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from peft import get_peft_model
from transformers import PreTrainedModel, TrainerCallback

from modeling_flallm import LlavaSltForTranslation
from modeling_flallm.own_processing import DEFAULT_SPOKEN_LANGUAGE, LlavaSltProcessor

from ..arguments.command_line import GO_ON_TRAINING, run_command
from ..arguments.commands import COMMANDS
from ..arguments.data_arguments import VideoArguments
from ..arguments.stage_arguments import VisualLanguageTuningArguments
from ..arguments.training_arguments import FLaLLMTrainingArguments
from ..arguments.training_defaults import ConnectorTrainingDefaults
from ..runs.damaged_models import reading_model
from ..runs.generation_defaults import set_generation_defaults
from ..runs.tokenizers import open_tokenizer
from ..runs.training import clip_reader_of, run_training

COMMAND = COMMANDS["train visual-language-tuning"]


@dataclass
class ConnectorTrainingArguments(ConnectorTrainingDefaults, FLaLLMTrainingArguments):
    """No learning rate for biases of the language model."""


def build_model(
    arguments: VisualLanguageTuningArguments, video: VideoArguments, spoken_language: str | None = None
) -> tuple[PreTrainedModel, LlavaSltProcessor]:
    """
    The model of stage 3, frozen and wrapped as requested, and its processor.

    Args:
        spoken_language: tag of the language that the prompt names if the data set does not specify one.
    """
    tokenizer = open_tokenizer(arguments.text_model_name_or_path)
    with reading_model(*(arguments.vision_model_name_or_path or ()), arguments.text_model_name_or_path):
        vision_model = arguments.starting_encoder(LlavaSltForTranslation.encoder_advice)
        processor = LlavaSltProcessor(
            **clip_reader_of(video, vision_model),
            tokenizer=tokenizer,
            prompt=arguments.prompt,
            spoken_language=spoken_language or DEFAULT_SPOKEN_LANGUAGE,
        )
        model = LlavaSltForTranslation.from_vision_text_pretrained(
            vision_model,
            arguments.text_model_name_or_path,
            video_token_id=processor.video_token_id,
            connector_hidden_size=arguments.connector_hidden_size,
            connector_activation=arguments.connector_activation,
            label_smoothing=arguments.label_smoothing,
        )
    processor.set_token_steps(model.vision_model.get_token_steps())
    set_generation_defaults(model, processor.tokenizer, arguments.num_beams)
    if arguments.lora:
        model = get_peft_model(model, arguments.lora_config(**model.get_lora_settings()))
    else:
        model.freeze_text_model()
    return model, processor


def train(argv: Sequence[str] | None = None, callbacks: Sequence[TrainerCallback] = ()) -> dict[str, float]:
    """Stage 3 from command-line arguments, with additional callbacks; returns the scores on the evaluation split."""
    arguments, data, video, augmentation, training, features = COMMAND.parse(argv, ConnectorTrainingArguments)
    return run_training(
        lambda: build_model(arguments, video, data.spoken_language),
        arguments,
        data,
        video,
        augmentation,
        training,
        features,
        callbacks,
    )


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(train, argv, GO_ON_TRAINING)


if __name__ == "__main__":
    sys.exit(main())
