"""
Stage 1 of FLa-LLM, visual initialing: train the visual encoder with a small random text model, Light-T
(https://arxiv.org/abs/2403.12556, section 3.1).

    flallm train visual-initialing --config paper_visual_initialing --dataset phoenix14t/ \
        --tokenizer_name_or_path facebook/mbart-large-cc25 --target_language de_DE --output_dir stage1

For several devices use `accelerate launch -m train_scripts.stages.visual_initialing ...` or `torchrun -m ...`.
A small run on a CPU (`make quickstart` does all of it):

    flallm generate-corpus --output_dir corpus
    flallm train language-model --text_file corpus/text_only.txt --output_dir language_model
    flallm train visual-initialing --config quickstart_visual_initialing --dataset corpus \
        --tokenizer_name_or_path language_model --output_dir stage1
"""

import sys
from collections.abc import Sequence

from transformers import PreTrainedConfig, PreTrainedTokenizerBase, TrainerCallback

from modeling_flallm import FLaLLMConfig, FLaLLMForTranslation, SignEncoder, light_transformer_config
from modeling_flallm.own_processing import FLaLLMProcessor

from ..arguments.command_line import GO_ON_TRAINING, run_command
from ..arguments.commands import COMMANDS
from ..arguments.data_arguments import VideoArguments
from ..arguments.stage_arguments import VisualInitialingArguments
from ..arguments.training_arguments import FLaLLMTrainingArguments
from ..languages.target_languages import language_ids
from ..runs.damaged_models import reading_model
from ..runs.encoder_adapters import add_encoder_adapters
from ..runs.generation_defaults import set_generation_defaults
from ..runs.tokenizers import load_tokenizer
from ..runs.training import build_processor, run_training

COMMAND = COMMANDS["train visual-initialing"]


def build_light_transformer_config(arguments: VisualInitialingArguments, tokenizer: PreTrainedTokenizerBase):
    return light_transformer_config(
        # M2M100's tokenizer does not count its language codes.
        vocab_size=max([len(tokenizer), *(index + 1 for index in language_ids(tokenizer).values())]),
        d_model=arguments.light_hidden_size,
        encoder_ffn_dim=arguments.light_feed_forward_size,
        decoder_ffn_dim=arguments.light_feed_forward_size,
        encoder_layers=arguments.light_layers,
        decoder_layers=arguments.light_layers,
        encoder_attention_heads=arguments.light_attention_heads,
        decoder_attention_heads=arguments.light_attention_heads,
        dropout=arguments.light_dropout,
        activation_function="relu",
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        forced_eos_token_id=None,
    )


def load_encoder(arguments: VisualInitialingArguments) -> SignEncoder | None:
    """That of --vision_model_name_or_path. Image and video models get the temporal module that a new CNN would have."""
    if arguments.vision_model_name_or_path is None:
        return None
    with reading_model(*arguments.vision_model_name_or_path):
        return arguments.load_encoder(
            "Name an image or video model.",
            temporal_blocks=arguments.temporal_blocks,
            temporal_norm=arguments.temporal_norm,
            temporal_padding=arguments.temporal_padding,
            hidden_size=arguments.visual_hidden_size,
        )


def new_encoder_config(arguments: VisualInitialingArguments) -> PreTrainedConfig:
    """Of the sign encoder for other clips than videos, or else of the CNN."""
    other = arguments.other_encoder_config()
    return other or arguments.frame_encoder_config(temporal_padding=arguments.temporal_padding)


def build_model(
    arguments: VisualInitialingArguments, video: VideoArguments
) -> tuple[FLaLLMForTranslation, FLaLLMProcessor]:
    """A random visual encoder, adapter and Light-T, and the processor with the LLM's tokenizer."""
    tokenizer = load_tokenizer(arguments.tokenizer_name_or_path, arguments.target_language)
    encoder = load_encoder(arguments)
    config = FLaLLMConfig(
        vision_config=encoder.config if encoder is not None else new_encoder_config(arguments),
        text_config=build_light_transformer_config(arguments, tokenizer),
        adapter_hidden_size=arguments.adapter_hidden_size,
        adapter_activation=arguments.adapter_activation,
        adapter_norm=arguments.adapter_norm,
        label_smoothing=arguments.label_smoothing,
        word_presence_loss_weight=arguments.word_presence_loss_weight,
    )
    model = FLaLLMForTranslation(config)
    if encoder is not None:
        model.vision_model = encoder
    elif arguments.imagenet_weights:
        model.vision_model.load_imagenet_weights()
    set_generation_defaults(model, tokenizer, arguments.num_beams)
    if arguments.vision_lora:
        add_encoder_adapters(model.vision_model, arguments.lora_config(target_modules="all-linear"))
    return model, build_processor(video, tokenizer, model.vision_model)


def train(argv: Sequence[str] | None = None, callbacks: Sequence[TrainerCallback] = ()) -> dict[str, float]:
    """Stage 1 from command-line arguments, with additional callbacks; returns the scores on the evaluation split."""
    arguments, data, video, augmentation, training = COMMAND.parse(argv, FLaLLMTrainingArguments)
    return run_training(
        lambda: build_model(arguments, video), arguments, data, video, augmentation, training, callbacks=callbacks
    )


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(train, argv, GO_ON_TRAINING)


if __name__ == "__main__":
    sys.exit(main())
