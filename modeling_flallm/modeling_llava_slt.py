"""
LLaVA-SLT, sign language translation with a decoder-only language model (https://arxiv.org/abs/2412.16524).

    frames -> visual encoder -> word-like tokens -> connector -> prompt of the language model -> sentence

Three stages: the language model goes on pretraining on text, the visual encoder learns from frozen text embeddings
(`LlavaSltForContrastivePreTraining`), and visual language tuning, with all of that frozen, trains the connector:

    model = LlavaSltForTranslation.from_vision_text_pretrained("stage2/", "stage1/", video_token_id=...)
    model.freeze_for_connector_tuning()
"""

import copy
import inspect
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, GenerationConfig, GenerationMixin
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from .configuration_llava_slt import TEXT_MODEL_EXPECTED, LlavaSltConfig, check_is_decoder_only
from .encoder_features_slt import VisualFeaturesEncoder  # noqa: F401, a relative import is what carries the file along
from .hub_export_slt import SavedWithItsCode, read_model_type
from .loading_slt import forget_folder, load_whole
from .losses_slt import IGNORED_LABEL, summed_cross_entropy
from .sign_encoder_slt import SignEncoder
from .systems import LLAVA_SLT
from .visual_encoder_flallm import checked_visual_mask
from .visual_encoder_llava_slt import LlavaSltPreTrainedModel, LlavaSltVisualEncoder

# What the position embeddings are called in transformers' models that have learned ones.
LEARNED_POSITIONS = ("wpe", "embed_positions", "position_embeddings")
EMBEDDINGS_LOOKED_AT = 1000


class LlavaSltConnector(nn.Module):
    """
    Word-like tokens to the language model's token space: `(..., in_features)` -> `(..., out_features)`.

    The paper says "light MLP connector"; linear layer, GELU, linear layer is LLaVA-1.5's.
    """

    def __init__(self, in_features: int, out_features: int, config: LlavaSltConfig):
        super().__init__()
        hidden_size = config.connector_hidden_size or out_features
        self.first = nn.Linear(in_features, hidden_size)
        self.activation = ACT2FN[config.connector_activation]
        self.second = nn.Linear(hidden_size, out_features)

    def forward(self, visual_features: torch.Tensor) -> torch.Tensor:
        return self.second(self.activation(self.first(visual_features)))

    @torch.no_grad()
    def start_at_scale(self, scale: torch.Tensor) -> None:
        """Make the outputs as large as `scale` (root mean square) for inputs as large as a LayerNorm's."""
        inputs = torch.randn(EMBEDDINGS_LOOKED_AT, self.first.in_features, device=self.first.weight.device)
        outputs = self(inputs.to(self.first.weight.dtype))
        self.second.weight.mul_(scale / outputs.float().square().mean().sqrt())


