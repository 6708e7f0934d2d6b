"""
Prior-guided fusion: hand crops of some frames refine the pose features of the hands (Uni-Sign,
https://arxiv.org/abs/2501.15187). The pose is the prior: it says where in the crop each joint looks.

For each sampled frame, its 21 hand joints are the queries:

    crop -> EfficientNet-B0 -> 1x1 convolution -> map of 4 x 4 ----+--------------------------+
                                                                   v                          v
    joints + code of their places in the crop ------> attention over the map --+--> deformable attention -> fused
                                                                                    (the map, sampled at the joints)

    result = gate x fused + (1 - gate) x joints

Built from a description of the published model, with the deviations that are named below.
"""

import math

import torch
from torch import nn
from torchvision.models import EfficientNet_B0_Weights, efficientnet_b0
from transformers import initialization as init

from .batch_norm_slt import SynchronizedBatchNorm2d, several_processes
from .sign_encoder_slt import is_exporting

NUM_JOINTS = 21  # of a hand
NUM_HEADS = 8  # of the attention over the map; also the groups, of a head each, of the deformable attention
POSITION_BIAS_WIDTH = 64
# In cells of the map.
LARGEST_OFFSET = 4 / 6
# Of a new gate. The published one starts at exactly 0, behind a tanh and a ReLU whose gradient there is 0, so that
# training can never open it. Half open is ours.
INITIAL_GATE = 0.5


class HandCropBackbone(nn.Module):
    """
    torchvision's EfficientNet-B0 without pooling and classifier, with its parameter names.

    `(crops, 3, height, width)` -> `(crops, 1280, height / 32, width / 32)`, both rounded up.
    """

    num_features = 1280

    def __init__(self):
        super().__init__()
        self.features = efficientnet_b0(norm_layer=SynchronizedBatchNorm2d).features

    def choose_memory_format(self) -> None:
        """Put the weights into the crops' memory format, so that convolutions need not reorder them."""
        self.to(memory_format=torch.channels_last)

    def load_imagenet_weights(self) -> None:
        """Download torchvision's ImageNet weights and load them."""
        weights = EfficientNet_B0_Weights.IMAGENET1K_V1.get_state_dict(
            progress=True, check_hash=True, weights_only=True
        )
        of_backbone = {name: value for name, value in weights.items() if not name.startswith("classifier.")}
        self.load_state_dict(of_backbone, strict=True)

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        crops = crops.to(self.features[0][0].weight.dtype)
        return self.features(crops.contiguous(memory_format=torch.channels_last))


