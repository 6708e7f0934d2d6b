"""
Configuration of the sign encoder of word-like windows, LLaVA-SLT's (https://arxiv.org/abs/2412.16524).

The paper's abstract says what the levels are for. Sizes and layers are not known to us: every default here is ours,
with its reason.
"""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from .configuration_encoder_frames_slt import FLaLLMVisionConfig
from .encoder_registry_slt import build_vision_config


@strict
class LlavaSltVisualConfig(PreTrainedConfig):
    r"""
    The hierarchical visual encoder: frames, word-like windows of frames, sentence.

    Args:
        frame_config (`PreTrainedConfig` or `dict`, *optional*):
            The frame level: any sign encoder of videos with one token per frame. Default: the paper's of FLa-LLM.
        word_window_size (`int`, *optional*, defaults to 8):
            Frames that one word-like token sees at once, after sampling (ours: a sign lasts about half a second to a
            second, so 3 to 25 frames at a quarter to all of 25 frames per second).
        word_window_stride (`int`, *optional*, defaults to 2):
            Frames from one word-like token to the next (ours: the language model then reads half as many tokens as
            there are frames, and no sign falls between two windows).
        word_layers (`int`, *optional*, defaults to 2):
            Transformer layers over the windows (ours: the meaning of many signs depends on their neighbours).
        word_attention_heads (`int`, *optional*, defaults to 8):
            Their attention heads (ours).
        word_hidden_size (`int`, *optional*, defaults to 512):
            Width of a word-like token (ours: that of the frame level).
        word_feed_forward_size (`int`, *optional*, defaults to 2048):
            Feed-forward width of these layers (ours: four times their width, as is usual).
        dropout (`float`, *optional*, defaults to 0.1):
            Dropout of these layers (ours).

    Raises:
        ValueError: for a frame level that changes the number of frames, a window smaller than its stride, sizes below
            1, a width that the heads do not divide, or a dropout outside its range.
    """

    model_type = "llava_slt_visual"
    base_config_key = "vision_config"
    sub_configs = {"frame_config": AutoConfig}
    attribute_map = {"hidden_size": "word_hidden_size"}

    frame_config: dict | PreTrainedConfig | None = None
    word_window_size: int = 8
    word_window_stride: int = 2
    word_layers: int = 2
    word_attention_heads: int = 8
    word_hidden_size: int = 512
    word_feed_forward_size: int = 2048
    dropout: float | int = 0.1

    def __post_init__(self, **kwargs):
        self.frame_config = build_vision_config(self.frame_config, FLaLLMVisionConfig.model_type)
        self._check_frame_level()
        for name in ("window_size", "window_stride", "attention_heads", "hidden_size", "feed_forward_size"):
            if getattr(self, f"word_{name}") < 1:
                raise ValueError(f"`word_{name}` must be 1 or more, got {getattr(self, f'word_{name}')}.")
        if self.word_layers < 0:
            raise ValueError(f"`word_layers` must be 0 or more, got {self.word_layers}.")
        if self.word_window_size < self.word_window_stride:
            raise ValueError(
                f"`word_window_size` {self.word_window_size} is smaller than `word_window_stride` "
                f"{self.word_window_stride}: the frames between two windows would be lost."
            )
        if self.word_hidden_size % self.word_attention_heads:
            raise ValueError(
                f"`word_hidden_size` {self.word_hidden_size} must be a multiple of `word_attention_heads` "
                f"{self.word_attention_heads}."
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"`dropout` must be at least 0 and below 1, got {self.dropout}.")
        super().__post_init__(**kwargs)

    @property
    def frame_settings(self) -> dict[str, Any] | None:
        """See `PretrainedVisionConfig.frame_settings`; `None` leaves them to the processor."""
        return getattr(self.frame_config, "frame_settings", None)

    def _check_frame_level(self) -> None:
        frames = self.frame_config
        if not isinstance(frames, FLaLLMVisionConfig):
            return  # the encoder checks all others
        if frames.temporal_padding != "zero" or frames.temporal_stride != 1:
            raise ValueError(
                "The frame level must give one token per frame: `temporal_padding` 'zero' and no pooling in "
                f"`temporal_blocks`, got {frames.temporal_padding!r} and {list(frames.temporal_blocks)}. Windows and "
                "their stride are set by `word_window_size` and `word_window_stride`."
            )


__all__ = ["LlavaSltVisualConfig"]
