"""Arguments for parts of models that several stages share. Imports nothing heavy; three methods do."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .encoder_arguments import ENCODER_ROWS, EncoderRow

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedConfig

    from modeling_flallm import FLaLLMVisionConfig, SignEncoder


@dataclass
class FrameEncoderArguments:
    """The CNN with the local temporal module, if it is new."""

    backbone: str = field(default="resnet18", metadata={"help": "torchvision's name: resnet18, resnet34, resnet50."})
    backbone_width: int = field(default=64, metadata={"help": "Channels of the backbone's first stage."})
    imagenet_weights: bool = field(default=False, metadata={"help": "Start the backbone from ImageNet weights."})
    visual_hidden_size: int = field(default=512, metadata={"help": "Output width of the local temporal module."})
    temporal_blocks: list[str] = field(
        default_factory=lambda: ["K5"],
        metadata={"help": "Local temporal module: K5 = Conv1d kernel 5, P2 = pool 2 (not in LLaVA-SLT)."},
    )
    temporal_norm: str = field(default="batch_norm", metadata={"help": "batch_norm or layer_norm."})

    def frame_encoder_config(self, **options: Any) -> "FLaLLMVisionConfig":
        """`options` are further ones of `FLaLLMVisionConfig`."""
        from modeling_flallm import FLaLLMVisionConfig

        return FLaLLMVisionConfig(
            backbone=self.backbone,
            backbone_width=self.backbone_width,
            hidden_size=self.visual_hidden_size,
            temporal_blocks=self.temporal_blocks,
            temporal_norm=self.temporal_norm,
            **options,
        )


@dataclass
class OtherClipsArguments(*ENCODER_ROWS):
    """Another kind of clips than videos, with the sign encoder for it."""

    @property
    def chosen_row(self) -> type[EncoderRow] | None:
        """
        The modality that the flags choose, `None` for videos.

        Raises:
            ValueError: for several.
        """
        chosen = [row for row in ENCODER_ROWS if getattr(self, row.flag) is not None]
        if len(chosen) > 1:
            raise ValueError(f"A model reads one kind of clips, got {' and '.join(f'--{row.flag}' for row in chosen)}.")
        return chosen[0] if chosen else None

    def other_encoder_config(self) -> "PreTrainedConfig | None":
        """That of the sign encoder for these clips, `None` for videos."""
        return None if self.chosen_row is None else self.chosen_row.encoder_config(self)

    def other_encoder(self) -> "SignEncoder | None":
        """The sign encoder for these clips, new, `None` for videos."""
        from modeling_flallm.encoders_slt import build_sign_encoder

        config = self.other_encoder_config()
        return None if config is None else build_sign_encoder(config)

    def check_one_start(self, vision_model_name_or_path: str | None) -> None:
        """
        Raises:
            ValueError: for neither or both of a trained visual encoder and clips that bring their own.
        """
        if (vision_model_name_or_path is None) == (self.chosen_row is None):
            others = " or ".join(f"`--{row.flag}` for {row.clips}" for row in ENCODER_ROWS)
            raise ValueError(
                f"`--vision_model_name_or_path` is required, or in its place {others}; got "
                f"{'neither' if self.chosen_row is None else 'both'}."
            )


@dataclass
class AdapterArguments:
    """The adapter and the loss, in both stages of FLa-LLM."""

    adapter_hidden_size: int = field(default=512, metadata={"help": "Hidden width; 0 for linear layer, norm, ReLU."})
    adapter_activation: str = field(default="relu", metadata={"help": "Activation of the adapter."})
    adapter_norm: bool = field(default=False, metadata={"help": "LayerNorm in the adapter."})
    label_smoothing: float = field(default=0.2, metadata={"help": "Label smoothing of the cross entropy."})
    word_presence_loss_weight: float = field(
        default=0.0, metadata={"help": "Weight of the word-presence loss (ours, not in the paper); 0 is off."}
    )
    num_beams: int = field(default=5, metadata={"help": "Default number of beams of the saved model."})


@dataclass
class LoraArguments:
    """Low-rank adapters in the language model; each stage defines which layers get them, and what else is trained."""

    lora_rank: int = field(default=16, metadata={"help": "Rank of the low-rank adapters."})
    lora_alpha: int = field(default=32, metadata={"help": "Scale of the low-rank adapters, times the rank."})
    lora_dropout: float = field(default=0.05, metadata={"help": "Dropout before the low-rank adapters."})

    def lora_config(self, **options: Any) -> "LoraConfig":
        """
        `options` are further ones of `LoraConfig`. Models that take videos have no `task_type`: peft's wrappers for
        SEQ_2_SEQ_LM and CAUSAL_LM would pass text inputs on that these do not take.
        """
        from peft import LoraConfig

        return LoraConfig(r=self.lora_rank, lora_alpha=self.lora_alpha, lora_dropout=self.lora_dropout, **options)
