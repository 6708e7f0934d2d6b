# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""Ready-made visual features as a modality: read, thinned, augmented in time alone, and padded."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from .array_files_slt import part_of_features, split_clip_name
from .encoder_of_features_slt import encoder_of_features
from .feature_extraction_visual_features_slt import VisualFeatureExtractor
from .feature_files_slt import (
    FEATURE_SUFFIXES,
    RATE_KEY,
    check_rate,
    features_per_second,
    is_feature_file,
    is_one_clip,
    list_of_clips,
    name_of,
)
from .modality_slt import ClipArguments, ClipValues, Modality, ModalityWords, SampleIndices


class VisualFeaturesModality(Modality):
    """
    The column `visual_features` holds the path of a `.npy`, `.npz` or `.safetensors` file, or an array
    `(features, feature_size)`. `start` and `end` of a row say where its clip was in a video; its features are those of
    the whole clip. How many there are per second is in the column `features_per_second` or, for `.safetensors`, in the
    metadata of the file; without it, clips have no times.
    """

    argument = "visual_features"
    column = "visual_features"
    column_names = ("visual_features", "features", "features.npy")
    length_column = "num_features"
    input_names = ("visual_features", "visual_attention_mask")
    slot = "feature_extractor"
    item_key = "features"
    table_column = "visual_features"
    array_dimensions = 2
    words = ModalityWords(
        clip="visual features",
        clips="ready-made visual features",
        reads="reads ready-made visual features",
        encoder="feature encoder",
        files="file(s) of features",
        example="clip.npy",
        shape="(features, width)",
    )

    @classmethod
    def build_part(cls, arguments: ClipArguments, encoder_config: Any = None) -> VisualFeatureExtractor:
        """See `Modality.build_part`; a feature counts as a frame. A configuration whose encoder puts layers behind the
        features says in `features_size` how wide these are."""
        feature_size = getattr(encoder_config, "features_size", encoder_config.hidden_size)
        return VisualFeatureExtractor(feature_size, max_num_features=arguments.max_num_frames)

    @classmethod
    def is_file(cls, path: str | os.PathLike) -> bool:
        return is_feature_file(path)

    @classmethod
    def split_file_name(cls, name: str) -> tuple[str, str]:
        """See `Modality.split_file_name`: `clip.npz#features` -> `clip.npz` and `#features`."""
        return split_clip_name(name, cls.column, is_feature_file, FEATURE_SUFFIXES)

    def learn_origin(self, clips: Iterable[Any]) -> None:
        """See `Modality.learn_origin`: which encoder made them, as far as their files say so; it must be one."""
        expected = self.part.encoder
        for clip in clips:
            found = encoder_of_features(clip)
            if found is None:
                continue
            expected = expected or found
            if found.fingerprint != expected.fingerprint:
                raise ValueError(
                    f"'{clip}' holds features of {found}, but other training clips hold those of {expected}. Train on "
                    "the features of one encoder."
                )
        if expected is not None:
            self.part.encoder_name, self.part.encoder_fingerprint = expected.name, expected.fingerprint

    def origin(self) -> str | None:
        return self.part.encoder_name

    def is_one(self, clips: Any) -> bool:
        return is_one_clip(clips)

    def as_list(self, clips: Any) -> list[Any]:
        return list_of_clips(clips)

    def open(
        self, source: Any, start: float | None = None, end: float | None = None, rate: float | None = None
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """See `Modality.open`; the `rate` of a file that states it is not needed, and takes its place if given."""
        features = self.part.read(source)
        rate = features_per_second(source) if rate is None else rate
        first, last = part_of_features(len(features), start, end, rate, name_of(source))
        indices = self.part.sample_feature_indices(last - first)
        metadata = {
            "fps": rate,
            "total_num_frames": last - first,
            "frames_indices": indices,
            "duration": None if rate is None else (last - first) / rate,
            "start_in_seconds": None if rate is None else first / rate,
        }
        return features[first:last][indices], metadata

    def prepare(self, values: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        return self.part.pad(values)

    def read(self, row: dict[str, Any], sample: SampleIndices | None = None) -> ClipValues:
        source = row[self.column]
        features = self.part.read(source)
        stated = row.get(RATE_KEY)
        rate = features_per_second(source) if stated is None else check_rate(stated, name_of(source))
        return ClipValues(features if sample is None else features[sample(len(features), rate)], rate)

    def exported_settings(self) -> dict[str, Any]:
        """See `Modality.exported_settings`; features come as arrays."""
        names = ("max_num_features", "feature_size")
        return {**{name: getattr(self.part, name) for name in names}, "value_shape": [self.part.feature_size]}

    def count(self, row: dict[str, Any]) -> int:
        return self.part.count(row[self.column])

    def sample_indices(self, length: int, rate: float | None = None) -> list[int]:
        return self.part.sample_feature_indices(length)

    def collate(self, items: Sequence[dict[str, Any]], preprocess_on_device: bool = False) -> dict[str, Any]:
        """See `Modality.collate`; there is nothing to leave to the device."""
        return self.part.pad([item["features"] for item in items])
