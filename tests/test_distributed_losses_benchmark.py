"""benchmarks/distributed_losses.py: what it compares, and that docs/scale.md holds its figures."""

import json

import pytest
from benchmark_modules import load_benchmark, read_page

benchmark = load_benchmark("distributed_losses")


def test_the_page_holds_the_figures():
    block, report = read_page(benchmark)
    assert block == benchmark.format_report(report).strip()
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
    assert numbers == [1, 2, 3, 2, 4, 2, 2, 2] and not any(benchmark.CLIPS_OF_A_STEP % number for number in numbers)


def test_clips_that_do_not_fill_the_steps_are_refused():
    message = "--num_train_clips must be a multiple of 12, the clips of a step, got 13."
    with pytest.raises(ValueError, match=message):
        benchmark.BenchmarkArguments(num_train_clips=13)


def test_without_deepspeed_its_ways_are_left_out_and_the_table_says_so(monkeypatch):
    monkeypatch.setattr(benchmark.importlib.util, "find_spec", lambda name: None)
    ways = benchmark.possible_ways()
    assert len(ways) == 6 and not any("ZeRO" in name for name in ways)
    arguments = {"num_train_clips": 12, "num_steps": 1, "seed": 0}
    report = {"machine": "one", "arguments": arguments, "losses": {"visual-initialing": dict.fromkeys(ways, [1.0])}}
    assert benchmark.format_report(report).endswith("\n\nDeepSpeed is not installed: its ways are left out.")


def test_the_settings_of_deepspeed_are_what_a_training_takes():
    assert [json.loads(benchmark.settings_of_zero(stage))["zero_optimization"]["stage"] for stage in (2, 3)] == [2, 3]
    assert "DeepSpeed" not in benchmark.format_report(
        {
            "machine": "one",
            "arguments": {"num_train_clips": 12, "num_steps": 1, "seed": 0},
            "losses": {"visual-initialing": dict.fromkeys(benchmark.WAYS, [1.0])},
        }
    )
