"""Video processing and tokenisation of FLaLLM; importing this package registers its classes with transformers."""

from transformers import AutoProcessor, AutoVideoProcessor

from .captions_slt import format_captions
from .data_collator_slt import DataCollatorForSignTranslation
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
AutoProcessor.register("flallm", FLaLLMProcessor, exist_ok=True)
AutoProcessor.register("llava_slt", LlavaSltProcessor, exist_ok=True)
FLaLLMVideoProcessor.register_for_auto_class("AutoVideoProcessor")
FLaLLMProcessor.register_for_auto_class("AutoProcessor")
LlavaSltProcessor.register_for_auto_class("AutoProcessor")

__all__ = [
    "DataCollatorForSignTranslation",
    "DecodedVideo",
    "FLaLLMProcessor",
    "FLaLLMVideoProcessor",
    "LlavaSltProcessor",
    "VideoDecodingError",
    "VideoSegment",
    "decode_video",
    "format_captions",
]
