"""
Sign encoder of poses, Uni-Sign's (https://arxiv.org/abs/2501.15187), written from a description of the system.

    points of a part -> linear layer -> spatial blocks -> + body -> temporal blocks -> mean over the points
    body, left hand, right hand, face, side by side -> one visual token for each frame

Each block is a graph convolution over the points of a part, whose adjacency matrices are learned and start from the
skeleton. Both hands go through the same weights. The last layer of the published pose encoder, which maps the tokens to
the width of the text model, is the adapter of a translation model.

Deviations: only real frames enter batch norm, and convolutions see zeros after the end of a clip, where the published
code repeats the last frame and takes all for real. In training, batch norm takes its statistics over both hands
together, not from one after the other; its running statistics begin as the mean of those of the first batches, not at 0
and 1. The first linear layer keeps the scale of the points: with the standard deviation of 0.02 that Uni-Sign starts
from, what the first batch norm sees has a variance near its epsilon.
"""

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.utils import can_return_tuple

from .batch_norm_slt import WarmedUpBatchNorm1d, running_statistics_kept
from .configuration_encoder_poses_slt import UniSignPoseConfig
from .prior_guided_fusion_slt import PriorGuidedFusion, check_hand_crops, initialise_fusion
from .sign_encoder_slt import (
    SignEncoder,
    SignEncoderOutput,
    check_clips_long_enough,
    checked_mask,
    is_exporting,
)

NUM_CHANNELS = 3  # x, y and score of a point
LEFT_WRIST, RIGHT_WRIST, NOSE = -2, -1, 0  # among the points of the body
FINGERS = [
    (0 if joint == 0 else 4 * finger + joint, 4 * finger + joint + 1) for finger in range(5) for joint in range(4)
]
# The lines of each skeleton, between points of its part. The nose tip, 17, is the origin of the face.
EDGES = {
    "body": [(0, 1), (0, 2), (0, 3), (0, 4), (3, 5), (5, 7), (4, 6), (6, 8)],
    "hand": FINGERS,
    "face": [
        *((point, point + 1) for point in range(8)),
        *((point, point + 1) for point in range(9, 16)),
        (16, 9),
        *((17, point) for point in range(17)),
    ],
}
NUM_POINTS = {"body": 9, "hand": 21, "face": 18}
# How `pose_values` are divided, in the order of `PARTS` in pose_layouts_slt.py.
STREAM_SIZES = [NUM_POINTS[part] for part in ("body", "hand", "hand", "face")]
NUM_PARTITIONS = 2  # a point itself, and those one line away
# Which of the 69 points each is in a mirror: of the body, the hands, and of the face jaw, mouth and tip of the nose.
MIRRORED_POINTS = [
    *(0, 2, 1, 4, 3, 6, 5, 8, 7),
    *range(30, 51),
    *range(9, 30),
    *(51 + point for point in (*range(8, -1, -1), 13, 12, 11, 10, 9, 16, 15, 14, 17)),
]
# What it also takes with `rgb_fusion`.
HAND_CROP_INPUTS = ("hand_pixel_values", "hand_frame_indices", "hand_crop_keypoints")


def skeleton_adjacency(part: str) -> torch.Tensor:
    """
    The adjacency matrices of a part before training, `(partitions, from, to)`: of the graph in which each point is also
    tied to itself, with columns that add up to 1, first the diagonal and then the rest.
    """
    adjacency = torch.eye(NUM_POINTS[part])
    for first, second in EDGES[part]:
        adjacency[first, second] = adjacency[second, first] = 1.0
    adjacency = adjacency / adjacency.sum(0)
    itself = torch.diag(adjacency.diagonal())
    return torch.stack([itself, adjacency - itself])


@dataclass
class PackedFrames:
    """
    The real frames of a batch in one sequence, for convolutions over time with zeros between the clips.

    Args:
        places: of each packed frame in that sequence, `(frames,)`.
        length: of that sequence.
        is_real: boolean `(frames,)`, or `None` where all of them are.
    """

    places: torch.Tensor
    length: int
    is_real: torch.Tensor | None = None


