"""
Resuming a run from a checkpoint: what it must contain, what is reported, what a run monitors meanwhile, and how SIGTERM
ends it.
"""

import contextlib
import json
import os
import shutil
import signal
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..arguments.flag_values import GO_ON_IF_POSSIBLE, check_new_folder
from ..arguments.sharding_flags import by_deepspeed
from ..arguments.training_arguments import FLaLLMTrainingArguments
from ..arguments.training_flags import check_steps
from .damaged_models import damage_in
from .other_processes import ARGUMENTS_FILE, NUM_PROCESSES, keep_clips_of_a_step, settings_of

LORA_BASE = "lora_base"
NEWEST = ("last", "True", "true")
LAST_FILE = "trainer_state.json"  # that the Trainer writes into a checkpoint
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")
# What every checkpoint of a run has, if one has it.
ALWAYS = (LAST_FILE, ARGUMENTS_FILE, "config.json", "optimizer.pt", "scheduler.pt", *WEIGHTS)
ADVICE = (
    "A run cannot resume from there as if it had not stopped. Name an earlier checkpoint with "
    "--resume_from_checkpoint, or train again in another folder."
)
# Settings that may differ between the parts of a run without changing what it learns.
NOT_COMPARED = (
    "output_dir", "resume_from_checkpoint", "logging_dir", "run_name", "report_to", "disable_tqdm", "log_level",
    "logging_steps", "dataloader_num_workers", "dataloader_prefetch_factor", "num_threads", "hub_token", "push_to_hub",
    "torch_empty_cache_steps", "save_total_limit", "per_device_eval_batch_size", "model_license", "use_cpu",
)  # fmt: skip


class EarlyStopping(EarlyStoppingCallback):
    """Continues counting where the checkpoint stopped; transformers starts again from 0."""

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        self.early_stopping_patience_counter = num_evaluations_without_better(state)


def num_evaluations_without_better(state: TrainerState) -> int:
    """The count of early stopping when the state was saved."""
    for name in (EarlyStopping.__name__, EarlyStoppingCallback.__name__):  # our earlier versions used the latter
        saved = state.stateful_callbacks.get(name)
        if isinstance(saved, dict) and "attributes" in saved:
            return saved["attributes"].get("early_stopping_patience_counter", 0)
    return 0


class WatchRun(TrainerCallback):
    """Rejects a run whose evaluations never come, and notices when its folder is deleted while it runs."""

    def __init__(self, faults: list[str]):
        self.faults = faults

    def on_train_begin(self, args, state, control, **kwargs):
        check_steps(args, state.max_steps)

    def on_step_end(self, args, state, control, **kwargs):
        folder = Path(args.output_dir)
        if args.should_save and not folder.is_dir():
            self.faults.append(
                f"--output_dir {folder} was deleted during training, at step {state.global_step}. Earlier checkpoints "
                "and logs are lost."
            )
            print(f"warning: {self.faults[-1]} Training continues, and saves what follows.", flush=True)
            folder.mkdir(parents=True)


class StopOnSigterm(TrainerCallback):
    """
    Ends a training on SIGTERM, which schedulers send some time before they end a job, with a checkpoint after the
    current step, in all processes after the same one. A second SIGTERM ends it at once.
    """

    def __init__(self):
        self.is_stopped = False  # of all processes
        self._is_requested = False  # of this one
        self._handler_before: Any = None

    def on_train_begin(self, args, state, control, **kwargs):
        if threading.current_thread() is threading.main_thread():
            self._handler_before = signal.signal(signal.SIGTERM, self._request)

    def _request(self, number: int, frame: Any) -> None:
        self._is_requested = True
        signal.signal(number, self._handler_before)
        os.write(2, b"\nSIGTERM: a checkpoint is saved after this step, then the training ends.\n")

    def _is_requested_of_any(self, args: FLaLLMTrainingArguments) -> bool:
        if args.world_size == 1:
            return self._is_requested
        requested = torch.tensor(int(self._is_requested), device=args.device)
        torch.distributed.all_reduce(requested, torch.distributed.ReduceOp.MAX)
        return bool(requested)

    def on_step_end(self, args, state, control, **kwargs):
        if self._is_requested_of_any(args):
            self.is_stopped = control.should_save = control.should_training_stop = True
            control.should_evaluate = False

    def on_epoch_end(self, args, state, control, **kwargs):
        if self.is_stopped:
            control.should_save = control.should_evaluate = False

    def on_train_end(self, args, state, control, **kwargs):
        if self._handler_before is not None:
            signal.signal(signal.SIGTERM, self._handler_before)


