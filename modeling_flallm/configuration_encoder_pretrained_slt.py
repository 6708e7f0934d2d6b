"""Configuration of the sign encoder that is any image or video model of transformers."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import CONFIG_MAPPING, AutoModel, PreTrainedConfig
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from .backbone_slt import BackboneFacts, frames_of_video_model, look_at_backbone

POOLINGS = ("pooler", "class", "mean", "patches")


class ConfigOfParts(PreTrainedConfig):
    """
    Base class of configurations that contain others. These keep their attention implementation when the configuration
    becomes part of another one, which transformers would reset; one that is asked for is passed on to them.
    """

    @property
    def parts(self) -> list[PreTrainedConfig]:
        """The configurations that it contains."""
        raise NotImplementedError

    @property
    def _attn_implementation(self) -> str | None:
        return self._attn_implementation_internal

    @_attn_implementation.setter
    def _attn_implementation(self, value: str | dict[str, Any] | None) -> None:
        value = value.get("") if isinstance(value, dict) else value
        self._attn_implementation_internal = value
        if value is not None:
            for part in self.parts:
                part._attn_implementation = value


@strict
class PretrainedVisionConfig(ConfigOfParts):
    r"""
    An image or video model of transformers over the frames of a clip. What is not given is read off the model itself.

    Args:
        backbone_config (`PreTrainedConfig` or `dict`):
            Any image model (ViT, DINOv2, CLIP vision, SigLIP, ConvNeXt, Swin, ResNet, timm, ...) or video model
            (VideoMAE, V-JEPA 2, TimeSformer, ...) of transformers.
        pooling (`str`, *optional*):
            What becomes visual tokens: `"pooler"`, the model's own pooled output; `"class"`, its class token; `"mean"`,
            the mean of its patches; `"patches"`, each patch, row by row. Default: the pooled output of models that
            always have one (DINOv2, CLIP, SigLIP, ConvNeXt, ResNet, timm); of the others (ViT, VideoMAE, ...), whose
            checkpoints need not have it, the class token, or without one the mean.
        scales (`list[int]`, *optional*, defaults to `[1]`):
            With several, such as `[1, 2]`, each frame is also seen s times as large, in s x s tiles whose outputs are
            averaged, and the outputs of all scales are joined (S2, https://arxiv.org/abs/2403.13043).
        window_size (`int`, *optional*):
            Frames that the model sees at once, as the encoder receives them: with `frame_sampling_rate` 1, frames of
            the source. Default: 1 for an image model, and those of its pretraining for a video model.
        window_stride (`int`, *optional*):
            Frames from one window to the next. Default: half a window (SpaMo's 8 of 16), and 1 for image models. The
            last frame is repeated where a window reaches beyond the end.
        image_size (`list[int]`, *optional*):
            Height and width that the model sees. Default: those of its pretraining.
        image_mean, image_std (`list[float]`, *optional*):
            Normalisation that the model expects. Default: ImageNet's. `load_pretrained_vision` reads both from the
            model's own image processor.
        input_mean, input_std (`list[float]`, *optional*):
            Normalisation of the frames that the encoder receives. Default: those that the model expects. They differ
            where several encoders see the same frames.
        source (`dict`, *optional*):
            Where the weights come from, for the model card: `name` on the Hub, `revision`, `license` and
            `license_name`.
        hidden_size, num_prefix_tokens, tokens_per_window (`int`, *optional*):
            Width of a visual token, class and register tokens in front of the patches, and visual tokens of a window.
            Default: as the model has them.

    Raises:
        ValueError: for a backbone that is missing or is neither an image nor a video model, a pooling that it does not
            have, several scales of patches, and sizes below 1.
    """

    model_type = "pretrained_vision_slt"
    base_config_key = "vision_config"
    has_no_defaults_at_init = True

    backbone_config: dict | PreTrainedConfig | None = None
    pooling: str | None = None
    scales: list[int] | tuple[int, ...] = (1,)
    window_size: int | None = None
    window_stride: int | None = None
    image_size: list[int] | tuple[int, ...] | int | None = None
    image_mean: list[float | int] | tuple[float | int, ...] | None = None
    image_std: list[float | int] | tuple[float | int, ...] | None = None
    input_mean: list[float | int] | tuple[float | int, ...] | None = None
    input_std: list[float | int] | tuple[float | int, ...] | None = None
    source: dict | None = None
    hidden_size: int | None = None
    num_prefix_tokens: int | None = None
    tokens_per_window: int | None = None

    def __post_init__(self, **kwargs):
        self.backbone_config = _build_backbone_config(self.backbone_config)
        if self.pooling is not None and self.pooling not in POOLINGS:
            raise ValueError(f"`pooling` must be one of {', '.join(POOLINGS)}, got {self.pooling!r}.")
        self._set_windows()
        self._set_frames()
        if self.hidden_size is None:
            self._set_facts(look_at_backbone(self.backbone_config, tuple(self.image_size), self.window_size))
        super().__post_init__(**kwargs)

    @property
    def parts(self) -> list[PreTrainedConfig]:
        return [self.backbone_config]

    @property
    def frame_settings(self) -> dict[str, Any]:
        """How the processor must prepare frames: `size`, their height and width, `image_mean` and `image_std`."""
        size = max(self.image_size) * max(self.scales)
        return {"size": size, "image_mean": list(self.input_mean), "image_std": list(self.input_std)}

    def _set_windows(self) -> None:
        own = frames_of_video_model(self.backbone_config)
        self.window_size = self.window_size or own or 1
        self.window_stride = self.window_stride or max(self.window_size // 2, 1)
        self.scales = list(self.scales)
        for name, value in {"window_size": self.window_size, "window_stride": self.window_stride}.items():
            if value < 1:
                raise ValueError(f"`{name}` must be 1 or more, got {value}.")
        if not self.scales or min(self.scales) < 1:
            raise ValueError(f"`scales` must be whole numbers from 1 up, such as [1, 2], got {self.scales}.")
        if own is None and self.window_size != 1:
            raise ValueError(
                f"`window_size` {self.window_size} is for video models; {self.backbone_config.model_type!r} sees one "
                "image at a time. Leave it out."
            )
        if own is not None and self.window_size != own:
            name = "num_frames" if hasattr(self.backbone_config, "num_frames") else "frames_per_clip"
            setattr(self.backbone_config, name, self.window_size)

    def _set_frames(self) -> None:
        size = self.image_size or _own_image_size(self.backbone_config)
        self.image_size = [size, size] if isinstance(size, int) else list(size)
        self.image_mean = list(self.image_mean or IMAGENET_DEFAULT_MEAN)
        self.image_std = list(self.image_std or IMAGENET_DEFAULT_STD)
        self.input_mean = list(self.input_mean or self.image_mean)
        self.input_std = list(self.input_std or self.image_std)
        if len(self.image_size) != 2 or min(self.image_size) < 1:
            raise ValueError(f"`image_size` must be a height and a width of 1 or more, got {self.image_size}.")
        if min(*self.image_std, *self.input_std) <= 0:
            raise ValueError(f"`image_std` must be above 0, got {self.image_std} and {self.input_std}.")

    def _set_facts(self, facts: BackboneFacts) -> None:
        self.pooling = self.pooling or facts.usual_pooling
        if self.pooling not in facts.poolings:
            raise ValueError(
                f"`pooling` {self.pooling!r} is nothing that {self.backbone_config.model_type!r} has: it has "
                f"{', '.join(facts.poolings)}."
            )
        if self.pooling == "patches" and self.scales != [1]:
            raise ValueError(f"`pooling` 'patches' goes with `scales` [1] alone, got {self.scales}.")
        self.num_prefix_tokens = facts.num_prefix_tokens
        self.tokens_per_window = facts.num_patches if self.pooling == "patches" else 1
        self.hidden_size = facts.width * len(self.scales)


def _build_backbone_config(backbone_config: dict | PreTrainedConfig | None) -> PreTrainedConfig:
    expected = "`backbone_config` must be the configuration of an image or video model of transformers"
    if backbone_config is None:
        raise ValueError(f"{expected}, got none.")
    if isinstance(backbone_config, dict):
        values = dict(backbone_config)
        model_type = values.pop("model_type", None)
        if model_type not in CONFIG_MAPPING:
            raise ValueError(f"{expected}, got model type {model_type!r}, which transformers does not know.")
        backbone_config = CONFIG_MAPPING[model_type].from_dict(values)
    if type(backbone_config) not in AutoModel._model_mapping:
        raise ValueError(f"{expected}, got model type {backbone_config.model_type!r}, for which it has no model.")
    return backbone_config


def _own_image_size(backbone_config: PreTrainedConfig) -> int | list[int]:
    for name in ("image_size", "crop_size"):
        if getattr(backbone_config, name, None):
            return getattr(backbone_config, name)
    return 224  # what models without a size of their own (ResNet) are usually trained with


__all__ = ["ConfigOfParts", "PretrainedVisionConfig"]
