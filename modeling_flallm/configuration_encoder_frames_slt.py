"""Configuration of the sign encoder of frames, FLa-LLM's (https://arxiv.org/abs/2403.12556, section 3.1)."""

import math
import re
from collections.abc import Sequence
from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

BACKBONES = ("resnet18", "resnet34", "resnet50")


@strict
class FLaLLMVisionConfig(PreTrainedConfig):
    r"""
    The visual encoder: a torchvision ResNet on every frame, then a local temporal module over the frame features.

    Args:
        backbone (`str`, *optional*, defaults to `"resnet18"`):
            torchvision's name of the network: `"resnet18"` (the paper, section 3.1), `"resnet34"` or `"resnet50"`.
        backbone_width (`int`, *optional*, defaults to 64):
            Channels of its first stage; the later ones have 2, 4 and 8 times as many. 64 is torchvision's ResNet and
            the only width for which ImageNet weights exist; fewer (ours) are for small frames and small machines.
        hidden_size (`int`, *optional*, defaults to 512):
            Channels of the temporal module, so the width of one visual token. The paper does not give it; 512 (ours) is
            the width of ResNet-18's features and of Light-T.
        temporal_blocks (`list[str]`, *optional*, defaults to `["K5"]`):
            The local temporal module as the field writes it: `"K5"` is Conv1d with kernel 5, norm and ReLU; `"P2"` is
            max pooling by 2. One convolution and no pooling is the paper's; its kernel size is not given (5 is ours).
            `["K5", "P2", "K5", "P2"]` is sltbaselines'.
        temporal_padding (`str`, *optional*, defaults to `"zero"`):
            `"zero"` keeps the length in every convolution, so that N frames give N tokens before pooling (the paper).
            `"none"` pads nothing. `"replicate"` (sltbaselines) repeats the first frame 8 times in front of a clip and
            the last one behind it until there are ceil(T / stride) * stride + 16 frames, then pads nothing.
        temporal_norm (`str`, *optional*, defaults to `"batch_norm"`):
            `"batch_norm"` (the paper) or `"layer_norm"` (ours).
        subtract_mean_frame (`bool`, *optional*, defaults to `False`):
            Whether the CNN sees each frame minus the mean of the frames of its clip (ours). What stays still in a clip,
            such as room, clothes and face, is then gone, and what is left is what moves. A CNN that starts from random
            weights learns to read signs far sooner from this; one with ImageNet weights was made for whole pictures.

    Raises:
        ValueError: for an unknown backbone, a temporal block that is not `K<odd number>` or `P<number>`.
    """

    model_type = "flallm_vision"
    base_config_key = "vision_config"

    backbone: str = "resnet18"
    backbone_width: int = 64
    hidden_size: int = 512
    temporal_blocks: list[str] | tuple[str, ...] = ("K5",)
    temporal_padding: Literal["zero", "none", "replicate"] = "zero"
    temporal_norm: Literal["batch_norm", "layer_norm"] = "batch_norm"
    subtract_mean_frame: bool = False

    def __post_init__(self, **kwargs):
        if self.backbone not in BACKBONES:
            raise ValueError(f"`backbone` must be one of {', '.join(BACKBONES)}, got {self.backbone!r}.")
        for name in ("backbone_width", "hidden_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be 1 or more, got {getattr(self, name)}.")
        check_temporal_blocks(self.temporal_blocks)
        super().__post_init__(**kwargs)

    @property
    def temporal_stride(self) -> int:
        """Frames from one visual token to the next."""
        return stride_of_blocks(self.temporal_blocks)


def check_temporal_blocks(blocks: Sequence[str]) -> None:
    """
    Raises:
        ValueError: for a block that is not `K<odd number>` or `P<number>`.
    """
    for block in blocks:
        match = re.fullmatch(r"([KP])([1-9]\d*)", block)
        if match is None or (match[1] == "K" and int(match[2]) % 2 == 0):
            raise ValueError(
                "`temporal_blocks` takes 'K' with an odd kernel size (convolution) and 'P' with a factor "
                f"(pooling), for example ['K5', 'P2'], got {block!r} in {list(blocks)}."
            )


def stride_of_blocks(blocks: Sequence[str]) -> int:
    """Inputs from one output of these temporal blocks to the next."""
    return math.prod(int(block[1:]) for block in blocks if block[0] == "P")


__all__ = ["FLaLLMVisionConfig"]