def check_run(training: FLaLLMTrainingArguments) -> None:
    """
    Call this before any data is loaded. `training.resume_from_checkpoint` becomes the folder to resume from, or None.

    Raises:
        ValueError: if the output folder holds files that no run to be resumed has left, if there is no checkpoint to
            resume from, and as in `check_checkpoint`.
    """
    wanted, folder = training.resume_from_checkpoint, Path(training.output_dir)
    is_new = wanted is None or wanted == GO_ON_IF_POSSIBLE and not _holds_a_run(folder)
    # With several processes, the first one checks before it starts to fill the folder.
    if is_new and not _holds_settings_alone(folder) and training.process_index == 0:
        check_new_folder(
            folder, f" To resume the run that wrote it, pass --resume_from_checkpoint {GO_ON_IF_POSSIBLE}."
        )
    if wanted is None:
        return
    if wanted == GO_ON_IF_POSSIBLE or wanted in NEWEST:
        training.resume_from_checkpoint = _newest_whole_checkpoint(training)
    elif Path(wanted).is_dir():
        check_checkpoint(Path(wanted), training.world_size, by_deepspeed(training))
    else:
        raise ValueError(f"--resume_from_checkpoint {wanted} is not a folder. Use 'last' for the newest one.")
    if training.resume_from_checkpoint is not None:
        checkpoint = Path(training.resume_from_checkpoint)
        keep_clips_of_a_step(training, checkpoint)
        if checkpoint.parent == folder and training.process_index == 0:
            delete_what_is_left(checkpoint)


def _holds_settings_alone(folder: Path) -> bool:
    """Whether a training has ended here before it saved anything."""
    return folder.is_dir() and [path.name for path in folder.iterdir()] == [ARGUMENTS_FILE]


def _holds_a_run(folder: Path) -> bool:
    """Whether a training has begun in this folder."""
    return any((folder / name).exists() for name in (ARGUMENTS_FILE, LORA_BASE)) or bool(_checkpoints(folder))


def _checkpoints(folder: Path) -> list[Path]:
    """The newest one first."""
    start = f"{PREFIX_CHECKPOINT_DIR}-"
    paths = [path for path in folder.glob(f"{start}*") if path.name.removeprefix(start).isdecimal()]
    return sorted(paths, key=lambda path: int(path.name.removeprefix(start)), reverse=True)


def _newest_whole_checkpoint(training: FLaLLMTrainingArguments) -> str | None:
    """
    The newest checkpoint that a run can resume from; of those that it cannot, it is told why. None for "auto", if none
    has been written to its end.

    Raises:
        ValueError: if there is none.
    """
    checkpoints = _checkpoints(Path(training.output_dir))
    faults = []
    for checkpoint in checkpoints:
        try:
            check_checkpoint(checkpoint, training.world_size, by_deepspeed(training))
        except ValueError as error:
            faults.append(error)
            continue
        _tell_faults(training, faults, f"The run resumes from {checkpoint}.")
        return str(checkpoint)
    is_any_finished = any(map(_was_finished, checkpoints))
    if training.resume_from_checkpoint == GO_ON_IF_POSSIBLE and not is_any_finished:
        _tell_faults(training, faults, "The run starts from the beginning.")
        return None
    if faults:
        raise faults[0]
    raise ValueError(f"--resume_from_checkpoint: {training.output_dir} holds no checkpoint.")


