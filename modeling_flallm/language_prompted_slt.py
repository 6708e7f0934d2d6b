"""
Translation with a decoder-only language model (Llama, Qwen, Gemma, GPT-2, ...): it reads the visual tokens inside a
prompt, where each replaces one placeholder token, and writes the sentence after it.
"""

import copy
import inspect
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import can_return_tuple

from .choice_slt import Utility
from .loading_slt import file_options
from .losses_slt import IGNORED_LABEL, summed_cross_entropy
from .sign_encoder_slt import SignEncoderOutput, is_exporting, real_first
from .translation_model_slt import (
    SignTranslationModel,
    eager_twin,
    read_text_model_type,
    weighted_encoder_losses,
)
from .word_evidence_slt import attention_to_visual_tokens

# Names of learned position embeddings in transformers' models.
LEARNED_POSITIONS = ("wpe", "embed_positions", "position_embeddings")


class PromptedTranslationModel(SignTranslationModel):
    """
    The language side of systems with a decoder-only text model. The prompt holds one placeholder,
    `config.video_token_id`, for each visual token of the clip. The adapter's outputs replace the placeholders in the
    output of the text model's own embedding layer (Gemma and XGLM scale their embeddings there). The placeholder is
    never generated.

    Attributes:
        text_model_expected (`str`): beginning of the error for a text model of another kind.
    """

    is_prompted = True
    text_auto_class = AutoModelForCausalLM
    # Prompt and pixels in, new tokens out: the Auto class of Video-LLaVA and LLaVA-NeXT-Video.
    translation_auto_class = "AutoModelForImageTextToText"
    main_input_name = "input_ids"
    prompt_input_names = ("input_ids", "attention_mask")
    input_modalities = ("video", "text")
    text_model_expected: str
    text_model_is_frozen = False

    @classmethod
    def _check_text_model(cls, name_or_path: str, options: dict[str, Any]) -> None:
        of_files = file_options(options)
        model_type = read_text_model_type(name_or_path, "a causal language model (a folder or Hub id)", of_files)
        cls._check_is_causal(model_type)
        # Of an encoder-decoder, transformers would silently load the decoder alone.
        cls.config_class.check_text_config(AutoConfig.from_pretrained(name_or_path, **of_files))

    @classmethod
    def _check_is_causal(cls, model_type: str) -> None:
        if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            raise ValueError(f"{cls.text_model_expected}, got model type {model_type!r}, which is not one.")

    def _build_text_model(self) -> PreTrainedModel:
        self._check_is_causal(self.config.text_config.model_type)
        return super()._build_text_model()

    @classmethod
    def _fit_text_model(cls, text_model: PreTrainedModel, config_values: dict[str, Any]) -> None:
        """Make sure that the placeholder has an embedding."""
        video_token_id = config_values["video_token_id"]
        if video_token_id >= text_model.get_input_embeddings().weight.shape[0]:
            text_model.resize_token_embeddings(video_token_id + 1, mean_resizing=False)

    def freeze_text_model(self) -> None:
        """Freeze the text model: it no longer changes, even after `.train()`, and runs without dropout."""
        self.get_text_model().requires_grad_(False)
        self.text_model_is_frozen = True
        self.train(self.training)

    def train(self, mode: bool = True) -> "PromptedTranslationModel":
        super().train(mode)
        if self.text_model_is_frozen:
            self.get_text_model().eval()
            for layer in self.get_text_model().modules():
                # Gradient checkpointing needs training mode, and gradients pass through frozen layers, too. In layers
                # without dropout of their own this changes nothing: their submodules stay in evaluation mode.
                if isinstance(layer, GradientCheckpointingLayer) and not getattr(layer, "dropout", 0.0):
                    layer.training = mode
        return self

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        pixel_values_videos: torch.FloatTensor | None = None,
        pixel_attention_mask: torch.LongTensor | None = None,
        visual_features: torch.FloatTensor | None = None,
        visual_attention_mask: torch.LongTensor | None = None,
        labels: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        logits_to_keep: int | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `(batch, length)`, *optional*):
                Prompt with one `config.video_token_id` per word-like token and, in training, the sentence after it.
                Padded on the left. With a cache of the tokens before them, the new tokens alone.
            attention_mask (`torch.LongTensor` of shape `(batch, length)`, *optional*):
                0 for padding. Default: no padding.
            pixel_values_videos (`torch.FloatTensor` of shape `(batch, frames, 3, height, width)`, *optional*):
                Normalised frames, zero-padded in time, for sign encoders that read frames.
            pixel_attention_mask (`torch.LongTensor` of shape `(batch, frames)`, *optional*):
                1 for real frames. Default: all are real.
            visual_features (`torch.FloatTensor` of shape `(batch, words, visual hidden size)`, *optional*):
                Word-like tokens of the visual encoder, instead of its inputs.
            visual_attention_mask (`torch.LongTensor` of shape `(batch, words)`, *optional*):
                1 for real word-like tokens. Default: all are real.
            labels (`torch.LongTensor` of shape `(batch, length)`, *optional*):
                `input_ids` of the sentence and -100 elsewhere; the loss shifts them.
            inputs_embeds (`torch.FloatTensor` of shape `(batch, length, text hidden size)`, *optional*):
                Output of `embed_prompt`, instead of token ids and video.
            position_ids (`torch.LongTensor` of shape `(batch, new tokens)`, *optional*):
                Default: counted from the first real token of each row.
            logits_to_keep (`int`, *optional*):
                Compute logits for this many last positions, 0 for all. Default: with labels as many as the loss needs,
                else all.
            num_items_in_batch (`torch.Tensor` or `int`, *optional*):
                Label tokens over which the loss is averaged: those of the whole global batch, as the Trainer counts
                them. Default: those of this batch.
            kwargs: further inputs of the sign encoder, by its `input_names`. The rest goes to the language model, such
                as `use_cache`, `output_attentions`, and its cache under the name that transformers gives it: `cache`
                from 5.24 on, `past_key_values` before.

        Raises:
            ValueError: for no video, two forms of it or one that the sign encoder does not read, a video beside
                `inputs_embeds`, more or fewer placeholders than word-like tokens, or an input that is too long for the
                language model.
        """
        video = self._given_video(
            kwargs, pixel_values_videos, pixel_attention_mask, visual_features, visual_attention_mask
        )
        if inputs_embeds is not None and {self.vision_model.main_input_name, "visual_features"} & set(video):
            raise ValueError("Pass the video, or `inputs_embeds` that already contain it, not both.")
        num_cached_tokens = _num_cached_tokens(kwargs)
        tokens = None
        if inputs_embeds is None and not num_cached_tokens:
            inputs_embeds, tokens = self._embed_prompt(input_ids, video)
        new_tokens = {"input_ids": input_ids} if inputs_embeds is None else {"inputs_embeds": inputs_embeds}
        num_new_tokens = next(iter(new_tokens.values())).shape[1]
        self._check_num_tokens(num_cached_tokens + num_new_tokens)
        if labels is not None and labels.shape[1] != num_new_tokens:
            raise ValueError(
                f"`labels` must have a column for each of the {num_new_tokens} input tokens, got {labels.shape[1]}."
            )
        if attention_mask is not None and position_ids is None:
            position_ids = _positions(attention_mask)[:, -num_new_tokens:]
        if labels is not None:
            kwargs.setdefault("use_cache", False)
        if logits_to_keep is None:
            logits_to_keep = 0 if labels is None else _num_logits_for(labels)
        outputs = self._run_text_model(
            **new_tokens,
            attention_mask=attention_mask,
            position_ids=position_ids,
            logits_to_keep=logits_to_keep,
            **{**kwargs, "return_dict": True},
        )
        if labels is not None:
            outputs["loss"] = self._loss(outputs.logits, labels, tokens, num_items_in_batch)
        return outputs

    def _run_text_model(self, **arguments: Any) -> CausalLMOutputWithPast:
        """Not every language model of transformers takes `position_ids` or `logits_to_keep`."""
        unknown = {"position_ids", "logits_to_keep"} - set(inspect.signature(self.get_text_model().forward).parameters)
        return self.get_text_model()(**{name: value for name, value in arguments.items() if name not in unknown})

    def embed_prompt(
        self,
        input_ids: torch.LongTensor,
        pixel_values_videos: torch.FloatTensor | None = None,
        pixel_attention_mask: torch.LongTensor | None = None,
        visual_features: torch.FloatTensor | None = None,
        visual_attention_mask: torch.LongTensor | None = None,
        **kwargs: Any,
    ) -> torch.FloatTensor:
        """
        -> embeddings `(batch, length, text hidden size)` of the prompt with the video in it; arguments as in `forward`.

        Raises:
            ValueError: as `forward`.
        """
        video = self._given_video(
            kwargs, pixel_values_videos, pixel_attention_mask, visual_features, visual_attention_mask
        )
        return self._embed_prompt(input_ids, video)[0]

    def _embed_prompt(
        self, input_ids: torch.Tensor | None, video: dict[str, Any]
    ) -> tuple[torch.Tensor, SignEncoderOutput]:
        """-> embeddings as `embed_prompt`, and the visual tokens in them."""
        self._check_one_form(video)
        if input_ids is None:
            raise ValueError("Pass `input_ids`, the prompt with a placeholder for each word-like token.")
        tokens = self._visual_tokens(video)
        is_real = tokens.attention_mask.bool()
        is_placeholder = input_ids == self.config.video_token_id
        embeddings = self.get_input_embeddings()(input_ids)
        if is_exporting(self):
            shown = _tokens_at(is_placeholder, self._embed_tokens(tokens.last_hidden_state), is_real)
            return torch.where(is_placeholder[..., None], shown.to(embeddings.dtype), embeddings), tokens
        self._check_placeholders(is_placeholder, is_real)
        packed = self._embed_tokens(tokens.last_hidden_state[is_real])
        return embeddings.masked_scatter(is_placeholder[..., None], packed.to(embeddings.dtype)), tokens

    def _check_placeholders(self, is_placeholder: torch.Tensor, is_real: torch.Tensor) -> None:
        if len(is_placeholder) != len(is_real):
            raise ValueError(f"Each prompt needs one video, got {len(is_placeholder)} prompts, {len(is_real)} videos.")
        wanted, got = is_real.sum(1), is_placeholder.sum(1)
        if (wanted != got).any():
            row = int((wanted != got).nonzero()[0])
            raise ValueError(
                f"Prompt {row} of the batch has {int(got[row])} placeholders (token {self.config.video_token_id}), but "
                f"its video gives {int(wanted[row])} visual tokens. LlavaSltProcessor writes one for each: let it "
                "count as the model does, `processor.set_token_steps(model.vision_model.get_token_steps())`, and do "
                "not truncate the prompt."
            )

    def check_num_tokens(self, num_prompt_tokens: int) -> None:
        self._check_num_tokens(num_prompt_tokens + 1)

    def get_max_num_input_tokens(self) -> int | None:
        most = self.get_max_num_tokens()
        return None if most is None else most - 1

    def get_max_num_tokens(self) -> int | None:
        for name, module in self.get_text_model().named_modules():
            if name.rpartition(".")[2] in LEARNED_POSITIONS and isinstance(module, nn.Embedding):
                return self.config.text_config.max_position_embeddings
        return None

    def _check_num_tokens(self, num_tokens: int) -> None:
        most = self.get_max_num_tokens()
        if most is not None and num_tokens > most:
            raise ValueError(
                f"Prompt, video and sentence have {num_tokens} tokens, but the language model "
                f"{self.config.text_config.model_type!r} takes at most {most}. Lower `max_num_frames` or "
                "`frame_sampling_rate` of the video processor or `max_new_tokens`, or cut the video with `start` and "
                "`end`."
            )

    def _loss(
        self,
        logits: torch.Tensor,
        labels: torch.Tensor,
        tokens: SignEncoderOutput | None,
        num_items_in_batch: torch.Tensor | int | None,
    ) -> torch.Tensor:
        """`tokens` are the visual ones, if they were computed."""
        labels = labels.to(logits.device)[:, -logits.shape[1] :]
        num_labels = (labels[:, 1:] != IGNORED_LABEL).sum()
        if num_items_in_batch is None:
            num_items_in_batch = num_labels
        label_smoothing = self.config.label_smoothing if self.training else 0.0
        loss = summed_cross_entropy(logits[:, :-1], labels[:, 1:], label_smoothing)
        return (loss + weighted_encoder_losses(tokens, num_labels)) / num_items_in_batch

    def replay(
        self,
        sequences: torch.LongTensor,
        input_ids: torch.LongTensor,
        attention_mask: torch.LongTensor,
        visual_features: torch.FloatTensor,
        visual_attention_mask: torch.LongTensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `SignTranslationModel.replay`. The attention is to the visual tokens of the prompt."""
        repeats = len(sequences) // len(input_ids)
        written = sequences[:, 1:]
        prompts = input_ids.repeat_interleave(repeats, 0)
        prompt_mask = attention_mask.repeat_interleave(repeats, 0)
        output = eager_twin(self)(
            input_ids=torch.cat([prompts, written[:, :-1]], 1),
            attention_mask=torch.cat([prompt_mask, torch.ones_like(written[:, :-1])], 1),
            visual_features=visual_features.repeat_interleave(repeats, 0),
            visual_attention_mask=visual_attention_mask.repeat_interleave(repeats, 0),
            output_attentions=True,
            use_cache=False,
        )
        if not output.attentions or any(layer is None for layer in output.attentions):
            raise ValueError(
                f"The text model {self.config.text_config.model_type!r} gives no attention weights, so its words "
                "cannot be timed. Leave out `return_timestamps` and `return_attention`."
            )
        num_written = written.shape[1]
        log_probabilities = -nn.functional.cross_entropy(
            output.logits[:, -num_written:].float().transpose(1, 2), written, reduction="none"
        )
        attention = torch.stack([layer[:, :, -num_written:].float().mean(1) for layer in output.attentions]).mean(0)
        return log_probabilities, _to_visual_tokens(attention, prompts == self.config.video_token_id)

    @torch.no_grad()
    def generate(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        pixel_values_videos: torch.FloatTensor | None = None,
        pixel_attention_mask: torch.LongTensor | None = None,
        visual_features: torch.FloatTensor | None = None,
        visual_attention_mask: torch.LongTensor | None = None,
        labels: torch.LongTensor | None = None,
        num_candidates: int | None = None,
        choose_by: str | Utility | None = None,
        tokenizer: Any = None,
        left_handed: bool | str | torch.Tensor = False,
        **kwargs: Any,
    ):
        """
        Translate: `transformers.GenerationMixin.generate` for a prompt with a video. Returns only the new tokens, and
        `max_length` and `min_length` count only these.

        The video is encoded once, before the beams are expanded. With `labels`, which the Trainer passes in evaluation,
        the sentences are removed from `input_ids` first.

        With `num_candidates`, so many sequences are written for each clip, and those `num_return_sequences` (default 1)
        are returned, best first, that agree best with all of them, by "bleu", "chrf" or a function as `choose_by`; see
        `CandidateChoice` and `utility_named`. `tokenizer` gives their texts.

        `left_handed` mirrors the clips of left-handed signers for a model that learned from right-handed ones: True for
        all clips, "auto" for those of which the model is surer in a mirror (see `hand_margins`), or a boolean tensor
        `(batch,)`.

        Further arguments are those of transformers.

        Raises:
            ValueError: as `forward` and `features_as_right_handed`, and for candidates that cannot be written or
                compared.
        """
        kwargs, choose = self._plan_choice(num_candidates, choose_by, tokenizer, kwargs)
        if attention_mask is None and input_ids is not None:
            attention_mask = torch.ones_like(input_ids)
        if labels is not None:
            input_ids, attention_mask = _prompts_alone(input_ids, attention_mask, labels)
        video = self._given_video(
            kwargs, pixel_values_videos, pixel_attention_mask, visual_features, visual_attention_mask
        )
        prompt = {"input_ids": input_ids, "attention_mask": attention_mask}
        video = self._as_right_handed(video, left_handed, prompt)
        embeddings, _ = self._embed_prompt(input_ids, video)
        self.check_num_tokens(embeddings.shape[1])
        config = copy.deepcopy(kwargs.pop("generation_config", None) or self.generation_config)
        kwargs = config.update(**kwargs)  # those that are not generation settings
        _count_new_tokens_alone(config, self.generation_config, embeddings.shape[1], self.get_max_num_tokens())
        config.suppress_tokens = [*(config.suppress_tokens or []), self.config.video_token_id]
        output = self._write_sequences(
            inputs_embeds=embeddings, attention_mask=attention_mask, generation_config=config, **kwargs
        )
        return choose(output)


