"""The sign encoder whose features are computed, and what reads clips for it."""

from dataclasses import dataclass

from transformers import AutoFeatureExtractor, AutoVideoProcessor
from transformers.utils import cached_file

from modeling_flallm import SIGN_ENCODERS, SignEncoder
from modeling_flallm.loading_slt import read_config_values
from modeling_flallm.own_processing import Modality, modality_of_input
from modeling_flallm.pretrained_vision_slt import source_of

from ..arguments.data_arguments import EncoderVideoArguments
from ..arguments.model_arguments import NamedEncoderArguments
from .damaged_models import reading_model
from .training import clip_reader_of

OWN_MODEL_TYPES = {config.model_type for config in SIGN_ENCODERS}
PROCESSOR_FILES = ("processor_config.json", "video_preprocessor_config.json", "preprocessor_config.json")
LOADERS = {"video_processor": AutoVideoProcessor, "feature_extractor": AutoFeatureExtractor}
HOW_TO_GET_ONE = "Name a sign encoder, a trained model that has one, or an image or video model of transformers."


@dataclass
class FeatureEncoder:
    """
    Args:
        encoder: frozen.
        modality: reads clips as the encoder takes them.
        name: its id on the Hub, or the name of its folder without the path, which is private; several with " + ".
        revision: the commit on the Hub that it was loaded from, if it was; of several, each.
        license: as its model card says, if it does; a list if those of several differ.
    """

    encoder: SignEncoder
    modality: Modality
    name: str
    revision: str | None
    license: str | list[str] | None


def load_feature_encoder(arguments: NamedEncoderArguments, video: EncoderVideoArguments) -> FeatureEncoder:
    """
    The encoder that the arguments name. Clips are prepared by the processor that was saved with it; without one, as the
    flags say.

    Raises:
        ValueError: if there is none, if it takes ready-made features, or for flags that its processor would override.
    """
    names = arguments.vision_model_name_or_path
    with reading_model(*names):
        encoder = arguments.load_named_encoder(HOW_TO_GET_ONE)
    if next(encoder.features_encoder.parameters(), None) is None:
        raise ValueError(f"{names[0]!r} takes ready-made visual features and computes none. {HOW_TO_GET_ONE}")
    encoder.freeze()
    encoder.choose_memory_format()
    sources = [source_of(name, {}) for name in names]
    revisions = [source.get("revision") for source in sources]
    licenses = list(dict.fromkeys(source["license"] for source in sources if "license" in source))
    return FeatureEncoder(
        encoder,
        _modality_for(names, encoder, video),
        " + ".join(source["name"] for source in sources),
        " + ".join(revisions) if all(revisions) else None,
        licenses[0] if len(licenses) == 1 else licenses or None,
    )


def _modality_for(names: list[str], encoder: SignEncoder, video: EncoderVideoArguments) -> Modality:
    modality = modality_of_input(encoder.main_input_name)
    if len(names) > 1 or not _has_own_processor(names[0]):
        return modality(clip_reader_of(video.completed(), encoder)[modality.slot])
    for flag in video.given():
        raise ValueError(
            f"--{flag} cannot be combined with {names[0]!r}: clips are prepared by the processor that was saved with "
            "it, as it was trained. Leave the flag out."
        )
    with reading_model(names[0]):
        return modality(LOADERS[modality.slot].from_pretrained(names[0]))


def _has_own_processor(name_or_path: str) -> bool:
    """Whether a processor of ours was saved with an encoder of ours."""
    values = read_config_values(name_or_path, f"Expected {name_or_path!r} to hold a sign encoder", {})
    encoder_type = (values.get("vision_config") or {}).get("model_type") or values["model_type"]
    return encoder_type in OWN_MODEL_TYPES and any(
        cached_file(name_or_path, name, _raise_exceptions_for_missing_entries=False) for name in PROCESSOR_FILES
    )
