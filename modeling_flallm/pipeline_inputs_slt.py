"""Inputs of `SignLanguageTranslationPipeline`: several videos with their indices, and checked arguments."""

import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import GenerationConfig, GenerationMixin

from .dataset_rows_slt import without_torchcodec

SET_BY_THE_PIPELINE = {
    "output_scores": "return_scores",
    "output_attentions": "return_attention",
    "return_dict_in_generate": "return_scores",
}


@dataclass(frozen=True)
class NumberedVideo:
    """One of several inputs, with its index for error messages."""

    index: int
    video: Any


class NumberedVideos(Dataset):
    """A data set of videos as `NumberedVideo`s, still read one by one."""

    def __init__(self, videos: Dataset):
        self.videos = videos

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> NumberedVideo:
        with without_torchcodec():
            return NumberedVideo(index, self.videos[index])


def numbered(videos: Iterable[Any]) -> Iterator[NumberedVideo]:
    with without_torchcodec():
        yield from map(NumberedVideo, count(), videos)


def name_of_video(video: Any) -> str:
    """The name of a video in error messages."""
    video = getattr(video, "_hf_encoded", video)
    if isinstance(video, dict) and not {"path", "bytes"} & set(video):
        return "the processed video"
    if isinstance(video, dict) and video.get("path"):
        video = video["path"]
    if isinstance(video, str | Path):
        return f"'{video}'"
    return f"the video given as {type(video).__name__}"


def check_generation_arguments(arguments: dict[str, Any], model: Any) -> None:
    for name in arguments:
        if name in SET_BY_THE_PIPELINE:
            raise TypeError(f"`{name}` is set by the pipeline. Pass `{SET_BY_THE_PIPELINE[name]}` instead.")
    known = known_generation_arguments(model)
    unknown = sorted(name for name in arguments if name not in known)
    if unknown:
        raise TypeError(
            f"Unknown arguments {unknown}. Known are start, end, source_fps, return_scores, return_timestamps, "
            "return_attention, spoken_language, left_handed, batch_size, num_workers, generate_kwargs and the "
            "arguments of `generate`, such as num_beams."
        )


def known_generation_arguments(model: Any) -> set[str]:
    """Of the `generate` of a model, without its inputs."""
    not_meant = {"inputs", "self", "kwargs"}
    known = (set(vars(GenerationConfig())) | set(inspect.signature(GenerationMixin.generate).parameters)) - not_meant
    known = {name for name in known if not name.startswith("_")}
    return known | set(getattr(model, "own_generation_arguments", ()))


def check_one_number(name: str, value: Any) -> None:
    if isinstance(value, list | tuple | np.ndarray | torch.Tensor):
        raise ValueError(
            f"`{name}` must be one number for all videos, got {type(value).__name__}. For one each, pass the videos as "
            f'dictionaries {{"video": ..., "{name}": ...}}.'
        )