class LlavaSltForTranslation(SavedWithItsCode, LlavaSltPreTrainedModel, GenerationMixin):
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

    The prompt holds one placeholder, `config.video_token_id`, for each word-like token of the clip. The connector's
    outputs take their place among the token embeddings as the language model's own embedding layer gives them (Gemma
    and XGLM scale theirs there). The placeholder is never written.
    """

    config_class = LlavaSltConfig
    base_model_prefix = "llava_slt"
    main_input_name = "input_ids"
    input_modalities = ("video", "text")
    system = LLAVA_SLT
    unquantized_modules = ("vision_model", "connector", "lm_head")
    # The Trainer hands over `num_items_in_batch`, and forward divides by it: gradient accumulation and several
    # processes then give exactly the gradient of one large batch.
    accepts_loss_kwargs = True

    def __init__(self, config: LlavaSltConfig):
        # Resizing the embeddings writes to the configuration: two models built from one must not share it.
        config = copy.deepcopy(config)
        super().__init__(config)
        self.vision_model = AutoModel.from_config(config.vision_config, dtype=torch.get_default_dtype())
        _check_is_causal(config.text_config.model_type)
        # The dtype of the whole model, not the one that the language model's checkpoint happens to be saved in.
        self.language_model = AutoModelForCausalLM.from_config(config.text_config, dtype=torch.get_default_dtype())
        self.connector = LlavaSltConnector(config.vision_config.hidden_size, self._embedding_size(), config)
        self.language_model_is_frozen = False
        self.post_init()

    def _embedding_size(self) -> int:
        return self.language_model.get_input_embeddings().weight.shape[1]

    @classmethod
    def from_vision_text_pretrained(
        cls,
        vision_model_name_or_path: str | SignEncoder,
        text_model_name_or_path: str,
        video_token_id: int,
        **config_values: Any,
    ) -> "LlavaSltForTranslation":
        """
        The start of stage 3: the visual encoder of stage 2, a new connector, the language model of stage 1. Like
        `from_pretrained` it returns the model in evaluation mode.

        The connector starts with outputs as large as the language model's token embeddings (ours).

        Args:
            vision_model_name_or_path (`str` or `SignEncoder`): folder or Hub id of a
                `LlavaSltForContrastivePreTraining`, of a `LlavaSltVisualEncoder` or of a `LlavaSltForTranslation`, or a
                sign encoder, which becomes a part of the model.
            text_model_name_or_path (`str`): folder or Hub id of any causal language model of transformers.
            video_token_id (`int`): id of the placeholder; the embeddings are resized if they have no row for it.
            config_values: further fields of `LlavaSltConfig`, such as `connector_hidden_size`.

        Raises:
            ValueError: if the first is no model with such a visual encoder, or the second no causal language model, and
                as `load_whole` if one of them is not whole.
        """
        vision_model = cls._load_vision_model(vision_model_name_or_path)
        language_model = cls._load_language_model(text_model_name_or_path)
        if video_token_id >= language_model.get_input_embeddings().weight.shape[0]:
            language_model.resize_token_embeddings(video_token_id + 1, mean_resizing=False)
        config = LlavaSltConfig(
            # Copies: a configuration that becomes a part of another one forgets its attention implementation.
            vision_config=copy.deepcopy(vision_model.config),
            text_config=copy.deepcopy(language_model.config),
            video_token_id=video_token_id,
            **config_values,
        )
        with torch.device("meta"):  # no second language model in memory
            model = cls(config)
        # As it is, not its weights alone: whether the input and output embeddings are one depends on the checkpoint.
        model.vision_model, model.language_model = vision_model, language_model
        model.config.text_config = language_model.config
        if not isinstance(vision_model_name_or_path, SignEncoder):
            forget_folder(model.config.vision_config, vision_model_name_or_path)
        forget_folder(model.config.text_config, text_model_name_or_path)
        model.generation_config = language_model.generation_config
        model._start_connector()
        return model.eval()

    def _start_connector(self) -> None:
        self.connector = LlavaSltConnector(self.config.vision_config.hidden_size, self._embedding_size(), self.config)
        self.connector.apply(self._init_weights)
        embeddings = self.get_input_embeddings()
        step = max(embeddings.weight.shape[0] // EMBEDDINGS_LOOKED_AT, 1)
        with torch.no_grad():
            token_ids = torch.arange(0, embeddings.weight.shape[0], step, device=embeddings.weight.device)
            self.connector.start_at_scale(embeddings(token_ids).float().square().mean().sqrt())

    @staticmethod
    def _load_vision_model(name_or_path: str | SignEncoder) -> SignEncoder:
        if isinstance(name_or_path, SignEncoder):
            return name_or_path
        expected = (
            f"Expected {name_or_path!r} to hold a visual encoder of LLaVA-SLT (a folder or Hub id with a config.json "
            "of model type 'llava_slt_contrastive', 'llava_slt_visual' or 'llava_slt')"
        )
        model_type = read_model_type(name_or_path, expected)
        if model_type in ("llava_slt_visual", "llava_slt_contrastive", "llava_slt"):
            return LlavaSltVisualEncoder.from_pretrained(name_or_path, dtype=torch.get_default_dtype())
        raise ValueError(f"{expected}, got model type {model_type!r}. Train stage 2 first, or name its output folder.")

    @staticmethod
    def _load_language_model(name_or_path: str) -> nn.Module:
        expected = f"Expected {name_or_path!r} to be a causal language model (a folder or Hub id)"
        _check_is_causal(read_model_type(name_or_path, expected))
        # Of an encoder-decoder, transformers would load the decoder alone, without a word.
        check_is_decoder_only(AutoConfig.from_pretrained(name_or_path))
        return load_whole(AutoModelForCausalLM.from_pretrained, name_or_path, dtype=torch.get_default_dtype())

    def freeze_visual_encoder(self) -> None:
        """No weight and no buffer of the visual encoder changes any more, also after `.train()`."""
        self.vision_model.freeze()

    def freeze_for_connector_tuning(self) -> None:
        """
        Visual language tuning: nothing but the connector changes any more, also after `.train()`. The frozen parts run
        as in evaluation, without dropout.
        """
        self.vision_model.freeze()
        self.language_model.requires_grad_(False)
        self.language_model_is_frozen = True
        self.train(self.training)

    def train(self, mode: bool = True) -> "LlavaSltForTranslation":
        super().train(mode)
        if self.language_model_is_frozen:
            self.language_model.eval()
            for layer in self.language_model.modules():
                # Gradient checkpointing asks for training mode, and gradients pass through frozen layers, too. It
                # changes nothing in layers without dropout of their own: what they hold stays in evaluation mode.
                if isinstance(layer, GradientCheckpointingLayer) and not getattr(layer, "dropout", 0.0):
                    layer.training = mode
        return self

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Resize the language model's embeddings. See `PreTrainedModel.resize_token_embeddings`."""
        return self.language_model.resize_token_embeddings(*args, **kwargs)

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
                Prompt with one `config.video_token_id` per word-like token and, in training, the sentence behind it.
                Padded on the left. With a cache that holds the tokens before them, the new tokens alone.
            attention_mask (`torch.LongTensor` of shape `(batch, length)`, *optional*):
                0 for padding. Default: nothing is.
            pixel_values_videos (`torch.FloatTensor` of shape `(batch, frames, 3, height, width)`, *optional*):
                Normalised frames, zero-padded in time.
            pixel_attention_mask (`torch.LongTensor` of shape `(batch, frames)`, *optional*):
                1 for real frames. Default: all are real.
            visual_features (`torch.FloatTensor` of shape `(batch, words, word_hidden_size)`, *optional*):
                Word-like tokens of the visual encoder, instead of pixels.
            visual_attention_mask (`torch.LongTensor` of shape `(batch, words)`, *optional*):
                1 for real word-like tokens. Default: all are real.
            labels (`torch.LongTensor` of shape `(batch, length)`, *optional*):
                `input_ids` of the sentence and -100 elsewhere; the loss shifts them.
            inputs_embeds (`torch.FloatTensor` of shape `(batch, length, text hidden size)`, *optional*):
                Output of `embed_prompt`, instead of token ids and video.
            position_ids (`torch.LongTensor` of shape `(batch, new tokens)`, *optional*):
                Default: counted from the first real token of each row.
            logits_to_keep (`int`, *optional*):
                Last positions for which there are logits, 0 for all. Default: with labels those that the loss needs,
                else all.
            num_items_in_batch (`torch.Tensor` or `int`, *optional*):
                Label tokens over which the loss is averaged: those of the whole global batch, as the Trainer counts
                them. Default: those of this batch.
            kwargs: handed to the language model, such as `use_cache`, `output_attentions`, and its cache under the name
                that transformers gives it: `cache` from 5.24 on, `past_key_values` before.

        Raises:
            ValueError: for no video or two forms of it, for one beside `inputs_embeds`, another number of placeholders
                than of word-like tokens, or an input that is too long for the language model.
        """
        if inputs_embeds is not None and not (pixel_values_videos is None and visual_features is None):
            raise ValueError("Pass the video, or `inputs_embeds` that hold one already, not both.")
        num_cached_tokens = _num_cached_tokens(kwargs)
        if inputs_embeds is None and not num_cached_tokens:
            inputs_embeds = self.embed_prompt(
                input_ids, pixel_values_videos, pixel_attention_mask, visual_features, visual_attention_mask
            )
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
        outputs = self._run_language_model(
            **new_tokens,
            attention_mask=attention_mask,
            position_ids=position_ids,
            logits_to_keep=logits_to_keep,
            **{**kwargs, "return_dict": True},
        )
        if labels is not None:
            outputs["loss"] = self._loss(outputs.logits, labels, num_items_in_batch)
        return outputs

    def _run_language_model(self, **arguments: Any) -> CausalLMOutputWithPast:
        """Not every language model of transformers takes positions, or the number of logits that are wanted."""
        unknown = {"position_ids", "logits_to_keep"} - set(inspect.signature(self.language_model.forward).parameters)
        return self.language_model(**{name: value for name, value in arguments.items() if name not in unknown})

    def embed_prompt(
        self,
        input_ids: torch.LongTensor,
        pixel_values_videos: torch.FloatTensor | None = None,
        pixel_attention_mask: torch.LongTensor | None = None,
        visual_features: torch.FloatTensor | None = None,
        visual_attention_mask: torch.LongTensor | None = None,
    ) -> torch.FloatTensor:
        """
        -> embeddings `(batch, length, text hidden size)` of the prompt with the video in it; arguments as in `forward`.

        Raises:
            ValueError: as `forward`.
        """
        if (pixel_values_videos is None) == (visual_features is None):
            raise ValueError("Pass exactly one of `pixel_values_videos` and `visual_features`.")
        if input_ids is None:
            raise ValueError("Pass `input_ids`, the prompt with a placeholder for each word-like token.")
        if pixel_values_videos is not None:
            output = self.vision_model(pixel_values_videos, pixel_attention_mask)
            visual_features, visual_attention_mask = output.last_hidden_state, output.attention_mask
        hidden_size = self.config.vision_config.hidden_size
        is_real = checked_visual_mask(visual_features, visual_attention_mask, hidden_size, "words")
        is_placeholder = input_ids == self.config.video_token_id
        self._check_placeholders(is_placeholder, is_real)
        packed = self.connector(visual_features[is_real].to(self.connector.first.weight.dtype))
        embeddings = self.get_input_embeddings()(input_ids)
        return embeddings.masked_scatter(is_placeholder[..., None], packed.to(embeddings.dtype))

    def _check_placeholders(self, is_placeholder: torch.Tensor, is_real: torch.Tensor) -> None:
        if len(is_placeholder) != len(is_real):
            raise ValueError(f"Each prompt needs one video, got {len(is_placeholder)} prompts, {len(is_real)} videos.")
        wanted, got = is_real.sum(1), is_placeholder.sum(1)
        if (wanted != got).any():
            row = int((wanted != got).nonzero()[0])
            raise ValueError(
                f"Prompt {row} of the batch has {int(got[row])} placeholders (token {self.config.video_token_id}), but "
                f"its video gives {int(wanted[row])} word-like tokens. LlavaSltProcessor writes one for each, if its "
                f"`word_window_stride` is the model's, {self.config.vision_config.word_window_stride}, and the prompt "
                "is not truncated."
            )

    def check_num_tokens(self, num_prompt_tokens: int) -> None:
        """Raise a `ValueError` if a prompt of so many tokens leaves the language model no room for a sentence."""
        self._check_num_tokens(num_prompt_tokens + 1)

    def get_max_num_tokens(self) -> int | None:
        """The longest prompt with its answer, in tokens, that learned positions allow, or `None` without such."""
        for name, module in self.language_model.named_modules():
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
        self, logits: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None
    ) -> torch.Tensor:
        labels = labels.to(logits.device)[:, -logits.shape[1] :]
        if num_items_in_batch is None:
            num_items_in_batch = (labels[:, 1:] != IGNORED_LABEL).sum()
        label_smoothing = self.config.label_smoothing if self.training else 0.0
        return summed_cross_entropy(logits[:, :-1], labels[:, 1:], label_smoothing) / num_items_in_batch

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
        **kwargs: Any,
    ):
        """
        Translate: `transformers.GenerationMixin.generate` for a prompt with a video. Returns the new tokens alone, and
        `max_length` and `min_length` count them alone.

        The video is encoded once, before the beams are expanded. With `labels`, as the Trainer hands over the batch of
        an evaluation, the sentences are taken out of `input_ids` first. Further arguments are those of transformers.

        Raises:
            ValueError: as `forward`.
        """
        if attention_mask is None and input_ids is not None:
            attention_mask = torch.ones_like(input_ids)
        if labels is not None:
            input_ids, attention_mask = _prompts_alone(input_ids, attention_mask, labels)
        embeddings = self.embed_prompt(
            input_ids, pixel_values_videos, pixel_attention_mask, visual_features, visual_attention_mask
        )
        self.check_num_tokens(embeddings.shape[1])
        config = copy.deepcopy(kwargs.pop("generation_config", None) or self.generation_config)
        kwargs = config.update(**kwargs)  # those that are not of the configuration
        _count_new_tokens_alone(config, self.generation_config, embeddings.shape[1], self.get_max_num_tokens())
        config.suppress_tokens = [*(config.suppress_tokens or []), self.config.video_token_id]
        return super().generate(
            inputs_embeds=embeddings, attention_mask=attention_mask, generation_config=config, **kwargs
        )


def _num_cached_tokens(language_model_arguments: dict[str, Any]) -> int:
    """Tokens in the cache among the arguments; `generate` names it `cache`, and `past_key_values` before 5.24."""
    caches = (language_model_arguments.get(name) for name in ("cache", "past_key_values"))
    return sum(int(cache.get_seq_length()) for cache in caches if cache is not None)


def _positions(attention_mask: torch.Tensor) -> torch.Tensor:
    """Positions counted from the first real token of each row, as `generate` counts them."""
    return (attention_mask.long().cumsum(1) - 1).clamp(min=0)


def _num_logits_for(labels: torch.Tensor) -> int:
    """The last positions, from the one before the first label of the batch on; at least two, for the shift."""
    columns = (labels != IGNORED_LABEL).any(0).nonzero()
    return labels.shape[1] + 1 - int(columns[0]) if len(columns) else 2


def _prompts_alone(
    input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask `(batch, longest prompt)` without labels and padding, padded on the left again."""
    is_prompt = attention_mask.bool() & (labels == IGNORED_LABEL)
    order = is_prompt.long().argsort(dim=1, stable=True)
    longest = int(is_prompt.sum(1).max())
    return tuple(values.gather(1, order)[:, -longest:] for values in (input_ids, is_prompt.long()))


def _count_new_tokens_alone(
    config: GenerationConfig, defaults: GenerationConfig, num_prompt_tokens: int, most: int | None
) -> None:
    """
    Beside embeddings, transformers subtracts the length of the prompt from `max_length` and `min_length`, also where it
    takes them from the model's `defaults`. With learned positions for `most` tokens, a sentence ends where they end.
    """
    if config.max_new_tokens is not None and defaults.max_new_tokens is None:
        # It goes before the saved `max_length`, of which transformers would warn.
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


def _check_is_causal(model_type: str) -> None:
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ValueError(f"{TEXT_MODEL_EXPECTED}, got model type {model_type!r}, which is none.")


__all__ = ["LlavaSltConnector", "LlavaSltForTranslation"]
