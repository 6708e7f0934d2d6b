"""Configurations of MMSLT (https://arxiv.org/abs/2411.16789): its translation model and its pretraining."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import CONFIG_MAPPING, PreTrainedConfig

from .configuration_encoder_combined_slt import TemporalConfig
from .configuration_encoder_described_slt import DescribedConfig
from .configuration_encoder_frames_slt import FLaLLMVisionConfig
from .configuration_flallm import FLaLLMConfig


@strict
class MmsltConfig(FLaLLMConfig):
    r"""
    MMSLT: a frame encoder, a description mapper and a temporal module, an adapter and an encoder-decoder text model.

    The fields are those of `FLaLLMConfig`; the defaults are those of MMSLT's public code.

    Args:
        vision_config (`PreTrainedConfig` or `dict`, *optional*):
            The sign encoder: the configuration of any, see `encoders_slt.py`. Default: ResNet-18 with one token for
            each frame, MMSLT's description mapper, and a temporal module of width 1024 behind both.
        text_config (`PreTrainedConfig` or `dict`, *optional*):
            Any encoder-decoder configuration of transformers. Default: mBART-large-50.
        adapter_hidden_size (`int`, *optional*, defaults to 1024):
            Width of the adapter's hidden layer.
        label_smoothing (`float`, *optional*, defaults to 0.2):
            Label smoothing of the cross entropy.

    Raises:
        ValueError: as `FLaLLMConfig`.
    """

    model_type = "mmslt"

    adapter_hidden_size: int = 1024

    def __post_init__(self, **kwargs):
        if self.vision_config is None:
            self.vision_config = mmslt_vision_config()
        if self.text_config is None:
            self.text_config = mbart_large_50_config()
        super().__post_init__(**kwargs)


@strict
class MmsltPreTrainingConfig(MmsltConfig):
    r"""
    MMSLT's pretraining: the same parts, and the contrast of clips and sentences.

    Args:
        temperature_init (`float`, *optional*, defaults to 0.07):
            Initial temperature of the contrast, which is learned.
        memory_bank_size (`int`, *optional*, defaults to 4096):
            Number of earlier sentences that each clip is also contrasted with (ours: MMSLT's code contrasts within the
            4 clips of one device). 0 is none.

    Raises:
        ValueError: as `FLaLLMConfig`, and for a number outside its range.
    """

    model_type = "mmslt_pretraining"

    temperature_init: float | int = 0.07
    memory_bank_size: int = 4096

    def __post_init__(self, **kwargs):
        if not 0 < self.temperature_init <= 1:
            raise ValueError(f"`temperature_init` must be above 0 and at most 1, got {self.temperature_init}.")
        if self.memory_bank_size < 0:
            raise ValueError(f"`memory_bank_size` must be 0 or more, got {self.memory_bank_size}.")
        super().__post_init__(**kwargs)

    def for_translation(self) -> MmsltConfig:
        """The configuration of the translation model with the same parts."""
        of_pretraining = ("model_type", "temperature_init", "memory_bank_size", "architectures", "auto_map")
        values = {name: value for name, value in self.to_dict().items() if name not in of_pretraining}
        return MmsltConfig(**values)


def mmslt_vision_config() -> TemporalConfig:
    """ResNet-18, the description mapper and the temporal module as MMSLT's public code has them."""
    frames = FLaLLMVisionConfig(temporal_blocks=[], hidden_size=512)
    return TemporalConfig(
        encoder_config=DescribedConfig(encoder_config=frames),
        temporal_blocks=["K5", "P2", "K5", "P2"],
        temporal_padding="replicate",
        hidden_size=1024,
    )


def mbart_large_50_config(**values: Any) -> PreTrainedConfig:
    """mBART-large-50; `values` replace or add fields of `MBartConfig`."""
    own = {"vocab_size": 250054, "activation_function": "relu", "scale_embedding": True}
    return CONFIG_MAPPING["mbart"](**{**own, **values})


__all__ = ["MmsltConfig", "MmsltPreTrainingConfig", "mbart_large_50_config"]
