"""benchmarks/kills.py: it tells what goes on from what loses or refuses, and docs/scale.md has its figures."""

import json
import os
import time

import psutil
import pytest
import torch
from benchmark_modules import load_benchmark, read_page
from safetensors.torch import save_file

from train_scripts.arguments.commands import COMMANDS

benchmark = load_benchmark("kills")
compared = load_benchmark("compared_folders")
Command = load_benchmark("killed_commands").Command

LOOP = """
import os, pathlib, sys, time
def compute(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
print("begins", flush=True)
for number in range(10):
    path, part = pathlib.Path(f"{number}.txt"), pathlib.Path(f".flallm-{number}.partial")
    if path.exists():
        continue
"""
GOES_ON = f"{LOOP}    part.write_text('whole'); compute(0.03); part.replace(path)\n"
LOSES = f"{LOOP}    path.write_text('half'); compute(0.03); path.write_text('whole')\n"
REFUSES = f"import os, sys\nif os.listdir(): sys.exit('error: not empty')\n{GOES_ON}"


def program(code: str) -> Command:
    return Command([], program=("-c", code))


def measured(tmp_path, num_kills: int, **codes: str) -> dict:
    arguments = benchmark.BenchmarkArguments(output_dir=str(tmp_path), num_kills=num_kills)
    return benchmark.measure_commands(arguments, {name: program(code) for name, code in codes.items()})


def test_the_page_holds_the_figures_and_nothing_is_lost():
    block, report = read_page(benchmark)
    assert block == benchmark.format_report(report)
    cases = [case for result in report["commands"].values() for case in result["cases"]]
    num_kills = sum(len(case["kills"]) for case in cases)
    assert num_kills == 100 and 2 * benchmark.in_work(cases) >= num_kills and benchmark.count(cases, "refused") == 0
    different = {name for case in cases for name in case["differences"]}
    assert {name.split("/")[1] for name in different} <= {"checkpoint-20"}  # of which a kill left a part
    assert report["commands"].keys() == benchmark.commands(0).keys() <= COMMANDS.keys()
    assert all(result["cases"] for result in report["commands"].values())


@pytest.mark.slow
def test_lost_and_refused_are_told_from_equal(tmp_path):
    results = measured(tmp_path, 15, goes_on=GOES_ON, loses=LOSES, refuses=REFUSES)
    cases = {name: result["cases"] for name, result in results["commands"].items()}
    assert {case["outcome"] for case in cases["goes_on"]} == {"equal"}
    assert "lost" in {case["outcome"] for case in cases["loses"]} <= {"lost", "equal"}
    assert "refused" in {case["outcome"] for case in cases["refuses"]} <= {"refused", "equal"}
    assert "error: not empty" in {case["error"].strip() for case in cases["refuses"]}
    assert [sum(len(case["kills"]) for case in each) for each in cases.values()] == [5, 5, 5]
    *_, total = benchmark.format_report(results).splitlines()
    every_case = [case for each in cases.values() for case in each]
    lost, refused = (benchmark.count(every_case, outcome) for outcome in ("lost", "refused"))
    counts = (15, benchmark.in_work(every_case), 15 - lost - refused, lost, refused)
    assert total == f"| all |  | {' | '.join(map(str, counts))} |  |"
    assert measured(tmp_path, 15, goes_on="a mistake", loses=LOSES, refuses=REFUSES) == results  # is kept


@pytest.mark.slow
def test_a_command_that_had_ended_before_the_kill_has_lost_nothing(tmp_path):
    code = f"{REFUSES}compute(0.5)\n"
    command, whole = program(code), tmp_path / "whole"
    benchmark.run_whole(command, whole)
    case = benchmark.run_with_kills(command, whole, tmp_path / "killed", [benchmark.Moment(True, 0.6)])
    assert (case["outcome"], case["differences"], len(case["kills"])) == ("ended", [], 1)


@pytest.mark.slow
def test_all_processes_of_a_command_are_killed(tmp_path):
    child = "import os, pathlib; pathlib.Path('child').write_text(str(os.getpid()))\nwhile True: pass"
    code = f"import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', {child!r}])\ntime.sleep(60)"
    (tmp_path / "run").mkdir()
    run = benchmark.Run(program(code), tmp_path / "run", dict(os.environ))
    assert run.kill(benchmark.Moment(True, 0.2))["in_work"] and run.process.returncode == -9
    number = int((tmp_path / "run" / "child").read_text())
    ended = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    deadline = time.monotonic() + 5
    while psutil.pid_exists(number) and psutil.Process(number).status() not in ended:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_kills_are_shared_out_by_weight():
    known = {name: Command([], weight=weight) for name, weight in {"a": 1, "b": 0.5, "c": 1}.items()}
    assert benchmark.shares(10, known) == {"a": 4, "b": 2, "c": 4}
    assert benchmark.shares(4, known) == {"a": 2, "b": 1, "c": 1}


def test_results_of_other_arguments_are_refused(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps({"arguments": {"num_kills": 3, "seed": 0}, "commands": {}}))
    with pytest.raises(ValueError, match="holds results of --num_kills 3"):
        measured(tmp_path, 4)


# What is the same


@pytest.fixture
def folders(tmp_path):
    for name in ("whole", "killed"):
        (tmp_path / name / "run").mkdir(parents=True)
    return tmp_path / "whole", tmp_path / "killed"


def test_times_alone_may_differ(folders):
    for folder, seconds in zip(folders, (1.5, 2.5), strict=True):
        values = {"loss": [{"value": 1.0, "eval_runtime": seconds}], "seconds": seconds}
        (folder / "run" / "state.json").write_text(json.dumps(values))
        (folder / "README.md").write_text(f"# A model\n- Time: {seconds} seconds\n- Steps: 3\n")
        (folder / "run" / f".flallm-{seconds}.partial").write_text("half")
    assert compared.differences(*folders) == []
    assert compared.leavings(folders[0]) == [".flallm-1.5.partial"]


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("run/state.json", '{"loss": 1.0}', '{"loss": 1.5}'),
        ("run/state.json", '{"loss": [1, 2]}', '{"loss": [1]}'),
        ("README.md", "- Steps: 3\n", "- Steps: 4\n"),
        ("rows.csv", "a\nb\n", "a\n"),
        ("rows.jsonl", '{"a": 1}\n{"a": 2}\n', '{"a": 1}\n'),
    ],
)
def test_other_results_are_found(name, first, second, folders):
    for folder, content in zip(folders, (first, second), strict=True):
        (folder / name).write_text(content)
    assert compared.differences(*folders) == [name]


def test_missing_and_further_files_are_found(folders):
    (folders[0] / "run" / "a.txt").write_text("a")
    (folders[1] / "b.txt").write_text("b")
    assert compared.differences(*folders) == ["b.txt", "run/a.txt"]


def test_tensors_are_compared_to_the_bit(folders):
    weights = {"a": torch.randn(3), "b": torch.ones(2, 2)}
    orders = weights, dict(reversed(weights.items()))
    for folder, tensors in zip(folders, orders, strict=True):
        save_file(tensors, folder / "model.safetensors")
        torch.save({"state": list(tensors.values())}, folder / "optimizer.pt")
    assert compared.differences(*folders) == ["optimizer.pt"]
    weights["a"][1] = torch.nextafter(weights["a"][1], torch.tensor(9.0))
    save_file(weights, folders[1] / "model.safetensors")
    torch.save({"state": list(orders[0].values())}, folders[1] / "optimizer.pt")
    assert compared.differences(*folders) == ["model.safetensors", "optimizer.pt"]
