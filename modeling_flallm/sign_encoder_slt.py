"""
The interface of sign encoders, which turn clips of any kind (frames, poses, precomputed features) into visual tokens
with a mask.

To add an encoder, write one file with a configuration (with a `model_type` and a `hidden_size`) and a `SignEncoder`,
and register both in `encoders_slt.py`. The models then find it by the model type of their `vision_config`.
"""

import itertools
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput, is_torchdynamo_exporting

from .hub_card_slt import SentWithACard
from .loading_slt import LoadedWhole

# A number of frames or tokens, or a tensor of them, one for each clip.
Length = TypeVar("Length", int, torch.Tensor)


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
            The encoder's own losses by name, each a mean over the clips of the batch, already weighted. The models add
            them to their loss.
    """

    last_hidden_state: torch.FloatTensor | None = None
    attention_mask: torch.LongTensor | None = None
    pooler_output: torch.FloatTensor | None = None
    losses: dict[str, torch.FloatTensor] | None = None


class SignEncoder(SentWithACard, LoadedWhole, PreTrainedModel):
    """
    Base class of all sign encoders. A subclass sets `config_class` (with a `hidden_size`), `input_names` and
    `main_input_name`, and writes `forward`, `get_num_tokens` and `get_centre_and_spacing`.

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
    """

    base_model_prefix = "vision_model"
    # It can also be loaded from the checkpoint of a whole model, whose other weights it ignores.
    _keys_to_ignore_on_load_unexpected = (
        r"^(text_model|language_model|adapter|connector)\.",
        r"^(word_presence_head|visual_text_alignment|sentence_projection|word_projection)\.",
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

    def get_num_tokens(self, length: Length) -> Length:
        """Number of visual tokens of clips of this many frames; below 1 for clips that are too short."""
        raise NotImplementedError

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


def is_exporting(module: nn.Module) -> bool:
    """
    Whether `torch.export` traces the inference of `module`: then no shape may depend on the data and no value can be
    checked, so that padding is computed and masked. Training packs real frames, because batch norm takes statistics.
    """
    return is_torchdynamo_exporting() and not module.training


def length_mask(lengths: torch.Tensor, max_length: int) -> torch.Tensor:
    """`(batch,)` lengths -> boolean `(batch, max_length)`, True within the length."""
    return torch.arange(max_length, device=lengths.device)[None] < lengths[:, None]


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


def checked_visual_mask(
    features: torch.Tensor, mask: torch.Tensor | None, hidden_size: int, tokens: str
) -> torch.Tensor:
    """
    The boolean mask `(batch, tokens)` of `visual_features` and `visual_attention_mask` as a caller passed them.

    Raises:
        ValueError: for features of another shape than `(batch, tokens, hidden_size)`, or a mask of another shape. The
            error calls the tokens by the name `tokens`.
    """
    if features.ndim != 3 or features.shape[2] != hidden_size:
        raise ValueError(
            f"`visual_features` must have the shape (batch, {tokens}, {hidden_size}), got {tuple(features.shape)}."
        )
    return checked_mask(mask, features, "visual_attention_mask", f"(batch, {tokens})")


__all__ = ["SignEncoder", "SignEncoderOutput"]
