"""Shared by all commands: which errors become one line, the exit statuses, and the message after Ctrl-C."""

import argparse
import contextlib
import difflib
import errno
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

DEBUG_VARIABLE = "FLALLM_DEBUG"
DEBUG_HELP = f"--debug, or {DEBUG_VARIABLE}=1, shows the traceback behind an error."
# Values of the Trainer's own --debug, which keeps its meaning.
DEBUG_OF_THE_TRAINER = ("underflow_overflow", "tpu_metrics_debug")

# Flags of earlier versions, and their new names: the first of these that the command has.
OLD_FLAGS = {
    "model_name_or_path": ("model", "text_model_name_or_path"),
    "evaluation_split": ("split",),
    "splits": ("split",),
    "language": ("spoken_language",),
    # Of the Trainer, which the training commands still have.
    "per_device_eval_batch_size": ("batch_size",),
    "generation_num_beams": ("num_beams",),
    "dataloader_num_workers": ("num_workers",),
    "use_cpu": ("device",),
}

GO_ON_TRAINING = (
    "Run the same command with --resume_from_checkpoint auto to go on from its last checkpoint, or from the beginning "
    "if there is none."
)
START_ANEW = "Delete the output folder and run the same command again."

MISTAKE_OF_THE_USER, INTERRUPTED, TERMINATED = 2, 130, 143

OUR_FOLDERS = tuple(
    Path(__file__).resolve().parents[2] / name
    for name in ("benchmarks", "exported_runner", "modeling_flallm", "processing", "spaces_demo", "train_scripts")
)
OURS_IN_A_COPY = "sign_language_translation_score.py"  # the `evaluate` library runs copies of metrics
FRAME_OF_TRACEBACK = re.compile(r'^\s*File "([^"]+)", line \d+, in .*\n\s*(.*)', re.MULTILINE)
NO_SPACE = ("No space left on device", "Disk quota exceeded", "PytorchStreamWriter failed writing")


class Terminated(KeyboardInterrupt):
    """SIGTERM, which schedulers and `kill` use to end a process."""


class CommandParser(argparse.ArgumentParser):
    """Reports a mistake in the command line in one sentence, and suggests the flag that was probably meant."""

    def __init__(self, **options: Any):
        super().__init__(**{"allow_abbrev": False, "epilog": DEBUG_HELP, **options})

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        return super().parse_known_args(list(map(underscored, sys.argv[1:] if args is None else args)), namespace)

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        arguments, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flags = [flag.lstrip("-") for action in self._actions for flag in action.option_strings]
            self.error(unknown_text("flag", unknown[0].lstrip("-"), flags))
        return arguments

    def error(self, message: str) -> NoReturn:
        self.exit(MISTAKE_OF_THE_USER, f"error: {message}\n")


def underscored(argument: str) -> str:
    """`--frame-size=3` -> `--frame_size=3`: flags may be spelled either way."""
    name, equals, value = argument.partition("=")
    return f"--{name[2:].replace('-', '_')}{equals}{value}" if name.startswith("--") else argument


def unknown_text(kind: str, name: str, names: Sequence[str]) -> str:
    """The message for a name that is not in `names`."""
    name = name.split("=")[0]
    renamed = next((new for new in OLD_FLAGS.get(name, ()) if new in names), None)
    if renamed is not None:
        return f"{kind} {name!r} is {renamed!r} now."
    opposite = name.removeprefix("no_")
    if opposite != name and opposite in names:
        return f"unknown {kind} {name!r}. Write --{opposite} False."
    close = difflib.get_close_matches(name, names, n=1)
    return f"unknown {kind} {name!r}." + (f" Did you mean {close[0]!r}?" if close else " See --help for all of them.")


