"""Poses beside frames: the page from its figures, the ratios, and (slow) a tiny end-to-end run."""

import json
import random
import re
import shlex

import pytest
from benchmark_modules import load_benchmark, read_page

benchmark = load_benchmark("poses_beside_frames")


def test_page_holds_exactly_what_its_figures_say():
    block, report = read_page(benchmark)
    assert block == benchmark.format_report(report).strip()
    assert list(report["seconds"]) == list(benchmark.SIZES)


def test_ratios_are_of_neighbours():
    factors = random.sample(range(2, 9), 3)
    frames = [float(factor) for factor in factors]
    seconds = {job: {benchmark.FRAMES: frames, benchmark.POSES: [1.0, 0.5, 2.0]} for job in benchmark.JOBS}
    report = {"machine": "an abacus", "torch": "0", "arguments": {"num_clips": 3}, "seconds": {"quickstart": seconds}}
    ratios = sorted([factors[0], 2 * factors[1], factors[2] / 2])
    expected = f"| {ratios[1]:.1f} ({ratios[0]:.1f} to {ratios[2]:.1f}) |"
    text = benchmark.format_report(report)
    assert "--sizes quickstart --num_clips 3" in text
    rows = [line for line in text.splitlines() if line.startswith("| quickstart, ")]
    assert len(rows) == 2 and all(row.endswith(expected) for row in rows)
    assert f"| {1 / sorted(frames)[1]:.2f} | 1.00 |" in rows[0]


def test_unknown_sizes_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["--output_dir", str(tmp_path), "--sizes", "large"])
    assert "--sizes must be of 'quickstart', 'published sizes', got 'large'." in capsys.readouterr().err


@pytest.mark.slow
def test_end_to_end_in_tiny(tmp_path):
    command = re.search(
        r"benchmarks/poses_beside_frames.py (--output_dir outputs/tiny .*rounds 1)", benchmark.__doc__, re.S
    )
    argv = shlex.split(command[1].replace("\\\n", " ").replace("outputs/tiny", str(tmp_path / "tiny")))
    assert benchmark.main(argv) == 0
    (seconds,) = json.loads((tmp_path / "tiny" / "results.json").read_text())["seconds"].values()
    assert all(min(seconds[job][side]) > 0 for job in benchmark.JOBS for side in (benchmark.FRAMES, benchmark.POSES))
