"""
DiffSLT, sign language translation by diffusion (https://arxiv.org/abs/2411.17248).

    clip -> visual side of a trained model -> guidance fusion
                                                   |
    noise ----------------------------------> denoiser, step by step -> latents -> text autoencoder -> sentence

Other noise gives another sentence. The denoiser learns from clips and the latents of their sentences; the visual side
and the text autoencoder, trained before, are frozen:

    autoencoder = "autoencoder/"  # of flallm train text-autoencoding
    model = DiffSltForTranslation.from_vision_text_pretrained(two_levels_of(trained_model), autoencoder)
    model.freeze_pretrained_parts()
"""

import copy
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from transformers import AutoModelForSeq2SeqLM
from transformers import initialization as init
from transformers.utils import ModelOutput, can_return_tuple

from .choice_slt import Utility
from .configuration_diffslt import DiffSltConfig, check_ema_decay
from .denoiser_diffslt import STANDARD_DEVIATION, Denoiser, Guidance, GuidanceFusion
from .encoders_slt import load_sign_encoder
from .language_encoder_decoder_slt import (
    FLaLLMEncoderOutput,
    log_probabilities_and_attention,
    num_learned_positions,
)
from .loading_slt import read_config_values
from .losses_slt import IGNORED_LABEL, WORD_ABSENT_LOGIT, word_presence_cross_entropy
from .modeling_diffslt_autoencoder import CompressesText, DiffSltAutoencoder
from .sampling_diffslt import GUIDANCE_SCALE, NUM_INFERENCE_STEPS, SamplesLatents
from .sign_encoder_slt import SignEncoder
from .systems import TAGS
from .translation_model_slt import SignTranslationModel, taken

EVALUATIONS_OF_A_CLIP = 4


@dataclass
class DiffSltOutput(ModelOutput):
    """
    Args:
        loss (`torch.FloatTensor` of shape `()`, with labels):
            Mean squared error of the velocity, a mean over the clips; of DiffSLT-P with that of the pseudo-glosses.
        velocity (`torch.FloatTensor` of shape `(batch, latents, latent size)`, with labels):
            As predicted. In evaluation, four times the batch.
        guidance (`torch.FloatTensor` of shape `(batch, places, denoiser size)`):
            What guides the denoiser.
    """

    loss: torch.FloatTensor | None = None
    velocity: torch.FloatTensor | None = None
    guidance: torch.FloatTensor | None = None


STEPS_OF_A_GLANCE = 5  # to find out the hand of a signer (ours)


