"""The process pool: a dying worker loses only its task, a script needs no main guard, Ctrl-C ends all."""

import importlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pool_tasks
import pytest

from train_scripts.machine.process_pool import MOST_WORKERS, check_num_workers, run_in_processes

ROOT = Path(__file__).resolve().parent.parent


def results_of(tasks: list[str], num_workers: int = 2, **options) -> dict[str, str]:
    return dict(run_in_processes(pool_tasks.do, tasks, num_workers, lambda task, why: f"LOST {why}", **options))


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_worker_that_dies_costs_its_task_only(num_workers):
    deaths = {
        "exit 5": "LOST its process ended with exit status 5",
        "exit 0": "LOST its process ended with exit status 0",
        "kill SIGKILL": "LOST its process was killed by SIGKILL, as happens when memory runs out",
        "kill SIGTERM": "LOST its process ended with exit status 1",
        "crash": "LOST its process was killed by SIGSEGV",
        "leave": "LOST its process ended with exit status 3",
    }
    healthy = {f"double {number}": str(2 * number) for number in range(6)}
    tasks = [task for pair in zip(deaths, healthy, strict=True) for task in pair]
    assert results_of(tasks, num_workers) == deaths | healthy


def test_a_task_that_takes_too_long_costs_itself_only():
    started = time.monotonic()
    assert results_of(["sleep 600", "double 1", "double 2"], seconds_for_a_task=1) == {
        "sleep 600": "LOST it took longer than 1 s",
        "double 1": "2",
        "double 2": "4",
    }
    assert time.monotonic() - started < 60


def test_without_tasks_nothing_is_started():
    assert results_of([]) == {}


def test_tasks_are_taken_when_there_is_a_worker_for_them():
    taken = []

    def tasks():
        for number in range(50):
            taken.append(number)
            yield f"double {number}"

    results = run_in_processes(pool_tasks.do, tasks(), 2, lambda task, why: why)
    next(results)
    assert len(taken) <= 4
    results.close()


def test_an_error_ends_all_and_shows_where_it_was_raised():
    with pytest.raises(ValueError) as caught:
        results_of(["raise broken", "sleep 600", "double 1"])
    assert str(caught.value) == "broken" and "in do\n" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("task", "error", "text"),
    [
        ("unsendable", TypeError, "cannot be sent: only here."),
        ("odd", RuntimeError, "The answer of a worker process cannot be read: "),
    ],
)
def test_what_cannot_be_sent_is_an_error_of_its_own(task, error, text):
    with pytest.raises(error, match=re.escape(text)):
        results_of([task, "double 1"])


def test_workers_import_nothing_heavy():
    assert results_of(["torch"]) == {"torch": "False"}


SCRIPT = """
import sys
sys.path[:0] = {path!r}
import pool_tasks
from train_scripts.machine.process_pool import run_in_processes
print("runs")
print(dict(run_in_processes({function}, ["double 4", "exit 1"], 2, lambda task, why: "LOST " + why)))
"""


def python(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60, **options)


@pytest.mark.parametrize("way", ["file", "stdin", "-c"])
def test_a_script_needs_no_main_guard(way, tmp_path):
    script = SCRIPT.format(path=[str(ROOT), str(ROOT / "tests")], function="pool_tasks.do")
    (tmp_path / "script.py").write_text(script)
    arguments = {"file": ["script.py"], "stdin": ["-"], "-c": ["-c", script]}[way]
    result = python(*arguments, cwd=tmp_path, input=script if way == "stdin" else None)
    expected = {"double 4": "8", "exit 1": "LOST its process ended with exit status 1"}
    assert result.stdout.splitlines()[0] == "runs" and pairs_of(result.stdout.splitlines()[1]) == expected
    assert len(result.stdout.splitlines()) == 2 and result.stderr == ""


def pairs_of(text: str) -> dict[str, str]:
    return dict(re.findall(r"'([^']*)': '([^']*)'", text))


