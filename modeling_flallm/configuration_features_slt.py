"""Configuration of the sign encoder for ready-made visual features."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class VisualFeaturesConfig(PreTrainedConfig):
    r"""
    Ready-made visual features in place of videos: whatever computed them (I3D, S3D, DINOv2, ...) is not a part of the
    model.

    Args:
        hidden_size (`int`, *optional*, defaults to 1024):
            Width of one feature. 1024 is that of I3D, whose features most published corpora include.

    Raises:
        ValueError: for a width below 1.
    """

    model_type = "visual_features_slt"
    base_config_key = "vision_config"

    hidden_size: int = 1024

    def __post_init__(self, **kwargs):
        if self.hidden_size < 1:
            raise ValueError(f"`hidden_size` must be 1 or more, got {self.hidden_size}.")
        super().__post_init__(**kwargs)


__all__ = ["VisualFeaturesConfig"]
