"""The MLP between sign encoder and language model: FLa-LLM's "VL-Adapter" and LLaVA-SLT's "connector"."""

import torch
from torch import nn
from transformers.activations import ACT2FN

NUM_INPUTS_LOOKED_AT = 1000


class VisualLanguageAdapter(nn.Module):
    """
    Map visual tokens to the embedding space of the language model: `(..., in_features)` -> `(..., out_features)`.

    Linear layer, activation, linear layer (FLa-LLM, https://arxiv.org/abs/2403.12556, sections 3.1 and 3.2; LLaVA-1.5,
    https://arxiv.org/abs/2310.03744), or, with `hidden_size` 0, linear layer and activation (sltbaselines). `norm` puts
    a LayerNorm after the first linear layer (sltbaselines).
    """

    def __init__(self, in_features: int, out_features: int, hidden_size: int, activation: str, norm: bool = False):
        super().__init__()
        first_width = hidden_size or out_features
        self.first = nn.Linear(in_features, first_width)
        self.norm = nn.LayerNorm(first_width) if norm else nn.Identity()
        self.activation = ACT2FN[activation]
        self.second = nn.Linear(first_width, out_features) if hidden_size else nn.Identity()

    def forward(self, visual_features: torch.Tensor) -> torch.Tensor:
        return self.second(self.activation(self.norm(self.first(visual_features))))

    @torch.no_grad()
    def start_at_scale(self, scale: torch.Tensor) -> None:
        """Scale the outputs to a root mean square of `scale`, for inputs of the scale that a LayerNorm gives."""
        inputs = torch.randn(NUM_INPUTS_LOOKED_AT, self.first.in_features, device=self.first.weight.device)
        outputs = self(inputs.to(self.first.weight.dtype))
        self.second.weight.mul_(scale / outputs.float().square().mean().sqrt())


__all__ = ["VisualLanguageAdapter"]
