"""The benchmark of stage 1 beside sltbaselines: both sides train on the same clips, and the page says how fast."""

import json
import random

import pytest
import torch
from benchmark_modules import BENCHMARKS, load_benchmark
from tiny_corpus import flags

benchmark = load_benchmark("stage1_beside_sltbaselines")


def test_the_page_gives_the_median_of_the_rounds_and_their_range():
    seconds = {benchmark.OURS: [1.0, 2.0, 4.0], benchmark.THEIRS: [2.0, 3.0, 12.0]}
    results = {"machine": "a processor", "lengths": [4, 6], "num_rounds": 3, "seed": 0, "seconds": seconds}
    page = benchmark.format_report(results)
    assert "| a step as sltbaselines does it | 3.33 |\n| ours | 5.00 |" in page
    assert "**2.00 times** the frames a second; in single rounds 1.50 to 3.00 times." in page
    assert "One thread of a processor, float32, clips of 4 and 6 frames:" in page


def test_frames_are_read_one_by_one_into_the_size_of_the_model(tmp_path):
    corpus = benchmark.make_corpus(tmp_path / "corpus", [3], benchmark.np.random.default_rng(0))
    frames = benchmark.read_frame_by_frame(corpus.pictures[0], random.Random(1))
    assert frames.shape == (3, 3, 224, 224) and frames.dtype == torch.float32
    assert not torch.equal(frames[0], frames[1])  # the patch has moved


@pytest.mark.slow
@pytest.mark.usefixtures("forked_workers")
def test_both_sides_train(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    monkeypatch.syspath_prepend(BENCHMARKS)  # its two processes import it by name
    assert benchmark.main(flags(output_dir=tmp_path / "out", report=page, num_rounds=1, lengths=[3, 4])) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert {side: len(seconds) for side, seconds in results["seconds"].items()} == {"ours": 1, "sltbaselines": 1}
    assert min(min(seconds) for seconds in results["seconds"].values()) > 0
    assert "times** the frames a second" in page.read_text(encoding="utf-8")


def test_a_step_needs_frames(tmp_path, capsys):
    with pytest.raises(SystemExit):
        benchmark.main([*flags(output_dir=tmp_path / "out"), "--lengths", "3", "0"])
    assert capsys.readouterr().err == "error: --num_rounds and --lengths must be 1 or more.\n"
