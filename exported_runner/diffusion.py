"""DiffSLT's sampling in numpy: from noise to the latents of a sentence, with DDIM."""

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from .sessions import Arrays, Session

FILE = "diffusion.safetensors"


class Diffusion:
    """
    Samples the latents that the text model writes out. It starts from the same noise as the model, which is kept in the
    folder because torch made it.

    Args:
        folder: of the exported model.
        settings: `num_inference_steps`, `guidance_scale` and `reads_estimate`.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]):
        arrays = load_file(folder / FILE)
        self.noise, self.kept_shares, self.no_guidance = (
            arrays[name] for name in ("noise", "kept_shares", "no_guidance")
        )
        self.settings = settings

    def sample(self, denoiser: Session, guidance: Arrays) -> np.ndarray:
        """
        -> latents `(clips, latents, latent size)`.

        Args:
            denoiser: the graph.
            guidance: what it is guided by, `states` `(clips, places, size)` and their `mask` `(clips, places)`.
        """
        num_clips = len(guidance["states"])
        latents = np.repeat(self.noise[None], num_clips, 0)
        none = {
            "states": np.broadcast_to(self.no_guidance, (num_clips, 1, len(self.no_guidance))).copy(),
            "mask": np.ones((num_clips, 1), np.int64),
        }
        steps, scale = self._timesteps(), np.float32(self.settings["guidance_scale"])
        sigmas = ((1 - self.kept_shares) / self.kept_shares) ** np.float32(0.5)
        estimate = np.zeros_like(latents)
        for step, following in zip(steps, [*steps[1:], None], strict=True):
            state = {"latents": latents, "timesteps": np.full(num_clips, step, np.int64), "estimate": estimate}
            velocity = denoiser({**state, **guidance})["velocity"]
            if scale != 1:
                velocity = scale * velocity + (1 - scale) * denoiser({**state, **none})["velocity"]
            if self.settings["reads_estimate"]:
                kept = self.kept_shares[step]
                estimate = normalised(np.sqrt(kept) * latents - np.sqrt(1 - kept) * velocity)
            latents = _step(latents, velocity, sigmas[step], 0.0 if following is None else sigmas[following])
        return normalised(latents)

    def _timesteps(self) -> list[int]:
        """Equally far from each other, from the last one down (https://arxiv.org/abs/2305.08891, "trailing")."""
        count, most = self.settings["num_inference_steps"], len(self.kept_shares)
        return [round(most * left / count) - 1 for left in range(count, 0, -1)]


def _step(latents: np.ndarray, velocity: np.ndarray, sigma: float, next_sigma: float) -> np.ndarray:
    """One step of DDIM, which is DPM-Solver++ of the first order (https://arxiv.org/abs/2211.01095)."""
    alpha = 1 / np.sqrt(sigma**2 + 1)
    next_alpha = 1 / np.sqrt(next_sigma**2 + 1)
    clean = alpha * latents - sigma * alpha * velocity
    ratio = (next_sigma * next_alpha) / (sigma * alpha)
    # alpha' - ratio * alpha is the solver's alpha' (1 - exp(-h)).
    return (ratio * latents + (next_alpha - ratio * alpha) * clean).astype(np.float32)


def normalised(latents: np.ndarray) -> np.ndarray:
    """Latents of the norm sqrt(latent size)."""
    norm = np.sqrt((latents * latents).sum(-1, keepdims=True))
    return (latents / np.maximum(norm, 1e-12) * np.float32(latents.shape[-1] ** 0.5)).astype(np.float32)
