"""Sign encoder that learns from texts which describe the signing, MMSLT's (https://arxiv.org/abs/2411.16789)."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.utils import can_return_tuple

from .adapter_slt import VisualLanguageAdapter
from .configuration_encoder_described_slt import DescribedConfig
from .encoder_combined_slt import EncoderBehindAnother, nearest_places
from .encoder_registry_slt import build_sign_encoder
from .losses_slt import mean_over_processes
from .sign_encoder_slt import SignEncoder, SignEncoderOutput, checked_mask

DESCRIPTION_INPUTS = ("description_embeddings", "description_attention_mask")


class DescribedEncoder(EncoderBehindAnother):
    """
    A sign encoder and MMSLT's description mapper (https://arxiv.org/abs/2411.16789): a linear layer, ReLU and a linear
    layer, which learn to predict the embedding of a text that describes the frame. A visual token is the encoder's
    token, followed by the predicted embedding. Descriptions are needed in training alone.

    The loss is the mean squared error of the predictions, over the described tokens of all processes; each of several
    accumulated batches has its own mean. MMSLT's code averages over padding, too. Beyond MMSLT (ours), encoders whose
    tokens are not frames learn from the frame that is nearest to the centre of a token, and frames may be without a
    description.
    """

    config_class = DescribedConfig

    def __init__(self, config: DescribedConfig):
        super().__init__(config)
        self.encoder = build_sign_encoder(config.encoder_config)
        self.mapper = VisualLanguageAdapter(
            config.encoder_config.hidden_size, config.description_size, config.mapper_hidden_size, "relu"
        )
        self._take_inputs_of_parts()
        self.input_names = (*self.input_names, *DESCRIPTION_INPUTS)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module in (self.mapper.first, self.mapper.second):
            init.xavier_uniform_(module.weight)

    def freeze_mapper(self) -> None:
        """Freeze the weights of the description mapper (MMSLT: after pretraining); gradients still flow through it."""
        self.mapper.requires_grad_(False)

    @can_return_tuple
    def forward(self, *args: Any, **inputs: Any) -> SignEncoderOutput:
        r"""
        Args:
            inputs: those of the encoder in front, by its `input_names`.
            description_embeddings (`torch.FloatTensor` of shape `(batch, frames, description_size)`, *optional*):
                Of the text that describes each frame. Without them, or with this encoder frozen, there is no loss.
            description_attention_mask (`torch.LongTensor` of shape `(batch, frames)`, *optional*):
                1 for the frames that a text describes. Default: all that are not padding.

        Raises:
            ValueError: as the encoder does, and for embeddings or a mask of another shape.
        """
        inputs |= dict(zip(self.input_names, args, strict=False))
        embeddings, is_described = (inputs.pop(name, None) for name in DESCRIPTION_INPUTS)
        output = self.go_on(self.encoder(**inputs))
        if embeddings is None or self.frozen:
            return output
        frames_mask = self._frames_mask(inputs)
        is_described = self._checked_targets(embeddings, is_described, frames_mask)
        loss = self._mapper_loss(output, embeddings, is_described, frames_mask.sum(1))
        output["losses"] = {**(output.losses or {}), "description_mapper": self.config.mapper_loss_weight * loss}
        return output

    def go_on(self, output: SignEncoderOutput) -> SignEncoderOutput:
        """With the predicted embedding behind each token."""
        with torch.no_grad() if self.frozen else nullcontext():
            hidden = output.last_hidden_state.to(self.mapper.first.weight.dtype)
            hidden = torch.cat([hidden, self.mapper(hidden)], dim=-1)
            hidden = hidden.masked_fill(output.attention_mask[..., None] == 0, 0)
        return SignEncoderOutput(hidden, output.attention_mask, losses=output.losses)

    def _frames_mask(self, inputs: dict[str, Any]) -> torch.Tensor:
        """`(batch, frames)`, True for real frames."""
        values, mask = self.encoder.input_names[:2]
        return checked_mask(inputs.get(mask), inputs[values], mask, "(batch, frames)")

    def _checked_targets(
        self, embeddings: torch.Tensor, mask: torch.Tensor | None, frames_mask: torch.Tensor
    ) -> torch.Tensor:
        """`(batch, frames)`, True for real frames that are described."""
        expected = (*frames_mask.shape, self.config.description_size)
        if embeddings.shape != expected:
            raise ValueError(
                f"`description_embeddings` must have the shape (batch, frames, description_size) = {expected}, got "
                f"{tuple(embeddings.shape)}."
            )
        return frames_mask & checked_mask(mask, embeddings, "description_attention_mask", "(batch, frames)")

    def _mapper_loss(
        self,
        output: SignEncoderOutput,
        embeddings: torch.Tensor,
        is_described: torch.Tensor,
        lengths: torch.Tensor,
    ) -> torch.Tensor:
        """The mean squared error `()` over the width and the described tokens of all processes; 0 without any."""
        predictions = output.last_hidden_state[..., -self.config.description_size :]
        centre, spacing = self.get_centre_and_spacing()
        centres = centre + spacing * torch.arange(predictions.shape[1], device=embeddings.device)
        frames = nearest_places(centres, 0, 1)[None].minimum(lengths[:, None] - 1)  # (batch, tokens)
        counts = output.attention_mask.bool() & is_described.gather(1, frames)
        targets = embeddings.gather(1, frames[..., None].expand(-1, -1, embeddings.shape[2]))
        # Without the masks first, the gradient of a huge number in the padding would be 0 times infinity.
        targets, predictions = (each.float().masked_fill(~counts[..., None], 0) for each in (targets, predictions))
        return mean_over_processes((predictions - targets).square().mean(2), counts)


def described_encoder_of(vision_model: SignEncoder) -> DescribedEncoder | None:
    """The encoder with a description mapper in a sign encoder, or that encoder itself; None without one."""
    return next((module for module in vision_model.modules() if isinstance(module, DescribedEncoder)), None)


__all__ = ["DescribedEncoder", "described_encoder_of"]
