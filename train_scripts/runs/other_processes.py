"""A run goes on with more or fewer processes than it began with: machines are lost, and come back."""

import json
from pathlib import Path
from typing import Any

from ..arguments.training_arguments import FLaLLMTrainingArguments

ARGUMENTS_FILE = "training_arguments.json"
NUM_PROCESSES = "num_processes"


def settings_of(checkpoint: Path) -> dict[str, Any]:
    """
    Those with which it was saved; none of a version that did not keep them.

    Raises:
        ValueError: if they cannot be read.
    """
    path = checkpoint / ARGUMENTS_FILE
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}). Resume from an earlier checkpoint.") from error


def keep_clips_of_a_step(training: FLaLLMTrainingArguments, checkpoint: Path) -> None:
    """
    If the checkpoint was saved by another number of processes, accumulate gradients over more or fewer batches, so that
    each step has as many clips as before: the clips and their order stay the same.

    Raises:
        ValueError: if that cannot be; it says what fits.
    """
    settings, now = settings_of(checkpoint), training.world_size
    before = settings.get(NUM_PROCESSES, now)
    if before == now:
        return
    _check_shares(checkpoint, settings, now)
    in_a_step = before * settings["per_device_train_batch_size"] * settings["gradient_accumulation_steps"]
    num_batches, rest = divmod(in_a_step, now * training.per_device_train_batch_size)
    if rest or not num_batches:
        raise ValueError(
            f"{checkpoint} was trained with {in_a_step} clips in a step, by {before} process(es). {now} process(es) "
            f"with {training.per_device_train_batch_size} clips each cannot make as many. {_advice(in_a_step, now)}"
        )
    if training.process_index == 0:
        print(
            f"The run goes on with {now} process(es) in place of {before}. Gradients of {num_batches} batch(es) make a "
            f"step, which keeps its {in_a_step} clips.",
            flush=True,
        )
    training.gradient_accumulation_steps = num_batches


def _advice(in_a_step: int, now: int) -> str:
    sizes = [str(size) for size in range(1, in_a_step // now + 1) if in_a_step % (now * size) == 0]
    if not sizes:
        return f"Use a number of processes that divides {in_a_step}."
    return f"Pass a --per_device_train_batch_size of {', '.join(sizes)}."


def _check_shares(checkpoint: Path, settings: dict[str, Any], now: int) -> None:
    """
    Raises:
        ValueError: where the number of processes decides which clips each of them reads.
    """
    given = next((name for name in ("max_frames_per_batch", "streaming") if settings.get(name)), None)
    if given is not None:
        raise ValueError(
            f"{checkpoint} was trained by {settings[NUM_PROCESSES]} process(es) with --{given}, which shares out the "
            f"clips by the number of processes. Go on with as many, not with {now}, or train again in another folder."
        )
