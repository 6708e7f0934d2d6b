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
from .configuration_diffslt import DiffSltConfig
from .denoiser_diffslt import STANDARD_DEVIATION, Denoiser, Guidance, GuidanceFusion
from .encoders_slt import load_sign_encoder
from .language_encoder_decoder_slt import (
    FLaLLMEncoderOutput,
    log_probabilities_and_attention,
    num_learned_positions,
)
from .loading_slt import read_config_values
from .losses_slt import IGNORED_LABEL, WORD_ABSENT_LOGIT, word_presence_cross_entropy
from .modeling_diffslt_autoencoder import CompressesText, DiffSltAutoencoder, normalised
from .sign_encoder_slt import SignEncoder
from .systems import TAGS
from .translation_model_slt import SignTranslationModel

NUM_INFERENCE_STEPS, GUIDANCE_SCALE = 50, 2.0  # ours; the ancestor samples in 250 steps
LARGEST_SEED = 2**31
EVALUATION_SEED = 0
SCHEDULERS = {"ddim": "DDIMScheduler", "ddpm": "DDPMScheduler", "dpm++": "DPMSolverMultistepScheduler"}


@dataclass
class DiffSltOutput(ModelOutput):
    """
    Args:
        loss (`torch.FloatTensor` of shape `()`, with labels):
            Mean squared error of the velocity, a mean over the clips; of DiffSLT-P with that of the pseudo-glosses.
        velocity (`torch.FloatTensor` of shape `(batch, latents, latent size)`, with labels):
            As predicted.
        guidance (`torch.FloatTensor` of shape `(batch, places, denoiser size)`):
            What guides the denoiser.
    """

    loss: torch.FloatTensor | None = None
    velocity: torch.FloatTensor | None = None
    guidance: torch.FloatTensor | None = None


