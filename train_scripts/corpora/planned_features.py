"""Ready-made features of a raw corpus: one `.safetensors` file per clip, checked, with its rate."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from modeling_flallm.own_processing import array_files, feature_files

from .corpus_schema import FEATURE_COLUMNS, RawClip
from .feature_sources import SUFFIXES_WITH_RATE, read_array, suffix_of
from .planned_videos import Plan, unique_names
from .prepared_folder import STATE_FOLDER
from .prepared_videos import ClipError, ClipOutcome, ClipTask

RATE = feature_files.RATE_KEY
HOW_TO_FIND_THE_RATE = (
    "It is the frame rate of the videos, divided by the number of frames from one feature to the next. For videos of "
    "25 frames per second: 25 if there is a feature of every frame, 12.5 if of every second one (I3D with stride 2), "
    "3.125 for windows that begin every 8 frames (SpaMo's _overlap-8). If it differs from clip to clip, add a column "
    "features_per_second to the table."
)
LARGEST_DIFFERENCE_OF_RATES = 1e-3  # as a share


@dataclass(frozen=True)
class FeaturesLength:
    """Of the features of a clip; `had_leading_axis` if their array had the shape (1, features, width)."""

    num_features: int
    features_per_second: float
    width: int
    had_leading_axis: bool

    @property
    def duration_in_seconds(self) -> float:
        return self.num_features / self.features_per_second


@dataclass(frozen=True)
class FeaturesTask(ClipTask):
    """
    The features of one clip.

    Args:
        array: their name in a file of several arrays.
        layer: which one to take of an array (layers, features, width).
        features_per_second: None if the source states it.
        shown_source: the name of the source, for the metadata of the file.
    """

    array: str | None
    layer: int | None
    features_per_second: float | None
    shown_source: str

    length_class = FeaturesLength

    @property
    def settings(self) -> list[Any]:
        return [self.array, self.features_per_second]

    @property
    def name(self) -> str:
        return f"'{self.source}'" if self.array is None else f"'{self.source}#{self.array}'"

    def make(self, partial: Path) -> tuple[str, list[FeaturesLength]]:
        """Read, check and write the features, in the precision of the source."""
        values, metadata = read_array(self.source, self.array)
        had_leading_axis = self.layer is None and values.ndim == 3 and len(values) == 1
        values = values[0] if had_leading_axis else self._layer_of(values)
        try:
            feature_files.check_visual_features(values, values.shape[1] if values.ndim == 2 else 1, self.name)
            rate = self._rate(metadata)
            first, last = array_files.part_of_features(len(values), *self.intervals[0], rate, self.name)
        except ValueError as error:
            raise ClipError(str(error)) from error
        values = values[first:last].contiguous()
        # What else the source says of itself, such as its encoder, is kept.
        metadata = {**metadata, "source": metadata.get("source", self.shown_source), RATE: f"{rate:.12g}"}
        save_file({feature_files.USUAL_NAMES[1]: values}, partial, metadata=metadata)
        return "written", [FeaturesLength(len(values), rate, values.shape[1], had_leading_axis)]

    def _layer_of(self, values: torch.Tensor) -> torch.Tensor:
        shape = tuple(values.shape)
        if values.ndim == 3 and self.layer is None:
            raise ClipError(
                f"{self.name} has the shape {shape}. If these are {shape[0]} layers, name one with --features_layer, "
                f"from 0 to {shape[0] - 1}, or -1 for the last; otherwise pool each feature to one vector."
            )
        if self.layer is None:
            if values.ndim != 2:
                raise ClipError(f"{self.name} must have the shape (features, width), got {shape}.")
            return values
        if values.ndim != 3 or not -shape[0] <= self.layer < shape[0]:
            raise ClipError(
                f"{self.name} must have the shape (layers, features, width) with a layer {self.layer}, as "
                f"--features_layer says, got {shape}."
            )
        return values[self.layer]

    def _rate(self, metadata: Mapping[str, str]) -> float:
        given, stated = self.features_per_second, metadata.get(RATE)
        stated = None if stated is None else feature_files.check_rate(stated, self.name)
        if given is None and stated is None:
            raise ClipError(f"{self.name} does not say how many features it holds per second: --features_per_second.")
        if given is not None and stated is not None and abs(given - stated) > LARGEST_DIFFERENCE_OF_RATES * stated:
            raise ClipError(f"{self.name} says that it holds {stated:g} features per second, not {given:g}.")
        return stated if given is None else given


class FeaturesPlan(Plan):
    """
    Features as they are. Their rate is stated by the corpus for each clip, or by the argument; what a file says of its
    own rate must agree with it, and is enough.

    Raises:
        ValueError: if the rate of some files is not known.
    """

    columns = FEATURE_COLUMNS
    unit, kind = "clip", "array of features"

    def __init__(self, clips: Sequence[RawClip], features_per_second: float | None, layer: int | None):
        unknown = [
            clip.video.name
            for clip in clips
            if clip.features_per_second is None and suffix_of(clip.video) not in SUFFIXES_WITH_RATE
        ]
        if features_per_second is None and unknown:
            raise ValueError(
                f"Files such as {unknown[0]} do not say how many features they hold per second: pass "
                f"--features_per_second. {HOW_TO_FIND_THE_RATE}"
            )
        self.features_per_second, self.layer = features_per_second, layer

    @property
    def settings(self) -> dict[str, Any]:
        return {"features_per_second": self.features_per_second, "features_layer": self.layer}

    def tasks(
        self, clips: Sequence[RawClip], source_folder: Path, output_dir: Path
    ) -> list[tuple[ClipTask, list[RawClip]]]:
        shown = [str(clip.video).removeprefix(str(source_folder)).lstrip("/\\") for clip in clips]
        addresses = [f"{name}#{clip.array}#{clip.start}#{clip.end}" for name, clip in zip(shown, clips, strict=True)]
        names = unique_names([clip.split for clip in clips], [clip.name for clip in clips], addresses)
        return [
            (self._task(clip, name, source, output_dir), [clip])
            for clip, name, source in zip(clips, names, shown, strict=True)
        ]

    def _task(self, clip: RawClip, name: str, shown_source: str, output_dir: Path) -> FeaturesTask:
        return FeaturesTask(
            split=clip.split,
            source=clip.video,
            file_name=f"{name}.safetensors",
            split_folder=output_dir / clip.split,
            work_folder=output_dir / STATE_FOLDER,
            intervals=((clip.start, clip.end),),
            array=clip.array,
            layer=self.layer,
            features_per_second=clip.features_per_second or self.features_per_second,
            shown_source=Path(shown_source).name if Path(shown_source).is_absolute() else shown_source,
        )

    def values_of(self, length: FeaturesLength) -> dict[str, Any]:
        return {
            "duration_in_seconds": round(length.duration_in_seconds, 6),
            "num_features": length.num_features,
            "features_per_second": length.features_per_second,
        }

    def misfits(self, outcomes: Mapping[str, ClipOutcome]) -> dict[str, str]:
        """Clips whose features have another width than most."""
        lengths = _lengths(outcomes)
        widths = Counter(length.width for length in lengths.values()).most_common()
        is_transposed = len(widths) > 1 and len({length.num_features for length in lengths.values()}) == 1
        hint = (
            " All clips have the same number of features, so their arrays may be transposed." if is_transposed else ""
        )
        return {
            key: f"has features of {length.width} values, but most of this corpus have {widths[0][0]}.{hint}"
            for key, length in lengths.items()
            if length.width != widths[0][0]
        }

    def notes(self, outcomes: Mapping[str, ClipOutcome]) -> list[str]:
        lengths = _lengths(outcomes).values()
        count = sum(length.had_leading_axis for length in lengths)
        widths = {length.width for length in lengths}  # one, because others are misfits
        notes = [f"the features have {width} values: train with --visual_features_size {width}" for width in widths]
        dropped = f"{count} clip(s) had the shape (1, features, width): the leading axis was dropped"
        return [*notes, *([dropped] if count else [])]


def _lengths(outcomes: Mapping[str, ClipOutcome]) -> dict[str, FeaturesLength]:
    return {key: outcome.lengths[0] for key, outcome in outcomes.items() if outcome.how is not None}
