# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""Turns videos of any kind into the normalised, padded frames that FLaLLM takes."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    ChannelDimension,
    PILImageResampling,
    SizeDict,
)
from transformers.processing_utils import VideosKwargs
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import VideoMetadata

from .captions_slt import format_captions
from .sampling_slt import check_training_fps, fraction_as_in_training, sampled_evenly
from .segmentation_slt import SegmentLengths, VideoSegment
from .video_decoding_slt import decode_segments, decode_video
from .video_files_slt import VideoDecodingError
from .video_inputs_slt import is_single_video, open_path
from .video_live_slt import LiveVideo
from .video_requests_slt import DecodedVideo
from .video_segmentation_slt import split_video_at_rests
from .video_times_slt import VideoFacts, read_facts

FRAMES_IN_CACHE = 2


@dataclass
class FLaLLMVideoMetadata(VideoMetadata):
    """
    Metadata of a processed video: that of every video processor, and `start_in_seconds`, the second of the file at
    which its `total_num_frames` begin (`None` without a frame rate), from which `timestamps` count.
    """

    start_in_seconds: float | None = None

    @property
    def timestamps(self) -> list[float]:
        """Seconds in the file of the sampled frames."""
        return [(self.start_in_seconds or 0.0) + seconds for seconds in super().timestamps]


class FLaLLMVideosKwargs(VideosKwargs, total=False):
    """Arguments of `FLaLLMVideoProcessor` beyond those of every video processor.

    `frame_sampling_rate` is the fraction of frames to keep, above 0 and up to 1. `max_num_frames` is the most frames to
    keep of one video; longer ones are thinned evenly, `None` sets no limit. `training_fps` is the frame rates of the
    slowest and the fastest training clip. `start` and `end` are the part of each video to read, in seconds: one number
    for all videos, or a list with an entry (or `None`) each."""

    frame_sampling_rate: float | int | None
    training_fps: list | tuple | None
    max_num_frames: int | None
    start: float | int | list | tuple | None
    end: float | int | list | tuple | None


