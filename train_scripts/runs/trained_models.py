"""Trained models: which folders contain one, and how to load it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import modeling_flallm
from modeling_flallm.calibration_slt import read_calibration
from modeling_flallm.own_processing import FLaLLMProcessor
from modeling_flallm.systems import (
    LANGUAGE_MODEL,
    PRETRAINED_MODEL,
    SYSTEMS,
    TEXT_AUTOENCODER,
    VISUAL_ENCODER,
    Stage,
    System,
    system_of_pretrained,
    system_of_text_autoencoder,
    system_of_visual_encoder,
    titles,
)

from ..hub.hub_errors import explain_hub_error
from ..hub.hub_names import explain_missing_folder
from .damaged_models import reading_model


def load_trained(name_or_path: str, **options: Any) -> tuple[PreTrainedModel, FLaLLMProcessor]:
    """
    A trained model of any system in evaluation mode and its processor, from a folder or the Hub.

    Args:
        options: those of `from_pretrained`, such as `dtype`.

    Raises:
        ValueError: if it is not such a model with its processor.
    """
    with _loading(name_or_path):
        system = _system_of(name_or_path)
        model = getattr(modeling_flallm, system.model_class).from_pretrained(name_or_path, **options)
        processor = getattr(modeling_flallm, system.processor_class).from_pretrained(name_or_path)
    return model.eval(), processor


def load_to_train_further(name_or_path: str, **options: Any) -> tuple[PreTrainedModel, FLaLLMProcessor]:
    """
    Like `load_trained`; of a pretrained model, which cannot translate yet, the translation model with its parts.

    Raises:
        ValueError: as `load_trained`.
    """
    with _loading(name_or_path):
        system = system_of_pretrained(PreTrainedConfig.get_config_dict(name_or_path)[0].get("model_type"))
        if system is None:
            return load_trained(name_or_path, **options)
        model = AutoModel.from_pretrained(name_or_path, **options).for_translation()
        processor = getattr(modeling_flallm, system.processor_class).from_pretrained(name_or_path)
    return model.eval(), processor


def load_processor(name_or_path: str) -> FLaLLMProcessor:
    """The processor of a trained model, without the model. Raises as `load_trained` does."""
    with _loading(name_or_path):
        return getattr(modeling_flallm, _system_of(name_or_path).processor_class).from_pretrained(name_or_path)


def load_config(name_or_path: str) -> PreTrainedConfig:
    """The configuration of a trained model with its calibration, without the model. Raises as `load_trained` does."""
    with _loading(name_or_path):
        system = _system_of(name_or_path)
        config = getattr(modeling_flallm, system.model_class).config_class.from_pretrained(name_or_path)
        config.name_or_path = str(name_or_path)
        read_calibration(config, {})
    return config


@contextmanager
def _loading(name_or_path: str) -> Iterator[None]:
    cannot = f"{name_or_path!r} cannot be loaded as a {titles()} model with its processor"
    missing = explain_missing_folder(name_or_path, needs_owner=True)
    if missing is not None:
        raise ValueError(f"{cannot}: {missing}")
    try:
        with reading_model(name_or_path):
            yield
    except OSError as error:
        raise ValueError(f"{cannot}: {explain_hub_error(error, name_or_path)}") from error


def _system_of(name_or_path: str) -> System:
    config = PreTrainedConfig.get_config_dict(name_or_path)[0]
    system = SYSTEMS.get(config.get("model_type"))
    if system is None:
        raise ValueError(_what_it_holds_instead(name_or_path, config))
    return system


def check_is_no_visual_encoder(name_or_path: str) -> None:
    """
    Check a name where a text model is expected.

    Raises:
        ValueError: for the folder of a visual encoder; it also says where the text model is.
    """
    path = Path(name_or_path) / "config.json"
    with reading_model(name_or_path):
        config = PreTrainedConfig.get_config_dict(name_or_path)[0] if path.is_file() else {}
    system = system_of_visual_encoder(config.get("model_type"))
    if system is None:
        return
    left_by, text_stage = (system.stage_that_leaves(kind) for kind in (VISUAL_ENCODER, LANGUAGE_MODEL))
    as_left = "" if left_by is None else f", as its stage {system.number_of(left_by)} leaves it,"
    wanted = "a text model" if text_stage is None else f"the folder of stage {system.number_of(text_stage)}"
    raise ValueError(
        f"{name_or_path!r} holds a visual encoder of {system.title}{as_left} and no language model. Name {wanted} (are "
        "two folders swapped?)."
    )


def _what_it_holds_instead(name_or_path: str, config: dict[str, Any]) -> str:
    """Why a model with this config.json cannot translate and, if it is part of one, which stage makes one that can."""
    model_type = config.get("model_type")
    if model_type is None and (Path(name_or_path) / "adapter_config.json").is_file():
        return (
            f"{name_or_path!r} holds low-rank adapters without their base model. Name the output folder of the run, "
            "whose model has them merged."
        )
    if model_type is None:
        return f"{name_or_path!r} holds no model: it has no config.json, or one that names no model type."
    system = system_of_visual_encoder(model_type)
    if system is not None:
        left_by = system.stage_that_leaves(VISUAL_ENCODER)
        alone = f"holds a visual encoder of {system.title} alone"
        part = alone if left_by is None else f"is of {_place(system, left_by)}"
        return f"{name_or_path!r} {part}, which cannot translate yet. {_where_to_look(system)}"
    system = system_of_pretrained(model_type)
    if system is not None:
        place = _place(system, system.stage_that_leaves(PRETRAINED_MODEL))
        return f"{name_or_path!r} is of {place}, which cannot translate yet. {_where_to_look(system)}"
    system = system_of_text_autoencoder(model_type)
    if system is not None:
        place = _place(system, system.stage_that_leaves(TEXT_AUTOENCODER))
        return f"{name_or_path!r} is of {place}, which reads no videos. {_where_to_look(system)}"
    if MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model_type) in (config.get("architectures") or ()):
        without = f"{name_or_path!r} holds a language model ({model_type}) without a visual encoder"
        for system in SYSTEMS.values():
            left_by = system.stage_that_leaves(LANGUAGE_MODEL)
            if left_by is not None:
                place = _place(system, left_by)
                return f"{without}, as {place} leaves it, which cannot translate yet. {_where_to_look(system)}"
    return f"{name_or_path!r} holds no {titles()} model, but one of type {model_type!r}."


def _place(system: System, stage: Stage) -> str:
    return f"{system.title}'s stage {system.number_of(stage)} of {len(system.stages)}"


def _where_to_look(system: System) -> str:
    last = system.last_stage
    return f"Name the folder of stage {system.number_of(last)}, which {last.command} makes."
