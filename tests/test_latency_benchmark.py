"""The benchmark of latency: its page from given figures, its last line, and a tiny run in a process of its own."""

import json

import pytest
from benchmark_modules import load_benchmark, read_page
from tiny_corpus import error_of


@pytest.fixture(scope="module")
def benchmark():
    return load_benchmark("latency")


def row(**values):
    part = {"decode": 0.125, "encode": 1.0, "write": 0.5}
    slow = {"decode": 0.125, "encode": 2.0, "write": 0.875}
    live = {"first_word": 0.25, "sentence": 1.5, "final": 2.0, "late": 0.01}
    measured = {"cold": {"load": 3.0, "translate": 2.0}, "warm": [part, slow, part], "stream": [live, live]}
    return {"model": "paper_sized", "runtime": "torch", "cores": 2, **measured, **values}


def report(*rows):
    values = {
        "models": ["paper_sized"],
        "cores": [1, 2],
        "num_frames": 165,
        "num_tokens": 20,
        "num_rounds": 3,
        "seed": 0,
    }
    return {"arguments": values, "machine": "a CPU", "num_parameters": {"paper_sized": 393e6}, "rows": list(rows)}


def test_page_holds_exactly_what_its_figures_say(benchmark):
    if not benchmark.PAGE.with_suffix(".json").is_file():
        marks = f"{benchmark.TABLE_START}\n{load_benchmark('benchmark_parts').TABLE_END}"
        assert marks in benchmark.PAGE.read_text(encoding="utf-8"), "a table without figures"
        return
    block, figures = read_page(benchmark)
    assert block == benchmark.format_report(figures).strip()
    assert {(each["model"], each["cores"]) for each in figures["rows"]} == {
        (model, cores) for model in benchmark.MODELS for cores in (1, 2)
    }


def test_figures_are_medians_and_warm_is_the_sum_of_its_parts(benchmark):
    line = "| paper_sized, torch | 2 | 5.00 | 1.62 | 3.00 | 0.12 | 1.00 | 0.50 | 0.25 | 1.50 | 2.00 |"
    assert benchmark.format_row(row()) == line
    text = benchmark.format_report(report(row()))
    assert line in text and "The clip lasts 6.6 s (165 frames" in text and "393 million parameters, 5 beams" in text


def test_the_last_line_is_that_of_the_most_cores(benchmark):
    summary = benchmark.summary(report(row(cores=1), row(), row(runtime="exported")))
    assert summary["paper_sized_warm_seconds"] == 1.625
    assert summary["paper_sized_cold_seconds"] == 5 and summary["paper_sized_first_word_seconds"] == 0.25
    assert summary["paper_sized_exported_warm_seconds"] == 1.625
    assert summary["clip_seconds"] == 6.6 and summary["cores"] == 2


@pytest.mark.slow
def test_all_of_it_in_tiny(benchmark, tmp_path, capsys):
    argv = ["--output_dir", str(tmp_path / "run"), "--report", str(tmp_path / "page.md"), "--models", "small"]
    argv += ["--cores", "1", "--num_frames", "50", "--num_tokens", "3", "--num_rounds", "1"]
    assert benchmark.main(argv) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 0 < summary["small_warm_seconds"] < summary["small_cold_seconds"]
    assert (
        0 < summary["small_first_word_seconds"] <= summary["small_sentence_seconds"] <= summary["small_final_seconds"]
    )
    figures = json.loads((tmp_path / "page.json").read_text(encoding="utf-8"))
    assert benchmark.format_report(figures) in (tmp_path / "page.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--report_only", "True"], "holds no results. Run without --report_only first."),
        (["--num_tokens", "0"], "--num_frames, --num_tokens and --num_rounds must be 1 or more."),
        (["--models", "huge"], "--models must be of 'paper_sized', 'small', got 'huge'."),
        (["--cores", "0"], "--cores must be 1 or more, got 0."),
    ],
)
def test_mistakes_are_said_in_one_sentence(benchmark, tmp_path, capsys, argv, text):
    assert text in error_of(benchmark.main, ["--output_dir", str(tmp_path), *argv], capsys)
