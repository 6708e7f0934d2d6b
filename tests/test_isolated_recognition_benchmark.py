"""Isolated recognition: the page from its figures, what is refused, and (slow) a tiny run."""

import json
import re

import numpy as np
import pytest
from benchmark_modules import load_benchmark, read_page
from tiny_corpus import error_of, flags

from processing import read_poses


@pytest.fixture(scope="module")
def benchmark():
    return load_benchmark("isolated_recognition")


@pytest.fixture
def landmarks(tmp_path):
    """Two words, five takes of six frames, in MediaPipe's layout."""
    values = np.random.uniform(0.1, 0.9, (10, 6, 258)).astype(np.float16)
    path = tmp_path / "landmarks.npz"
    np.savez(path, landmarks=values, word=np.repeat(["rain", "snow"], 5), take=np.tile(np.arange(5), 2))
    return path


def test_the_page_is_that_of_its_figures(benchmark):
    block, report = read_page(benchmark)
    assert block == benchmark.format_report(report).strip()
    assert len(report["seeds"]) == 5 and report["num_clips"] == {"train": 200, "test": 100}


def test_the_first_takes_are_for_training(benchmark, landmarks, tmp_path):
    assert benchmark.write_corpus(landmarks, tmp_path / "corpus", 3) == {"train": 6, "test": 4}
    names = {path.stem for path in (tmp_path / "corpus" / "test").glob("*.safetensors")}
    assert names == {"rain_3", "rain_4", "snow_3", "snow_4"}
    found = read_poses(tmp_path / "corpus" / "test" / "snow_4.safetensors")
    with np.load(landmarks) as file:
        hand = file["landmarks"][9].astype(np.float32)[:, -63:].reshape(6, 21, 3)
    np.testing.assert_allclose(found.keypoints[:, 112:], hand[..., :2], rtol=1e-6)
    assert (tmp_path / "corpus" / "words.txt").read_text() == "rain\nsnow\n"


@pytest.mark.slow
def test_a_tiny_run(benchmark, landmarks, tmp_path, capsys, monkeypatch):
    page = tmp_path / "page.md"
    argv = flags(
        landmarks=landmarks, output_dir=tmp_path / "out", report=page, seeds=[0, 1], num_training_takes=3, max_steps=2,
        batch_size=4,
    )  # fmt: skip
    assert benchmark.main(argv) == 0
    report = json.loads(page.with_suffix(".json").read_text())
    assert list(report["seeds"]) == ["0", "1"] and report["num_clips"] == {"train": 6, "test": 4}
    for result in report["seeds"].values():
        assert result["num_clips"] == 4
        assert sum(count for *_, count in result["wrong"]) == 4 - round(4 * result["accuracy"])
    assert re.search(r"Training on 6 clips, the first 3 takes of each word; test on 4, the others", page.read_text())
    monkeypatch.setattr(benchmark, "run_seed", lambda *_: pytest.fail("a seed was run again"))
    assert benchmark.main(argv) == 0
    assert json.loads(page.with_suffix(".json").read_text()) == report
    error = error_of(benchmark.main, [*argv, "--max_steps", "3"], capsys)
    assert "holds results of --max_steps 2. Pass these, or name another folder." in error


def test_the_landmarks_must_be_named(benchmark, tmp_path, capsys):
    error = error_of(benchmark.main, flags(output_dir=tmp_path / "out"), capsys)
    assert error == "`--landmarks` must name the file of landmarks, isl_10_words.npz."
