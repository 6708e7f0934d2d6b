"""Configurations of sign encoders that are made of others: several side by side, and one with a module over time."""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from .configuration_encoder_frames_slt import check_temporal_blocks, stride_of_blocks
from .configuration_encoder_pretrained_slt import ConfigOfParts, PretrainedVisionConfig
from .encoder_registry_slt import build_vision_config


@strict
class SideBySideConfig(ConfigOfParts):
    r"""
    Several sign encoders that see the same clip; their visual tokens are joined, aligned in time.

    Args:
        encoder_configs (`list`):
            Configurations of two or more sign encoders, or their values. Pretrained ones all get frames that are
            normalised for the first of them, in the largest of their sizes.

    Raises:
        ValueError: for fewer than two encoders.
    """

    model_type = "side_by_side_slt"
    base_config_key = "vision_config"
    has_no_defaults_at_init = True

    encoder_configs: list | tuple | None = None
    hidden_size: int | None = None

    def __post_init__(self, **kwargs):
        self.encoder_configs = [build_vision_config(config) for config in self.encoder_configs or ()]
        if len(self.encoder_configs) < 2:
            raise ValueError(
                f"`encoder_configs` must be those of two or more sign encoders, got {len(self.encoder_configs)}."
            )
        self._share_frames()
        self.hidden_size = sum(config.hidden_size for config in self.encoder_configs)
        super().__post_init__(**kwargs)

    @property
    def parts(self) -> list[PreTrainedConfig]:
        return self.encoder_configs

    def _share_frames(self) -> None:
        pretrained = _pretrained_in(self)
        for config in pretrained[1:]:
            config.input_mean, config.input_std = pretrained[0].input_mean, pretrained[0].input_std

    @property
    def frame_settings(self) -> dict[str, Any] | None:
        """See `PretrainedVisionConfig.frame_settings`."""
        settings = [getattr(config, "frame_settings", None) for config in self.encoder_configs]
        settings = [each for each in settings if each is not None]
        if not settings:
            return None
        return {**settings[0], "size": max(each["size"] for each in settings)}

    def to_dict(self) -> dict[str, Any]:
        """See `PreTrainedConfig.to_dict`, which does not look into lists."""
        return {**super().to_dict(), "encoder_configs": [config.to_dict() for config in self.encoder_configs]}


class ConfigBehindAnother(ConfigOfParts):
    """Base class of the configurations of `EncoderBehindAnother`: the encoder in front is that of `encoder_config`."""

    base_config_key = "vision_config"
    sub_configs = {"encoder_config": AutoConfig}
    has_no_defaults_at_init = True

    @property
    def parts(self) -> list[PreTrainedConfig]:
        return [self.encoder_config]

    @property
    def features_size(self) -> int:
        """Width of the features, see `SignEncoder`."""
        return getattr(self.encoder_config, "features_size", self.encoder_config.hidden_size)

    @property
    def frame_settings(self) -> dict[str, Any] | None:
        """See `PretrainedVisionConfig.frame_settings`."""
        return getattr(self.encoder_config, "frame_settings", None)


@strict
class TemporalConfig(ConfigBehindAnother):
    r"""
    A sign encoder followed by a linear layer and FLa-LLM's local temporal module. The first may be frozen, so that its
    features are kept on disk, while the rest is trained.

    Args:
        encoder_config (`PreTrainedConfig` or `dict`):
            Any sign encoder, also that of ready-made features.
        projection_size (`int`, *optional*, defaults to 0):
            Width of the linear layer (SpaMo, https://arxiv.org/abs/2408.10593: 768); 0 leaves it out.
        temporal_blocks, temporal_padding, temporal_norm:
            As in `FLaLLMVisionConfig`. Without blocks there is no temporal module.
        hidden_size (`int`, *optional*):
            Width of a visual token. Default: `projection_size` or, without a linear layer, that of the encoder.

    Raises:
        ValueError: for an encoder that is not a sign encoder, or a temporal block that is not `K<odd number>` or
            `P<number>`.
    """

    model_type = "temporal_slt"

    encoder_config: dict | PreTrainedConfig | None = None
    projection_size: int = 0
    temporal_blocks: list[str] | tuple[str, ...] = ("K5",)
    temporal_padding: Literal["zero", "none", "replicate"] = "zero"
    temporal_norm: Literal["batch_norm", "layer_norm"] = "batch_norm"
    hidden_size: int | None = None

    def __post_init__(self, **kwargs):
        self.encoder_config = build_vision_config(self.encoder_config)
        if self.projection_size < 0:
            raise ValueError(f"`projection_size` must be 0 or more, got {self.projection_size}.")
        check_temporal_blocks(self.temporal_blocks)
        self.hidden_size = self.hidden_size or self.width_before_time
        super().__post_init__(**kwargs)

    @property
    def width_before_time(self) -> int:
        """Width of what enters the temporal module."""
        return self.projection_size or self.encoder_config.hidden_size

    @property
    def temporal_stride(self) -> int:
        """Features from one visual token to the next."""
        return stride_of_blocks(self.temporal_blocks)


def _pretrained_in(config: PreTrainedConfig) -> list[PretrainedVisionConfig]:
    if isinstance(config, PretrainedVisionConfig):
        return [config]
    return [each for part in getattr(config, "parts", ()) for each in _pretrained_in(part)]


__all__ = ["SideBySideConfig", "TemporalConfig"]
