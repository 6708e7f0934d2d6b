"""Two CPU processes give the loss curve and the scores of one process at the same global batch."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_corpus import corpus, flags, stage1_flags, stage2_flags, trained_model
from two_processes import command_in_two_processes

from train_scripts.commands import evaluate_model
from train_scripts.stages import llm_fine_tuning, visual_initialing

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[1]
# Of plain gradient descent for stage 1: Adam's first steps are signs of gradients, also of those that are 0 but for
# rounding, and in so small a network BatchNorm makes much of little.
STAGE_1 = {"light_dropout": 0, "optim": "sgd", "learning_rate": 0.02, "adapter_learning_rate": 0.04}
# It starts its processes by torchrun. `--cpu --num_processes 2` would start one process; with `--use_cpu True` for the
# script no GPU is used here either.
ACCELERATE = [
    "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
    "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "-m",
]  # fmt: skip
GLOBAL_BATCH_SIZE = 4
# Where there is nothing but CPUs, nobody needs to say so.
HAS_ACCELERATOR = torch.accelerator.is_available()
VALUES = {
    "num_train_epochs": 3,
    "learning_rate": 0.003,
    "adapter_learning_rate": 0.006,
    "word_presence_loss_weight": 1.0,
    "label_smoothing": 0.1,
    "save_strategy": "no",
    "load_best_model_at_end": False,
    "generation_num_beams": 1,
    "speed": 0.2,
    "brightness": 0.2,
    "rotation_degrees": 10,
    "max_evaluation_clips": 5,
    "per_device_eval_batch_size": 2,
    "eval_on_start": True,  # of the same weights: after steps that differ by rounding, another word may win
}


def eleven_clips(folder: Path) -> Path:
    """The tiny corpus without its last training clip: neither batches nor processes divide the others evenly."""
    shutil.copytree(corpus(), folder)
    table = folder / "train" / "metadata.csv"
    lines = table.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + 12
    table.write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")
    return folder


def run_in_two_processes(launcher: list[str] | None, module: str, arguments: list[str]) -> None:
    """Without a launcher, in processes that need not import everything."""
    if launcher is None:
        command_in_two_processes(module, arguments)
        return
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, f"train_scripts.{module}", *arguments]
    finished = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert finished.returncode == 0, finished.stdout[-3000:] + finished.stderr[-6000:]


def logged(folder: Path) -> tuple[list[float], list[dict[str, float]]]:
    """
    Losses of the steps, and the scores of each evaluation. Its loss is left out: the Trainer takes the mean of the
    means of batches, which depends on how the clips are batched.
    """
    state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    losses = [row["loss"] for row in state["log_history"] if "loss" in row]
    others = ("eval_loss", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second")
    evaluations = [
        {name: value for name, value in row.items() if name.startswith("eval_") and name not in others}
        for row in state["log_history"]
        if "eval_bleu4" in row
    ]
    return losses, evaluations


@pytest.mark.parametrize(
    ("launcher", "module", "train", "make_flags", "values"),
    [
        pytest.param(
            None, "stages.visual_initialing", visual_initialing.train, stage1_flags, STAGE_1, id="stage 1",
        ),
        pytest.param(
            None, "stages.llm_fine_tuning", llm_fine_tuning.train, stage2_flags, {"use_cpu": HAS_ACCELERATOR},
            id="stage 2",
        ),
        pytest.param(
            ACCELERATE, "stages.llm_fine_tuning", llm_fine_tuning.train, stage2_flags,
            {"lora": True, "lora_dropout": 0}, id="stage 2 with LoRA by accelerate",
        ),
    ],
)  # fmt: skip
def test_two_processes_train_as_one(
    launcher: list[str] | None, module: str, train: Callable, make_flags: Callable, values: dict, tmp_path
):
    values = {**VALUES, **values, "dataset": eleven_clips(tmp_path / "corpus")}
    values["generation_config"] = trained_model()  # at least six tokens, so that there are scores
    for name, batch_size in (("one", GLOBAL_BATCH_SIZE), ("two", GLOBAL_BATCH_SIZE // 2)):
        arguments = make_flags(tmp_path / name, **values, per_device_train_batch_size=batch_size)
        if name == "one":
            train(arguments)
        else:
            run_in_two_processes(launcher, module, arguments)
    losses, evaluations = logged(tmp_path / "one")
    other_losses, other_evaluations = logged(tmp_path / "two")
    assert len(losses) == 9 and sum(losses[-3:]) < sum(losses[:3])  # 11 clips in batches of 4, 3 epochs
    # Sums in another order differ by rounding, which BatchNorm amplifies from step to step.
    assert other_losses[:2] == pytest.approx(losses[:2], rel=1e-4)
    assert other_losses[2:] == pytest.approx(losses[2:], rel=1e-2)
    assert len(evaluations) == len(other_evaluations) == 5 and other_evaluations[0] == evaluations[0]
    if "lora" not in values:  # the Trainer does not pass --generation_config to a model inside a peft model
        assert evaluations[-1]["eval_chrf"] > 0
    assert {path.name for path in (tmp_path / "one").iterdir()} == {path.name for path in (tmp_path / "two").iterdir()}
    state = json.loads((tmp_path / "two" / "trainer_state.json").read_text(encoding="utf-8"))
    assert state["global_step"] == 9 and state["train_batch_size"] == GLOBAL_BATCH_SIZE // 2


@pytest.mark.parametrize(("num_clips", "candidates"), [(5, {"num_candidates": 3, "num_beams": 3}), (1, {})])
def test_two_processes_evaluate_as_one(num_clips, candidates, tmp_path):
    values = {
        **candidates,
        "model": trained_model(),
        "dataset": corpus(),
        "max_clips": num_clips,
        "batch_size": 2,
        **({"device": "cpu"} if HAS_ACCELERATOR else {}),
        "disable_tqdm": True,
    }
    assert evaluate_model.main(flags(**values, output_dir=tmp_path / "one")) == 0
    command_in_two_processes("commands.evaluate_model", flags(**values, output_dir=tmp_path / "two"))
    for name in ("scores.json", "predictions.jsonl"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert len((tmp_path / "one" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()) == num_clips
