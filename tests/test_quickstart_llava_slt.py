"""LLaVA-SLT's quickstart with tiny sizes: its stages go into each other, and what it promises is there."""

import contextlib
import importlib.util
import io
import json
import re
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_corpus import error_of, flags
from transformers import AutoModelForCausalLM

from modeling_flallm import LlavaSltForContrastivePreTraining
from train_scripts import quickstart_llava_slt
from train_scripts.training import load_trained

pytestmark = pytest.mark.slow

SIZES = {
    "num_train_clips": 32,
    "num_dev_clips": 20,
    "num_test_clips": 12,
    "num_text_only_sentences": 100,
    "language_model_epochs": 1,
    "stage2_epochs": 1,
    "stage3_epochs": 1,
}
BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


def run(folder: Path) -> int:
    return quickstart_llava_slt.main(flags(**SIZES, output_dir=folder))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("quickstart") / "output"


@pytest.fixture(scope="module")
def output(folder) -> str:
    """What the one run prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert run(folder) == 0
    return printed.getvalue()


def test_the_folder_holds_what_is_promised(folder, output):
    for name in ("corpus", "stage1", "stage2", "model", "test"):
        assert (folder / name).is_dir(), name
    for name in ("learning_curves.png", "contact_sheet.png"):
        with Image.open(folder / name) as picture:
            assert picture.format == "PNG" and min(picture.size) > 200, name
    scores = json.loads((folder / "test" / "scores.json").read_text(encoding="utf-8"))
    assert scores["num_segments"] == SIZES["num_test_clips"]


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
    scores = json.loads((folder / "test" / "scores.json").read_text(encoding="utf-8"))
    line = [line for line in output.splitlines() if line.startswith("BLEU-4 ")][-1]
    assert f" {scores['bleu4']:.2f} [" in line
    assert f"BLEU-4: {scores['signatures']['bleu4']}" in output
    rows = (folder / "test" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    first = [json.loads(row) for row in rows][:10]
    assert re.findall(r"    reference:   (.*)", output) == [row["reference"] for row in first]
    assert re.findall(r"    translation: (.*)", output) == [row["prediction"] for row in first]
    clip = folder / "corpus" / "test" / first[0]["file_name"]
    assert f"in a fresh process:\n  {clip}\t{first[0]['prediction']}".rstrip() in output
    assert re.search(r"Held-out perplexity \d", output)


def test_retrieval_is_printed_against_chance(output):
    recalls = [line for line in output.splitlines() if "chance" in line]
    assert any("test" in line for line in recalls), output


def test_the_model_says_how_sure_it_is(folder, output):
    model, _ = load_trained(str(folder / "model"))
    assert model.config.confidence_calibration["slope"] >= 0


def load_ablation():
    """By path: another installed package may be called `benchmarks`."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("llava_slt_ablation", BENCHMARKS / "llava_slt_ablation.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCHMARKS))
    return module


def test_ablation_runs_every_arm_once_and_reports_it(folder, output, tmp_path):
    ablation = load_ablation()
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


def test_page_holds_exactly_what_its_figures_say():
    ablation = load_ablation()
    page = ablation.PAGE.read_text(encoding="utf-8")
    block = page.partition(ablation.TABLE_START)[2].partition("<!-- end of what the benchmark writes -->")[0]
    figures = json.loads(ablation.PAGE.with_suffix(".json").read_text(encoding="utf-8"))
    assert block.strip() == ablation.format_report(figures)


def same_weights(left: torch.nn.Module, right: torch.nn.Module) -> bool:
    others = right.state_dict()
    return all(torch.equal(value, others[name]) for name, value in left.state_dict().items())


def test_a_second_run_does_not_touch_the_first(folder, output, capsys):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert error_of(quickstart_llava_slt.main, flags(**SIZES, output_dir=folder), capsys) == (
        f"--output_dir {folder} is not empty. Name a new folder, or remove this one."
    )
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
