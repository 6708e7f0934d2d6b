"""The Trainer of every stage, on text alone or on clips: whole checkpoints, and an end that loses nothing."""

import contextlib
import math
import os
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.data_loader import BatchSamplerShard, prepare_data_loader
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, IntervalStrategy, TrainOutput, has_length

from ..arguments.command_line import Terminated
from ..clips.samplers import ShareOfBatches
from ..machine.atomic_files import write_json
from .other_processes import ARGUMENTS_FILE, NUM_PROCESSES
from .resuming import (
    LAST_FILE,
    StopOnSigterm,
    WatchRun,
    changed_settings,
    num_evaluations_without_better,
    reading_checkpoint,
)
from .sharded_models import (
    as_saved,
    choose_what_fsdp_gathers,
    embeddings_with_the_rest,
    end_sharding,
    holds_parts,
    load_optimizer_state,
    load_weights,
    make_vectors_of_numbers,
    of_its_own_class,
    optimizer_state,
    whole_parameters,
)

# Of a DataLoader, besides what is read in which order.
HOW_IT_LOADS = (
    "collate_fn",
    "num_workers",
    "pin_memory",
    "worker_init_fn",
    "multiprocessing_context",
    "prefetch_factor",
    "persistent_workers",
    "in_order",
)


@contextlib.contextmanager
def random_numbers_kept() -> Iterator[None]:
    """Python's, NumPy's and torch's go on afterwards as if nothing had been drawn inside."""
    states = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


class EvaluateWhatIsDue(TrainerCallback):
    """
    A checkpoint is saved before the evaluation at the end of its epoch, or, on SIGTERM, in place of the evaluation at
    its step. A run that resumes from there makes up for it.
    """

    def __init__(self, trainer: "TextTrainer"):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        if state.global_step > 0 and self._is_due(args, state):
            self.trainer._determine_best_metric(self.trainer.evaluate(), trial=None)

    def _is_due(self, args: TrainingArguments, state: TrainerState) -> bool:
        if args.eval_strategy == IntervalStrategy.EPOCH:
            is_due = math.isclose(state.epoch, round(state.epoch)) and args.eval_delay <= state.epoch
        elif args.eval_strategy == IntervalStrategy.STEPS:
            is_due = state.global_step % state.eval_steps == 0 and args.eval_delay <= state.global_step
        else:
            is_due = False
        rows = [row for row in state.log_history if row["step"] == state.global_step]
        return is_due and not any(name.startswith("eval_") for row in rows for name in row)


