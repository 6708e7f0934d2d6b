"""Configuration of Uni-Sign (https://arxiv.org/abs/2501.15187): a pose encoder, one linear layer and a text model."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import CONFIG_MAPPING, PreTrainedConfig

from .configuration_encoder_poses_slt import UniSignPoseConfig
from .configuration_flallm import FLaLLMConfig


@strict
class UniSignConfig(FLaLLMConfig):
    r"""
    Uni-Sign: pose encoder, linear layer and an encoder-decoder text model, which reads a prompt before the poses.

    The fields are those of `FLaLLMConfig`; the defaults are Uni-Sign's.

    Args:
        vision_config (`PreTrainedConfig` or `dict`, *optional*):
            The sign encoder: the configuration of any, see `encoders_slt.py`. Default: a `UniSignPoseConfig`.
        text_config (`PreTrainedConfig` or `dict`, *optional*):
            Any encoder-decoder configuration of transformers. Default: mT5-base.
        adapter_hidden_size (`int`, *optional*, defaults to 0):
            0 makes the adapter one linear layer.
        adapter_activation (`str`, *optional*, defaults to `"linear"`):
            `"linear"` is none.
        label_smoothing (`float`, *optional*, defaults to 0.2):
            Label smoothing of the cross entropy.
        has_prompt (`bool`, *optional*, defaults to `True`):
            Whether the text model reads a prompt before the poses.

    Raises:
        ValueError: as `FLaLLMConfig`.
    """

    model_type = "uni_sign"

    adapter_hidden_size: int = 0
    adapter_activation: str = "linear"
    has_prompt: bool = True

    def __post_init__(self, **kwargs):
        if self.vision_config is None or isinstance(self.vision_config, dict):
            self.vision_config = {"model_type": UniSignPoseConfig.model_type, **(self.vision_config or {})}
        if self.text_config is None:
            self.text_config = mt5_base_config()
        elif isinstance(self.text_config, dict):
            self.text_config = {"model_type": "mt5", **self.text_config}
        super().__post_init__(**kwargs)


def mt5_base_config(**values: Any) -> PreTrainedConfig:
    """mT5-base; `values` replace or add fields of `MT5Config`."""
    sizes = {"d_model": 768, "d_kv": 64, "d_ff": 2048, "num_layers": 12, "num_decoder_layers": 12, "num_heads": 12}
    return CONFIG_MAPPING["mt5"](**{"vocab_size": 250112, **sizes, **values})


__all__ = ["UniSignConfig", "mt5_base_config"]
