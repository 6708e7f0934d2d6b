"""The quickstart with tiny sizes: it delivers all that it promises, and does not overwrite itself."""

import json
import re
from pathlib import Path

import pytest
import quickstart_runs
from quickstart_runs import check_pictures, check_printed_results, check_that_nothing_is_overwritten, printed_by
from tiny_corpus import error_of, flags

from train_scripts.commands import quickstart
from train_scripts.runs.trained_models import load_trained
from train_scripts.scores.report import controls_of

pytestmark = pytest.mark.slow

SIZES = {**quickstart_runs.SIZES, "stage1_epochs": 1, "stage2_epochs": 1, "language_model_epochs": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("quickstart") / "output"


@pytest.fixture(scope="module")
def output(folder) -> str:
    """What the one run prints."""
    return printed_by(quickstart, SIZES, folder)


def test_the_folder_holds_what_is_promised(folder, output):
    for name in ("corpus", "language_model", "stage1", "model", "test_stage1", "test_stage2"):
        assert (folder / name).is_dir(), name
    check_pictures(folder)
    scores = json.loads((folder / "test_stage1" / "scores.json").read_text(encoding="utf-8"))
    assert scores["num_segments"] == SIZES["num_test_clips"]
    model, processor = load_trained(str(folder / "model"))
    assert model.config.text_config.vocab_size == len(processor.tokenizer)


def test_what_is_printed(folder, output):
    check_printed_results(output, folder / "corpus" / "test", folder / "test_stage2")
    stage1 = json.loads((folder / "test_stage1" / "scores.json").read_text(encoding="utf-8"))
    (line,) = [line for line in output.splitlines() if line.startswith("BLEU-4 ") and line.count("[") == 2]
    assert f" {stage1['bleu4']:.2f} [" in line
    (line,) = [line for line in output.splitlines() if line.startswith("Test signers by BLEU-4, worst first: ")]
    scores = [float(part.split()[-1]) for part in line.partition(": ")[2].split(", ")]
    assert len(scores) == 3 and scores == sorted(scores)
    of_test = json.loads((folder / "test_stage2" / "scores.json").read_text(encoding="utf-8"))
    assert controls_of(of_test)[0].startswith("Without the clip the model scores ")
    assert "\n".join(controls_of(of_test)) in output.partition("Test signers by BLEU-4")[2]
    assert stage1["controls"].keys() == {"shuffled"}


def test_the_model_says_how_sure_it_is(folder, output):
    model, _ = load_trained(str(folder / "model"))
    assert model.config.confidence_calibration["slope"] >= 0
    assert re.search(r"^dev, cross-validated +20 ", output, re.MULTILINE)
    assert re.search(r"^test +12 ", output, re.MULTILINE)
    card = (folder / "model" / "README.md").read_text(encoding="utf-8")
    assert "| dev, cross-validated | 20 |" in card and "| test | 12 |" in card


def test_too_few_dev_clips_are_told_before_any_work(tmp_path, capsys):
    flags_of_run = flags(**{**SIZES, "num_dev_clips": 19}, output_dir=tmp_path / "output")
    assert error_of(quickstart.main, flags_of_run, capsys) == (
        "--num_dev_clips must be 20 or more, got 19: fewer are not enough to calibrate the model."
    )
    assert not (tmp_path / "output").exists()


def test_a_second_run_does_not_touch_the_first(folder, output, capsys):
    check_that_nothing_is_overwritten(quickstart, SIZES, folder, capsys)
