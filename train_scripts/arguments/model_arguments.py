"""Arguments for parts of models that several stages share. Imports nothing heavy; some methods do."""

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from .encoder_arguments import ENCODER_ROWS, EncoderRow
from .flag_values import DTYPES

POOLINGS = ("pooler", "class", "mean", "patches")  # a test checks that they are those of PretrainedVisionConfig

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
    subtract_mean_frame: bool = field(
        default=False,
        metadata={
            "help": "Show the CNN each frame minus the mean frame of its clip, so that it sees what moves and not what "
            "stays, such as the room: for a CNN that starts from random weights."
        },
    )

    def frame_encoder_config(self, **options: Any) -> "FLaLLMVisionConfig":
        """`options` of `FLaLLMVisionConfig` come on top of these, or in their place."""
        from modeling_flallm import FLaLLMVisionConfig

        names = ("backbone", "backbone_width", "temporal_blocks", "temporal_norm", "subtract_mean_frame")
        own = {name: getattr(self, name) for name in names} | {"hidden_size": self.visual_hidden_size}
        return FLaLLMVisionConfig(**own | options)


@dataclass
class NamedEncoderArguments:
    """A visual encoder that is trained already: one of ours, or any image or video models of transformers."""

    vision_model_name_or_path: list[str] | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of the visual encoder: of an earlier stage, or of an image or video model of "
            "transformers, such as facebook/dinov2-small. Several names give one encoder of all of them, side by side. "
            "Frames then have the size of these models, of which --frame_size and --crop_size only choose the margin "
            "of the crop."
        },
    )
    vision_pooling: str | None = field(
        default=None,
        metadata={
            "help": "Image and video models: pooler, class, mean or patches, one for all. Default: what each is made "
            "for."
        },
    )
    vision_scales: list[int] = field(
        default_factory=lambda: [1],
        metadata={"help": "Image models: 1 2 also sees each frame twice as large, in four tiles (S2)."},
    )
    vision_window_stride: int | None = field(
        default=None, metadata={"help": "Video models: sampled frames between windows. Default: half a window."}
    )
    vision_dtype: str | None = field(
        default=None, metadata={"help": "Dtype of the loaded encoder: float32, bfloat16 or float16. Default: float32."}
    )
    vision_attn_implementation: str | None = field(
        default=None, metadata={"help": "Attention of image and video models: eager, sdpa or flash_attention_2."}
    )

    def load_named_encoder(self, how_to_get_one: str) -> "SignEncoder":
        """
        Args:
            how_to_get_one: advice for the error if there is none.

        Raises:
            ValueError: as `load_sign_encoder`.
        """
        import torch

        from modeling_flallm.encoders_slt import load_sign_encoder

        options = {"attn_implementation": self.vision_attn_implementation}
        if self.vision_dtype is not None:
            options["dtype"] = getattr(torch, self.vision_dtype)
        return load_sign_encoder(
            self.vision_model_name_or_path,
            how_to_get_one,
            {
                "pooling": self.vision_pooling,
                "image_values": {"scales": self.vision_scales},
                "video_values": {"window_stride": self.vision_window_stride},
            },
            **{name: value for name, value in options.items() if value is not None},
        )

    def check_named_encoder(self) -> None:
        """
        Raises:
            ValueError: for unknown values.
        """
        if isinstance(self.vision_model_name_or_path, str):
            self.vision_model_name_or_path = [self.vision_model_name_or_path]
        if self.vision_dtype is not None and self.vision_dtype not in DTYPES:
            raise ValueError(f"--vision_dtype must be {', '.join(DTYPES)}, got {self.vision_dtype!r}.")
        if self.vision_pooling is not None and self.vision_pooling not in POOLINGS:
            raise ValueError(f"--vision_pooling must be {', '.join(POOLINGS)}, got {self.vision_pooling!r}.")


