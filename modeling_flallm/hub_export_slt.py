"""Saving and loading of translation models, with the code that they need where this package is not installed."""

import copy
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers.quantizers.auto import AutoQuantizationConfig

from .calibration_slt import CALIBRATION_FILE, SentWithItsCalibration, read_calibration
from .hub_card_slt import HUB_TASK, SentWithACard
from .loading_slt import LoadedWhole
from .pipeline_slt import SignLanguageTranslationPipeline  # the relative import includes the file in saved models


class SavedWithItsCode(SentWithItsCalibration, SentWithACard, LoadedWhole):
    """
    Mixin for translation models: `save_pretrained` also writes the Python files (the model's own and what it imports,
    the pipeline among them), and in config.json their names for `AutoConfig`, `AutoModel`, `pipeline` and the Auto
    class that fits the model, `translation_auto_class`; a model without one cannot translate yet, and only `AutoModel`
    loads it. The calibration, if there is one, goes into its own file, which
    `from_pretrained` reads; saving a model without one removes the file that other weights left in the folder.

    `from_pretrained` with a `quantization_config` quantizes only the linear layers of the language model:
    `unquantized_modules`, which are the visual encoder, the adapter and the output layer, are always skipped, beside
    those that the config itself skips.
    """

    hub_task = HUB_TASK
    translation_auto_class: str | None
    unquantized_modules: tuple[str, ...]

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike | None,
        *args: Any,
        quantization_config: Any = None,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Any:
        """
        See `PreTrainedModel.from_pretrained`, and the class. `confidence_calibration=None` among the keyword arguments
        leaves the calibration file unread.
        """
        if quantization_config is not None:
            quantization_config = leave_unquantized(quantization_config, cls.unquantized_modules)
        model, loading_info = super().from_pretrained(
            pretrained_model_name_or_path,
            *args,
            quantization_config=quantization_config,
            output_loading_info=True,
            **kwargs,
        )
        if pretrained_model_name_or_path is not None and "confidence_calibration" not in kwargs:
            read_calibration(model.config, kwargs)
        return (model, loading_info) if output_loading_info else model

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """See `PreTrainedModel.save_pretrained`, and the class."""
        kept_config = self.config
        self.config = copy.deepcopy(kept_config)  # its file names apply to the folder, not to this object
        name = f"{type(self).__module__.split('.')[-1]}.{type(self).__name__}"
        # `AutoConfig` is added on saving.
        self.config.auto_map = {"AutoModel": name}
        if self.translation_auto_class is not None:
            self.config.auto_map[self.translation_auto_class] = name
            self.config.custom_pipelines = {
                "sign-language-translation": {
                    "impl": f"pipeline_slt.{SignLanguageTranslationPipeline.__name__}",
                    "pt": [self.translation_auto_class],
                    "type": "multimodal",
                }
            }
        writes_config = kwargs.get("is_main_process", True) and not self._hf_peft_config_loaded  # not with an adapter
        if writes_config and self.config.confidence_calibration is None:
            (Path(save_directory) / CALIBRATION_FILE).unlink(missing_ok=True)
        try:
            super().save_pretrained(save_directory, **kwargs)
        finally:
            self.config = kept_config


def leave_unquantized(quantization_config: Any, module_names: Sequence[str]) -> Any:
    """
    A copy of a quantization config of transformers, or of its dictionary, that also skips these modules.

    Raises:
        ValueError: for a kind of configuration that cannot skip modules.
    """
    if isinstance(quantization_config, dict):
        quantization_config = AutoQuantizationConfig.from_dict(quantization_config)
    quantization_config = copy.deepcopy(quantization_config)
    names = ("llm_int8_skip_modules", "modules_to_not_convert")
    name = next((name for name in names if hasattr(quantization_config, name)), None)
    if name is None:
        raise ValueError(
            f"{type(quantization_config).__name__} cannot skip modules, and quantizing the visual encoder "
            "would break it. Use BitsAndBytesConfig, TorchAoConfig or another one with `modules_to_not_convert`."
        )
    setattr(quantization_config, name, [*(getattr(quantization_config, name) or []), *module_names])
    return quantization_config


__all__ = ["SavedWithItsCode", "leave_unquantized"]