class FLaLLMVideoProcessor(BaseVideoProcessor):
    """Decode, sample, resize, crop, normalise and pad videos.

    Takes one video or a list of videos of every kind that `decode_video` reads, also mixed, and returns
    `pixel_values_videos`, float32 of shape (batch, frames, 3, height, width), normalised and padded in time with exact
    zeros, and `pixel_attention_mask`, int64 of shape (batch, frames), 1 for a real frame.

    Sampling is deterministic and uniform in time: `frame_sampling_rate` (0.25 in section 4 of the FLa-LLM paper,
    https://arxiv.org/abs/2403.12556) keeps that fraction of the frames; `fps`, if set, replaces it and
    keeps that many frames per second. Both apply before `max_num_frames`, and at least one frame is always kept.

    A fraction means another tempo for another frame rate. Where the processor knows `training_fps`, the frame rates of
    the slowest and the fastest training clip, it takes of a slower or faster video as many frames per second as of the
    nearest of these, and repeats frames if there are too few (ours; the paper has videos of one rate). Not for a
    `frame_sampling_rate` or `fps` that is given in a call.

    Example: `FLaLLMVideoProcessor()(["clip.mp4", "other.webm"], return_tensors="pt")["pixel_values_videos"].shape`
    """

    resample = PILImageResampling.BILINEAR
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    size = {"height": 256, "width": 256}
    crop_size = {"height": 224, "width": 224}
    do_resize = True
    do_center_crop = True
    do_rescale = True
    do_normalize = True
    do_sample_frames = True
    frame_sampling_rate = 0.25
    max_num_frames = 300
    training_fps = None
    valid_kwargs = FLaLLMVideosKwargs
    model_input_names = ["pixel_values_videos", "pixel_attention_mask"]

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        _check_sampling(self.frame_sampling_rate, self.fps, self.max_num_frames)
        check_training_fps(self.training_fps)

    def sample_frame_indices(self, num_frames: int, fps: float | None = None) -> list[int]:
        """Return the sorted indices of the frames to keep of a video of `num_frames` frames at `fps` frames per
        second, with this processor's settings. `fps` is needed where the processor's own `fps` is set; without it,
        the video counts as one of the frame rates in training."""
        sampling = (self.frame_sampling_rate, self.fps, self.max_num_frames, self.training_fps)
        return _sample_indices(num_frames, fps, *sampling)

    def preprocess(self, videos: Any, **kwargs) -> BatchFeature:
        """Process videos as the class describes; every setting can be overridden by name for this call.

        `video_metadata` (a dictionary or a list of them) gives `fps`, the frame rate of videos that carry none:
        arrays, lists and folders of frames. Raises `VideoDecodingError` for a video that cannot be read, and
        `ValueError` or `TypeError` for settings that are unknown or out of range."""
        unknown = sorted(set(kwargs) - set(self.valid_kwargs.__annotations__))
        if unknown:
            known = ", ".join(sorted(self.valid_kwargs.__annotations__))
            raise TypeError(f"Unknown arguments {unknown} of {type(self).__name__}. Known: {known}.")
        _check_unsupported(kwargs)
        sample = self._frame_sampler(kwargs)
        transform_frame = self._frame_resizer(kwargs)
        videos = make_list_of_videos(videos)
        starts = _one_per_video(kwargs.pop("start", None), len(videos), "start")
        ends = _one_per_video(kwargs.pop("end", None), len(videos), "end")
        source_fps = _source_fps(kwargs.pop("video_metadata", None), len(videos))
        decoded = [
            decode_video(video, start, end, rate, sample, transform_frame)
            for video, start, end, rate in zip(videos, starts, ends, source_fps, strict=True)
        ]
        kwargs["video_metadata"] = [FLaLLMVideoMetadata(**_metadata(video)) for video in decoded]
        return self._preprocess_decoded([video.frames for video in decoded], kwargs)

    def preprocess_frames(
        self,
        clips: Sequence[torch.Tensor],
        do_resize: bool | None = None,
        do_center_crop: bool | None = None,
        return_tensors: str | None = "pt",
    ) -> BatchFeature:
        """Resize, crop, normalise and pad clips that are already decoded and sampled: uint8 RGB frames (frames, 3,
        height, width), on any device, on which the result stays. `None` means the processor's own setting.

        Returns `pixel_values_videos` and `pixel_attention_mask` as the class describes them. Raises `ValueError` for
        frames of another shape or type."""
        for clip in clips:
            if clip.dtype != torch.uint8 or clip.ndim != 4 or clip.shape[1] != 3 or len(clip) == 0:
                raise ValueError(
                    "Decoded frames of a clip must be uint8 of shape (frames, 3, height, width), got "
                    f"{clip.dtype} of shape {tuple(clip.shape)}. Pass videos of other kinds to the processor itself."
                )
        shaping = {"do_resize": do_resize, "do_center_crop": do_center_crop}
        kwargs = {name: value for name, value in shaping.items() if value is not None}
        resize = self._frame_resizer(kwargs)
        if resize is not None:
            clips = [torch.stack([resize(frame) for frame in clip]) for clip in clips]
        return self._preprocess_decoded(list(clips), {**kwargs, "return_tensors": return_tensors})

    def _preprocess_decoded(self, clips: list[torch.Tensor], kwargs: dict) -> BatchFeature:
        """Crop, normalise and pad frames that are already sampled and resized."""
        return super().preprocess(
            clips, **{**kwargs, "do_sample_frames": False, "input_data_format": ChannelDimension.FIRST}
        )

    @staticmethod
    def is_single_video(videos: Any) -> bool:
        """Tell one video from several: a list of pictures, of picture paths or of two- or three-dimensional frames is
        one video; any other list, and an array of five dimensions, is several."""
        return is_single_video(videos)

    def look(self, path: str | Path) -> VideoFacts:
        """Return when the picture of a video file starts and ends, in seconds of the file, and its stored size in
        pixels, without decoding it. Raises `VideoDecodingError` for a file that cannot be read; its `reason` says in a
        word what is wrong."""
        return read_facts(*open_path(Path(path)))

    def split_at_rests(
        self,
        video: Any,
        start: float | None = None,
        end: float | None = None,
        source_fps: float | None = None,
        longest_seconds: float = 12.0,
        shortest_seconds: float = 1.0,
        overlap_seconds: float = 1.0,
        idle_seconds: float = 2.0,
        rest_seconds: float = 0.1,
    ) -> list[VideoSegment]:
        """Find the sentences of a long video: the parts between the moments at which the hands rest, in order.

        `video` is one video of any kind that `decode_video` reads, `start` and `end` the part of it to look at in
        seconds, `source_fps` the frame rate of arrays and pictures. A part shorter than `shortest_seconds` is joined to
        its neighbour. A part longer than `longest_seconds` is cut where there is little motion, or, if there is no such
        moment, into parts that overlap by `overlap_seconds`. Stretches in which nobody moves for `idle_seconds` or more
        are left out except for a quarter of that time on either side, so that no sentence is made up for them; a video
        in which nobody moves gives an empty list. Of the rest between two parts, `rest_seconds` are translated with
        each, as in clips of one sentence; the captions of the parts cover the whole rest (see `VideoSegment`). A video
        of one sentence gives one part.

        The video is read once, frame by frame, in memory that does not grow with its length except for three numbers
        per frame. Raises `VideoDecodingError` for a video that cannot be read and `ValueError` for lengths that
        contradict each other or are out of range.

        Example: `[(segment.start, segment.end) for segment in FLaLLMVideoProcessor().split_at_rests("talk.mp4")]`
        """
        lengths = SegmentLengths(longest_seconds, shortest_seconds, overlap_seconds, idle_seconds, rest_seconds)
        return split_video_at_rests(video, start, end, source_fps, lengths)

    def read_segments(
        self, video: Any, segments: Sequence[VideoSegment | tuple[float, float]], source_fps: float | None = None
    ) -> Iterator[dict[str, Any]]:
        """Process parts of one video, `VideoSegment`s or pairs of seconds in order of time, one after the other.

        Yields for each a dictionary that the translation pipeline takes as a video: `pixel_values_videos`, float32 of
        shape (frames, 3, height, width), and the dictionary `video_metadata` as this processor gives them for the
        part, `start`, `end`, `caption_start` and `caption_end` in seconds. The file is read once, and only the current
        part is held in memory. Raises `VideoDecodingError` as `decode_video` does."""
        segments = [part if isinstance(part, VideoSegment) else VideoSegment(*part, *part) for part in segments]
        seconds = [(segment.start, segment.end) for segment in segments]
        decoded = decode_segments(video, seconds, source_fps, self._frame_sampler({}), self._frame_resizer({}))
        for segment, part in zip(segments, decoded, strict=True):
            inputs = self.preprocess_frames([part.frames], do_resize=False)
            times = {name: value for name, value in vars(segment).items() if name != "cut"}
            pixels = inputs["pixel_values_videos"][0]
            yield {"pixel_values_videos": pixels, "video_metadata": _metadata(part), **times}

    def live(self, **lengths: float) -> LiveVideo:
        """A video that is being recorded, of which frames come one by one; `lengths` are those of `split_at_rests`.

        Raises `ValueError` for lengths that contradict each other or are out of range."""
        return LiveVideo(SegmentLengths(**lengths), self._frame_sampler({}), self._frame_reader())

    def _frame_reader(self) -> Any:
        """Return the function that resizes and crops one picture: uint8 (3, height, width). A call of the processor
        gives the same, and takes three times as long: it checks its settings each time."""
        resize = self._frame_resizer({})
        crop_size = self._standardize_kwargs(crop_size=self.crop_size)["crop_size"] if self.do_center_crop else None

        def read(picture: Any) -> torch.Tensor:
            frames = decode_video([picture], transform_frame=resize).frames
            return frames[0] if crop_size is None else self.center_crop(frames, crop_size)[0]

        return read

    def format_captions(self, captions: Iterable[dict[str, Any]], format_name: str) -> str:
        """Write answers of the translation pipeline with `start` and `end` as a caption file: see `format_captions`."""
        return format_captions(captions, format_name)

    def _frame_sampler(self, kwargs: dict) -> Any:
        """Return the function that picks frames under the settings of this call, or `None` to keep all frames."""
        rate, fps = kwargs.get("frame_sampling_rate"), kwargs.get("fps")
        if rate is not None and fps is not None:
            raise ValueError(
                f"`frame_sampling_rate` and `fps` exclude each other, got frame_sampling_rate={rate} and fps={fps}. "
                "Pass one."
            )
        training_fps = None
        if rate is None and fps is None:
            rate, fps = self.frame_sampling_rate, self.fps
            training_fps = kwargs.get("training_fps", self.training_fps)
            check_training_fps(training_fps)
        max_num_frames = kwargs.get("max_num_frames", self.max_num_frames)
        _check_sampling(rate, fps, max_num_frames)
        if not kwargs.get("do_sample_frames", self.do_sample_frames):
            return None
        return partial(
            _sample_indices,
            frame_sampling_rate=rate,
            target_fps=fps,
            max_num_frames=max_num_frames,
            training_fps=training_fps,
        )

    def _frame_resizer(self, kwargs: dict) -> Any:
        """Return the function that resizes each frame as it is decoded, so that a long video in a high resolution is
        never held in full, or `None` without resizing."""
        settings = {name: kwargs.get(name, getattr(self, name)) for name in ("size", "default_to_square", "resample")}
        if not kwargs.get("do_resize", self.do_resize):
            return None
        settings = self._standardize_kwargs(**settings)
        return partial(self.resize, size=settings["size"], resample=settings["resample"])

    def _preprocess(
        self,
        videos: list[torch.Tensor],
        do_center_crop: bool,
        crop_size: SizeDict,
        return_tensors: str | None = None,
        **kwargs,
    ) -> BatchFeature:
        """Crop, normalise and pad `videos` of (frames, 3, height, width), which were resized at decoding."""
        if do_center_crop:
            videos = [self.center_crop(video, crop_size) for video in videos]
        names = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
        normalize = partial(self.rescale_and_normalize, **{name: kwargs[name] for name in names})
        pixel_values, mask = _normalize_and_pad(videos, normalize)
        data = {"pixel_values_videos": pixel_values, "pixel_attention_mask": mask}
        return BatchFeature(data=data, tensor_type=return_tensors)


