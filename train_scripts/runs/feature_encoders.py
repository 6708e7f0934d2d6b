"""The sign encoder whose features are computed, and what reads clips for it."""

from dataclasses import dataclass
from pathlib import Path

import yaml
from huggingface_hub import ModelCard
from transformers import AutoFeatureExtractor, AutoVideoProcessor
from transformers.utils import cached_file, extract_commit_hash

from modeling_flallm import SIGN_ENCODERS, SignEncoder
from modeling_flallm.encoders_slt import load_sign_encoder
from modeling_flallm.loading_slt import read_config_values
from modeling_flallm.own_processing import Modality, modality_of_input

from ..arguments.data_arguments import EncoderVideoArguments
from ..hub.hub_names import is_hub_id
from .damaged_models import reading_model
from .training import clip_reader_of

OWN_MODEL_TYPES = {config.model_type for config in SIGN_ENCODERS}
PROCESSOR_FILES = ("processor_config.json", "video_preprocessor_config.json", "preprocessor_config.json")
LOADERS = {"video_processor": AutoVideoProcessor, "feature_extractor": AutoFeatureExtractor}
HOW_TO_GET_ONE = "Name a sign encoder, or a trained model that has one."


@dataclass
class FeatureEncoder:
    """
    Args:
        encoder: frozen.
        modality: reads clips as the encoder takes them.
        name: its id on the Hub, or the name of its folder without the path, which is private.
        revision: the commit on the Hub that it was loaded from, if it was.
        license: as its model card says, if it does.
    """

    encoder: SignEncoder
    modality: Modality
    name: str
    revision: str | None
    license: str | None


def load_feature_encoder(name_or_path: str, video: EncoderVideoArguments) -> FeatureEncoder:
    """
    An encoder from a folder or Hub id of one, or of a model that has one. Clips are prepared by the processor that was
    saved with it; without one, as the flags say.

    Raises:
        ValueError: if there is none, if it takes ready-made features, or for flags that its processor would override.
    """
    with reading_model(name_or_path):
        encoder = load_sign_encoder(name_or_path, HOW_TO_GET_ONE)
    if next(encoder.parameters(), None) is None:
        raise ValueError(f"{name_or_path!r} takes ready-made visual features and computes none. {HOW_TO_GET_ONE}")
    encoder.freeze()
    encoder.choose_memory_format()
    return FeatureEncoder(
        encoder,
        _modality_for(name_or_path, encoder, video),
        name_or_path if is_hub_id(name_or_path) else Path(name_or_path).resolve().name,
        extract_commit_hash(_file_of(name_or_path, "config.json"), None),
        _license_of(name_or_path),
    )


def _modality_for(name_or_path: str, encoder: SignEncoder, video: EncoderVideoArguments) -> Modality:
    modality = modality_of_input(encoder.main_input_name)
    if not _has_own_processor(name_or_path):
        return modality(clip_reader_of(video.completed(), encoder)[modality.slot])
    for flag in video.given():
        raise ValueError(
            f"--{flag} cannot be combined with {name_or_path!r}: clips are prepared by the processor that was saved "
            "with it, as it was trained. Leave the flag out."
        )
    with reading_model(name_or_path):
        return modality(LOADERS[modality.slot].from_pretrained(name_or_path))


def _has_own_processor(name_or_path: str) -> bool:
    """Whether a processor of ours was saved with an encoder of ours."""
    values = read_config_values(name_or_path, f"Expected {name_or_path!r} to hold a sign encoder", {})
    encoder_type = (values.get("vision_config") or {}).get("model_type") or values["model_type"]
    return encoder_type in OWN_MODEL_TYPES and any(_file_of(name_or_path, name) for name in PROCESSOR_FILES)


def _license_of(name_or_path: str) -> str | None:
    path = _file_of(name_or_path, "README.md")
    if path is None:
        return None
    try:
        return ModelCard.load(path).data.get("license")
    except (ValueError, yaml.YAMLError):  # a damaged card says nothing
        return None


def _file_of(name_or_path: str, name: str) -> str | None:
    """The path of a file of a model, downloaded if need be; None if it has none."""
    return cached_file(name_or_path, name, _raise_exceptions_for_missing_entries=False)
