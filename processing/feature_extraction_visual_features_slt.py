# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""Reads ready-made visual features from files and arrays for models that take them."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from transformers import SequenceFeatureExtractor
from transformers.feature_extraction_utils import BatchFeature

from .encoder_of_features_slt import EncoderOfFeatures, check_encoder_of_features
from .feature_files_slt import count_visual_features, list_of_clips, read_visual_features
from .padding_slt import padded_in_time
from .sampling_slt import evenly_spread


class VisualFeatureExtractor(SequenceFeatureExtractor):
    """Reads visual features that another model computed before (I3D, S3D, DINOv2, ...), and pads them to a batch.

    `feature_size` is the number of values of one feature, which must be the `hidden_size` of the model's
    `VisualFeaturesConfig`. Clips with more than `max_num_features` features are thinned evenly to that number; None
    keeps all.

    `encoder_fingerprint` says which encoder the model was trained on, and `encoder_name` what people call it, as the
    headers of feature files do: files of another encoder are refused. None accepts all, and files that do not say what
    made them are always accepted.

    Example: `VisualFeatureExtractor(1024)(["clip.npy"], return_tensors="pt")["visual_features"].shape`
    """

    model_input_names = ["visual_features", "visual_attention_mask"]

    def __init__(
        self,
        feature_size: int = 1024,
        max_num_features: int | None = None,
        encoder_name: str | None = None,
        encoder_fingerprint: str | None = None,
        **kwargs,
    ):
        if feature_size < 1:
            raise ValueError(f"`feature_size` must be 1 or more, got {feature_size}.")
        if max_num_features is not None and max_num_features < 1:
            raise ValueError(f"`max_num_features` must be 1 or more, or None for no limit, got {max_num_features}.")
        # Required by the base class: features have no samples per second, and masks mark the padding.
        super().__init__(feature_size, kwargs.pop("sampling_rate", None), kwargs.pop("padding_value", 0.0), **kwargs)
        self.max_num_features = max_num_features
        self.encoder_name = encoder_name
        self.encoder_fingerprint = encoder_fingerprint

    @property
    def encoder(self) -> EncoderOfFeatures | None:
        """The encoder of the features that the model was trained on, if it is known."""
        known = self.encoder_fingerprint
        return None if known is None else EncoderOfFeatures(self.encoder_name, known)

    def __call__(
        self, visual_features: Any, max_num_features: int | None = None, return_tensors: str | None = None
    ) -> BatchFeature:
        """Read one clip or a list of clips, each a path, or an array or tensor of shape (features, feature_size).

        Returns `visual_features`, float32 (batch, features, feature_size), padded with zeros, and
        `visual_attention_mask` (batch, features). Raises `ValueError` as `read`."""
        clips = list_of_clips(visual_features)
        sample = functools.partial(self.sample_feature_indices, max_num_features=max_num_features)
        read = [self.read(clip) for clip in clips]
        return BatchFeature(self.pad([clip[sample(len(clip))] for clip in read]), tensor_type=return_tensors)

    def read(self, source: Any) -> torch.Tensor:
        """Read all features of one clip, float32 (features, feature_size).

        `source` is an array, tensor or list of that shape, or the path of a `.npy`, `.npz` or `.safetensors` file;
        `features.npz#clip_1` names one of several arrays of a file. Raises `ValueError` for what cannot be read, has
        another shape or dtype, holds no feature, holds NaN or infinity, or is of another encoder than the model's."""
        if self.encoder is not None:
            check_encoder_of_features(source, self.encoder)
        return read_visual_features(source, self.feature_size)

    def count(self, source: Any) -> int:
        """Count the features of a clip; of a file only its header is read. Raises `ValueError` as `read`."""
        return count_visual_features(source, self.feature_size)

    def sample_feature_indices(self, num_features: int, max_num_features: int | None = None) -> list[int]:
        """Return the sorted indices of the features that are kept of this many."""
        return evenly_spread(num_features, max_num_features or self.max_num_features)

    def pad(self, clips: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Pad float tensors (features, feature_size) with zeros to a batch with its mask."""
        values, mask = padded_in_time(clips)
        return {"visual_features": values, "visual_attention_mask": mask}
