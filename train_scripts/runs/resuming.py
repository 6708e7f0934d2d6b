"""Resuming a run from a checkpoint: what it must contain, what is reported, and what a run monitors meanwhile."""

import contextlib
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import EarlyStoppingCallback, TrainerCallback, TrainerState
from transformers.trainer_utils import get_last_checkpoint

from ..arguments.training_arguments import FLaLLMTrainingArguments, check_output_folder
from ..arguments.training_flags import check_steps
from .damaged_models import damage_in

ARGUMENTS_FILE = "training_arguments.json"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")
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
        if args.should_save:
            Path(args.output_dir).mkdir(parents=True, exist_ok=True)

    def on_step_end(self, args, state, control, **kwargs):
        folder = Path(args.output_dir)
        if args.should_save and not folder.is_dir():
            self.faults.append(
                f"--output_dir {folder} was deleted during training, at step {state.global_step}. Earlier checkpoints "
                "and logs are lost."
            )
            print(f"warning: {self.faults[-1]} Training continues, and saves what follows.", flush=True)
            folder.mkdir(parents=True)


def check_run(training: FLaLLMTrainingArguments) -> None:
    """
    Call this before any data is loaded.

    Raises:
        ValueError: as in `check_output_folder`, `checkpoint_to_resume` and `check_checkpoint`.
    """
    check_output_folder(training)
    checkpoint = checkpoint_to_resume(training)
    if checkpoint is not None:
        check_checkpoint(Path(checkpoint), training.world_size)


def checkpoint_to_resume(training: FLaLLMTrainingArguments) -> str | None:
    """
    `--resume_from_checkpoint last` (or True) means the newest checkpoint of the output folder; anything else is a path.

    Raises:
        ValueError: if there is none.
    """
    wanted = training.resume_from_checkpoint
    if wanted is None or wanted not in ("last", "True", "true"):
        if wanted is not None and not Path(wanted).is_dir():
            raise ValueError(f"--resume_from_checkpoint {wanted} is not a folder. Use 'last' for the newest one.")
        return wanted
    checkpoint = get_last_checkpoint(training.output_dir) if Path(training.output_dir).is_dir() else None
    if checkpoint is None:
        raise ValueError(f"--resume_from_checkpoint: {training.output_dir} holds no checkpoint.")
    return checkpoint


def check_checkpoint(folder: Path, num_processes: int = 1) -> None:
    """
    Check that everything a run needs to continue as if it had never stopped is there and can be read.

    Raises:
        ValueError: if not; it names the file, and says what to do.
    """
    advice = (
        "A run cannot resume from there as if it had not stopped. Name an earlier checkpoint with "
        "--resume_from_checkpoint, or train again in another folder."
    )
    states = [f"rng_state_{index}.pth" for index in range(num_processes)] if num_processes > 1 else ["rng_state.pth"]
    if not any((folder / name).is_file() for name in WEIGHTS):
        raise ValueError(f"{folder} has no {WEIGHTS[0]}. {advice}")
    for name in ("trainer_state.json", "optimizer.pt", "scheduler.pt", *states):
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name} is missing{_why_missing(folder, name)}. {advice}")
    damage = damage_in(folder)
    if damage is not None:
        raise ValueError(f"{damage.partition('. Copy or download')[0]}. {advice}")
    for name in ("optimizer.pt", "scheduler.pt", *states):
        reason = _damage_of_archive(folder / name)
        if reason is not None:
            raise ValueError(f"{folder / name} is damaged ({reason}). {advice}")
    try:
        state = TrainerState.load_from_json(str(folder / "trainer_state.json"))
        is_whole = type(state.global_step) is int and state.global_step > 0
    except (TypeError, ValueError, AttributeError):
        is_whole = False
    if not is_whole:
        raise ValueError(f"{folder / 'trainer_state.json'} is damaged (it does not describe a training). {advice}")


def _why_missing(folder: Path, name: str) -> str:
    if name.startswith("rng_state") and any(folder.glob("rng_state*")):
        return " (the checkpoint is from a run with a different number of processes)"
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
    path = checkpoint / ARGUMENTS_FILE
    if not path.is_file():
        return []
    before, now = json.loads(path.read_text(encoding="utf-8")), json.loads(json.dumps(settings))
    return [
        f"{name}: {before[name]} -> {value}"
        for name, value in now.items()
        if name in before and name not in NOT_COMPARED and before[name] != value
    ]
