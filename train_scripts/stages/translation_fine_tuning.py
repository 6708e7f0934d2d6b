"""
MMSLT's stage 2, fine-tuning for translation: the pretrained model learns to write, its description mapper frozen
(https://arxiv.org/abs/2411.16789).

    flallm train translation-fine-tuning --config mmslt_translation_fine_tuning --dataset phoenix14t/ \
        --model_name_or_path pretrained --output_dir fine_tuned

`--model_name_or_path` is the output folder of `flallm train multimodal-pretraining`, or of an earlier fine-tuning. It
needs no descriptions. A small run on a CPU, continuing the example of `multimodal_pretraining.py`:

    flallm train translation-fine-tuning --config quickstart_mmslt_translation_fine_tuning --dataset corpus \
        --model_name_or_path pretrained --output_dir fine_tuned
"""

import sys
from collections.abc import Sequence

from peft import get_peft_model
from transformers import PreTrainedModel, TrainerCallback

from modeling_flallm.own_processing import FLaLLMProcessor

from ..arguments.command_line import GO_ON_TRAINING, run_command
from ..arguments.commands import COMMANDS
from ..arguments.data_arguments import FineTuningVideoArguments
from ..arguments.described_stage_arguments import TranslationFineTuningArguments
from ..runs.fine_tuned_models import load_to_fine_tune, run_fine_tuning

COMMAND = COMMANDS["train translation-fine-tuning"]


def build_model(
    arguments: TranslationFineTuningArguments, video: FineTuningVideoArguments, spoken_language: str | None = None
) -> tuple[PreTrainedModel, FLaLLMProcessor]:
    """The pretrained model, its mapper frozen and wrapped as requested, and its processor."""
    model, processor = load_to_fine_tune(arguments, video, spoken_language)
    model.freeze_description_mapper()
    if arguments.lora:
        model = get_peft_model(model, arguments.lora_config(**model.get_lora_settings()))
    return model, processor


def train(argv: Sequence[str] | None = None, callbacks: Sequence[TrainerCallback] = ()) -> dict[str, float]:
    """Fine-tune from command-line arguments, with additional callbacks; returns the scores on the evaluation split."""
    return run_fine_tuning(COMMAND, build_model, argv, callbacks)


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(train, argv, GO_ON_TRAINING)


if __name__ == "__main__":
    sys.exit(main())
