"""
Configurations of LLaVA-SLT (https://arxiv.org/abs/2412.16524): a hierarchical visual encoder, its contrastive
pretraining, and the translation model with a connector and a decoder-only language model.

The paper's abstract gives the three stages and their purpose. Sizes, layers, losses and prompt are not known to us:
every default here is ours, with its reason.
"""

import math

from huggingface_hub.dataclasses import strict
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig
from transformers.activations import ACT2FN

from .configuration_flallm import (
    FLaLLMVisionConfig,
    build_vision_config,
    check_text_values,
    check_translation_values,
    without_installed_pipeline,
)

TEXT_MODEL_EXPECTED = "The text model of LLaVA-SLT must be a causal language model (Llama, Qwen, Gemma, GPT-2, ...)"


@strict
class LlavaSltVisualConfig(PreTrainedConfig):
    r"""
    The hierarchical visual encoder: frames, word-like windows of frames, sentence.

    Args:
        frame_config (`FLaLLMVisionConfig` or `dict`, *optional*):
            The frame level: FLa-LLM's visual encoder with one token per frame. Default: the paper's of FLa-LLM.
        word_window_size (`int`, *optional*, defaults to 8):
            Frames that one word-like token sees at once, after sampling (ours: a sign lasts about half a second to a
            second, so 3 to 25 frames at a quarter to all of 25 frames per second).
        word_window_stride (`int`, *optional*, defaults to 2):
            Frames from one word-like token to the next (ours: the language model then reads half as many tokens as
            there are frames, and no sign falls between two windows).
        word_layers (`int`, *optional*, defaults to 2):
            Transformer layers over the windows (ours: the sign beside it decides what many a sign means).
        word_attention_heads (`int`, *optional*, defaults to 8):
            Their attention heads (ours).
        word_hidden_size (`int`, *optional*, defaults to 512):
            Width of a word-like token (ours: that of the frame level).
        word_feed_forward_size (`int`, *optional*, defaults to 2048):
            Feed-forward width of these layers (ours: four times their width, as is usual).
        dropout (`float`, *optional*, defaults to 0.1):
            Of these layers (ours).

    Raises:
        ValueError: for a frame level that changes the number of frames, a window smaller than its stride, sizes below
            1, a width that the heads do not divide, or a dropout outside its range.
    """

    model_type = "llava_slt_visual"
    base_config_key = "vision_config"
    sub_configs = {"frame_config": FLaLLMVisionConfig}
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
        if self.frame_config is None or isinstance(self.frame_config, dict):
            self.frame_config = FLaLLMVisionConfig(**(self.frame_config or {}))
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

    def _check_frame_level(self) -> None:
        frames = self.frame_config
        if frames.temporal_padding != "zero" or frames.temporal_stride != 1:
            raise ValueError(
                "The frame level must give one token per frame: `temporal_padding` 'zero' and no pooling in "
                f"`temporal_blocks`, got {frames.temporal_padding!r} and {list(frames.temporal_blocks)}. Windows and "
                "their stride are set by `word_window_size` and `word_window_stride`."
            )


@strict
class LlavaSltContrastiveConfig(PreTrainedConfig):
    r"""
    Visual contrastive pretraining: the visual encoder and what compares it with frozen text embeddings.

    Args:
        vision_config (`LlavaSltVisualConfig` or `dict`, *optional*):
            The visual encoder.
        sentence_target_size (`int`, *optional*, defaults to 512):
            Width of the frozen text encoder's sentence embeddings.
        word_target_size (`int`, *optional*, defaults to 512):
            Width of the language model's token embeddings.
        word_vocabulary_size (`int`, *optional*, defaults to 0):
            Tokens that occur in the training sentences; 0 switches the word level off.
        temperature_init (`float`, *optional*, defaults to 0.07):
            First temperature of the contrast of sentences; it is learned (CLIP's value).
        word_alignment_weight (`float`, *optional*, defaults to 10.0):
            Weight of the word level's loss beside that of the sentence level (ours: on rendered signing, 1 learned
            little more than how frequent words are). 0 switches it off.
        memory_bank_size (`int`, *optional*, defaults to 0):
            Earlier sentence embeddings that are further negatives (ours: off; it is for small batches).

    Raises:
        ValueError: for a number outside its range.
    """

    model_type = "llava_slt_contrastive"
    sub_configs = {"vision_config": LlavaSltVisualConfig}

    vision_config: dict | PreTrainedConfig | None = None
    sentence_target_size: int = 512
    word_target_size: int = 512
    word_vocabulary_size: int = 0
    temperature_init: float | int = 0.07
    word_alignment_weight: float | int = 10.0
    memory_bank_size: int = 0

    def __post_init__(self, **kwargs):
        if self.vision_config is None or isinstance(self.vision_config, dict):
            self.vision_config = LlavaSltVisualConfig(**(self.vision_config or {}))
        least_values = {
            "sentence_target_size": 1,
            "word_target_size": 1,
            "word_vocabulary_size": 0,
            "word_alignment_weight": 0,
            "memory_bank_size": 0,
        }
        for name, least in least_values.items():
            if not least <= getattr(self, name) < math.inf:
                raise ValueError(f"`{name}` must be {least} or more, got {getattr(self, name)}.")
        if not 0 < self.temperature_init <= 1:
            raise ValueError(f"`temperature_init` must be above 0 and at most 1, got {self.temperature_init}.")
        super().__post_init__(**kwargs)


