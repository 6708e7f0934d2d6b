"""
FLa-LLM, gloss-free sign language translation with factorised learning (https://arxiv.org/abs/2403.12556).

    frames -> visual encoder -> adapter -> encoder-decoder text model -> sentence

Both stages of the paper are this one model. Stage 1 (visual initialing, section 3.1) trains all of it with a small
random text model, Light-T. Stage 2 (LLM fine-tuning, section 3.2) keeps the visual encoder, frozen, and trains a new
adapter and a pretrained text model:

    model = FLaLLMForTranslation.from_vision_text_pretrained("stage1/", "facebook/mbart-large-cc25")
    model.freeze_visual_encoder()
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSeq2SeqLM,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

from .configuration_flallm import FLaLLMConfig
from .encoder_features_slt import VisualFeaturesEncoder  # noqa: F401, a relative import is what carries the file along
from .hub_export_slt import SavedWithItsCode, read_model_type
from .loading_slt import forget_folder, load_whole
from .losses_slt import (
    IGNORED_LABEL,
    WORD_ABSENT_LOGIT,
    summed_cross_entropy,
    word_presence_cross_entropy,
    word_scores_of_clips,
)
from .sign_encoder_slt import SignEncoder
from .systems import FLALLM
from .visual_encoder_flallm import FLaLLMVisionModel, FLaLLMVisionModelOutput, checked_visual_mask

WORD_DIRECTION_NORM = 4.0


@dataclass
class FLaLLMEncoderOutput(BaseModelOutput):
    """
    Output of the text model's encoder over the visual tokens, with the mask of these tokens.

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(batch, tokens, text hidden size)`):
            Hidden states of the last layer of the text encoder.
        attention_mask (`torch.LongTensor` of shape `(batch, tokens)`):
            1 for real visual tokens. It rides here so that `generate` expands it for the beams with the rest.
    """

    attention_mask: torch.LongTensor | None = None


class VisualLanguageAdapter(nn.Module):
    """
    From visual tokens to the text model's embedding space: `(..., in_features)` -> `(..., out_features)`.

    An MLP with one hidden layer (FLa-LLM, section 3.1, "VL-Adapter", and 3.2, "LLM-Adapter"), or, with
    `adapter_hidden_size` 0, linear layer, norm and activation (sltbaselines).
    """

    def __init__(self, in_features: int, out_features: int, config: FLaLLMConfig):
        super().__init__()
        first_width = config.adapter_hidden_size or out_features
        self.first = nn.Linear(in_features, first_width)
        self.norm = nn.LayerNorm(first_width) if config.adapter_norm else nn.Identity()
        self.activation = ACT2FN[config.adapter_activation]
        self.second = nn.Linear(first_width, out_features) if config.adapter_hidden_size else nn.Identity()

    def forward(self, visual_features: torch.Tensor) -> torch.Tensor:
        return self.second(self.activation(self.norm(self.first(visual_features))))


class FLaLLMForTranslation(SavedWithItsCode, PreTrainedModel, GenerationMixin):
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
    one more term of ours: a linear layer on the adapter's output gives a score per token of the vocabulary and visual
    token, a smooth maximum (logsumexp) over time is taken, and binary cross entropy compares it with the set of tokens
    in the sentence. It breaks the language prior on which a randomly initialised encoder gets stuck, without any gloss.
    In front of a pretrained text model the linear layer starts from its token embeddings.
    """

    config_class = FLaLLMConfig
    base_model_prefix = "flallm"
    main_input_name = "pixel_values_videos"
    input_modalities = ("video",)
    system = FLALLM
    unquantized_modules = ("vision_model", "adapter", "word_presence_head", "lm_head")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    # The Trainer hands over `num_items_in_batch`, and forward divides by it: gradient accumulation and several
    # processes then give exactly the gradient of one large batch.
    accepts_loss_kwargs = True

    def __init__(self, config: FLaLLMConfig):
        # Resizing the embeddings writes to the configuration: two models built from one must not share it.
        config = copy.deepcopy(config)
        super().__init__(config)
        text_hidden_size = config.text_config.hidden_size
        self.vision_model = AutoModel.from_config(config.vision_config, dtype=torch.get_default_dtype())
        self.adapter = VisualLanguageAdapter(config.vision_config.hidden_size, text_hidden_size, config)
        # The dtype of the whole model, not the one that the text model's checkpoint happens to be saved in.
        self.text_model = AutoModelForSeq2SeqLM.from_config(config.text_config, dtype=torch.get_default_dtype())
        if config.word_presence_loss_weight:
            self.word_presence_head = nn.Linear(text_hidden_size, config.text_config.vocab_size)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
        if module is getattr(self, "word_presence_head", None):
            init.constant_(module.bias, WORD_ABSENT_LOGIT)

    @classmethod
    def from_vision_text_pretrained(
        cls, vision_model_name_or_path: str | SignEncoder, text_model_name_or_path: str, **config_values: Any
    ) -> "FLaLLMForTranslation":
        """
        The start of stage 2: the visual encoder of a stage-1 checkpoint, a new adapter, a pretrained text model. Like
        `from_pretrained` it returns the model in evaluation mode.

        Args:
            vision_model_name_or_path (`str` or `SignEncoder`): folder or Hub id of a `FLaLLMForTranslation` or
                `FLaLLMVisionModel`, or a sign encoder, which becomes a part of the model.
            text_model_name_or_path (`str`): folder or Hub id of any encoder-decoder of transformers.
            config_values: further fields of `FLaLLMConfig`, such as `label_smoothing`.

        Raises:
            ValueError: if the first is no model with a FLa-LLM visual encoder, or the second no encoder-decoder, and as
                `load_whole` if one of them is not whole.
        """
        vision_model = cls._load_vision_model(vision_model_name_or_path)
        text_config = cls._load_text_config(text_model_name_or_path)
        config = FLaLLMConfig(
            # A copy: a configuration that becomes a part of another one forgets its attention implementation.
            vision_config=copy.deepcopy(vision_model.config),
            text_config=text_config,
            **config_values,
        )
        with torch.device("meta"):  # no second text model in memory
            model = cls(config)
        # As it is, not its weights alone: whether the input and output embeddings are one depends on the checkpoint.
        model.vision_model = vision_model
        model.text_model = load_whole(
            AutoModelForSeq2SeqLM.from_pretrained,
            text_model_name_or_path,
            config=model.config.text_config,
            dtype=torch.get_default_dtype(),
        )
        model.config.text_config = model.text_model.config
        if not isinstance(vision_model_name_or_path, SignEncoder):
            forget_folder(model.config.vision_config, vision_model_name_or_path)
        forget_folder(model.config.text_config, text_model_name_or_path)
        model.generation_config = model.text_model.generation_config
        model._start_new_parts()
        return model.eval()

    @torch.no_grad()
    def _start_new_parts(self) -> None:
        """Words begin as the text model's own embeddings: an adapter that shows them can at once be read by it."""
        self.adapter.to_empty(device=torch.get_default_device()).apply(self._init_weights)
        if not self.config.word_presence_loss_weight:
            return
        self.word_presence_head.to_empty(device=torch.get_default_device()).apply(self._init_weights)
        directions = nn.functional.normalize(self.text_model.get_input_embeddings().weight.float(), dim=-1)
        self.word_presence_head.weight.copy_(WORD_DIRECTION_NORM * directions)

    @staticmethod
    def _load_vision_model(name_or_path: str | SignEncoder) -> SignEncoder:
        if isinstance(name_or_path, SignEncoder):
            return name_or_path
        expected = (
            f"Expected {name_or_path!r} to be a stage-1 checkpoint (a folder or Hub id with a config.json of model "
            "type 'flallm' or 'flallm_vision')"
        )
        model_type = read_model_type(name_or_path, expected)
        if model_type in ("flallm_vision", "flallm"):
            return FLaLLMVisionModel.from_pretrained(name_or_path, dtype=torch.get_default_dtype())
        raise ValueError(
            f"{expected}, got model type {model_type!r}. Train stage 1 of FLa-LLM first "
            "(flallm train visual-initialing), or name its output folder."
        )

    @staticmethod
    def _load_text_config(name_or_path: str) -> PreTrainedConfig:
        expected = f"Expected {name_or_path!r} to be a text model (a folder or Hub id of an encoder-decoder)"
        read_model_type(name_or_path, expected)
        return AutoConfig.from_pretrained(name_or_path)

    def freeze_visual_encoder(self) -> None:
        """Stage 2: no weight and no buffer of the visual encoder changes any more, also after `.train()`."""
        self.vision_model.freeze()

    def get_input_embeddings(self) -> nn.Module:
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.text_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.text_model.get_output_embeddings()

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
        return self.text_model.resize_token_embeddings(*args, **kwargs)

    def prepare_decoder_input_ids_from_labels(self, labels: torch.LongTensor) -> torch.LongTensor:
        """Labels `(batch, length)` -> what the decoder reads: the text model's own shift by one."""
        if hasattr(self.text_model, "prepare_decoder_input_ids_from_labels"):
            return self.text_model.prepare_decoder_input_ids_from_labels(labels)
        text_config = self.config.text_config  # M2M100 has no such method
        shifted = labels.roll(1, dims=1)
        shifted[:, 0] = text_config.decoder_start_token_id
        return shifted.masked_fill(shifted == IGNORED_LABEL, text_config.pad_token_id)

    def forward(
        self,
        pixel_values_videos: torch.FloatTensor | None = None,
        pixel_attention_mask: torch.LongTensor | None = None,
        labels: torch.LongTensor | None = None,
        decoder_input_ids: torch.LongTensor | None = None,
        decoder_attention_mask: torch.LongTensor | None = None,
        visual_features: torch.FloatTensor | None = None,
        visual_attention_mask: torch.LongTensor | None = None,
        encoder_outputs: FLaLLMEncoderOutput | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> Seq2SeqLMOutput:
        r"""
        Args:
            pixel_values_videos (`torch.FloatTensor` of shape `(batch, frames, 3, height, width)`, *optional*):
                Normalised frames, zero-padded in time.
            pixel_attention_mask (`torch.LongTensor` of shape `(batch, frames)`, *optional*):
                1 for real frames. Default: all are real.
            labels (`torch.LongTensor` of shape `(batch, target length)`, *optional*):
                Token ids of the sentence; -100 is ignored.
            decoder_input_ids (`torch.LongTensor` of shape `(batch, target length)`, *optional*):
                Default: the labels shifted as the text model does it.
            visual_features (`torch.FloatTensor` of shape `(batch, tokens, visual hidden size)`, *optional*):
                Output of the visual encoder, instead of pixels.
            visual_attention_mask (`torch.LongTensor` of shape `(batch, tokens)`, *optional*):
                1 for real visual tokens. Default: all are real.
            encoder_outputs (`FLaLLMEncoderOutput`, *optional*):
                Output of `encode`, instead of pixels or visual features.
            num_items_in_batch (`torch.Tensor` or `int`, *optional*):
                Label tokens over which the loss is averaged: those of the whole global batch, as the Trainer counts
                them. Default: those of this batch.
            kwargs: handed to the text model, such as `past_key_values`, `use_cache`, `output_attentions`.

        Raises:
            ValueError: for no video at all, more than one form of it, or a video or labels that are too long for the
                text model.
        """
        kwargs["return_dict"] = True
        _check_one_video(pixel_values_videos, visual_features, encoder_outputs)
        visual_embeddings = None
        if encoder_outputs is None:
            visual_embeddings, mask = self._embed_video(
                pixel_values_videos, pixel_attention_mask, visual_features, visual_attention_mask
            )
            encoder_outputs = self._encode_embeddings(visual_embeddings, mask, **kwargs)
        if labels is not None and decoder_input_ids is None:
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
            self._check_num_target_tokens(decoder_input_ids.shape[1])
        outputs = self.text_model(
            encoder_outputs=encoder_outputs,
            attention_mask=getattr(encoder_outputs, "attention_mask", None),
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            **kwargs,
        )
        if labels is not None:
            outputs["loss"] = self._loss(outputs.logits, labels, visual_embeddings, encoder_outputs, num_items_in_batch)
        return outputs

    def encode(
        self,
        pixel_values_videos: torch.FloatTensor | None = None,
        pixel_attention_mask: torch.LongTensor | None = None,
        visual_features: torch.FloatTensor | None = None,
        visual_attention_mask: torch.LongTensor | None = None,
        **kwargs: Any,
    ) -> FLaLLMEncoderOutput:
        """Video (or visual features) through the text model's encoder; arguments as in `forward`."""
        embeddings, mask = self._embed_video(
            pixel_values_videos, pixel_attention_mask, visual_features, visual_attention_mask
        )
        return self._encode_embeddings(embeddings, mask, **kwargs)

    @torch.no_grad()
    def generate(
        self,
        pixel_values_videos: torch.FloatTensor | None = None,
        pixel_attention_mask: torch.LongTensor | None = None,
        visual_features: torch.FloatTensor | None = None,
        visual_attention_mask: torch.LongTensor | None = None,
        encoder_outputs: FLaLLMEncoderOutput | None = None,
        **kwargs: Any,
    ):
        """
        Translate: `transformers.GenerationMixin.generate` with the video in any form that `forward` takes.

        The video is encoded once, before the beams are expanded. All further arguments are those of transformers.

        Raises:
            ValueError: as `forward`.
        """
        _check_one_video(pixel_values_videos, visual_features, encoder_outputs)
        if encoder_outputs is None:
            generation_config = kwargs.get("generation_config") or self.generation_config
            wanted = {
                name: bool(kwargs.get(name, getattr(generation_config, name, False)))
                for name in ("output_attentions", "output_hidden_states")
            }
            encoder_outputs = self.encode(
                pixel_values_videos, pixel_attention_mask, visual_features, visual_attention_mask, **wanted
            )
        if kwargs.get("max_new_tokens") is not None:
            kwargs.setdefault("max_length", None)  # the saved one gives way, of which transformers would warn
        return super().generate(encoder_outputs=encoder_outputs, **kwargs)

    def _embed_video(
        self,
        pixel_values_videos: torch.Tensor | None,
        pixel_attention_mask: torch.Tensor | None,
        visual_features: torch.Tensor | None,
        visual_attention_mask: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """-> adapter output `(batch, tokens, text hidden size)` and its mask `(batch, tokens)`."""
        _check_one_video(pixel_values_videos, visual_features)
        if pixel_values_videos is not None:
            output = self.vision_model(pixel_values_videos, pixel_attention_mask)
            visual_features, visual_attention_mask = output.last_hidden_state, output.attention_mask
        hidden_size = self.config.vision_config.hidden_size
        mask = checked_visual_mask(visual_features, visual_attention_mask, hidden_size, "tokens")
        self.check_num_tokens(visual_features.shape[1])
        return self.adapter(visual_features.to(self.adapter.first.weight.dtype)), mask.long()

    def check_num_tokens(self, num_tokens: int) -> None:
        """Raise a `ValueError` if so many visual tokens are too many for the text model's encoder."""
        text_config = self.config.text_config
        if _has_learned_positions(self.text_model.get_encoder()) and num_tokens > text_config.max_position_embeddings:
            raise ValueError(
                f"The video gives {num_tokens} visual tokens, but the text model {text_config.model_type!r} takes at "
                f"most {text_config.max_position_embeddings}. Lower `max_num_frames` or `frame_sampling_rate` of the "
                "video processor, or cut the video with `start` and `end`."
            )

    def get_max_num_target_tokens(self) -> int | None:
        """The longest sentence that the text model's learned positions allow, in tokens, or `None` without such."""
        has_limit = _has_learned_positions(self.text_model.get_decoder())
        return self.config.text_config.max_position_embeddings if has_limit else None

    def _check_num_target_tokens(self, num_tokens: int) -> None:
        most = self.get_max_num_target_tokens()
        if most is not None and num_tokens > most:
            raise ValueError(
                f"A sentence of the batch has {num_tokens} tokens, but the text model "
                f"{self.config.text_config.model_type!r} writes at most {most}. Shorten or split the sentence."
            )

    def _encode_embeddings(self, embeddings: torch.Tensor, mask: torch.Tensor, **kwargs: Any) -> FLaLLMEncoderOutput:
        wanted = {name: kwargs[name] for name in ("output_attentions", "output_hidden_states") if name in kwargs}
        output = self.text_model.get_encoder()(
            inputs_embeds=embeddings, attention_mask=mask, return_dict=True, **wanted
        )
        return FLaLLMEncoderOutput(
            last_hidden_state=output.last_hidden_state,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
            attention_mask=mask,
        )

    def _loss(
        self,
        logits: torch.Tensor,
        labels: torch.Tensor,
        visual_embeddings: torch.Tensor | None,
        encoder_outputs: FLaLLMEncoderOutput,
        num_items_in_batch: torch.Tensor | int | None,
    ) -> torch.Tensor:
        labels = labels.to(logits.device)
        if num_items_in_batch is None:
            num_items_in_batch = (labels != IGNORED_LABEL).sum()
        loss = summed_cross_entropy(logits, labels, self.config.label_smoothing if self.training else 0.0)
        if self.config.word_presence_loss_weight and visual_embeddings is not None:
            presence_loss = self._word_presence_loss(visual_embeddings, encoder_outputs.attention_mask, labels)
            loss = loss + self.config.word_presence_loss_weight * presence_loss
        return loss / num_items_in_batch

    def _word_presence_loss(
        self, visual_embeddings: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        """
        Sum over the clips of their `word_presence_cross_entropy` times their label tokens: divided by
        `num_items_in_batch` it is a mean over clips that does not depend on how a batch is split.
        """
        scores = word_scores_of_clips(self.word_presence_head(visual_embeddings).float(), mask)
        return (word_presence_cross_entropy(scores, labels) * (labels != IGNORED_LABEL).sum(1)).sum()


def _has_learned_positions(part: nn.Module) -> bool:
    return isinstance(getattr(part, "embed_positions", None), nn.Embedding)


def _check_one_video(*forms: Any) -> None:
    if sum(form is not None for form in forms) != 1:
        raise ValueError("Pass exactly one of `pixel_values_videos`, `visual_features` and `encoder_outputs`.")


__all__ = ["FLaLLMEncoderOutput", "FLaLLMForTranslation", "FLaLLMVisionModel", "FLaLLMVisionModelOutput"]
