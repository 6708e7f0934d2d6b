"""FLa-LLM for transformers. Importing this package registers its classes with the Auto classes."""

from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM

from .configuration_flallm import FLaLLMConfig, FLaLLMVisionConfig, light_transformer_config
from .modeling_flallm import (
    FLaLLMEncoderOutput,
    FLaLLMForTranslation,
    FLaLLMVisionModel,
    FLaLLMVisionModelOutput,
)

AutoConfig.register("flallm_vision", FLaLLMVisionConfig, exist_ok=True)
AutoConfig.register("flallm", FLaLLMConfig, exist_ok=True)
AutoModel.register(FLaLLMVisionConfig, FLaLLMVisionModel, exist_ok=True)
AutoModel.register(FLaLLMConfig, FLaLLMForTranslation, exist_ok=True)
AutoModelForSeq2SeqLM.register(FLaLLMConfig, FLaLLMForTranslation, exist_ok=True)

__all__ = [
    "FLaLLMConfig",
    "FLaLLMEncoderOutput",
    "FLaLLMForTranslation",
    "FLaLLMVisionConfig",
    "FLaLLMVisionModel",
    "FLaLLMVisionModelOutput",
    "light_transformer_config",
]