def run_command(
    command: Callable[[list[str]], Any],
    argv: Sequence[str] | None = None,
    go_on: str = "Run the same command again.",
) -> int:
    """
    Run a command and return its exit status: the command's own return value if it is an int, else 0; 2 after a user
    error, which is printed to stderr as one line; 130 and 143 after Ctrl-C and SIGTERM, with one line on how to resume.
    Other exceptions propagate: they are not the user's fault, and their traceback helps.

    `--debug` anywhere among the arguments, or the variable FLALLM_DEBUG, shows the traceback behind that one line.

    Args:
        argv: by default those of the process.
        go_on: how to resume after an interruption.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    others = _without_debug(given)
    with _debugging() if len(others) < len(given) else contextlib.nullcontext():
        return _run(command, others, go_on)


def _run(command: Callable[[list[str]], Any], argv: list[str], go_on: str) -> int:
    try:
        with _sigterm_as_interrupt():
            result = command(argv)
        _leave_other_processes()
    except KeyboardInterrupt as interrupt:
        show_traceback(interrupt)
        print(f"\nStopped. {go_on}", file=sys.stderr)
        return TERMINATED if isinstance(interrupt, Terminated) else INTERRUPTED
    except SystemExit as end:
        if end.code not in (None, 0) and end.__context__ is not None:
            show_traceback(end.__context__)
        raise
    except Exception as error:
        if not is_mistake_of_the_user(error):
            raise
        show_traceback(error)
        print(f"error: {_one_sentence(error)}", file=sys.stderr)
        return MISTAKE_OF_THE_USER
    return result if isinstance(result, int) else 0


def _leave_other_processes() -> None:
    """Under torchrun a process that ends inside its group may be aborted by the group's threads, its work done."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def _without_debug(argv: list[str]) -> list[str]:
    following = [*argv, ""][1:]
    return [
        argument
        for argument, value in zip(argv, following, strict=True)
        if argument != "--debug" or value in DEBUG_OF_THE_TRAINER
    ]


@contextlib.contextmanager
def _debugging() -> Iterator[None]:
    """Also affects the processes we start, which inherit the variable."""
    before = os.environ.get(DEBUG_VARIABLE)
    os.environ[DEBUG_VARIABLE] = "1"
    try:
        yield
    finally:
        del os.environ[DEBUG_VARIABLE]
        if before is not None:
            os.environ[DEBUG_VARIABLE] = before


def show_traceback(error: BaseException) -> None:
    """If requested with `--debug`."""
    if os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0"):
        traceback.print_exception(error)


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Files are closed and unfinished ones deleted, as after Ctrl-C. Child processes end as usual."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()

    def end(number: int, frame: Any) -> None:
        if os.getpid() == process:
            raise Terminated
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    previous = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def is_mistake_of_the_user(error: BaseException) -> bool:
    """Whether its text says what to fix: ours, the system's about a file or the network, or that of a full disk."""
    from huggingface_hub.errors import StrictDataclassError  # imported here to keep `--help` fast

    return isinstance(error, (OSError, StrictDataclassError)) or _is_raised_by_us(error) or _is_full_disk(error)


def _is_raised_by_us(error: BaseException) -> bool:
    """Whether our code raised it, including in a DataLoader's worker process, which sends its traceback."""
    frames = [(frame.filename, frame.line) for frame in traceback.extract_tb(error.__traceback__)]
    for text in (str(error), str(error.__cause__)):
        if "Traceback (most recent call last):" in text:
            frames = FRAME_OF_TRACEBACK.findall(text) or frames
    if not frames:
        return False
    path, line = Path(frames[-1][0]).resolve(), frames[-1][1] or ""
    is_ours = path.name == OURS_IN_A_COPY or any(path.is_relative_to(folder) for folder in OUR_FOLDERS)
    return is_ours and line.startswith("raise")


def _is_full_disk(error: BaseException) -> bool:
    return any(
        getattr(cause, "errno", None) in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
        or any(text in str(cause) for text in NO_SPACE)
        for cause in _with_causes(error)
    )


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _one_sentence(error: BaseException) -> str:
    """The text of an error on one line, without the traceback that a DataLoader's worker process prepends."""
    lines = [line.strip() for line in str(error).strip().splitlines()]
    if "Original Traceback (most recent call last):" in lines:
        return lines[-1].partition(": ")[2]
    text = " ".join(lines) or type(error).__name__
    if _is_full_disk(error) and not any(said in text.lower() for said in ("disk space", "disk is full")):
        text += ". The disk is full: make room and run the same command again."
    return text
