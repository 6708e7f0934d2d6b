"""The flags for poses in place of videos. Imports nothing heavy; one method does."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from .encoder_row import EncoderRow
from .system_rows import systems

if TYPE_CHECKING:
    from modeling_flallm import UniSignPoseConfig

# The systems with a pose encoder of their own.
POSE_ENCODERS = [
    system.model_type
    for system in systems.SYSTEMS.values()
    if f"{system.model_type}_pose" in system.visual_encoder_types
]


@dataclass
class PoseEncoderArguments:
    """The sizes of a new pose encoder."""

    pose_widths: list[int] = field(
        default_factory=lambda: [64, 128, 256],
        metadata={"help": "Channels of its layers over the points of one frame. The last is those of time, too."},
    )
    pose_temporal_layers: int = field(default=3, metadata={"help": "Number of its layers over time."})
    pose_temporal_kernel_size: int = field(
        default=5, metadata={"help": "Frames that each of these sees, an odd number."}
    )

    def encoder_config(self) -> "UniSignPoseConfig":
        """See `EncoderRow.encoder_config`."""
        from modeling_flallm import UniSignPoseConfig

        return UniSignPoseConfig(
            spatial_widths=self.pose_widths,
            temporal_layers=self.pose_temporal_layers,
            temporal_kernel_size=self.pose_temporal_kernel_size,
        )


@dataclass
class PoseArguments(PoseEncoderArguments, EncoderRow):
    """Poses in place of videos."""

    column: ClassVar[str] = "poses"
    flag: ClassVar[str] = "pose_encoder"
    clips: ClassVar[str] = "poses"

    pose_encoder: str | None = field(
        default=None,
        metadata={
            "help": "Read no videos but poses, in the column poses of the data set, with a new pose encoder: "
            f"{' or '.join(POSE_ENCODERS)}. Default: videos.",
            "choices": POSE_ENCODERS,
        },
    )
