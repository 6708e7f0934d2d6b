"""
DiffSLT's text autoencoder (https://arxiv.org/abs/2411.17248): its compression and reconstruction network.

    sentence -> text model's encoder -> compression -> latents -> reconstruction -> text model's decoder -> sentence

    autoencoder = DiffSltAutoencoder.from_text_pretrained("facebook/bart-base")
    autoencoder.freeze_text_model()

There is no public code, and we know no sizes of the paper. The design is that of latent diffusion for language
(https://arxiv.org/abs/2212.09462), from which it comes, with these deviations, which are ours: in the compression the
latents attend to each other and to the text one after the other, instead of in one step; it has the width of the text
model up to its output; and it tells words apart by sinusoidal positions, so that a sentence may have any length.
"""

import copy
from typing import Any, Self

import torch
from torch import nn
from transformers import AutoModelForSeq2SeqLM, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import Seq2SeqLMOutput
from transformers.utils import can_return_tuple

from .configuration_diffslt_autoencoder import DiffSltAutoencoderConfig
from .hub_card_slt import SentWithACard
from .language_encoder_decoder_slt import FLaLLMEncoderOutput, decoder_inputs_of, num_learned_positions
from .linear_layers_slt import few_rows_in_onednn
from .loading_slt import LoadedWhole, forget_folder, load_whole
from .losses_slt import IGNORED_LABEL, summed_cross_entropy
from .prior_guided_fusion_slt import sinusoids
from .systems import DIFFSLT

FEED_FORWARD_TIMES = 4  # of the width, as in the ancestor
STANDARD_DEVIATION = 0.02  # of the learned queries and positions at the start
CARD = """# {name}

This model turns a sentence into {num_latents} latent vectors of {latent_size} numbers each, and writes a sentence from
such vectors. It reads no videos: it is the text autoencoder of [DiffSLT]({paper}), for a model
that translates.

## How to use

<!-- flallm:usage:begin (the program writes what stands between these two marks) -->
The repository carries its own Python code. `trust_remote_code=True` runs it: read the `.py` files first, and pin the
version that you read with `revision=`.

```python
from transformers import AutoModel, AutoTokenizer

model = AutoModel.from_pretrained("{repo_id}", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained("{repo_id}")
labels = tokenizer(text_target=["A sentence."], return_tensors="pt")["input_ids"]
latents = model.compress(labels)  # (sentences, {num_latents}, {latent_size})
print(tokenizer.batch_decode(model.write(latents), skip_special_tokens=True))
```
<!-- flallm:usage:end -->
"""


