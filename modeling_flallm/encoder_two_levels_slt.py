"""Sign encoder that gives two levels of visual features of a trained translation model, for DiffSLT's guidance."""

import copy
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel
from transformers.utils import can_return_tuple

from .adapter_slt import VisualLanguageAdapter
from .configuration_encoder_two_levels_slt import TwoLevelConfig
from .encoder_combined_slt import EncoderOfEncoders
from .encoder_registry_slt import build_sign_encoder
from .sign_encoder_slt import SignEncoder, SignEncoderOutput, TokenStep


class TwoLevelEncoder(EncoderOfEncoders):
    """
    The visual side of a trained translation model. A visual token is the sign encoder's token, followed by what the
    adapter and the encoder of the text model make of it: DiffSLT's two levels (https://arxiv.org/abs/2411.17248), of
    frames and of the encoder.

    A prompt is read as in that model, the same one for every clip. Of a model with a decoder-only text model, the
    second level is what its connector makes of the tokens (ours), since the prompt around them is not fixed.
    """

    config_class = TwoLevelConfig

    def __init__(self, config: TwoLevelConfig):
        super().__init__(config)
        self.encoder = build_sign_encoder(config.encoder_config)
        self.adapter = VisualLanguageAdapter(
            config.encoder_config.hidden_size,
            config.adapter_size,
            config.adapter_hidden_size,
            config.adapter_activation,
            config.adapter_norm,
        )
        self.text_encoder = None
        if config.text_config is not None:
            whole = AutoModel.from_config(config.text_config, dtype=torch.get_default_dtype())
            self.text_encoder = whole.get_encoder()
        if config.prompt_length:
            self.prompt_embeddings = nn.Parameter(torch.zeros(config.prompt_length, config.adapter_size))
        self._take_inputs_of_parts()
        self.post_init()

    @property
    def parts(self) -> list[SignEncoder]:
        return [self.encoder]

    def get_token_steps(self) -> list[TokenStep]:
        return self.encoder.get_token_steps()

    def get_centre_and_spacing(self) -> tuple[float, float]:
        return self.encoder.get_centre_and_spacing()

    @can_return_tuple
    def forward(self, *args: Any, **inputs: Any) -> SignEncoderOutput:
        r"""
        Args:
            inputs: those of the sign encoder, by its `input_names`.

        Raises:
            ValueError: as the sign encoder does.
        """
        inputs |= dict(zip(self.input_names, args, strict=False))
        with torch.no_grad() if self.frozen else nullcontext():
            return self._with_the_second_level(self.encoder(**inputs))

    @torch.no_grad()
    def glance(self, stride: int, **inputs: Any) -> SignEncoderOutput:
        """See `SignEncoder.glance`."""
        return self._with_the_second_level(self.encoder.tokens_at_a_glance(stride, **inputs))

    def encode_over_time(self, frame_features: torch.Tensor) -> SignEncoderOutput:
        """See `SignEncoder.encode_over_time`."""
        return self._with_the_second_level(self.encoder.tokens_over_time(frame_features))

    def _with_the_second_level(self, output: SignEncoderOutput) -> SignEncoderOutput:
        tokens, mask = output.last_hidden_state, output.attention_mask
        second = self.adapter(tokens.to(self.adapter.first.weight.dtype))
        if self.text_encoder is not None:
            second = self._encode_text(second, mask)
        second = second.masked_fill(mask[..., None] == 0, 0)
        hidden = torch.cat([tokens.to(second.dtype), second], dim=-1)
        return SignEncoderOutput(hidden, mask, losses=output.losses)

    def _encode_text(self, embeddings: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """`(batch, tokens, width)` -> the same shape: the text encoder's states of the visual tokens."""
        length = self.config.prompt_length
        if length:
            prompt = self.prompt_embeddings.to(embeddings.dtype).expand(len(embeddings), -1, -1)
            embeddings = torch.cat([prompt, embeddings], dim=1)
            mask = torch.cat([mask.new_ones(len(mask), length), mask], dim=1)
        output = self.text_encoder(inputs_embeds=embeddings, attention_mask=mask, return_dict=True)
        return output.last_hidden_state[:, length:]


def two_levels_of(model: PreTrainedModel, prompt_ids: torch.LongTensor | None = None) -> TwoLevelEncoder:
    """
    The two-level encoder of a trained translation model of any system, frozen. It takes over the model's modules: do
    not use the model any more.

    Args:
        model (`SignTranslationModel`): the trained model.
        prompt_ids (`torch.LongTensor` of shape `(prompt length,)`, *optional*):
            The prompt that its encoder-decoder reads before the visual tokens, if it reads one.

    Raises:
        ValueError: for a model that reads a prompt before the visual tokens, and none given.
    """
    if isinstance(model.vision_model, TwoLevelEncoder):  # of DiffSLT
        model.vision_model.freeze()
        return model.vision_model
    if model.prompt_input_names and not model.is_prompted and prompt_ids is None:
        raise ValueError("The trained model reads a prompt before the visual tokens: pass its `prompt_ids`.")
    adapter, prompt = model.get_adapter(), None
    if prompt_ids is not None:
        with torch.no_grad():
            prompt = model._embed_prompt(prompt_ids.to(model.device)[None])[0]
    config = TwoLevelConfig(
        encoder_config=copy.deepcopy(model.vision_model.config),
        text_config=None if model.is_prompted else copy.deepcopy(model.config.text_config),
        adapter_size=_width_of(adapter),
        adapter_hidden_size=adapter.second.in_features if isinstance(adapter.second, nn.Linear) else 0,
        adapter_activation=getattr(model.config, f"{model.adapter_name}_activation"),
        adapter_norm=isinstance(adapter.norm, nn.LayerNorm),
        prompt_length=0 if prompt is None else len(prompt),
    )
    with torch.device("meta"):
        encoder = TwoLevelEncoder(config)
    encoder.encoder, encoder.adapter = model.vision_model, adapter
    if encoder.text_encoder is not None:
        encoder.text_encoder = _without_vocabulary(model.get_encoder(), encoder.config.text_config.vocab_size)
    if prompt is not None:
        encoder.prompt_embeddings = nn.Parameter(prompt)
    encoder.freeze()
    return encoder


def _width_of(adapter: VisualLanguageAdapter) -> int:
    return (adapter.second if isinstance(adapter.second, nn.Linear) else adapter.first).out_features


def _without_vocabulary(text_encoder: nn.Module, num_rows: int) -> nn.Module:
    """A text encoder whose table of tokens, which it does not read, has few rows left."""
    embeddings = text_encoder.get_input_embeddings()
    text_encoder.set_input_embeddings(nn.Embedding(num_rows, embeddings.embedding_dim).to(embeddings.weight))
    return text_encoder


__all__ = ["TwoLevelEncoder", "two_levels_of"]
