"""
Configuration of DiffSLT's text autoencoder (https://arxiv.org/abs/2411.17248): a sentence becomes a few latent vectors,
in which the diffusion takes place, and a sentence again.
"""

import math

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from .configuration_flallm import FLaLLMConfig, PaddedByItsTextModel


@strict
class DiffSltAutoencoderConfig(PaddedByItsTextModel, PreTrainedConfig):
    r"""
    DiffSLT's text autoencoder: an encoder-decoder text model, and a compression and a reconstruction network between
    its encoder and its decoder. What we know of the paper gives no sizes: all defaults are ours, the first four after
    latent diffusion for language (https://arxiv.org/abs/2212.09462), from which the paper's autoencoder comes.

    Args:
        text_config (`PreTrainedConfig` or `dict`, *optional*):
            Any encoder-decoder configuration of transformers, as in `FLaLLMConfig`. Default: Light-T, as there.
        num_latents (`int`, *optional*, defaults to 32):
            Latent vectors of a sentence, whatever its length.
        latent_size (`int`, *optional*, defaults to 64):
            Width of a latent vector.
        autoencoder_layers (`int`, *optional*, defaults to 3):
            Layers of the compression network, and of the reconstruction network. They have the text model's width.
        autoencoder_heads (`int`, *optional*, defaults to 8):
            Attention heads of these layers.
        latent_noise (`float`, *optional*, defaults to 0.0):
            Standard deviation of Gaussian noise on the latent vectors in training, whose own values have a mean square
            of 1 (ours: the decoder then forgives latent vectors that are not exact, as a diffusion's are not).

    Raises:
        ValueError: for a text configuration that is not of an encoder-decoder of transformers, or a number outside its
            range.
    """

    model_type = "diffslt_autoencoder"
    sub_configs = {"text_config": AutoConfig}

    text_config: dict | PreTrainedConfig | None = None
    num_latents: int = 32
    latent_size: int = 64
    autoencoder_layers: int = 3
    autoencoder_heads: int = 8
    latent_noise: float | int = 0.0
    is_encoder_decoder: bool = True

    def __post_init__(self, **kwargs):
        self.text_config = FLaLLMConfig.build_text_config(self.text_config)
        check_autoencoder_values(self)
        super().__post_init__(**kwargs)


def check_autoencoder_values(config: PreTrainedConfig) -> None:
    """Raise a `ValueError` for a number outside its range, in any configuration with the fields of the autoencoder."""
    for name in ("num_latents", "latent_size", "autoencoder_layers", "autoencoder_heads"):
        if getattr(config, name) < 1:
            raise ValueError(f"`{name}` must be 1 or more, got {getattr(config, name)}.")
    if config.text_config.hidden_size % config.autoencoder_heads:
        raise ValueError(
            f"`autoencoder_heads` must divide the text model's width, {config.text_config.hidden_size}, got "
            f"{config.autoencoder_heads}."
        )
    if not 0 <= config.latent_noise < math.inf:
        raise ValueError(f"`latent_noise` must be 0 or more, got {config.latent_noise}.")


__all__ = ["DiffSltAutoencoderConfig", "check_autoencoder_values"]
