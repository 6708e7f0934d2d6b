"""Sign encoder of frames (FLa-LLM, https://arxiv.org/abs/2403.12556, section 3.1): ResNet per frame, then time."""

from contextlib import nullcontext
from functools import partial

import torch
import torch.distributed as distributed
from torch import nn
from torch.utils.checkpoint import checkpoint
from torchvision.models import get_model_weights
from torchvision.models.resnet import BasicBlock, Bottleneck
from transformers import initialization as init
from transformers.utils import can_return_tuple

from .batch_norm_slt import (
    SynchronizedBatchNorm1d,
    SynchronizedBatchNorm2d,
    running_statistics_kept,
    several_processes,
)
from .configuration_encoder_frames_slt import FLaLLMVisionConfig
from .sign_encoder_slt import (
    Length,
    SignEncoder,
    SignEncoderOutput,
    TokenStep,
    check_clips_long_enough,
    checked_frames_mask,
    checked_frames_per_chunk,
    held_values,
    is_exporting,
    length_mask,
    num_tokens_after,
    places_of_a_glance,
)

RESNET_STAGES = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
}
# sltbaselines pads a clip with 8 frames in front and, once the length is a multiple of the stride, 16 in all.
REPLICATED_FRAMES_IN_FRONT = 8
REPLICATED_FRAMES = 16
# With fewer channels, the backward pass of torch's strided convolutions corrupts memory when frames are channels_last,
# on processors without AVX-512 (torch 2.14.1; seen for 2 to 7 channels).
LEAST_CHANNELS_FOR_CHANNELS_LAST = 8


