"""Arguments of a training run: our flags and defaults on top of all those of transformers' Trainer."""

import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import PartialState
from transformers import Seq2SeqTrainingArguments

from ..machine.machine import computes_in_bfloat16, default_device, num_loading_processes
from .data_arguments import AugmentationArguments, DataArguments, VideoArguments
from .flag_values import check_flags, check_license
from .sharding_flags import by_deepspeed, check_sharding, is_sharded
from .training_defaults import TrainingDefaults
from .training_flags import check_choices, check_training_flags, complete_flags


@dataclass
class FLaLLMTrainingArguments(TrainingDefaults, Seq2SeqTrainingArguments):
    """The Trainer's arguments, with the defaults and the additional flags of `TrainingDefaults`."""

    def __post_init__(self):
        if self.output_dir is None:
            raise ValueError("`--output_dir` must name a new or empty folder.")
        check_choices(vars(self))
        if self.hub_strategy != "end":
            raise ValueError(
                "--hub_strategy must be end: the others upload all of --output_dir during training, including its logs "
                "and the optimizer's state."
            )
        check_license("model_license", self.model_license, "apache-2.0, cc-by-nc-4.0 or other")
        if isinstance(self.generation_config, Path):
            self.generation_config = str(self.generation_config)  # a Path cannot be saved as JSON
        device = default_device(self.use_cpu)
        check_sharding(self, device)
        if self.bf16 is None:
            self.bf16 = not self.fp16 and not by_deepspeed(self) and computes_in_bfloat16(device)
        if self.dataloader_num_workers is None:
            self.dataloader_num_workers = num_loading_processes(device)
        if not torch.accelerator.is_available():
            self.dataloader_pin_memory = False  # otherwise torch warns that there is nothing to pin it for
            # Otherwise the Trainer rejects bf16, and of several processes each would train alone.
            self.use_cpu = not is_sharded(self)
        check_flags(vars(self))
        check_training_flags(self)
        self._meet_other_processes()
        try:
            super().__post_init__()
        except (ImportError, KeyError, NotImplementedError, TypeError) as error:
            raise ValueError(f"transformers rejects a flag: {error}") from error
        complete_flags(self)

    def _meet_other_processes(self) -> None:
        """On CPUs the Trainer would forget `--ddp_timeout`: a frozen process would hold up the others for long."""
        if self.use_cpu and int(os.environ.get("WORLD_SIZE", 1)) > 1:
            PartialState(cpu=True, timeout=timedelta(seconds=self.ddp_timeout))


# For every stage that learns from videos, after its own.
TRAINING_ARGUMENTS = (DataArguments, VideoArguments, AugmentationArguments, FLaLLMTrainingArguments)
