"""
The interface of sign encoders, which turn clips of any kind (frames, poses, precomputed features) into visual tokens
with a mask.

To add an encoder, write one file with a configuration (with a `model_type` and a `hidden_size`) and a `SignEncoder`,
and register both in `encoders_slt.py`. The models then find it by the model type of their `vision_config`.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput, is_torchdynamo_exporting

from .hub_card_slt import SentWithACard
from .loading_slt import LoadedWhole

# Without gradients. Larger chunks are no faster on a CPU and need more memory, see docs/visual-initialing-speed.md.
FRAMES_PER_CHUNK_ON_CPU = 32

# A number of frames or tokens, or a tensor of them, one for each clip.
Length = TypeVar("Length", int, torch.Tensor)
# (add, divide, multiply, least): a length n becomes max((n + add) // divide, least) * multiply; None sets no least.
TokenStep = tuple[int, int, int, int | None]


@dataclass
class SignEncoderOutput(ModelOutput):
    """
    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(batch, tokens, hidden_size)`):
            Visual tokens; 0 after the end of a clip.
        attention_mask (`torch.LongTensor` of shape `(batch, tokens)`):
            1 for the tokens of the clip, 0 for padding.
        pooler_output (`torch.FloatTensor` of shape `(batch, hidden_size)`, *optional*):
            One vector for the whole clip, from encoders that have one.
        losses (`dict` of `str` to `torch.FloatTensor` of shape `()`, *optional*):
            The encoder's own losses by name, each a mean over the clips of the batch or over some of their tokens,
            already weighted. The models add them to their loss.
    """

    last_hidden_state: torch.FloatTensor | None = None
    attention_mask: torch.LongTensor | None = None
    pooler_output: torch.FloatTensor | None = None
    losses: dict[str, torch.FloatTensor] | None = None


class SignEncoder(SentWithACard, LoadedWhole, PreTrainedModel):
    """
    Base class of all sign encoders. A subclass sets `config_class` (with a `hidden_size`), `input_names` and
    `main_input_name`, and writes `forward`, `get_centre_and_spacing` and, unless the default fits, `get_token_steps`.

    Attributes:
        input_names (`tuple[str, ...]`):
            The inputs that it reads from a batch, by the names that the processor gives: first the values of the clips,
            such as `pixel_values_videos`, which is also the `main_input_name`, then their mask. The model passes those
            that exist. An encoder that takes `visual_features` returns them unchanged: under this name the models also
            take the tokens of any encoder, instead of a clip.
        clip_words (`dict[str, str]`):
            What a model card says of the clips: `a_clip` ("a video"), what the model does with one, `reads` ("watches a
            video"), and `example`, a path.
        frozen (`bool`):
            Set by `freeze`. A frozen encoder computes no gradient.
        frames_per_chunk (`int`, *optional*):
            Bounds memory: process at most this many frames at a time. Encoders that do not compute frame by frame
            ignore it.

    **Frames alone.** Encoders that look at each frame by itself before they look over time can do so while the clip is
    recorded: `encodes_frames_alone`, `encode_frames` and `encode_over_time`.

    **Features.** What `compute_features` makes of clips can be kept on disk and passed to a model as `visual_features`
    in the place of clips; `encode_features` makes the visual tokens of it. By default these are the visual tokens
    themselves. An encoder whose first part is frozen while the rest is trained has its cut between the two
    (`TemporalEncoder`).
    """

    base_model_prefix = "vision_model"
    # It can also be loaded from the checkpoint of a whole model, whose other weights it ignores.
    _keys_to_ignore_on_load_unexpected = (
        r"^(text_model|language_model|adapter|connector)\.",
        r"^(word_presence_head|visual_text_alignment|visual_text_contrast|sentence_projection|word_projection)\.",
        r"^(logit_scale|word_logit_scale|word_logit_bias|word_targets|memory_bank|num_remembered)$",
    )
    input_names: tuple[str, ...]
    clip_words = {"a_clip": "a clip", "reads": "reads a clip", "example": "clip"}
    frozen = False
    frames_per_chunk: int | None = None

    def forward(self, **inputs: Any) -> SignEncoderOutput:
        """
        Encode a batch of clips. The tokens of a clip depend neither on other clips nor on padding.

        Args:
            inputs: those of `input_names`, as explicit arguments of the subclass.

        Raises:
            ValueError: for inputs of another shape or dtype than expected, or a clip too short for one visual token.
        """
        raise NotImplementedError

    def given_inputs(self, named: dict[str, Any]) -> dict[str, Any]:
        """
        The inputs among `named` arguments, without those that are `None`.

        Raises:
            ValueError: for arguments that this encoder does not read.
        """
        given = {name: value for name, value in named.items() if value is not None}
        unknown = [name for name in given if name not in self.input_names]
        if unknown:
            raise ValueError(
                f"The sign encoder of this model, {type(self).__name__}, takes "
                f"{' and '.join(f'`{name}`' for name in self.input_names)}, got `{unknown[0]}`."
            )
        return given

    @property
    def pretrained_backbone(self) -> nn.Module | None:
        """The image or video model of transformers that it runs, which can get low-rank adapters; None for others."""
        return None

    @property
    def pretrained_source(self) -> dict[str, str] | None:
        """Where the weights of `pretrained_backbone` come from: `name` and, if known, `revision` and `license`."""
        return None

    @property
    def features_size(self) -> int:
        """Width of one of the features that `compute_features` makes."""
        return self.config.hidden_size

    @property
    def features_encoder(self) -> "SignEncoder":
        """The encoder that makes the features: on its weights and configuration they depend, and on nothing else."""
        return self

    @property
    def features_are_frozen(self) -> bool:
        """Whether training leaves the features of a clip as they are."""
        return self.frozen

    def compute_features(self, **inputs: Any) -> SignEncoderOutput:
        """
        Clips, by `input_names`, to features: `last_hidden_state` `(batch, features, features_size)`, 0 after the end of
        a clip, and their `attention_mask`.
        """
        return self(**inputs)

    def glance(self, stride: int, **inputs: Any) -> SignEncoderOutput:
        """
        As `compute_features`, but fast: of so many frames only the middle one is looked at, and held in their places.
        By default all are, for encoders to which a frame costs little.
        """
        return self.compute_features(**inputs)

    def tokens_at_a_glance(self, stride: int, **inputs: Any) -> SignEncoderOutput:
        """The visual tokens of what `glance` gives."""
        features = self.glance(stride, **inputs)
        return self.encode_features(features.last_hidden_state, features.attention_mask)

    def mirrored(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """
        The inputs, by `input_names`, that mirrored clips would give, in which left and right have changed places.

        Raises:
            ValueError: for an encoder whose clips cannot be mirrored.
        """
        self.check_can_be_mirrored()
        return {**inputs, "pixel_values_videos": inputs["pixel_values_videos"].flip(-1)}

    def check_can_be_mirrored(self) -> None:
        """
        Raises:
            ValueError: for an encoder whose clips cannot be mirrored. Default: for all that do not read frames.
        """
        if self.main_input_name != "pixel_values_videos":
            raise ValueError(
                f"`left_handed` mirrors clips, and this model {self.clip_words['reads']}, which cannot be mirrored. "
                "Mirror the videos before they are extracted."
            )

    def encode_features(
        self, visual_features: torch.FloatTensor, visual_attention_mask: torch.LongTensor | None = None
    ) -> SignEncoderOutput:
        """
        Features `(batch, features, features_size)` from `compute_features`, with their mask `(batch, features)`, to
        visual tokens.

        Raises:
            ValueError: for features or a mask of another shape.
        """
        mask = checked_visual_mask(visual_features, visual_attention_mask, self.features_size)
        return SignEncoderOutput(last_hidden_state=visual_features, attention_mask=mask.long())

    @property
    def encodes_frames_alone(self) -> bool:
        """
        Whether its first part makes of a frame the same whatever the other frames are, so that it can run while a clip
        is still recorded: then `encode_over_time` of what `encode_frames` made is `compute_features`.
        """
        return False

    def encode_frames(self, values: torch.Tensor) -> torch.Tensor:
        """Prepared frames `(frames, ...)`, each by itself, to `(frames, width)`, if `encodes_frames_alone`."""
        raise NotImplementedError

    def encode_over_time(self, frame_features: torch.Tensor) -> SignEncoderOutput:
        """
        What `encode_frames` made of all frames of clips of one length, `(batch, frames, width)`, to features.

        Raises:
            ValueError: for clips too short for one visual token.
        """
        raise NotImplementedError

    def tokens_over_time(self, frame_features: torch.Tensor) -> SignEncoderOutput:
        """The visual tokens of what `encode_over_time` gives."""
        features = self.encode_over_time(frame_features)
        return self.encode_features(features.last_hidden_state, features.attention_mask)

    def get_num_features(self, length: Length) -> Length:
        """Number of features of clips of this many frames; below 1 for clips that are too short."""
        return self.get_num_tokens(length)

    def get_token_steps_of_features(self) -> list[TokenStep]:
        """How many visual tokens `encode_features` makes of a number of features, as in `get_token_steps`."""
        return []

    def get_token_steps(self) -> list[TokenStep]:
        """
        `get_num_tokens` as numbers, which a processor can save: `num_tokens_after` applies them to a length. Default: a
        token for each frame or, if `get_centre_and_spacing` spaces them further, for each so many frames begun.
        """
        spacing = int(self.get_centre_and_spacing()[1])
        return [(spacing - 1, spacing, 1, None)]

    def get_num_tokens(self, length: Length) -> Length:
        """Number of visual tokens of clips of this many frames; below 1 for clips that are too short."""
        return num_tokens_after(self.get_token_steps(), length)

    def get_centre_and_spacing(self) -> tuple[float, float]:
        """
        Positions of the visual tokens of a clip, in frames from its first: the centre of what the first token sees, and
        the distance between tokens. Frames repeated in front of a clip have positions below 0.
        """
        raise NotImplementedError

    def get_min_num_frames(self) -> int:
        """Frames of the shortest clip that gives a visual token."""
        return next(length for length in itertools.count(1) if self.get_num_tokens(length) >= 1)

    def freeze(self) -> None:
        """Freeze the weights and buffers of this encoder: training does not change them, even after `.train()`."""
        self.frozen = True
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """See `torch.nn.Module.train`. A frozen encoder stays in evaluation mode."""
        return super().train(mode and not self.frozen)

    def choose_memory_format(self) -> None:
        """Put the weights into the memory format that is fastest for this encoder. The default does nothing."""


def num_tokens_after(steps: Sequence[TokenStep], length: Length) -> Length:
    """The number of tokens that `steps` (see `TokenStep`) make of so many frames."""
    for add, divide, multiply, least in steps:
        length = (length + add) // divide
        if least is not None:
            length = length.clamp(min=least) if isinstance(length, torch.Tensor) else max(length, least)
        length = length * multiply
    return length


def is_exporting(module: nn.Module) -> bool:
    """
    Whether `torch.export` traces the inference of `module`: then no shape may depend on the data and no value can be
    checked, so that padding is computed and masked. Training packs real frames, because batch norm takes statistics.
    """
    return is_torchdynamo_exporting() and not module.training


def length_mask(lengths: torch.Tensor, max_length: int) -> torch.Tensor:
    """`(batch,)` lengths -> boolean `(batch, max_length)`, True within the length."""
    return torch.arange(max_length, device=lengths.device)[None] < lengths[:, None]


def real_first(is_real: torch.Tensor) -> torch.Tensor:
    """
    Places `(batch, length)` of the real values of each row, in their order, and of the others behind them. A stable
    sort would give the same, but ONNX has none.
    """
    others = ~is_real
    places = torch.where(is_real, is_real.long().cumsum(1), is_real.sum(1, keepdim=True) + others.long().cumsum(1)) - 1
    values = torch.arange(is_real.shape[1], device=is_real.device).expand_as(places)
    return torch.zeros_like(places).scatter(1, places, values)


def places_of_a_glance(is_real: torch.Tensor, stride: int) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Of real places `(batch, length)`, with the padding behind them: the boolean mask of the middle one of each `stride`,
    and for every place which of these stands in for it, `(batch, length)`.
    """
    places = torch.arange(is_real.shape[1], device=is_real.device)
    last = is_real.sum(1, keepdim=True) - 1
    sources = (places // stride * stride + stride // 2)[None].minimum(last)
    are_looked_at = torch.zeros_like(is_real)
    are_looked_at[is_real.nonzero()[:, 0], sources[is_real]] = True
    return are_looked_at, sources


def held_values(values: torch.Tensor, sources: torch.Tensor, is_real: torch.Tensor) -> torch.Tensor:
    """`values` `(batch, length, ...)` with those at `sources` of `places_of_a_glance` in every place, 0 for padding."""
    sources, is_real = (
        places.to(values.device).view(*places.shape, *[1] * (values.ndim - 2)) for places in (sources, is_real)
    )
    return values.gather(1, sources.expand_as(values)) * is_real.to(values.dtype)


def checked_mask(mask: torch.Tensor | None, values: torch.Tensor, name: str, dimensions: str) -> torch.Tensor:
    """
    The boolean mask `(batch, length)` of `values` `(batch, length, ...)`, all True without one.

    Raises:
        ValueError: for a mask of another shape, naming the argument and its `dimensions`.
    """
    if mask is None:
        return torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
    if mask.shape != values.shape[:2]:
        raise ValueError(
            f"`{name}` must have the shape {dimensions} = {tuple(values.shape[:2])}, got {tuple(mask.shape)}."
        )
    return mask.bool()


def checked_frames_mask(module: nn.Module, pixels: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """
    The boolean mask `(batch, frames)` of `pixel_values_videos` `(batch, frames, 3, height, width)`.

    Raises:
        ValueError: for frames of another shape or dtype, and a mask of another shape or with gaps.
    """
    if pixels.ndim != 5 or pixels.shape[2] != 3:
        raise ValueError(
            "`pixel_values_videos` must have the shape (batch, frames, 3, height, width), got "
            f"{tuple(pixels.shape)}. FLaLLMProcessor makes it from videos."
        )
    if not pixels.is_floating_point():
        raise ValueError(
            f"`pixel_values_videos` must be normalised floating point frames, got {pixels.dtype}. FLaLLMProcessor "
            "makes them from videos."
        )
    mask = checked_mask(mask, pixels, "pixel_attention_mask", "(batch, frames)")
    if not is_exporting(module) and (mask[:, 1:] > mask[:, :-1]).any():
        raise ValueError("`pixel_attention_mask` must be 1 up to the end of each clip and 0 after it.")
    return mask


def checked_frames_per_chunk(encoder: SignEncoder, device: torch.device) -> int | None:
    """
    The encoder's `frames_per_chunk`, or the one for inference on a CPU; `None` for all frames at once.

    Raises:
        ValueError: unless it is 1 or more.
    """
    frames_per_chunk = encoder.frames_per_chunk
    if frames_per_chunk is None:
        if device.type != "cpu" or encoder.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return None
        return FRAMES_PER_CHUNK_ON_CPU
    if frames_per_chunk < 1:
        raise ValueError(f"`frames_per_chunk` must be 1 or more, got {frames_per_chunk}.")
    return frames_per_chunk


def check_clips_long_enough(encoder: SignEncoder, lengths: torch.Tensor) -> None:
    """
    Raises:
        ValueError: for a clip that gives no visual token, `lengths` being those of the clips in frames.
    """
    too_short = (encoder.get_num_tokens(lengths) < 1) | (lengths < 1)
    if too_short.any():
        index = int(too_short.nonzero()[0])
        raise ValueError(
            f"Clip {index} of the batch is too short: it has {int(lengths[index])} frames after sampling, and one "
            f"visual token needs at least {encoder.get_min_num_frames()}. Use a longer clip or keep more of its "
            "frames (`frame_sampling_rate`)."
        )


def checked_visual_mask(features: torch.Tensor, mask: torch.Tensor | None, features_size: int) -> torch.Tensor:
    """
    The boolean mask `(batch, features)` of `visual_features` and `visual_attention_mask` as a caller passed them.

    Raises:
        ValueError: for features of another shape than `(batch, features, features_size)`, or a mask of another shape.
    """
    if features.ndim != 3 or features.shape[2] != features_size:
        raise ValueError(
            f"`visual_features` must have the shape (batch, features, {features_size}), got {tuple(features.shape)}."
        )
    return checked_mask(mask, features, "visual_attention_mask", "(batch, features)")


__all__ = ["SignEncoder", "SignEncoderOutput"]
