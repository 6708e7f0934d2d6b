"""Sign encoders that are made of others: several side by side, and one with a module over time behind it."""

import itertools
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.utils import can_return_tuple

from .configuration_encoder_combined_slt import SideBySideConfig, TemporalConfig
from .encoder_frames_slt import LocalTemporalModule
from .encoder_registry_slt import build_sign_encoder
from .sign_encoder_slt import (
    Length,
    SignEncoder,
    SignEncoderOutput,
    TokenStep,
    is_exporting,
    length_mask,
)


class EncoderOfEncoders(SignEncoder):
    """Base class of sign encoders that contain others: what these are told and asked."""

    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True

    @property
    def parts(self) -> list[SignEncoder]:
        """The encoders that it contains."""
        raise NotImplementedError

    def _take_inputs_of_parts(self) -> None:
        names = {part.main_input_name for part in self.parts}
        if len(names) > 1:
            raise ValueError(
                "Sign encoders side by side must take the same inputs, got "
                f"{' and '.join(sorted(f'`{each}`' for each in names))}."
            )
        self.input_names = tuple(dict.fromkeys(name for part in self.parts for name in part.input_names))
        self.main_input_name = self.parts[0].main_input_name
        self.clip_words = self.parts[0].clip_words

    @property
    def frames_per_chunk(self) -> int | None:
        """See `SignEncoder`: of each of its encoders."""
        return self.parts[0].frames_per_chunk

    @frames_per_chunk.setter
    def frames_per_chunk(self, value: int | None) -> None:
        for part in self.parts:
            part.frames_per_chunk = value

    def choose_memory_format(self) -> None:
        for part in self.parts:
            part.choose_memory_format()

    def check_can_be_mirrored(self) -> None:
        for part in self.parts:
            part.check_can_be_mirrored()

    def mirrored(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """See `SignEncoder.mirrored`: what each of its encoders makes of its inputs."""
        mirrored = dict(inputs)
        for part in self.parts:
            mirrored |= part.mirrored(_inputs_of(part, inputs))
        return mirrored

    @property
    def encodes_frames_alone(self) -> bool:
        """See `SignEncoder`: if its only encoder does. Several side by side do not."""
        return len(self.parts) == 1 and self.parts[0].encodes_frames_alone

    def encode_frames(self, values: torch.Tensor) -> torch.Tensor:
        """See `SignEncoder.encode_frames`: those of its only encoder."""
        return self.parts[0].encode_frames(values)

    def freeze(self) -> None:
        super().freeze()
        for part in self.parts:
            part.freeze()


class SideBySideEncoder(EncoderOfEncoders):
    """
    Several encoders of the same clip. Their tokens are joined: for each token of the encoder with the most (the
    *reference*), those of the others that are nearest in time, one behind the other in the width.

    SpaMo (https://arxiv.org/abs/2408.10593) joins its two streams in time, all tokens of the one behind all tokens of
    the other. Joined in the width they stay one sequence with one place in time for each token, so that word evidence,
    captions and the feature cache work as for every other encoder (ours).
    """

    config_class = SideBySideConfig

    def __init__(self, config: SideBySideConfig):
        super().__init__(config)
        self.encoders = nn.ModuleList(build_sign_encoder(each) for each in config.encoder_configs)
        self._take_inputs_of_parts()
        self.post_init()

    @property
    def parts(self) -> list[SignEncoder]:
        return list(self.encoders)

    @property
    def reference(self) -> SignEncoder:
        """The encoder whose tokens are nearest to each other in time."""
        return min(self.parts, key=lambda part: part.get_centre_and_spacing()[1])

    def get_token_steps(self) -> list[TokenStep]:
        return self.reference.get_token_steps()

    def get_centre_and_spacing(self) -> tuple[float, float]:
        return self.reference.get_centre_and_spacing()

    @can_return_tuple
    def forward(self, *args: Any, **inputs: Any) -> SignEncoderOutput:
        r"""
        Args:
            inputs: those of each of its encoders, by their `input_names`.

        Raises:
            ValueError: as the encoders do.
        """
        inputs = self.given_inputs(inputs | dict(zip(self.input_names, args, strict=False)))
        with torch.no_grad() if self.frozen else nullcontext():
            return self._joined([part(**_inputs_of(part, inputs)) for part in self.parts])

    @torch.no_grad()
    def glance(self, stride: int, **inputs: Any) -> SignEncoderOutput:
        """See `SignEncoder.glance`."""
        return self._joined([part.tokens_at_a_glance(stride, **_inputs_of(part, inputs)) for part in self.parts])

    def _joined(self, outputs: list[SignEncoderOutput]) -> SignEncoderOutput:
        mask = outputs[self.parts.index(self.reference)].attention_mask
        aligned = [self._aligned(*pair, mask.shape[1]) for pair in zip(self.parts, outputs, strict=True)]
        hidden = torch.cat([tokens.to(aligned[0].dtype) for tokens in aligned], dim=-1)
        return SignEncoderOutput(
            last_hidden_state=hidden * mask[..., None].to(hidden.dtype),
            attention_mask=mask,
            losses=_losses_together(outputs),
        )

    def _aligned(self, part: SignEncoder, output: SignEncoderOutput, num_tokens: int) -> torch.Tensor:
        """`(batch, tokens of the part, width)` -> `(batch, num_tokens, width)`, by the nearest in time."""
        if part is self.reference:
            return output.last_hidden_state
        centre, spacing = part.get_centre_and_spacing()
        first, step = self.get_centre_and_spacing()
        hidden = output.last_hidden_state
        times = first + step * torch.arange(num_tokens, device=hidden.device)
        last = output.attention_mask.to(hidden.device).sum(1) - 1
        nearest = nearest_places(times, centre, spacing)[None].minimum(last[:, None])
        return hidden.gather(1, nearest[..., None].expand(-1, -1, hidden.shape[2]))


def nearest_places(times: torch.Tensor, centre: float, spacing: float) -> torch.Tensor:
    """
    Of things at the times centre, centre + spacing, ..., the numbers from 0 of those that are nearest to `times`. Of
    two that are equally near it is the earlier one, whatever rounding does.
    """
    return ((times - centre) / spacing - 0.5 - 1e-6).ceil().long().clamp(min=0)


def _inputs_of(part: SignEncoder, inputs: dict[str, Any]) -> dict[str, Any]:
    """Those that the part takes."""
    return {name: value for name, value in inputs.items() if name in part.input_names}


def _losses_together(outputs: list[SignEncoderOutput]) -> dict[str, torch.Tensor] | None:
    losses: dict[str, torch.Tensor] = {}
    for output in outputs:
        for name, loss in (output.losses or {}).items():
            losses[name] = losses[name] + loss if name in losses else loss
    return losses or None


class EncoderBehindAnother(EncoderOfEncoders):
    """
    Base class of sign encoders that go on from the tokens of another one, `encoder`, whose features are also theirs:
    with that one frozen (`model.encoder.freeze()`), its features can be kept and passed as `visual_features`, and the
    rest is trained on them. A subclass writes `forward` and `go_on`.
    """

    encoder: SignEncoder

    def go_on(self, output: SignEncoderOutput) -> SignEncoderOutput:
        """From the output of the encoder in front to that of the whole."""
        raise NotImplementedError

    @property
    def parts(self) -> list[SignEncoder]:
        return [self.encoder]

    @property
    def features_size(self) -> int:
        return self.encoder.features_size

    @property
    def features_encoder(self) -> SignEncoder:
        return self.encoder.features_encoder

    @property
    def features_are_frozen(self) -> bool:
        return self.encoder.features_are_frozen

    def compute_features(self, **inputs: Any) -> SignEncoderOutput:
        return self.encoder.compute_features(**_inputs_of(self.encoder, self.given_inputs(inputs)))

    def glance(self, stride: int, **inputs: Any) -> SignEncoderOutput:
        """See `SignEncoder.glance`: of the encoder in front."""
        return self.encoder.glance(stride, **_inputs_of(self.encoder, self.given_inputs(inputs)))

    def encode_over_time(self, frame_features: torch.Tensor) -> SignEncoderOutput:
        """See `SignEncoder.encode_over_time`: features are those of the encoder in front."""
        return self.encoder.encode_over_time(frame_features)

    def encode_features(
        self, visual_features: torch.FloatTensor, visual_attention_mask: torch.LongTensor | None = None
    ) -> SignEncoderOutput:
        """See `SignEncoder.encode_features`; raises what `go_on` does, too."""
        return self.go_on(self.encoder.encode_features(visual_features, visual_attention_mask))

    def get_num_features(self, length: Length) -> Length:
        return self.encoder.get_num_features(length)

    def get_token_steps_of_features(self) -> list[TokenStep]:
        return self.encoder.get_token_steps_of_features()

    def get_token_steps(self) -> list[TokenStep]:
        return self.encoder.get_token_steps()

    def get_centre_and_spacing(self) -> tuple[float, float]:
        return self.encoder.get_centre_and_spacing()


class TemporalEncoder(EncoderBehindAnother):
    """A sign encoder, a linear layer and the local temporal module (FLa-LLM, section 3.1; SpaMo has both, too)."""

    config_class = TemporalConfig

    def __init__(self, config: TemporalConfig):
        super().__init__(config)
        self.encoder = build_sign_encoder(config.encoder_config)
        width = self.encoder.config.hidden_size
        self.projection = nn.Linear(width, config.projection_size) if config.projection_size else nn.Identity()
        self.temporal_module = LocalTemporalModule(config.width_before_time, config)
        self._take_inputs_of_parts()
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self.projection and isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
        elif isinstance(module, nn.Conv1d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def get_token_steps_of_features(self) -> list[TokenStep]:
        return [*self.encoder.get_token_steps_of_features(), *self.temporal_module.get_token_steps()]

    def get_token_steps(self) -> list[TokenStep]:
        return [*self.encoder.get_token_steps(), *self.temporal_module.get_token_steps()]

    def get_centre_and_spacing(self) -> tuple[float, float]:
        centre, spacing = self.encoder.get_centre_and_spacing()
        later, wider = self.temporal_module.get_centre_and_spacing()
        return centre + later * spacing, wider * spacing

    @can_return_tuple
    def forward(self, *args: Any, **inputs: Any) -> SignEncoderOutput:
        r"""
        Args:
            inputs: those of the encoder in front, by its `input_names`.

        Raises:
            ValueError: as that encoder does, and for a clip that is too short for one visual token.
        """
        inputs |= dict(zip(self.input_names, args, strict=False))
        return self.go_on(self.encoder(**inputs))

    def go_on(self, output: SignEncoderOutput) -> SignEncoderOutput:
        """Through linear layer and temporal module; a clip too short for one visual token is a `ValueError`."""
        lengths = output.attention_mask.sum(1)
        if not is_exporting(self):
            self._check_lengths(lengths)
        with torch.no_grad() if self.frozen else nullcontext():
            own_weight = next(itertools.chain(self.projection.parameters(), self.temporal_module.parameters()), None)
            hidden = output.last_hidden_state
            hidden = hidden if own_weight is None else hidden.to(own_weight.dtype)
            hidden = self.projection(hidden).masked_fill(output.attention_mask[..., None] == 0, 0)
            hidden, num_tokens = self.temporal_module(hidden, lengths)
        mask = length_mask(num_tokens, hidden.shape[1]).long()
        return SignEncoderOutput(last_hidden_state=hidden, attention_mask=mask, losses=output.losses)

    def _check_lengths(self, num_features: torch.Tensor) -> None:
        too_short = self.temporal_module.get_num_tokens(num_features) < 1
        if too_short.any():
            index = int(too_short.nonzero()[0])
            raise ValueError(
                f"Clip {index} of the batch is too short: the encoder makes {int(num_features[index])} features of it, "
                f"of which `temporal_blocks` {list(self.config.temporal_blocks)} make no visual token. Use a longer "
                "clip or keep more of its frames (`frame_sampling_rate`)."
            )


__all__ = ["SideBySideEncoder", "TemporalEncoder"]
