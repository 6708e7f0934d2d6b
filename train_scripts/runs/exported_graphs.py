"""
The graphs of which an exported model consists, as modules with tensors as inputs and outputs:

    clip -> sign_encoder -> text_encoder -> decoder, step by step -> sentence        encoder-decoders
    clip -> sign_encoder -> prompt of embeddings -> decoder, step by step -> sentence    models that continue a prompt
    clip -> sign_encoder -> denoiser, step by step -> text_encoder -> decoder        DiffSLT

The text encoder also computes the keys and values of the decoder's cross-attention, so that one graph of the decoder
does the first step and all others. Keys and values are inputs and outputs by the names `past.*` and `present.*`.
"""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from modeling_flallm.denoiser_diffslt import Guidance
from modeling_flallm.sign_encoder_slt import SignEncoderOutput
from modeling_flallm.translation_model_slt import eager_twin

# Of the clips that are traced; no size is 1, which torch.export would take for a constant.
BATCH_SIZE, MORE_FRAMES, PAST_LENGTH, PROMPT_LENGTH = 2, 5, 3, 4
BATCH, LENGTH = {0: torch.export.Dim.AUTO}, {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}
CACHE = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO}


@dataclass(frozen=True)
class Graph:
    """
    Args:
        name: of its file.
        module: takes the inputs in their order, and returns a list.
        inputs: example tensors by name.
        dimensions: which dimensions of each input may have any size.
        output_names: in the order of the list.
    """

    name: str
    module: nn.Module
    inputs: dict[str, torch.Tensor]
    dimensions: dict[str, dict[int, Any]]
    output_names: list[str]

    def run(self) -> dict[str, torch.Tensor]:
        """What it makes of the examples, by the names of its outputs."""
        with torch.no_grad():
            return dict(zip(self.output_names, self.module(*self.inputs.values()), strict=True))


def graphs_of(model: PreTrainedModel, clips: dict[str, torch.Tensor]) -> Iterator[Graph]:
    """
    The graphs of a translation model in evaluation mode.

    Args:
        clips: two example clips of different lengths, by the names of the sign encoder's inputs.
    """
    model = eager_twin(model)  # the exporters trace sdpa only for some shapes
    if model.draws_samples:
        yield from _diffusion_graphs(model, clips)
    elif model.is_prompted:
        yield from _prompted_graphs(model, clips)
    else:
        yield from _encoder_decoder_graphs(model, clips)


# ------------------------------------------------------------------------------------- sign encoders


class SignEncoderGraph(nn.Module):
    """Clips -> the visual tokens as the text model reads them `(batch, tokens, text hidden size)`, and their mask."""

    def __init__(self, model: PreTrainedModel, input_names: Sequence[str]):
        super().__init__()
        self.model, self.input_names = model, input_names

    def forward(self, *clips: torch.Tensor) -> list[torch.Tensor]:
        output = self.model.get_video_features(**dict(zip(self.input_names, clips, strict=True)))
        return [output.pooler_output, output.attention_mask]


class GuidanceGraph(SignEncoderGraph):
    """Clips -> what guides DiffSLT's denoiser `(batch, places, denoiser size)`, and its mask."""

    def forward(self, *clips: torch.Tensor) -> list[torch.Tensor]:
        output = self.model.encode(**dict(zip(self.input_names, clips, strict=True)))
        return [output.last_hidden_state, output.attention_mask]


def _sign_encoder(model: PreTrainedModel, clips: dict[str, torch.Tensor]) -> Graph:
    outputs = ["visual_embeddings", "visual_attention_mask"]
    return Graph("sign_encoder", SignEncoderGraph(model, list(clips)), clips, dict.fromkeys(clips, LENGTH), outputs)


# ------------------------------------------------------------------------------------- encoder-decoders


class TextEncoderGraph(nn.Module):
    """
    Visual tokens, behind a prompt if the model reads one -> the mask of what the decoder attends to, and the keys and
    values of the decoder's cross-attention.
    """

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def forward(self, embeddings: torch.Tensor, mask: torch.Tensor, *prompt: torch.Tensor) -> list[torch.Tensor]:
        prompt_ids, prompt_mask = prompt or (None, None)
        encoded = self.model._encode(embeddings, SignEncoderOutput(attention_mask=mask), prompt_ids, prompt_mask)
        return [encoded.attention_mask, *_cross_attention(self.model.get_text_model(), encoded)]