class TextCompression(nn.Module):
    """
    Perceiver resampler: states of the text encoder `(batch, length, width)` and their mask `(batch, length)` -> latents
    `(batch, num_latents, latent_size)`, each of the norm sqrt(latent_size). Learned queries read the states.
    """

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        width = config.text_config.hidden_size
        self.text_norm = nn.LayerNorm(width)
        self.queries = nn.Parameter(torch.empty(config.num_latents, width))
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(**_layer_settings(config)) for _ in range(config.autoencoder_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, config.latent_size)

    def forward(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        positions = sinusoids(*states.shape[1:], states.device)
        text = self.text_norm(states.to(self.text_norm.weight.dtype))
        text = text + positions.to(text.dtype)
        hidden = self.queries.expand(len(states), -1, -1)
        for layer in self.layers:
            hidden = layer(hidden, text, memory_key_padding_mask=mask == 0)
        return normalised(self.output(self.norm(hidden)))


class TextReconstruction(nn.Module):
    """
    Transformer from latents `(batch, num_latents, latent_size)` to `(batch, num_latents, width)`, which the text
    model's decoder reads in place of its encoder's states.
    """

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        width = config.text_config.hidden_size
        self.input = nn.Linear(config.latent_size, width)
        self.positions = nn.Parameter(torch.empty(config.num_latents, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(**_layer_settings(config)) for _ in range(config.autoencoder_layers)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        hidden = self.input(normalised(latents).to(self.input.weight.dtype)) + self.positions
        for layer in self.layers:
            hidden = layer(hidden)
        return self.norm(hidden)


def _layer_settings(config: PreTrainedConfig) -> dict[str, Any]:
    """Arguments of torch's transformer layers, for both networks."""
    width = config.text_config.hidden_size
    return {
        "d_model": width,
        "nhead": config.autoencoder_heads,
        "dim_feedforward": FEED_FORWARD_TIMES * width,
        "dropout": 0.0,
        "activation": "gelu",
        "batch_first": True,
        "norm_first": True,
    }


def normalised(latents: torch.Tensor) -> torch.Tensor:
    """
    Latents `(..., latent_size)` of any norm -> float32, of the norm sqrt(latent_size): their values' mean square is 1.
    """
    return nn.functional.normalize(latents.float(), dim=-1) * latents.shape[-1] ** 0.5


class CompressesText:
    """
    Mixin for models with an encoder-decoder `text_model` whose configuration has the fields of
    `DiffSltAutoencoderConfig`: text to latents and back. A model calls `_build_autoencoder` in its `__init__` once it
    has its `text_model`, and `_init_autoencoder_weights` in its `_init_weights`.
    """

    def _build_autoencoder(self) -> None:
        self.compression = TextCompression(self.config)
        self.reconstruction = TextReconstruction(self.config)

    def _init_autoencoder_weights(self, module: nn.Module) -> None:
        """Start what the `_init_weights` of transformers leaves alone."""
        if isinstance(module, TextCompression):
            init.normal_(module.queries, std=STANDARD_DEVIATION)
        elif isinstance(module, TextReconstruction):
            init.normal_(module.positions, std=STANDARD_DEVIATION)

    def freeze_text_model(self) -> None:
        """Freeze the text model: training does not change it, even after `.train()`, and it has no dropout."""
        self.text_model.requires_grad_(False)
        self.text_model.eval()

    def train(self, mode: bool = True) -> Self:
        """See `torch.nn.Module.train`. A frozen text model stays in evaluation mode."""
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.text_model.parameters()):
            self.text_model.eval()
        return self

    def get_max_num_tokens(self) -> int | None:
        """The most tokens that the text model's learned positions let it write; `None` if it has none."""
        return num_learned_positions(self.text_model.get_decoder())

    def prepare_decoder_input_ids_from_labels(self, labels: torch.LongTensor) -> torch.LongTensor:
        """Labels `(batch, length)` -> inputs of the decoder, shifted by one as the text model does it."""
        return decoder_inputs_of(self.text_model, labels)

    def compress(self, labels: torch.LongTensor) -> torch.Tensor:
        """
        Sentences -> latents `(batch, num_latents, latent_size)`, each of the norm sqrt(latent_size).

        Args:
            labels (`torch.LongTensor` of shape `(batch, length)`):
                Token ids as the processor gives them for sentences, -100 after the end of a shorter one.

        Raises:
            ValueError: for sentences with more tokens than the text model has positions.
        """
        encoder = self.text_model.get_encoder()
        most = num_learned_positions(encoder)
        if most is not None and labels.shape[1] > most:
            raise ValueError(
                f"A sentence has {labels.shape[1]} tokens, but the text model {self.config.text_config.model_type!r} "
                f"reads at most {most}. Shorten or split the sentence."
            )
        mask = (labels != IGNORED_LABEL).long()
        token_ids = labels.masked_fill(mask == 0, self.config.pad_token_id)
        states = encoder(input_ids=token_ids, attention_mask=mask, return_dict=True).last_hidden_state
        return self.compression(states, mask)

    def reconstruct(self, latents: torch.Tensor) -> FLaLLMEncoderOutput:
        """
        Latents `(batch, num_latents, latent_size)`, which may have any norm -> what the text model's decoder reads, as
        many states as latents.
        """
        states = self.reconstruction(latents).to(self.text_model.get_input_embeddings().weight.dtype)
        mask = torch.ones(states.shape[:2], dtype=torch.long, device=states.device)
        return FLaLLMEncoderOutput(last_hidden_state=states, attention_mask=mask)

    @torch.no_grad()
    def write(self, latents: torch.Tensor, **generation: Any) -> Any:
        """
        Latents `(batch, num_latents, latent_size)` -> the text model's `generate` from them, greedy unless `generation`
        says otherwise: `(batch, length)` token ids. All further arguments are those of transformers.
        """
        encoder_outputs = self.reconstruct(latents)
        given = generation.pop("generation_config", None)
        settings = copy.deepcopy(self.generation_config)
        settings.update(num_beams=1, do_sample=False)
        if given is not None:  # what it leaves unset stays as the model has it
            settings.update(**{name: value for name, value in given.to_dict().items() if value is not None})
        if generation.get("max_new_tokens") is not None:
            generation.setdefault("max_length", None)  # replaces the saved one; with both, transformers would warn
        others = settings.update(**generation)
        mask = encoder_outputs.attention_mask
        with few_rows_in_onednn(self):
            return self.text_model.generate(
                encoder_outputs=encoder_outputs, attention_mask=mask, generation_config=settings, **others
            )


class DiffSltAutoencoder(CompressesText, SentWithACard, LoadedWhole, PreTrainedModel, GenerationMixin):
    """
    Sentence in, the same sentence out, through few latents. The text model may be frozen (`freeze_text_model`), as in
    latent diffusion for language, or be trained as well.

    ```python
    >>> from modeling_flallm import DiffSltAutoencoder
    >>> from transformers import AutoTokenizer

    >>> autoencoder = DiffSltAutoencoder.from_pretrained("autoencoder")
    >>> tokenizer = AutoTokenizer.from_pretrained("autoencoder")
    >>> labels = tokenizer(text_target=["am tag regnet es"], return_tensors="pt")["input_ids"]
    >>> latents = autoencoder.compress(labels)
    >>> tokenizer.batch_decode(autoencoder.write(latents), skip_special_tokens=True)
    ```
    """

    config_class = DiffSltAutoencoderConfig
    base_model_prefix = "diffslt_autoencoder"
    main_input_name = "labels"
    hub_tags = DIFFSLT.hub_tags
    is_prompted = False  # the text model reads the latents alone
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    # The Trainer passes `num_items_in_batch`, and forward divides by it.
    accepts_loss_kwargs = True

    def __init__(self, config: DiffSltAutoencoderConfig):
        # Resizing the embeddings changes the configuration: two models built from one must not share it.
        super().__init__(copy.deepcopy(config))
        self.text_model = AutoModelForSeq2SeqLM.from_config(self.config.text_config, dtype=torch.get_default_dtype())
        self._build_autoencoder()
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
        self._init_autoencoder_weights(module)

    @classmethod
    def from_text_pretrained(cls, text_model_name_or_path: str, **config_values: Any) -> Self:
        """
        Put new compression and reconstruction networks into a pretrained text model. Like `from_pretrained` it returns
        the model in evaluation mode.

        Args:
            text_model_name_or_path (`str`): folder or Hub id of an encoder-decoder.
            config_values: further fields of the configuration, such as `num_latents`.

        Raises:
            ValueError: for a model that is not an encoder-decoder, or is incomplete (`load_whole`).
        """
        text_model = load_whole(
            AutoModelForSeq2SeqLM.from_pretrained, text_model_name_or_path, dtype=torch.get_default_dtype()
        )
        # A copy: a configuration that becomes part of another one loses its attention implementation.
        config = cls.config_class(text_config=copy.deepcopy(text_model.config), **config_values)
        with torch.device("meta"):  # no second text model in memory
            model = cls(config)
        model.text_model = text_model
        model.config.text_config = text_model.config
        forget_folder(text_model.config)
        model.generation_config = text_model.generation_config
        for network in (model.compression, model.reconstruction):
            network.to_empty(device=text_model.device).apply(model._init_weights).to(text_model.dtype)
        return model.eval()

    def get_input_embeddings(self) -> nn.Module:
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.text_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.text_model.get_output_embeddings()

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Resize the text model's embeddings. See `PreTrainedModel.resize_token_embeddings`."""
        return self.text_model.resize_token_embeddings(*args, **kwargs)

    @can_return_tuple
    def forward(
        self,
        labels: torch.LongTensor | None = None,
        latents: torch.FloatTensor | None = None,
        decoder_input_ids: torch.LongTensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> Seq2SeqLMOutput:
        r"""
        Args:
            labels (`torch.LongTensor` of shape `(batch, length)`, *optional*):
                Token ids of the sentences that are compressed and written again; -100 after the end of a shorter one.
            latents (`torch.FloatTensor` of shape `(batch, num_latents, latent_size)`, *optional*):
                Of the sentences, instead of those that are computed from the labels.
            decoder_input_ids (`torch.LongTensor` of shape `(batch, length)`, *optional*):
                Default: the labels, shifted as the text model does it.
            num_items_in_batch (`torch.Tensor` or `int`, *optional*):
                Label tokens over which the loss is averaged: those of the whole global batch, as the Trainer counts
                them. Default: those of this batch.
            kwargs: those of the text model.

        Raises:
            ValueError: without labels, unless latents and decoder inputs are given, and as `compress`.
        """
        if labels is None and (latents is None or decoder_input_ids is None):
            raise ValueError("Pass `labels`, or `latents` and `decoder_input_ids`.")
        if latents is None:
            latents = self.compress(labels)
        if self.training and self.config.latent_noise:
            latents = latents + self.config.latent_noise * torch.randn_like(latents)
        encoder_outputs = self.reconstruct(latents)
        if decoder_input_ids is None:
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        outputs = self.text_model(
            encoder_outputs=encoder_outputs,
            attention_mask=encoder_outputs.attention_mask,
            decoder_input_ids=decoder_input_ids,
            **{**kwargs, "return_dict": True},
        )
        if labels is not None:
            labels = labels.to(outputs.logits.device)
            num_averaged = (labels != IGNORED_LABEL).sum() if num_items_in_batch is None else num_items_in_batch
            outputs["loss"] = summed_cross_entropy(outputs.logits, labels, 0.0) / num_averaged
        return outputs

    @torch.no_grad()
    def generate(
        self, labels: torch.LongTensor | None = None, latents: torch.FloatTensor | None = None, **generation: Any
    ) -> Any:
        """
        Compress sentences and write them again, or write the sentences of `latents`; see `compress` and `write`.

        Raises:
            ValueError: for both or neither, and as `compress`.
        """
        if (labels is None) == (latents is None):
            raise ValueError("Pass exactly one of `labels` and `latents`.")
        return self.write(self.compress(labels) if latents is None else latents, **generation)

    def _short_card(self, repo_id: str) -> str:
        sizes = {"num_latents": self.config.num_latents, "latent_size": self.config.latent_size}
        return CARD.format(name=repo_id.split("/")[-1], repo_id=repo_id, paper=DIFFSLT.paper, **sizes)


__all__ = ["CompressesText", "DiffSltAutoencoder", "TextCompression", "TextReconstruction", "normalised"]
