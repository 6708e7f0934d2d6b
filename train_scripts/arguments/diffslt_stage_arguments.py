"""What DiffSLT's training commands take of their own. Imports nothing heavy."""

from dataclasses import dataclass, field
from typing import ClassVar


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
