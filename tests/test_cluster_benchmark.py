"""benchmarks/cluster.py: what it counts, and that docs/cluster.md holds its figures."""

from collections import Counter

import pytest
from benchmark_modules import load_benchmark, read_page

pytest.importorskip("ray")
benchmark = load_benchmark("cluster")


def test_the_page_holds_the_figures():
    block, report = read_page(benchmark)
    assert block == benchmark.format_report(report).strip()
    assert report["ways"].keys() == benchmark.WAYS.keys()
    for facts in report["ways"].values():
        assert (facts["results"], facts["duplicates"]) == (report["arguments"]["num_clips"], 0)


def test_lost_doubled_and_other_results_are_counted():
    expected = Counter(["a\tone", "b\ttwo", "c\tthree"])
    facts = benchmark._facts({"seconds": 2.0, "lines": ["a\tone", "a\tone", "b\t2"]}, expected)
    assert facts == {"seconds": 2.0, "results": 2, "duplicates": 1, "as_alone": 1}
