"""What all commands share: one line for the user's mistakes, tracebacks for the rest, exit statuses, Ctrl-C."""

import errno
import importlib
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch.utils.data import DataLoader

from train_scripts.arguments.arguments import check_new_folder, parse_arguments
from train_scripts.arguments.command_line import DEBUG_VARIABLE, Terminated, run_command
from train_scripts.commands.evaluate_model import EvaluationArguments

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
IN_USE = "error: --output_dir {} is not empty. Name a new folder, or remove this one.\n"


@pytest.fixture
def in_use(tmp_path, monkeypatch):
    """A folder that holds something."""
    monkeypatch.delenv(DEBUG_VARIABLE, raising=False)
    (tmp_path / "notes.txt").touch()
    return tmp_path


def raising(error: BaseException):
    def command(argv):
        raise error

    return command


def test_what_a_command_returns_is_its_status_if_it_is_one(capsys):
    assert run_command(lambda argv: None, []) == 0
    assert run_command(lambda argv: {"bleu4": 3.0}, []) == 0
    assert run_command(lambda argv: 1, []) == 1
    assert run_command(lambda argv: print(argv), ["--a", "b"]) == 0
    assert capsys.readouterr().out == "['--a', 'b']\n"


def test_our_own_error_is_one_line(in_use, capsys):
    assert run_command(lambda argv: check_new_folder(in_use), []) == 2
    assert capsys.readouterr() == ("", IN_USE.format(in_use))


@pytest.mark.parametrize("how", ["flag", "variable"])
def test_the_traceback_behind_it_can_be_seen(in_use, capsys, monkeypatch, how):
    if how == "variable":
        monkeypatch.setenv(DEBUG_VARIABLE, "1")
    argv = ["--debug", "--a", "b"] if how == "flag" else ["--a", "b"]
    given = []

    def command(argv):
        given.extend(argv)
        assert os.environ[DEBUG_VARIABLE] == "1"  # which the processes that a command starts inherit
        check_new_folder(in_use)

    assert run_command(command, argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("Traceback (most recent call last):") and "in check_new_folder" in error
    assert error.endswith(IN_USE.format(in_use))
    assert given == ["--a", "b"]
    assert os.environ.get(DEBUG_VARIABLE) == ("1" if how == "variable" else None)


def test_a_zero_turns_the_variable_off(in_use, capsys, monkeypatch):
    monkeypatch.setenv(DEBUG_VARIABLE, "0")
    assert run_command(lambda argv: check_new_folder(in_use), []) == 2
    assert capsys.readouterr().err == IN_USE.format(in_use)


def test_the_traceback_behind_a_mistaken_flag_can_be_seen(capsys):
    def command(argv):
        parse_arguments((EvaluationArguments,), argv, "Evaluate.")

    for argv, shows in ((["--debug"], True), ([], False)):
        with pytest.raises(SystemExit) as end:
            run_command(command, argv)
        assert end.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith("error: `--model_name_or_path` must name a trained model.\n")
        assert ("in __post_init__" in error) == shows


def test_the_trainers_own_debug_flag_stays(capsys):
    run_command(print, ["--debug", "underflow_overflow"])
    assert capsys.readouterr().out == "['--debug', 'underflow_overflow']\n"


@pytest.mark.parametrize(
    "error",
    [ValueError("of a library"), RuntimeError("of a library"), KeyError("x"), SafetensorError("x"), EOFError()],
)
def test_errors_that_are_not_the_users_are_let_through(error):
    with pytest.raises(type(error)) as caught:
        run_command(raising(error), [])
    assert caught.value is error


def test_a_value_that_our_code_trips_over_is_no_mistake_of_the_user():
    """Only a `raise` of ours has our text: this one is of `float`, called by our code."""
    from train_scripts.machine.cores import _busy_ticks

    with pytest.raises(ValueError, match="invalid literal"):
        run_command(lambda argv: _busy_ticks(["x"] * 7), [])


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "a.csv"),
            "[Errno 2] No such file or directory: 'a.csv'",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "a.csv"), "[Errno 13] Permission denied: 'a.csv'"),
        (ConnectionError("the Hub is away"), "the Hub is away"),
        (StrictDataclassError("hidden_size is no number\n  got 'x'"), "hidden_size is no number got 'x'"),
        (
            OSError(errno.ENOSPC, "No space left on device", "a.csv"),
            "[Errno 28] No space left on device: 'a.csv'. The disk is full: make room and run the same command again.",
        ),
        (
            SafetensorError("I/O error: No space left on device (os error 28)"),
            "I/O error: No space left on device (os error 28). The disk is full: make room and run the "
            "same command again.",
        ),
        (
            RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
            "PytorchStreamWriter failed writing file data/0: file write failed. The disk is full: make room "
            "and run the same command again.",
        ),
    ],
)
def test_errors_of_files_and_disks_are_one_line(error, text, capsys):
    assert run_command(raising(error), []) == 2
    assert capsys.readouterr().err == f"error: {text}\n"