class DiffSltForTranslation(SamplesLatents, CompressesText, SignTranslationModel):
    """
    Clip in, as many different sentences out as you ask for.

    ```python
    >>> from modeling_flallm import DiffSltForTranslation
    >>> from processing import FLaLLMProcessor

    >>> model = DiffSltForTranslation.from_pretrained("diffslt")
    >>> processor = FLaLLMProcessor.from_pretrained("diffslt")
    >>> inputs = processor(videos="clip.mp4", return_tensors="pt")
    >>> processor.batch_decode(model.generate(**inputs, num_return_sequences=5))
    ```

    Sample i of every clip starts from the noise of seed i, so that the sentences of a clip depend neither on its batch
    nor on what was translated before. Sampling needs diffusers, loading does not.

    The paper has no public code, and what we know of it gives no sizes. The denoiser is that of latent diffusion for
    language (https://arxiv.org/abs/2212.09462); its time is discrete here, for the schedulers of diffusers. The
    guidance fusion module and the pseudo-glosses of DiffSLT-P are ours.
    """

    config_class = DiffSltConfig
    base_model_prefix = "diffslt"
    main_input_name = "pixel_values_videos"
    input_modalities = ("video",)
    hub_tags = (*TAGS, "diffslt")
    is_prompted = False
    prompt_input_names = ()
    draws_samples = True
    own_generation_arguments = (
        *SignTranslationModel.own_generation_arguments,
        "num_inference_steps",
        "generator",
        "scheduler",
    )
    quick_generation = {"num_inference_steps": STEPS_OF_A_GLANCE}
    adapter_name = "denoiser"
    text_auto_class = AutoModelForSeq2SeqLM
    translation_auto_class = "AutoModelForSeq2SeqLM"
    unquantized_modules = ("vision_model", "denoiser", "compression", "reconstruction", "lm_head")
    encoder_advice = "Train a translation model of another system first, and name its output folder."
    # The loss is a mean over clips: the Trainer must average over accumulated batches itself.
    accepts_loss_kwargs = False

    def __init__(self, config: DiffSltConfig):
        super().__init__(config)
        self.text_model = self._build_text_model()
        self._build_autoencoder()
        self.denoiser = Denoiser(self.config)
        self.main_input_name = self.vision_model.main_input_name
        self.post_init()
        if self.config.ema_decay is not None:
            self.start_average(self.config.ema_decay)

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        self._init_autoencoder_weights(module)
        if isinstance(module, Denoiser):
            init.normal_(module.positions, std=STANDARD_DEVIATION)
            init.zeros_(module.output.weight)
            init.zeros_(module.output.bias)
        elif isinstance(module, GuidanceFusion):
            init.normal_(module.level_embeddings, std=STANDARD_DEVIATION)
            init.normal_(module.no_guidance, std=STANDARD_DEVIATION)
            if module.num_pseudo_glosses:
                init.constant_(module.pseudo_gloss_head.bias, WORD_ABSENT_LOGIT)

    # ---------------------------------------------------------------------------------- put together from parts

    @classmethod
    def from_vision_text_pretrained(
        cls, vision_model_name_or_path: str | SignEncoder, text_model_name_or_path: str, **config_values: Any
    ) -> Self:
        """
        Combine a sign encoder, a new denoiser and a trained text autoencoder. Like `from_pretrained` it returns the
        model in evaluation mode.

        Args:
            vision_model_name_or_path (`str` or `SignEncoder`):
                The encoder, which `two_levels_of` makes of a trained translation model, or folder or Hub id of one.
            text_model_name_or_path (`str`): folder or Hub id of a text autoencoder, `DiffSltAutoencoder`.
            config_values:
                Further fields of the configuration, such as `denoiser_layers`. Those that begin with `vision_` or
                `text_` go without that prefix to the `from_pretrained` of the part.

        Raises:
            ValueError: if the first has no sign encoder, the second is no text autoencoder, or one is incomplete.
        """
        vision_options, text_options = (taken(config_values, prefix) for prefix in ("vision_", "text_"))
        vision_model = vision_model_name_or_path
        if not isinstance(vision_model, SignEncoder):
            vision_model = load_sign_encoder(vision_model_name_or_path, cls.encoder_advice, **vision_options)
        autoencoder = cls._load_autoencoder(text_model_name_or_path, text_options)
        of_text = ("num_latents", "latent_size", "autoencoder_layers", "autoencoder_heads", "latent_noise")
        config = cls.config_class(
            # Copies: a configuration that becomes part of another one loses its attention implementation.
            vision_config=copy.deepcopy(vision_model.config),
            text_config=copy.deepcopy(autoencoder.config.text_config),
            **{name: getattr(autoencoder.config, name) for name in of_text},
            **{**config_values, "ema_decay": None},
        )
        with torch.device("meta"):  # no second text model in memory
            model = cls(config)
        model.vision_model, model.text_model = vision_model, autoencoder.text_model
        model.compression, model.reconstruction = autoencoder.compression, autoencoder.reconstruction
        model.config.text_config = autoencoder.config.text_config
        model.denoiser.to_empty(device=autoencoder.device).apply(model._init_weights).to(autoencoder.dtype)
        model.generation_config = autoencoder.generation_config
        if config_values.get("ema_decay") is not None:
            model.start_average(config_values["ema_decay"])
        return model.eval()

    @staticmethod
    def _load_autoencoder(name_or_path: str, options: dict[str, Any]) -> DiffSltAutoencoder:
        expected = f"Expected {name_or_path!r} to hold a text autoencoder, as flallm train text-autoencoding leaves it"
        model_type = read_config_values(name_or_path, expected, options)["model_type"]
        if model_type != DiffSltAutoencoder.config_class.model_type:
            raise ValueError(f"{expected}, got model type {model_type!r}.")
        return DiffSltAutoencoder.from_pretrained(name_or_path, **{"dtype": torch.get_default_dtype(), **options})

    # ---------------------------------------------------------------------------------- training of parts

    def freeze_pretrained_parts(self) -> None:
        """Freeze all but the denoiser: the visual side and the text autoencoder do not change."""
        self.freeze_visual_encoder()
        self.freeze_text_model()
        self.compression.requires_grad_(False)
        self.reconstruction.requires_grad_(False)

    def get_lora_settings(self) -> dict[str, Any]:
        """
        Raises:
            ValueError: always; the text model does not learn with the diffusion.
        """
        raise ValueError("DiffSLT's denoiser is trained as a whole: low-rank adapters have no place in it.")

    def start_average(self, decay: float) -> None:
        """
        Keep a moving average of the denoiser's weights from now on; evaluation and sampling use it.

        Raises:
            ValueError: for a decay below 0, or of 1 or more.
        """
        check_ema_decay(decay)
        self.config.ema_decay = decay
        self.average = AveragedModel(self.denoiser, avg_fn=self._average)
        self.average.requires_grad_(False)

    def update_average(self) -> None:
        """Take the present weights of the denoiser into their average: after each step of the optimiser."""
        self.average.update_parameters(self.denoiser)

    def keep_average(self) -> None:
        """End of training: the averaged weights, if there are any, become those of the denoiser."""
        if not hasattr(self, "average"):
            return
        if self.average.n_averaged:
            self.denoiser.load_state_dict(self.average.module.state_dict())
        del self.average
        self.config.ema_decay = None

    def _average(self, averaged: torch.Tensor, current: torch.Tensor, num_averaged: torch.Tensor) -> torch.Tensor:
        """The decay begins low, or the first weights would count for thousands of steps (as in diffusers' EMAModel)."""
        decay = torch.clamp((1 + num_averaged) / (10 + num_averaged), max=self.config.ema_decay)
        return torch.lerp(current.float(), averaged.float(), decay.float()).to(averaged.dtype)

    # ---------------------------------------------------------------------------------- clips

    def _embed_tokens(self, visual_tokens: torch.Tensor) -> torch.Tensor:
        mask = torch.ones(visual_tokens.shape[:2], dtype=torch.long, device=visual_tokens.device)
        return self._denoiser_to_use().guidance_fusion(visual_tokens, mask).states

    def _guidance(self, video: dict[str, Any]) -> Guidance:
        tokens = self._visual_tokens(video)
        return self._denoiser_to_use().guidance_fusion(tokens.last_hidden_state, tokens.attention_mask)

    def check_num_tokens(self, num_tokens: int) -> None:
        most = self.get_max_num_input_tokens()
        if most is not None and num_tokens > most:
            raise ValueError(
                f"The video gives {num_tokens} visual tokens, but the text encoder of the visual side takes at most "
                f"{most}. Lower `max_num_frames` or `frame_sampling_rate` of the video processor, or cut the video "
                "with `start` and `end`."
            )

    def get_max_num_input_tokens(self) -> int | None:
        encoder = getattr(self.vision_model, "text_encoder", None)
        most = None if encoder is None else num_learned_positions(encoder)
        return None if most is None else most - self.vision_model.config.prompt_length

    # ---------------------------------------------------------------------------------- training

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.FloatTensor | None = None,
        pixel_attention_mask: torch.LongTensor | None = None,
        labels: torch.LongTensor | None = None,
        visual_features: torch.FloatTensor | None = None,
        visual_attention_mask: torch.LongTensor | None = None,
        **kwargs: Any,
    ) -> DiffSltOutput:
        r"""
        Denoise the latents of sentences: in training at a random timestep, in evaluation at four fixed ones.

        Args:
            pixel_values_videos (`torch.FloatTensor` of shape `(batch, frames, 3, height, width)`, *optional*):
                Normalised frames, zero-padded in time, for sign encoders that read frames.
            pixel_attention_mask (`torch.LongTensor` of shape `(batch, frames)`, *optional*):
                1 for real frames. Default: all are real.
            labels (`torch.LongTensor` of shape `(batch, target length)`, *optional*):
                Token ids of the sentence; -100 is ignored. Without them there is no loss.
            visual_features (`torch.FloatTensor` of shape `(batch, tokens, visual hidden size)`, *optional*):
                Output of the visual side, instead of its inputs.
            visual_attention_mask (`torch.LongTensor` of shape `(batch, tokens)`, *optional*):
                1 for real visual tokens. Default: all are real.
            kwargs: further inputs of the sign encoder, by its `input_names`.

        Raises:
            ValueError: for no video at all, more than one form of it, and inputs that the model does not read.
        """
        kwargs = {name: value for name, value in kwargs.items() if value is not None}
        video = self._given_video(
            kwargs, pixel_values_videos, pixel_attention_mask, visual_features, visual_attention_mask
        )
        if kwargs:
            raise ValueError(f"DiffSLT takes a clip and `labels`, got `{next(iter(kwargs))}`.")
        self._check_one_form(video)
        guidance = self._guidance(video)
        if labels is None:
            return DiffSltOutput(guidance=guidance.states)
        with torch.no_grad():
            latents = self.compress(labels).float()
        denoise = self._denoise_at_random if self.training else self._denoise_evenly
        velocity, target = denoise(latents, guidance)
        loss = nn.functional.mse_loss(velocity, target)
        if guidance.pseudo_gloss_scores is not None:
            glosses = word_presence_cross_entropy(guidance.pseudo_gloss_scores, self._pseudo_glosses_of(labels))
            loss = loss + self.config.pseudo_gloss_weight * glosses.mean()
        return DiffSltOutput(loss=loss, velocity=velocity, guidance=guidance.states)

    def _denoise_at_random(self, latents: torch.Tensor, guidance: Guidance) -> tuple[torch.Tensor, torch.Tensor]:
        """The velocity, predicted and true, at random timesteps; both of the shape of the latents."""
        timesteps = torch.randint(self.config.num_train_timesteps, (len(latents),), device=latents.device)
        is_left_out = torch.rand(len(latents), device=latents.device) < self.config.guidance_dropout
        guidance = self.denoiser.guidance_fusion.without(guidance, is_left_out)
        reads_estimate = float(torch.rand(())) < self.config.self_conditioning_probability
        return self._denoise_once(latents, guidance, timesteps, torch.randn_like(latents), reads_estimate)

    def _denoise_evenly(self, latents: torch.Tensor, guidance: Guidance) -> tuple[torch.Tensor, torch.Tensor]:
        """
        The velocity, predicted and true, at some timesteps that are far from each other, each with its own noise, the
        same for all clips: a clip's loss depends neither on its batch nor on the device.
        """
        parts = []
        for part in range(EVALUATIONS_OF_A_CLIP):
            timestep = round(self.config.num_train_timesteps * (part + 0.5) / EVALUATIONS_OF_A_CLIP)
            timesteps = torch.full((len(latents),), timestep, device=latents.device)
            noise = torch.randn(latents.shape[1:], generator=torch.Generator().manual_seed(part))
            noise = noise.to(latents).expand_as(latents)
            reads_estimate = self.config.self_conditioning_probability > 0
            parts.append(self._denoise_once(latents, guidance, timesteps, noise, reads_estimate))
        predicted, true = (torch.cat(each) for each in zip(*parts, strict=True))
        return predicted, true

    def _denoise_once(
        self,
        latents: torch.Tensor,
        guidance: Guidance,
        timesteps: torch.Tensor,
        noise: torch.Tensor,
        reads_estimate: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        denoiser, kept = self._denoiser_to_use(), self._kept_shares(timesteps)
        noisy = kept.sqrt() * latents + (1 - kept).sqrt() * noise
        velocity = kept.sqrt() * noise - (1 - kept).sqrt() * latents
        estimate = None
        if reads_estimate:
            with torch.no_grad():
                estimate = self._estimate(noisy, denoiser(noisy, timesteps, guidance), timesteps)
        return denoiser(noisy, timesteps, guidance, estimate), velocity

    def _pseudo_glosses_of(self, labels: torch.Tensor) -> torch.Tensor:
        """Labels `(batch, length)` -> their numbers among the pseudo-glosses, -100 for all that are none."""
        ids = torch.tensor(self.config.pseudo_gloss_ids, device=labels.device)
        numbers = torch.full((self.config.text_config.vocab_size,), IGNORED_LABEL, device=labels.device)
        numbers[ids] = torch.arange(len(ids), device=labels.device)
        return numbers[labels.clamp(min=0)].masked_fill(labels == IGNORED_LABEL, IGNORED_LABEL)

    # ---------------------------------------------------------------------------------- sampling

    def encode(
        self,
        pixel_values_videos: torch.FloatTensor | None = None,
        pixel_attention_mask: torch.LongTensor | None = None,
        visual_features: torch.FloatTensor | None = None,
        visual_attention_mask: torch.LongTensor | None = None,
        **kwargs: Any,
    ) -> FLaLLMEncoderOutput:
        """What guides the denoiser, `(batch, places, denoiser size)`, and its mask; arguments as in `forward`."""
        video = self._given_video(
            kwargs, pixel_values_videos, pixel_attention_mask, visual_features, visual_attention_mask
        )
        self._check_one_form(video, encoder_outputs=None)
        guidance = self._guidance(video)
        return FLaLLMEncoderOutput(last_hidden_state=guidance.states, attention_mask=guidance.mask)

    @torch.no_grad()
    def generate(
        self,
        pixel_values_videos: torch.FloatTensor | None = None,
        pixel_attention_mask: torch.LongTensor | None = None,
        visual_features: torch.FloatTensor | None = None,
        visual_attention_mask: torch.LongTensor | None = None,
        encoder_outputs: FLaLLMEncoderOutput | None = None,
        num_candidates: int | None = None,
        choose_by: str | Utility | None = None,
        tokenizer: Any = None,
        left_handed: bool | str | torch.Tensor = False,
        **kwargs: Any,
    ):
        """
        Translate. The arguments below that are not given have the values of `generation_config`.

        Args:
            pixel_values_videos, pixel_attention_mask, visual_features, visual_attention_mask, encoder_outputs:
                A clip in one form, as in `forward`, or the output of `encode`.
            num_return_sequences (`int`, *optional*, defaults to 1):
                Sentences for each clip.
            num_inference_steps (`int`, *optional*, defaults to 50):
                Steps from noise to latents.
            guidance_scale (`float`, *optional*, defaults to 2.0):
                Weight of the clip (classifier-free guidance); 1 is none.
            generator (`torch.Generator`, *optional*):
                Its state gives the seeds of the samples, the same ones for all clips; it is not changed. Default: the
                seeds 0, 1, ...
            scheduler (`str`, *optional*): see `get_scheduler`.
            num_candidates, choose_by, tokenizer (*optional*):
                So many samples are drawn for each clip, and those `num_return_sequences` are returned, best first, that
                agree best with all of them, by "bleu", "chrf" or a function as `choose_by`; see `CandidateChoice`.
            left_handed (`bool`, `str` or `torch.Tensor` of shape `(batch,)`, *optional*, defaults to `False`):
                Mirror the clips of left-handed signers: of all clips, with "auto" of those of which the model is surer
                in a mirror (see `hand_margins`), or of some.
            kwargs:
                Those of `transformers.GenerationMixin.generate` for writing the sentence from its latents, by default
                greedily.

        Raises:
            ValueError: as `forward` and `features_as_right_handed`, for numbers of steps or sentences below 1, and for
                candidates that cannot be compared.
            ImportError: without diffusers.
        """
        kwargs, choose = self._plan_choice(num_candidates, choose_by, tokenizer, kwargs)
        video = self._given_video(
            kwargs, pixel_values_videos, pixel_attention_mask, visual_features, visual_attention_mask
        )
        self._check_one_form(video, encoder_outputs=encoder_outputs)
        video = self._as_right_handed(video, left_handed, {})
        if encoder_outputs is None:
            encoder_outputs = self.encode(**video)
        kwargs.pop("labels", None)  # which the Trainer passes
        return choose(self._write_sequences(encoder_outputs, **kwargs))

    def _write_sequences(
        self,
        encoder_outputs: FLaLLMEncoderOutput,
        generator: torch.Generator | None = None,
        scheduler: str | None = None,
        **generation: Any,
    ) -> Any:
        num_samples = self._generation_setting("num_return_sequences", generation, 1)
        latents = self.sample_latents(
            Guidance(encoder_outputs.last_hidden_state, encoder_outputs.attention_mask),
            num_samples,
            self._generation_setting("num_inference_steps", generation, NUM_INFERENCE_STEPS),
            self._generation_setting("guidance_scale", generation, GUIDANCE_SCALE),
            generator,
            scheduler,
        )
        num_beams = self._generation_setting("num_beams", generation, 1)
        # The text model has arguments of the last two names, too.
        own = {"num_beams": num_beams, "num_return_sequences": 1, "guidance_scale": 1}
        generation.pop("num_inference_steps", None)
        return self.write(latents, **{**_repeated(generation, num_samples), **own})

    @torch.no_grad()
    def replay(
        self, sequences: torch.LongTensor, encoder_outputs: FLaLLMEncoderOutput
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        See `SignTranslationModel.replay`. The sentence is compressed, and written again from its latents: that gives
        the probabilities, which say how clear the latents are, not how sure the clip is. The attention of a word to the
        latents, times that of the latents without noise to both levels of a visual token, is its attention to the
        visual token (ours).
        """
        repeats = len(sequences) // len(encoder_outputs.last_hidden_state)
        guidance = Guidance(encoder_outputs.last_hidden_state, encoder_outputs.attention_mask).repeated(repeats)
        latents = self.compress(self._labels_of(sequences))
        log_probabilities, to_latents = log_probabilities_and_attention(
            self.text_model, sequences, self.reconstruct(latents)
        )
        attentions: list[torch.Tensor] = []
        timesteps = torch.zeros(len(sequences), dtype=torch.long, device=sequences.device)
        self._denoiser_to_use()(latents.float(), timesteps, guidance, attentions=attentions)
        num_levels = len(self.denoiser.guidance_fusion.level_sizes)
        num_tokens = (guidance.mask.shape[1] - self.denoiser.guidance_fusion.num_pseudo_glosses) // num_levels
        to_levels = torch.stack(attentions).mean(0)[..., : num_levels * num_tokens].float()
        return log_probabilities, to_latents @ to_levels.unflatten(-1, (num_tokens, num_levels)).sum(-1)

    def _labels_of(self, sequences: torch.LongTensor) -> torch.LongTensor:
        """The labels that begin as these generated sequences `(batch, length)`, and what stands behind them as -100."""
        words = sequences[:, 1:]
        lengths = (words != self.config.pad_token_id).sum(1, keepdim=True)
        places = torch.arange(words.shape[1] + 1, device=words.device)
        labels = nn.functional.pad(words, (0, 1)).masked_fill(places >= lengths, IGNORED_LABEL)
        starts = self.prepare_decoder_input_ids_from_labels(labels[:, :-1])[:, :1]
        # mBART's first token, the language, is the last of the labels.
        return torch.where((places == lengths) & (starts != sequences[:, :1]), sequences[:, :1], labels)


def _repeated(generation: dict[str, Any], times: int) -> dict[str, Any]:
    """What is given for each clip, such as the first tokens of its sentence, for each of its samples."""
    repeated = dict(generation)
    for name, value in generation.items():
        if isinstance(value, torch.Tensor):
            repeated[name] = value.repeat_interleave(times, 0)
    if isinstance(generation.get("decoder_start_token_id"), list):
        starts = generation["decoder_start_token_id"]
        repeated["decoder_start_token_id"] = [start for start in starts for _ in range(times)]
    return repeated


__all__ = ["DiffSltForTranslation", "DiffSltOutput"]
