"""
Configurations of LLaVA-SLT (https://arxiv.org/abs/2412.16524): the contrastive pretraining of its visual encoder, and
the translation model with a connector and a decoder-only language model.

The paper's abstract gives the three stages and their purpose. Sizes, layers, losses and prompt are not known to us:
every default here is ours, with its reason.
"""

import math

from huggingface_hub.dataclasses import strict
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig
from transformers.activations import ACT2FN

from .calibration_slt import SavedWithItsCalibration
from .configuration_encoder_words_slt import LlavaSltVisualConfig
from .configuration_flallm import (
    PaddedByItsTextModel,
    check_text_values,
    check_translation_values,
    without_installed_pipeline,
)
from .encoders_slt import build_vision_config

TEXT_MODEL_EXPECTED = "The text model of LLaVA-SLT must be a causal language model (Llama, Qwen, Gemma, GPT-2, ...)"


@strict
class LlavaSltContrastiveConfig(PreTrainedConfig):
    r"""
    Visual contrastive pretraining: the visual encoder and the heads that compare it with frozen text embeddings.

    Args:
        vision_config (`PreTrainedConfig` or `dict`, *optional*):
            The visual encoder: the configuration of any sign encoder, see `encoders_slt.py`. Default: a
            `LlavaSltVisualConfig`.
        sentence_target_size (`int`, *optional*, defaults to 512):
            Width of the frozen text encoder's sentence embeddings.
        word_target_size (`int`, *optional*, defaults to 512):
            Width of the language model's token embeddings.
        word_vocabulary_size (`int`, *optional*, defaults to 0):
            Number of tokens that occur in the training sentences; 0 switches the word level off.
        temperature_init (`float`, *optional*, defaults to 0.07):
            Initial temperature of the contrast between sentences, which is learned (CLIP's value).
        word_alignment_weight (`float`, *optional*, defaults to 10.0):
            Weight of the word level's loss beside that of the sentence level (ours: on rendered signing, 1 learned
            little more than how frequent words are). 0 switches it off.
        memory_bank_size (`int`, *optional*, defaults to 0):
            Number of earlier sentence embeddings used as extra negatives (ours: off; for small batches).

    Raises:
        ValueError: for a number outside its range.
    """

    model_type = "llava_slt_contrastive"
    sub_configs = {"vision_config": AutoConfig}

    vision_config: dict | PreTrainedConfig | None = None
    sentence_target_size: int = 512
    word_target_size: int = 512
    word_vocabulary_size: int = 0
    temperature_init: float | int = 0.07
    word_alignment_weight: float | int = 10.0
    memory_bank_size: int = 0

    def __post_init__(self, **kwargs):
        self.vision_config = build_vision_config(self.vision_config, LlavaSltVisualConfig.model_type)
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
class LlavaSltConfig(PaddedByItsTextModel, SavedWithItsCalibration, PreTrainedConfig):
    r"""
    LLaVA-SLT: visual encoder, MLP connector and a decoder-only language model.

    Args:
        vision_config (`PreTrainedConfig` or `dict`, *optional*):
            The visual encoder: the configuration of any sign encoder, see `encoders_slt.py`. Default: a
            `LlavaSltVisualConfig`.
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
            Label smoothing of the cross entropy (ours: language models are pretrained without it).
        confidence_calibration (`dict`, *optional*):
            As in `FLaLLMConfig`.
        handedness_direction (`list[float]`, *optional*):
            As in `FLaLLMConfig`.

    Raises:
        ValueError: for a text configuration that is missing or is no causal language model of transformers, a
            placeholder outside its vocabulary, an unknown activation, or a number outside its range.
    """

    model_type = "llava_slt"
    sub_configs = {"vision_config": AutoConfig, "text_config": AutoConfig}
    has_no_defaults_at_init = True
    # Words are learned in stage 2 instead of with FLa-LLM's extra loss on word presence.
    word_presence_loss_weight = 0.0

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    video_token_id: int | None = None
    connector_hidden_size: int | None = None
    connector_activation: str = "gelu"
    label_smoothing: float | int = 0.0
    confidence_calibration: dict | None = None
    handedness_direction: list[float] | None = None

    def __post_init__(self, **kwargs):
        self.vision_config = build_vision_config(self.vision_config, LlavaSltVisualConfig.model_type)
        self.text_config = self.build_text_config(self.text_config)
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
    def build_text_config(text_config: dict | PreTrainedConfig | None) -> PreTrainedConfig:
        if text_config is None:
            raise ValueError(f"{TEXT_MODEL_EXPECTED}, got none.")
        if isinstance(text_config, dict):
            values = dict(text_config)
            model_type = values.pop("model_type", None)
            if model_type not in CONFIG_MAPPING:
                raise ValueError(f"{TEXT_MODEL_EXPECTED}, got model type {model_type!r}, which is not one.")
            text_config = CONFIG_MAPPING[model_type](**values)
        LlavaSltConfig.check_text_config(text_config)
        check_text_values(text_config)
        return text_config

    @staticmethod
    def check_text_config(text_config: PreTrainedConfig) -> None:
        """Raise a `ValueError` for the configuration of an encoder-decoder."""
        if text_config.is_encoder_decoder:
            raise ValueError(
                f"{TEXT_MODEL_EXPECTED}, got model type {text_config.model_type!r}, an encoder-decoder. Use FLa-LLM "
                "for these: FLaLLMForTranslation, trained with `flallm train visual-initialing` and `flallm train "
                "llm-fine-tuning`."
            )

    def _check_video_token(self) -> None:
        vocabulary_size = self.text_config.vocab_size
        if self.video_token_id is None or not 0 <= self.video_token_id < vocabulary_size:
            raise ValueError(
                f"`video_token_id` must be the id of the placeholder token, from 0 to {vocabulary_size - 1} (the "
                f"language model has {vocabulary_size} token embeddings), got {self.video_token_id}. "
                "`LlavaSltForTranslation.from_vision_text_pretrained` resizes the embeddings if needed."
            )


__all__ = ["LlavaSltConfig", "LlavaSltContrastiveConfig"]
