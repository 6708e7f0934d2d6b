"""
LLaVA-SLT, sign language translation with a decoder-only language model (https://arxiv.org/abs/2412.16524).

    frames -> visual encoder -> word-like tokens -> connector -> prompt of the language model -> sentence

Three stages: the language model continues its pretraining on text, the visual encoder learns from frozen text
embeddings (`LlavaSltForContrastivePreTraining`), and visual language tuning freezes both and trains the connector:

    model = LlavaSltForTranslation.from_vision_text_pretrained("stage2/", "stage1/", video_token_id=...)
    model.freeze_for_connector_tuning()
"""

from typing import Any, Self

import torch

from .adapter_slt import VisualLanguageAdapter
from .configuration_llava_slt import TEXT_MODEL_EXPECTED, LlavaSltConfig
from .language_prompted_slt import PromptedTranslationModel
from .sign_encoder_slt import SignEncoder
from .systems import TAGS

NUM_EMBEDDINGS_LOOKED_AT = 1000


class LlavaSltForTranslation(PromptedTranslationModel):
    """
    Sign language video and prompt in, spoken language sentence out.

    ```python
    >>> from modeling_flallm import LlavaSltForTranslation
    >>> from processing import LlavaSltProcessor

    >>> model = LlavaSltForTranslation.from_pretrained("quickstart_llava_slt_output/model")
    >>> processor = LlavaSltProcessor.from_pretrained("quickstart_llava_slt_output/model")
    >>> inputs = processor(videos="clip.mp4", return_tensors="pt")
    >>> processor.batch_decode(model.generate(**inputs, num_beams=5))
    ```
    """

    config_class = LlavaSltConfig
    base_model_prefix = "llava_slt"
    hub_tags = (*TAGS, "llava-slt")
    adapter_name = "connector"
    text_model_name = "language_model"
    text_model_expected = TEXT_MODEL_EXPECTED
    unquantized_modules = ("vision_model", "connector", "lm_head")
    encoder_advice = "Train stage 2 first, or name its output folder."

    def __init__(self, config: LlavaSltConfig):
        super().__init__(config)
        self.language_model = self._build_text_model()
        self.connector = self._build_connector()
        self.post_init()

    def _build_connector(self) -> VisualLanguageAdapter:
        embedding_size = self.language_model.get_input_embeddings().weight.shape[1]
        return VisualLanguageAdapter(
            self.config.vision_config.hidden_size,
            embedding_size,
            self.config.connector_hidden_size or embedding_size,
            self.config.connector_activation,
        )

    @classmethod
    def from_vision_text_pretrained(
        cls,
        vision_model_name_or_path: str | SignEncoder,
        text_model_name_or_path: str,
        video_token_id: int,
        **config_values: Any,
    ) -> Self:
        """
        The start of stage 3: the visual encoder of stage 2, a new connector, the language model of stage 1. See
        `SignTranslationModel.from_vision_text_pretrained`.

        The connector's first outputs have the scale of the language model's token embeddings (ours).

        Args:
            video_token_id (`int`): id of the placeholder; the embeddings are resized if they have no row for it.
        """
        return super().from_vision_text_pretrained(
            vision_model_name_or_path, text_model_name_or_path, video_token_id=video_token_id, **config_values
        )

    def _start_new_parts(self) -> None:
        self.connector = self._build_connector()
        self.connector.apply(self._init_weights)
        embeddings = self.get_input_embeddings()
        if not embeddings.weight.is_meta:
            self.connector.to(embeddings.weight)
        step = max(embeddings.weight.shape[0] // NUM_EMBEDDINGS_LOOKED_AT, 1)
        with torch.no_grad():
            token_ids = torch.arange(0, embeddings.weight.shape[0], step, device=embeddings.weight.device)
            self.connector.start_at_scale(embeddings(token_ids).float().square().mean().sqrt())

    def freeze_for_connector_tuning(self) -> None:
        """
        Freeze everything but the connector, for visual language tuning. The frozen parts stay in evaluation mode,
        without dropout, even after `.train()`.
        """
        self.freeze_visual_encoder()
        self.freeze_text_model()


__all__ = ["LlavaSltForTranslation"]
