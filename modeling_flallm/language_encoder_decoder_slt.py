"""
Translation with an encoder-decoder text model (mBART, NLLB/M2M100, mT5/T5, BART, ...): its encoder reads the adapter's
outputs in place of word embeddings, and its decoder writes the sentence.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSeq2SeqLM, Cache, EncoderDecoderCache, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput
from transformers.utils import can_return_tuple

from .choice_slt import Utility
from .linear_layers_slt import few_rows_in_onednn
from .loading_slt import file_options
from .losses_slt import IGNORED_LABEL, summed_cross_entropy
from .sign_encoder_slt import SignEncoderOutput, checked_mask, is_exporting, real_first
from .translation_model_slt import (
    SignTranslationModel,
    eager_twin,
    read_text_model_type,
    weighted_encoder_losses,
)
from .word_evidence_slt import attention_to_visual_tokens


@dataclass
class FLaLLMEncoderOutput(BaseModelOutput):
    """
    Output of the text model's encoder over the visual tokens and the prompt before them, if the model reads one, with
    the mask of these tokens. The masks are kept here so that `generate` expands them for the beams, too.

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(batch, tokens, text hidden size)`):
            Hidden states of the last layer of the text encoder.
        attention_mask (`torch.LongTensor` of shape `(batch, tokens)`):
            1 for real tokens.
        is_visual (`torch.LongTensor` of shape `(batch, tokens)`, *optional*, with a prompt):
            1 for real visual tokens, 0 for the prompt and padding.
    """

    attention_mask: torch.LongTensor | None = None
    is_visual: torch.LongTensor | None = None


class EncoderDecoderTranslationModel(SignTranslationModel):
    """
    The language side of systems with an encoder-decoder text model. With `config.has_prompt` its encoder reads a prompt
    before the visual tokens of each clip, without a gap between the two and with the padding behind both.
    """

    is_prompted = False
    text_auto_class = AutoModelForSeq2SeqLM
    # Frames in, tokens out, with an encoder and a decoder: the models of this Auto class are called and generate like
    # ours.
    translation_auto_class = "AutoModelForSeq2SeqLM"

    @classmethod
    def _check_text_model(cls, name_or_path: str, options: dict[str, Any]) -> None:
        read_text_model_type(name_or_path, "a text model (a folder or Hub id of an encoder-decoder)", options)
        cls.config_class.check_text_config(AutoConfig.from_pretrained(name_or_path, **file_options(options)))

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        """The text model's encoder, which reads the visual tokens; with `modality` "video" the sign encoder."""
        return self.get_text_model().get_encoder() if modality is None else super().get_encoder(modality)

    def get_decoder(self) -> nn.Module:
        """The text model's decoder."""
        return self.get_text_model().get_decoder()

    @property
    def prompt_input_names(self) -> tuple[str, ...]:
        return ("prompt_ids", "prompt_attention_mask") if self.config.has_prompt else ()

    def prepare_decoder_input_ids_from_labels(self, labels: torch.LongTensor) -> torch.LongTensor:
        """Labels `(batch, length)` -> inputs of the decoder, shifted by one as the text model does it."""
        return decoder_inputs_of(self.get_text_model(), labels)

    def _first_decoder_input_ids(self, hidden_states: torch.Tensor) -> torch.LongTensor:
        """-> `(batch, 1)` for encoder states `(batch, ...)`: the token with which `generate` starts a sentence."""
        for name in ("decoder_start_token_id", "bos_token_id"):
            for config in (self.generation_config, self.config.text_config):
                if isinstance(getattr(config, name, None), int):
                    return hidden_states.new_full((len(hidden_states), 1), getattr(config, name), dtype=torch.long)
        raise ValueError(
            "Pass `labels` or `decoder_input_ids`, or set `generation_config.decoder_start_token_id`: the text model "
            f"{self.config.text_config.model_type!r} has no start token for its sentences."
        )

    @can_return_tuple
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
        prompt_ids: torch.LongTensor | None = None,
        prompt_attention_mask: torch.LongTensor | None = None,
        **kwargs: Any,
    ) -> Seq2SeqLMOutput:
        r"""
        Args:
            pixel_values_videos (`torch.FloatTensor` of shape `(batch, frames, 3, height, width)`, *optional*):
                Normalised frames, zero-padded in time, for sign encoders that read frames.
            pixel_attention_mask (`torch.LongTensor` of shape `(batch, frames)`, *optional*):
                1 for real frames. Default: all are real.
            labels (`torch.LongTensor` of shape `(batch, target length)`, *optional*):
                Token ids of the sentence; -100 is ignored.
            decoder_input_ids (`torch.LongTensor` of shape `(batch, target length)`, *optional*):
                Default: the labels, shifted as the text model does it, or, without labels, the start token.
            visual_features (`torch.FloatTensor` of shape `(batch, tokens, visual hidden size)`, *optional*):
                Output of the visual encoder, instead of its inputs.
            visual_attention_mask (`torch.LongTensor` of shape `(batch, tokens)`, *optional*):
                1 for real visual tokens. Default: all are real.
            encoder_outputs (`FLaLLMEncoderOutput`, *optional*):
                Output of `encode`, instead of a clip or visual features.
            num_items_in_batch (`torch.Tensor` or `int`, *optional*):
                Label tokens over which the loss is averaged: those of the whole global batch, as the Trainer counts
                them. Default: those of this batch.
            prompt_ids (`torch.LongTensor` of shape `(batch, prompt length)`, *optional*):
                The prompt before the visual tokens, for models with `config.has_prompt`, which need it wherever they
                read a video.
            prompt_attention_mask (`torch.LongTensor` of shape `(batch, prompt length)`, *optional*):
                1 for real tokens of the prompt. Default: all are real.
            kwargs: further inputs of the sign encoder, by its `input_names`. The rest goes to the text model, such as
                `past_key_values`, `use_cache`, `output_attentions`.

        Raises:
            ValueError: for no video at all, more than one form of it or one that the sign encoder does not read, a
                video or labels that are too long for the text model, a model with a prompt and none given, and a prompt
                for a model without or beside `encoder_outputs`, which hold it.
        """
        # Wrappers such as peft's pass all arguments of text models, as `None` those that the caller left out.
        kwargs = {name: value for name, value in kwargs.items() if value is not None}
        kwargs["return_dict"] = True
        video = self._given_video(
            kwargs, pixel_values_videos, pixel_attention_mask, visual_features, visual_attention_mask
        )
        self._check_one_form(video, encoder_outputs=encoder_outputs)
        self._check_prompt(prompt_ids, prompt_attention_mask, encoder_outputs)
        tokens = embeddings = None
        if encoder_outputs is None:
            embeddings, tokens = self._embed_video(video)
            if labels is not None:
                on_device = labels.to(embeddings.device)
                loss = self._summed_loss_of_warm_up(embeddings, tokens.attention_mask, on_device)
                if loss is not None:
                    return Seq2SeqLMOutput(loss=loss / _num_averaged(on_device, num_items_in_batch))
            encoder_outputs = self._encode(embeddings, tokens, prompt_ids, prompt_attention_mask, **kwargs)
        if labels is not None and decoder_input_ids is None:
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
            self._check_num_target_tokens(decoder_input_ids.shape[1])
        if decoder_input_ids is None and "decoder_inputs_embeds" not in kwargs:
            decoder_input_ids = self._first_decoder_input_ids(encoder_outputs[0])
        outputs = self.get_text_model()(
            encoder_outputs=encoder_outputs,
            attention_mask=getattr(encoder_outputs, "attention_mask", None),
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            **kwargs,
        )
        if labels is not None:
            outputs["loss"] = self._loss(outputs.logits, labels, tokens, embeddings, num_items_in_batch)
        return outputs

    def encode(
        self,
        pixel_values_videos: torch.FloatTensor | None = None,
        pixel_attention_mask: torch.LongTensor | None = None,
        visual_features: torch.FloatTensor | None = None,
        visual_attention_mask: torch.LongTensor | None = None,
        prompt_ids: torch.LongTensor | None = None,
        prompt_attention_mask: torch.LongTensor | None = None,
        **kwargs: Any,
    ) -> FLaLLMEncoderOutput:
        """Run a video (or visual features) through the text model's encoder; arguments as in `forward`."""
        video = self._given_video(
            kwargs, pixel_values_videos, pixel_attention_mask, visual_features, visual_attention_mask
        )
        self._check_one_form(video, encoder_outputs=None)
        self._check_prompt(prompt_ids, prompt_attention_mask)
        embeddings, tokens = self._embed_video(video)
        with few_rows_in_onednn(self):
            return self._encode(embeddings, tokens, prompt_ids, prompt_attention_mask, **kwargs)

    def _reorder_cache(self, cache: Cache, beams: torch.LongTensor) -> Cache:
        """
        In place of transformers' own, which also copies what beams have in common: those of a clip read the same
        outputs of the encoder.
        """
        written = cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache
        written.reorder_cache(beams)
        return cache

    @torch.no_grad()
    def generate(
        self,
        pixel_values_videos: torch.FloatTensor | None = None,
        pixel_attention_mask: torch.LongTensor | None = None,
        visual_features: torch.FloatTensor | None = None,
        visual_attention_mask: torch.LongTensor | None = None,
        encoder_outputs: FLaLLMEncoderOutput | None = None,
        prompt_ids: torch.LongTensor | None = None,
        prompt_attention_mask: torch.LongTensor | None = None,
        num_candidates: int | None = None,
        choose_by: str | Utility | None = None,
        tokenizer: Any = None,
        left_handed: bool | str | torch.Tensor = False,
        **kwargs: Any,
    ):
        """
        Translate: `transformers.GenerationMixin.generate` with the video in any form that `forward` takes.

        The video is encoded once, before the beams are expanded.

        With `num_candidates`, so many sequences are written for each clip, and those `num_return_sequences` (default 1)
        are returned, best first, that agree best with all of them, by "bleu", "chrf" or a function as `choose_by`; see
        `CandidateChoice` and `utility_named`. `tokenizer` gives their texts.

        `left_handed` mirrors the clips of left-handed signers for a model that learned from right-handed ones: True for
        all clips, "auto" for those of which the model is surer in a mirror (see `hand_margins`), or a boolean tensor
        `(batch,)`.

        All further arguments are those of transformers.

        Raises:
            ValueError: as `forward` and `features_as_right_handed`, and for candidates that cannot be written or
                compared.
        """
        kwargs, choose = self._plan_choice(num_candidates, choose_by, tokenizer, kwargs)
        video = self._given_video(
            kwargs, pixel_values_videos, pixel_attention_mask, visual_features, visual_attention_mask
        )
        self._check_one_form(video, encoder_outputs=encoder_outputs)
        self._check_prompt(prompt_ids, prompt_attention_mask, encoder_outputs)
        prompt = {"prompt_ids": prompt_ids, "prompt_attention_mask": prompt_attention_mask}
        video = self._as_right_handed(video, left_handed, prompt)
        if encoder_outputs is None:
            generation_config = kwargs.get("generation_config") or self.generation_config
            wanted = {
                name: bool(kwargs.get(name, getattr(generation_config, name, False)))
                for name in ("output_attentions", "output_hidden_states")
            }
            encoder_outputs = self.encode(**video, **prompt, **wanted)
        if kwargs.get("max_new_tokens") is not None:
            kwargs.setdefault("max_length", None)  # replaces the saved one; with both, transformers would warn
        return choose(self._write_sequences(encoder_outputs=encoder_outputs, **kwargs))

    def _check_prompt(self, ids: torch.Tensor | None, mask: torch.Tensor | None, encoder_outputs: Any = None) -> None:
        if ids is None and mask is None:
            if self.config.has_prompt and encoder_outputs is None:
                raise ValueError(
                    "This model reads a prompt before the visual tokens: pass `prompt_ids` and "
                    "`prompt_attention_mask`, as a processor with a `prompt` gives them."
                )
        elif not self.config.has_prompt:
            raise ValueError(
                "This model reads no prompt (`config.has_prompt` is False), got `prompt_ids` or "
                "`prompt_attention_mask`. Leave them out, and `prompt` of the processor, too."
            )
        elif encoder_outputs is not None:
            raise ValueError("Pass the prompt, or `encoder_outputs` that already hold it, not both.")
        elif ids is None or ids.ndim != 2:
            raise ValueError(
                "`prompt_ids` must have the shape (batch, prompt length), got "
                f"{'none' if ids is None else tuple(ids.shape)}."
            )

    def _embed_video(self, video: dict[str, Any]) -> tuple[torch.Tensor, SignEncoderOutput]:
        """-> the adapter's outputs `(batch, tokens, text hidden size)`, and the visual tokens that they come from."""
        tokens = self._visual_tokens(video)
        return self._embed_tokens(tokens.last_hidden_state), tokens

    def _embed_prompt(self, prompt_ids: torch.LongTensor) -> torch.FloatTensor:
        """
        Token ids `(batch, length)` -> `(batch, length, text hidden size)`, what the text model's encoder makes of them
        before its first layer and without positions: the models scale the embeddings of ids, but not `inputs_embeds`.
        """
        encoder = self.get_text_model().get_encoder()
        # Most scale in the embedding layer itself; Pegasus, Marian and MVP afterwards.
        return encoder.get_input_embeddings()(prompt_ids) * getattr(encoder, "embed_scale", 1.0)

    def _encode(
        self,
        embeddings: torch.Tensor,
        tokens: SignEncoderOutput,
        prompt_ids: torch.Tensor | None,
        prompt_mask: torch.Tensor | None,
        **kwargs: Any,
    ) -> FLaLLMEncoderOutput:
        """Run the text model's encoder over the adapter's outputs `embeddings` of the visual `tokens`."""
        if prompt_ids is None:
            return self._encode_embeddings(embeddings, tokens.attention_mask, **kwargs)
        if len(prompt_ids) != len(embeddings):
            raise ValueError(f"Each clip needs one prompt, got {len(embeddings)} clips, {len(prompt_ids)} prompts.")
        prompt_mask = checked_mask(prompt_mask, prompt_ids, "prompt_attention_mask", "(batch, prompt length)")
        prompt, visual_mask = self._embed_prompt(prompt_ids).to(embeddings.device), tokens.attention_mask
        prompt_mask = prompt_mask.to(visual_mask)
        packed, mask, is_visual = _packed(
            torch.cat([prompt, embeddings], 1),
            torch.cat([prompt_mask, visual_mask], 1),
            torch.cat([torch.zeros_like(prompt_mask), visual_mask], 1),
            cut=not is_exporting(self),
        )
        output = self._encode_embeddings(packed, mask, **kwargs)
        output["is_visual"] = is_visual
        return output

    def check_num_tokens(self, num_tokens: int) -> None:
        text_config = self.config.text_config
        most = self.get_max_num_input_tokens()
        if most is not None and num_tokens > most:
            has_prompt = self.config.has_prompt
            counted = f"Prompt and video have {num_tokens}" if has_prompt else f"The video gives {num_tokens} visual"
            raise ValueError(
                f"{counted} tokens, but the text model {text_config.model_type!r} takes at most "
                f"{most}. Lower `max_num_frames` or `frame_sampling_rate` of the "
                "video processor, or cut the video with `start` and `end`."
            )

    def get_max_num_input_tokens(self) -> int | None:
        return num_learned_positions(self.get_text_model().get_encoder())

    def get_max_num_tokens(self) -> int | None:
        return num_learned_positions(self.get_text_model().get_decoder())

    def _check_num_target_tokens(self, num_tokens: int) -> None:
        most = self.get_max_num_tokens()
        if most is not None and num_tokens > most:
            raise ValueError(
                f"A sentence of the batch has {num_tokens} tokens, but the text model "
                f"{self.config.text_config.model_type!r} writes at most {most}. Shorten or split the sentence."
            )

    def _encode_embeddings(self, embeddings: torch.Tensor, mask: torch.Tensor, **kwargs: Any) -> FLaLLMEncoderOutput:
        self.check_num_tokens(embeddings.shape[1])
        wanted = {name: kwargs[name] for name in ("output_attentions", "output_hidden_states") if name in kwargs}
        output = self.get_text_model().get_encoder()(
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
        tokens: SignEncoderOutput | None,
        embeddings: torch.Tensor | None,
        num_items_in_batch: torch.Tensor | int | None,
    ) -> torch.Tensor:
        """`tokens` and `embeddings` are the visual ones, before and after the adapter, if they were computed."""
        labels = labels.to(logits.device)
        num_labels = (labels != IGNORED_LABEL).sum()
        loss = summed_cross_entropy(logits, labels, self.config.label_smoothing if self.training else 0.0)
        if embeddings is not None:
            loss = loss + self._summed_loss_of_embeddings(embeddings, tokens.attention_mask, labels)
            loss = loss + weighted_encoder_losses(tokens, num_labels)
        return loss / _num_averaged(labels, num_items_in_batch)

    def _summed_loss_of_embeddings(
        self, embeddings: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor | float:
        """An extra loss of a system on the adapter's output, summed over label tokens like the cross entropy."""
        return 0.0

    def _summed_loss_of_warm_up(
        self, embeddings: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor | None:
        """In a warm-up that leaves the text model out, its loss on the adapter's output; otherwise `None`."""
        return None

    def replay(
        self, sequences: torch.LongTensor, encoder_outputs: FLaLLMEncoderOutput
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        See `SignTranslationModel.replay`. The attention is the decoder's cross-attention to the visual tokens. What
        goes to a prompt is left out, and the rest is not scaled up to a sum of 1.
        """
        repeats = len(sequences) // len(encoder_outputs.last_hidden_state)
        is_visual = encoder_outputs.is_visual
        encoder_outputs = type(encoder_outputs)(
            last_hidden_state=encoder_outputs.last_hidden_state.repeat_interleave(repeats, 0),
            attention_mask=encoder_outputs.attention_mask.repeat_interleave(repeats, 0),
        )
        log_probabilities, attention = log_probabilities_and_attention(
            self.get_text_model(), sequences, encoder_outputs
        )
        if is_visual is not None:
            attention = attention_to_visual_tokens(attention, is_visual.bool().repeat_interleave(repeats, 0))
        return log_probabilities, attention


def log_probabilities_and_attention(
    text_model: PreTrainedModel, sequences: torch.LongTensor, encoder_outputs: FLaLLMEncoderOutput
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Read sequences `(batch, length)` again -> for each token but the first its log probability `(batch, length - 1)` and
    the cross-attention with which it was written, `(batch, length - 1, tokens)`, a mean over layers and heads.
    """
    output = eager_twin(text_model)(
        encoder_outputs=encoder_outputs,
        attention_mask=encoder_outputs.attention_mask,
        decoder_input_ids=sequences[:, :-1],
        output_attentions=True,
        use_cache=False,
        return_dict=True,
    )
    log_probabilities = -nn.functional.cross_entropy(
        output.logits.float().transpose(1, 2), sequences[:, 1:], reduction="none"
    )
    attention = torch.stack([layer.float().mean(1) for layer in output.cross_attentions]).mean(0)
    return log_probabilities, attention


def decoder_inputs_of(text_model: PreTrainedModel, labels: torch.LongTensor) -> torch.LongTensor:
    """Labels `(batch, length)` -> inputs of the text model's decoder, shifted by one as that model does it."""
    if hasattr(text_model, "prepare_decoder_input_ids_from_labels"):
        return text_model.prepare_decoder_input_ids_from_labels(labels)
    shifted = labels.roll(1, dims=1)  # M2M100 has no such method
    shifted[:, 0] = text_model.config.decoder_start_token_id
    return shifted.masked_fill(shifted == IGNORED_LABEL, text_model.config.pad_token_id)


def _num_averaged(labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None) -> torch.Tensor | int:
    return (labels != IGNORED_LABEL).sum() if num_items_in_batch is None else num_items_in_batch


def _packed(
    embeddings: torch.Tensor, mask: torch.Tensor, is_visual: torch.Tensor, cut: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    Move the real tokens of each row to the front, in their order: embeddings `(batch, tokens, hidden size)`, their mask
    and `is_visual` `(batch, tokens)`. `cut` takes away the columns in which all rows are padding.
    """
    order = real_first(mask != 0)
    if cut:
        order = order[:, : int(mask.sum(1).max())]
    packed = embeddings.gather(1, order[..., None].expand(-1, -1, embeddings.shape[2]))
    return packed, mask.gather(1, order), is_visual.gather(1, order)


def num_learned_positions(part: nn.Module) -> int | None:
    """The most tokens that the learned positions of an encoder or decoder allow; `None` if it has none."""
    has_limit = isinstance(getattr(part, "embed_positions", None), nn.Embedding)
    return part.config.max_position_embeddings if has_limit else None


__all__ = [
    "EncoderDecoderTranslationModel",
    "FLaLLMEncoderOutput",
    "decoder_inputs_of",
    "log_probabilities_and_attention",
    "num_learned_positions",
]
