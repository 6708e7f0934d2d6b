"""
Lets processes on CPUs shard a model as GPUs do, for tests and benchmarks: accelerate shards on accelerators alone.

    torchrun --nproc_per_node 2 benchmarks/sharding_on_cpus.py train visual-initialing --fsdp True ...

The arguments are those of `flallm`. Everything that splits and gathers parameters is what runs on GPUs; the processes
talk through gloo.
"""

import importlib.util
import os
import sys
from unittest import mock

os.environ["DS_ACCELERATOR"] = "cpu"  # read when DeepSpeed is imported

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType

from modeling_flallm import sign_encoder_slt
from train_scripts.__main__ import main
from train_scripts.arguments import sharding_flags


def shard_on_cpus() -> None:
    """From here on, in this process."""
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    patches = [
        mock.patch.object(PartialState, "_prepare_backend", lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)),
        mock.patch.object(sharding_flags, "can_shard", lambda device: True),
        # As many frames at a time as on GPUs: with ZeRO-3, all processes must run each layer equally often.
        mock.patch.object(sign_encoder_slt, "FRAMES_PER_CHUNK_ON_CPU", sys.maxsize),
        # What torch was built for, otherwise: FSDP2 takes the devices of the processes from it.
        mock.patch.object(torch._C, "_get_accelerator", lambda *_: torch.device("cpu")),
    ]
    if importlib.util.find_spec("deepspeed") is not None:  # it would compile an operator for shared memory
        patches.append(mock.patch("deepspeed.comm.torch.build_shm_op", lambda: None))
    for patch in patches:
        patch.start()


if __name__ == "__main__":
    shard_on_cpus()
    sys.exit(main())
