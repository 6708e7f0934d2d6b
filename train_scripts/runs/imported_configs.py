"""Configurations for checkpoints without one: inferred from the shapes of their weights, or known from their code."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from transformers import MBartConfig, PreTrainedConfig, PreTrainedTokenizerBase

from modeling_flallm import FLaLLMVisionConfig
from modeling_flallm.encoder_frames_slt import RESNET_STAGES

from .damaged_models import read_config
from .imported_weights import (
    TIED_WEIGHTS,
    WORD_EMBEDDINGS,
    weight_of,
)

MBART_POSITION_OFFSET = 2  # extra rows at the start of mBART's learned positions
# Settings of a text model that its weights do not show, from pretrain_models/mytran/config.json of GFSLT-VLP.
LIGHT_TRANSFORMER = {
    "encoder_attention_heads": 8,
    "decoder_attention_heads": 8,
    "activation_function": "relu",
    "scale_embedding": True,
    "dropout": 0.1,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "encoder_layerdrop": 0.0,
    "decoder_layerdrop": 0.0,
}


def read_vision_config(weights: Mapping[str, torch.Tensor]) -> FLaLLMVisionConfig:
    """The visual encoder, with the ResNet and widths inferred from the weights; the rest is fixed in their code."""
    blocks = {tuple(match.groups()) for name in weights if (match := re.search(r"\.layer(\d)\.(\d+)\.", name))}
    depths = tuple(sum(stage == str(index) for stage, _ in blocks) for index in range(1, 5))
    has_bottlenecks = "vision_model.backbone.layer1.0.conv3.weight" in weights
    for backbone, (block, known_depths) in RESNET_STAGES.items():
        if depths == known_depths and has_bottlenecks == (block.__name__ == "Bottleneck"):
            return FLaLLMVisionConfig(
                backbone=backbone,
                backbone_width=len(weight_of(weights, "vision_model.backbone.conv1.weight")),
                hidden_size=len(weight_of(weights, "vision_model.temporal_module.blocks.0.convolution.bias")),
                temporal_blocks=("K5", "P2", "K5", "P2"),
                temporal_padding="replicate",
            )
    raise ValueError(
        f"The checkpoint's ResNet has {depths} blocks in its four stages, unlike {', '.join(RESNET_STAGES)}."
    )


def read_text_sizes(weights: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """The fields of an mBART configuration that can be inferred from the weights of the text model."""
    vocabulary_size, hidden_size = weight_of(weights, WORD_EMBEDDINGS).shape
    sizes = {"vocab_size": vocabulary_size, "d_model": hidden_size}
    for side in ("encoder", "decoder"):
        start = f"text_model.model.{side}."
        layers = {name.removeprefix(start).split(".")[1] for name in weights if name.startswith(f"{start}layers.")}
        sizes[f"{side}_layers"] = len(layers)
        sizes[f"{side}_ffn_dim"] = len(weight_of(weights, f"{start}layers.0.fc1.bias"))
    positions = weight_of(weights, "text_model.model.encoder.embed_positions.weight")
    return {**sizes, "max_position_embeddings": len(positions) - MBART_POSITION_OFFSET}


def read_mbart_config(path: str) -> PreTrainedConfig:
    """
    Raises:
        ValueError: if the file, folder or Hub id has no mBART configuration.
    """
    try:
        config = read_config(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} has no readable configuration of a text model: {error}") from error
    if not isinstance(config, MBartConfig):
        raise ValueError(f"{path} must hold an mBART, like these checkpoints, got model type {config.model_type!r}.")
    return config


def build_text_config(
    source: str,
    weights: Mapping[str, torch.Tensor],
    language_model: PreTrainedConfig,
    named_config: str | None,
    tokenizer: PreTrainedTokenizerBase,
) -> MBartConfig:
    """
    Sizes come from the weights, the rest from `named_config`, the language model (stage 2) or the known Light-T.

    Raises:
        ValueError: if weights, tokenizer and configuration do not belong together.
    """
    sizes = read_text_sizes(weights)
    if not sizes["vocab_size"] == language_model.vocab_size == len(tokenizer):
        raise ValueError(
            f"The checkpoint has a vocabulary of {sizes['vocab_size']} tokens, the text model has "
            f"{language_model.vocab_size} and its tokenizer {len(tokenizer)}. Name the text model that the checkpoint "
            "was trained with."
        )
    if named_config is not None:
        settings = _settings_from(named_config, read_mbart_config(named_config), sizes)
    elif source == "sltbaselines_stage2":
        settings = _settings_from("the text model", language_model, sizes)
    else:
        _check_light_transformer(sizes, language_model)
        settings = LIGHT_TRANSFORMER
    special_tokens = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    is_tied = not any(name in weights for name in TIED_WEIGHTS)
    return MBartConfig(**settings, **sizes, **special_tokens, forced_eos_token_id=None, tie_word_embeddings=is_tied)


def _settings_from(name: str, config: PreTrainedConfig, sizes: Mapping[str, int]) -> dict[str, Any]:
    differences = [
        f"{field} is {size} in the checkpoint and {getattr(config, field)} in {name}"
        for field, size in sizes.items()
        if getattr(config, field) != size
    ]
    if differences:
        raise ValueError(
            f"{'; '.join(differences)}. Name the text model that the checkpoint was trained with, and the right "
            "--source."
        )
    return {field: getattr(config, field) for field in LIGHT_TRANSFORMER}


def _check_light_transformer(sizes: Mapping[str, int], language_model: PreTrainedConfig) -> None:
    """Weights do not show heads and activation: guess neither if the text model may not be Light-T."""
    layers = sizes["encoder_layers"], sizes["decoder_layers"]
    if layers[0] != layers[1] or layers[1] == language_model.decoder_layers:
        raise ValueError(
            f"The checkpoint's text model has {layers[0]} + {layers[1]} layers, so it may not be Light-T (mytran), "
            "whose attention heads and activation are known. If it is the language model itself, pass --source "
            "sltbaselines_stage2, else its configuration as --text_config_file (such as LLMD_config.json)."
        )
