# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""How a video processor prepares frames, for the programs of exported models, which do it in numpy."""

from typing import Any

import torch
from transformers.image_utils import PILImageResampling
from transformers.video_processing_utils import BaseVideoProcessor


def frame_settings(processor: BaseVideoProcessor) -> dict[str, Any]:
    """
    See `Modality.exported_settings`. `mean` and `std` are those of pixels from 0 to 255. A step left out is None.

    Raises:
        ValueError: for another interpolation than bilinear and bicubic, and for frames of more than one size.
    """
    resample = PILImageResampling(processor.resample).name.lower()  # saved as a number
    if processor.do_resize and resample not in ("bilinear", "bicubic"):
        raise ValueError(
            f"An exported model resizes frames with bilinear or bicubic interpolation, and this one with {resample}. "
            "Set `resample` of the video processor."
        )
    size = _size(processor.size) if processor.do_resize else None
    crop = _size(processor.crop_size) if processor.do_center_crop else None
    shown = crop or size or {}
    if "height" not in shown:
        raise ValueError(
            "An exported model needs frames of one size. Set do_resize=True and `size` of the video processor to a "
            "height and a width, or do_center_crop=True."
        )
    mean, std = _mean_and_std(processor)
    return {
        "frame_sampling_rate": processor.frame_sampling_rate,
        "fps": processor.fps,
        "training_fps": processor.training_fps,
        "max_num_frames": processor.max_num_frames,
        "size": size,
        "crop_size": crop,
        "resample": resample,
        "mean": mean,
        "std": std,
        "value_shape": [3, shown["height"], shown["width"]],
    }


def _mean_and_std(processor: BaseVideoProcessor) -> tuple[list[float] | None, list[float] | None]:
    if not processor.do_normalize and not processor.do_rescale:
        return None, None
    mean, std = processor.image_mean, processor.image_std
    if not processor.do_normalize:
        mean, std = [0.0] * 3, [1.0] * 3
    # As transformers, which scales mean and deviation, in single precision, in place of each pixel.
    factor = 1.0 / processor.rescale_factor if processor.do_rescale else 1.0
    scaled = (torch.tensor(list(each)) * factor for each in (mean, std))
    return tuple(each.tolist() for each in scaled)


def _size(size: Any) -> dict[str, int]:
    values = {name: value for name, value in dict(size).items() if value is not None}
    if set(values) not in ({"height", "width"}, {"shortest_edge"}):
        raise ValueError(
            f"An exported model resizes frames to a height and a width, or to a shortest edge, got {values}. Set "
            "`size` of the video processor."
        )
    return values
