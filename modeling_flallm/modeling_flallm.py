"""
FLa-LLM, gloss-free sign language translation with factorised learning (https://arxiv.org/abs/2403.12556).

    frames -> visual encoder -> adapter -> encoder-decoder text model -> sentence

Both stages of the paper are this one model. Stage 1 (visual initialing, section 3.1) trains all of it with a small
random text model, Light-T. Stage 2 (LLM fine-tuning, section 3.2) keeps the visual encoder, frozen, and trains a new
adapter and a pretrained text model:

    model = FLaLLMForTranslation.from_vision_text_pretrained("stage1/", "facebook/mbart-large-cc25")
    model.freeze_visual_encoder()
"""

import math
from typing import Any

import torch
from torch import nn
from transformers import initialization as init

from .adapter_slt import VisualLanguageAdapter
from .configuration_flallm import FLaLLMConfig
from .language_encoder_decoder_slt import EncoderDecoderTranslationModel
from .losses_slt import (
    IGNORED_LABEL,
    WORD_ABSENT_LOGIT,
    VisualTextAlignment,
    word_presence_cross_entropy,
    word_scores_of_clips,
)

WORD_DIRECTION_NORM = 4.0
ALIGNMENT_TEMPERATURE = 0.07  # at the start: CLIP's, and SpaMo's
SPECIAL_TOKENS = ("pad", "bos", "eos", "sep", "decoder_start", "forced_bos")


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

    With `config.visual_text_alignment_weight` above 0 there is, in training alone, SpaMo's contrast of each clip, the
    mean of the adapter's outputs, with the sentences of the batch, each the mean of the text model's embeddings of its
    tokens (`VisualTextAlignment`). Special tokens are those that the text model's configuration and the generation
    configuration name. Like the other terms it is a mean over clips that counts each by its label tokens and does not
    depend on the number of processes. But clips are only contrasted within one forward pass of all processes: of
    accumulated batches, each is contrasted on its own.

    Attributes:
        is_warming_up (`bool`):
            Set it to train with the visual-text alignment alone, unweighted and without running the text model. It is
            not saved, and evaluation does not heed it.
    """

    config_class = FLaLLMConfig
    base_model_prefix = "flallm"
    main_input_name = "pixel_values_videos"
    input_modalities = ("video",)
    head_names = ("word_presence_head", "visual_text_alignment")
    is_warming_up = False
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
        if config.visual_text_alignment_weight:
            self.visual_text_alignment = VisualTextAlignment()
        self.main_input_name = self.vision_model.main_input_name
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is getattr(self, "word_presence_head", None):
            init.constant_(module.bias, WORD_ABSENT_LOGIT)
        if isinstance(module, VisualTextAlignment):
            init.constant_(module.logit_scale, -math.log(ALIGNMENT_TEMPERATURE))

    @torch.no_grad()
    def _start_new_parts(self) -> None:
        """Word scores start from the text model's embeddings: it can read at once an adapter that shows the words."""
        embeddings = self.text_model.get_input_embeddings().weight
        device = torch.get_default_device() if embeddings.is_meta else embeddings.device
        for name in (self.adapter_name, *self.head_names):
            if hasattr(self, name):
                getattr(self, name).to_empty(device=device).apply(self._init_weights).to(embeddings.dtype)
        if not self.config.word_presence_loss_weight:
            return
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
        Sum over the clips of their weighted losses times their label tokens: divided by `num_items_in_batch` it is a
        mean over clips that does not depend on how a batch is split.
        """
        loss = 0.0
        if self.config.word_presence_loss_weight:
            scores = word_scores_of_clips(self.word_presence_head(embeddings).float(), mask)
            presence_loss = (word_presence_cross_entropy(scores, labels) * (labels != IGNORED_LABEL).sum(1)).sum()
            loss = loss + self.config.word_presence_loss_weight * presence_loss
        if self.config.visual_text_alignment_weight and self.training:
            alignment_loss = self._summed_alignment_loss(embeddings, mask, labels)
            loss = loss + self.config.visual_text_alignment_weight * alignment_loss
        return loss

    def _summed_loss_of_warm_up(
        self, embeddings: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor | None:
        is_warm_up = self.is_warming_up and self.training
        return self._summed_alignment_loss(embeddings, mask, labels) if is_warm_up else None

    def _summed_alignment_loss(
        self, embeddings: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        """Sum over the clips of their `VisualTextAlignment` times their label tokens, see above."""
        special = torch.tensor(self._special_token_ids(), device=labels.device)
        is_word = (labels != IGNORED_LABEL) & ~torch.isin(labels, special)
        with torch.no_grad():
            words = self.get_input_embeddings()(labels.clamp(min=0)).to(embeddings.device)
        losses = self.visual_text_alignment(embeddings, mask, words, is_word)
        return (losses * (labels != IGNORED_LABEL).sum(1)).sum()

    def _special_token_ids(self) -> list[int]:
        configs = (self.config.text_config, self.generation_config)
        named = [getattr(config, f"{name}_token_id", None) for config in configs for name in SPECIAL_TOKENS]
        lists = [value if isinstance(value, list | tuple) else [value] for value in named]
        return sorted({value for values in lists for value in values if value is not None})


__all__ = ["FLaLLMForTranslation"]
