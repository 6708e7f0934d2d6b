"""
The visual side of LLaVA-SLT (https://arxiv.org/abs/2412.16524): the hierarchical visual encoder and its contrastive
pretraining.

    frames -> frame tokens -> word-like tokens -> sentence

The paper's abstract says that the encoder is hierarchical, that it is aligned with a large pretrained text encoder, and
that its intermediate level is word-like and compatible with the language model's token embeddings. How is ours:

- frame level: FLa-LLM's visual encoder, one token per frame;
- word level: a strided convolution over windows of frames, then transformer layers over the windows. Aligned with the
  token embeddings of the words that the sentence contains, which needs no gloss;
- sentence level: attention pooling over the word-like tokens. Aligned with the sentence's embedding by InfoNCE.
"""

import math
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as distributed
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from .configuration_llava_slt import LlavaSltContrastiveConfig, LlavaSltVisualConfig
from .hub_card_slt import SentWithACard
from .loading_slt import LoadedWhole
from .losses_slt import IGNORED_LABEL, WORD_ABSENT_LOGIT, word_presence_cross_entropy, word_scores_of_clips
from .systems import LLAVA_SLT
from .visual_encoder_flallm import FLaLLMVisionModel, Frames, VisualEncoderMixin, length_mask, several_processes

# CLIP's limit: a sharper contrast than one hundred to one is not stable.
LARGEST_LOGIT_SCALE = 100.0
# A cosine of 1 then begins with the logit 4, 10 above that of an absent word.
WORD_LOGIT_SCALE = 10.0
# Two computations of one sentence's embedding differ by less, two sentences by more.
LARGEST_DISTANCE_OF_EQUALS = 1e-3


@dataclass
class LlavaSltVisualEncoderOutput(ModelOutput):
    """
    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(batch, words, word_hidden_size)`):
            Word-like tokens; 0 behind the end of a clip.
        attention_mask (`torch.LongTensor` of shape `(batch, words)`):
            1 for the tokens of the clip, 0 for padding.
        pooler_output (`torch.FloatTensor` of shape `(batch, word_hidden_size)`):
            The sentence level: a weighted mean of the clip's word-like tokens.
    """

    last_hidden_state: torch.FloatTensor | None = None
    attention_mask: torch.LongTensor | None = None
    pooler_output: torch.FloatTensor | None = None


class WordLevel(nn.Module):
    """
    `(batch, frames, frame hidden size)` and lengths -> `(batch, words, word_hidden_size)` and word lengths.

    Word i sees the frames around frame i * stride. Behind the end of a clip the frame tokens are 0, which is the zero
    padding that the clip would meet alone.
    """

    def __init__(self, config: LlavaSltVisualConfig):
        super().__init__()
        self.stride = config.word_window_stride
        self.frames_in_front = (config.word_window_size - 1) // 2
        self.frames_behind = config.word_window_size - 1 - self.frames_in_front
        width = config.word_hidden_size
        self.windows = nn.Conv1d(config.frame_config.hidden_size, width, config.word_window_size, self.stride)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width,
                config.word_attention_heads,
                config.word_feed_forward_size,
                config.dropout,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(config.word_layers)
        )
        # Each layer begins as the identity. One that mixes the windows before they show anything keeps the word level
        # on how frequent words are.
        for layer in self.layers:
            layer.self_attn.out_proj.starts_at_zero = layer.linear2.starts_at_zero = True
        self.norm = nn.LayerNorm(width)
        self.gradient_checkpointing = False

    def get_num_tokens(self, num_frames: Frames) -> Frames:
        return (num_frames + self.stride - 1) // self.stride

    def forward(self, frames: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        padded = nn.functional.pad(frames.transpose(1, 2), (self.frames_in_front, self.frames_behind))
        hidden = self.windows(padded).transpose(1, 2)  # (batch, words, width)
        hidden = hidden + _sinusoidal_positions(*hidden.shape[1:], hidden.device).to(hidden.dtype)
        num_words = self.get_num_tokens(lengths)
        is_real = length_mask(num_words, hidden.shape[1])
        for layer in self.layers:
            hidden = self._run_layer(layer, hidden, ~is_real)
        return self.norm(hidden).masked_fill(~is_real[..., None], 0), num_words

    def _run_layer(self, layer: nn.Module, hidden: torch.Tensor, is_padding: torch.Tensor) -> torch.Tensor:
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(layer.__call__, hidden, None, is_padding)
        return layer(hidden, src_key_padding_mask=is_padding)


def _sinusoidal_positions(length: int, width: int, device: torch.device) -> torch.Tensor:
    """`(length, width)`, as in "Attention is all you need": any length, and nothing to be learned."""
    rates = torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10_000) / width))
    angles = torch.arange(length, device=device)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :width]


