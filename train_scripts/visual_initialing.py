"""
Stage 1 of FLa-LLM, visual initialing: train the visual encoder with a small random text model, Light-T
(https://arxiv.org/abs/2403.12556, section 3.1).

    flallm-visual-initialing --config paper_visual_initialing --dataset phoenix14t/ \
        --tokenizer_name_or_path facebook/mbart-large-cc25 --target_language de_DE --output_dir stage1

The same with `accelerate launch -m train_scripts.visual_initialing ...` or `torchrun -m ...` on several devices. On a
CPU, small (see `make quickstart` for the whole of it):

    flallm-generate-corpus --output_dir corpus
    flallm-pretrain-language-model --text_file corpus/text_only.txt --output_dir language_model
    flallm-visual-initialing --config quickstart_visual_initialing --dataset corpus \
        --tokenizer_name_or_path language_model --output_dir stage1
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from transformers import PreTrainedTokenizerBase

from modeling_flallm import FLaLLMConfig, FLaLLMForTranslation, FLaLLMVisionConfig, light_transformer_config
from modeling_flallm.own_processing import FLaLLMProcessor

from .arguments import (
    AugmentationArguments,
    DataArguments,
    FLaLLMTrainingArguments,
    VideoArguments,
    parse_arguments,
)
from .target_languages import language_ids
from .training import build_processor, load_tokenizer, run_command, run_training, set_generation_defaults


@dataclass
class AdapterArguments:
    """The adapter and the loss, in both stages."""

    adapter_hidden_size: int = field(default=512, metadata={"help": "Hidden width; 0 for linear layer, norm, ReLU."})
    adapter_activation: str = field(default="relu", metadata={"help": "Activation of the adapter."})
    adapter_norm: bool = field(default=False, metadata={"help": "LayerNorm in the adapter."})
    label_smoothing: float = field(default=0.2, metadata={"help": "Label smoothing of the cross entropy."})
    word_presence_loss_weight: float = field(
        default=0.0, metadata={"help": "Weight of the word-presence loss (ours, not in the paper); 0 is off."}
    )
    num_beams: int = field(default=5, metadata={"help": "Beams with which the saved model generates by default."})


@dataclass
class VisualInitialingArguments(AdapterArguments):
    """The visual encoder and Light-T."""

    stage_name: ClassVar[str] = "visual_initialing"

    tokenizer_name_or_path: str = field(
        default=None, metadata={"help": "Tokenizer of the LLM of stage 2, which Light-T shares. Required."}
    )
    target_language: str | None = field(
        default=None, metadata={"help": "Language code of a multilingual tokenizer, such as de_DE or deu_Latn."}
    )
    backbone: str = field(default="resnet18", metadata={"help": "torchvision's name: resnet18, resnet34, resnet50."})
    backbone_width: int = field(default=64, metadata={"help": "Channels of the backbone's first stage."})
    imagenet_weights: bool = field(default=False, metadata={"help": "Start the backbone from ImageNet weights."})
    visual_hidden_size: int = field(default=512, metadata={"help": "Width of a visual token."})
    temporal_blocks: list[str] = field(
        default_factory=lambda: ["K5"], metadata={"help": "Local temporal module: K5 = Conv1d kernel 5, P2 = pool 2."}
    )
    temporal_padding: str = field(default="zero", metadata={"help": "zero, none or replicate."})
    temporal_norm: str = field(default="batch_norm", metadata={"help": "batch_norm or layer_norm."})
    light_hidden_size: int = field(default=512, metadata={"help": "Width of Light-T."})
    light_feed_forward_size: int = field(default=2048, metadata={"help": "Feed-forward width of Light-T."})
    light_layers: int = field(default=3, metadata={"help": "Layers of Light-T's encoder, and of its decoder."})
    light_attention_heads: int = field(default=8, metadata={"help": "Attention heads of Light-T."})
    light_dropout: float = field(default=0.1, metadata={"help": "Dropout of Light-T."})

    def __post_init__(self):
        if self.tokenizer_name_or_path is None:
            raise ValueError("`--tokenizer_name_or_path` must name the tokenizer of the LLM of stage 2.")


def build_light_transformer_config(arguments: VisualInitialingArguments, tokenizer: PreTrainedTokenizerBase):
    return light_transformer_config(
        # M2M100's tokenizer does not count its languages.
        vocab_size=max([len(tokenizer), *(index + 1 for index in language_ids(tokenizer).values())]),
        d_model=arguments.light_hidden_size,
        encoder_ffn_dim=arguments.light_feed_forward_size,
        decoder_ffn_dim=arguments.light_feed_forward_size,
        encoder_layers=arguments.light_layers,
        decoder_layers=arguments.light_layers,
        encoder_attention_heads=arguments.light_attention_heads,
        decoder_attention_heads=arguments.light_attention_heads,
        dropout=arguments.light_dropout,
        activation_function="relu",
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        forced_eos_token_id=None,
    )


def build_model(
    arguments: VisualInitialingArguments, video: VideoArguments
) -> tuple[FLaLLMForTranslation, FLaLLMProcessor]:
    """A random visual encoder, adapter and Light-T, and the processor for the LLM's tokenizer."""
    tokenizer = load_tokenizer(arguments.tokenizer_name_or_path, arguments.target_language)
    config = FLaLLMConfig(
        vision_config=FLaLLMVisionConfig(
            backbone=arguments.backbone,
            backbone_width=arguments.backbone_width,
            hidden_size=arguments.visual_hidden_size,
            temporal_blocks=arguments.temporal_blocks,
            temporal_padding=arguments.temporal_padding,
            temporal_norm=arguments.temporal_norm,
        ),
        text_config=build_light_transformer_config(arguments, tokenizer),
        adapter_hidden_size=arguments.adapter_hidden_size,
        adapter_activation=arguments.adapter_activation,
        adapter_norm=arguments.adapter_norm,
        label_smoothing=arguments.label_smoothing,
        word_presence_loss_weight=arguments.word_presence_loss_weight,
    )
    model = FLaLLMForTranslation(config)
    if arguments.imagenet_weights:
        model.vision_model.load_imagenet_weights()
    set_generation_defaults(model, tokenizer, arguments.num_beams)
    return model, build_processor(video, tokenizer)


def train(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Stage 1 from command-line arguments; returns the scores on the evaluation split."""
    arguments, data, video, augmentation, training = parse_arguments(
        (VisualInitialingArguments, DataArguments, VideoArguments, AugmentationArguments, FLaLLMTrainingArguments),
        argv,
        description="Stage 1 of FLa-LLM: visual initialing with Light-T.",
    )
    return run_training(lambda: build_model(arguments, video), arguments, data, video, augmentation, training)


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(lambda: train(argv))


if __name__ == "__main__":
    sys.exit(main())
