"""
Imports our `processing` package, even if a folder of the user's with that name comes first on the path. Importing it
here makes a model's processor known wherever the model is.
"""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

OUR_PROCESSING = Path(__file__).resolve().parent.parent / "processing" / "__init__.py"


def _import_our_processing() -> ModuleType:
    found = importlib.util.find_spec("processing")
    if found is not None and found.origin is not None and Path(found.origin).resolve() == OUR_PROCESSING:
        return importlib.import_module("processing")
    # A package of the user's has this name: ours gets another one, and theirs stays in place.
    name = "flallm_processing"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, OUR_PROCESSING, submodule_search_locations=[str(OUR_PROCESSING.parent)]
        )
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


_processing = _import_our_processing()
DataCollatorForSignTranslation = _processing.DataCollatorForSignTranslation
ClipValues = _processing.modality_slt.ClipValues
EncoderOfFeatures = _processing.encoder_of_features_slt.EncoderOfFeatures
FLaLLMProcessor = _processing.FLaLLMProcessor
FLaLLMVideoProcessor = _processing.FLaLLMVideoProcessor
LlavaSltProcessor = _processing.LlavaSltProcessor
MODALITIES = _processing.MODALITIES
Modality = _processing.Modality
Task = _processing.live_clip_slt.Task
SampleIndices = _processing.modality_slt.SampleIndices
DEFAULT_PROMPT = _processing.processing_llava_slt.DEFAULT_PROMPT
DEFAULT_SPOKEN_LANGUAGE = _processing.processing_llava_slt.DEFAULT_SPOKEN_LANGUAGE
PICTURE_SUFFIXES = _processing.video_files_slt.PICTURE_SUFFIXES
VIDEO_SUFFIXES = _processing.video_files_slt.VIDEO_SUFFIXES
VideoModality = _processing.modality_video_slt.VideoModality
VideoDecodingError = _processing.VideoDecodingError
PoseExtractor = _processing.pose_extractor_slt.PoseExtractor
PoseFeatureExtractor = _processing.PoseFeatureExtractor
PoseModality = _processing.modality_poses_slt.PoseModality
Poses = _processing.Poses
VisualFeaturesModality = _processing.modality_features_slt.VisualFeaturesModality
are_fractions = _processing.poses_slt.are_fractions
array_files = _processing.array_files_slt
decode_video = _processing.decode_video
decoder_logger = _processing.video_file_frames_slt.logger  # warns of damaged files
draw_poses = _processing.draw_poses
extract_poses = _processing.extract_poses
extract_poses_of_parts = _processing.pose_extraction_slt.extract_poses_of_parts
feature_files = _processing.feature_files_slt
format_captions = _processing.format_captions
is_hidden_file = _processing.video_files_slt.is_hidden_file
is_picture_file = _processing.video_files_slt.is_picture_file
is_video_file = _processing.video_files_slt.is_video_file
load_extractor = _processing.pose_extraction_slt.load_extractor
mirrored_poses = _processing.pose_normalisation_slt.mirrored_poses
modality_of_input = _processing.modalities_slt.modality_of_input
num_array_dimensions = _processing.modality_slt.num_array_dimensions
padded_in_time = _processing.padding_slt.padded_in_time
pixel_values = _processing.modality_video_slt.pixel_values
pose_files = _processing.pose_files_slt
pose_logger = _processing.pose_signer_slt.logger  # warns of several people
pose_layouts = _processing.pose_layouts_slt
random_numbers_of = _processing.modality_slt.random_numbers_of
read_array_pickle = _processing.array_pickle_slt.read_array_pickle
read_plain_pickle = _processing.plain_pickle_slt.read_plain_pickle
read_poses = _processing.read_poses
spoken_language_name = _processing.spoken_languages_slt.spoken_language_name
write_poses = _processing.write_poses
