"""What an image or video model of transformers is like, seen by running it once on the meta device, without weights."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel, pytorch_utils

PIXELS = ("pixel_values", "pixel_values_videos")


@dataclass(frozen=True)
class BackboneFacts:
    """
    Args:
        width: of its outputs.
        num_prefix_tokens: class and register tokens in front of the patches.
        num_patches: outputs for one window, without these.
        poolings: the values of `PretrainedVisionConfig.pooling` that it can do; `usual_pooling`: the default.
    """

    width: int
    num_prefix_tokens: int
    num_patches: int
    poolings: tuple[str, ...]
    usual_pooling: str


def frames_of_video_model(config: PreTrainedConfig) -> int | None:
    """Frames that a video model sees at once; `None` for an image model."""
    return getattr(config, "num_frames", None) or getattr(config, "frames_per_clip", None)


def build_backbone(config: PreTrainedConfig, with_pooler: bool, **options: Any) -> PreTrainedModel:
    """
    A new model, without a pooling layer of its own where it is not used.

    Raises:
        ValueError: for a model of text, sound or several kinds of input.
    """
    backbone = AutoModel.from_config(config, **pooling_option(config, with_pooler), **options)
    check_backbone(backbone)
    return backbone


def pooling_option(config: PreTrainedConfig, with_pooler: bool) -> dict[str, bool]:
    """Argument for the class of a backbone, if it can leave its pooling layer out."""
    model_class = AutoModel._model_mapping[type(config)]
    model_class = model_class[0] if isinstance(model_class, tuple | list) else model_class
    has_option = "add_pooling_layer" in inspect.signature(model_class.__init__).parameters
    return {"add_pooling_layer": with_pooler} if has_option else {}


def check_backbone(backbone: PreTrainedModel) -> None:
    """
    Raises:
        ValueError: unless pixels are the only input that the model needs.
    """
    expected = "A sign encoder needs an image or video model (ViT, DINOv2, CLIP vision, VideoMAE, ...)"
    got = f"got model type {backbone.config.model_type!r}: {type(backbone).__name__}"
    if backbone.main_input_name not in PIXELS:
        raise ValueError(f"{expected}, {got} takes `{backbone.main_input_name}`.")
    needed = [
        f"`{name}`"
        for name, parameter in inspect.signature(backbone.forward).parameters.items()
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    others = [name for name in needed if name != f"`{backbone.main_input_name}`"]
    if others:
        raise ValueError(f"{expected} that needs pixels alone, {got} also needs {' and '.join(others)}.")


def run_backbone(backbone: PreTrainedModel, windows: torch.Tensor) -> Any:
    """Outputs for windows `(windows, frames, 3, height, width)`; an image model sees the one frame of each."""
    arguments = inspect.signature(backbone.forward).parameters
    options: dict[str, Any] = {}
    if "skip_predictor" in arguments:  # V-JEPA 2's second half, of its pretraining
        options["skip_predictor"] = True
    own_size = getattr(backbone.config, "image_size", None)
    own_size = (own_size, own_size) if isinstance(own_size, int) else own_size
    if "interpolate_pos_encoding" in arguments and own_size and tuple(own_size) != tuple(windows.shape[-2:]):
        options["interpolate_pos_encoding"] = True
    if frames_of_video_model(backbone.config) is None:
        windows = windows.squeeze(1)
    return backbone(**{backbone.main_input_name: windows}, **options)


def token_states(last_hidden_state: torch.Tensor) -> torch.Tensor:
    """Outputs `(windows, tokens, width)`, or `(windows, width, height, width)` of a convolutional model, as tokens."""
    return last_hidden_state.flatten(2).transpose(1, 2) if last_hidden_state.ndim == 4 else last_hidden_state


def look_at_backbone(config: PreTrainedConfig, image_size: tuple[int, ...], window_size: int) -> BackboneFacts:
    """
    Raises:
        ValueError: for a model that is neither an image nor a video model.
    """
    with torch.device("meta"), _nothing_kept():
        backbone = build_backbone(config, with_pooler=True).eval()
        with torch.no_grad():
            output = run_backbone(backbone, torch.zeros(1, window_size, 3, *image_size))
    if getattr(output, "last_hidden_state", None) is None:
        raise ValueError(
            f"A sign encoder needs a model that gives states, got model type {config.model_type!r}: "
            f"{type(backbone).__name__} gives {', '.join(output)}."
        )
    num_tokens = token_states(output.last_hidden_state).shape[1]
    num_prefix = 0
    if output.last_hidden_state.ndim == 3:
        num_prefix = _num_prefix_tokens(backbone, num_tokens, image_size, window_size)
    has_pooled = getattr(output, "pooler_output", None) is not None
    poolings = [*(["pooler"] if has_pooled else []), *(["class"] if num_prefix else []), "mean", "patches"]
    always_pools = has_pooled and not pooling_option(config, True)
    return BackboneFacts(
        width=token_states(output.last_hidden_state).shape[2],
        num_prefix_tokens=num_prefix,
        num_patches=num_tokens - num_prefix,
        poolings=tuple(poolings),
        usual_pooling=poolings[0] if always_pools or not has_pooled else poolings[1],
    )


@contextmanager
def _nothing_kept() -> Iterator[None]:
    """
    Some models (BEiT) keep tensors of their first run for all later models, in transformers' own cache, which is off
    only while torch compiles. Those of the meta device have no values.
    """
    is_compiling = pytorch_utils.is_torchdynamo_compiling
    pytorch_utils.is_torchdynamo_compiling = lambda: True
    try:
        yield
    finally:
        pytorch_utils.is_torchdynamo_compiling = is_compiling


def _num_prefix_tokens(
    backbone: PreTrainedModel, num_tokens: int, image_size: tuple[int, ...], window_size: int
) -> int:
    """What the patches of the window leave over. Hierarchical models have fewer tokens than patches."""
    of_timm = getattr(getattr(backbone, "timm_model", None), "num_prefix_tokens", None)
    if of_timm is not None:
        return of_timm
    tubelet_size = getattr(backbone.config, "tubelet_size", 1)
    frames, *sides = tubelet_size if isinstance(tubelet_size, list | tuple) else (tubelet_size,)
    patch_size = getattr(backbone.config, "patch_size", None) or sides
    height, width = (patch_size, patch_size) if isinstance(patch_size, int) else tuple(patch_size)
    patches = (window_size // frames) * (image_size[0] // height) * (image_size[1] // width)
    return max(num_tokens - patches, 0)


__all__ = [
    "BackboneFacts",
    "build_backbone",
    "check_backbone",
    "frames_of_video_model",
    "look_at_backbone",
    "pooling_option",
    "run_backbone",
    "token_states",
]