def _to_visual_tokens(attention: torch.Tensor, is_visual: torch.Tensor) -> torch.Tensor:
    """
    Attention `(sequences, written tokens, tokens)` to all tokens, the first of which are prompts with `is_visual`
    `(sequences, prompt tokens)` -> the attention to the visual tokens `(sequences, written tokens, visual tokens)`,
    moved to the front, with rows of sum 1.
    """
    attention = attention_to_visual_tokens(attention, is_visual)
    return attention / attention.sum(2, keepdim=True).clamp(min=torch.finfo(attention.dtype).tiny)


def _num_cached_tokens(language_model_arguments: dict[str, Any]) -> int:
    """Number of tokens in the cache, which `generate` passes as `cache`, and as `past_key_values` before 5.24."""
    caches = (language_model_arguments.get(name) for name in ("cache", "past_key_values"))
    return sum(int(cache.get_seq_length()) for cache in caches if cache is not None)


def _tokens_at(is_placeholder: torch.Tensor, visual_tokens: torch.Tensor, is_real: torch.Tensor) -> torch.Tensor:
    """
    -> `(batch, length, hidden size)`: the real visual tokens `(batch, words, hidden size)` of each row at its
    placeholders `(batch, length)`, arbitrary values elsewhere. No shape depends on the data.
    """
    rank = (is_placeholder.long().cumsum(1) - 1).clamp(0, visual_tokens.shape[1] - 1)
    source = real_first(is_real).gather(1, rank)
    return visual_tokens.gather(1, source[..., None].expand(-1, -1, visual_tokens.shape[2]))


