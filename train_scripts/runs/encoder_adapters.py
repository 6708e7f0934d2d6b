"""Low-rank adapters (LoRA) in the image and video models of transformers that a sign encoder runs."""

import copy

from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

from modeling_flallm import SignEncoder


def add_encoder_adapters(encoder: SignEncoder, config: LoraConfig) -> None:
    """
    Put low-rank adapters into every linear layer of these models, and freeze all else in them.

    Raises:
        ValueError: for an encoder without such a layer.
    """
    backbones = _backbones_of(encoder)
    if not any(isinstance(layer, nn.Linear) for backbone in backbones for layer in backbone.modules()):
        raise ValueError(
            f"The sign encoder, {type(encoder).__name__}, has no image or video model with linear layers, so it cannot "
            "get low-rank adapters. Leave out --vision_lora, and freeze or train it."
        )
    for backbone in backbones:
        inject_adapter_in_model(copy.deepcopy(config), backbone)  # peft writes the layers of the model into it


def merge_encoder_adapters(encoder: SignEncoder) -> None:
    """Add the adapters to the weights that they change, so that the encoder is like any other."""
    for backbone in _backbones_of(encoder):
        adapted = [(name, layer) for name, layer in backbone.named_modules() if isinstance(layer, LoraLayer)]
        for name, layer in adapted:
            layer.merge()
            parent, _, own_name = name.rpartition(".")
            setattr(backbone.get_submodule(parent), own_name, layer.get_base_layer())
        backbone.requires_grad_(True)


def _backbones_of(encoder: SignEncoder) -> list[nn.Module]:
    parts = [part for part in encoder.modules() if isinstance(part, SignEncoder)]
    return [part.pretrained_backbone for part in parts if part.pretrained_backbone is not None]
