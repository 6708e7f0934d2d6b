# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""All modalities, and the base class of processors that read one of them."""

from collections.abc import Callable
from functools import partial
from typing import Any

from transformers import AutoFeatureExtractor, AutoVideoProcessor
from transformers.processing_utils import ProcessorMixin

from .modality_features_slt import VisualFeaturesModality
from .modality_poses_slt import PoseModality
from .modality_slt import Modality
from .modality_video_slt import VideoModality

MODALITIES: list[type[Modality]] = [VideoModality, VisualFeaturesModality, PoseModality]


def modality_of_input(name: str) -> type[Modality]:
    """Find the modality whose values a sign encoder takes under this name. Raises `ValueError` for none."""
    for modality in MODALITIES:
        if modality.input_names[0] == name:
            return modality
    known = ", ".join(f"`{modality.input_names[0]}`" for modality in MODALITIES)
    raise ValueError(f"A sign encoder that takes `{name}` needs a modality that gives it. There are those of {known}.")


class _FilledSlots:
    """`get_attributes`: of the class it returns all slots, of a processor those that are filled."""

    def __get__(self, processor: Any, owner: type[ProcessorMixin]) -> Callable[[], list[str]]:
        slots = ProcessorMixin.get_attributes.__func__(owner)
        return lambda: [slot for slot in slots if processor is None or getattr(processor, slot, None) is not None]


class OneModalityProcessor(ProcessorMixin):
    """A tokenizer, and one part that reads clips: a video processor or a feature extractor.

    The slot of the other one is None, and is neither saved nor loaded. Raises `ValueError` for none or both."""

    get_attributes = _FilledSlots()
    video_processor = None
    feature_extractor = None

    def __init__(self, tokenizer: Any, chat_template: str | None = None, **parts: Any):
        if tokenizer is None:
            raise ValueError("A processor needs a `tokenizer`.")
        filled = {slot: part for slot, part in parts.items() if part is not None}
        if len(filled) != 1:
            raise ValueError(
                f"A processor needs one of {', '.join(f'`{slot}`' for slot in parts)}, got {len(filled)} of them."
            )
        for slot, part in {**filled, "tokenizer": tokenizer}.items():
            setattr(self, slot, part)  # for `get_attributes`, which the base class calls
        super().__init__(tokenizer=tokenizer, chat_template=chat_template, **filled)

    @property
    def modality(self) -> Modality:
        """How clips get from a data set to the model. Raises `ValueError` if none is known for its part."""
        for modality in MODALITIES:
            part = getattr(self, modality.slot, None)
            if part is not None and modality.is_read_by(part):
                return modality(part)
        parts = [type(getattr(self, slot)).__name__ for slot in self.get_attributes() if slot != "tokenizer"]
        raise ValueError(f"{' and '.join(parts)} reads no known modality.")

    def take_clips(self, arguments: dict[str, Any], **clips: Any) -> list[Any] | None:
        """Return the clips of a call as a list, or None for none; those among its other `arguments` are taken out.
        Raises `ValueError` for clips of another modality."""
        modality = self.modality
        clips |= {each.argument: arguments.pop(each.argument) for each in MODALITIES if each.argument in arguments}
        others = [name for name, value in clips.items() if value is not None and name != modality.argument]
        if others:
            raise ValueError(f"This processor takes `{modality.argument}`, as its model does, got `{others[0]}`.")
        given = clips.get(modality.argument)
        return None if given is None else modality.as_list(given)

    @classmethod
    def _get_arguments_from_pretrained(
        cls, pretrained_model_name_or_path: Any, processor_dict: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[Any]:
        """The parts of a saved processor; one that does not list its parts has a video processor."""
        values = processor_dict or {}
        saved = {"tokenizer", *(modality.slot for modality in MODALITIES if values.get(modality.slot) is not None)}
        if saved == {"tokenizer"}:
            saved.add("video_processor")
        kwargs.setdefault("subfolder", "")
        load = {
            "tokenizer": partial(cls._load_tokenizer_from_pretrained, "tokenizer"),
            "video_processor": AutoVideoProcessor.from_pretrained,
            "feature_extractor": AutoFeatureExtractor.from_pretrained,
        }
        slots = cls.get_attributes()
        return [load[slot](pretrained_model_name_or_path, **kwargs) if slot in saved else None for slot in slots]