@dataclass
class LoadedEncoderArguments(NamedEncoderArguments):
    """A visual encoder that is trained already, and what is put behind it."""

    projection_size: int = field(
        default=0,
        metadata={"help": "Width of a new linear layer behind a loaded encoder or ready-made features; 0 is none."},
    )

    def check_loaded_encoder(self, reads_ready_made_features: bool = False) -> None:
        """
        Args:
            reads_ready_made_features: whether the clips are features, which --projection_size may follow, too.

        Raises:
            ValueError: for flags that need a loaded encoder where there is none, and unknown values.
        """
        self.check_named_encoder()
        if self.vision_model_name_or_path is None:
            given = [
                each.name for each in fields(LoadedEncoderArguments) if getattr(self, each.name) not in (None, [1], 0)
            ]
            given = [name for name in given if not (name == "projection_size" and reads_ready_made_features)]
            given += ["vision_lora"] if self.vision_lora else []
            if given:
                raise ValueError(f"--{given[0]} goes with --vision_model_name_or_path, which is not given.")
        elif getattr(self, "imagenet_weights", False):
            raise ValueError(
                "--imagenet_weights is for a new CNN, and --vision_model_name_or_path brings its own weights. Leave "
                "out one of the two."
            )
        elif self.vision_lora and self.vision_dtype not in (None, "float32"):
            raise ValueError(f"--vision_lora True trains in float32; leave out --vision_dtype {self.vision_dtype}.")

    def load_encoder(self, how_to_get_one: str, **temporal_module: Any) -> "SignEncoder":
        """
        The loaded encoder, frozen unless it is trained, and behind it a new linear layer and temporal module, if there
        are any.

        Args:
            how_to_get_one: advice for the error if there is none.
            temporal_module: fields of `TemporalConfig`; without blocks there is no temporal module.

        Raises:
            ValueError: as `load_sign_encoder`.
        """
        encoder = self.load_named_encoder(how_to_get_one)
        if self.freeze_visual_encoder and not self.vision_lora:
            encoder.freeze()
        return self.put_new_layers_behind(encoder, **temporal_module)

    def put_new_layers_behind(self, encoder: "SignEncoder", **temporal_module: Any) -> "SignEncoder":
        """The encoder with the new linear layer and temporal module behind it, if there are any."""
        from modeling_flallm.encoders_slt import put_in_front_of_time

        temporal_module = {"temporal_blocks": [], **temporal_module}
        if self.projection_size or temporal_module["temporal_blocks"]:
            return put_in_front_of_time(encoder, projection_size=self.projection_size, **temporal_module)
        return encoder


@dataclass
class EncoderTrainingArguments:
    """What of a loaded visual encoder is trained."""

    freeze_visual_encoder: bool = field(
        default=True,
        metadata={
            "help": "Freeze the visual encoder of --vision_model_name_or_path (stage 2 of FLa-LLM: as in the paper)."
        },
    )
    vision_lora: bool = field(
        default=False,
        metadata={"help": "Train low-rank adapters in its image and video models of transformers, in place of these."},
    )


@dataclass
class NewTemporalArguments:
    """A new temporal module behind a loaded visual encoder, or behind ready-made features."""

    temporal_blocks: list[str] | None = field(
        default=None,
        metadata={
            "help": "New temporal module behind the loaded encoder or ready-made features: K5 = Conv1d kernel 5, P2 = "
            "pool 2. Default: none."
        },
    )
    temporal_norm: str = field(default="batch_norm", metadata={"help": "batch_norm or layer_norm."})
    visual_hidden_size: int | None = field(
        default=None, metadata={"help": "Output width of the new temporal module. Default: its input's."}
    )

    def temporal_module(self) -> dict[str, Any]:
        """Fields of `TemporalConfig`."""
        return {
            "temporal_blocks": self.temporal_blocks or [],
            "temporal_norm": self.temporal_norm,
            "hidden_size": self.visual_hidden_size,
        }

    def starting_encoder(self, how_to_get_one: str) -> "SignEncoder":
        """
        The encoder that training starts from, loaded or for other clips than videos, with the new layers behind it.

        Args:
            how_to_get_one: advice for the error if there is none.

        Raises:
            ValueError: as `load_sign_encoder`.
        """
        other = self.other_encoder()
        if other is None:
            return self.load_encoder(how_to_get_one, **self.temporal_module())
        return self.put_new_layers_behind(other, **self.temporal_module())


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

    def check_not_both(self) -> None:
        """
        Raises:
            ValueError: for both a trained visual encoder and clips that bring their own.
        """
        if self.vision_model_name_or_path is not None and self.chosen_row is not None:
            raise ValueError(
                f"--vision_model_name_or_path is for videos, and with --{self.chosen_row.flag} there are none. Leave "
                "out one of the two."
            )

    def check_one_start(self, vision_model_name_or_path: list[str] | None) -> None:
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
