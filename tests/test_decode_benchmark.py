"""Decoding and preprocessing speed: the report from given results, and a tiny end-to-end run."""

import json
import random
import re

import pytest
import torch
from benchmark_modules import load_benchmark, read_page
from tiny_corpus import error_of

benchmark = load_benchmark("decode_and_preprocess")


def result(ours: list[float], frame_by_frame: list[float]) -> dict:
    rates = {"ours": ours, "frame_by_frame": frame_by_frame}
    size = {"height": 260, "width": 210, "frame_sampling_rate": 0.25}
    return {**size, "largest_difference_in_levels": 0.5, "frames_per_second": rates}


def test_page_holds_exactly_what_its_figures_say():
    block, report = read_page(benchmark)
    assert block == benchmark.format_report(report).strip()
    assert len(report["results"]) == len(benchmark.SIZES) * len(benchmark.SAMPLING_RATES)


def test_ratios_are_of_neighbours():
    row = benchmark.format_row(result([100.0, 300.0, 80.0], [50.0, 100.0, 10.0]))
    assert "| **3.0** (2.0 to 8.0) |" in row and "| 100 | 50 |" in row and "| 25% |" in row


def test_end_to_end_in_tiny(tmp_path, monkeypatch):
    height, width = random.randrange(40, 80, 2), random.randrange(40, 80, 2)
    monkeypatch.setattr(benchmark, "SIZES", ((height, width),))
    page = tmp_path / "page.md"
    argv = ["--output_dir", str(tmp_path / "run"), "--report", str(page)]
    assert benchmark.main([*argv, "--num_clips", "1", "--num_frames", "5", "--num_rounds", "2"]) == 0
    report = json.loads(page.with_suffix(".json").read_text())
    assert [row["frame_sampling_rate"] for row in report["results"]] == [1.0, 0.25]
    for row in report["results"]:
        assert all(len(rates) == 2 and min(rates) > 0 for rates in row["frames_per_second"].values())
        assert row["largest_difference_in_levels"] <= benchmark.LARGEST_DIFFERENCE_IN_LEVELS
    before = page.read_text()
    page.write_text("Words before.\n" + before)
    assert benchmark.main([*argv, "--report_only", "True"]) == 0
    assert page.read_text() == "Words before.\n" + before


def test_other_pixels_and_other_frames_are_refused():
    clip = torch.randn(3, 3, 8, 8)
    assert benchmark.largest_difference_in_levels(clip, clip) == 0
    with pytest.raises(ValueError, match=re.escape("must differ by rounding only, got ")):
        benchmark.largest_difference_in_levels(clip, clip + 0.1)
    with pytest.raises(ValueError, match=re.escape("must give the same frames, got (3, 3, 8, 8) and (2, 3, 8, 8).")):
        benchmark.largest_difference_in_levels(clip, clip[:2])


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--report_only", "True"], "holds no results. Run without --report_only first."),
        (["--num_rounds", "0"], "--num_clips, --num_frames and --num_rounds must be 1 or more."),
    ],
)
def test_mistakes_are_said_in_one_sentence(tmp_path, capsys, argv, text):
    assert text in error_of(benchmark.main, ["--output_dir", str(tmp_path), *argv], capsys)
