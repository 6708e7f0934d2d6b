"""
Whether a command that is killed goes on when it is run again, and ends with the results of a run that nobody killed.

    python benchmarks/kills.py

Each command that writes runs once without a kill. Then it runs in an empty folder, is killed (SIGKILL, all of its
processes) at a random moment, and runs again in what it has left, up to four times, until it ends. Its files are then
compared with those of the first run: tensors to the bit, all others to the letter; `compared_folders.py` names the few
values that are left out. Half of the moments are drawn from the whole of a run, half from its work: after its first
line or its first file, both by the time of the processor, which other programs do not change. The models and corpora
are tiny, and the processes have imported everything when they begin (`preloaded_runs.py`): else most kills would meet
imports. Commands that start others, which import anew, are killed less often.

What is finished is kept: the same command goes on with the next. The table of docs/scale.md and its figures
(kills.json) are written at the end; `--report_only True` writes them again from existing results.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers
from benchmark_parts import (
    DOCS,
    RESULTS_FILE,
    check_counts,
    check_sizes,
    command_line,
    processor_name,
    run_benchmark,
    write_json,
)
from compared_folders import differences, leavings
from killed_commands import Command, commands
from preloaded_runs import Server
from seeded_parts import heading

PAGE = DOCS / "scale.md"
FIGURES = "kills.json"
TABLE_START = "<!-- written by benchmarks/kills.py -->"
REPOSITORY = Path(__file__).resolve().parent.parent
OUTCOMES = ("equal", "ended", "lost", "refused")
HOME = "home"  # of caches
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
MOST_KILLS_IN_A_ROW = 4
SECONDS_BETWEEN_LOOKS = 0.01
SECONDS_OF_A_RUN = 900
CHARACTERS_OF_AN_ERROR = 2000


@dataclass
class BenchmarkArguments:
    """How much is killed."""

    output_dir: str = field(default="outputs/kills", metadata={"help": "Folder of all runs and results."})
    report: str = field(default=str(PAGE), metadata={"help": "Page to write; figures land beside it."})
    report_only: bool = field(default=False, metadata={"help": "Kill nothing, report what there is."})
    num_kills: int = field(default=100, metadata={"help": "Kills in all, shared out among the commands."})
    seed: int = field(default=0, metadata={"help": "Of the moments, corpora and models."})

    def __post_init__(self):
        check_counts(self, "num_kills")


@dataclass(frozen=True)
class Moment:
    """So many processor seconds after the start of a run or, `in_work`, after its first line or file."""

    in_work: bool
    seconds: float


@dataclass(frozen=True)
class Times:
    """Of a run without a kill: processor seconds until its first line or file, and in all, and seconds on a clock."""

    to_work: float
    all: float
    on_a_clock: float

    def draw(self, draws: random.Random, in_work: bool) -> Moment:
        return Moment(in_work, draws.uniform(0, self.all - self.to_work if in_work else self.all))


class Run:
    """
    A run of a command in a folder. What it prints goes to files beside the folder.

    Args:
        starter: a server that has imported the command, or the environment of a process of its own.
    """

    def __init__(self, command: Command, folder: Path, starter: Server | Mapping[str, str]):
        self.folder = folder
        self.printed, self.errors = (folder.with_name(f"{folder.name}.{name}") for name in ("stdout", "stderr"))
        for file in (self.printed, self.errors):
            file.write_bytes(b"")
        self._before, self._began = _state_of(folder), time.monotonic()
        self._seconds = 0.0
        if isinstance(starter, Server):
            self.process = starter.start(command.words, folder, self.printed, self.errors)
            return
        with self.printed.open("w") as printed, self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, *command.program, *command.words],
                cwd=folder,
                env=starter,
                stdout=printed,
                stderr=errors,
                process_group=0,
            )

    def wait(self) -> Times:
        to_work = self._wait_for_work()
        while self.process.poll() is None:
            self._look()
        return Times(to_work, self._seconds, time.monotonic() - self._began)

    def kill(self, moment: Moment) -> dict[str, Any] | None:
        """Kill all of its processes at this moment -> when that was, or None if it had ended before"""
        end = moment.seconds + (self._wait_for_work() if moment.in_work else 0.0)
        while self.process.poll() is None and self._seconds < end:
            self._look()
        if self.process.poll() is not None:
            return None
        killed = {"in_work": self._works(), "seconds": round(self._seconds, 3)}
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        return killed

    def _wait_for_work(self) -> float:
        """-> the processor seconds until then"""
        while self.process.poll() is None and not self._works():
            self._look()
        return self._seconds

    def _look(self) -> None:
        """
        How long its processes have computed so far.

        Raises:
            TimeoutError: if they go on for too long; they are killed.
        """
        if time.monotonic() - self._began > SECONDS_OF_A_RUN:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise TimeoutError(f"A run had to end within {SECONDS_OF_A_RUN} seconds, and was killed.")
        time.sleep(SECONDS_BETWEEN_LOOKS)
        with contextlib.suppress(psutil.Error):  # it has ended
            process = psutil.Process(self.process.pid)
            self._seconds = max(self._seconds, sum(map(_processor_seconds, [process, *process.children(True)])))

    def _works(self) -> bool:
        return self.printed.stat().st_size > 0 or _state_of(self.folder) != self._before

    @property
    def error(self) -> str:
        """The end of what it said is wrong."""
        return self.errors.read_text(encoding="utf-8", errors="replace")[-CHARACTERS_OF_AN_ERROR:]


def _processor_seconds(process: psutil.Process) -> float:
    """Of it, and of those that it has started and that have ended."""
    return sum(process.cpu_times()[:4])


def _state_of(folder: Path) -> dict[Path, tuple[int, int]]:
    """Size and time of everything in a folder; what disappears meanwhile is left out."""
    states = {}
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            with contextlib.suppress(FileNotFoundError):
                status = os.lstat(path := Path(parent, name))
                states[path] = status.st_size, status.st_mtime_ns
    return states


def environment_of(work: Path, variables: Mapping[str, str]) -> dict[str, str]:
    paths = {"PYTHONPATH": str(REPOSITORY), "HF_HOME": str((work / HOME).absolute())}
    fixed = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**os.environ, **paths, **fixed, **OFFLINE, **variables}


@contextlib.contextmanager
def starting(command: Command, folder: Path, server: Server | None) -> Iterator[Server | dict[str, str]]:
    """What starts a command in its folder, with empty caches."""
    work = folder.parent.parent
    shutil.rmtree(work / HOME, ignore_errors=True)
    command.fill(folder)
    with command.surroundings(folder) as variables:
        is_usual = server is not None and not variables and command.program == Command.program
        yield server if is_usual else environment_of(work, variables)


def run_whole(command: Command, folder: Path, server: Server | None = None) -> Times:
    """
    Raises:
        RuntimeError: if it fails; it holds the end of what the command printed.
    """
    if command.make_inputs is not None:
        folder.mkdir(parents=True, exist_ok=True)
        command.make_inputs(folder)
    with starting(command, folder, server) as starter:
        run = Run(command, folder, starter)
        times = run.wait()
    if run.process.returncode != 0:
        raise RuntimeError(f"{' '.join(command.words)} failed with exit status {run.process.returncode}:\n{run.error}")
    return times


def run_with_kills(
    command: Command, whole: Path, folder: Path, moments: Sequence[Moment], server: Server | None = None
) -> dict[str, Any]:
    """Kill a command at these moments, each in a run of its own, and let it end -> what came of it"""
    kills: list[dict[str, Any]] = []
    with starting(command, folder, server) as starter:
        for moment in moments:
            run = Run(command, folder, starter)
            kill = run.kill(moment)
            if kill is None:
                break
            kills.append(kill)
        else:
            run = Run(command, folder, starter)
            run.wait()
    found = differences(whole, folder)
    status = run.process.returncode
    return {
        "kills": kills,
        "outcome": _outcome(status, found),
        "differences": found,
        "leavings": leavings(folder),
        "error": run.error if status else "",
    }


def _outcome(status: int, found: Sequence[str]) -> str:
    """`ended`: the command had written all before the kill, and refuses to replace its results."""
    if found:
        return "refused" if status else "lost"
    return "ended" if status else "equal"


def measure_case(
    command: Command, name: str, work: Path, result: Mapping[str, Any], num_left: int, seed: int, server: Server | None
) -> dict[str, Any]:
    """Kill a command at most `num_left` times; a run that ends before its moment has come counts for none."""
    draws = random.Random(f"{seed} {name} {result['num_tries']}")
    times = Times(**result["seconds"])
    num_moments = min(draws.randint(1, MOST_KILLS_IN_A_ROW), num_left)
    moments = [times.draw(draws, draws.random() < 0.5) for _ in range(num_moments)]
    case = run_with_kills(command, work / "whole" / name, work / "killed" / name, moments, server)
    print(f"{name}: {len(case['kills'])} kills, {case['outcome']} {case['differences']}", flush=True)
    return case


def _run_whole_until(
    name: str, known: Mapping[str, Command], work: Path, results: dict[str, Any], server: Server | None
) -> None:
    """This command and those before it, which it may read from; unless they have run."""
    names = list(known)
    for each in names[: names.index(name) + 1]:
        if each not in results:
            print(f"=== {each}, whole", flush=True)
            times = run_whole(known[each], work / "whole" / each, server)
            results[each] = {"seconds": vars(times), "num_tries": 0, "cases": []}


def shares(num_kills: int, known: Mapping[str, Command]) -> dict[str, int]:
    """Kills of each command, in proportion to their weights; roundings go to the first."""
    whole = sum(command.weight for command in known.values())
    counts = {name: int(num_kills * command.weight / whole) for name, command in known.items()}
    left = num_kills - sum(counts.values())
    return {name: number + (index < left) for index, (name, number) in enumerate(counts.items())}


def measure(arguments: BenchmarkArguments) -> dict[str, Any]:
    with Server(environment_of(Path(arguments.output_dir), {})) as server:
        return measure_commands(arguments, commands(arguments.seed), server)


def measure_commands(
    arguments: BenchmarkArguments, known: Mapping[str, Command], server: Server | None = None
) -> dict[str, Any]:
    """
    All commands in turn, until each has had its kills; what earlier runs have done is kept. Those that start others
    come after the rest.
    """
    work = Path(arguments.output_dir)
    results = _kept_results(work, {name: getattr(arguments, name) for name in ("num_kills", "seed")})
    left = shares(arguments.num_kills, known)
    for name, result in results["commands"].items():
        left[name] -= count(result["cases"], *OUTCOMES)
    while any(left.values()):
        for name in sorted(filter(left.get, left), key=lambda name: -known[name].weight):
            _run_whole_until(name, known, work, results["commands"], server)
            result = results["commands"][name]
            case = measure_case(known[name], name, work, result, left[name], arguments.seed, server)
            result["num_tries"] += 1
            if case["kills"]:
                result["cases"].append(case)
                left[name] -= len(case["kills"])
            write_json(work / RESULTS_FILE, results)
    return results


def _kept_results(work: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """
    What earlier runs finished.

    Raises:
        ValueError: if it was with other arguments.
    """
    file = work / RESULTS_FILE
    if not file.is_file():
        versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
        return {"machine": f"{processor_name()}, {versions}", "arguments": dict(values), "commands": {}}
    results = json.loads(file.read_text(encoding="utf-8"))
    check_sizes(work, results["arguments"], values)
    return results


# The report


def count(cases: Sequence[Mapping[str, Any]], *outcomes: str) -> int:
    """Kills with one of these outcomes; several kills in a row share theirs."""
    return sum(len(case["kills"]) for case in cases if case["outcome"] in outcomes)


def in_work(cases: Sequence[Mapping[str, Any]]) -> int:
    return sum(kill["in_work"] for case in cases for kill in case["kills"])


def remarks(cases: Sequence[Mapping[str, Any]]) -> str:
    texts = []
    if num_ended := sum(case["outcome"] == "ended" for case in cases):
        texts.append(f"{num_ended} times killed after its last file: then says that the folder is not empty")
    if lost := sorted({name for case in cases for name in case["differences"]}):
        texts.append(f"differs: {', '.join(lost)}")
    if num_left := sum(bool(case["leavings"]) for case in cases):
        texts.append(f"{num_left} times a half-written file under a name of its own stays")
    return "; ".join(texts)


def _cells(name: str, cases: Sequence[Mapping[str, Any]], seconds: str, text: str) -> list[str]:
    counts = (count(cases, "equal", "ended"), count(cases, "lost"), count(cases, "refused"))
    num_kills = sum(len(case["kills"]) for case in cases)
    return [name, seconds, *map(str, (num_kills, in_work(cases), *counts)), text]


def _still_to_come(num_kills: int, cases: Sequence[Mapping[str, Any]]) -> str:
    num_left = num_kills - count(cases, *OUTCOMES)
    return f"{num_left} are still to come" if num_left else ""


def format_report(report: Mapping[str, Any]) -> str:
    lines = [f"On {report['machine']}:", "", f"    {command_line('kills.py', report['arguments'])}", ""]
    lines += heading("command", "seconds", "kills", "in its work", "equal", "lost", "refused", "remarks")
    rows = [
        _cells(f"`flallm {name}`", result["cases"], f"{result['seconds']['on_a_clock']:.1f}", remarks(result["cases"]))
        for name, result in report["commands"].items()
    ]
    every_case = [case for result in report["commands"].values() for case in result["cases"]]
    rows.append(_cells("all", every_case, "", _still_to_come(report["arguments"]["num_kills"], every_case)))
    return "\n".join([*lines, *(f"| {' | '.join(cells)} |" for cells in rows)])


def main(argv: Sequence[str] | None = None) -> int:
    return run_benchmark(argv, BenchmarkArguments, __doc__, measure, format_report, TABLE_START, FIGURES)


if __name__ == "__main__":
    sys.exit(main())
