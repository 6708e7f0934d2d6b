"""The benchmark of translating: its page from given figures, and a tiny end-to-end run."""

import json

import pytest
import torch
from benchmark_modules import load_benchmark, read_page
from tiny_corpus import error_of


@pytest.fixture(scope="module")
def benchmark():
    return load_benchmark("inference")


def test_page_holds_exactly_what_its_figures_say(benchmark):
    block, report = read_page(benchmark)
    assert block == benchmark.format_report(report).strip()
    assert set(report["seconds_per_clip"]) == {*benchmark.BASELINES, *benchmark.WAYS}


def test_ratios_are_of_the_medians_of_the_processor_time(benchmark):
    seconds = {
        "plain, all frames": [8.0, 4.0, 6.0],
        "plain, a quarter of the frames": [3.0, 3.0, 3.0],
        "ours": [1.0, 2.0, 1.5],
    }
    seconds = {name: [{"processor": value, "clock": 2 * value} for value in each] for name, each in seconds.items()}
    assert benchmark.format_ways(seconds)[-1] == "| ours | 1.50 | 4.0 | 2.0 |"


def test_growth_is_told_in_multiples_of_the_first(benchmark):
    growth = {"clips": [{"number": 2, "processor": 1.5}, {"number": 4, "processor": 3.0}]}
    assert benchmark.format_growth(growth)[2:] == ["| 2 clips | 1.5 | 1.0 |", "| 4 clips | 3.0 | 2.0 |"]


@pytest.mark.slow
def test_all_of_it_in_tiny(benchmark, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "GROWTH", (1,))
    threads = torch.get_num_threads()
    argv = {"output_dir": tmp_path / "run", "report": tmp_path / "page.md", "size": "tiny", "num_clips": 1}
    argv |= {"num_frames": 64, "num_tokens": 2, "num_rounds": 1}
    try:
        assert benchmark.main([text for name, value in argv.items() for text in (f"--{name}", str(value))]) == 0
    finally:
        torch.set_num_threads(threads)
    report = json.loads((tmp_path / "page.json").read_text(encoding="utf-8"))
    for values in report["seconds_per_clip"].values():
        assert len(values) == 1 and values[0]["processor"] > 0 and values[0]["clock"] > 0
    assert benchmark.format_report(report) in (tmp_path / "page.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--report_only", "True"], "holds no results. Run without --report_only first."),
        (["--num_tokens", "0"], "--num_clips, --num_frames, --num_tokens and --num_rounds must be 1 or more."),
        (["--size", "huge"], "--size must be one of 'tiny', 'small', '12+12 layers', got 'huge'."),
    ],
)
def test_mistakes_are_said_in_one_sentence(benchmark, tmp_path, capsys, argv, text):
    assert text in error_of(benchmark.main, ["--output_dir", str(tmp_path), *argv], capsys)
