"""
Sign encoder of word-like windows, LLaVA-SLT's hierarchical visual encoder (https://arxiv.org/abs/2412.16524).

    frames -> frame tokens -> word-like tokens -> sentence

The paper's abstract says that the encoder is hierarchical, that it is aligned with a large pretrained text encoder, and
that its intermediate level is word-like and compatible with the language model's token embeddings. The design is ours:

- frame level: FLa-LLM's visual encoder, one token per frame;
- word level: a strided convolution over windows of frames, then transformer layers over the windows;
- sentence level: attention pooling over the word-like tokens.

`modeling_llava_slt_contrastive.py` aligns the word and the sentence level with text.
"""

import math
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.utils import can_return_tuple

from .configuration_encoder_words_slt import LlavaSltVisualConfig
from .encoder_registry_slt import build_sign_encoder
from .sign_encoder_slt import SignEncoder, SignEncoderOutput, TokenStep, length_mask, num_tokens_after
from .systems import TAGS


class WordLevel(nn.Module):
    """
    `(batch, frames, frame hidden size)` and lengths -> `(batch, words, word_hidden_size)` and word lengths.

    Word i sees the frames around frame i * stride. After the end of a clip the frame tokens are 0, the zero padding
    that the clip would have alone.
    """

    def __init__(self, config: LlavaSltVisualConfig):
        super().__init__()
        self.stride = config.word_window_stride
        self.frames_in_front = (config.word_window_size - 1) // 2
        self.frames_behind = config.word_window_size - 1 - self.frames_in_front
        width = config.word_hidden_size
        self.windows = nn.Conv1d(config.frame_config.hidden_size, width, config.word_window_size, self.stride)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width,
                config.word_attention_heads,
                config.word_feed_forward_size,
                config.dropout,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(config.word_layers)
        )
        # Each layer begins as the identity. If layers mix the windows before these are informative, the word level
        # never learns more than how frequent words are.
        for layer in self.layers:
            layer.self_attn.out_proj.starts_at_zero = layer.linear2.starts_at_zero = True
        self.norm = nn.LayerNorm(width)
        self.gradient_checkpointing = False

    @property
    def token_step(self) -> TokenStep:
        return (self.stride - 1, self.stride, 1, None)

    def forward(self, frames: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        padded = nn.functional.pad(frames.transpose(1, 2), (self.frames_in_front, self.frames_behind))
        hidden = self.windows(padded).transpose(1, 2)  # (batch, words, width)
        hidden = hidden + _sinusoidal_positions(*hidden.shape[1:], hidden.device).to(hidden.dtype)
        num_words = num_tokens_after([self.token_step], lengths)
        is_real = length_mask(num_words, hidden.shape[1])
        for layer in self.layers:
            hidden = self._run_layer(layer, hidden, ~is_real)
        return self.norm(hidden).masked_fill(~is_real[..., None], 0), num_words

    def _run_layer(self, layer: nn.Module, hidden: torch.Tensor, is_padding: torch.Tensor) -> torch.Tensor:
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(layer.__call__, hidden, None, is_padding)
        return layer(hidden, src_key_padding_mask=is_padding)


def _sinusoidal_positions(length: int, width: int, device: torch.device) -> torch.Tensor:
    """`(length, width)`, as in "Attention is all you need": any length, no parameters."""
    rates = torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10_000) / width))
    angles = torch.arange(length, device=device)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :width]


class SentenceLevel(nn.Module):
    """Attention pooling over the real words: `(batch, words, width)` and mask `(batch, words)` -> `(batch, width)`."""

    def __init__(self, config: LlavaSltVisualConfig):
        super().__init__()
        self.importance = nn.Linear(config.word_hidden_size, 1)

    def forward(self, words: torch.Tensor, is_real: torch.Tensor) -> torch.Tensor:
        importance = self.importance(words).float().squeeze(2).masked_fill(~is_real, -torch.inf)
        return (importance.softmax(1).to(words.dtype)[..., None] * words).sum(1)


