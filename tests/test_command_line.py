"""Shared by all commands: one line for the user's mistakes, tracebacks for the rest, exit statuses, Ctrl-C."""

import dataclasses
import errno
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as distributed
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from tiny_corpus import error_of
from torch.utils.data import DataLoader

from train_scripts.__main__ import main
from train_scripts.arguments.command_line import DEBUG_VARIABLE, Terminated, run_command
from train_scripts.arguments.commands import COMMANDS
from train_scripts.arguments.completion import SHELLS, completion_script
from train_scripts.arguments.dataclass_parser import parse_arguments
from train_scripts.arguments.flag_values import check_new_folder
from train_scripts.commands.evaluate_model import EvaluationArguments

ROOT = Path(__file__).resolve().parent.parent
IN_USE = "error: --output_dir {} is not empty. Name a new folder, or remove this one.\n"


@pytest.fixture
def in_use(tmp_path, monkeypatch):
    """A folder that is not empty."""
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


def test_a_command_leaves_the_group_of_its_processes(tmp_path):
    options = {"init_method": f"file://{tmp_path / 'group'}", "rank": 0, "world_size": 1}
    assert run_command(lambda argv: distributed.init_process_group("gloo", **options), []) == 0
    assert not distributed.is_initialized()


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
        assert error.startswith("error: `--model` must name a trained model.\n")
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
            OSError(errno.ENOSPC, "No space left on device", "/disk/a.csv"),
            "[Errno 28] No space left on device: '/disk/a.csv'. The disk is full: make room and run the same command "
            "again.",
        ),
        (OSError("Not enough disk space. Needed: 3 GB"), "Not enough disk space. Needed: 3 GB"),
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


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_goes_this_way(command, monkeypatch, capsys):
    """Ctrl-C in any of them, at the very beginning of its work, is one line; so are its statuses."""
    module = importlib.import_module(f"train_scripts.{COMMANDS[command].module}")
    calls = []

    def record(command, argv, go_on="Run the same command again."):
        calls.append((argv, go_on))
        return 7

    monkeypatch.setattr(module, "run_command", record)
    assert module.main(["--x"]) == 7
    ((argv, go_on),) = calls
    assert argv == ["--x"] and go_on.endswith(".")


HELP_OF_EVERYTHING = """
import sys
from train_scripts.__main__ import main
from train_scripts.arguments.commands import COMMANDS
for line in ("--help", "train --help", "completion bash", *(f"{name} --help" for name in COMMANDS)):
    try:
        status = main(line.split())
    except SystemExit as end:
        status = end.code
    print("\\n###", line, status)
heavy = ("torch", "transformers", "datasets", "gradio", "numpy", "huggingface_hub", "peft", "accelerate", "av", "PIL")
print("heavy:", *(name for name in heavy if name in sys.modules))
"""


@pytest.fixture(scope="module")
def help_texts():
    """What each command's --help prints, by its name; and which slow packages that imports."""
    code = [sys.executable, "-c", HELP_OF_EVERYTHING]
    run = subprocess.run(code, cwd=ROOT, capture_output=True, text=True, check=True)
    *texts, heavy = re.split(r"(?m)^### |^heavy:", run.stdout)
    names = [text.partition("\n")[0] for text in texts[1:]]
    return dict(zip(names, texts, strict=False)), heavy.split()


def test_no_help_imports_what_takes_seconds(help_texts):
    texts, heavy = help_texts
    assert heavy == []
    assert [*texts] == ["--help 0", "train --help 0", "completion bash 0", *(f"{name} --help 0" for name in COMMANDS)]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_every_flag_of_a_command(name, help_texts):
    text = help_texts[0][f"{name} --help 0"]
    assert f"usage: flallm {name} " in text
    shown = {*re.findall(r"^  --(\w+)", text, re.MULTILINE)}
    defaults = COMMANDS[name].defaults
    hidden = {*defaults.fixed_flags, *defaults.idle_flags} if defaults else set()
    fields = [field for type_ in COMMANDS[name].arguments for field in dataclasses.fields(type_)]
    assert {field.name for field in fields if "positional" not in field.metadata} - hidden <= shown
    assert shown & hidden == set()
    assert ("--help-all" in text) == (defaults is not None)


def test_the_overview_names_every_command(help_texts):
    for name, command in COMMANDS.items():
        assert re.search(rf"^  {name}  +{re.escape(command.summary[:20])}", help_texts[0]["--help 0"], re.MULTILINE)
    assert "visual-initialing" in help_texts[0]["train --help 0"]