@strict
class LlavaSltConfig(PreTrainedConfig):
    r"""
    LLaVA-SLT: visual encoder, MLP connector and a decoder-only language model.

    Args:
        vision_config (`LlavaSltVisualConfig` or `dict`, *optional*):
            The visual encoder.
        text_config (`PreTrainedConfig` or `dict`):
            Any causal language model of transformers (Llama, Qwen, Gemma, GPT-2, OPT, XGLM, ...).
        video_token_id (`int`):
            Id of the placeholder in the prompt that stands for one word-like token.
        connector_hidden_size (`int`, *optional*):
            Width of the connector's hidden layer. Default: that of the language model, as in LLaVA-1.5
            (https://arxiv.org/abs/2310.03744; the paper of LLaVA-SLT says "light MLP connector" and no more).
        connector_activation (`str`, *optional*, defaults to `"gelu"`):
            A name of transformers' activations (LLaVA-1.5's).
        label_smoothing (`float`, *optional*, defaults to 0.0):
            Of the cross entropy (ours: language models are pretrained without).
        confidence_calibration (`dict`, *optional*):
            As in `FLaLLMConfig`.

    Raises:
        ValueError: for a text configuration that is missing or is no causal language model of transformers, a
            placeholder outside its vocabulary, an unknown activation, or a number outside its range.
    """

    model_type = "llava_slt"
    sub_configs = {"vision_config": AutoConfig, "text_config": AutoConfig}
    has_no_defaults_at_init = True
    # FLa-LLM's extra loss on word presence has its place in stage 2 here.
    word_presence_loss_weight = 0.0

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    video_token_id: int | None = None
    connector_hidden_size: int | None = None
    connector_activation: str = "gelu"
    label_smoothing: float | int = 0.0
    confidence_calibration: dict | None = None

    def __post_init__(self, **kwargs):
        self.vision_config = build_vision_config(self.vision_config, LlavaSltVisualConfig)
        self.text_config = self._build_text_config(self.text_config)
        self._check_video_token()
        if self.connector_activation not in ACT2FN:
            raise ValueError(
                f"`connector_activation` must be one of {sorted(ACT2FN)}, got {self.connector_activation!r}."
            )
        if self.connector_hidden_size is not None and self.connector_hidden_size < 1:
            raise ValueError(f"`connector_hidden_size` must be 1 or more, got {self.connector_hidden_size}.")
        check_translation_values(self)
        super().__post_init__(**without_installed_pipeline(kwargs))

    @staticmethod
    def _build_text_config(text_config: dict | PreTrainedConfig | None) -> PreTrainedConfig:
        if text_config is None:
            raise ValueError(f"{TEXT_MODEL_EXPECTED}, got none.")
        if isinstance(text_config, dict):
            values = dict(text_config)
            model_type = values.pop("model_type", None)
            if model_type not in CONFIG_MAPPING:
                raise ValueError(f"{TEXT_MODEL_EXPECTED}, got model type {model_type!r}, which is none.")
            text_config = CONFIG_MAPPING[model_type](**values)
        check_is_decoder_only(text_config)
        check_text_values(text_config)
        return text_config

    def _check_video_token(self) -> None:
        vocabulary_size = self.text_config.vocab_size
        if self.video_token_id is None or not 0 <= self.video_token_id < vocabulary_size:
            raise ValueError(
                f"`video_token_id` must be the id of the placeholder token, from 0 to {vocabulary_size - 1} (the "
                f"language model has {vocabulary_size} token embeddings), got {self.video_token_id}. "
                "`LlavaSltForTranslation.from_vision_text_pretrained` resizes the embeddings where that is needed."
            )


def check_is_decoder_only(text_config: PreTrainedConfig) -> None:
    """Raise a `ValueError` for the configuration of an encoder-decoder."""
    if text_config.is_encoder_decoder:
        raise ValueError(
            f"{TEXT_MODEL_EXPECTED}, got model type {text_config.model_type!r}, an encoder-decoder. For these there is "
            "FLa-LLM: FLaLLMForTranslation, which `flallm train visual-initialing` and `flallm train llm-fine-tuning` "
            "make."
        )


__all__ = ["LlavaSltConfig", "LlavaSltContrastiveConfig", "LlavaSltVisualConfig"]
