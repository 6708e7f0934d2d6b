# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""Videos as a modality: frames, sampled, augmented in time and space, and turned into pixel values."""

import functools
import io
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import av
import numpy as np
import torch
from transformers.video_processing_utils import BaseVideoProcessor

from .exported_frames_slt import frame_settings
from .modality_slt import (
    Augmentation,
    ClipArguments,
    ClipFacts,
    ClipValues,
    Modality,
    ModalityWords,
    SampleIndices,
    limit_of_hands,
    random_numbers_of,
)
from .segmentation_slt import VideoSegment
from .video_container_slt import open_container, video_stream
from .video_decoding_slt import decode_video
from .video_files_slt import VideoDecodingError, is_video_file
from .video_inputs_slt import is_single_video
from .video_live_slt import LiveVideo
from .video_processing_slt import FLaLLMVideoProcessor, make_list_of_videos


class VideoModality(Modality):
    """
    The column `video` holds `{"path", "bytes"}` of a file, of which `start` and `end` (seconds) may name a part.

    An item has uint8 `frames` `(frames, 3, height, width)`, `is_cropped` (to the final size, by augmentation) and
    `spatial_seed`, for the augmentation that `preprocess_on_device` leaves to the model's device.
    """

    argument = "videos"
    column = "video"
    column_names = ("video", "mp4")
    length_column = "num_frames"
    input_names = ("pixel_values_videos", "pixel_attention_mask")
    slot = "video_processor"
    item_key = "frames"
    table_column = "file_name"
    datasets_type = "Video"
    has_space = True
    space_augmentations = frozenset(
        {
            "rotation_degrees", "translation", "scale", "random_crop", "brightness", "contrast", "saturation", "hue",
            "invert", "blur", "random_background", "horizontal_flip",
        }
    )  # fmt: skip
    has_rests = True
    has_parts = True
    has_pictures = True
    prepared_shape = ("frames", 3, "height", "width")
    words = ModalityWords(
        clip="video",
        clips="videos",
        reads="watches a video",
        encoder="video encoder",
        files="video(s)",
        example="clip.mp4",
        shape="(frames, height, width, channels)",
    )

    @classmethod
    def build_part(cls, arguments: ClipArguments, encoder_config: Any = None) -> FLaLLMVideoProcessor:
        """See `Modality.build_part`; image and video models of transformers say in `frame_settings` of their
        configuration how they expect frames, of which the arguments then choose only the margin of the crop."""
        settings = getattr(encoder_config, "frame_settings", None) or {}
        normalisation = {name: settings[name] for name in ("image_mean", "image_std") if name in settings}
        return FLaLLMVideoProcessor(
            **_sizes(arguments.frame_size, arguments.crop_size, encoder_config),
            frame_sampling_rate=arguments.frame_sampling_rate,
            max_num_frames=arguments.max_num_frames,
            **normalisation,
        )

    def change_part(self, given: dict[str, Any], encoder_config: Any = None) -> None:
        """See `Modality.change_part`."""
        sizes = {"frame_size": self.part.size["height"], "crop_size": self.part.crop_size["height"]}
        super().change_part({name: value for name, value in given.items() if name not in sizes})
        sizes |= {name: given[name] for name in sizes if name in given}
        for name, size in _sizes(**sizes, encoder_config=encoder_config).items():
            setattr(self.part, name, size)

    @classmethod
    def is_file(cls, path: str | os.PathLike) -> bool:
        return is_video_file(path)

    @classmethod
    def path_of(cls, clip: dict[str, Any]) -> str | None:
        return clip["path"]

    @classmethod
    def check_column(cls, feature: Any, name: str) -> None:
        """See `Modality.check_column`; sounds or single pictures are no videos."""
        kind = getattr(feature, "dtype", None)
        is_file = isinstance(feature, dict) and set(feature) == {"bytes", "path"}
        if type(feature).__name__ != "Video" and not is_file and kind not in ("string", "large_string", "binary"):
            raise ValueError(
                f"The column video of the data set {name} must hold videos (datasets.Video), got {feature}."
            )

    @classmethod
    def limits(cls, settings: dict[str, Any]) -> list[str]:
        rate, size = settings.get("frame_sampling_rate"), settings.get("crop_size")
        frames = "every frame" if rate == 1 else f"a fraction of {rate} of the frames"
        return [
            f"It sees {size} x {size} pixels and {frames}. Small or fast movements, the mouth and the face can be "
            "lost.",
            limit_of_hands(settings),
        ]

    def is_one(self, clips: Any) -> bool:
        return is_single_video(clips)

    def as_list(self, clips: Any) -> list[Any]:
        return make_list_of_videos(clips)

    def open(
        self, source: Any, start: float | None = None, end: float | None = None, rate: float | None = None
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """See `Modality.open`: frames, uint8 `(frames, 3, height, width)`, resized and cropped."""
        inputs = self.part(
            source,
            start=start,
            end=end,
            video_metadata=None if rate is None else {"fps": rate},
            do_rescale=False,
            do_normalize=False,
            return_metadata=True,
        )
        return inputs["pixel_values_videos"][0], inputs["video_metadata"][0]

    def prepare(self, values: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """See `Modality.prepare`; the frames are normalised."""
        return pixel_values(self.part, values, resize=False)

    def split_at_rests(
        self,
        source: Any,
        start: float | None = None,
        end: float | None = None,
        rate: float | None = None,
        **lengths: float,
    ) -> list[VideoSegment]:
        return self.part.split_at_rests(source, start, end, rate, **lengths)

    def read_segments(
        self, source: Any, segments: Sequence[VideoSegment | tuple[float, float]], rate: float | None = None
    ) -> Iterator[dict[str, Any]]:
        """See `Modality.read_segments`; a file is read once, and only the current part is held in memory."""
        return self.part.read_segments(source, segments, rate)

    def live(self, **lengths: float) -> LiveVideo:
        return self.part.live(**lengths)

    def look(self, path: str | os.PathLike) -> ClipFacts:
        """See `Modality.look`: the stored size of the picture."""
        facts = self.part.look(path)
        return ClipFacts(facts.end, facts.width, facts.height)

    def pictures(
        self,
        path: str | os.PathLike,
        start: float | None = None,
        end: float | None = None,
        most: int | None = None,
        shorter_side: int = 256,
    ) -> list[tuple[float, np.ndarray]]:
        inputs = self.part(
            path,
            start=start,
            end=end,
            size={"shortest_edge": shorter_side},
            do_center_crop=False,
            do_rescale=False,
            do_normalize=False,
            frame_sampling_rate=1.0,
            max_num_frames=most,
            return_metadata=True,
        )
        metadata = inputs["video_metadata"][0]
        rate, begin = metadata["fps"] or 1.0, metadata["start_in_seconds"] or 0.0
        seconds = [begin + index / rate for index in metadata["frames_indices"]]
        pictures = inputs["pixel_values_videos"][0].permute(0, 2, 3, 1).numpy()
        return list(zip(seconds, pictures, strict=True))

    def read(self, row: dict[str, Any], sample: SampleIndices | None = None) -> ClipValues:
        """See `Modality.read`; raises `VideoDecodingError`."""
        video = decode_video(row["video"], start=row.get("start"), end=row.get("end"), sample_frame_indices=sample)
        return ClipValues(video.frames, video.fps)

    def exported_settings(self) -> dict[str, Any]:
        return frame_settings(self.part)

    def mirrored(self, values: torch.Tensor) -> torch.Tensor:
        """See `Modality.mirrored`: each picture is flipped from left to right."""
        return values.flip(-1)

    def count(self, row: dict[str, Any]) -> int:
        """Number of frames of the video or of its part, from its header."""
        content = row["video"]["bytes"]
        source = io.BytesIO(content) if content is not None else row["video"]["path"]
        try:
            num_frames, seconds = frames_and_seconds(source)
        except VideoDecodingError:  # not a video, for which decoding has a better error, or pictures
            start, end = row.get("start"), row.get("end")
            video = decode_video(row["video"], start=start, end=end, sample_frame_indices=lambda num_frames, fps: [0])
            return video.num_source_frames
        start, end = row.get("start"), row.get("end")
        if start is None and end is None:
            return num_frames
        part = min(seconds if end is None else end, seconds) - (start or 0.0)
        return max(math.ceil(part * num_frames / seconds), 1)

    def rate(self, row: dict[str, Any]) -> float | None:
        """See `Modality.rate`, from the header of the video; pictures have no times."""
        content = row["video"]["bytes"]
        try:
            num_frames, seconds = frames_and_seconds(
                io.BytesIO(content) if content is not None else row["video"]["path"]
            )
        except VideoDecodingError:
            return None
        return num_frames / seconds

    def sample_indices(self, length: int, rate: float | None = None) -> list[int]:
        return self.part.sample_frame_indices(length, rate)

    def item(
        self,
        read: Callable[[SampleIndices], torch.Tensor],
        augmentation: Augmentation | None = None,
        seed: int = 0,
        preprocess_on_device: bool = False,
    ) -> dict[str, Any]:
        """See `Modality.item`; the frames are also augmented in space."""
        if augmentation is None:
            return {"frames": read(self.sample_indices), "spatial_seed": None, "is_cropped": False}
        with random_numbers_of(seed):
            frames = read(self.augmented(augmentation))
            spatial_seed = int(torch.randint(2**62, ()))
        if not preprocess_on_device:
            frames = augmentation.apply_spatial(frames, spatial_seed)
        return {"frames": frames, "spatial_seed": spatial_seed, "is_cropped": not preprocess_on_device}

    def collate(self, items: Sequence[dict[str, Any]], preprocess_on_device: bool = False) -> dict[str, Any]:
        """See `Modality.collate`; with `preprocess_on_device` the frames of each clip, and the seeds of their draws."""
        frames = [item["frames"] for item in items]
        if preprocess_on_device:
            return {"frames": frames, "spatial_seeds": [item["spatial_seed"] for item in items]}
        return pixel_values(self.part, frames, resize=not items[0]["is_cropped"])


def _sizes(frame_size: int, crop_size: int, encoder_config: Any = None) -> dict[str, dict[str, int]]:
    """Sizes of frames and crop; an encoder with `frame_settings` sets the crop, and they only choose its margin."""
    settings = getattr(encoder_config, "frame_settings", None)
    if settings is not None:
        frame_size, crop_size = round(settings["size"] * frame_size / crop_size), settings["size"]
    sizes = {"size": frame_size, "crop_size": crop_size}
    return {name: {"height": size, "width": size} for name, size in sizes.items()}


def pixel_values(
    video_processor: BaseVideoProcessor, frames: Sequence[torch.Tensor], resize: bool, crop: bool | None = None
) -> dict[str, torch.Tensor]:
    """Turn sampled frames into pixel values with their mask; by default they are cropped if they are resized."""
    return dict(
        video_processor.preprocess_frames(frames, do_resize=resize, do_center_crop=resize if crop is None else crop)
    )


@functools.lru_cache(maxsize=1)  # the parts of one long video follow each other
def frames_and_seconds(source: Any) -> tuple[int, float]:
    """Number of frames and seconds of a video file, from its header or else by counting its packets."""
    with open_container(source, str(source)) as container:
        stream = video_stream(container, str(source))
        rate = float(stream.average_rate or stream.guessed_rate or 25)
        if stream.frames:
            return stream.frames, stream.frames / rate
        if container.duration and len(container.streams) == 1:  # else it may be the length of the sound
            seconds = container.duration / av.time_base
            return max(math.ceil(seconds * rate), 1), seconds
        num_frames = max(sum(1 for packet in container.demux(stream) if packet.size), 1)
        return num_frames, num_frames / rate