class GraphConvolution(nn.Module):
    """
    Per partition a linear layer, then each point's weighted sum over the points, then the sum of the partitions:
    `(streams, frames, points, in_channels)` -> `(streams, frames, points, out_channels)`.
    """

    def __init__(self, part: str, in_channels: int, out_channels: int):
        super().__init__()
        self.part = part
        self.weight = nn.Parameter(torch.empty(NUM_PARTITIONS, out_channels, in_channels))
        self.bias = nn.Parameter(torch.empty(NUM_PARTITIONS, out_channels))
        self.adjacency = nn.Parameter(torch.empty(NUM_PARTITIONS, NUM_POINTS[part], NUM_POINTS[part]))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """The points are summed first, which is the same and leaves one matrix product for both partitions."""
        rows = self.adjacency.permute(2, 0, 1).flatten(0, 1).to(hidden.dtype)  # (to x partition, from)
        graphs = hidden.flatten(0, 1)
        # As a batch of products: torch.matmul would copy the transposed frames, which takes twice as long on a CPU.
        mixed = torch.bmm(rows.expand(graphs.shape[0], -1, -1), graphs)
        mixed = mixed.view(*hidden.shape[:3], -1)  # (streams, frames, points, partitions x channels)
        return nn.functional.linear(mixed, self.weight.transpose(0, 1).flatten(1)) + self.adjacency.sum(1).T @ self.bias