class SentenceLevel(nn.Module):
    """Attention pooling over the real words: `(batch, words, width)` and mask `(batch, words)` -> `(batch, width)`."""

    def __init__(self, config: LlavaSltVisualConfig):
        super().__init__()
        self.importance = nn.Linear(config.word_hidden_size, 1)

    def forward(self, words: torch.Tensor, is_real: torch.Tensor) -> torch.Tensor:
        importance = self.importance(words).float().squeeze(2).masked_fill(~is_real, -torch.inf)
        return (importance.softmax(1).to(words.dtype)[..., None] * words).sum(1)


class LlavaSltPreTrainedModel(SentWithACard, LoadedWhole, PreTrainedModel):
    """How the new weights of LLaVA-SLT begin."""

    hub_tags = LLAVA_SLT.hub_tags
    input_modalities = ("video",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if getattr(module, "starts_at_zero", False):
            init.zeros_(module.weight)
        elif isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
        elif isinstance(module, nn.Conv1d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class LlavaSltVisualEncoder(VisualEncoderMixin, LlavaSltPreTrainedModel):
    """
    Frames to word-like tokens and to one vector for the sentence, see the top of this file.

    Only real frames go through the CNN, and no output depends on padding. With `frozen` set (see `freeze`), weights and
    BatchNorm statistics stay as they are, also after `.train()`, dropout is off and no gradient is computed.
    """

    config_class = LlavaSltVisualConfig
    base_model_prefix = "vision_model"
    main_input_name = "pixel_values_videos"
    # See `FLaLLMVisionModel`.
    _no_split_modules = ("LlavaSltVisualEncoder", "WordLevel", "SentenceLevel")
    # It can be loaded from a whole model, too, and leaves the rest of that where it is.
    _keys_to_ignore_on_load_unexpected = (
        r"^(language_model|connector|sentence_projection|word_projection)\.",
        r"^(logit_scale|word_logit_scale|word_logit_bias|word_targets|memory_bank|num_remembered)$",
    )

    def __init__(self, config: LlavaSltVisualConfig):
        super().__init__(config)
        self.frame_encoder = FLaLLMVisionModel(config.frame_config)
        self.word_level = WordLevel(config)
        self.sentence_level = SentenceLevel(config)
        self.post_init()

    @property
    def backbone(self) -> nn.Module:
        """The CNN of the frame level."""
        return self.frame_encoder.backbone

    @property
    def frames_per_chunk(self) -> int | None:
        """See `FLaLLMVisionModel`."""
        return self.frame_encoder.frames_per_chunk

    @frames_per_chunk.setter
    def frames_per_chunk(self, value: int | None) -> None:
        self.frame_encoder.frames_per_chunk = value

    def load_imagenet_weights(self) -> None:
        """See `FLaLLMVisionModel.load_imagenet_weights`."""
        self.frame_encoder.load_imagenet_weights()

    def get_num_tokens(self, num_frames: Frames) -> Frames:
        return self.word_level.get_num_tokens(num_frames)

    def get_centre_and_spacing(self) -> tuple[float, float]:
        # Windows lie around the frames 0, stride, ...; the middle of an even one is half a frame behind.
        return (self.word_level.frames_behind - self.word_level.frames_in_front) / 2, self.word_level.stride

    def forward(
        self,
        pixel_values_videos: torch.FloatTensor,
        pixel_attention_mask: torch.LongTensor | None = None,
    ) -> LlavaSltVisualEncoderOutput:
        r"""
        Args:
            pixel_values_videos (`torch.FloatTensor` of shape `(batch, frames, 3, height, width)`):
                Normalised frames, padded at the end of a clip.
            pixel_attention_mask (`torch.LongTensor` of shape `(batch, frames)`, *optional*):
                1 for real frames, 0 for padding behind them. Default: all are real.

        Raises:
            ValueError: as `FLaLLMVisionModel`.
        """
        with torch.no_grad() if self.frozen else nullcontext():
            frames = self.frame_encoder(pixel_values_videos, pixel_attention_mask)
            words, num_words = self.word_level(frames.last_hidden_state, frames.attention_mask.sum(1))
            is_real = length_mask(num_words, words.shape[1])
            sentence = self.sentence_level(words, is_real)
        return LlavaSltVisualEncoderOutput(
            last_hidden_state=words, attention_mask=is_real.long(), pooler_output=sentence
        )


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
            Of length 1.
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


class LlavaSltForContrastivePreTraining(LlavaSltPreTrainedModel):
    """
    Stage 2 of LLaVA-SLT: the visual encoder learns from frozen text embeddings. How, beyond "contrastive", is ours.

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
    # The loss is a mean over clips: the Trainer must average over accumulated batches itself.
    accepts_loss_kwargs = False

    def __init__(self, config: LlavaSltContrastiveConfig):
        super().__init__(config)
        width = config.vision_config.word_hidden_size
        self.vision_model = LlavaSltVisualEncoder(config.vision_config)
        self.sentence_projection = nn.Linear(width, config.sentence_target_size)
        self.logit_scale = nn.Parameter(torch.empty(()))
        if config.word_vocabulary_size and config.word_alignment_weight:
            self.word_projection = nn.Linear(width, config.word_target_size)
            self.word_logit_scale = nn.Parameter(torch.empty(()))
            self.word_logit_bias = nn.Parameter(torch.empty(config.word_vocabulary_size))  # how frequent each word is
            self.register_buffer("word_targets", torch.empty(config.word_vocabulary_size, config.word_target_size))
        if config.memory_bank_size:
            self.register_buffer("memory_bank", torch.empty(config.memory_bank_size, config.sentence_target_size))
            self.register_buffer("num_remembered", torch.zeros((), dtype=torch.long))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is not self:
            return
        init.constant_(self.logit_scale, -math.log(self.config.temperature_init))
        if self.has_word_level:
            init.constant_(self.word_logit_scale, math.log(WORD_LOGIT_SCALE))
            init.constant_(self.word_logit_bias, WORD_ABSENT_LOGIT)
            init.zeros_(self.word_targets)
        if self.config.memory_bank_size:
            init.zeros_(self.memory_bank)
            init.zeros_(self.num_remembered)

    @property
    def has_word_level(self) -> bool:
        return hasattr(self, "word_projection")

    @torch.no_grad()
    def set_word_targets(self, embeddings: torch.Tensor) -> None:
        """
        The language model's embeddings `(word_vocabulary_size, word_target_size)` of the tokens that `word_ids` count.

        Raises:
            ValueError: for another shape, or without a word level.
        """
        if not self.has_word_level:
            raise ValueError("The model has no word level: `word_vocabulary_size` or `word_alignment_weight` is 0.")
        if embeddings.shape != self.word_targets.shape:
            raise ValueError(
                f"The word targets must have the shape {tuple(self.word_targets.shape)} (word_vocabulary_size, "
                f"word_target_size), got {tuple(embeddings.shape)}."
            )
        self.word_targets.copy_(embeddings)

    def forward(
        self,
        pixel_values_videos: torch.FloatTensor,
        pixel_attention_mask: torch.LongTensor | None = None,
        sentence_embeddings: torch.FloatTensor | None = None,
        word_ids: torch.LongTensor | None = None,
    ) -> LlavaSltContrastiveOutput:
        r"""
        Args:
            pixel_values_videos (`torch.FloatTensor` of shape `(batch, frames, 3, height, width)`):
                Normalised frames, padded at the end of a clip.
            pixel_attention_mask (`torch.LongTensor` of shape `(batch, frames)`, *optional*):
                1 for real frames. Default: all are real.
            sentence_embeddings (`torch.FloatTensor` of shape `(batch, sentence_target_size)`, *optional*):
                From the frozen text encoder, of any length. Without them there is no loss.
            word_ids (`torch.LongTensor` of shape `(batch, words)`, *optional*):
                The tokens of each sentence as rows of `word_targets`; -100 is padding. Needed for the loss where the
                model has a word level.

        Raises:
            ValueError: for wrong shapes, or missing or unknown words.
        """
        vision_output = self.vision_model(pixel_values_videos, pixel_attention_mask)
        videos = nn.functional.normalize(self.sentence_projection(vision_output.pooler_output).float(), dim=-1)
        if sentence_embeddings is None:
            return LlavaSltContrastiveOutput(video_embeddings=videos)
        self._check_text(len(videos), sentence_embeddings, word_ids)
        sentences = nn.functional.normalize(sentence_embeddings.float(), dim=-1).detach()
        scale = self.logit_scale.float().exp().clamp(max=LARGEST_LOGIT_SCALE)
        output = LlavaSltContrastiveOutput(
            sentence_loss=self._sentence_loss(videos, sentences, scale),
            video_embeddings=videos,
            logits_per_video=scale * _product(videos, sentences),
        )
        output["loss"] = output.sentence_loss
        if self.has_word_level:
            output["word_logits"] = self._word_logits(vision_output)
            output["word_loss"] = _gather(word_presence_cross_entropy(output.word_logits, word_ids)).mean()
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

    def _sentence_loss(self, videos: torch.Tensor, sentences: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        videos, sentences = _gather(videos), _gather(sentences)
        num_clips = len(videos)
        candidates = torch.cat([sentences, self._remembered()])
        logits = scale * _product(videos, candidates)  # (clips, clips and remembered sentences)
        distances = torch.cdist(sentences, candidates, compute_mode="donot_use_mm_for_euclid_dist")
        is_same_sentence = distances < LARGEST_DISTANCE_OF_EQUALS
        is_own = torch.eye(num_clips, len(candidates), dtype=torch.bool, device=logits.device)
        logits = logits.masked_fill(is_same_sentence & ~is_own, -torch.inf)
        own = torch.arange(num_clips, device=logits.device)
        loss_of_videos = nn.functional.cross_entropy(logits, own)
        loss_of_sentences = nn.functional.cross_entropy(logits[:, :num_clips].T, own)
        if self.training:
            self._remember(sentences)
        return (loss_of_videos + loss_of_sentences) / 2

    def _remembered(self) -> torch.Tensor:
        if not self.config.memory_bank_size:
            return self.logit_scale.new_zeros(0, self.config.sentence_target_size, dtype=torch.float32)
        return self.memory_bank[: min(int(self.num_remembered), len(self.memory_bank))].float()

    @torch.no_grad()
    def _remember(self, sentences: torch.Tensor) -> None:
        """The newest sentences of the global batch take the place of the oldest ones of the bank."""
        size = self.config.memory_bank_size
        if not size:
            return
        sentences = sentences[-size:]
        places = (self.num_remembered + torch.arange(len(sentences), device=sentences.device)) % size
        self.memory_bank[places] = sentences.to(self.memory_bank.dtype)
        self.num_remembered += len(sentences)

    def _word_logits(self, vision_output: LlavaSltVisualEncoderOutput) -> torch.Tensor:
        words = nn.functional.normalize(self.word_projection(vision_output.last_hidden_state).float(), dim=-1)
        targets = nn.functional.normalize(self.word_targets.float(), dim=-1)
        scale = self.word_logit_scale.float().exp().clamp(max=LARGEST_LOGIT_SCALE)
        scores = scale * _product(words, targets) + self.word_logit_bias.float()  # (clips, words, vocabulary)
        return word_scores_of_clips(scores, vision_output.attention_mask)


def _product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """`left @ right.T` in float32 also under autocast: of two cosines of 0.99, bfloat16 could not tell the larger."""
    with torch.autocast(left.device.type, enabled=False):
        return left.float() @ right.float().T


class _GatherClips(torch.autograd.Function):
    """
    Rows of all processes, one below the other, `(clips of this process, ...)` -> `(clips of all, ...)`. Every process
    computes the same loss from them, and the gradients of all are summed: averaged over the processes, as
    DistributedDataParallel does, the gradient of the weights is that of one process with all clips.
    """

    @staticmethod
    def forward(ctx, rows: torch.Tensor, counts: list[int]) -> torch.Tensor:
        ctx.rank, ctx.counts = distributed.get_rank(), counts
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        gathered = [torch.empty_like(padded) for _ in counts]
        distributed.all_gather(gathered, padded)
        return torch.cat([part[:count] for part, count in zip(gathered, counts, strict=True)])

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(gradient)
        return gradient.split(ctx.counts)[ctx.rank], None


def _gather(rows: torch.Tensor) -> torch.Tensor:
    """Rows `(clips, ...)` of this process -> those of all."""
    if not several_processes():
        return rows
    counts = [torch.empty(1, dtype=torch.long, device=rows.device) for _ in range(distributed.get_world_size())]
    distributed.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
    return _GatherClips.apply(rows, [int(count) for count in counts])


__all__ = [
    "LlavaSltContrastiveOutput",
    "LlavaSltForContrastivePreTraining",
    "LlavaSltVisualEncoder",
    "LlavaSltVisualEncoderOutput",
]
