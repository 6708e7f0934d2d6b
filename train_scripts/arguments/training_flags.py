"""
The flags that training commands inherit from transformers' Trainer: which ones are rejected and why, and which values
make sense. Everything is checked before any model or data is loaded. Each flag has been tried;
tests/test_training_flags.py tries them again.
"""

import dataclasses
import inspect
import math
import os
from collections.abc import Mapping
from typing import Any

import torch
from accelerate.utils import DynamoBackend
from transformers import Seq2SeqTrainingArguments, Trainer, get_scheduler
from transformers.integrations import get_available_reporting_integrations
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer_utils import HubStrategy, IntervalStrategy, SaveStrategy, SchedulerType
from transformers.training_args import OptimizerNames

from .sharding_flags import complete_sharding, is_set

WHOLE_LAYERS = "these models have no plan for layers that several processes share. --fsdp and --deepspeed shard them"
LOSS_IS_OURS = "the Trainer would take the labels away from the model. Use --label_smoothing, where the command has it"
# Flag -> why any value except transformers' default is rejected.
REFUSED = {
    "label_smoothing_factor": LOSS_IS_OURS,
    "label_names": "the models take what the collator returns, and compute their loss from it",
    "remove_unused_columns": "videos only become model inputs in the collator",
    "length_column_name": "clips are grouped by the number of their frames, which the data set knows",
    "sortish_sampler": "the Trainer ignores it. Use --train_sampling_strategy group_by_length",
    "eval_do_concat_batches": "scores are of the whole split, not of its batches",
    "batch_eval_metrics": "scores are of the whole split, not of its batches",
    "eval_use_gather_object": "evaluation gathers tensors",
    "include_for_metrics": "no score here uses inputs or losses",
    "include_num_input_tokens_seen": "it would count pixels",
    "enable_jit_checkpoint": "a checkpoint is saved on SIGTERM anyway",
    "do_predict": "training commands do not translate a split. Use flallm evaluate",
    "accelerator_config": "which process reads which clips is decided here (train_scripts/clips/samplers.py)",
    "parallelism_config": WHOLE_LAYERS,
    "debug": "it fails at the masks of these models. --debug alone shows the traceback behind an error",
    "local_rank": "the launcher, such as torchrun, sets it in the environment",
    "use_liger_kernel": "it has no kernels for these models",
    "liger_kernel_config": "it has no kernels for these models",
}
# The same for variables that `accelerate launch` sets in the environment.
REFUSED_VARIABLES = {"ACCELERATE_USE_PARALLELISM_CONFIG": WHOLE_LAYERS, "ACCELERATE_USE_MEGATRON_LM": WHOLE_LAYERS}

# Values that the Trainer rejects without naming the flag.
CHOICES: dict[str, Any] = {
    "eval_strategy": IntervalStrategy,
    "save_strategy": SaveStrategy,
    "logging_strategy": IntervalStrategy,
    "lr_scheduler_type": SchedulerType,
    "hub_strategy": HubStrategy,
    "optim": OptimizerNames,
}
# Optimisers that build their own parameter groups.
OWN_GROUPS = ("galore", "apollo", "lomo", "adalomo")
WITH_TARGET_MODULES = ("galore", "apollo")
COMPILE_MODES = ("default", "lite", "reduce-overhead", "max-autotune-no-cudagraphs", "max-autotune")
LOWER_IS_BETTER = ("loss", "perplexity", "median_rank", "mapper_loss", "wer")


def check_choices(values: Mapping[str, Any]) -> None:
    """
    Args:
        values: by flag name.

    Raises:
        ValueError: for the first value that its flag does not allow; the message names the flag.
    """
    for name, choices in CHOICES.items():
        known = [choice.value for choice in choices]
        if values[name] is not None and values[name] not in known:
            raise ValueError(f"--{name} must be one of {', '.join(known)}, got {values[name]!r}.")


def check_training_flags(training: Seq2SeqTrainingArguments) -> None:
    """
    Run this before the Trainer's arguments do their own checks.

    Raises:
        ValueError: for a flag that is rejected, or a value that makes no sense in any run; the message names the flag.
    """
    _check_refused(training)
    if training.max_steps != -1 and training.max_steps < 1:
        raise ValueError(f"--max_steps must be 1 or more, or -1 for --num_train_epochs, got {training.max_steps}.")
    if training.dataloader_num_workers == 0:
        for name in (
            "dataloader_persistent_workers",
            "dataloader_prefetch_factor",
            "dataloader_multiprocessing_context",
        ):
            if getattr(training, name):
                raise ValueError(f"--{name} needs --dataloader_num_workers 1 or more.")
    if training.max_frames_per_batch is not None:
        for name in ("dataloader_drop_last", "auto_find_batch_size"):
            if getattr(training, name):
                raise ValueError(f"--{name} has no effect with --max_frames_per_batch. Leave one of them out.")
    strategy, known = training.train_sampling_strategy, training.sampling_strategies
    if strategy not in known:
        raise ValueError(
            f"--train_sampling_strategy must be one of {', '.join(known)} for this command, got {strategy}."
        )
    if training.ddp_backend is not None and "LOCAL_RANK" not in os.environ:
        raise ValueError("--ddp_backend is for several processes: start the command with torchrun, or leave it out.")
    backends = [backend.value.lower() for backend in DynamoBackend]
    if training.torch_compile_backend not in (None, *backends):
        raise ValueError(
            f"--torch_compile_backend must be one of {', '.join(backends)}, got {training.torch_compile_backend!r}."
        )
    if training.torch_compile_mode not in (None, *COMPILE_MODES):
        raise ValueError(
            f"--torch_compile_mode must be one of {', '.join(COMPILE_MODES)}, got {training.torch_compile_mode!r}."
        )
    _check_reports(training)
    _check_evaluation(training)