class GraphBlock(nn.Module):
    """
    Graph convolution, batch norm and ReLU, then if `kernel_size` is above 1 a convolution over time with batch norm,
    and a residual connection: `(streams, frames, points, in_channels)` -> `(streams, frames, points, out_channels)`.
    """

    def __init__(self, part: str, in_channels: int, out_channels: int, kernel_size: int = 1):
        super().__init__()
        self.graph_convolution = GraphConvolution(part, in_channels, out_channels)
        self.norm = WarmedUpBatchNorm1d(out_channels)
        self.temporal_convolution = self.temporal_norm = self.shortcut = self.shortcut_norm = None
        if kernel_size > 1:
            self.temporal_convolution = nn.Conv2d(
                out_channels, out_channels, (kernel_size, 1), padding=(kernel_size // 2, 0)
            )
            self.temporal_norm = WarmedUpBatchNorm1d(out_channels)
        if in_channels != out_channels:
            self.shortcut = nn.Linear(in_channels, out_channels)
            self.shortcut_norm = WarmedUpBatchNorm1d(out_channels)

    def forward(self, hidden: torch.Tensor, frames: PackedFrames) -> torch.Tensor:
        residual = hidden
        if self.shortcut is not None:
            residual = _normalised(self.shortcut_norm, self.shortcut(hidden))
        hidden = torch.relu(_normalised(self.norm, self.graph_convolution(hidden)))
        if self.temporal_convolution is not None:
            hidden = _normalised(self.temporal_norm, self._mix_frames(hidden, frames))
        return torch.relu(hidden + residual)

    def _mix_frames(self, hidden: torch.Tensor, frames: PackedFrames) -> torch.Tensor:
        if frames.is_real is not None:
            hidden = hidden.masked_fill(~frames.is_real[:, None, None], 0)
        places = frames.places.to(hidden.device)
        sequence = hidden.new_zeros(hidden.shape[0], frames.length, *hidden.shape[2:]).index_copy(1, places, hidden)
        # In memory this is channels_last, for which torch's convolutions are fastest.
        return self.temporal_convolution(sequence.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).index_select(1, places)


def _init_as_torch(weight: torch.Tensor) -> None:
    """As torch initialises linear layers and convolutions, which keeps the scale of their inputs."""
    init.kaiming_uniform_(weight, a=math.sqrt(5))


def _normalised(norm: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    """Batch norm over all frames and points, `(..., channels)`."""
    return norm(hidden.flatten(0, -2)).view_as(hidden)


class PartEncoder(nn.Module):
    """The layers of one part: `(streams, frames, points, 3)` -> `(streams, frames, width)`, in two halves."""

    def __init__(self, part: str, config: UniSignPoseConfig):
        super().__init__()
        widths = [config.spatial_widths[0], *config.spatial_widths]
        self.projection = nn.Linear(NUM_CHANNELS, widths[0])
        self.spatial_blocks = nn.ModuleList(
            GraphBlock(part, before, after) for before, after in zip(widths, widths[1:], strict=False)
        )
        self.temporal_blocks = nn.ModuleList(
            GraphBlock(part, widths[-1], widths[-1], config.temporal_kernel_size) for _ in range(config.temporal_layers)
        )
        self.gradient_checkpointing = False

    def encode_points(self, points: torch.Tensor, frames: PackedFrames) -> torch.Tensor:
        """Each frame alone: -> `(streams, frames, points, width)`."""
        hidden = self.projection(points)
        for block in self.spatial_blocks:
            hidden = self._run(block, hidden, frames)
        return hidden

    def encode_frames(self, hidden: torch.Tensor, frames: PackedFrames) -> torch.Tensor:
        """Over time, then the mean over the points: -> `(streams, frames, width)`."""
        for block in self.temporal_blocks:
            hidden = self._run(block, hidden, frames)
        return hidden.mean(2)

    def _run(self, block: GraphBlock, hidden: torch.Tensor, frames: PackedFrames) -> torch.Tensor:
        if not (self.gradient_checkpointing and self.training and torch.is_grad_enabled()):
            return block(hidden, frames)
        return self._gradient_checkpointing_func(
            block.__call__, hidden, frames, context_fn=lambda: (nullcontext(), running_statistics_kept(block))
        )


class UniSignPoseEncoder(SignEncoder):
    """
    One visual token for each frame from the 69 points of body, hands and face, see the top of this file.

    ```python
    >>> encoder = UniSignPoseEncoder(UniSignPoseConfig())
    >>> encoder(pose_values=torch.randn(2, 40, 69, 3).clamp(-1, 1)).last_hidden_state.shape
    torch.Size([2, 40, 1024])
    ```

    No token depends on padding or on other clips. With `frozen` set (see `freeze`), weights and BatchNorm statistics do
    not change, even after `.train()`, and no gradient is computed.
    """

    config_class = UniSignPoseConfig
    input_names = ("pose_values", "pose_attention_mask")
    main_input_name = "pose_values"
    input_modalities = ("video",)
    clip_words = {
        "a_clip": "the poses of a signer",
        "reads": "follows the poses of a signer",
        "example": "clip.pose",
    }
    supports_gradient_checkpointing = True
    # It has no attention, but transformers checks this when it sets the attention of the whole model.
    _supports_sdpa = True
    _supports_flash_attn = True
    # See `FLaLLMVisionModel`.
    _no_split_modules = ("UniSignPoseEncoder", "PartEncoder", "PriorGuidedFusion")

    def __init__(self, config: UniSignPoseConfig):
        super().__init__(config)
        self.parts = nn.ModuleDict({part: PartEncoder(part, config) for part in NUM_POINTS})
        self.token_bias = nn.Parameter(torch.empty(config.hidden_size))
        self.fusion = None
        if config.rgb_fusion:
            self._build_fusion()
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if self.fusion is not None and module in set(self.fusion.modules()):
            initialise_fusion(module)
        elif isinstance(module, GraphConvolution):
            init.copy_(module.adjacency, skeleton_adjacency(module.part))
            for weight in module.weight:
                _init_as_torch(weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Linear | nn.Conv2d):
            _init_as_torch(module.weight)
        elif module is self:
            init.zeros_(self.token_bias)

    def _build_fusion(self) -> None:
        self.fusion = PriorGuidedFusion(self.config.spatial_widths[-1])
        self.input_names = (*self.input_names, *HAND_CROP_INPUTS)

    def add_fusion(self) -> None:
        """
        Add a new prior-guided fusion to an encoder that was trained on poses alone, as Uni-Sign's second stage does.

        Raises:
            ValueError: if it has one, and for a width that its attention cannot share among its heads.
        """
        if self.fusion is not None:
            raise ValueError("The encoder has a prior-guided fusion already.")
        type(self.config)(**{**self.config.to_dict(), "rgb_fusion": True})  # raises for such a width
        self.config.rgb_fusion = True  # in place: it is also part of a whole model's configuration
        self._build_fusion()
        self.fusion.apply(self._init_weights)
        self.fusion.to(device=self.device, dtype=self.dtype)

    def choose_memory_format(self) -> None:
        if self.fusion is not None:
            self.fusion.backbone.choose_memory_format()

    def load_imagenet_weights(self) -> None:
        """
        Download torchvision's ImageNet weights of the network for hand crops and load them.

        Raises:
            ValueError: if `rgb_fusion` is off, so that there is none.
        """
        if self.fusion is None:
            raise ValueError("ImageNet weights are for the network of hand crops, and `rgb_fusion` is off.")
        self.fusion.backbone.load_imagenet_weights()

    def get_centre_and_spacing(self) -> tuple[float, float]:
        return 0.0, 1

    def check_can_be_mirrored(self) -> None:
        """See `SignEncoder.check_can_be_mirrored`: poses can."""

    def mirrored(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """See `SignEncoder.mirrored`: x changes its sign, and left and right change places, also in hand crops."""
        poses = inputs["pose_values"]
        mirrored = {**inputs, "pose_values": poses[:, :, MIRRORED_POINTS] * poses.new_tensor([-1, 1, 1])}
        if inputs.get("hand_pixel_values") is not None:
            places = inputs["hand_crop_keypoints"]
            mirrored["hand_pixel_values"] = inputs["hand_pixel_values"].flip(1, -1)
            mirrored["hand_frame_indices"] = inputs["hand_frame_indices"].flip(1)
            mirrored["hand_crop_keypoints"] = places.flip(1) * places.new_tensor([-1, 1]) + places.new_tensor([1, 0])
        return mirrored

    @can_return_tuple
    def forward(
        self,
        pose_values: torch.FloatTensor,
        pose_attention_mask: torch.LongTensor | None = None,
        hand_pixel_values: torch.FloatTensor | None = None,
        hand_frame_indices: torch.LongTensor | None = None,
        hand_crop_keypoints: torch.FloatTensor | None = None,
        **kwargs: Any,
    ) -> SignEncoderOutput:
        r"""
        Args:
            pose_values (`torch.FloatTensor` of shape `(batch, frames, 69, 3)`):
                x, y and score of the points of body (9), left hand (21), right hand (21) and face (18), normalised as
                `PoseFeatureExtractor` does it and padded at the end of a clip.
            pose_attention_mask (`torch.LongTensor` of shape `(batch, frames)`, *optional*):
                1 for real frames, 0 for padding after them. Default: all are real.
            hand_pixel_values (`torch.FloatTensor` of shape `(batch, 2, crops, 3, height, width)`, *optional*):
                Normalised crops of the left and the right hand in some frames, for encoders with `rgb_fusion`. Without
                them, these see the poses alone.
            hand_frame_indices (`torch.LongTensor` of shape `(batch, 2, crops)`, *optional*):
                The frame of each crop, each at most once; -1 for padding.
            hand_crop_keypoints (`torch.FloatTensor` of shape `(batch, 2, crops, 21, 2)`, *optional*):
                x and y of the hand's points in the crop, from 0 to 1.

        Raises:
            ValueError: for poses or crops of another shape or dtype, a mask of another shape or with gaps, a clip
                without frames, the index of a frame that its clip does not have, and only some of the three inputs of
                hand crops, or any of them without `rgb_fusion`.
        """
        mask = self._checked_mask(pose_values, pose_attention_mask)
        crops = self._checked_crops(mask, (hand_pixel_values, hand_frame_indices, hand_crop_keypoints))
        with torch.no_grad() if self.frozen else nullcontext():
            tokens = self._encode(pose_values.to(self.token_bias.dtype), mask, crops)
        return SignEncoderOutput(last_hidden_state=tokens, attention_mask=mask.long())

    def _checked_mask(self, poses: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        expected = (sum(STREAM_SIZES), NUM_CHANNELS)
        if poses.ndim != 4 or poses.shape[2:] != expected or not poses.is_floating_point():
            raise ValueError(
                f"`pose_values` must be floating point of the shape (batch, frames, {expected[0]}, {expected[1]}), got "
                f"{poses.dtype} {tuple(poses.shape)}. PoseFeatureExtractor makes it from poses."
            )
        mask = checked_mask(mask, poses, "pose_attention_mask", "(batch, frames)")
        if not is_exporting(self):
            if (mask[:, 1:] > mask[:, :-1]).any():
                raise ValueError("`pose_attention_mask` must be 1 up to the end of each clip and 0 after it.")
            check_clips_long_enough(self, mask.sum(1))
        return mask

    def _checked_crops(
        self, mask: torch.Tensor, crops: tuple[torch.Tensor | None, ...]
    ) -> tuple[torch.Tensor, ...] | None:
        """The inputs of hand crops, all of them or `None`."""
        given = [name for name, value in zip(HAND_CROP_INPUTS, crops, strict=True) if value is not None]
        if not given:
            return None
        if self.fusion is None:
            raise ValueError(f"This encoder takes no hand crops, as `rgb_fusion` is off, got `{given[0]}`.")
        if len(given) < len(HAND_CROP_INPUTS):
            raise ValueError(
                f"Hand crops are {', '.join(f'`{name}`' for name in HAND_CROP_INPUTS)}, got only "
                f"{' and '.join(f'`{name}`' for name in given)}."
            )
        check_hand_crops(mask, *crops, is_exporting(self))
        return crops

    def _encode(self, poses: torch.Tensor, mask: torch.Tensor, crops: tuple[torch.Tensor, ...] | None) -> torch.Tensor:
        """`(batch, frames, 69, 3)` -> `(batch, frames, hidden_size)`, 0 for padding."""
        packed, frames = self._pack(poses, mask)
        body, left, right, face = packed[None].split(STREAM_SIZES, dim=2)
        points = {"body": body, "hand": torch.cat([left, right]), "face": face}
        hidden = {part: encoder.encode_points(points[part], frames) for part, encoder in self.parts.items()}
        if crops is not None:
            hidden["hand"] = self._with_the_crops(hidden["hand"], mask, crops)
        hidden |= self._with_the_body(**hidden)
        tokens = [self.parts[part].encode_frames(hidden[part], frames) for part in NUM_POINTS]
        tokens = torch.cat([each.to(self.token_bias.device) for each in tokens])  # body, left, right, face
        tokens = tokens.transpose(0, 1).flatten(1) + self.token_bias
        if frames.is_real is not None:
            return tokens.unflatten(0, mask.shape).masked_fill(~mask[..., None], 0)
        return tokens.new_zeros(*mask.shape, tokens.shape[1]).masked_scatter(mask[..., None].to(tokens.device), tokens)

    def _pack(self, poses: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, PackedFrames]:
        """
        `(batch, frames, 69, 3)` -> the real frames `(packed frames, 69, 3)`; in an export, whose shapes must not depend
        on the mask, all frames.
        """
        gap = self.config.temporal_kernel_size // 2
        batch_size, num_frames = mask.shape
        if is_exporting(self):
            clips = torch.arange(batch_size * num_frames, device=mask.device) // num_frames
            packed, is_real = poses.flatten(0, 1), mask.flatten()
        else:
            clips = mask.nonzero()[:, 0]
            packed, is_real = poses[mask], None
        places = torch.arange(clips.shape[0], device=mask.device) + gap * clips
        return packed, PackedFrames(places, clips.shape[0] + gap * (batch_size - 1), is_real)

    def _with_the_crops(self, hands: torch.Tensor, mask: torch.Tensor, crops: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """`(2, packed frames, 21, width)`, refined in the frames that have a hand crop."""
        lengths = torch.full_like(mask[:, 0], mask.shape[1], dtype=torch.long) if is_exporting(self) else mask.sum(1)
        first_frames = lengths.cumsum(0) - lengths
        return self.fusion(hands, first_frames, *crops).to(hands.device)

    @staticmethod
    def _with_the_body(body: torch.Tensor, hand: torch.Tensor, face: torch.Tensor) -> dict[str, torch.Tensor]:
        """Add what is known of the wrists and the nose to all points of hands and face, without a gradient."""
        joints = body.detach()
        wrists = torch.cat([joints[:, :, [LEFT_WRIST]], joints[:, :, [RIGHT_WRIST]]])
        return {"hand": hand + wrists.to(hand.device), "face": face + joints[:, :, [NOSE]].to(face.device)}


__all__ = ["UniSignPoseEncoder"]
