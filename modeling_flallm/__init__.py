"""
FLa-LLM, LLaVA-SLT, Uni-Sign, MMSLT and DiffSLT for transformers. Importing this package registers their classes,
processors and pipeline.
"""

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoModelForSeq2SeqLM
from transformers.pipelines import PIPELINE_REGISTRY

from .choice_slt import EmbeddingUtility
from .configuration_diffslt import DiffSltConfig
from .configuration_diffslt_autoencoder import DiffSltAutoencoderConfig
from .configuration_encoder_combined_slt import SideBySideConfig, TemporalConfig
from .configuration_encoder_described_slt import DescribedConfig
from .configuration_encoder_frames_slt import FLaLLMVisionConfig
from .configuration_encoder_poses_slt import UniSignPoseConfig
from .configuration_encoder_pretrained_slt import PretrainedVisionConfig
from .configuration_encoder_two_levels_slt import TwoLevelConfig
from .configuration_encoder_words_slt import LlavaSltVisualConfig
from .configuration_features_slt import VisualFeaturesConfig
from .configuration_flallm import FLaLLMConfig, light_transformer_config
from .configuration_llava_slt import LlavaSltConfig, LlavaSltContrastiveConfig
from .configuration_mmslt import MmsltConfig, MmsltPreTrainingConfig
from .configuration_uni_sign import UniSignConfig
from .encoder_combined_slt import SideBySideEncoder, TemporalEncoder
from .encoder_described_slt import DescribedEncoder
from .encoder_features_slt import VisualFeaturesEncoder
from .encoder_frames_slt import FLaLLMVisionModel
from .encoder_poses_slt import UniSignPoseEncoder
from .encoder_pretrained_slt import PretrainedVisionEncoder
from .encoder_two_levels_slt import TwoLevelEncoder
from .encoder_words_slt import LlavaSltVisualEncoder
from .encoders_slt import SIGN_ENCODERS
from .language_encoder_decoder_slt import FLaLLMEncoderOutput
from .modeling_diffslt import DiffSltForTranslation, DiffSltOutput
from .modeling_diffslt_autoencoder import DiffSltAutoencoder
from .modeling_flallm import FLaLLMForTranslation
from .modeling_llava_slt import LlavaSltForTranslation
from .modeling_llava_slt_contrastive import LlavaSltContrastiveOutput, LlavaSltForContrastivePreTraining
from .modeling_mmslt import MmsltForPreTraining, MmsltForTranslation, MmsltPreTrainingOutput
from .modeling_uni_sign import UniSignForTranslation
from .own_processing import (
    DataCollatorForSignTranslation,
    FLaLLMProcessor,
    FLaLLMVideoProcessor,
    LlavaSltProcessor,
)
from .pipeline_slt import SignLanguageTranslationPipeline
from .pretrained_vision_slt import load_pretrained_vision
from .sign_encoder_slt import SignEncoder, SignEncoderOutput
from .streaming_slt import StreamingTranslator

# Old names, from before the encoders of all systems shared one output class.
FLaLLMVisionModelOutput = LlavaSltVisualEncoderOutput = SignEncoderOutput

