"""benchmarks/streamed_memory.py: every row is read once, memory is noted, and docs/scale.md holds its figures."""

import json

import pytest
from benchmark_modules import load_benchmark, read_page
from tiny_corpus import flags

benchmark = load_benchmark("streamed_memory")
SMALL = {"num_rows": 60, "rows_between_looks": 20, "rows_of_file": 25, "batch_size": 10}
MOST_GROWTH_IN_MEGABYTES = 50


def test_the_page_holds_the_figures_and_the_memory_stays():
    block, report = read_page(benchmark)
    assert block == benchmark.format_report(report)
    notes = report["megabytes"]
    assert [note["rows"] for note in notes] == list(range(5000, 100_001, 5000))
    second_half = notes[len(notes) // 2 :]
    for process in ("training", "reading"):
        sizes = [note[process] for note in second_half]
        assert max(sizes) - sizes[0] < MOST_GROWTH_IN_MEGABYTES


def test_the_report_names_a_tenth_a_quarter_a_half_and_all_of_the_rows():
    notes = [{"rows": rows, "training": 100.0 + rows, "reading": 50.0} for rows in range(10, 101, 10)]
    assert [note["rows"] for note in benchmark.reported(notes)] == [10, 30, 50, 100]
    report = {"machine": "a processor", "arguments": {"num_rows": 100}, "megabytes": notes}
    *_, before, last = benchmark.format_report(report).splitlines()
    assert (before, last) == ("| 50 | 150 | 50 | +40 MB |", "| 100 | 200 | 50 | +90 MB |")


def test_rows_that_fill_no_step_are_refused():
    with pytest.raises(ValueError, match="and that one of --batch_size, got 60, 20 and 7"):
        benchmark.BenchmarkArguments(**{**SMALL, "batch_size": 7})


def test_every_row_is_one_of_its_own(tmp_path):
    arguments = benchmark.BenchmarkArguments(output_dir=str(tmp_path), **SMALL)
    files = benchmark.write_rows(tmp_path / "rows", arguments)
    (stream,) = benchmark.open_rows(files, arguments).streams
    rows = [clip.row for clip in stream.one_pass(0)]
    assert stream.source.num_parts == 3 and len({row["text"] for row in rows}) == len(rows) == 60
    assert len({row["video"]["bytes"] for row in rows}) == benchmark.NUM_CLIPS


@pytest.mark.slow
def test_a_small_run_trains_on_all_rows_and_writes_its_page(tmp_path):
    page = tmp_path / "page.md"
    argv = flags(output_dir=tmp_path / "out", report=page, **SMALL)
    assert benchmark.main(argv) == 0
    report = json.loads((tmp_path / benchmark.FIGURES).read_text(encoding="utf-8"))
    assert [note["rows"] for note in report["megabytes"]] == [20, 40, 60]
    assert all(note["training"] > 50 and note["reading"] > 50 for note in report["megabytes"])
    assert benchmark.format_report(report) in page.read_text(encoding="utf-8")
