"""The Python files in the folder of a saved model or processor."""

import ast
import sys
from pathlib import Path

# Dependencies of transformers, torch and torchvision, and av, which transformers asks the user to install if needed.
MAY_BE_IMPORTED = {
    "yaml",
    "transformers",
    "huggingface_hub",
    "safetensors",
    "torch",
    "torchvision",
    "jinja2",
    "numpy",
    "PIL",
}
MAY_BE_IMPORTED |= {"av", "fsspec"}

# The files saved with the processor of FLa-LLM; those of other systems need these, too.
PROCESSOR_FILES = {
    "array_files_slt.py",
    "array_pickle_slt.py",
    "captions_slt.py",
    "encoder_of_features_slt.py",
    "exported_frames_slt.py",
    "feature_extraction_poses_slt.py",
    "feature_extraction_visual_features_slt.py",
    "feature_files_slt.py",
    "hand_crops_slt.py",
    "live_clip_slt.py",
    "live_segmentation_slt.py",
    "modalities_slt.py",
    "modality_features_slt.py",
    "modality_poses_slt.py",
    "modality_slt.py",
    "modality_video_slt.py",
    "padding_slt.py",
    "plain_pickle_slt.py",
    "pose_array_files_slt.py",
    "pose_arrays_slt.py",
    "pose_extraction_slt.py",
    "pose_extractor_mediapipe_slt.py",
    "pose_extractor_rtmlib_slt.py",
    "pose_extractor_slt.py",
    "pose_files_slt.py",
    "pose_format_slt.py",
    "pose_layouts_slt.py",
    "pose_models_slt.py",
    "pose_normalisation_slt.py",
    "pose_openpose_slt.py",
    "pose_pickles_slt.py",
    "pose_pictures_slt.py",
    "pose_point_names_slt.py",
    "pose_segmentation_slt.py",
    "pose_signer_slt.py",
    "poses_live_slt.py",
    "poses_of_videos_slt.py",
    "poses_slt.py",
    "processing_flallm.py",
    "sampling_slt.py",
    "segmentation_slt.py",
    "spoken_languages_slt.py",
    "video_container_slt.py",
    "video_decoding_slt.py",
    "video_download_slt.py",
    "video_file_frames_slt.py",
    "video_file_parts_slt.py",
    "video_files_slt.py",
    "video_inputs_slt.py",
    "video_joined_slt.py",
    "video_live_slt.py",
    "video_packets_slt.py",
    "video_pictures_slt.py",
    "video_processing_slt.py",
    "video_requests_slt.py",
    "video_segmentation_slt.py",
    "video_times_slt.py",
}


def python_files(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.py")}


def check_imports(folder: Path) -> None:
    """Check that they import only each other and common libraries."""
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level:
                assert f"{node.module}.py" in python_files(folder)
            elif isinstance(node, ast.ImportFrom):
                names = [node.module]
            for name in names:
                package = name.split(".")[0]
                assert package in MAY_BE_IMPORTED or package in sys.stdlib_module_names, f"{path.name}: {name}"
