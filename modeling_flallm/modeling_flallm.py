"""
FLa-LLM, gloss-free sign language translation with factorised learning (https://arxiv.org/abs/2403.12556).

    frames -> visual encoder -> adapter -> encoder-decoder text model -> sentence

Both stages of the paper are this one model. Stage 1 (visual initialing, section 3.1) trains all of it with a small
random text model, Light-T. Stage 2 (LLM fine-tuning, section 3.2) keeps the visual encoder, frozen, and trains a new
adapter and a pretrained text model:

    model = FLaLLMForTranslation.from_vision_text_pretrained("stage1/", "facebook/mbart-large-cc25")
    model.freeze_visual_encoder()
"""

from typing import Any

import torch
from torch import nn
from transformers import initialization as init

from .adapter_slt import VisualLanguageAdapter
from .configuration_flallm import FLaLLMConfig
from .language_encoder_decoder_slt import EncoderDecoderTranslationModel
from .losses_slt import IGNORED_LABEL, WORD_ABSENT_LOGIT, word_presence_cross_entropy, word_scores_of_clips

WORD_DIRECTION_NORM = 4.0


class FLaLLMForTranslation(EncoderDecoderTranslationModel):
    """
    Sign language video in, spoken language sentence out.

    ```python
    >>> from modeling_flallm import FLaLLMForTranslation
    >>> from processing import FLaLLMProcessor

    >>> model = FLaLLMForTranslation.from_pretrained("quickstart_output/model")
    >>> processor = FLaLLMProcessor.from_pretrained("quickstart_output/model")
    >>> inputs = processor(videos="clip.mp4", return_tensors="pt")
    >>> processor.batch_decode(model.generate(**inputs, num_beams=5))
    ```

    The loss is the label-smoothed cross entropy of the paper. With `config.word_presence_loss_weight` above 0 there is
    an extra term of ours: from the adapter's output, a linear layer scores every token of the vocabulary for each
    visual token, a smooth maximum (logsumexp) pools the scores over time, and binary cross entropy compares them with
    the set of tokens in the sentence. It breaks the language prior on which a randomly initialised encoder gets stuck,
    without any gloss. With a pretrained text model, the linear layer starts from its token embeddings.
    """

    config_class = FLaLLMConfig
    base_model_prefix = "flallm"
    main_input_name = "pixel_values_videos"
    input_modalities = ("video",)
    head_names = ("word_presence_head",)
    unquantized_modules = ("vision_model", "adapter", "word_presence_head", "lm_head")
    encoder_advice = "Train stage 1 of FLa-LLM first (flallm train visual-initialing), or name its output folder."

    def __init__(self, config: FLaLLMConfig):
        super().__init__(config)
        config = self.config
        text_hidden_size = config.text_config.hidden_size
        self.adapter = VisualLanguageAdapter(
            config.vision_config.hidden_size,
            text_hidden_size,
            config.adapter_hidden_size,
            config.adapter_activation,
            config.adapter_norm,
        )
        self.text_model = self._build_text_model()
        if config.word_presence_loss_weight:
            self.word_presence_head = nn.Linear(text_hidden_size, config.text_config.vocab_size)
        self.main_input_name = self.vision_model.main_input_name
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is getattr(self, "word_presence_head", None):
            init.constant_(module.bias, WORD_ABSENT_LOGIT)

    @torch.no_grad()
    def _start_new_parts(self) -> None:
        """Word scores start from the text model's embeddings: it can read at once an adapter that shows the words."""
        embeddings = self.text_model.get_input_embeddings().weight
        device = torch.get_default_device() if embeddings.is_meta else embeddings.device
        self.adapter.to_empty(device=device).apply(self._init_weights).to(embeddings.dtype)
        if not self.config.word_presence_loss_weight:
            return
        self.word_presence_head.to_empty(device=device).apply(self._init_weights).to(embeddings.dtype)
        directions = nn.functional.normalize(embeddings.float(), dim=-1)
        self.word_presence_head.weight.copy_(WORD_DIRECTION_NORM * directions)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Module:
        """
        Resize the text model's embeddings, its output bias included. See `PreTrainedModel.resize_token_embeddings`.

        Raises:
            ValueError: if the model has a word-presence head, which is bound to the vocabulary.
        """
        if hasattr(self, "word_presence_head"):
            raise ValueError(
                "The word-presence head is bound to the vocabulary. Build the model with "
                "`word_presence_loss_weight=0`, or with a text model whose embeddings have been resized."
            )
        return super().resize_token_embeddings(*args, **kwargs)

    def _summed_loss_of_embeddings(
        self, embeddings: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor | float:
        """
        Sum over the clips of their `word_presence_cross_entropy` times their label tokens: divided by
        `num_items_in_batch` it is a mean over clips that does not depend on how a batch is split.
        """
        if not self.config.word_presence_loss_weight:
            return 0.0
        scores = word_scores_of_clips(self.word_presence_head(embeddings).float(), mask)
        presence_loss = (word_presence_cross_entropy(scores, labels) * (labels != IGNORED_LABEL).sum(1)).sum()
        return self.config.word_presence_loss_weight * presence_loss


__all__ = ["FLaLLMForTranslation"]