def make_list_of_videos(videos: Any) -> list:
    """Return a list of videos from one video, a list or tuple of videos, or an array of shape (batch, frames, ...)."""
    videos = [videos] if is_single_video(videos) else list(videos)
    if not videos:
        raise VideoDecodingError("`videos` is empty; pass at least one video.")
    return videos


def _sample_indices(
    num_frames: int,
    fps: float | None,
    frame_sampling_rate: float | None,
    target_fps: float | None,
    max_num_frames: int | None,
    training_fps: Sequence[float] | None,
) -> list[int]:
    """Pick frames at a constant spacing from the first one on, then thin them evenly down to `max_num_frames`."""
    rate = fraction_as_in_training(1.0 if frame_sampling_rate is None else frame_sampling_rate, fps, training_fps)
    if target_fps is not None:
        if fps is None:
            raise VideoDecodingError(
                f"Sampling at fps={target_fps} needs the frame rate of the source, which arrays and pictures do not "
                "carry. Pass video_metadata=[{'fps': 25, 'total_num_frames': 100}, ...], or use `frame_sampling_rate`."
            )
        rate = min(1.0, target_fps / fps)
    return sampled_evenly(num_frames, rate, max_num_frames)


def _check_sampling(frame_sampling_rate: float | None, fps: float | None, max_num_frames: int | None) -> None:
    if frame_sampling_rate is not None and not 0 < frame_sampling_rate <= 1:
        raise ValueError(
            f"`frame_sampling_rate` is the fraction of frames to keep, above 0 and up to 1, got {frame_sampling_rate}."
        )
    if fps is not None and not fps > 0:
        raise ValueError(f"`fps` is the number of frames per second to keep, above 0, got {fps}.")
    if max_num_frames is not None and max_num_frames < 1:
        raise ValueError(f"`max_num_frames` must be at least 1, or None for no limit, got {max_num_frames}.")


