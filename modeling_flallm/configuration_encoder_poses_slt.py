"""Configuration of the sign encoder of poses, Uni-Sign's (https://arxiv.org/abs/2501.15187)."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

NUM_STREAMS = 4  # body, left hand, right hand, face


@strict
class UniSignPoseConfig(PreTrainedConfig):
    r"""
    Uni-Sign's pose encoder: spatial-temporal graph convolutions over the points of the body, the hands and the face.
    The defaults are the sizes of its published weights.

    Args:
        spatial_widths (`list[int]`, *optional*, defaults to `[64, 128, 256]`):
            Channels of the graph convolutions that see one frame, in order.
        temporal_layers (`int`, *optional*, defaults to 3):
            Number of graph convolutions that see several frames, all of the last of `spatial_widths`.
        temporal_kernel_size (`int`, *optional*, defaults to 5):
            Frames that one of them sees, an odd number.
        rgb_fusion (`bool`, *optional*, defaults to `False`):
            Whether it also sees crops of the hands, through Uni-Sign's prior-guided fusion. The last of
            `spatial_widths` is then a multiple of 8.

    Attributes:
        hidden_size (`int`):
            Width of one visual token: four times the last of `spatial_widths`, for body, left hand, right hand and
            face.

    Raises:
        ValueError: for a width below 1 or no width, fewer than 0 temporal layers, a kernel that is not odd, and with
            `rgb_fusion` a last width that is no multiple of 8.
    """

    model_type = "uni_sign_pose"
    base_config_key = "vision_config"

    spatial_widths: list[int] | tuple[int, ...] = (64, 128, 256)
    temporal_layers: int = 3
    temporal_kernel_size: int = 5
    rgb_fusion: bool = False
    hidden_size: int | None = None

    def __post_init__(self, **kwargs):
        if not self.spatial_widths or min(self.spatial_widths) < 1:
            raise ValueError(
                f"`spatial_widths` must be one or more numbers of channels, each 1 or more, got {self.spatial_widths}."
            )
        if self.temporal_layers < 0:
            raise ValueError(f"`temporal_layers` must be 0 or more, got {self.temporal_layers}.")
        if self.temporal_kernel_size < 1 or self.temporal_kernel_size % 2 == 0:
            raise ValueError(f"`temporal_kernel_size` must be an odd number, got {self.temporal_kernel_size}.")
        if self.rgb_fusion and self.spatial_widths[-1] % 8:
            raise ValueError(
                "With `rgb_fusion`, the last of `spatial_widths` must be a multiple of 8, as its attention has 8 "
                f"heads, got {self.spatial_widths[-1]}."
            )
        self.hidden_size = NUM_STREAMS * self.spatial_widths[-1]
        super().__post_init__(**kwargs)


__all__ = ["UniSignPoseConfig"]
