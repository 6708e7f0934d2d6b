"""DiffSLT's sampling: from noise to latents, with the schedulers of diffusers, imported when they are needed."""

import math
from numbers import Real
from typing import Any

import torch
from transformers import PreTrainedConfig

from .denoiser_diffslt import Denoiser, Guidance
from .modeling_diffslt_autoencoder import normalised

NUM_INFERENCE_STEPS, GUIDANCE_SCALE = 50, 2.0  # ours; the ancestor samples in 250 steps
SCHEDULERS = ("ddim", "ddpm", "dpm++")
LARGEST_SEED = 2**31


class SamplesLatents:
    """
    Mixin for a model with a `DiffSltConfig`, a `denoiser` and, while that is trained, the `average` of its weights.
    Sampling is guided by the clip, without a classifier (https://arxiv.org/abs/2207.12598).
    """

    config: PreTrainedConfig
    denoiser: Denoiser

    def _denoiser_to_use(self) -> Denoiser:
        """The average of its weights, if there is one; training steps take the weights themselves."""
        average = getattr(self, "average", None)
        is_averaged = average is not None and not self.training and bool(average.n_averaged)
        return average.module if is_averaged else self.denoiser

    def get_scheduler(self, name: str | None = None) -> Any:
        """
        A scheduler of diffusers for this model's noise; `name` is one of "ddim", "ddpm" and "dpm++", by default the
        configuration's. DDIM is DPM-Solver++ of the first order, which diffusers steps through any number of timesteps;
        its own DDIM loses track of the noise if that number does not divide those of the training.

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
        shared = {
            "num_train_timesteps": self.config.num_train_timesteps,
            "beta_schedule": "squaredcos_cap_v2",
            "prediction_type": "v_prediction",
        }
        if name == "ddpm":
            return diffusers.DDPMScheduler(**shared, clip_sample=False)
        order = 1 if name == "ddim" else 2
        return diffusers.DPMSolverMultistepScheduler(**shared, solver_order=order, final_sigmas_type="zero")

    def _kept_shares(self, timesteps: torch.Tensor) -> torch.Tensor:
        """`(batch,)` -> `(batch, 1, 1)`: what is left of the latents' square at each timestep; the rest is noise."""
        kept = self.__dict__.get("_all_kept_shares")
        if kept is None or kept.device != timesteps.device or len(kept) != self.config.num_train_timesteps:
            kept = self.get_scheduler("ddpm").alphas_cumprod.to(timesteps.device)
            self.__dict__["_all_kept_shares"] = kept
        return kept[timesteps][:, None, None]

    def _estimate(self, noisy: torch.Tensor, velocity: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """The latents `(batch, latents, latent size)` that a predicted velocity points to, of their norm."""
        kept = self._kept_shares(timesteps)
        return normalised(kept.sqrt() * noisy - (1 - kept).sqrt() * velocity)

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
        Diffusion from noise to latents `(batch x samples, latents, latent size)`, those of a clip behind each other.

        Args:
            guidance: of each clip.
            num_samples: for each clip.
            num_inference_steps: at most those of the training.
            guidance_scale: weight of the clip; 1 is none of it.
            generator: its state gives the seeds of the samples. Default: 0, 1, ...
            scheduler: see `get_scheduler`.

        Raises:
            ValueError: for numbers out of their range, and a generator that is none.
            ImportError: without diffusers.
        """
        self._check_sampling(num_samples, num_inference_steps, guidance_scale, generator)
        scheduler = self.get_scheduler(scheduler)
        scheduler.set_timesteps(timesteps=_trailing(num_inference_steps, self.config.num_train_timesteps))
        device, num_clips = guidance.states.device, len(guidance.states)
        seeds = _seeds(num_samples, generator) * num_clips
        draws = [torch.Generator().manual_seed(seed) for seed in seeds]
        size = (self.config.num_latents, self.config.latent_size)
        latents = torch.stack([torch.randn(size, generator=each) for each in draws]).to(device)
        return self._denoise(latents, guidance.repeated(num_samples), guidance_scale, scheduler, draws)

    def _check_sampling(
        self, num_samples: int, num_inference_steps: int, guidance_scale: float, generator: torch.Generator | None
    ) -> None:
        most = self.config.num_train_timesteps
        if not isinstance(num_samples, int) or num_samples < 1:
            raise ValueError(f"`num_return_sequences` must be a whole number from 1, got {num_samples!r}.")
        if not isinstance(num_inference_steps, int) or not 1 <= num_inference_steps <= most:
            raise ValueError(
                f"`num_inference_steps` must be a whole number from 1 to {most}, got {num_inference_steps!r}."
            )
        if not isinstance(guidance_scale, Real) or not 0 <= guidance_scale < math.inf:
            raise ValueError(f"`guidance_scale` must be a number from 0, got {guidance_scale!r}.")
        if generator is not None and not isinstance(generator, torch.Generator):
            raise ValueError(
                f"`generator` must be one torch.Generator, which gives the seeds of all samples, got "
                f"{type(generator).__name__}."
            )

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
        unguided = denoiser.guidance_fusion.none_for(len(latents))
        for timestep in scheduler.timesteps:
            timesteps = timestep.to(latents.device).expand(len(latents))
            velocity = denoiser(latents, timesteps, guidance, estimate)
            if guidance_scale != 1:
                without = denoiser(latents, timesteps, unguided, estimate)
                velocity = guidance_scale * velocity + (1 - guidance_scale) * without
            if self.config.self_conditioning_probability:
                estimate = self._estimate(latents, velocity, timesteps)
            latents = scheduler.step(velocity, timestep, latents, generator=draws).prev_sample
        return normalised(latents)


def _trailing(num_steps: int, num_timesteps: int) -> list[int]:
    """Timesteps, from the last one down, equally far from each other (https://arxiv.org/abs/2305.08891, "trailing")."""
    return [round(num_timesteps * left / num_steps) - 1 for left in range(num_steps, 0, -1)]


def _seeds(num_samples: int, generator: torch.Generator | None) -> list[int]:
    if generator is None:
        return list(range(num_samples))
    copied = torch.Generator(generator.device)
    copied.set_state(generator.get_state())
    return torch.randint(LARGEST_SEED, (num_samples,), generator=copied, device=generator.device).tolist()


__all__ = ["GUIDANCE_SCALE", "NUM_INFERENCE_STEPS", "SCHEDULERS", "SamplesLatents"]
