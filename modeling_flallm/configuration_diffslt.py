"""Configuration of DiffSLT (https://arxiv.org/abs/2411.17248): translation by diffusion of a sentence's latents."""

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from .calibration_slt import SavedWithItsCalibration, check_calibration, check_direction
from .configuration_diffslt_autoencoder import DiffSltAutoencoderConfig
from .configuration_flallm import without_installed_pipeline
from .encoder_registry_slt import build_vision_config


@strict
class DiffSltConfig(SavedWithItsCalibration, DiffSltAutoencoderConfig):
    r"""
    DiffSLT: the visual side of a trained translation model, a denoiser that it guides, and a text autoencoder. What we
    know of the paper gives no sizes: all defaults are ours, most of them those of latent diffusion for language
    (https://arxiv.org/abs/2212.09462).

    The other fields are those of `DiffSltAutoencoderConfig`.

    Args:
        vision_config (`PreTrainedConfig` or `dict`, *optional*):
            The sign encoder: the configuration of any, see `encoders_slt.py`. DiffSLT's is a `TwoLevelConfig`.
        denoiser_size (`int`, *optional*, defaults to 512):
            Width of the denoiser and of the guidance.
        denoiser_layers (`int`, *optional*, defaults to 6):
            Layers of the denoiser. The last half also reads what the first half made, in reverse order.
        denoiser_heads (`int`, *optional*, defaults to 8):
            Attention heads of the denoiser and of the guidance fusion module.
        denoiser_dropout (`float`, *optional*, defaults to 0.1):
            Dropout of both.
        fusion_layers (`int`, *optional*, defaults to 2):
            Layers of the guidance fusion module, in which the levels of visual features attend to each other.
        guidance_dropout (`float`, *optional*, defaults to 0.1):
            Share of the training clips that are denoised without guidance, for classifier-free guidance.
        self_conditioning_probability (`float`, *optional*, defaults to 0.5):
            Share of the training steps in which the denoiser reads its own first estimate; 0 is none, in sampling, too.
        num_train_timesteps (`int`, *optional*, defaults to 1000):
            Steps of noise, on a cosine schedule.
        scheduler (`str`, *optional*, defaults to `"ddim"`):
            Of diffusers, for sampling: `"ddim"`, `"ddpm"`, which draws new noise in each step, or `"dpm++"`.
        ema_decay (`float`, *optional*):
            In training, the decay of the moving average of the denoiser's weights, with which the model translates.
            Default: none, as in a trained model.
        pseudo_gloss_ids (`list[int]`, *optional*):
            DiffSLT-P: the words, as token ids, that are predicted from the clip and guide the denoiser, too. Default:
            none.
        num_pseudo_glosses (`int`, *optional*, defaults to 8):
            How many of these words, the most probable ones, guide it.
        pseudo_gloss_weight (`float`, *optional*, defaults to 1.0):
            Weight of the loss of their prediction.
        confidence_calibration (`dict`, *optional*):
            What `flallm calibrate` measured.
        handedness_direction (`list[float]`, *optional*):
            As in `FLaLLMConfig`.

    Raises:
        ValueError: as `DiffSltAutoencoderConfig`, and for a number outside its range.
    """

    model_type = "diffslt"
    sub_configs = {"vision_config": AutoConfig, "text_config": AutoConfig}

    vision_config: dict | PreTrainedConfig | None = None
    denoiser_size: int = 512
    denoiser_layers: int = 6
    denoiser_heads: int = 8
    denoiser_dropout: float | int = 0.1
    fusion_layers: int = 2
    guidance_dropout: float | int = 0.1
    self_conditioning_probability: float | int = 0.5
    num_train_timesteps: int = 1000
    scheduler: Literal["ddim", "ddpm", "dpm++"] = "ddim"
    ema_decay: float | int | None = None
    pseudo_gloss_ids: list[int] | tuple[int, ...] = ()
    num_pseudo_glosses: int = 8
    pseudo_gloss_weight: float | int = 1.0
    confidence_calibration: dict | None = None
    handedness_direction: list[float] | None = None

    def __post_init__(self, **kwargs):
        self.vision_config = build_vision_config(self.vision_config, "flallm_vision")
        for name in ("denoiser_size", "denoiser_layers", "denoiser_heads", "num_train_timesteps", "num_pseudo_glosses"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be 1 or more, got {getattr(self, name)}.")
        if self.denoiser_size % (2 * self.denoiser_heads):
            raise ValueError(
                f"`denoiser_size` must be a multiple of twice `denoiser_heads`, {2 * self.denoiser_heads}, got "
                f"{self.denoiser_size}."
            )
        for name in ("denoiser_dropout", "guidance_dropout", "self_conditioning_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must be from 0 to 1, got {getattr(self, name)}.")
        for name in ("fusion_layers", "pseudo_gloss_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must be 0 or more, got {getattr(self, name)}.")
        if self.ema_decay is not None:
            check_ema_decay(self.ema_decay)
        if self.confidence_calibration is not None:
            check_calibration(self.confidence_calibration, self.vision_config.hidden_size)
        check_direction(self.handedness_direction, self.vision_config.hidden_size)
        super().__post_init__(**without_installed_pipeline(kwargs))


def check_ema_decay(decay: float) -> None:
    """Raise a `ValueError` for one out of range."""
    if not 0 <= decay < 1:
        raise ValueError(f"`ema_decay` must be at least 0 and below 1, got {decay}.")


__all__ = ["DiffSltConfig", "check_ema_decay"]
