"""Saving and loading of translation models, with the code that they need where this package is not installed."""

import copy
import os
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel
from transformers.quantizers.auto import AutoQuantizationConfig

from .hub_card_slt import HUB_TASK, SentWithACard
from .loading_slt import LoadedWhole
from .pipeline_slt import SignLanguageTranslationPipeline  # the relative import includes the file in saved models


class SavedWithItsCode(SentWithACard, LoadedWhole):
    """
    Mixin for translation models: `save_pretrained` also writes the Python files (the model's own and what it imports,
    the pipeline among them), and in config.json their names for `AutoConfig`, `AutoModel`, `pipeline` and the Auto
    class that fits the model, `translation_auto_class`.

    `from_pretrained` with a `quantization_config` quantizes only the linear layers of the language model:
    `unquantized_modules`, which are the visual encoder, the adapter and the output layer, are always skipped, beside
    those that the config itself skips.
    """

    hub_task = HUB_TASK
    translation_auto_class: str
    unquantized_modules: tuple[str, ...]

    @classmethod
    def from_pretrained(cls, *args: Any, quantization_config: Any = None, **kwargs: Any) -> PreTrainedModel:
        """See `PreTrainedModel.from_pretrained`, and the class."""
        if quantization_config is not None:
            quantization_config = leave_unquantized(quantization_config, cls.unquantized_modules)
        return super().from_pretrained(*args, quantization_config=quantization_config, **kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """See `PreTrainedModel.save_pretrained`, and the class."""
        kept_config = self.config
        self.config = copy.deepcopy(kept_config)  # its file names apply to the folder, not to this object
        name = f"{type(self).__module__.split('.')[-1]}.{type(self).__name__}"
        # `AutoConfig` is added on saving.
        self.config.auto_map = {"AutoModel": name, self.translation_auto_class: name}
        self.config.custom_pipelines = {
            "sign-language-translation": {
                "impl": f"pipeline_slt.{SignLanguageTranslationPipeline.__name__}",
                "pt": [self.translation_auto_class],
                "type": "multimodal",
            }
        }
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