AutoConfig.register("flallm", FLaLLMConfig, exist_ok=True)
AutoModel.register(FLaLLMConfig, FLaLLMForTranslation, exist_ok=True)
AutoModelForSeq2SeqLM.register(FLaLLMConfig, FLaLLMForTranslation, exist_ok=True)
AutoConfig.register("llava_slt_contrastive", LlavaSltContrastiveConfig, exist_ok=True)
AutoConfig.register("llava_slt", LlavaSltConfig, exist_ok=True)
AutoModel.register(LlavaSltContrastiveConfig, LlavaSltForContrastivePreTraining, exist_ok=True)
AutoModel.register(LlavaSltConfig, LlavaSltForTranslation, exist_ok=True)
AutoModelForImageTextToText.register(LlavaSltConfig, LlavaSltForTranslation, exist_ok=True)
AutoConfig.register("uni_sign", UniSignConfig, exist_ok=True)
AutoModel.register(UniSignConfig, UniSignForTranslation, exist_ok=True)
AutoModelForSeq2SeqLM.register(UniSignConfig, UniSignForTranslation, exist_ok=True)
AutoConfig.register("mmslt", MmsltConfig, exist_ok=True)
AutoConfig.register("mmslt_pretraining", MmsltPreTrainingConfig, exist_ok=True)
AutoModel.register(MmsltConfig, MmsltForTranslation, exist_ok=True)
AutoModel.register(MmsltPreTrainingConfig, MmsltForPreTraining, exist_ok=True)
AutoModelForSeq2SeqLM.register(MmsltConfig, MmsltForTranslation, exist_ok=True)
AutoConfig.register("diffslt_autoencoder", DiffSltAutoencoderConfig, exist_ok=True)
AutoModel.register(DiffSltAutoencoderConfig, DiffSltAutoencoder, exist_ok=True)
AutoConfig.register("diffslt", DiffSltConfig, exist_ok=True)
AutoModel.register(DiffSltConfig, DiffSltForTranslation, exist_ok=True)
AutoModelForSeq2SeqLM.register(DiffSltConfig, DiffSltForTranslation, exist_ok=True)
PIPELINE_REGISTRY.register_pipeline(
    "sign-language-translation",
    pipeline_class=SignLanguageTranslationPipeline,
    pt_model=(AutoModelForSeq2SeqLM, AutoModelForImageTextToText),
    type="multimodal",
)
# Saved models then include their Python files, and load where this package is not installed.
for _config_class, _encoder_class in SIGN_ENCODERS.items():
    AutoConfig.register(_config_class.model_type, _config_class, exist_ok=True)
    _config_class.register_for_auto_class("AutoConfig")
    _encoder_class.register_for_auto_class("AutoModel")
FLaLLMConfig.register_for_auto_class("AutoConfig")
FLaLLMForTranslation.register_for_auto_class(FLaLLMForTranslation.translation_auto_class)
LlavaSltContrastiveConfig.register_for_auto_class("AutoConfig")
LlavaSltConfig.register_for_auto_class("AutoConfig")
LlavaSltForContrastivePreTraining.register_for_auto_class("AutoModel")
LlavaSltForTranslation.register_for_auto_class(LlavaSltForTranslation.translation_auto_class)
UniSignConfig.register_for_auto_class("AutoConfig")
UniSignForTranslation.register_for_auto_class(UniSignForTranslation.translation_auto_class)
MmsltConfig.register_for_auto_class("AutoConfig")
MmsltForTranslation.register_for_auto_class(MmsltForTranslation.translation_auto_class)
MmsltPreTrainingConfig.register_for_auto_class("AutoConfig")
MmsltForPreTraining.register_for_auto_class("AutoModel")
DiffSltAutoencoderConfig.register_for_auto_class("AutoConfig")
DiffSltAutoencoder.register_for_auto_class("AutoModel")
DiffSltConfig.register_for_auto_class("AutoConfig")
DiffSltForTranslation.register_for_auto_class(DiffSltForTranslation.translation_auto_class)

__all__ = [
    "DataCollatorForSignTranslation",
    "DescribedConfig",
    "DescribedEncoder",
    "DiffSltAutoencoder",
    "DiffSltAutoencoderConfig",
    "DiffSltConfig",
    "DiffSltForTranslation",
    "DiffSltOutput",
    "EmbeddingUtility",
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
    "MmsltConfig",
    "MmsltForPreTraining",
    "MmsltForTranslation",
    "MmsltPreTrainingConfig",
    "MmsltPreTrainingOutput",
    "PretrainedVisionConfig",
    "PretrainedVisionEncoder",
    "SIGN_ENCODERS",
    "SideBySideConfig",
    "SideBySideEncoder",
    "SignEncoder",
    "SignEncoderOutput",
    "SignLanguageTranslationPipeline",
    "StreamingTranslator",
    "TemporalConfig",
    "TemporalEncoder",
    "TwoLevelConfig",
    "TwoLevelEncoder",
    "UniSignConfig",
    "UniSignForTranslation",
    "UniSignPoseConfig",
    "UniSignPoseEncoder",
    "VisualFeaturesConfig",
    "VisualFeaturesEncoder",
    "light_transformer_config",
    "load_pretrained_vision",
]