def complete_flags(training: Seq2SeqTrainingArguments) -> None:
    """
    Run this after the Trainer's arguments have done their own checks.

    Raises:
        ValueError: for an optimiser or schedule that cannot be created; the message names the flag.
    """
    if training.n_gpu > 1:
        training._n_gpu = 1  # more would mean torch's DataParallel, which was never tried with these models
    complete_sharding(training)
    _check_optimizer(training)
    _check_schedule(training)


def num_idle_gpus(training: Seq2SeqTrainingArguments) -> int:
    """GPUs that a run without a launcher leaves idle, because it uses only one."""
    is_alone = training.device.type == "cuda" and training.world_size == 1
    return torch.cuda.device_count() - 1 if is_alone else 0


def _check_refused(training: Seq2SeqTrainingArguments) -> None:
    for name, needed in training.fixed_flags.items():
        value = _plain(getattr(training, name))
        if value != needed:
            raise ValueError(f"--{name} must be {needed} for this command, got {value}.")
    defaults = {field.name: _default(field) for field in dataclasses.fields(Seq2SeqTrainingArguments)}
    for name in training.idle_flags:
        if name not in defaults and getattr(training, name) != _default(type(training).__dataclass_fields__[name]):
            raise ValueError(f"--{name} has no effect with this command. Leave it out.")
    # argparse turns the default of the last one, "no", into False, and that of a list into None.
    defaults |= {"remove_unused_columns": False, "include_num_input_tokens_seen": False}
    for name, reason in REFUSED.items():  # not all versions of transformers have all of them
        if name in defaults and getattr(training, name) not in (defaults[name], "no", [], None):
            raise ValueError(f"--{name} does not work with this command: {reason}.")
    for name, reason in REFUSED_VARIABLES.items():
        if is_set(name):
            raise ValueError(f"{name} is set in the environment by `accelerate launch`: {reason}.")


def _default(field: dataclasses.Field) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _plain(value: Any) -> Any:
    return getattr(value, "value", value)


def _check_reports(training: Seq2SeqTrainingArguments) -> None:
    wanted = training.report_to or []
    for name in [wanted] if isinstance(wanted, str) else wanted:
        if name in ("none", "all"):
            continue
        if name not in INTEGRATION_TO_CALLBACK:
            known = ", ".join(sorted(INTEGRATION_TO_CALLBACK))
            raise ValueError(f"--report_to must be none, all or of {known}, got {name!r}.")
        if name not in get_available_reporting_integrations():
            raise ValueError(f"--report_to {name} needs a package that is not installed. Install it, or leave it out.")


def _check_evaluation(training: Seq2SeqTrainingArguments) -> None:
    is_evaluated = _plain(training.eval_strategy) != "no"
    score = (training.metric_for_best_model or "loss").removeprefix("eval_")
    chooses = training.load_best_model_at_end or training.early_stopping_patience is not None
    chooses |= _plain(training.save_strategy) == "best"
    if training.early_stopping_patience is not None and not is_evaluated:
        raise ValueError("--early_stopping_patience needs evaluations: set --eval_strategy to steps or epoch.")
    if not is_evaluated and _plain(training.save_strategy) == "best":
        raise ValueError("--save_strategy best needs evaluations: set --eval_strategy to steps or epoch.")
    if training.load_best_model_at_end:
        _check_that_the_best_is_saved(training)
    if training.greater_is_better is not None and chooses:
        if training.greater_is_better == (score in LOWER_IS_BETTER):
            better = "less" if score in LOWER_IS_BETTER else "more"
            raise ValueError(
                f"--greater_is_better {training.greater_is_better} would choose the worst checkpoint: for {score}, "
                f"{better} is better. Leave the flag out."
            )
    elif training.greater_is_better is None and training.metric_for_best_model is not None:
        training.greater_is_better = score not in LOWER_IS_BETTER
    losses_only = training.prediction_loss_only or training.needs_generation and not training.predict_with_generate
    if losses_only and chooses and score != "loss":
        flag = "prediction_loss_only True" if training.prediction_loss_only else "predict_with_generate False"
        raise ValueError(
            f"--{flag} leaves the loss as the only score, but --metric_for_best_model is {score}. Set it to loss, or "
            "leave the first flag out."
        )
    check_steps(training, training.max_steps if training.max_steps > 0 else None)


