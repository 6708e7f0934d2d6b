"""
MMSLT's stage 1, multimodal language pretraining: the frame encoder, the temporal module, the adapter and the encoder of
the language model learn to match each video with its sentence, and the description mapper to predict, from each frame,
the embedding of what a multimodal language model said about it (https://arxiv.org/abs/2411.16789).

    flallm describe --dataset phoenix14t/ --describer_name_or_path llava-hf/llava-onevision-qwen2-7b-ov-hf \
        --text_encoder_name_or_path google-bert/bert-base-cased --description_pooling cls --output_dir descriptions
    flallm train multimodal-pretraining --config mmslt_multimodal_pretraining --dataset phoenix14t/ \
        --descriptions descriptions --text_model_name_or_path facebook/mbart-large-50-many-to-many-mmt \
        --target_language de_DE --output_dir pretrained

The output folder holds the whole model with its processor, for `flallm train translation-fine-tuning`; it cannot
translate yet. The run is scored by retrieval, as in `visual_contrastive_pretraining.py`, and by the mapper's error. A
small run on a CPU:

    flallm generate-corpus --output_dir corpus --descriptions True
    flallm train language-model --text_file corpus/text_only.txt --output_dir language_model
    flallm describe --dataset corpus --description_column descriptions --text_encoder_name_or_path TEXT_ENCODER \
        --output_dir descriptions
    flallm train multimodal-pretraining --config quickstart_mmslt_multimodal_pretraining --dataset corpus \
        --descriptions descriptions --text_model_name_or_path language_model --output_dir pretrained
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from peft import PeftModel, get_peft_model
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, set_seed

from modeling_flallm import DescribedConfig, MmsltForPreTraining, SignEncoder
from modeling_flallm.encoder_described_slt import described_encoder_of
from modeling_flallm.encoder_frames_slt import num_frame_features
from modeling_flallm.encoders_slt import build_sign_encoder, put_in_front_of_a_mapper, put_in_front_of_time
from modeling_flallm.own_processing import FLaLLMProcessor

from ..arguments.command_line import GO_ON_TRAINING, run_command
from ..arguments.commands import COMMANDS
from ..arguments.data_arguments import AugmentationArguments, DataArguments, VideoArguments
from ..arguments.described_stage_arguments import MultimodalPretrainingArguments
from ..arguments.description_arguments import DescriptionArguments
from ..arguments.training_arguments import FLaLLMTrainingArguments
from ..arguments.training_defaults import DESCRIBED_SCORES, DescribedTrainingDefaults
from ..runs.contrastive_training import (
    ContrastiveTrainer,
    open_contrastive_splits,
    print_retrieval,
    run_contrastive_training,
)
from ..runs.damaged_models import reading_model
from ..runs.described_clips import describe_descriptions, described_share_text
from ..runs.encoder_adapters import add_encoder_adapters
from ..runs.text_targets import load_sentence_targets
from ..runs.tokenizers import load_tokenizer
from ..runs.training import build_processor, choose_fast_attention, prepare_visual_encoder, save_lora_base, start_run

COMMAND = COMMANDS["train multimodal-pretraining"]


@dataclass
class DescribedTrainingArguments(DescribedTrainingDefaults, FLaLLMTrainingArguments):
    """Evaluation by retrieval and by the error of the description mapper, instead of by generation."""


class DescribedTrainer(ContrastiveTrainer):
    """Evaluation also gathers the error of the description mapper."""

    def measured(self, output: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """-> `(batch, 2)`: the mapper's mean squared error times the described frames of the clip, and these."""
        vision_model = self.accelerator.unwrap_model(self.model).vision_model
        weight = described_encoder_of(vision_model).config.mapper_loss_weight
        mask = inputs.get("description_attention_mask")
        if mask is None or not weight:
            return output.video_embeddings.new_zeros(len(output.video_embeddings), 2)
        num_described = mask.sum(1).float()
        return torch.stack([output.encoder_loss / weight * num_described, num_described], dim=1)

    @staticmethod
    def scores_of_measures(measures: np.ndarray) -> dict[str, float]:
        error, num_described = measures.sum(0).tolist()
        return {"mapper_loss": error / num_described} if num_described else {}


