"""The sign encoder for ready-made visual features: one visual token for each feature, and nothing to train."""

from typing import Any

import torch

from .configuration_features_slt import VisualFeaturesConfig
from .sign_encoder_slt import SignEncoder, SignEncoderOutput, TokenStep, checked_visual_mask


class VisualFeaturesEncoder(SignEncoder):
    """
    Passes on precomputed visual features as visual tokens. It has no weights: the adapter after it is the first layer
    that sees them.

    ```python
    >>> encoder = VisualFeaturesEncoder(VisualFeaturesConfig(hidden_size=1024))
    >>> encoder(visual_features=torch.randn(2, 40, 1024)).last_hidden_state.shape
    torch.Size([2, 40, 1024])
    ```
    """

    config_class = VisualFeaturesConfig
    main_input_name = "visual_features"
    input_names = ("visual_features", "visual_attention_mask")
    input_modalities = ("video",)
    clip_words = {
        "a_clip": "ready-made visual features",
        "reads": "reads ready-made visual features",
        "example": "clip.npy",
    }

    def __init__(self, config: VisualFeaturesConfig):
        super().__init__(config)
        # Not a weight: it holds the device and dtype, and makes a saved encoder complete.
        self.register_buffer("where_it_is", torch.zeros(()))
        self.post_init()

    def forward(
        self,
        visual_features: torch.FloatTensor,
        visual_attention_mask: torch.LongTensor | None = None,
        **kwargs: Any,
    ) -> SignEncoderOutput:
        r"""
        Args:
            visual_features (`torch.FloatTensor` of shape `(batch, tokens, hidden_size)`):
                Features of each clip in order, padded at the end.
            visual_attention_mask (`torch.LongTensor` of shape `(batch, tokens)`, *optional*):
                1 for real features. Default: all are real.

        Raises:
            ValueError: for features or a mask of another shape.
        """
        mask = checked_visual_mask(visual_features, visual_attention_mask, self.config.hidden_size)
        return SignEncoderOutput(
            last_hidden_state=visual_features.masked_fill(~mask[..., None], 0.0), attention_mask=mask.long()
        )

    @property
    def dtype(self) -> torch.dtype:
        return self.where_it_is.dtype

    @property
    def device(self) -> torch.device:
        return self.where_it_is.device

    def get_token_steps(self) -> list[TokenStep]:
        """One visual token for each feature."""
        return []

    def get_centre_and_spacing(self) -> tuple[float, float]:
        """See `SignEncoder.get_centre_and_spacing`; a feature counts as a frame."""
        return 0.0, 1


__all__ = ["VisualFeaturesConfig", "VisualFeaturesEncoder"]
