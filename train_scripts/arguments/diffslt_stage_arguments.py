"""What DiffSLT's training commands take of their own. Imports nothing heavy."""

from dataclasses import dataclass, field
from typing import ClassVar

SCHEDULERS = ("ddim", "ddpm", "dpm++")
NUM_TRAIN_TIMESTEPS = 1000


@dataclass
class TextAutoencodingArguments:
    """The text model, and the compression and reconstruction networks in it. All defaults are ours."""

    stage_name: ClassVar[str] = "text_autoencoding"

    text_model_name_or_path: str = field(
        default=None, metadata={"help": "Folder or Hub id of an encoder-decoder language model. Required."}
    )
    target_language: str | None = field(
        default=None, metadata={"help": "Language code of a multilingual tokenizer, such as de_DE or deu_Latn."}
    )
    num_latents: int = field(default=32, metadata={"help": "Latent vectors of a sentence."})
    latent_size: int = field(default=64, metadata={"help": "Width of a latent vector."})
    autoencoder_layers: int = field(
        default=3, metadata={"help": "Layers of the compression network, and of the reconstruction network."}
    )
    autoencoder_heads: int = field(default=8, metadata={"help": "Attention heads of these layers."})
    latent_noise: float = field(
        default=0.0,
        metadata={"help": "Standard deviation of noise on the latent vectors in training, whose mean square is 1."},
    )
    freeze_text_model: bool = field(
        default=True, metadata={"help": "Train only the two networks; False also trains the language model."}
    )
    max_tokens: int = field(default=64, metadata={"help": "Longer sentences, in tokens, are left out."})

    def __post_init__(self):
        if self.text_model_name_or_path is None:
            raise ValueError("`--text_model_name_or_path` is required.")


@dataclass
class LatentDiffusionArguments:
    """The trained parts, the denoiser that learns between them, and how the saved model samples."""

    stage_name: ClassVar[str] = "latent_diffusion"
    target_language: ClassVar[None] = None

    vision_model_name_or_path: str = field(
        default=None,
        metadata={"help": "Folder or Hub id of a trained translation model, whose visual side guides. Required."},
    )
    text_model_name_or_path: str = field(
        default=None,
        metadata={"help": "Folder or Hub id of the text autoencoder, of flallm train text-autoencoding. Required."},
    )
    denoiser_size: int = field(default=512, metadata={"help": "Width of the denoiser and of the guidance fusion."})
    denoiser_layers: int = field(default=6, metadata={"help": "Layers of the denoiser."})
    denoiser_heads: int = field(default=8, metadata={"help": "Attention heads of denoiser and guidance fusion."})
    denoiser_dropout: float = field(default=0.1, metadata={"help": "Dropout of both."})
    fusion_layers: int = field(
        default=2, metadata={"help": "Layers in which the levels of visual features attend to each other."}
    )
    guidance_dropout: float = field(
        default=0.1, metadata={"help": "Share of the clips that are denoised without guidance in training."}
    )
    self_conditioning_probability: float = field(
        default=0.5, metadata={"help": "Share of the steps in which the denoiser reads its own estimate; 0 is off."}
    )
    ema_decay: float = field(
        default=0.9999, metadata={"help": "Decay of the moving average of the weights, which the saved model has."}
    )
    num_pseudo_glosses: int = field(
        default=0,
        metadata={
            "help": "DiffSLT-P: predict tokens of the sentence from the clip, and guide by so many of them; 0 is off."
        },
    )
    pseudo_gloss_weight: float = field(default=1.0, metadata={"help": "Weight of the loss of this prediction."})
    largest_pseudo_gloss_share: float = field(
        default=0.2,
        metadata={"help": "Tokens in a larger share of the training sentences are no pseudo-glosses."},
    )
    scheduler: str = field(default="ddim", metadata={"help": "How the saved model samples: ddim, ddpm or dpm++."})
    num_inference_steps: int = field(default=50, metadata={"help": "Default sampling steps of the saved model."})
    guidance_scale: float = field(
        default=2.0, metadata={"help": "Default weight of the clip in sampling; 1 is no classifier-free guidance."}
    )
    num_beams: int = field(
        default=1, metadata={"help": "Default beams of the saved model when it writes a sentence from its latents."}
    )

    def __post_init__(self):
        for name, what in (
            ("vision_model_name_or_path", "the trained model whose visual side guides"),
            ("text_model_name_or_path", "the text autoencoder"),
        ):
            if getattr(self, name) is None:
                raise ValueError(f"`--{name}` is required: {what}.")
        if self.scheduler not in SCHEDULERS:
            raise ValueError(f"`--scheduler` must be one of {', '.join(SCHEDULERS)}, got {self.scheduler!r}.")
        if not 1 <= self.num_inference_steps <= NUM_TRAIN_TIMESTEPS:
            raise ValueError(
                f"`--num_inference_steps` must be from 1 to {NUM_TRAIN_TIMESTEPS}, got {self.num_inference_steps}."
            )
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"`--ema_decay` must be at least 0 and below 1, got {self.ema_decay}.")
        if self.num_pseudo_glosses < 0:
            raise ValueError(f"`--num_pseudo_glosses` must be 0 or more, got {self.num_pseudo_glosses}.")
        if not 0 < self.largest_pseudo_gloss_share <= 1:
            raise ValueError(
                f"`--largest_pseudo_gloss_share` must be above 0 and at most 1, got {self.largest_pseudo_gloss_share}."
            )
