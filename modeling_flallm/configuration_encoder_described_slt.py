"""Configuration of the sign encoder that learns from descriptions, MMSLT's (https://arxiv.org/abs/2411.16789)."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .configuration_encoder_combined_slt import ConfigBehindAnother
from .encoder_registry_slt import build_vision_config


@strict
class DescribedConfig(ConfigBehindAnother):
    r"""
    A sign encoder with a description mapper behind it: an MLP that learns to predict the embeddings of texts which
    describe the signing. MMSLT's temporal module is a `TemporalConfig` around it.

    Args:
        encoder_config (`PreTrainedConfig` or `dict`):
            Any sign encoder. MMSLT's gives one token of width 512 per frame (a ResNet-18):
            `FLaLLMVisionConfig(temporal_blocks=[])`.
        description_size (`int`, *optional*, defaults to 768):
            Width of the embedding of a description (MMSLT: BERT's).
        mapper_hidden_size (`int`, *optional*, defaults to 1024):
            Width between the two layers of the mapper (MMSLT).
        mapper_loss_weight (`float`, *optional*, defaults to 0.1):
            Weight of the mapper's mean squared error (MMSLT).
        hidden_size (`int`, *optional*):
            Width of a visual token: always that of the encoder plus `description_size`.

    Raises:
        ValueError: for an encoder that is not a sign encoder, widths below 1, and a weight below 0.
    """

    model_type = "described_slt"

    encoder_config: dict | PreTrainedConfig | None = None
    description_size: int = 768
    mapper_hidden_size: int = 1024
    mapper_loss_weight: float | int = 0.1
    hidden_size: int | None = None

    def __post_init__(self, **kwargs):
        self.encoder_config = build_vision_config(self.encoder_config)
        for name in ("description_size", "mapper_hidden_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be 1 or more, got {getattr(self, name)}.")
        if self.mapper_loss_weight < 0:
            raise ValueError(f"`mapper_loss_weight` must be 0 or more, got {self.mapper_loss_weight}.")
        self.hidden_size = self.encoder_config.hidden_size + self.description_size
        super().__post_init__(**kwargs)


__all__ = ["DescribedConfig"]
