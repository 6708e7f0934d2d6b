"""LLaVA-SLT's quickstart with tiny sizes: its stages fit together, and it delivers what it promises."""

import json
import re
from pathlib import Path

import pytest
import quickstart_runs
import torch
from benchmark_modules import load_benchmark, read_page
from quickstart_runs import (
    check_pictures,
    check_printed_results,
    check_that_nothing_is_overwritten,
    commands_in_this_process,
    printed_by,
)
from tiny_corpus import flags
from transformers import AutoModelForCausalLM

from modeling_flallm import LlavaSltForContrastivePreTraining
from train_scripts.commands import quickstart_llava_slt
from train_scripts.runs.trained_models import load_trained

pytestmark = pytest.mark.slow

SIZES = {**quickstart_runs.SIZES, "language_model_epochs": 1, "stage2_epochs": 1, "stage3_epochs": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("quickstart") / "output"


@pytest.fixture(scope="module")
def output(folder) -> str:
    """What the one run prints."""
    with commands_in_this_process():
        return printed_by(quickstart_llava_slt, SIZES, folder)


@pytest.fixture(scope="module")
def ablation():
    return load_benchmark("llava_slt_ablation")


def test_the_folder_holds_what_is_promised(folder, output):
    for name in ("corpus", "stage1", "stage2", "model", "test"):
        assert (folder / name).is_dir(), name
    check_pictures(folder)


def test_stage_3_leaves_what_the_stages_before_it_learned(folder, output):
    model, _ = load_trained(str(folder / "model"))
    language_model = AutoModelForCausalLM.from_pretrained(folder / "stage1")
    encoder = LlavaSltForContrastivePreTraining.from_pretrained(folder / "stage2").vision_model
    for part, source in ((model.language_model, language_model), (model.vision_model, encoder)):
        of_model, of_source = part.state_dict(), source.state_dict()
        assert of_model.keys() == of_source.keys()
        for name, value in of_source.items():
            assert torch.equal(of_model[name], value), name


def test_what_is_printed(folder, output):
    check_printed_results(output, folder / "corpus" / "test", folder / "test")
    assert re.search(r"Held-out perplexity \d", output)


def test_retrieval_is_printed_against_chance(output):
    recalls = [line for line in output.splitlines() if "chance" in line]
    assert any("test" in line for line in recalls), output


def test_the_model_says_how_sure_it_is(folder, output):
    model, _ = load_trained(str(folder / "model"))
    assert model.config.confidence_calibration["slope"] >= 0


def test_ablation_runs_every_arm_once_and_reports_it(ablation, folder, output, tmp_path):
    page = tmp_path / "page.md"
    argv = flags(quickstarts=[folder], output_dir=tmp_path / "ablation", report=page, stage3_epochs=1)
    assert ablation.main(argv) == 0
    results = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    assert list(results) == [ablation.WHOLE, *ablation.ARMS]
    for name, scores in results.items():
        assert (
            f"| {name} | {scores[folder.name]['bleu4']:.1f} | {scores[folder.name]['bleu4']:.1f} |" in page.read_text()
        )
    whole, _ = load_trained(str(folder / "model"))
    for number, (part, _) in enumerate(ablation.ARMS.values(), 1):
        arm, _ = load_trained(str(tmp_path / "ablation" / folder.name / f"arm{number}" / "model"))
        same = {
            "stage1": same_weights(arm.language_model, whole.language_model),
            "stage2": same_weights(arm.vision_model, whole.vision_model),
        }
        assert same == {"stage1": part != "stage1", "stage2": part != "stage2"}
    before = page.read_text()
    assert ablation.main(argv) == 0 and page.read_text() == before  # nothing is run again


def test_page_holds_exactly_what_its_figures_say(ablation):
    block, figures = read_page(ablation)
    assert block == ablation.format_report(figures)


def same_weights(left: torch.nn.Module, right: torch.nn.Module) -> bool:
    others = right.state_dict()
    return all(torch.equal(value, others[name]) for name, value in left.state_dict().items())


def test_a_second_run_does_not_touch_the_first(folder, output, capsys):
    check_that_nothing_is_overwritten(quickstart_llava_slt, SIZES, folder, capsys)