def test_functions_of_the_script_itself_need_the_guard_and_are_told_so(tmp_path):
    own = "def own(task):\n    return pool_tasks.do(task)\n"
    script = SCRIPT.format(path=[str(ROOT), str(ROOT / "tests")], function="own")
    head, tail = script.split("print", 1)
    (tmp_path / "bare.py").write_text(f"{head}{own}print{tail}")
    indented = f"print{tail}".replace("\n", "\n    ")
    (tmp_path / "guarded.py").write_text(f'{head}{own}if __name__ == "__main__":\n    {indented}')
    bare, guarded = python(str(tmp_path / "bare.py")), python(str(tmp_path / "guarded.py"))
    assert guarded.returncode == 0 and "'double 4': '8'" in guarded.stdout, guarded.stderr
    assert bare.returncode == 1
    assert bare.stderr.splitlines()[-1] == (
        "ChildProcessError: No worker process could start (its process ended with exit status 1). Its output is "
        'above. If a script calls this, put its code under `if __name__ == "__main__":`. '
        "If memory is short, use fewer processes."
    )


def start_slow_run(folder: Path) -> tuple[subprocess.Popen, list[int]]:
    """A run of two busy workers, and their ids; in its own process group, as in a terminal."""
    files = [folder / "first", folder / "second"]
    script = SCRIPT.format(path=[str(ROOT), str(ROOT / "tests")], function="pool_tasks.do")
    script = script.replace('["double 4", "exit 1"]', str([f"write {file}" for file in files]))
    # What a shell starts in the background ignores Ctrl-C, and so do the programs that it starts.
    script = f"import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n{script}"
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True, process_group=0)
    deadline = time.monotonic() + 60
    while not all(file.exists() and file.read_text() for file in files):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    return process, [int(file.read_text()) for file in files]


def wait_until_gone(processes: list[int]) -> None:
    deadline = time.monotonic() + 30
    while any(is_alive(process) for process in processes):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_ctrl_c_ends_all_and_leaves_no_half_written_file(tmp_path):
    process, workers = start_slow_run(tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    _, text = process.communicate(timeout=30)
    wait_until_gone(workers)
    assert process.returncode == -signal.SIGINT
    assert text.count("Traceback") == 1 and text.splitlines()[-1] == "KeyboardInterrupt"
    assert list(tmp_path.iterdir()) == []


def test_workers_of_a_killed_run_end(tmp_path):
    process, workers = start_slow_run(tmp_path)
    process.kill()
    process.communicate()
    wait_until_gone(workers)


DIES_AT_ITS_START = """
import contextlib, multiprocessing, os, signal

def is_the_first(folder):
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder)
        return True

if multiprocessing.current_process().name != "MainProcess" and {condition}:
    os.kill(os.getpid(), signal.SIGSEGV)

def do(task):
    return task
"""


def results_of_module(folder: Path, condition: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Makes workers die while they start, as when memory is short, if the condition holds."""
    name = f"dies_{condition.isidentifier()}"
    (folder / f"{name}.py").write_text(DIES_AT_ITS_START.format(condition=condition))
    monkeypatch.syspath_prepend(folder)
    return dict(run_in_processes(importlib.import_module(name).do, ["a", "b", "c"], 2, lambda task, why: why))


def test_workers_that_cannot_begin_are_no_fault_of_a_task(tmp_path, monkeypatch):
    text = "No worker process could start (its process was killed by SIGSEGV). Its output is above. "
    with pytest.raises(ChildProcessError, match=re.escape(text)):
        results_of_module(tmp_path, "True", monkeypatch)


def test_where_one_worker_cannot_begin_another_does_its_work(tmp_path, monkeypatch):
    first = f"is_the_first({str(tmp_path / 'made')!r})"
    assert results_of_module(tmp_path, first, monkeypatch) == {"a": "a", "b": "b", "c": "c"}


@pytest.mark.parametrize("value", [0, -1, 10**6])
def test_numbers_of_workers_that_cannot_be_meant(value):
    most = max(MOST_WORKERS, 2 * os.cpu_count())
    with pytest.raises(ValueError, match=re.escape(f"--num_workers must be from 1 to {most}, got {value}.")):
        check_num_workers("--num_workers", value)
    with pytest.raises(ValueError, match=re.escape(f"num_workers must be from 1 to {most}, got {value}.")):
        results_of(["double 1"], num_workers=value)


def test_an_answer_that_waited_for_its_reader_is_not_late():
    results = run_in_processes(pool_tasks.do, ["double 1", "double 2", "double 3"], 2, lambda task, why: why, 0.5)
    assert {task: time.sleep(0.7) or answer for task, answer in results} == {
        "double 1": "2", "double 2": "4", "double 3": "6",
    }  # fmt: skip
