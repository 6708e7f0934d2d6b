"""The examples for clusters: the shell reads them, they go on after a signal, and their flags are those of a stage."""

import os
import re
import signal
import subprocess
import time
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DeepSpeedPlugin
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

from train_scripts.__main__ import find_command
from train_scripts.arguments.commands import COMMANDS
from train_scripts.arguments.sharding_flags import complete_sharding
from train_scripts.arguments.training_arguments import FLaLLMTrainingArguments

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SLURM, KUBERNETES = CONFIGS / "slurm_train.sh", CONFIGS / "kubernetes_train.yaml"


@pytest.fixture
def cluster(tmp_path, monkeypatch) -> Path:
    """A folder of programs in place of Slurm's, which write down how they are called; `srun` runs until a signal."""
    folder = tmp_path / "bin"
    folder.mkdir()
    calls = tmp_path / "calls"
    programs = {
        "scontrol": f'echo "scontrol $*" >> {calls}\n[ "$1" = show ] && printf "node1\\nnode2\\n" || true',
        "srun": f"""trap 'echo saved >> {calls}; exit 1' TERM
echo "srun $*" >> {calls}
[ -n "$ENDS_BY_ITSELF" ] && exit 0
while true; do sleep 0.05; done""",
    }
    for name, program in programs.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{program}\n", encoding="utf-8")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    for name, value in (("JOB_NODELIST", "node[1-2]"), ("NNODES", "2"), ("GPUS_ON_NODE", "4"), ("JOB_ID", "7")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    return calls


TRAINING = (
    "srun torchrun --nnodes 2 --nproc_per_node 4 --rdzv_id 7 --rdzv_backend c10d --rdzv_endpoint node1:29500 "
    "-m train_scripts train visual-initialing --output_dir my run --resume_from_checkpoint auto"
)


def start() -> subprocess.Popen:
    return subprocess.Popen(["bash", str(SLURM), "visual-initialing", "--output_dir", "my run"])


def test_a_job_of_slurm_that_ends_by_itself_is_not_queued_again(cluster, monkeypatch):
    monkeypatch.setenv("ENDS_BY_ITSELF", "1")
    assert start().wait(30) == 0
    assert cluster.read_text().splitlines() == ["scontrol show hostnames node[1-2]", TRAINING]


def test_a_job_of_slurm_that_is_ended_saves_and_is_queued_again(cluster):
    job = start()
    deadline = time.monotonic() + 30
    while not (cluster.is_file() and TRAINING in cluster.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)
    assert job.wait(30) == 1
    assert cluster.read_text().splitlines()[2:] == ["saved", "scontrol requeue 7"]


def test_the_job_of_kubernetes_is_whole_and_its_flags_exist():
    job = yaml.safe_load(KUBERNETES.read_text(encoding="utf-8"))
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert (job["kind"], pod["restartPolicy"]) == ("Job", "OnFailure")
    seconds = int(next(each["value"] for each in container["env"] if each["name"] == "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"))
    assert seconds < pod["terminationGracePeriodSeconds"]
    assert {each["name"] for each in container["volumeMounts"]} == {each["name"] for each in pod["volumes"]}
    _, arguments = container["args"][0].split(" -m train_scripts train visual-initialing ")
    *_, training = COMMANDS["train visual-initialing"].parse(arguments.split(), FLaLLMTrainingArguments)
    assert training.resume_from_checkpoint == "auto"


def test_the_grace_of_slurm_is_longer_than_that_of_torchrun():
    text = SLURM.read_text(encoding="utf-8")
    assert int(re.search(r"B:TERM@(\d+)", text)[1]) > int(re.search(r"SHUTDOWN_TIMEOUT=(\d+)", text)[1])


# ------------------------------------------------------------------------------------------ accelerate launch


ACCELERATE = {path.stem: path for path in (CONFIGS / "accelerate").glob("*.yaml")}


def launched(path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Namespace, list[str]]:
    """What `accelerate launch` makes of the command in the first lines of a file: its settings, and what it starts."""
    comments = [line[1:].strip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    text = " ".join(comments).replace("\\", "")
    words = re.search(r"accelerate launch (.*?) \.\.\.", text)[1].split()
    monkeypatch.chdir(CONFIGS.parent)
    arguments = launch_command_parser().parse_args(words)
    load_config_from_file(arguments.config_file)  # raises for keys that it does not know
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    arguments, *_ = _validate_launch_command(arguments)
    return arguments, arguments.training_script_args


def test_there_is_an_example_of_each_way():
    assert ACCELERATE.keys() == {"multi_gpu", "two_machines", "fsdp2", "deepspeed_zero2", "deepspeed_zero3"}


@pytest.mark.parametrize("name", ACCELERATE)
def test_accelerate_reads_its_examples_and_starts_a_training(name, monkeypatch):
    arguments, words = launched(ACCELERATE[name], monkeypatch)
    ways = (arguments.multi_gpu, arguments.use_fsdp, arguments.use_deepspeed)
    assert ways == (name in ("multi_gpu", "two_machines"), name == "fsdp2", name.startswith("deepspeed"))
    assert arguments.module and arguments.training_script == "train_scripts" and arguments.mixed_precision == "no"
    assert arguments.num_processes == 4 * arguments.num_machines == (8 if name == "two_machines" else 4)
    command, rest = find_command(words)
    assert command is not None and rest == []


def test_the_examples_of_sharding_are_what_the_flags_allow(monkeypatch):
    arguments, _ = launched(ACCELERATE["fsdp2"], monkeypatch)
    for name, value in prepare_multi_gpu_env(arguments).items():
        if name.startswith("FSDP_") or name == "ACCELERATE_USE_FSDP":
            monkeypatch.setenv(name, value)
    complete_sharding(SimpleNamespace(fsdp=None, deepspeed=None, fsdp_plugin_args=None))
    assert os.environ["ACCELERATE_USE_FSDP"] == "true" and os.environ["FSDP_VERSION"] == "2"


@pytest.mark.parametrize("stage", [2, 3])
def test_the_examples_of_deepspeed_are_what_the_flags_allow(stage, monkeypatch):
    pytest.importorskip("deepspeed")
    arguments, _ = launched(ACCELERATE[f"deepspeed_zero{stage}"], monkeypatch)
    arguments.deepspeed_fields_from_accelerate_config = ""  # that the launcher collects in between
    _, environment = prepare_deepspeed_cmd_env(arguments)
    for name, value in environment.items():
        if name.startswith("ACCELERATE_"):
            monkeypatch.setenv(name, value)
    plugin = DeepSpeedPlugin()
    assert plugin.zero_stage == stage
    complete_sharding(SimpleNamespace(fsdp=None, deepspeed=None, deepspeed_plugin=plugin, frames_per_chunk=None))
