"""Configuration of FLa-LLM (https://arxiv.org/abs/2403.12556): a visual encoder, an adapter and a text model."""

import math
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig
from transformers.activations import ACT2FN

from .calibration_slt import SavedWithItsCalibration, check_calibration, check_direction
from .configuration_encoder_frames_slt import FLaLLMVisionConfig
from .encoder_registry_slt import build_vision_config

TEXT_SIZES = ("hidden_size", "vocab_size", "num_attention_heads", "intermediate_size")


class PaddedByItsTextModel:
    """Mixin for configurations with a `text_config`: sentences are padded as that model pads them."""

    @property
    def pad_token_id(self) -> int | None:
        """The text model's padding token or, if it has none, its (first) end token, which its processor pads with."""
        padding = getattr(self.text_config, "pad_token_id", None)
        end = getattr(self.text_config, "eos_token_id", None)
        first_end = end[0] if isinstance(end, list | tuple) else end
        return first_end if padding is None else padding

    @pad_token_id.setter
    def pad_token_id(self, value: int | None) -> None:
        self.text_config.pad_token_id = value


@strict
class FLaLLMConfig(PaddedByItsTextModel, SavedWithItsCalibration, PreTrainedConfig):
    r"""
    FLa-LLM: visual encoder, adapter and an encoder-decoder text model. The two stages of the paper are two
    configurations of this one class: stage 1 has a small random text model (Light-T), stage 2 a pretrained one.

    Args:
        vision_config (`PreTrainedConfig` or `dict`, *optional*):
            The visual encoder: the configuration of any sign encoder, see `encoders_slt.py`. Default: the paper's, a
            `FLaLLMVisionConfig`.
        text_config (`PreTrainedConfig` or `dict`, *optional*):
            Any encoder-decoder configuration of transformers (mBART, mBART-50, NLLB/M2M100, mT5/T5, BART, ...).
            Default: Light-T as the paper gives it in section 4.2 (3+3 layers, 8 heads, width 512, feed-forward 2048),
            in mBART's layer order. The vocabulary size of the default is mBART's; set it to that of your tokenizer.
        adapter_hidden_size (`int`, *optional*, defaults to 512):
            Width of the adapter's hidden layer (paper, section 3.2: an MLP with one hidden layer; the width is not
            given, 512 is ours). 0 makes the adapter one linear layer, norm and activation (sltbaselines).
        adapter_activation (`str`, *optional*, defaults to `"relu"`):
            A name of transformers' activations. Not given in the paper; ReLU is sltbaselines'.
        adapter_norm (`bool`, *optional*, defaults to `False`):
            LayerNorm after the adapter's first linear layer (sltbaselines: yes).
        label_smoothing (`float`, *optional*, defaults to 0.2):
            Label smoothing of the cross entropy, in both stages (paper, section 4.2).
        word_presence_loss_weight (`float`, *optional*, defaults to 0.0):
            Weight of an extra loss of ours that is not in the paper: from the adapter's output, predict which tokens
            occur in the spoken sentence (see `FLaLLMForTranslation`). It needs no gloss. 0 switches it off.
        visual_text_alignment_weight (`float`, *optional*, defaults to 0.0):
            Weight of SpaMo's contrast of clips and sentences in the loss of training (https://arxiv.org/abs/2408.10593;
            its code has values from 0.1 to 1), see `FLaLLMForTranslation`. 0 switches it off.
        has_prompt (`bool`, *optional*, defaults to `False`):
            Whether the text model reads a prompt before the visual tokens of each clip, as in Uni-Sign. SpaMo's code
            has it behind them. The processor writes it, see `prompt` of `FLaLLMProcessor`.
        confidence_calibration (`dict`, *optional*):
            How the pipeline turns the score of a translation into a confidence, as `flallm calibrate` measured it on
            the dev split: `slope` (0 or more) and `intercept` of a logistic curve over the score; if they are there,
            `lowest_score` and `highest_score`, outside of which nothing was measured, and `mean_features`, the mean
            visual token of the dev clips (a list of the vision configuration's `hidden_size` numbers), with
            `largest_distance` (1 - cosine), up to which a clip looks like them. Saved as confidence_calibration.json,
            see `SavedWithItsCalibration`. Default: not measured, so the pipeline gives scores without confidence.
        handedness_direction (`list[float]`, *optional*):
            The direction, of as many numbers as the vision configuration's `hidden_size`, along which the mean visual
            token of what a mirror shows of a clip is larger if the signer is left-handed. Training with
            `--mirror_left_handed` learns it. Default: not known, so that `left_handed="auto"` compares how sure the
            model is of both ways, which takes longer.

    Raises:
        ValueError: for a vision configuration that is not a sign encoder's, a text configuration that is not of an
            encoder-decoder of transformers, an unknown activation, a number outside its range or a calibration with
            unknown, missing or unusable values.
    """

    model_type = "flallm"
    sub_configs = {"vision_config": AutoConfig, "text_config": AutoConfig}

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    adapter_hidden_size: int = 512
    adapter_activation: str = "relu"
    adapter_norm: bool = False
    label_smoothing: float | int = 0.2
    word_presence_loss_weight: float | int = 0.0
    visual_text_alignment_weight: float | int = 0.0
    has_prompt: bool = False
    confidence_calibration: dict | None = None
    handedness_direction: list[float] | None = None
    is_encoder_decoder: bool = True

    def __post_init__(self, **kwargs):
        self.vision_config = build_vision_config(self.vision_config, FLaLLMVisionConfig.model_type)
        self.text_config = self.build_text_config(self.text_config)
        if self.adapter_activation not in ACT2FN:
            raise ValueError(f"`adapter_activation` must be one of {sorted(ACT2FN)}, got {self.adapter_activation!r}.")
        if self.adapter_hidden_size < 0:
            raise ValueError(f"`adapter_hidden_size` must be 0 or more, got {self.adapter_hidden_size}.")
        for name in ("word_presence_loss_weight", "visual_text_alignment_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"`{name}` must be 0 or more, got {getattr(self, name)}.")
        check_translation_values(self)
        super().__post_init__(**without_installed_pipeline(kwargs))

    @staticmethod
    def build_text_config(text_config: dict | PreTrainedConfig | None) -> PreTrainedConfig:
        """
        The configuration of an encoder-decoder from that, its values, or none, which is Light-T.

        Raises:
            ValueError: for a model type that transformers does not know, one that is no encoder-decoder, and sizes or
                dropouts out of range.
        """
        if text_config is None:
            text_config = light_transformer_config()
        if isinstance(text_config, dict):
            values = dict(text_config)
            model_type = values.pop("model_type", "mbart")
            if model_type not in CONFIG_MAPPING:
                raise ValueError(
                    f"`text_config` must name a model type of transformers, got {model_type!r}. Encoder-decoders such "
                    "as 'mbart', 'm2m_100', 'mt5', 't5' or 'bart' are known to work."
                )
            text_config = CONFIG_MAPPING[model_type](**values)
        FLaLLMConfig.check_text_config(text_config)
        check_text_values(text_config)
        return text_config

    @staticmethod
    def check_text_config(text_config: PreTrainedConfig) -> None:
        """Raise a `ValueError` for a configuration that is not an encoder-decoder's."""
        if not text_config.is_encoder_decoder or isinstance(text_config, FLaLLMConfig):
            raise ValueError(
                "The text model of FLa-LLM must be an encoder-decoder (mBART, NLLB/M2M100, mT5/T5, BART, ...), got "
                f"model type {text_config.model_type!r}, which is not one."
            )


def check_translation_values(config: PreTrainedConfig) -> None:
    """Raise a `ValueError` for a wrong `label_smoothing`, `confidence_calibration` or `handedness_direction`."""
    if not 0 <= config.label_smoothing < 1:
        raise ValueError(f"`label_smoothing` must be at least 0 and below 1, got {config.label_smoothing}.")
    if config.confidence_calibration is not None:
        check_calibration(config.confidence_calibration, config.vision_config.hidden_size)
    check_direction(config.handedness_direction, config.vision_config.hidden_size)


def check_text_values(text_config: PreTrainedConfig) -> None:
    """Raise a `ValueError` for sizes below 1 and dropouts outside 0 to 1, which transformers does not check."""
    for name in TEXT_SIZES:
        value = getattr(text_config, name, None)
        if isinstance(value, int) and value < 1:
            raise ValueError(f"`{name}` of the text configuration must be 1 or more, got {value}.")
    for name, value in vars(text_config).items():
        is_dropout = "dropout" in name or name.endswith("pdrop")
        if is_dropout and isinstance(value, int | float) and not 0 <= value <= 1:
            raise ValueError(f"`{name}` of the text configuration must be from 0 to 1, got {value}.")


def without_installed_pipeline(values: dict[str, Any]) -> dict[str, Any]:
    """
    Drop from the values of a config.json the pipeline stored beside the weights, which is for users without this
    package: the package registers its own.
    """
    is_installed = not __name__.startswith("transformers_modules.")
    return {name: value for name, value in values.items() if not (is_installed and name == "custom_pipelines")}


def light_transformer_config(**values) -> PreTrainedConfig:
    """
    Light-T of the paper (section 4.2): 3+3 layers, 8 heads, width 512, feed-forward 2048, in mBART's layer order.
    `values` replace or add fields of `MBartConfig`, such as `vocab_size` and the ids of the special tokens.
    """
    light_transformer = {
        "d_model": 512,
        "encoder_layers": 3,
        "decoder_layers": 3,
        "encoder_attention_heads": 8,
        "decoder_attention_heads": 8,
        "encoder_ffn_dim": 2048,
        "decoder_ffn_dim": 2048,
        "dropout": 0.1,  # not given in the paper; sltbaselines' value
        "scale_embedding": True,
    }
    light_transformer |= values
    # As in fairseq. transformers' 0.02 is for wide models: in a narrow one, attention would start all but uniform.
    light_transformer.setdefault("init_std", light_transformer["d_model"] ** -0.5)
    return CONFIG_MAPPING["mbart"](**light_transformer)


__all__ = ["FLaLLMConfig", "light_transformer_config"]