def _was_finished(checkpoint: Path) -> bool:
    """Whether its last file was written to the end, which the Trainer writes in place."""
    try:
        json.loads((checkpoint / LAST_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def delete_what_is_left(checkpoint: Path) -> None:
    """Older checkpoints beside this one that a kill met while they were deleted: they lack what it has of `ALWAYS`."""
    checkpoints = _checkpoints(checkpoint.parent)
    expected = {name for name in ALWAYS if (checkpoint / name).is_file()}
    for older in checkpoints[checkpoints.index(checkpoint) + 1 :] if checkpoint in checkpoints else ():
        if not all((older / name).is_file() for name in expected):
            shutil.rmtree(older)


def _tell_faults(training: FLaLLMTrainingArguments, faults: list[ValueError], what_then: str) -> None:
    if faults and training.process_index == 0:
        causes = " ".join(str(fault).replace(f" {ADVICE}", "") for fault in faults)
        print(f"warning: {causes} {what_then}", flush=True)


def check_checkpoint(folder: Path, num_processes: int = 1, of_deepspeed: bool = False) -> None:
    """
    Check that everything a run needs to continue as if it had never stopped is there and can be read. DeepSpeed keeps
    the state of the optimizer in files of each process.

    Raises:
        ValueError: if not; it names the file, and says what to do.
    """
    num_saved = settings_of(folder).get(NUM_PROCESSES, num_processes)
    states = [f"rng_state_{index}.pth" for index in range(num_saved)] if num_saved > 1 else ["rng_state.pth"]
    if not any((folder / name).is_file() for name in WEIGHTS):
        raise ValueError(f"{folder} has no {WEIGHTS[0]}. {ADVICE}")
    states = [
        "scheduler.pt",
        *states,
        *(_files_of_deepspeed(folder, num_processes) if of_deepspeed else ["optimizer.pt"]),
    ]
    for name in (LAST_FILE, *states):
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name} is missing{_why_missing(folder, name)}. {ADVICE}")
    damage = damage_in(folder)
    if damage is not None:
        raise ValueError(f"{damage.partition('. Copy or download')[0]}. {ADVICE}")
    for name in states:
        reason = _damage_of_archive(folder / name)
        if reason is not None:
            raise ValueError(f"{folder / name} is damaged ({reason}). {ADVICE}")
    try:
        state = TrainerState.load_from_json(str(folder / LAST_FILE))
        is_whole = type(state.global_step) is int and state.global_step > 0
    except (TypeError, ValueError, AttributeError):
        is_whole = False
    if not is_whole:
        raise ValueError(f"{folder / LAST_FILE} is damaged (it does not describe a training). {ADVICE}")


def _files_of_deepspeed(folder: Path, num_processes: int) -> list[str]:
    """
    Raises:
        ValueError: for a checkpoint of a run without DeepSpeed.
    """
    latest = folder / "latest"
    if not latest.is_file():
        raise ValueError(f"{latest} is missing: the checkpoint is from a run without DeepSpeed. {ADVICE}")
    inner = folder / latest.read_text(encoding="utf-8").strip()
    found = {path.name.split("zero_pp_rank_")[1]: path for path in inner.glob("*zero_pp_rank_*_optim_states.pt")}
    names = [f"{rank}_mp_rank_00_optim_states.pt" for rank in range(num_processes)]
    return [str(found.get(name, inner / f"zero_pp_rank_{name}").relative_to(folder)) for name in names]


def _why_missing(folder: Path, name: str) -> str:
    is_of_process = name.startswith("rng_state") and any(folder.glob("rng_state*"))
    if is_of_process or "zero_pp_rank" in name and any(folder.glob("*/*zero_pp_rank*")):
        return " (the checkpoint is from a run with a different number of processes)"
    if name == "optimizer.pt" and (folder / "latest").is_file():
        return " (the checkpoint is from a run with DeepSpeed)"
    return " (was it saved with --save_only_model True?)" if name == "optimizer.pt" else ""


def _damage_of_archive(path: Path) -> str | None:
    """torch saves a ZIP archive with a checksum of each tensor."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
        return str(error)
    return None if broken is None else f"the checksum of {broken} is wrong"


@contextlib.contextmanager
def reading_checkpoint(folder: str | Path, name: str) -> Iterator[None]:
    """
    Load the file `name` of a checkpoint inside this context.

    Raises:
        ValueError: if its content does not fit the run.
    """
    try:
        yield
    except (ValueError, RuntimeError, KeyError, TypeError, AttributeError, EOFError) as error:
        text = " ".join(str(error).split())
        raise ValueError(
            f"{Path(folder) / name} does not fit this run: {text[:300]}. Resume with the settings that the run began "
            "with, or train again in another folder."
        ) from error


def changed_settings(checkpoint: Path, settings: dict[str, Any]) -> list[str]:
    """
    Settings that were different when the checkpoint was saved, as `name: old -> new`.

    Args:
        settings: those of this run, as in `training_arguments.json`.
    """
    before, now = settings_of(checkpoint), json.loads(json.dumps(settings))
    return [
        f"{name}: {before[name]} -> {value}"
        for name, value in now.items()
        if name in before and name not in NOT_COMPARED and before[name] != value
    ]
