"""Video processing and tokenisation of FLaLLM; importing this package registers its classes with transformers."""

from transformers import AutoFeatureExtractor, AutoProcessor, AutoVideoProcessor

from .captions_slt import format_captions
from .data_collator_slt import DataCollatorForSignTranslation
from .feature_extraction_poses_slt import PoseFeatureExtractor
from .feature_extraction_visual_features_slt import VisualFeatureExtractor
from .modalities_slt import MODALITIES
from .modality_slt import Modality
from .pose_files_slt import read_poses, write_poses
from .pose_pictures_slt import draw_poses
from .poses_slt import Poses
from .processing_flallm import FLaLLMProcessor
from .processing_llava_slt import LlavaSltProcessor
from .video_decoding_slt import decode_video
from .video_files_slt import VideoDecodingError
from .video_processing_slt import FLaLLMVideoProcessor
from .video_requests_slt import DecodedVideo
from .video_segmentation_slt import VideoSegment

# The Auto classes find a processor by the class name in its saved file; the key stands in for a configuration class,
# which lives in another package.
AutoVideoProcessor.register("flallm", FLaLLMVideoProcessor, exist_ok=True)
AutoFeatureExtractor.register("visual_features_slt", VisualFeatureExtractor, exist_ok=True)
AutoFeatureExtractor.register("poses_slt", PoseFeatureExtractor, exist_ok=True)
AutoProcessor.register("flallm", FLaLLMProcessor, exist_ok=True)
AutoProcessor.register("llava_slt", LlavaSltProcessor, exist_ok=True)
FLaLLMVideoProcessor.register_for_auto_class("AutoVideoProcessor")
VisualFeatureExtractor.register_for_auto_class("AutoFeatureExtractor")
PoseFeatureExtractor.register_for_auto_class("AutoFeatureExtractor")
FLaLLMProcessor.register_for_auto_class("AutoProcessor")
LlavaSltProcessor.register_for_auto_class("AutoProcessor")

__all__ = [
    "DataCollatorForSignTranslation",
    "DecodedVideo",
    "FLaLLMProcessor",
    "FLaLLMVideoProcessor",
    "LlavaSltProcessor",
    "MODALITIES",
    "Modality",
    "PoseFeatureExtractor",
    "Poses",
    "VideoDecodingError",
    "VideoSegment",
    "VisualFeatureExtractor",
    "decode_video",
    "draw_poses",
    "format_captions",
    "read_poses",
    "write_poses",
]
