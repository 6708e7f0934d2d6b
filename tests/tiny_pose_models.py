"""A tiny translation model that takes poses, its pipeline, and files of poses for it."""

from pathlib import Path

import torch
from signing_poses import FRAMES_PER_SECOND, HEIGHT, WIDTH, signing_poses
from test_pipeline import TASK, word_tokenizer
from tiny_models import PAD, START, tiny_uni_sign
from transformers import pipeline

from modeling_flallm import SignLanguageTranslationPipeline, UniSignForTranslation
from processing import FLaLLMProcessor, PoseFeatureExtractor, Poses, write_poses

PROMPT = "Translate sign language video to {spoken_language}: "


def talkative_uni_sign(text: str = "mt5") -> UniSignForTranslation:
    """In evaluation mode, with weights that make outputs differ clearly from input to input."""
    model = tiny_uni_sign(text)
    for parameter in model.text_model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.5)
    torch.nn.init.normal_(model.adapter.first.weight, std=5.0)
    special = {"suppress_tokens": [0, PAD, START], "forced_eos_token_id": None}
    model.generation_config.update(min_length=4, max_length=10, num_beams=1, **special)
    return model.eval()


def pose_processor(**settings) -> FLaLLMProcessor:
    extractor = PoseFeatureExtractor(**settings)
    return FLaLLMProcessor(feature_extractor=extractor, tokenizer=word_tokenizer(), prompt=PROMPT, spoken_language="en")


def pose_pipeline(text: str = "mt5", **settings) -> SignLanguageTranslationPipeline:
    return pipeline(TASK, model=talkative_uni_sign(text), processor=pose_processor(**settings))


def made_poses(plan: list[tuple[str, float]], rate: float | None = FRAMES_PER_SECOND, **values) -> Poses:
    keypoints, scores = signing_poses(plan, rate or FRAMES_PER_SECOND)
    return Poses(keypoints, scores, rate, **{"width": WIDTH, "height": HEIGHT, **values})


def pose_file(path: Path, plan: list[tuple[str, float]], **values) -> Path:
    write_poses(path, made_poses(plan, **values))
    return path
