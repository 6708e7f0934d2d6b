"""The quickstart with and without its switches: the page from its figures, and (slow) a tiny end-to-end run."""

import json
import re
import shlex
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.reduction import ForkingPickler
from typing import Any

import pytest
import torch
from benchmark_modules import load_benchmark, read_page
from tiny_models import random_batch, tiny_vision_model
from torch.testing import assert_close
from transformers import TrainingArguments

from modeling_flallm import FLaLLMVisionModel
from train_scripts.machine.machine import computes_in_bfloat16, default_device
from train_scripts.runs import training
from train_scripts.stages import llm_fine_tuning, pretrain_language_model, visual_initialing

STAGES = (pretrain_language_model, visual_initialing, llm_fine_tuning)


class InThisProcess(ThreadPoolExecutor):
    """One task after the other, each of which could be sent to a process: importing would take longer than a task."""

    def __init__(self, count: int, mp_context: Any):
        super().__init__(1)

    def submit(self, function: Callable, *arguments: Any) -> Future:
        ForkingPickler.dumps((function, arguments))
        return super().submit(function, *arguments)


@pytest.fixture(scope="module")
def benchmark():
    return load_benchmark("quickstart")


@pytest.fixture
def switches_end_with_the_test(monkeypatch) -> None:
    """What `switch_off` replaces is put back."""
    for stage in STAGES:
        monkeypatch.setattr(stage, "train", stage.train)
    monkeypatch.setattr(training, "prepare_visual_encoder", training.prepare_visual_encoder)
    monkeypatch.setattr(FLaLLMVisionModel, "_encode_chunk", FLaLLMVisionModel._encode_chunk)
    monkeypatch.setattr(FLaLLMVisionModel, "_encode_frames", FLaLLMVisionModel._encode_frames)
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "")


@pytest.fixture
def switches_off(benchmark, switches_end_with_the_test, monkeypatch):
    """Off until the test ends; -> with what arguments and callbacks each stage's `train` is called."""
    calls = {}
    for stage in STAGES:
        name = stage.__name__.rpartition(".")[2]
        monkeypatch.setattr(
            stage, "train", lambda argv, callbacks=(), name=name: calls.update({name: (argv, callbacks)})
        )
    benchmark.switch_off()
    return calls


def result(benchmark, seconds: tuple[float, float], bleu4: tuple[float, float]) -> dict:
    ways = zip((benchmark.ON, benchmark.OFF), seconds, bleu4, strict=True)
    return {
        way: {"seconds": {"stage 1": time, "stage 2": 2.0}, "bleu4": {"stage 2": score}} for way, time, score in ways
    }


def test_page_holds_exactly_what_its_figures_say(benchmark):
    block, report = read_page(benchmark)
    assert block == benchmark.format_report(report).strip()
    assert len(report["seeds"]) >= 3


def test_report_gives_ratios_of_mean_times_and_scores_of_each_seed(benchmark):
    seeds = {"0": result(benchmark, (2.0, 4.0), (70.0, 60.0)), "4": result(benchmark, (4.0, 12.0), (80.0, 90.0))}
    report = benchmark.format_report({"machine": "an abacus", "sizes": {"num_train_clips": 3}, "seeds": seeds})
    assert "Each in one thread of an abacus; seeds 0, 4:" in report
    assert "    python benchmarks/quickstart.py --num_train_clips 3 --seed 0\n" in report
    assert "| stage 1 | 8 s | 3 s | 2.67 |" in report
    assert "| **all** | 10 s | 5 s | 2.00 |" in report
    assert "| stage 2, switches off | 60.00 | 90.00 | 75.00 |" in report
    assert "| stage 2, as it is | 70.00 | 80.00 | 75.00 |" in report
    assert report.endswith("Faster by, seed by seed: 1.50, 2.33.")


def test_results_of_other_seeds_are_kept_and_of_other_sizes_refused(benchmark, tmp_path, capsys):
    arguments = benchmark.BenchmarkArguments(output_dir=str(tmp_path))
    results = benchmark.kept_results(arguments)
    results["seeds"]["7"] = result(benchmark, (1.0, 2.0), (1.0, 1.0))
    (tmp_path / "results.json").write_text(json.dumps(results))
    arguments.seed = 8
    assert benchmark.kept_results(arguments) == results
    assert benchmark.main(["--output_dir", str(tmp_path), "--stage1_epochs", "5"]) == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path} holds results of --stage1_epochs {arguments.stage1_epochs}. Pass these, or name another "
        "folder.\n"
    )
    assert json.loads((tmp_path / "results.json").read_text()) == results


def test_nothing_to_report_is_said(benchmark, tmp_path, capsys):
    assert benchmark.main(["--output_dir", str(tmp_path), "--report_only", "True"]) == 2
    assert "holds no results. Run without --report_only first." in capsys.readouterr().err


def test_every_stage_gets_its_flags_behind_the_others(switches_off):
    for stage in STAGES:
        stage.train(["--seed", "3"], ["a callback"])
    without = ["--seed", "3", "--bf16", "False", "--optim", "adamw_torch"]
    assert switches_off == {
        "pretrain_language_model": (without, ["a callback"]),
        "visual_initialing": ([*without, "--keep_decoded_videos", "False"], ["a callback"]),
        "llm_fine_tuning": ([*without, "--keep_decoded_videos", "False"], ["a callback"]),
    }


def test_switches_change_how_the_encoder_works_but_not_what_it_says(request):
    batch = random_batch([7, 4])
    inputs = {name: batch[name] for name in ("pixel_values_videos", "pixel_attention_mask")}
    encoder = tiny_vision_model().eval()
    frames = []
    encoder.backbone.register_forward_pre_hook(lambda module, inputs: frames.append(len(inputs[0])))
    with torch.no_grad():
        expected = encoder(**inputs)
        request.getfixturevalue("switches_off")
        output = encoder(**inputs)
    assert frames == [11, 14]
    assert_close(output.last_hidden_state, expected.last_hidden_state, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("switches_end_with_the_test")
def test_end_to_end_in_tiny(benchmark, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "ProcessPoolExecutor", InThisProcess)
    command = re.search(
        r"python benchmarks/quickstart.py (--output_dir .*language_model_epochs 1)", benchmark.__doc__, re.S
    )
    argv = shlex.split(command[1].replace("\\\n", " "))
    argv = [text.replace("outputs/tiny", str(tmp_path / "tiny")) for text in argv]
    assert benchmark.main(argv) == 0
    (results,) = json.loads((tmp_path / "tiny" / "results.json").read_text())["seeds"].values()
    for way in (benchmark.ON, benchmark.OFF):
        assert list(results[way]["seconds"]) == [*benchmark.STEPS, benchmark.TEST]
        assert min(results[way]["seconds"].values()) > 0
        assert set(results[way]["bleu4"]) == {"stage 1", "stage 2"}
        folder = benchmark.Folders(tmp_path / "tiny" / f"{way.replace(' ', '_')}_0")
        for model in (folder.stage1, folder.model):
            arguments = json.loads((model / "training_arguments.json").read_text())
            assert arguments["bf16"] == (way == benchmark.ON and computes_in_bfloat16(default_device()))
            assert arguments["optim"] == (TrainingArguments.default_optim if way == benchmark.ON else "adamw_torch")
    assert "| **all** |" in (tmp_path / "tiny" / "page.md").read_text()