class ReconstructionGraph(TextEncoderGraph):
    """DiffSLT's latents `(batch, latents, latent size)` -> the same."""

    def forward(self, latents: torch.Tensor) -> list[torch.Tensor]:
        encoded = self.model.reconstruct(latents)
        return [encoded.attention_mask, *_cross_attention(self.model.text_model, encoded)]


class DecoderGraph(nn.Module):
    """One token of each row -> the logits of the next, and the longer keys and values."""

    def __init__(self, text_model: PreTrainedModel, num_arrays: int):
        super().__init__()
        self.text_model, self.num_arrays = text_model, num_arrays

    def forward(self, input_ids: torch.Tensor, mask: torch.Tensor, *arrays: torch.Tensor) -> list[torch.Tensor]:
        past, cross = arrays[: self.num_arrays], arrays[self.num_arrays :]
        # With keys and values at hand, the decoder takes only its shape from the encoder's output.
        states = mask.new_zeros((*mask.shape, self.text_model.config.hidden_size), dtype=cross[0].dtype)
        cache = EncoderDecoderCache(DynamicCache(list(_pairs(past))), DynamicCache(list(_pairs(cross))))
        output = self.text_model(
            encoder_outputs=BaseModelOutput(states),
            attention_mask=mask,
            decoder_input_ids=input_ids,
            use_cache=True,
            return_dict=True,
            **{_cache_argument(self.text_model): cache},
        )
        return [output.logits[:, -1], *_arrays_of(cache.self_attention_cache)]


def _cross_attention(text_model: PreTrainedModel, encoded: Any) -> list[torch.Tensor]:
    """The keys and values that the decoder makes of an encoder's output; the token that it reads does not matter."""
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    first = encoded.attention_mask.new_zeros((len(encoded.attention_mask), 1))
    text_model(
        encoder_outputs=encoded,
        attention_mask=encoded.attention_mask,
        decoder_input_ids=first,
        use_cache=True,
        return_dict=True,
        **{_cache_argument(text_model): cache},
    )
    return _arrays_of(cache.cross_attention_cache)


def _encoder_decoder_graphs(model: PreTrainedModel, clips: dict[str, torch.Tensor]) -> Iterator[Graph]:
    sign_encoder = _sign_encoder(model, clips)
    yield sign_encoder
    encoded = sign_encoder.run()
    if model.prompt_input_names:
        encoded["prompt_ids"] = torch.ones(BATCH_SIZE, PROMPT_LENGTH, dtype=torch.long)
        encoded["prompt_attention_mask"] = torch.ones_like(encoded["prompt_ids"])
    yield from _writing_graphs(model.get_text_model(), TextEncoderGraph(model), encoded, dict.fromkeys(encoded, LENGTH))


def _writing_graphs(
    text_model: PreTrainedModel,
    encoder: nn.Module,
    inputs: dict[str, torch.Tensor],
    dimensions: dict[str, dict[int, Any]],
) -> Iterator[Graph]:
    """The text encoder with these inputs, and the decoder behind it."""
    with torch.no_grad():
        mask, *cross = encoder(*inputs.values())
    names = _names(len(cross))
    of_cross = [f"cross.{name}" for name in names]
    yield Graph("text_encoder", encoder, inputs, dimensions, ["attention_mask", *of_cross])
    past = {
        f"past.{name}": torch.randn(BATCH_SIZE, each.shape[1], PAST_LENGTH, each.shape[3])
        for name, each in zip(names, cross, strict=True)
    }
    yield Graph(
        "decoder",
        DecoderGraph(text_model, len(past)),
        {
            "input_ids": torch.ones(BATCH_SIZE, 1, dtype=torch.long),
            "attention_mask": mask,
            **past,
            **dict(zip(of_cross, cross, strict=True)),
        },
        {"input_ids": BATCH, "attention_mask": LENGTH, **dict.fromkeys([*past, *of_cross], CACHE)},
        ["logits", *(f"present.{name}" for name in names)],
    )


# ------------------------------------------------------------------------------------- models that continue a prompt


