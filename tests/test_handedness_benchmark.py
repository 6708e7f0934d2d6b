"""benchmarks/handedness.py: what it counts as found, and that docs/left-handed.md holds its figures."""

import json
from types import SimpleNamespace

import torch
from benchmark_modules import load_benchmark

TABLE_END = load_benchmark("benchmark_parts").TABLE_END
benchmark = load_benchmark("handedness")


def test_the_page_holds_the_figures():
    block = benchmark.PAGE.read_text(encoding="utf-8").partition(benchmark.TABLE_START)[2].partition(TABLE_END)[0]
    report = json.loads(benchmark.PAGE.with_suffix(".json").read_text(encoding="utf-8"))
    assert block.strip() == benchmark.format_report(report).strip()
    found = report["hands"][benchmark.AT_A_GLANCE]
    counts = [each[name] / each["clips"] for each in found.values() for name in ("found", "found_in_a_mirror")]
    assert min(counts) >= 0.95
    assert all(row["ratio"] < 1.3 for row in report["times"] if row["way"] == benchmark.AT_A_GLANCE)


def test_hands_are_counted_as_they_are_and_in_a_mirror():
    """The first pixel tells the margin: of the third clip, in a mirror, the wrong one."""
    translator = SimpleNamespace(hand_margins=lambda clips: [float(clips[0]["frames"][0, 0, 0, 0])])
    pixels = [[-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]]
    clips = [{"frames": torch.tensor(row).view(1, 1, 1, 2)} for row in pixels]
    found = benchmark.find_hands(translator, clips, [False, True, False])
    assert found == {
        "right-handed": {"clips": 2, "found": 2, "found_in_a_mirror": 1},
        "left-handed": {"clips": 1, "found": 1, "found_in_a_mirror": 1},
    }
