"""The flag for ready-made visual features in place of videos. Imports nothing heavy; one method does."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from .encoder_row import EncoderRow

if TYPE_CHECKING:
    from modeling_flallm import VisualFeaturesConfig


@dataclass
class VisualFeaturesArguments(EncoderRow):
    """Ready-made visual features in place of videos."""

    column: ClassVar[str] = "visual_features"
    flag: ClassVar[str] = "visual_features_size"
    clips: ClassVar[str] = "ready-made visual features"

    visual_features_size: int | None = field(
        default=None,
        metadata={
            "help": "Read no videos but ready-made visual features of so many values each, in the column "
            "visual_features of the data set. --max_num_frames then limits the features of a clip; other flags on "
            "frames have no effect. Default: videos."
        },
    )

    def encoder_config(self) -> "VisualFeaturesConfig":
        """See `EncoderRow.encoder_config`."""
        from modeling_flallm import VisualFeaturesConfig

        return VisualFeaturesConfig(hidden_size=self.visual_features_size)
