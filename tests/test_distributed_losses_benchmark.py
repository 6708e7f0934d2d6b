"""benchmarks/distributed_losses.py: what it compares, and that docs/scale.md holds its figures."""

import json

import pytest
from benchmark_modules import load_benchmark

TABLE_END = load_benchmark("benchmark_parts").TABLE_END
benchmark = load_benchmark("distributed_losses")


def test_the_page_holds_the_figures():
    page = benchmark.PAGE.read_text(encoding="utf-8")
    block = page.partition(benchmark.TABLE_START)[2].partition(TABLE_END)[0]
    report = json.loads(benchmark.PAGE.with_suffix(".json").read_text(encoding="utf-8"))
    assert block.strip() == benchmark.format_report(report).strip()
    for of_stage in report["losses"].values():
        alone = of_stage[benchmark.ALONE]
        assert of_stage.keys() == benchmark.WAYS.keys() and alone[-1] < alone[0]
        for losses in of_stage.values():
            first = losses[: benchmark.FIRST_STEPS], alone[: benchmark.FIRST_STEPS]
            assert len(losses) == len(alone) and benchmark.largest_difference(*first) < 1e-3


def test_the_largest_difference_is_relative_to_one_process():
    assert benchmark.largest_difference([2.0, 4.4], [2.0, 4.0]) == pytest.approx(0.1)


def test_every_way_shares_the_clips_of_a_step_evenly():
    numbers = [way.num_processes for way in benchmark.WAYS.values()]
    assert numbers == [1, 2, 3, 2, 4] and not any(benchmark.CLIPS_OF_A_STEP % number for number in numbers)


def test_clips_that_do_not_fill_the_steps_are_refused():
    message = "--num_train_clips must be a multiple of 12, the clips of a step, got 13."
    with pytest.raises(ValueError, match=message):
        benchmark.BenchmarkArguments(num_train_clips=13)
