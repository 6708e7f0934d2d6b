"""The sign encoder that is any image or video model of transformers, over windows of frames."""

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.utils import can_return_tuple

from .backbone_slt import build_backbone, run_backbone, token_states
from .batch_norm_slt import running_statistics_kept
from .configuration_encoder_pretrained_slt import PretrainedVisionConfig
from .sign_encoder_slt import (
    SignEncoder,
    SignEncoderOutput,
    TokenStep,
    check_clips_long_enough,
    checked_frames_mask,
    checked_frames_per_chunk,
    held_values,
    is_exporting,
    length_mask,
    places_of_a_glance,
)


class PretrainedVisionEncoder(SignEncoder):
    """
    Frames, in windows of one for an image model, through a model of transformers; its pooled outputs are the visual
    tokens. Only real frames are computed, and no token depends on padding or on other clips.

    ```python
    >>> from transformers import ViTConfig

    >>> encoder = PretrainedVisionEncoder(PretrainedVisionConfig(backbone_config=ViTConfig(image_size=64)))
    >>> encoder(torch.randn(1, 5, 3, 64, 64)).last_hidden_state.shape
    torch.Size([1, 5, 768])
    ```

    `frames_per_chunk` bounds memory: so many frames at a time (at least one window) go through the model, and are
    computed again in the backward pass. `None` means all at once, or 32 on a CPU without gradients.
    """

    config_class = PretrainedVisionConfig
    input_names = ("pixel_values_videos", "pixel_attention_mask")
    main_input_name = "pixel_values_videos"
    input_modalities = ("video",)
    clip_words = {"a_clip": "a video", "reads": "watches a video", "example": "clip.mp4"}
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True

    def __init__(self, config: PretrainedVisionConfig):
        super().__init__(config)
        self.backbone = build_backbone(
            config.backbone_config, with_pooler=config.pooling == "pooler", dtype=torch.get_default_dtype()
        )
        self.post_init()

    @property
    def pretrained_backbone(self) -> nn.Module:
        return self.backbone

    @property
    def pretrained_source(self) -> dict[str, str]:
        return self.config.source or {"name": f"a {self.config.backbone_config.model_type} model without a name"}

    def get_token_steps(self) -> list[TokenStep]:
        size, stride = self.config.window_size, self.config.window_stride
        # Windows until none of the frames is left over; a gap between two windows (stride above size) may stay.
        return [(2 * stride - 1 - max(size, stride), stride, self.config.tokens_per_window, 1)]

    def get_centre_and_spacing(self) -> tuple[float, float]:
        """See `SignEncoder.get_centre_and_spacing`; the patches of a window are spread over its stride."""
        size, stride, per_window = self.config.window_size, self.config.window_stride, self.config.tokens_per_window
        spacing = stride / per_window
        return (size - 1) / 2 - (stride - spacing) / 2, spacing

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.FloatTensor,
        pixel_attention_mask: torch.LongTensor | None = None,
    ) -> SignEncoderOutput:
        r"""
        Args:
            pixel_values_videos (`torch.FloatTensor` of shape `(batch, frames, 3, height, width)`):
                Frames of any size, normalised with `config.input_mean` and `input_std`, padded at the end of a clip.
            pixel_attention_mask (`torch.LongTensor` of shape `(batch, frames)`, *optional*):
                1 for real frames, 0 for padding after them. Default: all are real.

        Raises:
            ValueError: for a wrong shape or dtype, a mask that is not 1 up to a clip's end and 0 after it, an empty
                clip, or `frames_per_chunk` below 1.
        """
        mask = checked_frames_mask(self, pixel_values_videos, pixel_attention_mask)
        lengths = mask.sum(1)
        if not is_exporting(self):
            check_clips_long_enough(self, lengths)
        per_window = self.config.tokens_per_window
        num_windows = self.get_num_tokens(lengths) // per_window
        longest = self.get_num_tokens(mask.shape[1]) // per_window
        is_real = length_mask(num_windows, longest)
        with torch.no_grad() if self.frozen else nullcontext():
            if is_exporting(self):
                clips = torch.arange(len(mask), device=mask.device).repeat_interleave(longest)
                windows = torch.arange(longest, device=mask.device).repeat(len(mask))
                tokens = self._encode_windows(pixel_values_videos, lengths, clips, windows)
                hidden = tokens.unflatten(0, is_real.shape) * is_real[..., None, None].to(tokens.dtype)
            else:
                longest = int(num_windows.max())
                is_real = is_real[:, :longest]
                hidden = self._tokens_of_windows(pixel_values_videos, lengths, is_real)
        attention_mask = is_real.repeat_interleave(per_window, 1).long()
        return SignEncoderOutput(last_hidden_state=hidden.flatten(1, 2), attention_mask=attention_mask)

    @torch.no_grad()
    def glance(
        self,
        stride: int,
        pixel_values_videos: torch.FloatTensor,
        pixel_attention_mask: torch.LongTensor | None = None,
    ) -> SignEncoderOutput:
        """See `SignEncoder.glance`; windows are left out as frames are."""
        mask = checked_frames_mask(self, pixel_values_videos, pixel_attention_mask)
        lengths = mask.sum(1)
        check_clips_long_enough(self, lengths)
        per_window = self.config.tokens_per_window
        num_windows = self.get_num_tokens(lengths) // per_window
        is_real = length_mask(num_windows, int(num_windows.max()))
        are_looked_at, sources = places_of_a_glance(is_real, max(round(stride / self.config.window_stride), 1))
        hidden = self._tokens_of_windows(pixel_values_videos, lengths, are_looked_at)
        held = held_values(hidden, sources, is_real)
        return SignEncoderOutput(held.flatten(1, 2), is_real.repeat_interleave(per_window, 1).long())

    @property
    def encodes_frames_alone(self) -> bool:
        """See `SignEncoder`: image models do, video models see windows."""
        return self.config.window_size == self.config.window_stride == 1

    def encode_frames(self, values: torch.Tensor) -> torch.Tensor:
        """See `SignEncoder.encode_frames`: the tokens of each frame, one behind the other."""
        frames = torch.arange(len(values), device=values.device)
        lengths = checked_frames_mask(self, values[None], None).sum(1)
        return self._encode_in_chunks(values[None], lengths, torch.zeros_like(frames), frames).flatten(1)

    def encode_over_time(self, frame_features: torch.Tensor) -> SignEncoderOutput:
        """See `SignEncoder.encode_over_time`."""
        hidden = frame_features.unflatten(2, (self.config.tokens_per_window, -1)).flatten(1, 2)
        return SignEncoderOutput(hidden, torch.ones(hidden.shape[:2], dtype=torch.long, device=hidden.device))

    def _tokens_of_windows(self, pixels: torch.Tensor, lengths: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """-> `(batch, windows, tokens, hidden_size)`, 0 outside of the mask `(batch, windows)`."""
        tokens = self._encode_in_chunks(pixels, lengths, *mask.nonzero().unbind(1))
        hidden = tokens.new_zeros(*mask.shape, *tokens.shape[1:])
        return hidden.masked_scatter(mask[..., None, None].to(tokens.device), tokens)

    def _encode_in_chunks(
        self, pixels: torch.Tensor, lengths: torch.Tensor, clips: torch.Tensor, windows: torch.Tensor
    ) -> torch.Tensor:
        """Windows number `windows` of clips number `clips` -> `(windows, tokens, hidden_size)`."""
        per_chunk = self._windows_per_chunk(len(clips), pixels.device)
        encode = self._encode_windows
        if self.frames_per_chunk is not None and torch.is_grad_enabled() and per_chunk < len(clips):
            encode = partial(checkpoint, encode, use_reentrant=False, context_fn=self._contexts_of_checkpoint)
        parts = zip(clips.split(per_chunk), windows.split(per_chunk), strict=True)
        return torch.cat([encode(pixels, lengths, *part) for part in parts])

    def _contexts_of_checkpoint(self) -> tuple[AbstractContextManager, AbstractContextManager]:
        """Of the forward pass, and of the second one in the backward pass."""
        return nullcontext(), running_statistics_kept(self.backbone)

    def _windows_per_chunk(self, num_windows: int, device: torch.device) -> int:
        frames_per_chunk = checked_frames_per_chunk(self, device)
        if frames_per_chunk is None:
            return num_windows
        return max(frames_per_chunk // self.config.window_size, 1)

    def _encode_windows(
        self, pixels: torch.Tensor, lengths: torch.Tensor, clips: torch.Tensor, windows: torch.Tensor
    ) -> torch.Tensor:
        offsets = torch.arange(self.config.window_size, device=pixels.device)
        frames = windows[:, None] * self.config.window_stride + offsets
        frames = frames.minimum(lengths[clips][:, None] - 1)  # beyond the end: the last one again
        values = self._as_the_backbone_expects(pixels[clips[:, None], frames])
        outputs = [self._encode_at_scale(values, scale) for scale in self.config.scales]
        return torch.cat(outputs, dim=-1)

    def _as_the_backbone_expects(self, values: torch.Tensor) -> torch.Tensor:
        config = self.config
        if config.input_mean == config.image_mean and config.input_std == config.image_std:
            return values
        names = ("input_mean", "input_std", "image_mean", "image_std")
        input_mean, input_std, mean, std = (values.new_tensor(getattr(config, name))[:, None, None] for name in names)
        return (values * input_std + input_mean - mean) / std

    def _encode_at_scale(self, values: torch.Tensor, scale: int) -> torch.Tensor:
        """`(windows, frames, 3, height, width)` -> `(windows, tokens, width)`, the mean over scale x scale tiles."""
        height, width = self.config.image_size
        values = resized(values, height * scale, width * scale)
        tiles = values.unflatten(-1, (scale, width)).unflatten(-3, (scale, height))  # of dimensions 3 and 5
        tiles = tiles.permute(3, 5, 0, 1, 2, 4, 6).flatten(0, 2)
        output = run_backbone(self.backbone, tiles.to(self.backbone.dtype))
        return self._pooled(output).unflatten(0, (scale * scale, -1)).mean(0)

    def _pooled(self, output: Any) -> torch.Tensor:
        """-> `(windows, tokens, width)`"""
        if self.config.pooling == "pooler":
            return output.pooler_output.flatten(1)[:, None]
        states = token_states(output.last_hidden_state)
        if self.config.pooling == "class":
            return states[:, :1]
        patches = states[:, self.config.num_prefix_tokens :]
        return patches if self.config.pooling == "patches" else patches.mean(1, keepdim=True)


def resized(values: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Frames `(..., 3, any height, any width)` in this size, bicubic, as the processors of most of these models do."""
    if values.shape[-2:] == (height, width):
        return values
    frames = values.flatten(0, -4).float()  # torch resizes in no smaller precision on a CPU
    frames = nn.functional.interpolate(frames, size=(height, width), mode="bicubic", antialias=True)
    return frames.to(values.dtype).unflatten(0, values.shape[:-3])


__all__ = ["PretrainedVisionEncoder"]