class TextTrainer(Trainer):
    """
    Trainer whose evaluation uses every row, which only resumes from complete checkpoints, reports changed settings,
    saves no pickled arguments, ends with `Terminated` and a checkpoint after SIGTERM, and with an error for what
    callbacks note in `faults`, once all is saved.
    """

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        choose_what_fsdp_gathers(self)
        self._numbers = make_vectors_of_numbers(self)
        self.faults: list[str] = []
        self.add_callback(WatchRun(self.faults))
        self._sigterm = StopOnSigterm()
        self.add_callback(self._sigterm)
        self.add_callback(EvaluateWhatIsDue(self))

    def settings(self) -> dict[str, Any]:
        """All arguments of the run. Paths are reduced to their last part, because they are included in a push."""
        settings = {name: _last_name_of_path(value) for name, value in self.args.to_dict().items()}
        return settings | {NUM_PROCESSES: self.args.world_size}

    def raise_faults(self) -> None:
        """
        Raises:
            ValueError: if files of the run were deleted while it ran, or its model has collapsed.
        """
        if self.faults:
            raise ValueError(" ".join([*self.faults, f"What was trained is saved in {self.args.output_dir}."]))

    def get_train_dataloader(self) -> DataLoader:
        """What does not divide evenly is shared out: accelerate would fill up the last batch with the first rows."""
        loader = super().get_train_dataloader()
        shards = loader.batch_sampler
        if not isinstance(shards, BatchSamplerShard) or self.args.dataloader_drop_last:
            return loader
        processes = self.args.world_size, self.args.process_index
        share = ShareOfBatches(shards.batch_sampler.sampler, self._train_batch_size, *processes)
        alike = {name: getattr(loader, name) for name in HOW_IT_LOADS}
        loader = DataLoader(loader.dataset, batch_sampler=share, **alike)
        return prepare_data_loader(loader, self.args.device, num_processes=1, process_index=0, put_on_device=True)

    def get_eval_dataloader(self, *arguments: Any, **options: Any) -> DataLoader:
        return self._whole(super().get_eval_dataloader, *arguments, **options)

    def get_test_dataloader(self, *arguments: Any, **options: Any) -> DataLoader:
        return self._whole(super().get_test_dataloader, *arguments, **options)

    def _whole(self, build: Callable[..., DataLoader], *arguments: Any, **options: Any) -> DataLoader:
        """--dataloader_drop_last is for training: scores cover every row."""
        drop_last = self.args.dataloader_drop_last
        self.args.dataloader_drop_last = False
        try:
            return build(*arguments, **options)
        finally:
            self.args.dataloader_drop_last = drop_last

    def train(self, resume_from_checkpoint: str | None = None, **options: Any) -> TrainOutput:
        if self.args.dataloader_drop_last and has_length(self.train_dataset):
            num_together = self.args.train_batch_size * self.args.world_size
            if len(self.train_dataset) < num_together:
                raise ValueError(
                    f"--dataloader_drop_last True leaves nothing to train on: {len(self.train_dataset)} row(s) do not "
                    f"fill a batch of {num_together}. Lower --per_device_train_batch_size."
                )
        if resume_from_checkpoint is not None and self.is_world_process_zero():
            changed = changed_settings(Path(resume_from_checkpoint), self.settings())
            if changed:
                print(f"Settings that have changed since {resume_from_checkpoint}: {'; '.join(changed)}.", flush=True)
        if resume_from_checkpoint is not None and self._is_stopped(resume_from_checkpoint):
            return self._end_of_stopped_run(resume_from_checkpoint)
        if self.args.should_save:
            self._save_settings(Path(self.args.output_dir))
        # Of the few sentences of a batch, waking the other threads of a tokenizer takes longer than tokenising them.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        output = super().train(resume_from_checkpoint=resume_from_checkpoint, **options)
        if self._sigterm.is_stopped:
            raise Terminated
        return output

    def evaluate(self, *arguments: Any, **options: Any) -> dict[str, float]:
        """Leaves the random numbers of the training alone: it may resume from a checkpoint before the evaluation."""
        with random_numbers_kept(), whole_parameters(self):
            return super().evaluate(*arguments, **options)

    def _save_settings(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / ARGUMENTS_FILE, self.settings(), ensure_ascii=True)

    def _is_stopped(self, checkpoint: str) -> bool:
        """Whether early stopping had ended the run at this checkpoint: the Trainer would train for one more step."""
        patience = getattr(self.args, "early_stopping_patience", None)
        state = TrainerState.load_from_json(str(Path(checkpoint) / LAST_FILE))
        return patience is not None and num_evaluations_without_better(state) >= patience

    def _end_of_stopped_run(self, checkpoint: str) -> TrainOutput:
        print(f"Early stopping has ended this run at {checkpoint}. Raise --early_stopping_patience to train on.")
        self.state = TrainerState.load_from_json(str(Path(checkpoint) / LAST_FILE))
        if holds_parts(self):
            end_sharding(self, self.model, self._numbers)
        self._load_from_checkpoint(checkpoint)
        if self.args.load_best_model_at_end:
            self._load_best_model()
        return TrainOutput(self.state.global_step, 0.0, {"train_runtime": 0.0})

    def _prepare_for_training(self, *arguments: Any, **options: Any) -> tuple[torch.nn.Module, DataLoader]:
        with embeddings_with_the_rest(self.model) if self.is_fsdp_enabled else contextlib.nullcontext():
            return super()._prepare_for_training(*arguments, **options)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        with reading_checkpoint(resume_from_checkpoint, "model.safetensors"):
            if self.is_fsdp_enabled:
                self._issue_warnings_after_load(load_weights(self.model, Path(resume_from_checkpoint)))
            else:
                super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Of FSDP in the same files as without: transformers' own saves the weights a second time."""
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        state = optimizer_state(self)
        if self.args.should_save:
            torch.save(state, Path(output_dir) / "optimizer.pt")
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / "scheduler.pt")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with reading_checkpoint(checkpoint or "", "optimizer.pt"):
            if not self.is_fsdp_enabled or checkpoint is None:
                super()._load_optimizer_and_scheduler(checkpoint)
                return
            load_optimizer_state(self, Path(checkpoint) / "optimizer.pt")
            self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / "scheduler.pt", weights_only=True))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with reading_checkpoint(checkpoint or "", "rng_state.pth"):
            super()._load_rng_state(checkpoint)

    def _load_best_model(self) -> None:
        best = Path(self.state.best_model_checkpoint)
        if best.is_dir() and self.is_fsdp_enabled:
            self._load_from_checkpoint(str(best))
        elif best.is_dir():
            with reading_checkpoint(best, "model.safetensors"):
                super()._load_best_model()
        else:
            self.faults.append(f"The best checkpoint, {best}, is gone: the saved model is that of the last step.")

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """
        Tied embeddings are one weight with two names, saved under one: it is correct that the other is missing.

        Raises:
            ValueError: if other weights are missing, or there are some that the model does not have.
        """
        model = self.accelerator.unwrap_model(self.model)
        known = {*model.all_tied_weights_keys, *(model._keys_to_ignore_on_save or ())}
        missing = [name for name in load_result.missing_keys if name not in known]
        unexpected = list(load_result.unexpected_keys)
        if missing or unexpected:
            kind, names = ("lacks", missing) if missing else ("has weights that the model has not:", unexpected)
            raise ValueError(f"it {kind} {names[0]}" + (f" and {len(names) - 1} more" if names[1:] else ""))

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        if state_dict:
            state_dict = as_saved(state_dict, self.accelerator.unwrap_model(self.model), self._numbers)
        with of_its_own_class(self.model), self._names_for(Path(output_dir or self.args.output_dir)):
            super()._save(output_dir, state_dict)
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle, of no use to anyone who loads the model
            self._save_settings(folder)

    @contextlib.contextmanager
    def _names_for(self, folder: Path) -> Iterator[None]:
        """
        transformers saves the weights of some models (such as ViT) under names of earlier versions, which
        `from_pretrained` understands, but not the Trainer: it would leave a checkpoint's weights out.
        """
        model = self.accelerator.unwrap_model(self.model)
        if not folder.name.startswith(PREFIX_CHECKPOINT_DIR) or not isinstance(model, PreTrainedModel):
            yield
            return
        model.save_pretrained = partial(model.save_pretrained, save_original_format=False)
        try:
            yield
        finally:
            del model.save_pretrained


def _last_name_of_path(value: Any) -> Any:
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
