"""
All sign encoders, by the model type of their configuration. This file imports them all, so that a saved model includes
the files of each, and finds its own even where this package is not installed.
"""

import os
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModel, PreTrainedConfig

from .configuration_encoder_combined_slt import SideBySideConfig, TemporalConfig
from .configuration_encoder_described_slt import DescribedConfig
from .configuration_encoder_frames_slt import FLaLLMVisionConfig
from .configuration_encoder_poses_slt import UniSignPoseConfig
from .configuration_encoder_pretrained_slt import PretrainedVisionConfig
from .configuration_encoder_two_levels_slt import TwoLevelConfig
from .configuration_encoder_words_slt import LlavaSltVisualConfig
from .configuration_features_slt import VisualFeaturesConfig
from .encoder_combined_slt import EncoderBehindAnother, SideBySideEncoder, TemporalEncoder
from .encoder_described_slt import DescribedEncoder
from .encoder_features_slt import VisualFeaturesEncoder
from .encoder_frames_slt import FLaLLMVisionModel
from .encoder_poses_slt import UniSignPoseEncoder
from .encoder_pretrained_slt import PretrainedVisionEncoder
from .encoder_registry_slt import (
    SIGN_ENCODERS,
    build_sign_encoder,
    build_vision_config,
    config_class_of,
    encoder_class_of,
)
from .encoder_two_levels_slt import TwoLevelEncoder
from .encoder_words_slt import LlavaSltVisualEncoder
from .loading_slt import read_config_values
from .pretrained_vision_slt import NoVisionModelError, load_pretrained_vision
from .sign_encoder_slt import SignEncoder

SIGN_ENCODERS.update(
    {
        FLaLLMVisionConfig: FLaLLMVisionModel,
        LlavaSltVisualConfig: LlavaSltVisualEncoder,
        VisualFeaturesConfig: VisualFeaturesEncoder,
        UniSignPoseConfig: UniSignPoseEncoder,
        PretrainedVisionConfig: PretrainedVisionEncoder,
        SideBySideConfig: SideBySideEncoder,
        TemporalConfig: TemporalEncoder,
        DescribedConfig: DescribedEncoder,
        TwoLevelConfig: TwoLevelEncoder,
    }
)

for _config_class, _encoder_class in SIGN_ENCODERS.items():
    AutoModel.register(_config_class, _encoder_class, exist_ok=True)


def load_sign_encoder(
    name_or_path: str | Sequence[str], how_to_get_one: str, backbone: dict[str, Any] | None = None, **options: Any
) -> SignEncoder:
    """
    Load a sign encoder from a folder or Hub id: of an encoder, of a model with a `vision_config`, or of an image or
    video model of transformers. Several names give these encoders side by side.

    Args:
        how_to_get_one: advice for the error if there is none.
        backbone: arguments of `load_pretrained_vision` for image and video models of transformers.
        options: of `from_pretrained`.

    Raises:
        ValueError: if there is none, as `load_whole` if it is incomplete, and as `load_pretrained_vision`.
    """
    if not isinstance(name_or_path, str | os.PathLike):
        parts = [load_sign_encoder(name, how_to_get_one, backbone, **options) for name in name_or_path]
        return parts[0] if len(parts) == 1 else put_side_by_side(parts)
    expected = (
        f"Expected {name_or_path!r} to hold a sign encoder (a folder or Hub id with the config.json of one, of a "
        "model that has one, or of an image or video model of transformers)"
    )
    values = read_config_values(name_or_path, expected, options)
    model_type = values["model_type"]
    options = {"dtype": torch.get_default_dtype(), **options}
    encoder_type = (values.get("vision_config") or {}).get("model_type") or model_type
    try:
        encoder_class = encoder_class_of(config_class_of(encoder_type))
    except ValueError:
        try:
            return load_pretrained_vision(name_or_path, **(backbone or {}), **options)
        except NoVisionModelError as error:
            raise ValueError(f"{expected}, got model type {model_type!r}. {error} {how_to_get_one}") from error
    return encoder_class.from_pretrained(name_or_path, **options)


def put_side_by_side(parts: Sequence[SignEncoder]) -> SideBySideEncoder:
    """One encoder of several that are loaded."""
    config = SideBySideConfig(encoder_configs=[part.config for part in parts])
    with torch.device("meta"):
        encoder = SideBySideEncoder(config)
    encoder.encoders = torch.nn.ModuleList(parts)
    for part, part_config in zip(parts, encoder.config.encoder_configs, strict=True):
        part.config = part_config
    return encoder.eval()


def put_in_front_of_time(encoder: SignEncoder, **config_values: Any) -> TemporalEncoder:
    """A loaded encoder with a new linear layer and temporal module, those of `TemporalConfig`, behind it."""
    config = TemporalConfig(encoder_config=encoder.config, **config_values)
    return _around(encoder, TemporalEncoder, config)


def put_in_front_of_a_mapper(encoder: SignEncoder, **config_values: Any) -> DescribedEncoder:
    """A loaded encoder with a new description mapper, that of `DescribedConfig`, behind it."""
    config = DescribedConfig(encoder_config=encoder.config, **config_values)
    return _around(encoder, DescribedEncoder, config)


def _around(
    encoder: SignEncoder, whole_class: type[EncoderBehindAnother], config: PreTrainedConfig
) -> EncoderBehindAnother:
    """A loaded encoder in a new one, whose other modules are initialised."""
    with torch.device("meta"):
        whole = whole_class(config)
    whole.encoder = encoder
    for module in (each for each in whole.children() if each is not encoder):
        module.to_empty(device=encoder.device)
        module.apply(whole._init_weights)
    return whole.eval()


__all__ = [
    "SIGN_ENCODERS",
    "build_sign_encoder",
    "build_vision_config",
    "load_sign_encoder",
    "put_in_front_of_a_mapper",
    "put_in_front_of_time",
    "put_side_by_side",
]
