"""
Our models for the shared tests of transformers (`ModelTesterMixin`, `GenerationTesterMixin` and `ProcessorTesterMixin`,
which are not in its wheel), and which of those tests do not apply here.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from tiny_models import (
    random_batch,
    random_pose_batch,
    random_prompts,
    tiny_contrastive_model,
    tiny_diffslt,
    tiny_llava_slt,
    tiny_mmslt,
    tiny_mmslt_pretraining,
    tiny_model,
    tiny_pose_encoder,
    tiny_uni_sign,
    tiny_vision_model,
    video_of,
)
from transformers import PreTrainedModel

# Tests of the mixins that are not run here -> why.
NOT_RUN = {
    "inputs_embeds of FLa-LLM and of the encoders": "they read videos; `visual_features` takes that place",
    "inputs_embeds with generate of LLaVA-SLT": "its generate makes them of the video itself",
    "resize_tokens_embeddings of the encoders": "they have no tokens",
    "output_hidden_states and output_attentions of the encoders": "a CNN and torch's layers give none",
    "training the sentence level of LlavaSltForTranslation": "it is for contrastive pretraining; no sentence reads it",
    "the word level of LLaVA-SLT on disk": "torch's MultiheadAttention reads what accelerate has not loaded yet",
    "flash attention and flex attention": "need a GPU; the visual encoders have no such attention",
    "assisted decoding, prompt lookup": "transformers refuses them beside embeddings, with which LLaVA-SLT generates",
    "continuing from past_key_values": "a translation starts from its video; nothing is left to continue",
    "static and quantized caches": "the text models' own, tested by transformers",
    "training from a checkpoint of another shape": "refused on purpose, see tests/test_damaged_models.py",
    "model parallelism over several GPUs": "needs them; that no block is split is tested here",
    "processors: images, audio": "the models take neither",
    "processors: truncation of prompts": "would cut off the video; `max_num_frames` bounds it",
}


@dataclass(frozen=True)
class ModelCase:
    """One of our models: how to make a tiny one, its inputs (including those of the loss), and its main output."""

    make: Callable[..., PreTrainedModel]
    make_inputs: Callable[[list[int]], dict[str, torch.Tensor]]
    output: str
    is_translator: bool = False


def contrastive_inputs(lengths: list[int]) -> dict[str, torch.Tensor]:
    return {
        **video_of(random_batch(lengths)),
        "sentence_embeddings": torch.randn(len(lengths), 12),
        "word_ids": torch.randint(0, 9, (len(lengths), 3)),
    }


def clips_with_embedded_sentences(lengths: list[int]) -> dict[str, torch.Tensor]:
    return {**video_of(random_batch(lengths)), "sentence_embeddings": torch.randn(len(lengths), 32)}


def diffslt_in_training() -> PreTrainedModel:
    """Only its denoiser learns."""
    model = tiny_diffslt()
    model.freeze_pretrained_parts()
    return model


def poses(lengths: list[int]) -> dict[str, torch.Tensor]:
    batch = random_pose_batch(lengths)
    return {name: batch[name] for name in ("pose_values", "pose_attention_mask")}


def poses_with_sentences(lengths: list[int]) -> dict[str, torch.Tensor]:
    return {**random_pose_batch(lengths), "prompt_ids": torch.randint(4, 30, (len(lengths), 3))}


def prompts_with_answers(lengths: list[int]) -> dict[str, torch.Tensor]:
    return random_prompts(lengths, answer_lengths=[3 + row % 3 for row in range(len(lengths))])


MODELS = {
    "DiffSltForTranslation": ModelCase(diffslt_in_training, random_batch, "guidance"),
    "FLaLLMForTranslation": ModelCase(tiny_model, random_batch, "logits", is_translator=True),
    "FLaLLMVisionModel": ModelCase(
        tiny_vision_model, lambda lengths: video_of(random_batch(lengths)), "last_hidden_state"
    ),
    "LlavaSltForTranslation": ModelCase(tiny_llava_slt, prompts_with_answers, "logits", is_translator=True),
    "LlavaSltVisualEncoder": ModelCase(
        lambda: tiny_llava_slt().vision_model, lambda lengths: video_of(random_batch(lengths)), "last_hidden_state"
    ),
    "MmsltForTranslation": ModelCase(tiny_mmslt, random_batch, "logits", is_translator=True),
    "MmsltForPreTraining": ModelCase(tiny_mmslt_pretraining, clips_with_embedded_sentences, "video_embeddings"),
    "UniSignForTranslation": ModelCase(tiny_uni_sign, poses_with_sentences, "logits", is_translator=True),
    "UniSignPoseEncoder": ModelCase(tiny_pose_encoder, poses, "last_hidden_state"),
    "LlavaSltForContrastivePreTraining": ModelCase(tiny_contrastive_model, contrastive_inputs, "video_embeddings"),
}
TRANSLATORS = {name: case for name, case in MODELS.items() if case.is_translator}


def inference_inputs(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inputs without those for the loss; for LLaVA-SLT, a prompt with its answer remains."""
    return {name: value for name, value in inputs.items() if name not in ("labels", "sentence_embeddings", "word_ids")}


def loss_of(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The model's own loss, or for an encoder the mean square of its outputs."""
    output = model(**inputs)
    loss = getattr(output, "loss", None)
    if loss is not None:
        return loss
    return sum(value.float().square().mean() for value in output.to_tuple() if value.is_floating_point())