class DiffSltForTranslation(CompressesText, SignTranslationModel):
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
            self.average = AveragedModel(self.denoiser, avg_fn=self._average)
            self.average.requires_grad_(False)

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
            config_values: further fields of the configuration, such as `denoiser_layers`.

        Raises:
            ValueError: if the first has no sign encoder, the second is no text autoencoder, or one is incomplete.
        """
        vision_model = vision_model_name_or_path
        if not isinstance(vision_model, SignEncoder):
            vision_model = load_sign_encoder(vision_model_name_or_path, cls.encoder_advice)
        autoencoder = cls._load_autoencoder(text_model_name_or_path)
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
    def _load_autoencoder(name_or_path: str) -> DiffSltAutoencoder:
        expected = f"Expected {name_or_path!r} to hold a text autoencoder, as flallm train text-autoencoding leaves it"
        model_type = read_config_values(name_or_path, expected, {})["model_type"]
        if model_type != DiffSltAutoencoder.config_class.model_type:
            raise ValueError(f"{expected}, got model type {model_type!r}.")
        return DiffSltAutoencoder.from_pretrained(name_or_path, dtype=torch.get_default_dtype())

    # ---------------------------------------------------------------------------------- training of parts

    def freeze_pretrained_parts(self) -> None:
        """Freeze all but the denoiser: the visual side and the text autoencoder do not change."""
        self.freeze_visual_encoder()
        self.freeze_text_model()
        self.compression.requires_grad_(False)
        self.reconstruction.requires_grad_(False)

    def start_average(self, decay: float) -> None:
        """Keep a moving average of the denoiser's weights from now on; evaluation and sampling use it."""
        self.config.ema_decay = decay
        self.average = AveragedModel(self.denoiser, avg_fn=self._average)
        self.average.requires_grad_(False)

    def update_average(self) -> None:
        """Take the present weights of the denoiser into their average: after each step of the optimiser."""
        self.average.update_parameters(self.denoiser)

    def keep_average(self) -> None:
        """End of training: the averaged weights become those of the denoiser."""
        if self.average.n_averaged:
            self.denoiser.load_state_dict(self.average.module.state_dict())
        del self.average
        self.config.ema_decay = None

    def _average(self, averaged: torch.Tensor, current: torch.Tensor, num_averaged: torch.Tensor) -> torch.Tensor:
        """The decay begins low, or the first weights would count for thousands of steps (as in diffusers' EMAModel)."""
        decay = torch.clamp((1 + num_averaged) / (10 + num_averaged), max=self.config.ema_decay)
        return torch.lerp(current, averaged, decay.to(current.dtype))

    def _denoiser_to_use(self) -> Denoiser:
        average = getattr(self, "average", None)
        is_averaged = average is not None and not self.training and bool(average.n_averaged)
        return average.module if is_averaged else self.denoiser

    # ---------------------------------------------------------------------------------- clips

    def _embed_tokens(self, visual_tokens: torch.Tensor) -> torch.Tensor:
        mask = torch.ones(visual_tokens.shape[:2], dtype=torch.long, device=visual_tokens.device)
        return self._denoiser_to_use().guidance_fusion(visual_tokens, mask).states

    def _guidance(self, video: dict[str, Any]) -> Guidance:
        tokens = self._visual_tokens(video)
        return self._denoiser_to_use().guidance_fusion(tokens.last_hidden_state, tokens.attention_mask)

    def check_num_tokens(self, num_tokens: int) -> None:
        encoder = getattr(self.vision_model, "text_encoder", None)
        most = None if encoder is None else num_learned_positions(encoder)
        if most is not None and num_tokens + self.vision_model.config.prompt_length > most:
            raise ValueError(
                f"The video gives {num_tokens} visual tokens, but the text encoder of the visual side takes at most "
                f"{most}. Lower `max_num_frames` or `frame_sampling_rate` of the video processor, or cut the video "
                "with `start` and `end`."
            )

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
        Denoise the latents of sentences at random timesteps. In evaluation the noise is always the same.

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
        velocity, target = self._denoise_at_random(latents, guidance)
        loss = nn.functional.mse_loss(velocity, target)
        if guidance.pseudo_gloss_scores is not None:
            glosses = word_presence_cross_entropy(guidance.pseudo_gloss_scores, self._pseudo_glosses_of(labels))
            loss = loss + self.config.pseudo_gloss_weight * glosses.mean()
        return DiffSltOutput(loss=loss, velocity=velocity, guidance=guidance.states)

    def _denoise_at_random(self, latents: torch.Tensor, guidance: Guidance) -> tuple[torch.Tensor, torch.Tensor]:
        """The velocity, predicted and true, at random timesteps; both of the shape of the latents."""
        device, denoiser, scheduler = latents.device, self._denoiser_to_use(), self.get_scheduler()
        draws = None if self.training else torch.Generator(device).manual_seed(EVALUATION_SEED)
        num_timesteps, num_clips = self.config.num_train_timesteps, len(latents)
        timesteps = torch.randint(num_timesteps, (num_clips,), device=device, generator=draws)
        noise = torch.randn(latents.shape, device=device, generator=draws)
        noisy = scheduler.add_noise(latents, noise, timesteps)
        if self.training:
            is_left_out = torch.rand(num_clips, device=device) < self.config.guidance_dropout
            guidance = denoiser.guidance_fusion.without(guidance, is_left_out)
        estimate, probability = None, self.config.self_conditioning_probability
        if probability and (not self.training or float(torch.rand(())) < probability):
            with torch.no_grad():
                estimate = self._estimate(noisy, denoiser(noisy, timesteps, guidance), timesteps, scheduler)
        return denoiser(noisy, timesteps, guidance, estimate), scheduler.get_velocity(latents, noise, timesteps)

    def _pseudo_glosses_of(self, labels: torch.Tensor) -> torch.Tensor:
        """Labels `(batch, length)` -> their numbers among the pseudo-glosses, -100 for all that are none."""
        ids = torch.tensor(self.config.pseudo_gloss_ids, device=labels.device)
        numbers = torch.full((self.config.text_config.vocab_size,), IGNORED_LABEL, device=labels.device)
        numbers[ids] = torch.arange(len(ids), device=labels.device)
        return numbers[labels.clamp(min=0)].masked_fill(labels == IGNORED_LABEL, IGNORED_LABEL)

    # ---------------------------------------------------------------------------------- sampling

    def get_scheduler(self, name: str | None = None) -> Any:
        """
        A scheduler of diffusers for this model's noise; `name` is one of "ddim", "ddpm" and "dpm++", by default the
        configuration's.

        Raises:
            ValueError: for another name.
            ImportError: without diffusers.
        """
        name = name or self.config.scheduler
        if name not in SCHEDULERS:
            raise ValueError(f"`scheduler` must be one of {', '.join(SCHEDULERS)}, got {name!r}.")
        try:
            import diffusers
        except ImportError as error:
            raise ImportError("DiffSLT needs diffusers: `pip install diffusers`.") from error
        options = {} if name == "dpm++" else {"clip_sample": False}
        return getattr(diffusers, SCHEDULERS[name])(
            num_train_timesteps=self.config.num_train_timesteps,
            beta_schedule="squaredcos_cap_v2",
            prediction_type="v_prediction",
            timestep_spacing="trailing",
            **options,
        )

    @staticmethod
    def _estimate(noisy: torch.Tensor, velocity: torch.Tensor, timesteps: torch.Tensor, scheduler: Any) -> torch.Tensor:
        """The latents `(batch, latents, latent size)` that a predicted velocity points to, of their norm."""
        kept = scheduler.alphas_cumprod.to(noisy.device)[timesteps][:, None, None]
        return normalised(kept.sqrt() * noisy - (1 - kept).sqrt() * velocity)

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
                Weight of the clip (classifier-free guidance); 1 is none of it, and takes half the time.
            generator (`torch.Generator`, *optional*):
                Its state gives the seeds of the samples, the same ones for all clips; it is not changed. Default: the
                seeds 0, 1, ...
            scheduler (`str`, *optional*): see `get_scheduler`.
            num_candidates, choose_by, tokenizer (*optional*):
                So many samples are drawn for each clip, and those `num_return_sequences` are returned, best first, that
                agree best with all of them, by "bleu", "chrf" or a function as `choose_by`; see `CandidateChoice`.
            kwargs:
                Those of `transformers.GenerationMixin.generate` for writing the sentence from its latents, by default
                greedily.

        Raises:
            ValueError: as `forward`, for numbers of steps or sentences below 1, and for candidates that cannot be
                compared.
            ImportError: without diffusers.
        """
        kwargs, choose = self._plan_choice(num_candidates, choose_by, tokenizer, kwargs)
        video = self._given_video(
            kwargs, pixel_values_videos, pixel_attention_mask, visual_features, visual_attention_mask
        )
        self._check_one_form(video, encoder_outputs=encoder_outputs)
        if encoder_outputs is None:
            encoder_outputs = self.encode(**video)
        kwargs.pop("labels", None)  # which the Trainer passes
        return choose(self._write_sequences(encoder_outputs, **kwargs))

    def candidate_arguments(self, num_candidates: int, generation: dict[str, Any]) -> dict[str, Any]:
        """See `SignTranslationModel.candidate_arguments`: the candidates are samples of the diffusion."""
        return {**generation, "num_return_sequences": num_candidates}

    def _write_sequences(
        self,
        encoder_outputs: FLaLLMEncoderOutput,
        num_return_sequences: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: torch.Generator | None = None,
        scheduler: str | None = None,
        **generation: Any,
    ) -> Any:
        given = {
            "num_return_sequences": num_return_sequences,
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "generation_config": generation.get("generation_config"),
        }
        num_samples = self._whole_number("num_return_sequences", given, 1)
        scale = self._generation_setting("guidance_scale", given)
        latents = self.sample_latents(
            Guidance(encoder_outputs.last_hidden_state, encoder_outputs.attention_mask),
            num_samples,
            self._whole_number("num_inference_steps", given, NUM_INFERENCE_STEPS),
            GUIDANCE_SCALE if scale is None else scale,
            generator,
            scheduler,
        )
        # The text model has arguments of these names, too.
        own = {"num_return_sequences": 1, "guidance_scale": 1}
        return self.write(latents, **{**_repeated(generation, num_samples), **own})

    def _whole_number(self, name: str, given: dict[str, Any], default: int) -> int:
        value = self._generation_setting(name, given)
        value = default if value is None else value
        if value < 1:
            raise ValueError(f"`{name}` must be 1 or more, got {value}.")
        return value

    @torch.no_grad()
    def sample_latents(
        self,
        guidance: Guidance,
        num_samples: int = 1,
        num_inference_steps: int = NUM_INFERENCE_STEPS,
        guidance_scale: float = GUIDANCE_SCALE,
        generator: torch.Generator | None = None,
        scheduler: str | None = None,
    ) -> torch.Tensor:
        """
        Diffusion from noise to latents `(batch x samples, latents, latent size)`, those of a clip behind each other;
        arguments as in `generate`.
        """
        scheduler = self.get_scheduler(scheduler)
        scheduler.set_timesteps(num_inference_steps)
        device, num_clips = guidance.states.device, len(guidance.states)
        seeds = _seeds(num_samples, generator) * num_clips
        draws = [torch.Generator().manual_seed(seed) for seed in seeds]
        size = (self.config.num_latents, self.config.latent_size)
        noise = torch.stack([torch.randn(size, generator=each) for each in draws])
        latents = noise.to(device) * scheduler.init_noise_sigma
        guidance = Guidance(
            guidance.states.repeat_interleave(num_samples, 0), guidance.mask.repeat_interleave(num_samples, 0)
        )
        return self._denoise(latents, guidance, guidance_scale, scheduler, draws)

    def _denoise(
        self,
        latents: torch.Tensor,
        guidance: Guidance,
        guidance_scale: float,
        scheduler: Any,
        draws: list[torch.Generator],
    ) -> torch.Tensor:
        """The steps of the scheduler, which draws more noise from `draws`, one for each sample, if it needs any."""
        denoiser, estimate = self._denoiser_to_use(), None
        everywhere = torch.ones(len(latents), dtype=torch.bool, device=latents.device)
        unguided = denoiser.guidance_fusion.without(guidance, everywhere)
        for timestep in scheduler.timesteps:
            timesteps = timestep.to(latents.device).expand(len(latents))
            velocity = denoiser(latents, timesteps, guidance, estimate)
            if guidance_scale != 1:
                without = denoiser(latents, timesteps, unguided, estimate)
                velocity = guidance_scale * velocity + (1 - guidance_scale) * without
            if self.config.self_conditioning_probability:
                estimate = self._estimate(latents, velocity, timesteps, scheduler)
            latents = scheduler.step(velocity, timestep, latents, generator=draws).prev_sample
        return normalised(latents)

    @torch.no_grad()
    def replay(
        self, sequences: torch.LongTensor, encoder_outputs: FLaLLMEncoderOutput
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        See `SignTranslationModel.replay`. The sentence is compressed, and written again from its latents: that gives
        the probabilities. The attention of a word to the latents, times that of the latents to both levels of a visual
        token at the last step of the diffusion, is its attention to the visual token (ours).
        """
        repeats = len(sequences) // len(encoder_outputs.last_hidden_state)
        guidance = Guidance(
            encoder_outputs.last_hidden_state.repeat_interleave(repeats, 0),
            encoder_outputs.attention_mask.repeat_interleave(repeats, 0),
        )
        words = sequences[:, 1:]
        latents = self.compress(words.masked_fill(words == self.config.pad_token_id, IGNORED_LABEL))
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


def _seeds(num_samples: int, generator: torch.Generator | None) -> list[int]:
    if generator is None:
        return list(range(num_samples))
    copied = torch.Generator(generator.device)
    copied.set_state(generator.get_state())
    return torch.randint(LARGEST_SEED, (num_samples,), generator=copied, device=generator.device).tolist()


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
