# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""Ready-made visual features as a modality: read, thinned, augmented in time alone, and padded."""

from collections.abc import Sequence
from typing import Any

from .feature_extraction_visual_features_slt import VisualFeatureExtractor
from .feature_files_slt import list_of_clips
from .modality_slt import ClipValues, Modality, SampleIndices


class VisualFeaturesModality(Modality):
    """
    The column `visual_features` holds the path of a `.npy`, `.npz` or `.safetensors` file, or an array
    `(features, feature_size)`. `start` and `end` of a row say where its clip lies in a video; its features are those
    of the clip, whole.
    """

    argument = "visual_features"
    column = "visual_features"
    column_names = ("visual_features", "features")
    input_names = ("visual_features", "visual_attention_mask")
    slot = "feature_extractor"
    item_key = "features"

    @classmethod
    def is_read_by(cls, part: Any) -> bool:
        return isinstance(part, VisualFeatureExtractor)

    def as_list(self, clips: Any) -> list[Any]:
        return list_of_clips(clips)

    def read(self, row: dict[str, Any], sample: SampleIndices | None = None) -> ClipValues:
        features = self.part.read(row[self.column])
        return ClipValues(features if sample is None else features[sample(len(features), None)])

    def count(self, row: dict[str, Any]) -> int:
        return self.part.count(row[self.column])

    def sample_indices(self, length: int, rate: float | None = None) -> list[int]:
        return self.part.sample_feature_indices(length)

    def collate(self, items: Sequence[dict[str, Any]], preprocess_on_device: bool = False) -> dict[str, Any]:
        """See `Modality.collate`; there is nothing to leave to the device."""
        return self.part.pad([item["features"] for item in items])
