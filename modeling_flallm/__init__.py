"""FLa-LLM for transformers. Importing this package registers its classes, processors and pipeline with transformers."""

from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_flallm import FLaLLMConfig, FLaLLMVisionConfig, light_transformer_config
from .modeling_flallm import (
    FLaLLMEncoderOutput,
    FLaLLMForTranslation,
    FLaLLMVisionModel,
    FLaLLMVisionModelOutput,
)
from .own_processing import FLaLLMProcessor, FLaLLMVideoProcessor
from .pipeline_flallm import SignLanguageTranslationPipeline

AutoConfig.register("flallm_vision", FLaLLMVisionConfig, exist_ok=True)
AutoConfig.register("flallm", FLaLLMConfig, exist_ok=True)
AutoModel.register(FLaLLMVisionConfig, FLaLLMVisionModel, exist_ok=True)
AutoModel.register(FLaLLMConfig, FLaLLMForTranslation, exist_ok=True)
AutoModelForSeq2SeqLM.register(FLaLLMConfig, FLaLLMForTranslation, exist_ok=True)
PIPELINE_REGISTRY.register_pipeline(
    "sign-language-translation",
    pipeline_class=SignLanguageTranslationPipeline,
    pt_model=AutoModelForSeq2SeqLM,
    type="multimodal",
)
# What is saved then carries its Python files, and loads where this package is not installed.
FLaLLMVisionConfig.register_for_auto_class("AutoConfig")
FLaLLMConfig.register_for_auto_class("AutoConfig")
FLaLLMVisionModel.register_for_auto_class("AutoModel")
# A sequence of frames in, a sequence of tokens out, by an encoder and a decoder: of the Auto classes this is the one
# whose models are called and generate like ours.
FLaLLMForTranslation.register_for_auto_class("AutoModelForSeq2SeqLM")

__all__ = [
    "FLaLLMConfig",
    "FLaLLMEncoderOutput",
    "FLaLLMForTranslation",
    "FLaLLMProcessor",
    "FLaLLMVideoProcessor",
    "FLaLLMVisionConfig",
    "FLaLLMVisionModel",
    "FLaLLMVisionModelOutput",
    "SignLanguageTranslationPipeline",
    "light_transformer_config",
]
