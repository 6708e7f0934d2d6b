"""Benchmarks of several parts for each seed: what is kept of earlier runs."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from benchmark_modules import load_benchmark

seeded_parts = load_benchmark("seeded_parts")


@dataclass
class Arguments:
    output_dir: str
    seeds: list[int]
    num_clips: int = 3


def test_results_of_other_sizes_are_refused(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps({"sizes": {"num_clips": 5}, "seeds": {}}))
    message = f"{tmp_path} holds results of --num_clips 5. Pass these, or name another folder."
    with pytest.raises(ValueError, match=re.escape(message)):
        seeded_parts.kept_results(Arguments(str(tmp_path), [0]), ["num_clips"])


def test_finished_parts_do_not_run_again(tmp_path, monkeypatch):
    monkeypatch.setattr(seeded_parts, "ProcessPoolExecutor", lambda count, mp_context: ThreadPoolExecutor(count))
    runs = []

    def part(arguments, seed):
        runs.append(seed)
        return {"value": 10 * seed}

    def broken(arguments, seed):
        raise OSError("no more disk")

    arguments = Arguments(str(tmp_path), [4, 7])
    with pytest.raises(OSError, match="no more disk"):
        seeded_parts.measure_parts(arguments, {"part": part, "last": broken}, ["num_clips"])
    assert runs == [4]
    results = seeded_parts.measure_parts(arguments, {"part": part, "last": part}, ["num_clips"])
    assert runs == [4, 4, 7, 7] and results["sizes"] == {"num_clips": 3}
    of_seed = results["seeds"]["7"]
    assert of_seed["part"]["value"] == 70 and of_seed["part"]["seconds"] >= 0 < of_seed["last"]["peak_gigabytes"]
    assert json.loads((tmp_path / "results.json").read_text()) == results
