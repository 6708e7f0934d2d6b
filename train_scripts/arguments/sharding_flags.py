"""
Sharded training: FSDP2 and DeepSpeed's ZeRO split parameters, gradients and the optimizer's state over the processes.
Which of their settings work is checked here; the others are rejected with a reason.
"""

import importlib.util
import os
from typing import Any

import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from torch.distributed.fsdp import StateDictType
from torch.distributed.fsdp.wrap import size_based_auto_wrap_policy
from transformers import Seq2SeqTrainingArguments
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from .dataclass_parser import FALSE, TRUE

FSDP_VARIABLE, DEEPSPEED_VARIABLE = "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"
ZERO_STAGES = (2, 3)
# Optimisers that look at whole weights, or keep their state in tensors that cannot be split.
NOT_SHARDED = ("galore", "apollo", "lomo", "adalomo", "adafactor", "8bit", "bnb", "paged", "torchao")


HALVES_ALL = (
    "it would halve all weights, also those of BatchNorm, which then does not compute. Leave it out to train in "
    "float32, or use --fsdp, which computes in 16 bits where that is safe."
)


def is_set(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in TRUE


def by_fsdp(training: Seq2SeqTrainingArguments) -> bool:
    """Whether a run shards by FSDP, by its flags or by what `accelerate launch` has set in the environment."""
    return training.fsdp is not None or is_set(FSDP_VARIABLE)


def by_deepspeed(training: Seq2SeqTrainingArguments) -> bool:
    """The same for DeepSpeed."""
    return training.deepspeed is not None or is_set(DEEPSPEED_VARIABLE)


def is_sharded(training: Seq2SeqTrainingArguments) -> bool:
    return by_fsdp(training) or by_deepspeed(training)


def zero_stage(training: Seq2SeqTrainingArguments) -> int | None:
    """Of DeepSpeed, `None` without it."""
    return training.deepspeed_plugin.zero_stage if by_deepspeed(training) else None


def can_shard(device: torch.device) -> bool:
    """accelerate shards on accelerators alone; on CPUs it would train without sharding and say nothing."""
    return device.type != "cpu"


def check_sharding(training: Seq2SeqTrainingArguments, device: torch.device) -> None:
    """
    Run this before the Trainer's arguments do their own checks.

    Raises:
        ValueError: where nothing can be sharded, and for flags that cannot be combined with it.
    """
    training.fsdp = _without_words(training.fsdp)
    if training.fsdp_config and training.fsdp is None:
        raise ValueError("--fsdp_config has no effect without --fsdp True. Add it, or leave both out.")
    if not is_sharded(training):
        return
    name = _name(training)
    if by_fsdp(training) and by_deepspeed(training):
        raise ValueError("FSDP and DeepSpeed both shard the parameters. Leave out --fsdp or --deepspeed.")
    if not can_shard(device):
        raise ValueError(
            f"{name} needs GPUs: on CPUs nothing would be sharded. Leave it out and train with torchrun alone."
        )
    if "LOCAL_RANK" not in os.environ:
        raise ValueError(f"{name} is for several processes: start the command with torchrun or `accelerate launch`.")
    if by_deepspeed(training) and importlib.util.find_spec("deepspeed") is None:
        raise ValueError(f"{name} needs the package deepspeed: pip install 'flallm[deepspeed]'.")
    _check_combined_flags(training, name)


def _name(training: Seq2SeqTrainingArguments) -> str:
    """What asks for sharding: a flag, or `accelerate launch`."""
    flag, variable = ("fsdp", FSDP_VARIABLE) if by_fsdp(training) else ("deepspeed", DEEPSPEED_VARIABLE)
    return f"--{flag}" if getattr(training, flag) is not None else f"{variable}, which `accelerate launch` has set,"


def _without_words(value: Any) -> Any:
    """`--fsdp True` is read as text, which transformers would take for the name of a way to shard."""
    text = str(value).lower()
    if value is None or text in FALSE:
        return None
    return True if text in TRUE else value


def _check_combined_flags(training: Seq2SeqTrainingArguments, name: str) -> None:
    for flag in ("bf16", "fp16"):
        if by_deepspeed(training) and getattr(training, flag):
            raise ValueError(f"--{flag} cannot be combined with DeepSpeed: {HALVES_ALL}")
    if training.auto_find_batch_size:
        raise ValueError(f"--auto_find_batch_size starts again with whole parameters, which {name} has split.")
    if training.torch_compile or training.torch_compile_backend or training.torch_compile_mode:
        raise ValueError(f"--torch_compile needs parameters that stay in one place, which {name} gathers and frees.")
    optimizer = getattr(training.optim, "value", training.optim)
    if any(word in optimizer for word in NOT_SHARDED):
        raise ValueError(
            f"--optim {optimizer} needs whole parameters, which {name} has split. Use --optim adamw_torch."
        )


def complete_sharding(training: Seq2SeqTrainingArguments) -> None:
    """
    Run this after the Trainer's arguments have done their own checks. Models are then built whole in each process, and
    sharded by the Trainer: their parts come from different checkpoints, which DeepSpeed cannot load split.

    Raises:
        ValueError: for settings of FSDP or DeepSpeed that do not work.
    """
    if by_fsdp(training):
        _check_fsdp(FullyShardedDataParallelPlugin(**training.fsdp_plugin_args or {}))
    if by_deepspeed(training):
        _check_deepspeed(training)
        unset_hf_deepspeed_config()


def _check_fsdp(plugin: FullyShardedDataParallelPlugin) -> None:
    if plugin.fsdp_version != 2:
        raise ValueError(
            f"FSDP's version must be 2, got {plugin.fsdp_version}: version 1 flattens the weights, and transformers "
            "drops it. Set `fsdp_version: 2` for `accelerate launch`, or leave `version` out of --fsdp_config."
        )
    if plugin.state_dict_type != StateDictType.FULL_STATE_DICT:
        raise ValueError(
            "FSDP's `state_dict_type` must be FULL_STATE_DICT, with which checkpoints hold a model that loads "
            f"everywhere, got {plugin.state_dict_type.name}."
        )
    if plugin.auto_wrap_policy is size_based_auto_wrap_policy:
        raise ValueError(
            "FSDP's `auto_wrap_policy` must be TRANSFORMER_BASED_WRAP or NO_WRAP: by size, parts of the sign encoder "
            "would be gathered alone, and processes with longer clips would wait for the others forever."
        )
    if plugin.cpu_ram_efficient_loading:
        raise ValueError("FSDP's `cpu_ram_efficient_loading` must be false: models are put together from parts.")


def _check_deepspeed(training: Seq2SeqTrainingArguments) -> None:
    config = training.deepspeed_plugin.deepspeed_config
    zero = config.get("zero_optimization", {})
    stage = zero.get("stage", 0)
    if stage not in ZERO_STAGES:
        raise ValueError(f"DeepSpeed's `stage` must be 2 or 3, got {stage}: 2 takes less memory at the same speed.")
    for part, flag in (("optimizer", "optim"), ("scheduler", "lr_scheduler_type")):
        if part in config:
            raise ValueError(f"DeepSpeed's `{part}` must be left out: --{flag} chooses it, as without DeepSpeed.")
    for precision in ("bf16", "fp16"):
        if config.get(precision, {}).get("enabled"):
            raise ValueError(f"DeepSpeed's `{precision}` cannot be enabled: {HALVES_ALL}")
    if stage == 3 and not zero.get("stage3_gather_16bit_weights_on_model_save"):
        raise ValueError(
            "DeepSpeed's `stage3_gather_16bit_weights_on_model_save` (`zero3_save_16bit_model` for `accelerate "
            "launch`) must be true: otherwise no model would be saved that loads everywhere."
        )
    if stage == 3 and training.frames_per_chunk is not None:
        raise ValueError(
            "--frames_per_chunk cannot be combined with ZeRO-3: processes with longer clips run the sign encoder more "
            "often and would wait for the others forever. Use ZeRO-2 or --fsdp."
        )
