"""FLa-LLM and LLaVA-SLT for transformers. Importing this package registers classes, processors and pipeline there."""

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoModelForSeq2SeqLM
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_features_slt import VisualFeaturesConfig
from .configuration_flallm import FLaLLMConfig, FLaLLMVisionConfig, light_transformer_config
from .configuration_llava_slt import LlavaSltConfig, LlavaSltContrastiveConfig, LlavaSltVisualConfig
from .encoder_features_slt import VisualFeaturesEncoder
from .modeling_flallm import (
    FLaLLMEncoderOutput,
    FLaLLMForTranslation,
    FLaLLMVisionModel,
    FLaLLMVisionModelOutput,
)
from .modeling_llava_slt import LlavaSltForTranslation
from .own_processing import FLaLLMProcessor, FLaLLMVideoProcessor, LlavaSltProcessor
from .pipeline_slt import SignLanguageTranslationPipeline
from .visual_encoder_llava_slt import (
    LlavaSltContrastiveOutput,
    LlavaSltForContrastivePreTraining,
    LlavaSltVisualEncoder,
    LlavaSltVisualEncoderOutput,
)

AutoConfig.register("flallm_vision", FLaLLMVisionConfig, exist_ok=True)
AutoConfig.register("flallm", FLaLLMConfig, exist_ok=True)
AutoModel.register(FLaLLMVisionConfig, FLaLLMVisionModel, exist_ok=True)
AutoModel.register(FLaLLMConfig, FLaLLMForTranslation, exist_ok=True)
AutoModelForSeq2SeqLM.register(FLaLLMConfig, FLaLLMForTranslation, exist_ok=True)
AutoConfig.register("visual_features_slt", VisualFeaturesConfig, exist_ok=True)
AutoModel.register(VisualFeaturesConfig, VisualFeaturesEncoder, exist_ok=True)
AutoConfig.register("llava_slt_visual", LlavaSltVisualConfig, exist_ok=True)
AutoConfig.register("llava_slt_contrastive", LlavaSltContrastiveConfig, exist_ok=True)
AutoConfig.register("llava_slt", LlavaSltConfig, exist_ok=True)
AutoModel.register(LlavaSltVisualConfig, LlavaSltVisualEncoder, exist_ok=True)
AutoModel.register(LlavaSltContrastiveConfig, LlavaSltForContrastivePreTraining, exist_ok=True)
AutoModel.register(LlavaSltConfig, LlavaSltForTranslation, exist_ok=True)
AutoModelForImageTextToText.register(LlavaSltConfig, LlavaSltForTranslation, exist_ok=True)
PIPELINE_REGISTRY.register_pipeline(
    "sign-language-translation",
    pipeline_class=SignLanguageTranslationPipeline,
    pt_model=(AutoModelForSeq2SeqLM, AutoModelForImageTextToText),
    type="multimodal",
)
# What is saved then carries its Python files, and loads where this package is not installed.
VisualFeaturesConfig.register_for_auto_class("AutoConfig")
VisualFeaturesEncoder.register_for_auto_class("AutoModel")
FLaLLMVisionConfig.register_for_auto_class("AutoConfig")
FLaLLMConfig.register_for_auto_class("AutoConfig")
FLaLLMVisionModel.register_for_auto_class("AutoModel")
FLaLLMForTranslation.register_for_auto_class(FLaLLMForTranslation.system.auto_class)
LlavaSltVisualConfig.register_for_auto_class("AutoConfig")
LlavaSltContrastiveConfig.register_for_auto_class("AutoConfig")
LlavaSltConfig.register_for_auto_class("AutoConfig")
LlavaSltVisualEncoder.register_for_auto_class("AutoModel")
LlavaSltForContrastivePreTraining.register_for_auto_class("AutoModel")
LlavaSltForTranslation.register_for_auto_class(LlavaSltForTranslation.system.auto_class)

__all__ = [
    "FLaLLMConfig",
    "FLaLLMEncoderOutput",
    "FLaLLMForTranslation",
    "FLaLLMProcessor",
    "FLaLLMVideoProcessor",
    "FLaLLMVisionConfig",
    "FLaLLMVisionModel",
    "FLaLLMVisionModelOutput",
    "LlavaSltConfig",
    "LlavaSltContrastiveConfig",
    "LlavaSltContrastiveOutput",
    "LlavaSltForContrastivePreTraining",
    "LlavaSltForTranslation",
    "LlavaSltProcessor",
    "LlavaSltVisualConfig",
    "LlavaSltVisualEncoder",
    "LlavaSltVisualEncoderOutput",
    "SignLanguageTranslationPipeline",
    "VisualFeaturesConfig",
    "VisualFeaturesEncoder",
    "light_transformer_config",
]
