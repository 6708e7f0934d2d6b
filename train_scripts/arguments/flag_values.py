"""
The allowed values of flags, by name: checked before any work, in every command that has a flag of that name, whether it
was set on the command line or in a YAML file. Imports nothing heavy.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..machine.atomic_files import holds_something
from ..machine.process_pool import most_workers

DTYPES = ("float32", "bfloat16", "float16")
FEATURE_DTYPES = ("float16", "bfloat16", "float32")
QUANTIZATIONS = ("int8", "int4")
GO_ON_IF_POSSIBLE = "auto"  # of --resume_from_checkpoint
MOST_BEAMS = 100  # ours: papers use up to 10
MOST_CANDIDATES = 1000  # ours
MOST_TOKENS_OF_A_SENTENCE = 10_000  # ours: sentences in the corpora have a few dozen
LARGEST_PORT = 65535
MOST_RESAMPLES = 100_000  # ours: sacrebleu uses 1,000


@dataclass(frozen=True)
class Range:
    """Finite numbers from `least` to `most`, or unbounded on one or both sides."""

    least: float
    most: float = math.inf
    is_least_in: bool = True
    is_most_in: bool = True

    def __contains__(self, value: float) -> bool:
        is_above = self.least <= value if self.is_least_in else self.least < value
        is_below = value <= self.most if self.is_most_in else value < self.most
        return is_above and is_below and math.isfinite(value)

    def __str__(self) -> str:
        if self.most == math.inf:
            return f"{self.least} or more" if self.is_least_in else f"above {self.least}"
        if self.is_least_in and self.is_most_in:
            return f"from {self.least} to {self.most}"
        least = f"{self.least} or more" if self.is_least_in else f"above {self.least}"
        return f"{least} and {'at most' if self.is_most_in else 'below'} {self.most}"


COUNT, COUNT_OR_NONE = Range(1), Range(0)
SHARE, SHARE_BELOW_ONE, WEIGHT = Range(0, 1), Range(0, 1, is_most_in=False), Range(0)
ABOVE_ZERO = Range(0, is_least_in=False)
BEAMS, TOKENS, SEED = Range(1, MOST_BEAMS), Range(1, MOST_TOKENS_OF_A_SENTENCE), Range(0, 2**32 - 1)

RANGES: dict[str, Range] = {
    # data
    "max_clips": COUNT,
    "max_control_clips": COUNT_OR_NONE,
    "max_train_clips": COUNT,
    "max_evaluation_clips": COUNT,
    "prior_clips": COUNT_OR_NONE,
    "shuffle_buffer_size": COUNT,
    "num_workers": Range(1, most_workers()),
    "num_processes": Range(1, most_workers()),
    "num_threads": COUNT,
    # videos and their augmentation
    "frame_sampling_rate": Range(0, 1, is_least_in=False),
    "max_num_frames": COUNT,
    "frame_size": COUNT,
    "crop_size": COUNT,
    "smoothing_seconds": SHARE,
    "start": Range(0),
    "end": Range(0),
    "rotation_degrees": Range(0, 180),
    "translation": SHARE,
    "brightness": WEIGHT,
    "hue": Range(0, 0.5),
    "invert": SHARE,
    "blur": WEIGHT,
    "random_background": SHARE,
    "contrast": WEIGHT,
    "saturation": WEIGHT,
    "speed": SHARE_BELOW_ONE,
    "frame_drop": SHARE,
    "horizontal_flip": SHARE,
    "scale": SHARE_BELOW_ONE,
    "joint_noise": WEIGHT,
    "hand_drop": SHARE,
    "feature_views": COUNT,
    "max_frames_per_batch": COUNT,
    "frames_per_chunk": COUNT,
    "description_stride": COUNT,
    "segment_frames": COUNT,
    # models
    "visual_hidden_size": COUNT,
    "mapper_hidden_size": COUNT,
    "adapter_hidden_size": COUNT_OR_NONE,
    "connector_hidden_size": COUNT,
    "light_hidden_size": COUNT,
    "light_feed_forward_size": COUNT,
    "light_layers": COUNT,
    "light_attention_heads": COUNT,
    "light_dropout": SHARE_BELOW_ONE,
    "text_model_dropout": SHARE_BELOW_ONE,
    "max_vocabulary_size": COUNT,
    "hidden_size": COUNT,
    "feed_forward_size": COUNT,
    "layers": COUNT,
    "attention_heads": COUNT,
    "dropout": SHARE_BELOW_ONE,
    "word_window_size": COUNT,
    "word_window_stride": COUNT,
    "word_hidden_size": COUNT,
    "word_layers": COUNT_OR_NONE,
    "word_attention_heads": COUNT,
    "word_feed_forward_size": COUNT,
    "word_dropout": SHARE_BELOW_ONE,
    "num_latents": COUNT,
    "latent_size": COUNT,
    "autoencoder_layers": COUNT,
    "autoencoder_heads": COUNT,
    "latent_noise": WEIGHT,
    "max_tokens": COUNT,
    "lora_rank": COUNT,
    "lora_alpha": COUNT,
    "lora_dropout": SHARE_BELOW_ONE,
    # losses and text learning
    "label_smoothing": SHARE_BELOW_ONE,
    "word_presence_loss_weight": WEIGHT,
    "word_alignment_weight": WEIGHT,
    "visual_text_alignment_weight": WEIGHT,
    "alignment_warm_up_steps": COUNT_OR_NONE,
    "mapper_loss_weight": WEIGHT,
    "temperature": ABOVE_ZERO,
    "memory_bank_size": COUNT_OR_NONE,
    "mask_probability": SHARE,
    "deletion_probability": SHARE_BELOW_ONE,
    "shuffle_probability": SHARE,
    "repetition_probability": SHARE_BELOW_ONE,
    # serving
    "port": Range(0, LARGEST_PORT),
    "max_streams": COUNT,
    "max_waiting_clips": COUNT,
    "max_batch_size": COUNT,
    "batch_wait_milliseconds": Range(0, 1000),
    "max_megabytes": ABOVE_ZERO,
    "max_clip_seconds": ABOVE_ZERO,
    "max_frame_rate": ABOVE_ZERO,
    "max_frame_kilobytes": ABOVE_ZERO,
    "max_frame_pixels": COUNT,
    "idle_seconds": ABOVE_ZERO,
    "num_readers": Range(1, most_workers()),
    # generation
    "num_beams": BEAMS,
    "num_candidates": Range(1, MOST_CANDIDATES),
    "generation_num_beams": BEAMS,
    "generation_max_length": Range(2, MOST_TOKENS_OF_A_SENTENCE),
    "max_new_tokens": TOKENS,
    "batch_size": COUNT,
    "num_resamples": Range(0, MOST_RESAMPLES),
    # a run
    "early_stopping_patience": COUNT,
    "learning_rate": WEIGHT,
    "adapter_learning_rate": WEIGHT,
    "bias_learning_rate": WEIGHT,
    "weight_decay": WEIGHT,
    "max_grad_norm": WEIGHT,
    "warmup_steps": WEIGHT,
    "adam_beta1": SHARE_BELOW_ONE,
    "adam_beta2": SHARE_BELOW_ONE,
    "adam_epsilon": ABOVE_ZERO,
    "neftune_noise_alpha": WEIGHT,
    "num_train_epochs": ABOVE_ZERO,
    "per_device_train_batch_size": COUNT,
    "per_device_eval_batch_size": COUNT,
    "gradient_accumulation_steps": COUNT,
    "eval_accumulation_steps": COUNT,
    "dataloader_num_workers": COUNT_OR_NONE,
    "dataloader_prefetch_factor": COUNT,
    "logging_steps": ABOVE_ZERO,
    "eval_steps": ABOVE_ZERO,
    "eval_delay": WEIGHT,
    "save_steps": ABOVE_ZERO,
    "save_total_limit": COUNT,
    "torch_empty_cache_steps": COUNT,
    "ddp_bucket_cap_mb": COUNT,
    "ddp_timeout": COUNT,
    "seed": SEED,
    "data_seed": SEED,
    "num_train_clips": COUNT,
    "num_dev_clips": COUNT,
    "num_test_clips": COUNT,
    "num_text_only_sentences": COUNT_OR_NONE,
    "stage1_epochs": ABOVE_ZERO,
    "stage2_epochs": ABOVE_ZERO,
    "stage3_epochs": ABOVE_ZERO,
    "language_model_epochs": ABOVE_ZERO,
}


def check_flags(values: Mapping[str, Any]) -> None:
    """
    Args:
        values: by flag name; `None` is always allowed.

    Raises:
        ValueError: for the first value that is not allowed; the message names the flag.
    """
    for name, value in values.items():
        allowed = RANGES.get(name)
        if allowed is not None and value is not None and not isinstance(value, str) and value not in allowed:
            raise ValueError(f"--{name} must be {allowed}, got {value}.")


def check_license(argument: str, value: str | None, examples: str) -> None:
    """
    Raises:
        ValueError: for a licence that is not written as on the Hub.
    """
    if value is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", value):
        raise ValueError(f"--{argument} must be a licence as the Hub writes it, such as {examples}, got {value!r}.")


def is_repo_id(text: str | None) -> bool:
    """Whether a text is a valid repository id with its owner, as in `me/flallm-phoenix`."""
    from huggingface_hub.utils import validate_repo_id  # imported here to keep `--help` fast

    try:
        validate_repo_id(text)
    except ValueError:  # HFValidationError is one
        return False
    return bool(text) and "/" in text


def check_repo_id(argument: str, value: str | None, example: str) -> None:
    """
    Raises:
        ValueError: for anything but a repository id with its owner; `None` is allowed.
    """
    if value is not None and not is_repo_id(value):
        raise ValueError(f"--{argument} must be OWNER/NAME, such as {example}, got {value!r}.")


def check_new_folder(folder: Path, advice: str = "") -> None:
    """
    Raises:
        ValueError: if the folder is a file, or is not empty.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output_dir {folder} is a file. Name a new or empty folder.")
    if folder.is_dir() and holds_something(folder):
        raise ValueError(f"--output_dir {folder} is not empty. Name a new folder, or remove this one.{advice}")
