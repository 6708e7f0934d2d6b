"""
All sign encoders, by the model type of their configuration. This file imports them all, so that a saved model includes
the files of each, and finds its own even where this package is not installed.
"""

from typing import Any

import torch
from transformers import CONFIG_MAPPING, MODEL_MAPPING, AutoModel, PreTrainedConfig

from .configuration_encoder_frames_slt import FLaLLMVisionConfig
from .configuration_encoder_words_slt import LlavaSltVisualConfig
from .configuration_features_slt import VisualFeaturesConfig
from .encoder_features_slt import VisualFeaturesEncoder
from .encoder_frames_slt import FLaLLMVisionModel
from .encoder_words_slt import LlavaSltVisualEncoder
from .loading_slt import read_config_values
from .sign_encoder_slt import SignEncoder

SIGN_ENCODERS: dict[type[PreTrainedConfig], type[SignEncoder]] = {
    FLaLLMVisionConfig: FLaLLMVisionModel,
    LlavaSltVisualConfig: LlavaSltVisualEncoder,
    VisualFeaturesConfig: VisualFeaturesEncoder,
}
OWN_CONFIGS = {config_class.model_type: config_class for config_class in SIGN_ENCODERS}

for _config_class, _encoder_class in SIGN_ENCODERS.items():
    AutoModel.register(_config_class, _encoder_class, exist_ok=True)


def build_vision_config(
    vision_config: PreTrainedConfig | dict[str, Any] | None, default_model_type: str
) -> PreTrainedConfig:
    """
    Build the configuration of a sign encoder from the value of `vision_config`: a configuration, its values, or `None`.
    Values without a `model_type` are those of `default_model_type`.

    Raises:
        ValueError: for a model type that is not registered, or is not a sign encoder's.
    """
    if vision_config is None or isinstance(vision_config, dict):
        values = dict(vision_config or {})
        vision_config = _config_class_of(values.pop("model_type", default_model_type))(**values)
    _encoder_class_of(type(vision_config))
    return vision_config


def build_sign_encoder(vision_config: PreTrainedConfig) -> SignEncoder:
    """A new sign encoder, in the dtype of the whole model, whatever dtype its checkpoint was saved in."""
    return AutoModel.from_config(vision_config, dtype=torch.get_default_dtype())


def load_sign_encoder(name_or_path: str, how_to_get_one: str, **options: Any) -> SignEncoder:
    """
    Load the sign encoder from a folder or Hub id of an encoder, or of a model with a `vision_config`.

    Args:
        how_to_get_one: advice for the error if there is none.
        options: of `from_pretrained`.

    Raises:
        ValueError: if there is none, and as `load_whole` if it is incomplete.
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
        f"Known: {sorted(OWN_CONFIGS)}; register others with `AutoConfig.register` and `AutoModel.register`."
    )


def _encoder_class_of(config_class: type[PreTrainedConfig]) -> type[SignEncoder]:
    encoder_class = SIGN_ENCODERS.get(config_class) or MODEL_MAPPING.get(config_class, None)
    if not (isinstance(encoder_class, type) and issubclass(encoder_class, SignEncoder)):
        name = getattr(encoder_class, "__name__", None)
        raise ValueError(
            f"`vision_config` must be that of a sign encoder, got model type {config_class.model_type!r}, whose model "
            f"{name} is not a `SignEncoder`. Known: {sorted(OWN_CONFIGS)}."
        )
    return encoder_class


__all__ = ["SIGN_ENCODERS", "build_sign_encoder", "build_vision_config", "load_sign_encoder"]