def _positions(attention_mask: torch.Tensor) -> torch.Tensor:
    """Positions counted from the first real token of each row, as `generate` counts them."""
    return (attention_mask.long().cumsum(1) - 1).clamp(min=0)


def _num_logits_for(labels: torch.Tensor) -> int:
    """How many last positions, from the one before the batch's first label on; at least two, for the shift."""
    columns = (labels != IGNORED_LABEL).any(0).nonzero()
    return labels.shape[1] + 1 - int(columns[0]) if len(columns) else 2


def _prompts_alone(
    input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask `(batch, longest prompt)` without labels and padding, padded on the left again."""
    is_prompt = attention_mask.bool() & (labels == IGNORED_LABEL)
    order = real_first(~is_prompt)
    longest = int(is_prompt.sum(1).max())
    return tuple(values.gather(1, order)[:, -longest:] for values in (input_ids, is_prompt.long()))


def _count_new_tokens_alone(
    config: GenerationConfig, defaults: GenerationConfig, num_prompt_tokens: int, most: int | None
) -> None:
    """
    With `inputs_embeds`, transformers subtracts the length of the prompt from `max_length` and `min_length`, even if
    they come from the model's `defaults`. With learned positions for `most` tokens, a sentence ends where they end.
    """
    if config.max_new_tokens is not None and defaults.max_new_tokens is None:
        # It replaces the saved `max_length`; with both, transformers would warn.
        config.max_length, config.max_new_tokens = config.max_new_tokens, None
    for name in ("max", "min"):
        lengths = [getattr(each, f"{name}_length") for each in (config, defaults)]
        length = next((value for value in lengths if value is not None), None)
        if length is not None and getattr(config, f"{name}_new_tokens") is None:
            setattr(config, f"{name}_length", length + num_prompt_tokens)
    if most is None:
        return
    if config.max_new_tokens is not None:
        config.max_new_tokens = min(config.max_new_tokens, most - num_prompt_tokens)
    elif config.max_length is not None:
        config.max_length = min(config.max_length, most)


__all__ = ["PromptedTranslationModel"]
