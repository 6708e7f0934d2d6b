"""
Visual contrastive pretraining, stage 2 of LLaVA-SLT (https://arxiv.org/abs/2412.16524): the sign encoder learns from
frozen text embeddings. Its word-like tokens are aligned with the language model's embeddings of the words that the
sentence contains, which needs no gloss, and its vector of the whole clip with the embedding of the sentence.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_llava_slt import LlavaSltContrastiveConfig
from .encoders_slt import build_sign_encoder
from .hub_card_slt import SentWithACard
from .loading_slt import LoadedWhole
from .losses_slt import (
    IGNORED_LABEL,
    LARGEST_LOGIT_SCALE,
    WORD_ABSENT_LOGIT,
    ContrastsWithSentences,
    float32_product,
    gather_clips,
    word_presence_cross_entropy,
    word_scores_of_clips,
)
from .sign_encoder_slt import SignEncoderOutput
from .systems import TAGS

# A cosine of 1 then begins with the logit 4, 10 above that of an absent word.
WORD_LOGIT_SCALE = 10.0


@dataclass
class LlavaSltContrastiveOutput(ModelOutput):
    """
    Args:
        loss (`torch.FloatTensor` of shape `()`, with sentence embeddings):
            `sentence_loss + word_alignment_weight * word_loss`, over the global batch.
        sentence_loss (`torch.FloatTensor` of shape `()`):
            Symmetric InfoNCE.
        word_loss (`torch.FloatTensor` of shape `()`, with word ids):
            Binary cross entropy of the words that the windows show.
        video_embeddings (`torch.FloatTensor` of shape `(batch, sentence_target_size)`):
            Of norm 1.
        logits_per_video (`torch.FloatTensor` of shape `(batch, batch)`):
            Cosines of this process's videos and sentences, times the learned scale.
        word_logits (`torch.FloatTensor` of shape `(batch, word_vocabulary_size)`, with word ids):
            Above 0 for the words that the video seems to show.
    """

    loss: torch.FloatTensor | None = None
    sentence_loss: torch.FloatTensor | None = None
    word_loss: torch.FloatTensor | None = None
    video_embeddings: torch.FloatTensor | None = None
    logits_per_video: torch.FloatTensor | None = None
    word_logits: torch.FloatTensor | None = None


class LlavaSltForContrastivePreTraining(ContrastsWithSentences, SentWithACard, LoadedWhole, PreTrainedModel):
    """
    Stage 2 of LLaVA-SLT: the visual encoder learns from frozen text embeddings. All beyond "contrastive" is ours.

    Sentence level: the video's embedding is contrasted with the embeddings of all sentences of the global batch, and
    the sentence's with all videos (InfoNCE, as in CLIP). Sentences that occur twice are not each other's negatives. The
    memory bank adds earlier sentences to the negatives of each video.

    Word level: cosine of each word-like token, through a linear projection, with the embedding that the language model
    has of each token of the training sentences, `word_targets`; times a learned scale, plus a learned bias of each
    token; a smooth maximum (logsumexp) over the clip; binary cross entropy with the set of tokens in the sentence,
    summed over the vocabulary and divided by the number of present tokens.

    Several processes compute one loss over all their clips, with its gradient: two processes train what one would.
    """

    config_class = LlavaSltContrastiveConfig
    base_model_prefix = "llava_slt_contrastive"
    main_input_name = "pixel_values_videos"
    input_modalities = ("video",)
    hub_tags = (*TAGS, "llava-slt")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    # The loss is a mean over clips: the Trainer must average over accumulated batches itself.
    accepts_loss_kwargs = False

    def __init__(self, config: LlavaSltContrastiveConfig):
        super().__init__(config)
        width = config.vision_config.hidden_size
        self.vision_model = build_sign_encoder(config.vision_config)
        self.sentence_projection = nn.Linear(width, config.sentence_target_size)
        self._build_contrast(config.sentence_target_size, config.memory_bank_size)
        if config.word_vocabulary_size and config.word_alignment_weight:
            self.word_projection = nn.Linear(width, config.word_target_size)
            self.word_logit_scale = nn.Parameter(torch.empty(()))
            self.word_logit_bias = nn.Parameter(torch.empty(config.word_vocabulary_size))  # how frequent each word is
            self.register_buffer("word_targets", torch.empty(config.word_vocabulary_size, config.word_target_size))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
        if module is not self:
            return
        self._start_contrast(self.config.temperature_init)
        if self.has_word_level:
            init.constant_(self.word_logit_scale, math.log(WORD_LOGIT_SCALE))
            init.constant_(self.word_logit_bias, WORD_ABSENT_LOGIT)
            init.zeros_(self.word_targets)

    @property
    def has_word_level(self) -> bool:
        return hasattr(self, "word_projection")

    @torch.no_grad()
    def set_word_targets(self, embeddings: torch.Tensor) -> None:
        """
        Set the language model's embeddings `(word_vocabulary_size, word_target_size)` of the tokens that `word_ids`
        count.

        Raises:
            ValueError: for a wrong shape, or without a word level.
        """
        if not self.has_word_level:
            raise ValueError("The model has no word level: `word_vocabulary_size` or `word_alignment_weight` is 0.")
        if embeddings.shape != self.word_targets.shape:
            raise ValueError(
                f"The word targets must have the shape {tuple(self.word_targets.shape)} (word_vocabulary_size, "
                f"word_target_size), got {tuple(embeddings.shape)}."
            )
        self.word_targets.copy_(embeddings)

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.FloatTensor | None = None,
        pixel_attention_mask: torch.LongTensor | None = None,
        sentence_embeddings: torch.FloatTensor | None = None,
        word_ids: torch.LongTensor | None = None,
        **kwargs: Any,
    ) -> LlavaSltContrastiveOutput:
        r"""
        Args:
            pixel_values_videos (`torch.FloatTensor` of shape `(batch, frames, 3, height, width)`, *optional*):
                Normalised frames, padded at the end of a clip, for sign encoders that read frames.
            pixel_attention_mask (`torch.LongTensor` of shape `(batch, frames)`, *optional*):
                1 for real frames. Default: all are real.
            sentence_embeddings (`torch.FloatTensor` of shape `(batch, sentence_target_size)`, *optional*):
                From the frozen text encoder, of any norm. Without them there is no loss.
            word_ids (`torch.LongTensor` of shape `(batch, words)`, *optional*):
                The tokens of each sentence as rows of `word_targets`; -100 is padding. Needed for the loss where the
                model has a word level.
            kwargs: further inputs of the sign encoder, by its `input_names`.

        Raises:
            ValueError: for wrong shapes, missing or unknown words, inputs that the sign encoder does not read, or an
                encoder that gives no vector for the whole clip.
        """
        named = {"pixel_values_videos": pixel_values_videos, "pixel_attention_mask": pixel_attention_mask}
        vision_output = self.vision_model(**self.vision_model.given_inputs({**named, **kwargs}))
        if vision_output.pooler_output is None:
            raise ValueError(
                "Contrastive pretraining needs a sign encoder with a `pooler_output`, one vector for the whole clip, "
                f"but {type(self.vision_model).__name__} gives none. Use `LlavaSltVisualEncoder`."
            )
        videos = nn.functional.normalize(self.sentence_projection(vision_output.pooler_output).float(), dim=-1)
        if sentence_embeddings is None:
            return LlavaSltContrastiveOutput(video_embeddings=videos)
        self._check_text(len(videos), sentence_embeddings, word_ids)
        sentences = nn.functional.normalize(sentence_embeddings.float(), dim=-1).detach()
        output = LlavaSltContrastiveOutput(
            sentence_loss=self._sentence_loss(videos, sentences),
            video_embeddings=videos,
            logits_per_video=self._contrast_scale() * float32_product(videos, sentences),
        )
        output["loss"] = output.sentence_loss
        if self.has_word_level:
            output["word_logits"] = self._word_logits(vision_output)
            output["word_loss"] = gather_clips(word_presence_cross_entropy(output.word_logits, word_ids)).mean()
            output["loss"] = output.loss + self.config.word_alignment_weight * output.word_loss
        return output

    def _check_text(self, num_videos: int, sentence_embeddings: torch.Tensor, word_ids: torch.Tensor | None) -> None:
        expected = (num_videos, self.config.sentence_target_size)
        if sentence_embeddings.shape != expected:
            raise ValueError(
                f"`sentence_embeddings` must have the shape (batch, sentence_target_size) = {expected}, got "
                f"{tuple(sentence_embeddings.shape)}."
            )
        if not self.has_word_level:
            return
        if word_ids is None:
            raise ValueError("The model has a word level: pass `word_ids` beside `sentence_embeddings`.")
        if word_ids.ndim != 2 or len(word_ids) != num_videos:
            raise ValueError(
                f"`word_ids` must have the shape (batch, words) with {num_videos} rows, got {tuple(word_ids.shape)}."
            )
        is_wrong = (word_ids != IGNORED_LABEL) & ((word_ids < 0) | (word_ids >= len(self.word_targets)))
        if is_wrong.any():
            raise ValueError(
                f"`word_ids` must be rows of the {len(self.word_targets)} word targets, or {IGNORED_LABEL} for "
                f"padding, got {int(word_ids[is_wrong][0])}."
            )

    def _word_logits(self, vision_output: SignEncoderOutput) -> torch.Tensor:
        words = nn.functional.normalize(self.word_projection(vision_output.last_hidden_state).float(), dim=-1)
        targets = nn.functional.normalize(self.word_targets.float(), dim=-1)
        scale = self.word_logit_scale.float().exp().clamp(max=LARGEST_LOGIT_SCALE)
        scores = scale * float32_product(words, targets) + self.word_logit_bias.float()  # (clips, words, vocabulary)
        return word_scores_of_clips(scores, vision_output.attention_mask)


__all__ = ["LlavaSltContrastiveOutput", "LlavaSltForContrastivePreTraining"]
