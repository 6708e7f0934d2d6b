"""
DiffSLT's denoiser and its guidance fusion module (https://arxiv.org/abs/2411.17248). What we know of the paper says
what they read, not how they are built. The denoiser is that of latent diffusion for language
(https://arxiv.org/abs/2212.09462); the fusion is ours.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer

from .losses_slt import word_scores_of_clips
from .prior_guided_fusion_slt import sinusoids, sinusoids_at

FEED_FORWARD_TIMES = 4  # of the width
STANDARD_DEVIATION = 0.02  # of learned embeddings at the start


@dataclass
class Guidance:
    """
    What guides the denoiser: `states` `(batch, places, denoiser size)` and their `mask` `(batch, places)`; of DiffSLT-P
    also the `pseudo_gloss_scores` `(batch, pseudo-glosses)`.
    """

    states: torch.Tensor
    mask: torch.Tensor
    pseudo_gloss_scores: torch.Tensor | None = None

    def repeated(self, times: int) -> "Guidance":
        """States and mask of each clip so many times, behind each other."""
        return Guidance(self.states.repeat_interleave(times, 0), self.mask.repeat_interleave(times, 0))


class GuidanceFusion(nn.Module):
    """
    Guidance fusion module: visual tokens -> what guides the denoiser. The levels of visual features that a token joins
    (`level_sizes` of the sign encoder's configuration) are projected one by one, marked with the embedding of their
    level and their place in time, and attend to each other.

    DiffSLT-P adds pseudo-glosses: for each visual token a linear layer scores the words, a smooth maximum pools the
    scores over time, and the embeddings of the most probable words, times their probabilities, guide the denoiser, too
    (ours; the words are those of the training sentences).
    """

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        width = config.denoiser_size
        self.level_sizes = list(getattr(config.vision_config, "level_sizes", [config.vision_config.hidden_size]))
        self.num_pseudo_glosses = min(config.num_pseudo_glosses, len(config.pseudo_gloss_ids))
        self.norms = nn.ModuleList(nn.LayerNorm(size) for size in self.level_sizes)
        self.projections = nn.ModuleList(nn.Linear(size, width) for size in self.level_sizes)
        self.level_embeddings = nn.Parameter(torch.empty(len(self.level_sizes) + 1, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width,
                config.denoiser_heads,
                FEED_FORWARD_TIMES * width,
                config.denoiser_dropout,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(config.fusion_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.no_guidance = nn.Parameter(torch.empty(width))
        if self.num_pseudo_glosses:
            self.pseudo_gloss_head = nn.Linear(width, len(config.pseudo_gloss_ids))
            self.pseudo_gloss_embeddings = nn.Embedding(len(config.pseudo_gloss_ids), width)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> Guidance:
        """Visual tokens `(batch, tokens, visual hidden size)` and their mask `(batch, tokens)`."""
        places = sinusoids(tokens.shape[1], self.norm.normalized_shape[0], tokens.device)
        levels = [
            projection(norm(level.to(norm.weight.dtype))) + embedding + places.to(norm.weight.dtype)
            for level, norm, projection, embedding in zip(
                tokens.split(self.level_sizes, dim=-1),
                self.norms,
                self.projections,
                self.level_embeddings[:-1],
                strict=True,
            )
        ]
        states, level_mask = torch.stack(levels, dim=2).flatten(1, 2), mask.repeat_interleave(len(levels), 1)
        for layer in self.layers:
            states = layer(states, src_key_padding_mask=level_mask == 0)
        states = self.norm(states)
        guidance = Guidance(states, level_mask)
        return self._with_pseudo_glosses(guidance) if self.num_pseudo_glosses else guidance

    def _with_pseudo_glosses(self, guidance: Guidance) -> Guidance:
        scores = word_scores_of_clips(self.pseudo_gloss_head(guidance.states).float(), guidance.mask)
        probabilities, words = scores.sigmoid().topk(self.num_pseudo_glosses, dim=1)
        glosses = self.pseudo_gloss_embeddings(words) * probabilities[..., None].to(guidance.states.dtype)
        glosses = glosses + self.level_embeddings[-1]
        return Guidance(
            torch.cat([guidance.states, glosses], dim=1),
            torch.cat([guidance.mask, guidance.mask.new_ones(words.shape)], dim=1),
            scores,
        )

    def without(self, guidance: Guidance, is_left_out: torch.Tensor) -> Guidance:
        """No guidance for the clips where `is_left_out` `(batch,)` is true: one learned state takes its place."""
        states = torch.where(is_left_out[:, None, None], self.no_guidance, guidance.states)
        first = torch.arange(guidance.mask.shape[1], device=guidance.mask.device) == 0
        return Guidance(states, torch.where(is_left_out[:, None], first.to(guidance.mask), guidance.mask))

    def none_for(self, num_clips: int) -> Guidance:
        """No guidance for any of so many clips."""
        states = self.no_guidance.expand(num_clips, 1, -1)
        return Guidance(states, torch.ones(states.shape[:2], dtype=torch.long, device=states.device))


class DenoiserLayer(GradientCheckpointingLayer):
    """
    Self-attention of the latents, cross-attention to the guidance and a gated feed-forward layer (GEGLU), each behind a
    LayerNorm. The timestep scales and shifts the first and the last of these.
    """

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        width, heads, dropout = config.denoiser_size, config.denoiser_heads, config.denoiser_dropout
        self.self_norm, self.cross_norm, self.feed_forward_norm = (nn.LayerNorm(width) for _ in range(3))
        self.self_attention = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.cross_attention = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.scale_and_shift = nn.Linear(width, 4 * width)
        self.expansion = nn.Linear(width, 2 * FEED_FORWARD_TIMES * width)
        self.contraction = nn.Linear(FEED_FORWARD_TIMES * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        hidden: torch.Tensor,
        time: torch.Tensor,
        guidance: torch.Tensor,
        mask: torch.Tensor,
        attentions: list[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """
        `hidden` `(batch, latents, width)`, the embedding of the timestep, `time` `(batch, width)`, and the states and
        the mask of the guidance; `attentions` takes in the attention to it `(batch, latents, places)`.
        """
        scale_1, shift_1, scale_2, shift_2 = self.scale_and_shift(time)[:, None].chunk(4, dim=-1)
        states = self.self_norm(hidden) * (1 + scale_1) + shift_1
        hidden = hidden + self.dropout(self.self_attention(states, states, states, need_weights=False)[0])
        states = self.cross_norm(hidden)
        attended, attention = self.cross_attention(
            states, guidance, guidance, mask == 0, need_weights=attentions is not None
        )
        if attentions is not None:
            attentions.append(attention)
        hidden = hidden + self.dropout(attended)
        states = self.feed_forward_norm(hidden) * (1 + scale_2) + shift_2
        values, gates = self.expansion(states).chunk(2, dim=-1)
        return hidden + self.dropout(self.contraction(values * nn.functional.gelu(gates)))


class Denoiser(nn.Module):
    """
    Transformer over noisy latents, guided by the clip, which predicts the velocity of the noise
    (https://arxiv.org/abs/2202.00512). It also reads its own estimate of the latents (self-conditioning,
    https://arxiv.org/abs/2208.04202). Its last layer starts at 0.
    """

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        width = config.denoiser_size
        self.guidance_fusion = GuidanceFusion(config)
        self.input = nn.Linear(2 * config.latent_size, width)
        self.positions = nn.Parameter(torch.empty(config.num_latents, width))
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.layers = nn.ModuleList(DenoiserLayer(config) for _ in range(config.denoiser_layers))
        self.skips = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(config.denoiser_layers // 2))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, config.latent_size)

    def forward(
        self,
        noisy_latents: torch.Tensor,
        timesteps: torch.Tensor,
        guidance: Guidance,
        estimate: torch.Tensor | None = None,
        attentions: list[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """
        -> the velocity `(batch, latents, latent size)`.

        Args:
            noisy_latents, estimate (`(batch, latents, latent size)`): the second, its own, is 0 without one.
            timesteps (`(batch,)`): from 0, little noise, to `num_train_timesteps` - 1.
            attentions: takes in the attention of each layer to the guidance, `(batch, latents, places)`.
        """
        estimate = torch.zeros_like(noisy_latents) if estimate is None else estimate
        dtype = self.input.weight.dtype
        hidden = self.input(torch.cat([noisy_latents, estimate], dim=-1).to(dtype)) + self.positions
        time = self.time(sinusoids_at(timesteps, hidden.shape[-1]).to(dtype))
        of_first_half = []
        for index, layer in enumerate(self.layers):
            place = index - (len(self.layers) - len(self.skips))
            if place >= 0:
                hidden = self.skips[place](torch.cat([hidden, of_first_half.pop()], dim=-1))
            hidden = layer(hidden, time, guidance.states, guidance.mask, attentions)
            if index < len(self.skips):
                of_first_half.append(hidden)
        return self.output(self.norm(hidden)).float()


__all__ = ["STANDARD_DEVIATION", "Denoiser", "DenoiserLayer", "Guidance", "GuidanceFusion"]