def test_all_flags_of_the_trainer_can_be_seen(capsys):
    with pytest.raises(SystemExit) as end:
        main(["train", "visual-initialing", "--help-all"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert all(f"--{name} " in text for name in ("tokenizer_name_or_path", "adam_epsilon", "hub_token"))


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], "name a command: see flallm --help."),
        (["trainslate"], "unknown command 'trainslate'. Did you mean 'translate'?"),
        (["train"], "name a training: language-model, visual-initialing, llm-fine-tuning, linguistic-pretraining, "
            "visual-contrastive-pretraining, visual-language-tuning, pose-pretraining, pose-rgb-pretraining, "
            "unified-fine-tuning, multimodal-pretraining, translation-fine-tuning, text-autoencoding, "
            "latent-diffusion."),
        (["train", "visual-tuning"], "unknown training 'visual-tuning'. Did you mean 'visual-language-tuning'?"),
        (["completion"], "flallm completion must be followed by one of bash, zsh, fish, got ''."),
        (["score", "a"], "the following arguments are required: references"),
        (["score", "a", "b"], "a is not a file. Give a text file with one segment per line."),
        (["translate", "a", "--model", "m", "--beam"], "unknown flag 'beam'. Did you mean 'num_beams'?"),
        (["evaluate", "--model_name_or_path", "m", "--dataset", "d"], "flag 'model_name_or_path' is 'model' now."),
        (["evaluate", "--model", "m", "--dataset", "d", "--evaluation-split", "dev"],
            "flag 'evaluation_split' is 'split' now."),
        (["evaluate", "--dataset", "d", "--generation_num_beams", "2"],
            "flag 'generation_num_beams' is 'num_beams' now."),
        (["evaluate", "--dataset", "d", "--dataloader-num-workers=2"],
            "flag 'dataloader_num_workers' is 'num_workers' now."),
        (["evaluate", "--dataset", "d", "--use_cpu"], "flag 'use_cpu' is 'device' now."),
        (["calibrate", "--model", "m", "--dataset", "d", "--per_device_eval_batch_size", "2"],
            "flag 'per_device_eval_batch_size' is 'batch_size' now."),
        (["trim-vocabulary", "--model_name_or_path=m"],
            "flag 'model_name_or_path' is 'text_model_name_or_path' now."),
        (["trim-vocabulary", "--splits", "dev"], "flag 'splits' is 'split' now."),
        (["score", "a", "b", "--language", "de"], "flag 'language' is 'spoken_language' now."),
        (["push", "--repo_id", "a/b", "--no_private"], "unknown flag 'no_private'. Write --private False."),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_and_status_2(argv, expected, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert error_of(main, argv, capsys) == expected


def test_a_commands_status_is_that_of_flallm(tmp_path, capsys, monkeypatch):
    for name in ("hypotheses.txt", "references.txt"):
        (tmp_path / name).write_text("one two three\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert main(["score", "hypotheses.txt", "references.txt", "--num-resamples", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_segments"] == 1
    for status in (1, 130, 143):
        monkeypatch.setattr("train_scripts.commands.score_translations.main", lambda argv, status=status: status)
        assert main(["score", "hypotheses.txt", "references.txt"]) == status


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["tr"], "train translate trim-vocabulary"),
        (["train", "visual-i"], "visual-initialing"),
        (["quickstart", "llava-slt", "--st"], "--stage1_epochs --stage2_epochs --stage3_epochs"),
        (["translate", "clip.mp4", "--long", "--format", ""], "csv jsonl text"),
        (["import-checkpoint", "--source", "g"], "gfslt_vlp"),
        (["prepare", "--source", ""], ""),
        (["train", "llm-fine-tuning", "--config", "p"], "paper_llm_fine_tuning"),
        (["completion", ""], "bash fish zsh"),
    ],
)
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes(words, expected):
    code = completion_script("bash") + '\nCOMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _flallm; echo "${COMPREPLY[@]}"'
    run = subprocess.run(["bash", "-c", code, "-", "flallm", *words], capture_output=True, text=True, check=True)
    assert " ".join(sorted(run.stdout.split())) == expected


@pytest.mark.parametrize("shell", SHELLS)
def test_every_completion_knows_every_command_and_flag(shell, capsys):
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    flag = "-l {}" if shell == "fish" else "--{}"
    assert all(word in text for name in COMMANDS for word in name.split())
    assert all(flag.format(name) in text for name in ("spoken_language", "num_train_epochs", "light_dropout"))


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
