"""The modalities that a flag chooses in place of videos, a row for each. Imports nothing heavy."""

from collections.abc import Collection

from .encoder_row import EncoderRow
from .pose_arguments import PoseArguments
from .visual_features_arguments import VisualFeaturesArguments

ENCODER_ROWS: list[type[EncoderRow]] = [VisualFeaturesArguments, PoseArguments]


def all_flags() -> str:
    return " or ".join(f"--{row.flag}" for row in ENCODER_ROWS)


def advice_for_columns(columns: Collection[str]) -> str:
    """How to train on what a data set with these columns has, with a space in front; empty where no flag is needed."""
    return "".join(f" Pass --{row.flag} to train on {row.column}." for row in ENCODER_ROWS if row.column in columns)
