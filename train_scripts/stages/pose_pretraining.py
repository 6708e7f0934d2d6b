"""
Uni-Sign's pretraining on poses: a new pose encoder and a pretrained text model, all of which is trained
(https://arxiv.org/abs/2501.15187).

    flallm train pose-pretraining --config uni_sign_pose_pretraining --dataset csl_news/ \
        --text_model_name_or_path google/mt5-base --spoken_language zh --output_dir pretrained

The data set has a column `poses`. If it also has a column `spoken_language`, the prompt names the language of each
sentence, otherwise that of `--spoken_language`. On several devices the batch of the preset is divided by their number:
start with torchrun, DeepSpeed is not needed.
"""

import sys
from collections.abc import Sequence

from transformers import TrainerCallback

from modeling_flallm import UniSignForTranslation
from modeling_flallm.encoders_slt import build_sign_encoder
from modeling_flallm.own_processing import FLaLLMProcessor

from ..arguments.command_line import GO_ON_TRAINING, run_command
from ..arguments.commands import COMMANDS
from ..arguments.data_arguments import VideoArguments
from ..arguments.stage_arguments import PosePretrainingArguments
from ..arguments.training_arguments import FLaLLMTrainingArguments
from ..runs.damaged_models import reading_model
from ..runs.generation_defaults import set_generation_defaults
from ..runs.tokenizers import load_tokenizer
from ..runs.training import build_processor, run_training

COMMAND = COMMANDS["train pose-pretraining"]


def build_model(
    arguments: PosePretrainingArguments, video: VideoArguments, spoken_language: str | None = None
) -> tuple[UniSignForTranslation, FLaLLMProcessor]:
    """
    A new pose encoder in front of a pretrained text model, and the processor with that model's tokenizer.

    Args:
        spoken_language: tag of the language that the prompt names if the data set does not specify one.
    """
    with reading_model(arguments.text_model_name_or_path):
        model = UniSignForTranslation.from_vision_text_pretrained(
            build_sign_encoder(arguments.encoder_config()),
            arguments.text_model_name_or_path,
            label_smoothing=arguments.label_smoothing,
            word_presence_loss_weight=arguments.word_presence_loss_weight,
        )
    tokenizer = load_tokenizer(arguments.text_model_name_or_path, arguments.target_language)
    set_generation_defaults(model, tokenizer, arguments.num_beams)
    named = {} if spoken_language is None else {"spoken_language": spoken_language}
    return model, build_processor(video, tokenizer, model.vision_model, prompt=arguments.prompt, **named)


def train(argv: Sequence[str] | None = None, callbacks: Sequence[TrainerCallback] = ()) -> dict[str, float]:
    """Pretrain from command-line arguments, with additional callbacks; returns the scores on the evaluation split."""
    arguments, data, video, augmentation, training = COMMAND.parse(argv, FLaLLMTrainingArguments)
    return run_training(
        lambda: build_model(arguments, video, data.spoken_language),
        arguments,
        data,
        video,
        augmentation,
        training,
        callbacks=callbacks,
    )


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(train, argv, GO_ON_TRAINING)


if __name__ == "__main__":
    sys.exit(main())
