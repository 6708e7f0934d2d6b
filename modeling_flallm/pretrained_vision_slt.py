"""Image and video models of transformers, loaded by name as sign encoders, with what their own processors say."""

import os
from typing import Any

import torch
from huggingface_hub import ModelCard
from huggingface_hub.errors import HfHubHTTPError
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoVideoProcessor, PreTrainedConfig
from transformers.utils import CONFIG_NAME, cached_file, extract_commit_hash
from yaml import YAMLError

from .backbone_slt import PIXELS, frames_of_video_model, pooling_option
from .configuration_encoder_pretrained_slt import PretrainedVisionConfig
from .encoder_pretrained_slt import PretrainedVisionEncoder
from .loading_slt import file_options, forget_folder, load_whole

SHORTEST = "shortest_edge"


class NoVisionModelError(ValueError):
    """A folder or Hub id holds something other than an image or video model."""


def load_pretrained_vision(
    name_or_path: str,
    image_values: dict[str, Any] | None = None,
    video_values: dict[str, Any] | None = None,
    **options: Any,
) -> PretrainedVisionEncoder:
    """
    An image or video model of transformers as a sign encoder, in evaluation mode: `facebook/dinov2-small`, a folder, or
    the image side of a model of images and text such as CLIP and SigLIP. Height, width, mean and standard deviation of
    its frames are those of its own processor.

    Args:
        image_values, video_values: fields of `PretrainedVisionConfig` for image models alone, and for video models.
        options: fields of `PretrainedVisionConfig` (`pooling`, `scales`, `window_stride`, ...), and those of
            `from_pretrained`, such as `revision`, `dtype` and `attn_implementation`.

    Raises:
        NoVisionModelError: a `ValueError`, for a model of another kind.
        ValueError: for a model without a processor of its own, a model whose weights are not complete, and as
            `PretrainedVisionConfig`.
    """
    fields = PretrainedVisionConfig.__annotations__
    config_values = {name: options.pop(name) for name in list(options) if name in fields}
    backbone_config = _vision_config_of(name_or_path, options)
    of_its_kind = image_values if frames_of_video_model(backbone_config) is None else video_values
    config = PretrainedVisionConfig(
        backbone_config=backbone_config,
        **{**_frames_as_pretrained(name_or_path, options), **config_values, **(of_its_kind or {})},
        source=source_of(name_or_path, options),
    )
    load_options = {"dtype": torch.get_default_dtype(), **options}
    backbone = load_whole(
        AutoModel.from_pretrained,
        name_or_path,
        config=config.backbone_config,
        **pooling_option(config.backbone_config, config.pooling == "pooler"),
        **load_options,
    )
    with torch.device("meta"):
        encoder = PretrainedVisionEncoder(config)
    encoder.backbone = backbone
    forget_folder(backbone.config)
    encoder.config.backbone_config = backbone.config
    return encoder.eval()


def _vision_config_of(name_or_path: str, options: dict[str, Any]) -> PreTrainedConfig:
    """Of a model of images and text, that of its image side."""
    config = AutoConfig.from_pretrained(name_or_path, **file_options(options))
    config = getattr(config, "vision_config", None) or config
    model_class = AutoModel._model_mapping.get(type(config), None)
    model_class = model_class[0] if isinstance(model_class, tuple | list) else model_class
    if getattr(model_class, "main_input_name", None) not in PIXELS:
        raise NoVisionModelError(
            "That is neither a sign encoder nor an image or video model: its model "
            f"{getattr(model_class, '__name__', None)} takes `{getattr(model_class, 'main_input_name', 'nothing')}`."
        )
    return config


def _frames_as_pretrained(name_or_path: str, options: dict[str, Any]) -> dict[str, Any]:
    """`image_size`, `image_mean` and `image_std` as the model's own image or video processor has them."""
    processor = None
    for auto_class in (AutoImageProcessor, AutoVideoProcessor):
        try:
            processor = auto_class.from_pretrained(name_or_path, **file_options(options))
            break
        except (OSError, ValueError, KeyError, AttributeError) as error:
            reason = error
    if processor is None:
        raise ValueError(
            f"{name_or_path!r} has no image processor (preprocessor_config.json), which says how large its images are "
            "and how they are normalised. Save the one that it was trained with into the same folder: "
            f"`ViTImageProcessor(...).save_pretrained(folder)`. ({str(reason).splitlines()[0]})"
        )
    of_timm = getattr(processor, "data_config", None)
    if of_timm is not None:
        size, mean, std = of_timm["input_size"][-2:], of_timm["mean"], of_timm["std"]
    else:
        is_cropped = getattr(processor, "do_center_crop", False) and getattr(processor, "crop_size", None)
        size = _height_and_width(processor.crop_size if is_cropped else processor.size)
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        if getattr(processor, "do_normalize", True):
            mean, std = processor.image_mean, processor.image_std
    return {"image_size": list(size), "image_mean": list(mean), "image_std": list(std)}


def _height_and_width(size: Any) -> tuple[int, int]:
    values = {name: value for name, value in dict(size).items() if value is not None}
    side = values.get(SHORTEST) or next(iter(values.values()))
    return values.get("height", side), values.get("width", side)


def source_of(name_or_path: str, options: dict[str, Any]) -> dict[str, str]:
    """
    Where the weights of an encoder come from: `name` on the Hub, or that of its folder without the path, which is
    private; `revision`, the commit on the Hub; `license` and `license_name` as in its model card. What is not known is
    left out.
    """
    is_local = os.path.isdir(name_or_path)
    name = os.path.basename(os.path.abspath(name_or_path)) if is_local else name_or_path
    config_file = cached_file(name_or_path, CONFIG_NAME, **file_options(options))
    revision = extract_commit_hash(config_file, None) or options.get("revision")
    card = _card_values(name_or_path, options)
    values = {
        "name": name,
        "revision": revision,
        "license": card.get("license"),
        "license_name": card.get("license_name"),
    }
    values = {name: " and ".join(value) if isinstance(value, list) else value for name, value in values.items()}
    return {name: value for name, value in values.items() if value is not None}


def _card_values(name_or_path: str, options: dict[str, Any]) -> dict[str, Any]:
    """The metadata of its model card; empty without one that can be read."""
    if os.path.isdir(name_or_path):
        name_or_path = os.path.join(name_or_path, "README.md")
        if not os.path.isfile(name_or_path):  # otherwise it would be looked for on the Hub
            return {}
    try:
        return ModelCard.load(name_or_path, token=options.get("token"), ignore_metadata_errors=True).data.to_dict()
    except (OSError, ValueError, HfHubHTTPError, YAMLError):
        return {}


__all__ = ["NoVisionModelError", "load_pretrained_vision", "source_of"]
