"""
What the translation models of all systems share: clip -> sign encoder -> adapter -> language model -> sentence.

`language_encoder_decoder_slt.py` and `language_prompted_slt.py` define how the language model reads the visual tokens
and writes; a system is a subclass of one of these.
"""

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import nn
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import can_return_tuple

from .choice_slt import CandidateChoice, Utility, utility_named
from .encoders_slt import build_sign_encoder, load_sign_encoder
from .handedness_slt import LeftHandedSigners
from .hub_export_slt import SavedWithItsCode
from .linear_layers_slt import few_rows_in_onednn
from .loading_slt import forget_folder, load_whole, read_config_values
from .sign_encoder_slt import SignEncoder, SignEncoderOutput

VISUAL_FEATURES = ("visual_features", "visual_attention_mask")


@dataclass
class VideoFeaturesOutput(BaseModelOutputWithPooling):
    """
    Output of `get_video_features` of a translation model.

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(batch, tokens, visual hidden size)`):
            Visual tokens; 0 after the end of a clip.
        pooler_output (`torch.FloatTensor` of shape `(batch, tokens, text hidden size)`):
            The same tokens as the text model reads them.
        attention_mask (`torch.LongTensor` of shape `(batch, tokens)`):
            1 for the tokens of the clip, 0 for padding.
    """

    attention_mask: torch.LongTensor | None = None