class _Unreadable(torch.utils.data.Dataset):
    def __init__(self, folder):
        self.folder = folder

    def __len__(self):
        return 1

    def __getitem__(self, index):
        check_new_folder(self.folder) if self.folder else float("x")


@pytest.mark.slow
def test_errors_from_loading_processes(in_use, capsys):
    def read(folder):
        return lambda argv: list(DataLoader(_Unreadable(folder), num_workers=1))

    assert run_command(read(in_use), []) == 2
    assert capsys.readouterr().err == IN_USE.format(in_use)
    with pytest.raises(ValueError, match="could not convert string to float"):
        run_command(read(None), [])


@pytest.mark.parametrize(("interrupt", "status"), [(KeyboardInterrupt(), 130), (Terminated(), 143)])
def test_an_interrupt_ends_in_one_line_that_says_how_to_go_on(interrupt, status, capsys):
    assert run_command(raising(interrupt), [], go_on="Add --resume.") == status
    assert capsys.readouterr().err == "\nStopped. Add --resume.\n"
    assert run_command(raising(interrupt), []) == status
    assert capsys.readouterr().err == "\nStopped. Run the same command again.\n"


def test_sigterm_is_an_interrupt_and_afterwards_what_it_was(capsys):
    before = signal.getsignal(signal.SIGTERM)
    assert run_command(lambda argv: signal.raise_signal(signal.SIGTERM), []) == 143
    assert capsys.readouterr().err == "\nStopped. Run the same command again.\n"
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
def test_a_child_process_ends_at_sigterm_as_it_would():
    code = (
        "import multiprocessing, sys, time\n"
        "from train_scripts.arguments.command_line import run_command\n"
        "def command(argv):\n"
        "    here, there = multiprocessing.Pipe()\n"
        "    work = lambda: (there.send(1), time.sleep(60))\n"
        "    child = multiprocessing.get_context('fork').Process(target=work)\n"
        "    child.start()\n"
        "    here.recv()\n"
        "    child.terminate()\n"
        "    child.join()\n"
        "    print(child.exitcode)\n"
        "sys.exit(run_command(command, []))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, f"{-signal.SIGTERM}\n", "")


@pytest.mark.parametrize("command", SCRIPTS)
def test_every_command_goes_this_way(command, monkeypatch, capsys):
    """Ctrl-C in any of them, at the very beginning of its work, is one line; so are its statuses."""
    module = importlib.import_module(SCRIPTS[command].split(":")[0])
    calls = []

    def record(command, argv, go_on="Run the same command again."):
        calls.append((argv, go_on))
        return 7

    target = "train_scripts.arguments.command_line" if module.__name__.endswith("generate_corpus") else module.__name__
    monkeypatch.setattr(f"{target}.run_command", record)
    assert module.main(["--x"]) == 7
    ((argv, go_on),) = calls
    assert argv == ["--x"] and go_on.endswith(".")


def test_posix_only_modules_are_imported_nowhere_at_the_top():
    """Windows has none of them."""
    posix_only = re.compile(r"^(import|from) (resource|fcntl|pwd|grp|termios|tty|pty|syslog)\b", re.MULTILINE)
    folders = ("modeling_flallm", "processing", "train_scripts", "spaces_demo")
    found = [
        str(path.relative_to(ROOT))
        for folder in folders
        for path in sorted((ROOT / folder).rglob("*.py"))
        if posix_only.search(path.read_text(encoding="utf-8"))
    ]
    assert found == ["spaces_demo/decoding.py"]  # Spaces are Linux
