"""The quickstart with tiny sizes: everything it promises is there, and it does not run over itself."""

import contextlib
import io
import json
import re
from pathlib import Path

import pytest
from PIL import Image
from tiny_corpus import error_of, flags

from train_scripts import quickstart
from train_scripts.training import load_trained

pytestmark = pytest.mark.slow

SIZES = {
    "num_train_clips": 32,
    "num_dev_clips": 20,
    "num_test_clips": 12,
    "num_text_only_sentences": 100,
    "stage1_epochs": 1,
    "stage2_epochs": 1,
    "language_model_epochs": 1,
}


def run(folder: Path) -> int:
    return quickstart.main(flags(**SIZES, output_dir=folder))


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
    for name in ("corpus", "language_model", "stage1", "model", "test_stage1", "test_stage2"):
        assert (folder / name).is_dir(), name
    for name in ("learning_curves.png", "contact_sheet.png"):
        with Image.open(folder / name) as picture:
            assert picture.format == "PNG" and min(picture.size) > 200, name
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 10, name
    for stage in ("test_stage1", "test_stage2"):
        scores = json.loads((folder / stage / "scores.json").read_text(encoding="utf-8"))
        assert scores["num_segments"] == SIZES["num_test_clips"]
    model, processor = load_trained(str(folder / "model"))
    assert model.config.text_config.vocab_size == len(processor.tokenizer)


def test_what_is_printed(folder, output):
    scores = json.loads((folder / "test_stage2" / "scores.json").read_text(encoding="utf-8"))
    (line,) = [line for line in output.splitlines() if line.startswith("BLEU-4 ") and line.count("[") == 2]
    assert f" {scores['bleu4']:.2f} [" in line
    assert f"BLEU-4: {scores['signatures']['bleu4']}" in output
    rows = (folder / "test_stage2" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    first = [json.loads(row) for row in rows][:10]
    assert re.findall(r"    reference:   (.*)", output) == [row["reference"] for row in first]
    assert re.findall(r"    translation: (.*)", output) == [row["prediction"] for row in first]
    clip = folder / "corpus" / "test" / first[0]["file_name"]
    assert f"in a fresh process:\n  {clip}\t{first[0]['prediction']}".rstrip() in output


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
        "--num_dev_clips must be 20 or more, got 19: fewer do not tell how sure the model is."
    )
    assert not (tmp_path / "output").exists()


def test_a_second_run_does_not_touch_the_first(folder, output, capsys):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    capsys.readouterr()
    assert run(folder) == 2
    assert capsys.readouterr().err == (
        f"error: --output_dir {folder} is not empty. Name a new folder, or remove this one.\n"
    )
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
