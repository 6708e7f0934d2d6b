"""
Sign encoders by the model type of their configuration. `encoders_slt.py` fills the table, and is imported where the
table is read: an encoder that contains others, saved alone, then carries and finds them.
"""

from typing import Any

import torch
from transformers import CONFIG_MAPPING, MODEL_MAPPING, AutoModel, PreTrainedConfig

from .sign_encoder_slt import SignEncoder

SIGN_ENCODERS: dict[type[PreTrainedConfig], type[SignEncoder]] = {}


def build_vision_config(
    vision_config: PreTrainedConfig | dict[str, Any] | None, default_model_type: str | None = None
) -> PreTrainedConfig:
    """
    Build the configuration of a sign encoder from the value of `vision_config`: a configuration, its values, or `None`.
    Values without a `model_type` are those of `default_model_type`.

    Raises:
        ValueError: for a model type that is not registered, or is not a sign encoder's.
    """
    if vision_config is None or isinstance(vision_config, dict):
        values = dict(vision_config or {})
        vision_config = config_class_of(values.pop("model_type", default_model_type))(**values)
    encoder_class_of(type(vision_config))
    return vision_config


def build_sign_encoder(vision_config: PreTrainedConfig) -> SignEncoder:
    """A new sign encoder, in the dtype of the whole model, whatever dtype its checkpoint was saved in."""
    _all_encoders()  # so that `AutoModel` knows them
    return AutoModel.from_config(vision_config, dtype=torch.get_default_dtype())


def _all_encoders() -> dict[type[PreTrainedConfig], type[SignEncoder]]:
    from .encoders_slt import SIGN_ENCODERS as filled  # it imports this file

    return filled


def known_model_types() -> list[str]:
    """The model types of our own sign encoders."""
    return sorted(config_class.model_type for config_class in _all_encoders())


def config_class_of(model_type: str | None) -> type[PreTrainedConfig]:
    """
    Ours first: another version of this code, from the Hub, may have registered the same model type.

    Raises:
        ValueError: for a model type that is not registered.
    """
    own_configs = {config_class.model_type: config_class for config_class in _all_encoders()}
    if model_type in own_configs:
        return own_configs[model_type]
    if model_type in CONFIG_MAPPING:
        return CONFIG_MAPPING[model_type]
    raise ValueError(
        f"`vision_config` must be that of a sign encoder, got model type {model_type!r}, which is not registered. "
        f"Known: {known_model_types()}; register others with `AutoConfig.register` and `AutoModel.register`."
    )


def encoder_class_of(config_class: type[PreTrainedConfig]) -> type[SignEncoder]:
    """
    Raises:
        ValueError: for a configuration that is not a sign encoder's.
    """
    encoder_class = _all_encoders().get(config_class) or MODEL_MAPPING.get(config_class, None)
    if not (isinstance(encoder_class, type) and issubclass(encoder_class, SignEncoder)):
        name = getattr(encoder_class, "__name__", None)
        raise ValueError(
            f"`vision_config` must be that of a sign encoder, got model type {config_class.model_type!r}, whose model "
            f"{name} is not a `SignEncoder`. Known: {known_model_types()}."
        )
    return encoder_class


__all__ = ["SIGN_ENCODERS", "build_sign_encoder", "build_vision_config"]
