"""
The confidence in a sentence: its score, mapped by what `flallm calibrate` measured, and whether the video looks like
those of that measurement.
"""

import math
from typing import Any

import torch


def confidence_of(score: float, mean_features: torch.Tensor, calibration: dict[str, Any]) -> dict[str, Any]:
    """
    The pipeline's `confidence`, `is_familiar` and `is_measured` for a score and a clip's mean visual token
    `(hidden size,)`, from the `confidence_calibration` of a model's configuration.
    """
    lowest, highest = calibration.get("lowest_score", -math.inf), calibration.get("highest_score", math.inf)
    is_familiar = True
    if "mean_features" in calibration:
        center = torch.tensor(calibration["mean_features"], device=mean_features.device)
        is_familiar = bool(visual_distances(mean_features[None], center) <= calibration["largest_distance"])
    confidence = 0.0
    if is_familiar and score >= lowest:
        logit = calibration["slope"] * min(score, highest) + calibration["intercept"]
        confidence = (1 + math.tanh(logit / 2)) / 2  # tanh does not overflow
    return {"confidence": confidence, "is_familiar": is_familiar, "is_measured": lowest <= score <= highest}


def mean_visual_features(vision_output: Any) -> torch.Tensor:
    """Output of the vision model -> the mean visual token of each clip, float32 `(clips, hidden size)`."""
    mask = vision_output.attention_mask[..., None].float()
    return (vision_output.last_hidden_state.float() * mask).sum(1) / mask.sum(1)


def visual_distances(mean_features: torch.Tensor, center: torch.Tensor) -> torch.Tensor:
    """1 - cosine between mean visual tokens `(clips, hidden size)` and one `(hidden size,)`: `(clips,)`, 0 to 2."""
    return 1 - torch.nn.functional.cosine_similarity(mean_features, center[None])


__all__ = ["confidence_of", "mean_visual_features", "visual_distances"]
