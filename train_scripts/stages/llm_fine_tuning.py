"""
Stage 2 of FLa-LLM, LLM fine-tuning: the visual encoder of stage 1, frozen, a new adapter and a pretrained text model
(https://arxiv.org/abs/2403.12556, section 3.2).

    flallm train llm-fine-tuning --config paper_llm_fine_tuning --dataset phoenix14t/ \
        --vision_model_name_or_path stage1 --text_model_name_or_path facebook/mbart-large-cc25 \
        --target_language de_DE --output_dir stage2

With `--prompt "Translate the given sentence into {spoken_language}."` the text model reads a prompt before the visual
tokens. `--visual_text_alignment_weight 1 --alignment_warm_up_steps 4000` adds SpaMo's contrast of clips and sentences.
With `--lora True` only low-rank adapters in the text model and the visual-language adapter are trained. With
`--cache_features True` each clip goes through the encoder once, for all epochs and all later runs (`feature_cache.py`).
A small run on a CPU, continuing the example of `visual_initialing.py`:

    flallm train llm-fine-tuning --config quickstart_llm_fine_tuning --dataset corpus \
        --vision_model_name_or_path stage1 --text_model_name_or_path language_model --output_dir stage2
"""

import sys
from collections.abc import Sequence

from peft import get_peft_model
from transformers import PreTrainedModel, TrainerCallback

from modeling_flallm import FLaLLMForTranslation
from modeling_flallm.own_processing import FLaLLMProcessor

from ..arguments.command_line import GO_ON_TRAINING, run_command
from ..arguments.commands import COMMANDS
from ..arguments.data_arguments import VideoArguments
from ..arguments.stage_arguments import LLMFineTuningArguments
from ..arguments.training_arguments import FLaLLMTrainingArguments
from ..runs.alignment_warm_up import AlignmentWarmUp
from ..runs.damaged_models import reading_model
from ..runs.encoder_adapters import add_encoder_adapters
from ..runs.generation_defaults import set_generation_defaults
from ..runs.tokenizers import load_tokenizer
from ..runs.training import build_processor, run_training

COMMAND = COMMANDS["train llm-fine-tuning"]


def build_model(
    arguments: LLMFineTuningArguments, video: VideoArguments, spoken_language: str | None = None
) -> tuple[PreTrainedModel, FLaLLMProcessor]:
    """
    The model of stage 2, frozen and wrapped as requested, and the processor with the LLM's tokenizer.

    Args:
        spoken_language: tag of the language that the prompt names if the data set does not specify one.
    """
    with reading_model(*(arguments.vision_model_name_or_path or ()), arguments.text_model_name_or_path):
        model = FLaLLMForTranslation.from_vision_text_pretrained(
            arguments.starting_encoder(FLaLLMForTranslation.encoder_advice),
            arguments.text_model_name_or_path,
            adapter_hidden_size=arguments.adapter_hidden_size,
            adapter_activation=arguments.adapter_activation,
            adapter_norm=arguments.adapter_norm,
            label_smoothing=arguments.label_smoothing,
            word_presence_loss_weight=arguments.word_presence_loss_weight,
            visual_text_alignment_weight=arguments.visual_text_alignment_weight,
            has_prompt=arguments.prompt is not None,
        )
    tokenizer = load_tokenizer(arguments.text_model_name_or_path, arguments.target_language)
    set_generation_defaults(model, tokenizer, arguments.num_beams)
    if arguments.text_model_dropout is not None:
        _set_dropout(model, arguments.text_model_dropout)
    if arguments.vision_lora:
        add_encoder_adapters(model.vision_model, arguments.lora_config(target_modules="all-linear"))
    if arguments.lora:
        model = get_peft_model(model, arguments.lora_config(**model.get_lora_settings()))
    named = {} if spoken_language is None else {"spoken_language": spoken_language}
    return model, build_processor(video, tokenizer, model.vision_model, prompt=arguments.prompt, **named)


def _set_dropout(model: FLaLLMForTranslation, probability: float) -> None:
    """mBART, BART and M2M100 keep the probability as an attribute of each layer, T5 in dropout modules."""
    for module in model.text_model.modules():
        if isinstance(getattr(module, "dropout", None), float):
            module.dropout = probability
        if isinstance(getattr(module, "p", None), float):
            module.p = probability
    for name in ("dropout", "dropout_rate"):
        if hasattr(model.config.text_config, name):
            setattr(model.config.text_config, name, probability)


def train(argv: Sequence[str] | None = None, callbacks: Sequence[TrainerCallback] = ()) -> dict[str, float]:
    """Stage 2 from command-line arguments, with additional callbacks; returns the scores on the evaluation split."""
    arguments, data, video, augmentation, training, features = COMMAND.parse(argv, FLaLLMTrainingArguments)
    if arguments.alignment_warm_up_steps:
        callbacks = [*callbacks, AlignmentWarmUp(arguments.alignment_warm_up_steps)]
        training.ddp_find_unused_parameters = True  # the Trainer's choice, but also with gradient checkpointing
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