def _check_that_the_best_is_saved(training: Seq2SeqTrainingArguments) -> None:
    evaluated, saved = _plain(training.eval_strategy), _plain(training.save_strategy)
    advice = "Set --load_best_model_at_end False to end with the last one."
    if saved != "best" and evaluated != saved:
        raise ValueError(
            "The best checkpoint must be saved when it is evaluated: --eval_strategy and --save_strategy must be the "
            f"same, got {evaluated} and {saved}. {advice}"
        )
    evaluate_each = training.eval_steps or training.logging_steps
    if saved == evaluated == "steps" and not _is_multiple(training.save_steps, evaluate_each):
        raise ValueError(
            f"--save_steps must be a multiple of --eval_steps, got {training.save_steps:g} and {evaluate_each:g}. "
            f"{advice}"
        )


def _is_multiple(number: float, of: float) -> bool:
    """Whether a number is a multiple of another one; both are counts of steps, or both shares of the run."""
    return (number < 1) == (of < 1) and math.isclose(number / of, round(number / of)) and round(number / of) >= 1


def check_steps(training: Seq2SeqTrainingArguments, num_steps: float | None) -> None:
    """
    Raises:
        ValueError: if a run of this many steps contains none of the evaluations or checkpoints that choose the best one
            (`None`: the number is not known yet).
    """
    chooses = training.load_best_model_at_end or training.early_stopping_patience is not None
    for kind, flag in (("eval", "evaluation"), ("save", "checkpoint")):
        steps = getattr(training, f"{kind}_steps") or training.logging_steps
        is_by_steps = _plain(getattr(training, f"{kind}_strategy")) == "steps"
        if is_by_steps and (chooses or kind == "eval") and num_steps is not None and steps > num_steps:
            raise ValueError(
                f"--{kind}_steps {steps:g} is more than the {num_steps} steps of the run, which would have no {flag}."
            )
    delay = training.eval_delay
    if _plain(training.eval_strategy) == "steps" and num_steps is not None and delay > num_steps:
        raise ValueError(f"--eval_delay {delay:g} leaves none of the {num_steps} steps for an evaluation.")
    is_by_epochs = _plain(training.eval_strategy) == "epoch" and training.max_steps <= 0
    if is_by_epochs and delay > math.ceil(training.num_train_epochs):
        raise ValueError(
            f"--eval_delay {delay:g} leaves none of the {training.num_train_epochs:g} epochs for an evaluation."
        )


def _check_optimizer(training: Seq2SeqTrainingArguments) -> None:
    name = _plain(training.optim)
    if training.optim_target_modules is not None and not name.startswith(WITH_TARGET_MODULES):
        raise ValueError(f"--optim_target_modules is for GaLore and APOLLO; --optim {name} applies to all weights.")
    if name.startswith(OWN_GROUPS):
        for flag in ("adapter_learning_rate", "bias_learning_rate"):
            if getattr(training, flag) is not None:
                raise ValueError(f"--{flag} cannot be combined with --optim {name}: it has one rate for all weights.")
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    try:
        optimizer_class, values = Trainer.get_optimizer_cls_and_kwargs(training, model)
        if inspect.isclass(optimizer_class) and not name.startswith(OWN_GROUPS):
            optimizer_class(model.parameters(), **values)
    except (ImportError, ValueError, TypeError, RuntimeError, NotImplementedError) as error:
        if str(error).startswith("No target modules found"):  # in the dummy layer; the model itself is checked later
            return
        flag = f"--optim {name}" + (f" with --optim_args {training.optim_args}" if training.optim_args else "")
        raise ValueError(f"{flag} cannot be used: {error}") from error


def _check_schedule(training: Seq2SeqTrainingArguments) -> None:
    name = _plain(training.lr_scheduler_type)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=training.learning_rate)
    values = training.lr_scheduler_kwargs
    try:
        if not isinstance(values or {}, dict):
            raise TypeError('it must be JSON, such as {"num_cycles": 2}')
        get_scheduler(name, optimizer, 0, max(training.max_steps, 1), scheduler_specific_kwargs=dict(values or {}))
    except (TypeError, ValueError) as error:
        flag = f"--lr_scheduler_type {name}" + (f" with --lr_scheduler_kwargs {values}" if values else "")
        needs = "" if values else " Set --lr_scheduler_kwargs."
        raise ValueError(f"{flag} cannot be used: {error}.{needs}") from error