def build_encoder(arguments: MultimodalPretrainingArguments, description_size: int | None = None) -> SignEncoder:
    """The frame encoder, new or of --vision_model_name_or_path, and the new mapper and temporal module behind it."""
    if arguments.vision_model_name_or_path is None:
        width = num_frame_features(arguments.backbone, arguments.backbone_width)
        frames = build_sign_encoder(arguments.frame_encoder_config(temporal_blocks=[], hidden_size=width))
        if arguments.imagenet_weights:
            frames.load_imagenet_weights()
    else:
        with reading_model(*arguments.vision_model_name_or_path):
            frames = arguments.load_encoder("Name an image or video model.")
    described = put_in_front_of_a_mapper(
        frames,
        description_size=description_size or DescribedConfig.description_size,
        mapper_hidden_size=arguments.mapper_hidden_size,
        mapper_loss_weight=arguments.mapper_loss_weight,
    )
    return put_in_front_of_time(
        described,
        temporal_blocks=arguments.temporal_blocks,
        temporal_norm=arguments.temporal_norm,
        temporal_padding=arguments.temporal_padding,
        hidden_size=arguments.visual_hidden_size,
    )


def build_model(
    arguments: MultimodalPretrainingArguments,
    tokenizer: PreTrainedTokenizerBase,
    video: VideoArguments,
    description_size: int | None = None,
) -> tuple[PreTrainedModel, FLaLLMProcessor]:
    """
    The pretrained text model behind a new sign encoder, frozen and wrapped as requested, and the processor.

    Args:
        description_size: width of the embeddings of descriptions, if there are any.
    """
    with reading_model(arguments.text_model_name_or_path):
        model = MmsltForPreTraining.from_vision_text_pretrained(
            build_encoder(arguments, description_size),
            arguments.text_model_name_or_path,
            adapter_hidden_size=arguments.adapter_hidden_size,
            adapter_activation=arguments.adapter_activation,
            temperature_init=arguments.temperature,
            memory_bank_size=arguments.memory_bank_size,
        )
    processor = build_processor(video, tokenizer, model.vision_model)
    model.freeze_what_does_not_run()
    if arguments.vision_lora:
        add_encoder_adapters(model.vision_model, arguments.lora_config(target_modules="all-linear"))
    if arguments.lora:
        model = get_peft_model(model, arguments.lora_config(**model.get_lora_settings()))
    return model, processor


def run_pretraining(
    arguments: MultimodalPretrainingArguments,
    descriptions: DescriptionArguments,
    data: DataArguments,
    video: VideoArguments,
    augmentation: AugmentationArguments,
    training: DescribedTrainingArguments,
    callbacks: Sequence[TrainerCallback] = (),
) -> dict[str, float]:
    """
    Train, choose the best checkpoint and save model, processor and model card in the output folder.

    Returns:
        `dict[str, float]`: as `run_contrastive_training`.

    Raises:
        ValueError, FileNotFoundError: for mistakes that the user has to fix, before any training.
    """
    scores = tuple(name for name in DESCRIBED_SCORES if arguments.mapper_loss_weight or name != "mapper_loss")
    opened = open_contrastive_splits(arguments, data, training, scores, descriptions)
    splits, described = opened.splits, None
    callbacks = [*callbacks, *start_run(training)]
    if descriptions.descriptions is not None and arguments.mapper_loss_weight:
        described = describe_descriptions(descriptions.descriptions, splits.train)
        if training.process_index == 0:
            print(described_share_text(described), flush=True)
    tokenizer = load_tokenizer(arguments.text_model_name_or_path, arguments.target_language)
    column = data.text_column
    targets = load_sentence_targets(
        arguments, splits.train[column], opened.evaluated(column), tokenizer, training.device
    )
    set_seed(training.seed)
    size = None if splits.description_scale is None else len(splits.description_scale.mean)
    model, processor = build_model(arguments, tokenizer, video, size)
    if isinstance(model, PeftModel):
        save_lora_base(model, processor, training)
    prepare_visual_encoder(model, training)
    choose_fast_attention(model, training)
    return run_contrastive_training(
        DescribedTrainer,
        model,
        processor,
        opened,
        targets,
        (arguments, data, video, augmentation, training),
        callbacks,
        processing_class=processor,
        descriptions=described,
    )


def train(argv: Sequence[str] | None = None, callbacks: Sequence[TrainerCallback] = ()) -> dict[str, float]:
    """Stage 1 from command-line arguments; returns the scores of `run_pretraining`. `callbacks` go to the Trainer."""
    arguments, descriptions, data, video, augmentation, training = COMMAND.parse(argv, DescribedTrainingArguments)
    scores = run_pretraining(arguments, descriptions, data, video, augmentation, training, callbacks)
    if training.process_index == 0:
        print_retrieval(scores, arguments, data)
    return scores


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(train, argv, GO_ON_TRAINING)


if __name__ == "__main__":
    sys.exit(main())
