"""The examples for clusters: the shell reads them, they go on after a signal, and their flags are those of a stage."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from train_scripts.arguments.commands import COMMANDS
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
