"""
A modality that the library does not know, all that it needs, and its rows: what somebody writes who adds one.

Keypoints are arrays `(frames, points, 2)` in the column `keypoints`, or files of such arrays that end in `.points`.
Import this module before `train_scripts`, in a process of its own: `register` adds the rows for good.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, PreTrainedConfig, SequenceFeatureExtractor
from transformers.feature_extraction_utils import BatchFeature

from modeling_flallm import SIGN_ENCODERS, SignEncoder, SignEncoderOutput
from modeling_flallm.sign_encoder_slt import checked_mask
from processing import MODALITIES, Modality
from processing.modality_slt import ClipValues, ModalityWords
from processing.padding_slt import padded_in_time
from processing.sampling_slt import evenly_spread
from train_scripts.arguments.encoder_arguments import ENCODER_ROWS
from train_scripts.arguments.encoder_row import EncoderRow

INPUTS = ("keypoint_values", "keypoint_attention_mask")


class KeypointExtractor(SequenceFeatureExtractor):
    """The part of the processor. Every second frame is kept, as a sign encoder needs no more of them."""

    model_input_names = list(INPUTS)

    def __init__(self, num_points: int = 3, max_num_frames: int | None = None, **kwargs: Any):
        values = {"sampling_rate": None, "padding_value": 0.0, "feature_size": num_points}
        super().__init__(**{**values, **kwargs})
        self.num_points, self.max_num_frames = num_points, max_num_frames

    def __call__(self, keypoints: Any, return_tensors: str | None = None) -> BatchFeature:
        clips = [self.read(clip) for clip in KeypointModality(self).as_list(keypoints)]
        return BatchFeature(self.pad([clip[self.sample(len(clip))] for clip in clips]), tensor_type=return_tensors)

    def read(self, clip: Any) -> torch.Tensor:
        array = np.load(clip) if isinstance(clip, str | os.PathLike) else clip
        values = torch.as_tensor(np.asarray(array, dtype=np.float32))
        if values.shape[1:] != (self.num_points, 2):
            raise ValueError(f"Keypoints have the shape (frames, {self.num_points}, 2), got {tuple(values.shape)}.")
        return values

    def sample(self, num_frames: int) -> list[int]:
        every_second = list(range(0, num_frames, 2))
        return [every_second[index] for index in evenly_spread(len(every_second), self.max_num_frames)]

    def pad(self, clips: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        return dict(zip(INPUTS, padded_in_time(clips), strict=True))


class KeypointModality(Modality):
    argument = "keypoints"
    column = "keypoints"
    column_names = ("keypoints", "landmarks")
    input_names = INPUTS
    slot = "feature_extractor"
    item_key = "points"
    table_column = "keypoints"
    array_dimensions = 3
    words = ModalityWords(
        clip="keypoints",
        clips="keypoints",
        reads="follows the keypoints",
        encoder="keypoint encoder",
        files="file(s) of keypoints",
        example="clip.points",
        shape="(frames, points, 2)",
    )

    @classmethod
    def build_part(cls, arguments: Any, encoder_config: Any = None) -> KeypointExtractor:
        return KeypointExtractor(encoder_config.num_points, arguments.max_num_frames)

    @classmethod
    def is_file(cls, path: str | os.PathLike) -> bool:
        return Path(path).suffix == ".points"

    @classmethod
    def limits(cls, settings: dict[str, Any]) -> list[str]:
        return ["It sees points, and no face between them."]

    def is_one(self, clips: Any) -> bool:
        return isinstance(clips, str | Path) or getattr(clips, "ndim", 0) == 3

    def as_list(self, clips: Any) -> list[Any]:
        return [clips] if self.is_one(clips) else list(clips)

    def open(
        self, source: Any, start: float | None = None, end: float | None = None, rate: float | None = None
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        values = self.part.read(source)
        indices = self.part.sample(len(values))
        metadata = {"total_num_frames": len(values), "frames_indices": indices, "fps": rate, "duration": None}
        return values[indices], {**metadata, "start_in_seconds": None}

    def prepare(self, values: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        return self.part.pad(values)

    def read(self, row: dict[str, Any], sample: Any = None) -> ClipValues:
        values = self.part.read(row[self.column])
        return ClipValues(values if sample is None else values[sample(len(values), None)])

    def count(self, row: dict[str, Any]) -> int:
        return len(self.part.read(row[self.column]))

    def sample_indices(self, length: int, rate: float | None = None) -> list[int]:
        return self.part.sample(length)

    def collate(self, items: Sequence[dict[str, Any]], preprocess_on_device: bool = False) -> dict[str, Any]:
        return self.part.pad([item["points"] for item in items])


@strict
class KeypointConfig(PreTrainedConfig):
    model_type = "keypoints_of_a_test"
    base_config_key = "vision_config"
    hidden_size: int = 6
    num_points: int = 3


class KeypointEncoder(SignEncoder):
    """One visual token for each frame, from a layer with weights."""

    config_class = KeypointConfig
    main_input_name = INPUTS[0]
    input_names = INPUTS
    clip_words = {"a_clip": "keypoints", "reads": "follows the keypoints", "example": "clip.points"}

    def __init__(self, config: KeypointConfig):
        super().__init__(config)
        self.layer = nn.Linear(2 * config.num_points, config.hidden_size)
        self.post_init()

    def get_centre_and_spacing(self) -> tuple[float, float]:
        return 0.0, 1

    def forward(
        self, keypoint_values: torch.Tensor, keypoint_attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> SignEncoderOutput:
        mask = checked_mask(keypoint_attention_mask, keypoint_values, INPUTS[1], "(batch, frames)")
        hidden = self.layer(keypoint_values.flatten(2).to(self.dtype)) * mask[..., None]
        return SignEncoderOutput(last_hidden_state=hidden, attention_mask=mask.long())


@dataclass
class KeypointArguments(EncoderRow):
    """Keypoints in place of videos."""

    column: ClassVar[str] = "keypoints"
    flag: ClassVar[str] = "num_keypoints"
    clips: ClassVar[str] = "keypoints"

    num_keypoints: int | None = field(default=None, metadata={"help": "Read keypoints, so many in each frame."})
    keypoint_width: int = field(default=6, metadata={"help": "Width of the keypoint encoder."})

    def encoder_config(self) -> KeypointConfig:
        return KeypointConfig(num_points=self.num_keypoints, hidden_size=self.keypoint_width)


def register() -> None:
    """The rows, and what the packages do for each of theirs when they are imported."""
    MODALITIES.append(KeypointModality)
    SIGN_ENCODERS[KeypointConfig] = KeypointEncoder
    ENCODER_ROWS.append(KeypointArguments)
    AutoConfig.register(KeypointConfig.model_type, KeypointConfig)
    AutoModel.register(KeypointConfig, KeypointEncoder)
    AutoFeatureExtractor.register(KeypointConfig.model_type, KeypointExtractor)
