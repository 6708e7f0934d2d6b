"""A tiny translation model that takes poses, its pipeline, and files of poses for it."""

from pathlib import Path

import torch
from signing_poses import FRAMES_PER_SECOND, HEIGHT, WIDTH, signing_poses
from test_pipeline import TASK, word_tokenizer
from tiny_models import PAD, START, draw_batch_norm_statistics, tiny_text_config
from transformers import pipeline

from modeling_flallm import FLaLLMConfig, FLaLLMForTranslation, SignLanguageTranslationPipeline, UniSignPoseConfig
from processing import FLaLLMProcessor, PoseFeatureExtractor, Poses, write_poses

SMALL = {"spatial_widths": [4, 6], "temporal_layers": 1, "temporal_kernel_size": 3}


def tiny_pose_model(text: str = "mt5", **values) -> FLaLLMForTranslation:
    """In evaluation mode, with weights that make outputs differ clearly from input to input."""
    config = FLaLLMConfig(
        vision_config=UniSignPoseConfig(**SMALL),
        text_config=tiny_text_config(text),
        **{"adapter_hidden_size": 0, "adapter_activation": "linear", **values},
    )
    model = FLaLLMForTranslation(config)
    draw_batch_norm_statistics(model)
    for parameter in model.text_model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.5)
    torch.nn.init.normal_(model.adapter.first.weight, std=5.0)
    special = {"suppress_tokens": [0, PAD, START], "forced_eos_token_id": None}
    model.generation_config.update(min_length=4, max_length=10, num_beams=1, **special)
    return model.eval()


def pose_processor(**settings) -> FLaLLMProcessor:
    return FLaLLMProcessor(feature_extractor=PoseFeatureExtractor(**settings), tokenizer=word_tokenizer())


def pose_pipeline(text: str = "mt5", settings: dict | None = None, **values) -> SignLanguageTranslationPipeline:
    return pipeline(TASK, model=tiny_pose_model(text, **values), processor=pose_processor(**(settings or {})))


def made_poses(plan: list[tuple[str, float]], rate: float | None = FRAMES_PER_SECOND, **values) -> Poses:
    keypoints, scores = signing_poses(plan, rate or FRAMES_PER_SECOND)
    return Poses(keypoints, scores, rate, **{"width": WIDTH, "height": HEIGHT, **values})


def pose_file(path: Path, plan: list[tuple[str, float]], **values) -> Path:
    write_poses(path, made_poses(plan, **values))
    return path