def without_mean_frame(pixels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Frames `(batch, frames, 3, height, width)`, each minus the mean of its clip's real frames."""
    precise = torch.promote_types(pixels.dtype, torch.float32)
    summed = pixels.masked_fill(~mask[:, :, None, None, None], 0).sum(1, keepdim=True, dtype=precise)
    return pixels - (summed / mask.sum(1)[:, None, None, None, None]).to(pixels.dtype)


def num_frame_features(backbone: str, width: int) -> int:
    """Width of what a ResNet with so many channels in its first stage makes of a frame."""
    block, depths = RESNET_STAGES[backbone]
    return width * 2 ** (len(depths) - 1) * block.expansion


class FrameBackbone(nn.Module):
    """
    torchvision's ResNet without its classifier, with its parameter names, and with a selectable width.

    `(frames, 3, height, width)` -> `(frames, num_features)`.
    """

    def __init__(self, config: FLaLLMVisionConfig):
        super().__init__()
        block, depths = RESNET_STAGES[config.backbone]
        width = config.backbone_width
        self.conv1 = nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = SynchronizedBatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        channels = width
        for index, depth in enumerate(depths):
            stage_width = width * 2**index
            stage = self._build_stage(block, channels, stage_width, depth, stride=1 if index == 0 else 2)
            setattr(self, f"layer{index + 1}", stage)
            channels = stage_width * block.expansion
        self.num_features = num_frame_features(config.backbone, width)
        is_wide = width >= LEAST_CHANNELS_FOR_CHANNELS_LAST
        self.memory_format = torch.channels_last if is_wide else torch.contiguous_format
        self.gradient_checkpointing = False

    def choose_memory_format(self) -> None:
        """Put the weights into the frames' memory format, so that convolutions need not reorder them."""
        self.to(memory_format=self.memory_format)

    @staticmethod
    def _build_stage(block: type[nn.Module], channels: int, width: int, depth: int, stride: int) -> nn.Sequential:
        norm = SynchronizedBatchNorm2d
        downsample = None
        if stride != 1 or channels != width * block.expansion:
            downsample = nn.Sequential(
                nn.Conv2d(channels, width * block.expansion, kernel_size=1, stride=stride, bias=False),
                norm(width * block.expansion),
            )
        first = block(channels, width, stride, downsample, norm_layer=norm)
        others = [block(width * block.expansion, width, norm_layer=norm) for _ in range(1, depth)]
        return nn.Sequential(first, *others)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        # Equal to torchvision's ReLU before the pooling, on a quarter of the values.
        hidden = self.relu(self.maxpool(self.bn1(self.conv1(frames))))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            hidden = self._run_stage(stage, hidden)
        return hidden.mean((2, 3))

    def _run_stage(self, stage: nn.Sequential, hidden: torch.Tensor) -> torch.Tensor:
        if not (self.gradient_checkpointing and self.training and torch.is_grad_enabled()):
            return stage(hidden)
        return self._gradient_checkpointing_func(
            stage.__call__, hidden, context_fn=lambda: (nullcontext(), running_statistics_kept(stage))
        )


class TemporalConvolution(nn.Module):
    """
    Conv1d, norm over the real positions only, ReLU: `(batch, channels, time)` -> `(batch, channels, new time)`.

    Positions after the end of a clip are 0 in the input and in the output: exactly the zero padding that the clip would
    have alone.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, config: FLaLLMVisionConfig):
        super().__init__()
        self.shrinks_by = 0 if config.temporal_padding == "zero" else kernel_size - 1
        padding = kernel_size // 2 if config.temporal_padding == "zero" else 0
        self.convolution = nn.Conv1d(in_channels, out_channels, kernel_size, padding=padding)
        norm = SynchronizedBatchNorm1d if config.temporal_norm == "batch_norm" else nn.LayerNorm
        self.norm = norm(out_channels)

    @property
    def token_step(self) -> TokenStep:
        return (-self.shrinks_by, 1, 1, None)

    def forward(self, hidden: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        hidden = self.convolution(hidden).transpose(1, 2)  # (batch, time, channels)
        mask = length_mask(num_tokens_after([self.token_step], lengths), hidden.shape[1])
        if is_exporting(self):
            normalised = self.norm(hidden.flatten(0, 1)).unflatten(0, mask.shape)
            return torch.relu(normalised).masked_fill(~mask[..., None], 0).transpose(1, 2)
        packed = torch.relu(self.norm(hidden[mask]))  # (real positions, channels)
        return torch.zeros_like(hidden, dtype=packed.dtype).masked_scatter(mask[..., None], packed).transpose(1, 2)


class TemporalPooling(nn.Module):
    """Max pooling over time: `(batch, channels, time)` -> `(batch, channels, time // factor)`."""

    def __init__(self, factor: int):
        super().__init__()
        self.factor = factor

    @property
    def token_step(self) -> TokenStep:
        return (0, self.factor, 1, None)

    def forward(self, hidden: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        hidden = nn.functional.max_pool1d(hidden, self.factor)
        mask = length_mask(num_tokens_after([self.token_step], lengths), hidden.shape[2])
        return hidden * mask[:, None].to(hidden.dtype)


class LocalTemporalModule(nn.Module):
    """`(batch, frames, features)` and lengths -> `(batch, tokens, hidden_size)` and token lengths."""

    def __init__(self, in_channels: int, config: FLaLLMVisionConfig):
        super().__init__()
        self.replicates = config.temporal_padding == "replicate"
        self.stride = config.temporal_stride
        blocks = []
        for block in config.temporal_blocks:
            if block[0] == "P":
                blocks.append(TemporalPooling(int(block[1:])))
            else:
                blocks.append(TemporalConvolution(in_channels, config.hidden_size, int(block[1:]), config))
                in_channels = config.hidden_size
        if in_channels != config.hidden_size:
            raise ValueError(
                f"`hidden_size` is {config.hidden_size}, but without a convolution in `temporal_blocks` "
                f"{list(config.temporal_blocks)} the tokens keep the backbone's {in_channels} channels."
            )
        self.blocks = nn.ModuleList(blocks)

    def get_token_steps(self) -> list[TokenStep]:
        """See `SignEncoder.get_token_steps`."""
        return [*self._padding_steps, *(block.token_step for block in self.blocks)]

    @property
    def _padding_steps(self) -> list[TokenStep]:
        if not self.replicates:
            return []
        return [(self.stride - 1, self.stride, self.stride, None), (REPLICATED_FRAMES, 1, 1, None)]

    def get_num_tokens(self, num_frames: Length) -> Length:
        """Length after the module."""
        return num_tokens_after(self.get_token_steps(), num_frames)

    def get_centre_and_spacing(self) -> tuple[float, float]:
        """See `SignEncoder`. Convolutions without padding shift the tokens, pooling spreads them."""
        centre, spacing = -REPLICATED_FRAMES_IN_FRONT if self.replicates else 0, 1
        for block in self.blocks:
            if isinstance(block, TemporalPooling):
                centre += spacing * (block.factor - 1) / 2
                spacing *= block.factor
            else:
                centre += spacing * block.shrinks_by / 2
        return centre, spacing

    def forward(self, features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.replicates:
            features, lengths = self._replicate_ends(features, lengths)
        hidden = features.transpose(1, 2)
        for block in self.blocks:
            hidden = block(hidden, lengths)
            lengths = num_tokens_after([block.token_step], lengths)
        return hidden.transpose(1, 2), lengths

    def _replicate_ends(self, features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Repeat features, not pixels, so that the repeated frames cost no CNN work and count once in BatchNorm2d."""
        padded_lengths = num_tokens_after(self._padding_steps, lengths)
        of_batch = num_tokens_after(self._padding_steps, features.shape[1])
        longest = of_batch if is_exporting(self) else int(padded_lengths.max())
        positions = torch.arange(longest, device=features.device) - REPLICATED_FRAMES_IN_FRONT
        source = positions[None].clamp(min=0).minimum(lengths[:, None] - 1)  # (batch, padded frames)
        features = features.gather(1, source[..., None].expand(-1, -1, features.shape[2]))
        mask = length_mask(padded_lengths, features.shape[1])
        return features * mask[..., None].to(features.dtype), padded_lengths


class FLaLLMVisionModel(SignEncoder):
    """
    ResNet on every frame, then the local temporal module (FLa-LLM, section 3.1).

    Only real frames go through the CNN: they are packed by the mask first, so padding costs nothing and does not affect
    BatchNorm statistics. With `frozen` set (see `freeze`), weights and BatchNorm statistics do not change, even after
    `.train()`, and no gradient is computed.

    `frames_per_chunk` bounds the memory of the CNN: it processes at most this many frames at a time and computes them
    again in the backward pass, so that no activations of a chunk are kept. In evaluation this changes nothing. In
    training, BatchNorm normalises each chunk with its own statistics (ghost batch norm,
    https://arxiv.org/abs/1705.08741); chunks are interleaved and of nearly equal size, so that each is a fair sample of
    all clips. `None` means one chunk, or chunks of 32 frames on a CPU without gradients.
    """

    config_class = FLaLLMVisionConfig
    input_names = ("pixel_values_videos", "pixel_attention_mask")
    main_input_name = "pixel_values_videos"
    input_modalities = ("video",)
    clip_words = {"a_clip": "a video", "reads": "watches a video", "example": "clip.mp4"}
    supports_gradient_checkpointing = True
    # It has no attention, but transformers checks this when it sets the attention of the whole model.
    _supports_sdpa = True
    _supports_flash_attn = True
    # In a whole model, `device_map="auto"` keeps it on one device; alone, it may be split between these modules.
    _no_split_modules = ("FLaLLMVisionModel", "FrameBackbone", "LocalTemporalModule")

    def __init__(self, config: FLaLLMVisionConfig):
        super().__init__(config)
        self.backbone = FrameBackbone(config)
        self.temporal_module = LocalTemporalModule(self.backbone.num_features, config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Conv1d | nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def choose_memory_format(self) -> None:
        self.backbone.choose_memory_format()

    def load_imagenet_weights(self) -> None:
        """
        Download torchvision's ImageNet weights of the backbone and load them (FLa-LLM, section 4.2, starts from these).

        Raises:
            ValueError: if `backbone_width` is not 64, the width these weights have.
        """
        if self.config.backbone_width != 64:
            raise ValueError(
                f"ImageNet weights exist for `backbone_width` 64 only, this model has {self.config.backbone_width}."
            )
        weights = get_model_weights(self.config.backbone).IMAGENET1K_V1
        state_dict = weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
        backbone_weights = {name: value for name, value in state_dict.items() if not name.startswith("fc.")}
        self.backbone.load_state_dict(backbone_weights, strict=True)

    def get_token_steps(self) -> list[TokenStep]:
        return self.temporal_module.get_token_steps()

    def get_centre_and_spacing(self) -> tuple[float, float]:
        return self.temporal_module.get_centre_and_spacing()

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
            ValueError: for a wrong shape or dtype, a mask that is not 1 up to a clip's end and 0 after it, a clip
                too short for one visual token, or `frames_per_chunk` below 1.
        """
        mask = checked_frames_mask(self, pixel_values_videos, pixel_attention_mask)
        lengths = mask.sum(1)
        if not is_exporting(self):
            check_clips_long_enough(self, lengths)
        with torch.no_grad() if self.frozen else nullcontext():
            encode = self._encode_all_frames if is_exporting(self) else self._features_of_frames
            features = encode(self._as_seen(pixel_values_videos, mask), mask)
            return self._over_time(features, lengths)

    @torch.no_grad()
    def glance(
        self,
        stride: int,
        pixel_values_videos: torch.FloatTensor,
        pixel_attention_mask: torch.LongTensor | None = None,
    ) -> SignEncoderOutput:
        """See `SignEncoder.glance`."""
        mask = checked_frames_mask(self, pixel_values_videos, pixel_attention_mask)
        lengths = mask.sum(1)
        check_clips_long_enough(self, lengths)
        are_looked_at, sources = places_of_a_glance(mask, stride)
        features = self._features_of_frames(self._as_seen(pixel_values_videos, mask), are_looked_at)
        return self._over_time(held_values(features, sources, mask), lengths)

    @property
    def encodes_frames_alone(self) -> bool:
        """See `SignEncoder`. The mean frame of a clip is known only at its end, and of all layers only the first is
        linear, so that nothing behind it could be corrected then."""
        return not self.config.subtract_mean_frame

    def encode_frames(self, values: torch.Tensor) -> torch.Tensor:
        """See `SignEncoder.encode_frames`: frames `(frames, 3, height, width)` through the CNN."""
        return self._encode_frames(values[None], checked_frames_mask(self, values[None], None))

    def encode_over_time(self, frame_features: torch.Tensor) -> SignEncoderOutput:
        """See `SignEncoder.encode_over_time`."""
        num_frames = frame_features.shape[1]
        lengths = torch.full((len(frame_features),), num_frames, device=frame_features.device)
        check_clips_long_enough(self, lengths)
        return self._over_time(frame_features, lengths)

    def _as_seen(self, pixels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return without_mean_frame(pixels, mask) if self.config.subtract_mean_frame else pixels

    def _features_of_frames(self, pixels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """`(batch, frames, 3, height, width)` -> `(batch, frames, features)`, 0 outside of the mask."""
        packed = self._encode_frames(pixels, mask)
        return packed.new_zeros(*mask.shape, packed.shape[-1]).masked_scatter(mask[..., None].to(packed.device), packed)

    def _over_time(self, features: torch.Tensor, lengths: torch.Tensor) -> SignEncoderOutput:
        hidden, num_tokens = self.temporal_module(features, lengths)
        attention_mask = length_mask(num_tokens, hidden.shape[1]).long()
        return SignEncoderOutput(last_hidden_state=hidden, attention_mask=attention_mask)

    def _encode_all_frames(self, pixels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """`(batch, frames, 3, height, width)` -> `(batch, frames, features)`, 0 for padding."""
        frames = pixels.flatten(0, 1).to(self.backbone.conv1.weight.dtype)
        features = self.backbone(frames.contiguous(memory_format=self.backbone.memory_format))
        return features.unflatten(0, mask.shape).masked_fill(~mask[..., None], 0)

    def _encode_frames(self, pixels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """`(batch, frames, 3, height, width)` -> `(real frames, features)`, in the order of the mask."""
        places = mask.nonzero()  # (real frames, 2)
        num_chunks = self._get_num_chunks(len(places), places.device)
        if num_chunks == 1:
            return self._encode_chunk(pixels, places)
        encode_chunk = self._encode_chunk
        if self.frames_per_chunk is not None and torch.is_grad_enabled():
            encode_chunk = partial(
                checkpoint,
                encode_chunk,
                use_reentrant=False,
                context_fn=lambda: (nullcontext(), running_statistics_kept(self.backbone)),
            )
        packed = torch.cat([encode_chunk(pixels, places[index::num_chunks]) for index in range(num_chunks)])
        positions = torch.arange(len(places), device=places.device)
        return packed[torch.cat([positions[index::num_chunks] for index in range(num_chunks)]).argsort()]

    def _get_num_chunks(self, num_frames: int, device: torch.device) -> int:
        frames_per_chunk = checked_frames_per_chunk(self, device)
        if frames_per_chunk is None:
            return 1
        num_chunks = -(-num_frames // frames_per_chunk)
        if self.training and several_processes():
            # Their BatchNorm layers synchronise in every chunk, so that all need as many chunks: a process with fewer
            # frames has smaller ones, or even empty ones.
            largest = torch.tensor(num_chunks, device=device)
            distributed.all_reduce(largest, distributed.ReduceOp.MAX)
            num_chunks = int(largest)
        return num_chunks

    def _encode_chunk(self, pixels: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Encode the frames at `(clip, frame)`, copied here so that a checkpoint keeps no copy of them."""
        frames = pixels[places[:, 0], places[:, 1]].to(self.backbone.conv1.weight.dtype)
        return self.backbone(frames.contiguous(memory_format=self.backbone.memory_format))


__all__ = ["FLaLLMVisionModel"]