class LlavaSltVisualEncoder(SignEncoder):
    """
    Encodes frames as word-like tokens and as one vector for the sentence, see the top of this file.

    Only real frames go through the CNN, and no output depends on padding. With `frozen` set (see `freeze`), weights and
    BatchNorm statistics do not change, even after `.train()`, dropout is off and no gradient is computed.
    """

    config_class = LlavaSltVisualConfig
    input_names = ("pixel_values_videos", "pixel_attention_mask")
    main_input_name = "pixel_values_videos"
    input_modalities = ("video",)
    clip_words = {"a_clip": "a video", "reads": "watches a video", "example": "clip.mp4"}
    hub_tags = (*TAGS, "llava-slt")
    supports_gradient_checkpointing = True
    # Its attention layers are torch's own.
    _supports_sdpa = True
    # See `FLaLLMVisionModel`.
    _no_split_modules = ("LlavaSltVisualEncoder", "WordLevel", "SentenceLevel")

    def __init__(self, config: LlavaSltVisualConfig):
        super().__init__(config)
        self.frame_encoder = build_sign_encoder(config.frame_config)
        self._check_frame_encoder()
        self.word_level = WordLevel(config)
        self.sentence_level = SentenceLevel(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if getattr(module, "starts_at_zero", False):
            init.zeros_(module.weight)
        elif isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
        elif isinstance(module, nn.Conv1d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def _check_frame_encoder(self) -> None:
        encoder = self.frame_encoder
        if encoder.input_names != self.input_names or encoder.get_centre_and_spacing() != (0, 1):
            raise ValueError(
                "`frame_config` must be that of a sign encoder which gives one token per frame of a video, got "
                f"{encoder.config.model_type!r} with tokens {encoder.get_centre_and_spacing()[1]:g} frames apart. "
                "Windows and their stride are set by `word_window_size` and `word_window_stride`."
            )

    def get_correct_attn_implementation(self, requested_attention: str | None, is_init_check: bool = False) -> str:
        """torch's layers have one implementation; another one, set for a whole model, applies to its text model."""
        return "sdpa"

    @property
    def backbone(self) -> nn.Module:
        """The CNN of the frame level."""
        return self.frame_encoder.backbone

    @property
    def frames_per_chunk(self) -> int | None:
        """See `FLaLLMVisionModel`."""
        return self.frame_encoder.frames_per_chunk

    @frames_per_chunk.setter
    def frames_per_chunk(self, value: int | None) -> None:
        self.frame_encoder.frames_per_chunk = value

    def choose_memory_format(self) -> None:
        self.frame_encoder.choose_memory_format()

    def load_imagenet_weights(self) -> None:
        """See `FLaLLMVisionModel.load_imagenet_weights`."""
        self.frame_encoder.load_imagenet_weights()

    def get_token_steps(self) -> list[TokenStep]:
        return [*self.frame_encoder.get_token_steps(), self.word_level.token_step]

    def get_centre_and_spacing(self) -> tuple[float, float]:
        # Windows are around the frames 0, stride, ...; the centre of an even one is half a frame later.
        return (self.word_level.frames_behind - self.word_level.frames_in_front) / 2, self.word_level.stride

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.FloatTensor,
        pixel_attention_mask: torch.LongTensor | None = None,
    ) -> SignEncoderOutput:
        r"""
        Args:
            pixel_values_videos (`torch.FloatTensor` of shape `(batch, frames, 3, height, width)`):
                Normalised frames, padded at the end of a clip.
            pixel_attention_mask (`torch.LongTensor` of shape `(batch, frames)`, *optional*):
                1 for real frames, 0 for padding after them. Default: all are real.

        Raises:
            ValueError: as `FLaLLMVisionModel`.
        """
        with torch.no_grad() if self.frozen else nullcontext():
            return self._words_of(self.frame_encoder(pixel_values_videos, pixel_attention_mask))

    @torch.no_grad()
    def glance(self, stride: int, **inputs: Any) -> SignEncoderOutput:
        """See `SignEncoder.glance`."""
        return self._words_of(self.frame_encoder.tokens_at_a_glance(stride, **inputs))

    @property
    def encodes_frames_alone(self) -> bool:
        return self.frame_encoder.encodes_frames_alone

    def encode_frames(self, values: torch.Tensor) -> torch.Tensor:
        """See `SignEncoder.encode_frames`: those of the frame level."""
        return self.frame_encoder.encode_frames(values)

    def encode_over_time(self, frame_features: torch.Tensor) -> SignEncoderOutput:
        """See `SignEncoder.encode_over_time`."""
        return self._words_of(self.frame_encoder.tokens_over_time(frame_features))

    def _words_of(self, frames: SignEncoderOutput) -> SignEncoderOutput:
        words, num_words = self.word_level(frames.last_hidden_state, frames.attention_mask.sum(1))
        is_real = length_mask(num_words, words.shape[1])
        sentence = self.sentence_level(words, is_real)
        return SignEncoderOutput(last_hidden_state=words, attention_mask=is_real.long(), pooler_output=sentence)


__all__ = ["LlavaSltVisualEncoder"]
