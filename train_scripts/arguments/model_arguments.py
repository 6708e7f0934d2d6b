"""Arguments for parts of models that several stages share. Imports nothing heavy; three methods do."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peft import LoraConfig

    from modeling_flallm import FLaLLMVisionConfig, VisualFeaturesEncoder


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
class VisualFeaturesArguments:
    """Ready-made visual features in place of videos."""

    visual_features_size: int | None = field(
        default=None,
        metadata={
            "help": "Read no videos but ready-made visual features of so many values each, in the column "
            "visual_features of the data set. --max_num_frames then limits the features of a clip; other flags on "
            "frames have no effect. Default: videos."
        },
    )

    def visual_features_encoder(self) -> "VisualFeaturesEncoder | None":
        """The sign encoder for these features, `None` for videos."""
        if self.visual_features_size is None:
            return None
        from modeling_flallm import VisualFeaturesConfig, VisualFeaturesEncoder

        return VisualFeaturesEncoder(VisualFeaturesConfig(hidden_size=self.visual_features_size))

    def check_one_start(self, vision_model_name_or_path: str | None) -> None:
        """
        Raises:
            ValueError: for neither or both of a trained visual encoder and visual features.
        """
        if (vision_model_name_or_path is None) == (self.visual_features_size is None):
            raise ValueError(
                "`--vision_model_name_or_path` is required, or in its place `--visual_features_size` for ready-made "
                f"visual features; got {'neither' if self.visual_features_size is None else 'both'}."
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