class SignTranslationModel(SavedWithItsCode, LeftHandedSigners, PreTrainedModel, GenerationMixin):
    """
    Base class of the translation models. It builds the sign encoder of `config.vision_config`, and passes it the inputs
    of a batch that its `input_names` list. A subclass builds the adapter and the text model, in its `__init__` and
    under the names below, and calls `post_init`.

    Attributes:
        is_prompted (`bool`):
            Whether the text model reads the visual tokens inside a prompt, `input_ids`, and continues it; otherwise its
            encoder reads them, and its decoder writes.
        prompt_input_names (`tuple[str, ...]`):
            The inputs of the text model beside the visual tokens: those of its prompt, by the names that the processor
            gives; none for a model that reads no prompt.
        draws_samples (`bool`):
            Whether several sequences of a clip are samples by default; otherwise they need as many beams.
        translation_auto_class (`str`, *optional*): Auto class of transformers for the whole model, if it translates.
        adapter_name (`str`): name of the module between sign encoder and text model.
        text_model_name (`str`): name of the text model.
        head_names (`tuple[str, ...]`): further modules beside adapter and text model that each model starts anew.
        text_auto_class (`type`): Auto class of transformers for the text model.
        encoder_advice (`str`): how to get a sign encoder, for the error if there is none.
        own_generation_arguments (`tuple[str, ...]`):
            Arguments of `generate` that say how to write, beside those of transformers. The pipeline takes them, too.
    """

    is_prompted: bool
    prompt_input_names: tuple[str, ...]
    draws_samples = False
    translation_auto_class: str | None
    adapter_name = "adapter"
    text_model_name = "text_model"
    head_names: tuple[str, ...] = ()
    text_auto_class: type
    encoder_advice: str
    own_generation_arguments: tuple[str, ...] = ("num_candidates", "choose_by")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    # The Trainer passes `num_items_in_batch`, and forward divides by it: gradient accumulation and several
    # processes then give exactly the gradient of one large batch.
    accepts_loss_kwargs = True

    def __init__(self, config: PreTrainedConfig):
        # Resizing the embeddings changes the configuration: two models built from one must not share it.
        super().__init__(copy.deepcopy(config))
        self.vision_model = build_sign_encoder(self.config.vision_config)

    def _build_text_model(self) -> PreTrainedModel:
        """Build it in the dtype of the whole model, whatever dtype the text model's checkpoint was saved in."""
        return self.text_auto_class.from_config(self.config.text_config, dtype=torch.get_default_dtype())

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)

    def get_text_model(self) -> PreTrainedModel:
        """The language model, whatever its name in this model."""
        return getattr(self, self.text_model_name)

    def get_adapter(self) -> nn.Module:
        """The module between sign encoder and language model, whatever its name in this model."""
        return getattr(self, self.adapter_name)

    # ---------------------------------------------------------------------------------- put together from parts

    @classmethod
    def from_vision_text_pretrained(
        cls, vision_model_name_or_path: str | SignEncoder, text_model_name_or_path: str, **config_values: Any
    ) -> Self:
        """
        Combine a sign encoder, a new adapter and a pretrained text model. Like `from_pretrained` it returns the model
        in evaluation mode.

        Args:
            vision_model_name_or_path (`str` or `SignEncoder`):
                Folder or Hub id of a sign encoder or of a model that has one, or a sign encoder.
            text_model_name_or_path (`str`): folder or Hub id of a text model that fits this class.
            config_values:
                Further fields of the configuration, such as `label_smoothing`. Those that begin with `vision_` or
                `text_`, such as `text_revision`, `text_device_map` and `vision_token`, go without that prefix to the
                `from_pretrained` of the part. The new adapter gets the device and dtype of the token embeddings.

        Raises:
            ValueError: if the first has no sign encoder, or the second is not a text model that fits, and as
                `load_whole` if one of them is incomplete.
        """
        vision_options, text_options = (taken(config_values, prefix) for prefix in ("vision_", "text_"))
        vision_model = vision_model_name_or_path
        if not isinstance(vision_model, SignEncoder):
            vision_model = load_sign_encoder(vision_model_name_or_path, cls.encoder_advice, **vision_options)
        text_model = cls._load_text_model(text_model_name_or_path, text_options)
        cls._fit_text_model(text_model, config_values)
        config = cls.config_class(
            # Copies: a configuration that becomes part of another one loses its attention implementation.
            vision_config=copy.deepcopy(vision_model.config),
            text_config=copy.deepcopy(text_model.config),
            **config_values,
        )
        with torch.device("meta"):  # no second text model in memory
            model = cls(config)
        # The modules, not their weights alone: whether input and output embeddings are tied depends on the checkpoint.
        model.vision_model = vision_model
        setattr(model, cls.text_model_name, text_model)
        model.config.text_config = text_model.config
        for part_config in (model.config.vision_config, model.config.text_config):
            forget_folder(part_config)
        model.generation_config = text_model.generation_config
        model._start_new_parts()
        return model.eval()

    @classmethod
    def _load_text_model(cls, name_or_path: str, options: dict[str, Any]) -> PreTrainedModel:
        cls._check_text_model(name_or_path, options)
        return load_whole(
            cls.text_auto_class.from_pretrained, name_or_path, **{"dtype": torch.get_default_dtype(), **options}
        )

    @classmethod
    def _check_text_model(cls, name_or_path: str, options: dict[str, Any]) -> None:
        """Raise a `ValueError` before loading if a folder or Hub id holds no text model that fits."""
        raise NotImplementedError

    @classmethod
    def _fit_text_model(cls, text_model: PreTrainedModel, config_values: dict[str, Any]) -> None:
        """Adapt a loaded text model to the fields of the configuration."""

    def _start_new_parts(self) -> None:
        """Initialise the new modules beside the two loaded parts, which so far are on the meta device."""
        raise NotImplementedError

    # ---------------------------------------------------------------------------------- training of parts

    def freeze_visual_encoder(self) -> None:
        """Freeze the weights and buffers of the sign encoder: they do not change, even after `.train()`."""
        self.vision_model.freeze()

    def get_lora_settings(self) -> dict[str, Any]:
        """
        Settings for `peft.LoraConfig`: low-rank adapters in every linear layer of the text model, whatever their names.
        The new modules are trained in full, as is all of the sign encoder that is not frozen.
        """
        heads = [name for name in self.head_names if hasattr(self, name)]
        others = "|".join(("vision_model", self.adapter_name, *self.head_names))
        return {
            "target_modules": "all-linear",
            "exclude_modules": rf"({others})(\..*)?",
            "modules_to_save": [self.adapter_name, *heads, *_trained_modules(self.vision_model, "vision_model")],
        }

    # ---------------------------------------------------------------------------------- clips

    def _given_video(
        self,
        others: dict[str, Any],
        pixel_values_videos: torch.Tensor | None = None,
        pixel_attention_mask: torch.Tensor | None = None,
        visual_features: torch.Tensor | None = None,
        visual_attention_mask: torch.Tensor | None = None,
    ) -> dict[str, Any]:
        """
        The inputs of a video in any form, by name: those of these arguments that are given, and the encoder's inputs
        among the `others`, from which they are removed.

        Raises:
            ValueError: for inputs that this encoder does not read.
        """
        named = {
            "pixel_values_videos": pixel_values_videos,
            "pixel_attention_mask": pixel_attention_mask,
            "visual_features": visual_features,
            "visual_attention_mask": visual_attention_mask,
        }
        named |= {name: others.pop(name) for name in self.vision_model.input_names if name in others}
        features = {name: named.pop(name) for name in VISUAL_FEATURES if named.get(name) is not None}
        clip = {name: value for name, value in named.items() if name not in VISUAL_FEATURES}
        return self.vision_model.given_inputs(clip) | features

    def _check_one_form(self, video: dict[str, Any], **other_forms: Any) -> None:
        forms = {name: video.get(name) for name in (self.vision_model.main_input_name, "visual_features")} | other_forms
        if sum(form is not None for form in forms.values()) != 1:
            raise ValueError(f"Pass exactly one of {_listed(forms)}.")

    def _visual_tokens(self, video: dict[str, Any]) -> SignEncoderOutput:
        """Output of the sign encoder for a clip, or for the features of one that were passed in its place."""
        if self.vision_model.main_input_name in video:
            return self.vision_model(**{name: video[name] for name in self.vision_model.input_names if name in video})
        return self.vision_model.encode_features(video["visual_features"], video.get("visual_attention_mask"))

    def _embed_tokens(self, visual_tokens: torch.Tensor) -> torch.Tensor:
        """Map visual tokens `(..., visual hidden size)` with the adapter -> `(..., text hidden size)`."""
        adapter = self.get_adapter()
        return adapter(visual_tokens.to(adapter.first.weight.dtype))

    @can_return_tuple
    def get_video_features(
        self,
        pixel_values_videos: torch.FloatTensor | None = None,
        pixel_attention_mask: torch.LongTensor | None = None,
        **kwargs: Any,
    ) -> VideoFeaturesOutput:
        """The visual tokens of clips, and as `pooler_output` what the text model reads; arguments as in `forward`."""
        video = self._given_video(kwargs, pixel_values_videos, pixel_attention_mask)
        self._check_one_form(video)
        tokens = self._visual_tokens(video)
        embeddings = self._embed_tokens(tokens.last_hidden_state)
        return VideoFeaturesOutput(tokens.last_hidden_state, embeddings, attention_mask=tokens.attention_mask)

    # ---------------------------------------------------------------------------------- text

    def check_num_tokens(self, num_tokens: int) -> None:
        """
        Raise a `ValueError` if the text model cannot read this many tokens: visual ones and, if it reads a prompt,
        those of the prompt, which must also leave room for a sentence.
        """
        raise NotImplementedError

    def get_max_num_input_tokens(self) -> int | None:
        """The most tokens that `check_num_tokens` lets pass, or `None` if it lets all pass."""
        raise NotImplementedError

    def get_max_num_tokens(self) -> int | None:
        """
        The most tokens that the learned positions of the text model let it write, including those of a prompt, or
        `None` if it has no learned positions.
        """
        raise NotImplementedError

    def _write_sequences(self, **kwargs: Any) -> Any:
        """
        How sequences are generated from an encoded clip: what `generate` of a language kind passes and returns. A
        system that writes otherwise overrides it.
        """
        with few_rows_in_onednn(self):
            return super().generate(**kwargs)

    def candidate_arguments(self, num_candidates: int, generation: dict[str, Any]) -> dict[str, Any]:
        """
        The arguments `generation` of `generate`, changed so that it writes `num_candidates` sequences for each clip:
        samples, or the best ones of a beam search if they ask for at least so many beams. How many beams the model was
        saved with does not matter.

        Raises:
            ValueError: if the arguments ask for fewer beams, or for no sampling.
        """
        written = {**generation, "num_return_sequences": num_candidates}
        given = generation.get("generation_config")
        num_beams = generation.get("num_beams") or getattr(given, "num_beams", None) or 1
        if self.draws_samples or num_candidates == 1 or num_beams >= num_candidates:
            return written
        if num_beams > 1 or generation.get("do_sample") is False:
            raise ValueError(
                f"{num_candidates} candidates need {num_candidates} beams or more, or else sampling without beams. "
                f"Pass `num_beams={num_candidates}`, or neither `num_beams` nor `do_sample` to sample."
            )
        return {**written, "do_sample": True, "num_beams": 1}

    def _plan_choice(
        self,
        num_candidates: int | None,
        choose_by: str | Utility | None,
        tokenizer: Any,
        generation: dict[str, Any],
    ) -> tuple[dict[str, Any], Callable[[Any], Any]]:
        """
        -> the arguments of `generate` with which it writes the candidates, and what then chooses among them.

        Raises:
            ValueError: as `candidate_arguments` and `CandidateChoice`, and for `choose_by` without `num_candidates`.
        """
        with_tokenizer = {} if tokenizer is None else {"tokenizer": tokenizer}  # `stop_strings` need it, too
        if num_candidates is None:
            if choose_by is not None:
                raise ValueError("`choose_by` chooses among candidates: pass `num_candidates`, how many to write.")
            return {**generation, **with_tokenizer}, lambda output: output
        num_chosen = self._generation_setting("num_return_sequences", generation) or 1
        written = self.candidate_arguments(num_candidates, generation)
        choice = CandidateChoice(num_candidates, num_chosen, utility_named(choose_by), tokenizer)
        if not self.writes_by_beams(written):
            return {**written, **with_tokenizer}, choice
        choice = dataclasses.replace(choice, length_penalty=self._generation_setting("length_penalty", written, 1.0))
        wants_output = self._generation_setting("return_dict_in_generate", generation)
        written |= {"return_dict_in_generate": True, "output_scores": True}
        return {
            **written,
            **with_tokenizer,
        }, lambda output: choice(output) if wants_output else choice(output).sequences

    def writes_by_beams(self, generation: dict[str, Any]) -> bool:
        """Whether the candidates that `generate` writes with these arguments are those of a beam search."""
        return not self.draws_samples and (self._generation_setting("num_beams", generation) or 1) > 1

    def _generation_setting(self, name: str, generation: dict[str, Any], default: Any = None) -> Any:
        """What `generate` would take: of the arguments, else of the configuration among them, else of the model."""
        configs = (generation.get("generation_config"), self.generation_config)
        values = (generation.get(name), *(getattr(config, name, None) for config in configs))
        return next((value for value in values if value is not None), default)

    def replay(self, sequences: torch.LongTensor, **inputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Read generated sequences `(sequences, length)` again in one pass. Returns for each token but the first the log
        probability `(sequences, length - 1)` and the attention `(sequences, length - 1, visual tokens)` with which it
        was written, however it was decoded. `inputs` are those of `generate`, once for each clip.

        Raises:
            ValueError: for a text model that gives no attention weights.
        """
        raise NotImplementedError

    def get_input_embeddings(self) -> nn.Module:
        return self.get_text_model().get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.get_text_model().set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.get_text_model().get_output_embeddings()

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Resize the text model's embeddings. See `PreTrainedModel.resize_token_embeddings`."""
        return self.get_text_model().resize_token_embeddings(*args, **kwargs)


def _trained_modules(module: nn.Module, name: str) -> list[str]:
    """Names of the largest modules of which everything is trained; a backbone with adapters of its own is none."""
    trained = [parameter.requires_grad for parameter in module.parameters()]
    if not any(trained):
        return []
    if all(trained):
        return [name]
    backbone = getattr(module, "pretrained_backbone", None)
    children = [(f"{name}.{child}", each) for child, each in module.named_children() if each is not backbone]
    return [found for child, each in children for found in _trained_modules(each, child)]


def weighted_encoder_losses(output: SignEncoderOutput | None, num_labels: torch.Tensor) -> torch.Tensor | float:
    """
    The sum of a sign encoder's losses, times the label tokens of the batch: divided by `num_items_in_batch`, their mean
    over clips does not depend on how a batch is split. 0 without losses.
    """
    losses = (output.losses or {}) if output is not None else {}
    return sum(losses.values()) * num_labels if losses else 0.0


def eager_twin(model: PreTrainedModel) -> PreTrainedModel:
    """
    A copy that shares all parameters and buffers but has eager attention: sdpa and flash attention give no attention
    weights. The model itself stays untouched, also for other threads that use it.
    """
    shared = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    twin = copy.deepcopy(model, shared)
    for module in twin.modules():
        if isinstance(module, PreTrainedModel):
            module.set_attn_implementation("eager")
    return twin


def read_text_model_type(name_or_path: str, kind: str, options: dict[str, Any]) -> str:
    """The model type in a folder or Hub id that should hold a text model; errors describe it by `kind`."""
    return read_config_values(name_or_path, f"Expected {name_or_path!r} to be {kind}", options)["model_type"]


def taken(values: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Remove the entries of `values` that begin with `prefix`, and return them without the prefix."""
    names = [name for name in values if name.startswith(prefix)]
    return {name.removeprefix(prefix): values.pop(name) for name in names}


def _listed(names: Any) -> str:
    *first, last = [f"`{name}`" for name in names]
    return f"{', '.join(first)} and {last}" if first else last


__all__ = ["SignTranslationModel"]
