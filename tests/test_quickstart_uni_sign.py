"""Uni-Sign's quickstart with tiny sizes: its steps fit together, and it delivers what it promises."""

import json
import re
from pathlib import Path

import pytest
import quickstart_runs
from quickstart_runs import (
    check_pictures,
    check_printed_results,
    check_that_nothing_is_overwritten,
    commands_in_this_process,
    printed_by,
)

from modeling_flallm import UniSignForTranslation
from train_scripts.commands import quickstart_uni_sign
from train_scripts.runs.trained_models import load_trained

pytestmark = pytest.mark.slow

SIZES = {**quickstart_runs.SIZES, "language_model_epochs": 1, "pretraining_epochs": 1, "pose_errors": 2.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("quickstart") / "output"


@pytest.fixture(scope="module")
def output(folder) -> str:
    """What the one run prints."""
    with commands_in_this_process():
        return printed_by(quickstart_uni_sign, SIZES, folder)


def test_the_folder_holds_what_is_promised(folder, output):
    for name in ("corpus", "language_model", "model", "test"):
        assert (folder / name).is_dir(), name
    assert len(list((folder / "corpus").glob("*/poses/*.safetensors"))) == 16 + 20 + 12
    assert not list((folder / "corpus").rglob("*.mp4"))
    assert "size of its errors: 2" in (folder / "corpus" / "README.md").read_text()
    check_pictures(folder)


def test_the_model_is_a_uni_sign_that_reads_poses(folder, output):
    model, processor = load_trained(str(folder / "model"))
    assert isinstance(model, UniSignForTranslation) and processor.modality.argument == "poses"
    assert model.config.confidence_calibration["slope"] >= 0
    assert processor.modality.part.extractor == "rendered"


def test_what_is_printed(folder, output):
    check_printed_results(output, folder / "corpus" / "test" / "poses", folder / "test")
    scores = json.loads((folder / "test" / "scores.json").read_text(encoding="utf-8"))
    signers = [f"{name} {signer['bleu4']:.2f}" for name, signer in scores["by_signer"].items()]
    assert len(signers) == 3
    assert f"Test signers by BLEU-4, worst first: {', '.join(signers)}" in output.splitlines()
    values = [signer["bleu4"] for signer in scores["by_signer"].values()]
    assert values == sorted(values) and scores["worst_signer_bleu4"] == values[0]
    assert re.search(r"^corpus \d+ s, language model \d+ s, pose pretraining \d+ s, calibration \d+ s$", output, re.M)


def test_a_second_run_does_not_touch_the_first(folder, output, capsys):
    check_that_nothing_is_overwritten(quickstart_uni_sign, SIZES, folder, capsys)
