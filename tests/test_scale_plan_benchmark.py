"""benchmarks/scale_plan.py: its simulation agrees with what can be said by hand, and the page holds its figures."""

import json
import math
import random

import pytest
from benchmark_modules import load_benchmark

TABLE_END = load_benchmark("benchmark_parts").TABLE_END
plan = load_benchmark("scale_plan")


def test_the_page_holds_the_figures():
    page = plan.PAGE.read_text(encoding="utf-8")
    block = page.partition(plan.TABLE_START)[2].partition(TABLE_END)[0]
    report = json.loads(plan.PAGE.with_suffix(".json").read_text(encoding="utf-8"))
    assert block.strip("\n") == plan.format_report(report)
    assert report == json.loads(json.dumps(plan.measure(plan.BenchmarkArguments(**report["arguments"]))))


def test_cost_of_the_corpus_that_was_timed():
    of_corpus = plan.cost_of(plan.CORPORA["PHOENIX14T"], plan.BenchmarkArguments())
    assert of_corpus["gpu_hours_of_features"] * 60 == pytest.approx(42, abs=1)
    assert of_corpus["cores_for_a_gpu"] < 1 < plan.cost_of(plan.LARGEST, plan.BenchmarkArguments())["cores_for_a_gpu"]


@pytest.mark.parametrize(("num_tasks", "num_workers"), [(12, 4), (13, 4), (3, 4)])
def test_tasks_without_failures_fill_the_workers(num_tasks, num_workers):
    hours = plan.simulate_tasks(num_tasks, 0.5, num_workers, 1e12, 0.1, 0.0, random.Random(0))
    assert hours == pytest.approx(0.5 * math.ceil(num_tasks / num_workers))


def test_shorter_tasks_lose_less():
    long, short = (
        plan.simulate_tasks(int(40 / hours), hours, 4, 5.0, 0.1, 0.2, random.Random(1)) for hours in (2.0, 0.1)
    )
    assert 10 < short < 12 and long > 1.2 * short


def test_training_without_failures_takes_its_time():
    assert plan.simulate_training(7.0, 8, 1e12, 1.0, 0.5, random.Random(0)) == pytest.approx(7)


def test_training_with_failures_takes_what_the_formula_of_renewals_says():
    """Checkpoints of `c` hours at the rate `r`: each takes `(exp(r c) - 1) (1 / r + restart)` hours."""
    rate, interval, restart = 0.5, 0.25, 0.1
    draws = random.Random(2)
    found = sum(plan.simulate_training(50, 1, 1 / rate, interval, restart, draws) for _ in range(200)) / 200
    assert found == pytest.approx(50 / interval * (math.exp(rate * interval) - 1) * (1 / rate + restart), rel=0.02)


def test_training_that_never_gets_to_a_checkpoint_is_hopeless():
    assert plan.simulate_training(100, 1000, 1.0, 10.0, 0.1, random.Random(0)) == math.inf


def test_all_wait_for_the_slowest():
    alone, many = (plan.slowest_of(number, 0.05, random.Random(0)) for number in (1, 512))
    assert alone == pytest.approx(1, abs=0.02) and many > 1.1
    assert (
        plan.share_of_network(8, plan.BenchmarkArguments()) == 0 < plan.share_of_network(16, plan.BenchmarkArguments())
    )
