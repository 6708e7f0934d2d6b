"""Configuration of the sign encoder that gives two levels of visual features, for DiffSLT's guidance."""

import copy

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from .configuration_encoder_pretrained_slt import ConfigOfParts
from .configuration_flallm import FLaLLMConfig
from .encoder_registry_slt import build_vision_config


@strict
class TwoLevelConfig(ConfigOfParts):
    r"""
    The visual side of a trained translation model: its sign encoder, its adapter and the encoder of its text model.

    Args:
        encoder_config (`PreTrainedConfig` or `dict`):
            The sign encoder of the trained model.
        text_config (`PreTrainedConfig` or `dict`, *optional*):
            Its encoder-decoder text model, of which the encoder is used. Its vocabulary is not. Default: none, for a
            model with a decoder-only text model.
        adapter_size (`int`, *optional*):
            Output width of the adapter. Default: the width of the text model.
        adapter_hidden_size (`int`, *optional*, defaults to 512):
            Width between the two layers of the adapter; 0 is one layer.
        adapter_activation (`str`, *optional*, defaults to `"relu"`):
            Activation of the adapter.
        adapter_norm (`bool`, *optional*, defaults to `False`):
            Whether the adapter has a LayerNorm.
        prompt_length (`int`, *optional*, defaults to 0):
            Tokens of the prompt that the text encoder reads before the visual tokens. Their embeddings are weights.
        hidden_size (`int`, *optional*):
            Width of a visual token: always that of both levels together.

    Raises:
        ValueError: for an encoder that is not a sign encoder, a text model that is no encoder-decoder, neither a text
            model nor an `adapter_size`, and a prompt without a text model.
    """

    model_type = "two_level_slt"
    base_config_key = "vision_config"
    sub_configs = {"encoder_config": AutoConfig, "text_config": AutoConfig}
    has_no_defaults_at_init = True

    encoder_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    adapter_size: int | None = None
    adapter_hidden_size: int = 512
    adapter_activation: str = "relu"
    adapter_norm: bool = False
    prompt_length: int = 0
    hidden_size: int | None = None

    def __post_init__(self, **kwargs):
        self.encoder_config = build_vision_config(self.encoder_config)
        if self.text_config is not None:
            self.text_config = _without_vocabulary(FLaLLMConfig.build_text_config(self.text_config))
            self.adapter_size = self.text_config.hidden_size
        if not self.adapter_size:
            raise ValueError("`text_config` or `adapter_size` must say how wide the second level is, got neither.")
        if self.prompt_length and self.text_config is None:
            raise ValueError(f"`prompt_length` needs a text encoder (`text_config`), got {self.prompt_length}.")
        self.hidden_size = sum(self.level_sizes)
        super().__post_init__(**kwargs)

    @property
    def level_sizes(self) -> tuple[int, int]:
        """Widths of the two levels, which are joined in a visual token."""
        return self.encoder_config.hidden_size, self.adapter_size

    @property
    def parts(self) -> list[PreTrainedConfig]:
        return [self.encoder_config, *([] if self.text_config is None else [self.text_config])]

    @property
    def frame_settings(self) -> dict | None:
        """See `PretrainedVisionConfig.frame_settings`."""
        return getattr(self.encoder_config, "frame_settings", None)


def _without_vocabulary(text_config: PreTrainedConfig) -> PreTrainedConfig:
    """
    The text encoder reads embeddings alone: of the table of tokens the rows up to the padding are left, whose id also
    shifts the positions of some models (M2M100).
    """
    text_config = copy.deepcopy(text_config)
    pad_token_id = text_config.pad_token_id or 0
    for name in [name for name in vars(text_config) if name.endswith("_token_id")]:
        setattr(text_config, name, None)
    text_config.vocab_size, text_config.pad_token_id = pad_token_id + 1, pad_token_id
    return text_config


__all__ = ["TwoLevelConfig"]