def _check_unsupported(kwargs: dict) -> None:
    """Refuse arguments of other video processors that would be ignored here."""
    reasons = {
        "num_frames": "clips keep their own lengths; use `frame_sampling_rate`, `fps` or `max_num_frames`",
        "input_data_format": "the layout of each array is inferred from its shape",
    }
    for name, reason in reasons.items():
        if kwargs.get(name) is not None:
            raise ValueError(f"`{name}` is not used by FLaLLMVideoProcessor: {reason}.")


def _one_per_video(value: Any, num_videos: int, name: str) -> list:
    if not isinstance(value, (list, tuple, np.ndarray, torch.Tensor)):
        return [value] * num_videos
    values = value.tolist() if isinstance(value, (np.ndarray, torch.Tensor)) else list(value)
    if len(values) != num_videos:
        raise ValueError(f"`{name}` needs one entry per video, got {len(values)} for {num_videos} videos.")
    return values


def _source_fps(video_metadata: Any, num_videos: int) -> list[float | None]:
    return [
        None if metadata is None else metadata["fps"]
        for metadata in _one_per_video(video_metadata, num_videos, "video_metadata")
    ]


def _metadata(video: DecodedVideo) -> dict:
    height, width = video.frames.shape[-2:]
    return {
        "total_num_frames": video.num_source_frames,
        "fps": video.fps,
        "duration": video.duration_in_seconds,
        "height": height,
        "width": width,
        "video_backend": "pyav",
        "frames_indices": video.frame_indices,
        "start_in_seconds": None if video.fps is None else video.start_in_seconds,
    }


def _normalize_and_pad(
    videos: list[torch.Tensor], normalize: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalise videos (frames, 3, height, width) of one size into (batch, frames, 3, height, width), padded in time
    with zeros, and return them with the mask."""
    sizes = sorted({tuple(video.shape[-2:]) for video in videos})
    if len(sizes) > 1:
        raise ValueError(
            f"The processed videos of a batch must have one size, got (height, width) {sizes}. Set `size` to a height "
            "and a width with do_resize=True, or do_center_crop=True."
        )
    lengths = torch.tensor([len(video) for video in videos], device=videos[0].device)
    mask = (torch.arange(int(lengths.max()), device=lengths.device) < lengths[:, None]).long()
    first = normalize(videos[0][:1])
    padded = first.new_empty(*mask.shape, *first.shape[1:])
    for row, video in zip(padded, videos, strict=True):
        # A few frames at a time stay in the cache of a CPU: twice as fast as all at once, and without float copies.
        frames_at_once = FRAMES_IN_CACHE if video.device.type == "cpu" else len(video)
        for begin in range(0, len(video), frames_at_once):
            part = video[begin : begin + frames_at_once]
            row[begin : begin + len(part)] = normalize(part)
        row[len(video) :] = 0
    return padded, mask