class CoordinateCode(nn.Module):
    """
    Random Fourier features (https://arxiv.org/abs/2006.10739) of places in a crop: `(..., 2)` from 0 to 1 ->
    `(..., width)`. The random frequencies belong to the weights: they are saved, and never trained.
    """

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("frequencies", torch.randn(2, width // 2))

    def forward(self, places: torch.Tensor) -> torch.Tensor:
        # A product of bfloat16 would lose the place: in sums, which autocast leaves alone, it is computed in float32.
        scaled = 2 * places.float() - 1
        frequencies = self.frequencies.float()
        angles = 2 * math.pi * (scaled[..., :1] * frequencies[0] + scaled[..., 1:] * frequencies[1])
        return torch.cat([angles.sin(), angles.cos()], dim=-1).to(self.frequencies.dtype)


class MapAttention(nn.Module):
    """Attention of joints `(crops, joints, width)` over the cells of the map `(crops, cells, width)`."""

    def __init__(self, width: int):
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, joints: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
        cells = cells + sinusoids(cells.shape[1], cells.shape[2], cells.device).to(cells.dtype)
        query, key, value = (
            layer(values).unflatten(2, (NUM_HEADS, -1)).transpose(1, 2)
            for layer, values in ((self.query, joints), (self.key, cells), (self.value, cells))
        )
        seen = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.output(seen.transpose(1, 2).flatten(2))


class DeformableAttention(nn.Module):
    """
    Attention among the joints of a hand, whose keys and values are the map where the joints are, moved a little
    (deformable attention, https://arxiv.org/abs/2201.00520). Each group of channels moves them in its own way.

    The map is sampled at its cells' centres; beyond its edge, the edge goes on (ours: the description leaves it open).
    """

    def __init__(self, width: int):
        super().__init__()
        group_width = width // NUM_HEADS
        self.query = nn.Conv1d(width, width, 1, groups=NUM_HEADS, bias=False)
        self.key = nn.Conv1d(width, width, 1, groups=NUM_HEADS, bias=False)
        self.value = nn.Conv1d(width, width, 1, groups=NUM_HEADS, bias=False)
        self.output = nn.Conv1d(width, width, 1)
        self.offsets = nn.Sequential(
            nn.Conv1d(group_width, group_width, 1, groups=group_width),
            nn.GELU(),
            nn.Conv1d(group_width, 2, 1, bias=False),
        )
        self.position_bias = nn.Sequential(
            nn.Linear(2, POSITION_BIAS_WIDTH),
            nn.ReLU(),
            nn.Linear(POSITION_BIAS_WIDTH, POSITION_BIAS_WIDTH),
            nn.ReLU(),
            nn.Linear(POSITION_BIAS_WIDTH, 1),
        )

    def forward(self, joints: torch.Tensor, feature_map: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """
        Args:
            joints: `(crops, joints, width)`.
            feature_map: `(crops, width, height, width of the map)`.
            places: `(crops, joints, 2)`, x and y of the joints in the crop, from 0 to 1.
        """
        query = self.query(joints.transpose(1, 2))  # (crops, width, joints)
        places = places.float()
        looked_at = self._looked_at(query, feature_map, places)
        sampled = self._sampled(feature_map, looked_at).to(query.dtype)
        bias = self._bias(places, looked_at)
        query, key, value = (
            each.unflatten(1, (NUM_HEADS, -1)).transpose(2, 3)
            for each in (query, self.key(sampled), self.value(sampled))
        )  # (crops, groups, joints, group width)
        # Not by torch's fused attention: without crops, it gives the bias no gradient, and other processes would wait.
        scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[-1]) + bias
        attended = scores.softmax(-1).to(value.dtype) @ value
        return self.output(attended.transpose(2, 3).flatten(1, 2)).transpose(1, 2)

    def _looked_at(self, query: torch.Tensor, feature_map: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Where each group looks, float32 `(crops, groups, joints, 2)`: the joints, moved by parts of a cell."""
        offsets = self.offsets(query.unflatten(1, (NUM_HEADS, -1)).flatten(0, 1)).transpose(1, 2)
        offsets = LARGEST_OFFSET * offsets.float().tanh().unflatten(0, (-1, NUM_HEADS))
        height, width = feature_map.shape[-2:]
        return places[:, None] + offsets / offsets.new_tensor([width, height])

    def _sampled(self, feature_map: torch.Tensor, looked_at: torch.Tensor) -> torch.Tensor:
        """Each group's channels where it looks, float32 `(crops, width, joints)`."""
        groups = feature_map.float().unflatten(1, (NUM_HEADS, -1)).flatten(0, 1)
        grid = 2 * looked_at.flatten(0, 1)[:, None] - 1  # (crops x groups, 1, joints, 2), the crop from -1 to 1
        sampled = nn.functional.grid_sample(groups, grid, mode="bilinear", padding_mode="border", align_corners=False)
        return sampled[:, :, 0].unflatten(0, (-1, NUM_HEADS)).flatten(1, 2)

    def _bias(self, places: torch.Tensor, looked_at: torch.Tensor) -> torch.Tensor:
        """Bias by the way from each joint to each place looked at, `(crops, groups, joints, joints)`."""
        distances = 2 * (places[:, None, :, None] - looked_at[:, :, None])  # the crop has a side of 2
        logarithms = distances.sign() * distances.abs().log1p()
        return self.position_bias(logarithms.to(self.position_bias[0].weight.dtype))[..., 0]


class GateOutput(nn.Conv1d):
    """The last layer of the gate, a class so that `initialise_fusion` finds it."""


class FusionGate(nn.Module):
    """How much of the fused features a joint takes: `(crops, joints, width)` twice -> `(crops, joints, 1)`, 0 to 1."""

    def __init__(self, width: int):
        super().__init__()
        self.hidden = nn.Conv1d(2 * width, width, 1)
        self.output = GateOutput(width, 1, 1)

    def forward(self, joints: torch.Tensor, fused: torch.Tensor) -> torch.Tensor:
        both = torch.cat([joints, fused.to(joints.dtype)], dim=2).transpose(1, 2)
        return self.output(nn.functional.gelu(self.hidden(both))).tanh().relu().transpose(1, 2)


class PriorGuidedFusion(nn.Module):
    """
    Hand features of the pose and hand crops -> hand features that have seen the pixels, where there is a crop. Left and
    right hands share all weights.

    Args:
        width: of a joint's features; a multiple of 16.
    """

    def __init__(self, width: int):
        super().__init__()
        self.backbone = HandCropBackbone()
        self.projection = nn.Conv2d(self.backbone.num_features, width, 1)
        self.coordinate_code = CoordinateCode(width)
        self.map_attention = MapAttention(width)
        self.deformable_attention = DeformableAttention(width)
        self.gate = FusionGate(width)

    def forward(
        self,
        hands: torch.Tensor,
        first_frames: torch.Tensor,
        hand_pixel_values: torch.Tensor,
        hand_frame_indices: torch.Tensor,
        hand_crop_keypoints: torch.Tensor,
    ) -> torch.Tensor:
        """
        Replace the features of the frames that have a crop.

        Args:
            hands: `(2, frames, joints, width)`, left and right hands of the frames of all clips.
            first_frames: int64 `(batch,)`, where each clip begins among them.
            hand_pixel_values: `(batch, 2, crops, 3, height, width)`, normalised.
            hand_frame_indices: int64 `(batch, 2, crops)`, the frame of its clip that each crop is of, each at most
                once; -1 for none.
            hand_crop_keypoints: `(batch, 2, crops, joints, 2)`, x and y in the crop, from 0 to 1.
        """
        frames = hand_frame_indices + first_frames[:, None, None]
        is_crop = hand_frame_indices >= 0
        if is_exporting(self):
            return self._replace_all(hands, frames, is_crop, hand_pixel_values, hand_crop_keypoints)
        if not is_crop.any() and not several_processes():  # whose batch norms wait for each other
            return hands
        places = (is_crop.nonzero()[:, 1], frames[is_crop])
        fused = self.fuse(hands[places], hand_pixel_values[is_crop], hand_crop_keypoints[is_crop])
        return hands.index_put(places, fused.to(hands.dtype))

    def fuse(self, joints: torch.Tensor, crops: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """
        Args:
            joints: `(crops, joints, width)`, the features of the pose.
            crops: `(crops, 3, height, width)`; `places`: `(crops, joints, 2)`, x and y in the crop, from 0 to 1.
        """
        feature_map = self.projection(self.backbone(crops))  # (crops, width, 4, 4)
        seen = self.map_attention(joints + self.coordinate_code(places), feature_map.flatten(2).transpose(1, 2))
        fused = self.deformable_attention(joints + seen, feature_map, places)
        gate = self.gate(joints, fused)
        return gate * fused + (1 - gate) * joints

    def _replace_all(
        self,
        hands: torch.Tensor,
        frames: torch.Tensor,
        is_crop: torch.Tensor,
        pixels: torch.Tensor,
        keypoints: torch.Tensor,
    ) -> torch.Tensor:
        """The same without a shape that depends on the data: what is no crop goes to one frame more, then dropped."""
        num_frames = hands.shape[1]
        with_one_more = torch.cat([hands, torch.zeros_like(hands[:, :1])], dim=1)
        frames = torch.where(is_crop, frames, num_frames).transpose(0, 1).flatten(1)  # (2, crops of all clips)
        places = (torch.arange(2, device=frames.device).repeat_interleave(frames.shape[1]), frames.flatten())
        pixels, keypoints = (each.transpose(0, 1).flatten(0, 2) for each in (pixels, keypoints))
        fused = self.fuse(with_one_more[places], pixels, keypoints)
        return with_one_more.index_put(places, fused.to(hands.dtype))[:, :num_frames]


def sinusoids(length: int, width: int, device: torch.device) -> torch.Tensor:
    """Codes of the positions from 0, float32 `(length, width)`, see `sinusoids_at`."""
    return sinusoids_at(torch.arange(length, device=device), width)


def sinusoids_at(positions: torch.Tensor, width: int) -> torch.Tensor:
    """Sine and cosine codes of positions `(n,)`, float32 `(n, width)` (https://arxiv.org/abs/1706.03762)."""
    rates = torch.exp(torch.arange(0, width, 2, device=positions.device) * (-math.log(10_000.0) / width))
    angles = positions[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


def check_hand_crops(
    mask: torch.Tensor, pixels: torch.Tensor, frame_indices: torch.Tensor, keypoints: torch.Tensor, is_exporting: bool
) -> None:
    """
    Check the hand crops of clips with the boolean mask `(batch, frames)`, see `PriorGuidedFusion.forward`.

    Raises:
        ValueError: for another shape or dtype, or the index of a frame that its clip does not have.
    """
    batch_size = len(mask)
    if pixels.ndim != 6 or pixels.shape[:2] != (batch_size, 2) or pixels.shape[3] != 3:
        raise ValueError(
            f"`hand_pixel_values` must have the shape (batch, hands, crops, 3, height, width) = ({batch_size}, 2, "
            f"crops, 3, height, width), got {tuple(pixels.shape)}."
        )
    if not pixels.is_floating_point():
        raise ValueError(f"`hand_pixel_values` must be normalised floating point crops, got {pixels.dtype}.")
    shape = tuple(pixels.shape[:3])
    if frame_indices.shape != shape or frame_indices.dtype != torch.int64:
        # In bfloat16, indices above 256 would be those of other frames.
        raise ValueError(
            f"`hand_frame_indices` must be int64 of the shape (batch, hands, crops) = {shape}, got "
            f"{frame_indices.dtype} {tuple(frame_indices.shape)}."
        )
    if keypoints.shape != (*shape, NUM_JOINTS, 2):
        raise ValueError(
            f"`hand_crop_keypoints` must have the shape (batch, hands, crops, joints, 2) = {(*shape, NUM_JOINTS, 2)}, "
            f"got {tuple(keypoints.shape)}."
        )
    lengths = mask.sum(1)
    if not is_exporting and (frame_indices >= lengths[:, None, None]).any():
        clip = int((frame_indices >= lengths[:, None, None]).nonzero()[0, 0])
        raise ValueError(
            "`hand_frame_indices` must be below the number of frames of each clip, got "
            f"{int(frame_indices[clip].max())} for clip {clip} of the batch, which has {int(lengths[clip])}."
        )


def initialise_fusion(module: nn.Module) -> None:
    """
    Initial values of one module of the fusion, after the usual ones: for `_init_weights`. Each has weights of its own,
    because transformers may pass over modules that have none.
    """
    if isinstance(module, nn.Conv2d):  # as torchvision
        init.kaiming_normal_(module.weight, mode="fan_out")
    elif isinstance(module, nn.Conv1d):  # as torch
        init.kaiming_uniform_(module.weight, a=math.sqrt(5))
    elif isinstance(module, CoordinateCode):
        init.normal_(module.frequencies)
    if isinstance(module, GateOutput):
        init.constant_(module.bias, math.atanh(INITIAL_GATE))


__all__ = ["PriorGuidedFusion"]
