"""
The sign encoders there are, by the model type of their configuration. It imports all of them, so a saved model carries
the files of each, and finds its own also where this package is not installed.
"""

from typing import Any

import torch
from transformers import CONFIG_MAPPING, MODEL_MAPPING, AutoModel, PreTrainedConfig

from .configuration_encoder_frames_slt import FLaLLMVisionConfig
from .configuration_encoder_words_slt import LlavaSltVisualConfig
from .encoder_frames_slt import FLaLLMVisionModel
from .encoder_words_slt import LlavaSltVisualEncoder
from .loading_slt import read_config_values
from .sign_encoder_slt import SignEncoder

SIGN_ENCODERS: dict[type[PreTrainedConfig], type[SignEncoder]] = {
    FLaLLMVisionConfig: FLaLLMVisionModel,
    LlavaSltVisualConfig: LlavaSltVisualEncoder,
}
OWN_CONFIGS = {config_class.model_type: config_class for config_class in SIGN_ENCODERS}

for _config_class, _encoder_class in SIGN_ENCODERS.items():
    AutoModel.register(_config_class, _encoder_class, exist_ok=True)


def build_vision_config(
    vision_config: PreTrainedConfig | dict[str, Any] | None, default_model_type: str
) -> PreTrainedConfig:
    """
    The configuration of a sign encoder, from what a configuration has under `vision_config`: one, its values, or
    nothing. Values without a `model_type` are those of `default_model_type`.

    Raises:
        ValueError: for a model type that is not registered, or that is none of a sign encoder.
    """
    if vision_config is None or isinstance(vision_config, dict):
        values = dict(vision_config or {})
        vision_config = _config_class_of(values.pop("model_type", default_model_type))(**values)
    _encoder_class_of(type(vision_config))
    return vision_config


def build_sign_encoder(vision_config: PreTrainedConfig) -> SignEncoder:
    """A new sign encoder, in the dtype of the whole model and not the one that its checkpoint was saved in."""
    return AutoModel.from_config(vision_config, dtype=torch.get_default_dtype())


def load_sign_encoder(name_or_path: str, how_to_get_one: str, **options: Any) -> SignEncoder:
    """
    The sign encoder in a folder or Hub id: that of an encoder alone, or of a model with a `vision_config`.

    Args:
        how_to_get_one: what to do without one, for the error.
        options: of `from_pretrained`.

    Raises:
        ValueError: if there is none, and as `load_whole` if it is not whole.
    """
    expected = (
        f"Expected {name_or_path!r} to hold a sign encoder (a folder or Hub id with the config.json of one, or of a "
        "model that has one)"
    )
    values = read_config_values(name_or_path, expected, options)
    model_type = values["model_type"]
    encoder_type = (values.get("vision_config") or {}).get("model_type") or model_type
    try:
        encoder_class = _encoder_class_of(_config_class_of(encoder_type))
    except ValueError as error:
        raise ValueError(f"{expected}, got model type {model_type!r}. {how_to_get_one}") from error
    return encoder_class.from_pretrained(name_or_path, **{"dtype": torch.get_default_dtype(), **options})


def _config_class_of(model_type: str) -> type[PreTrainedConfig]:
    """Ours first: another version of this code, from the Hub, may have registered the same model type."""
    if model_type in OWN_CONFIGS:
        return OWN_CONFIGS[model_type]
    if model_type in CONFIG_MAPPING:
        return CONFIG_MAPPING[model_type]
    raise ValueError(
        f"`vision_config` must be that of a sign encoder, got model type {model_type!r}, which is not registered. "
        f"There are {sorted(OWN_CONFIGS)}; register others with `AutoConfig.register` and `AutoModel.register`."
    )


def _encoder_class_of(config_class: type[PreTrainedConfig]) -> type[SignEncoder]:
    encoder_class = SIGN_ENCODERS.get(config_class) or MODEL_MAPPING.get(config_class, None)
    if not (isinstance(encoder_class, type) and issubclass(encoder_class, SignEncoder)):
        name = getattr(encoder_class, "__name__", None)
        raise ValueError(
            f"`vision_config` must be that of a sign encoder, got model type {config_class.model_type!r}, whose model "
            f"{name} is no `SignEncoder`. There are {sorted(OWN_CONFIGS)}."
        )
    return encoder_class


__all__ = ["SIGN_ENCODERS", "build_sign_encoder", "build_vision_config", "load_sign_encoder"]