class EmbeddingsGraph(nn.Module):
    """Token ids `(batch, length)` -> `(batch, length, hidden size)`, what the text model's first layer reads."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.embeddings = model.get_input_embeddings()

    def forward(self, input_ids: torch.Tensor) -> list[torch.Tensor]:
        return [self.embeddings(input_ids)]


class PromptedDecoderGraph(nn.Module):
    """
    Embeddings of new tokens, and the mask of the past and the new ones -> the logits after the last of them, and the
    longer keys and values.
    """

    def __init__(self, text_model: PreTrainedModel):
        super().__init__()
        self.text_model = text_model
        self.argument_names = set(inspect.signature(text_model.forward).parameters)

    def forward(self, embeddings: torch.Tensor, mask: torch.Tensor, *past: torch.Tensor) -> list[torch.Tensor]:
        cache = DynamicCache(list(_pairs(past)))
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -embeddings.shape[1] :]
        wanted = {"position_ids": positions, "logits_to_keep": 1, _cache_argument(self.text_model): cache}
        output = self.text_model(
            inputs_embeds=embeddings,
            attention_mask=mask,
            use_cache=True,
            return_dict=True,
            # Not every language model of transformers takes position_ids or logits_to_keep.
            **{name: value for name, value in wanted.items() if name in self.argument_names},
        )
        return [output.logits[:, -1], *_arrays_of(cache)]


def _prompted_graphs(model: PreTrainedModel, clips: dict[str, torch.Tensor]) -> Iterator[Graph]:
    yield _sign_encoder(model, clips)
    text_model = model.get_text_model()
    input_ids = torch.ones(BATCH_SIZE, PROMPT_LENGTH, dtype=torch.long)
    embed = Graph("embeddings", EmbeddingsGraph(model), {"input_ids": input_ids}, {"input_ids": LENGTH}, ["embeddings"])
    yield embed
    embeddings = embed.run()["embeddings"]
    decoder = PromptedDecoderGraph(text_model)
    with torch.no_grad():
        _, *cache = decoder(embeddings, torch.ones_like(input_ids))
    names = _names(len(cache))
    past = {f"past.{name}": torch.randn_like(each[:, :, :PAST_LENGTH]) for name, each in zip(names, cache, strict=True)}
    mask = torch.ones(BATCH_SIZE, PAST_LENGTH + PROMPT_LENGTH, dtype=torch.long)
    yield Graph(
        "decoder",
        decoder,
        {"inputs_embeds": embeddings, "attention_mask": mask, **past},
        {"inputs_embeds": LENGTH, "attention_mask": LENGTH, **dict.fromkeys(past, CACHE)},
        ["logits", *(f"present.{name}" for name in names)],
    )


# ------------------------------------------------------------------------------------- diffusion


class DenoiserGraph(nn.Module):
    """DiffSLT's denoiser: latents, timesteps, its estimate, guidance and its mask -> the velocity."""

    def __init__(self, denoiser: nn.Module):
        super().__init__()
        self.denoiser = denoiser

    def forward(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        estimate: torch.Tensor,
        states: torch.Tensor,
        mask: torch.Tensor,
    ) -> list[torch.Tensor]:
        return [self.denoiser(latents, timesteps, Guidance(states, mask), estimate)]


def _diffusion_graphs(model: PreTrainedModel, clips: dict[str, torch.Tensor]) -> Iterator[Graph]:
    sign_encoder = Graph(
        "sign_encoder", GuidanceGraph(model, list(clips)), clips, dict.fromkeys(clips, LENGTH), ["states", "mask"]
    )
    yield sign_encoder
    guidance = sign_encoder.run()
    latents = torch.randn(BATCH_SIZE, model.config.num_latents, model.config.latent_size)
    timesteps = torch.tensor([1, 2])
    yield Graph(
        "denoiser",
        DenoiserGraph(model.denoiser),
        # Not the same tensor twice: torch.export would take the two inputs for one.
        {"latents": latents, "timesteps": timesteps, "estimate": torch.randn_like(latents), **guidance},
        {"latents": BATCH, "timesteps": BATCH, "estimate": BATCH, "states": LENGTH, "mask": LENGTH},
        ["velocity"],
    )
    yield from _writing_graphs(model.text_model, ReconstructionGraph(model), {"latents": latents}, {"latents": BATCH})


# ------------------------------------------------------------------------------------- keys and values


def _pairs(arrays: Sequence[torch.Tensor]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Keys and values of each layer."""
    return zip(arrays[::2], arrays[1::2], strict=True)


def _arrays_of(cache: DynamicCache) -> list[torch.Tensor]:
    return [array for layer in cache.layers for array in (layer.keys, layer.values)]


def _names(num_arrays: int) -> list[str]:
    return [f"{index // 2}.{'value' if index % 2 else 'key'}" for index in range(num_arrays)]


def _cache_argument(text_model: PreTrainedModel) -> str:
    """What the text model calls its cache: `cache`, and `past_key_values` in transformers before 5.24."""
    return "cache" if "cache" in inspect.signature(text_model.forward).parameters else "past_key_values"
