"""
Commands in processes that have imported everything: a server imports it once, and forks itself for each run.

Only then is most of a run of a tiny model its work. A forked command does what it does when a shell starts it, with its
own folder, output and process group.
"""

import contextlib
import importlib
import json
import os
import select
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

from train_scripts.__main__ import main
from train_scripts.arguments.commands import COMMANDS


class Server:
    """
    A process that has imported all commands; a context that ends it.

    Args:
        environment: of the server and all runs.
    """

    def __init__(self, environment: Mapping[str, str]):
        self._process = subprocess.Popen(
            [sys.executable, __file__], env=environment, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.wait()

    def start(self, words: Sequence[str], folder: Path, printed: Path, errors: Path) -> "ForkedRun":
        """
        Run `flallm WORDS` in a folder, with its output in two files. One run at a time.

        Raises:
            RuntimeError: if the server has died.
        """
        wanted = {"words": [*words], "folder": folder, "printed": printed, "errors": errors}
        line = json.dumps({name: value if name == "words" else str(value.absolute()) for name, value in wanted.items()})
        self._process.stdin.write(f"{line}\n".encode())
        return ForkedRun(self, self.read_number())

    def read_number(self) -> int:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"The process that starts the commands has ended: {self._process.wait()}.")
        return int(line)

    def says_something(self) -> bool:
        return bool(select.select([self._process.stdout], [], [], 0)[0])


class ForkedRun:
    """What `subprocess.Popen` has, of a run."""

    def __init__(self, server: Server, pid: int):
        self.server = server
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None and self.server.says_something():
            self.wait()
        return self.returncode

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = self.server.read_number()
        return self.returncode


# In the server


def serve() -> None:
    """Of each line of the standard input the number of the process that runs it, and in the end its exit status."""
    for command in COMMANDS.values():
        importlib.import_module(f"train_scripts.{command.module}")
    for line in sys.stdin:
        number = os.fork()
        if number == 0:
            _run(json.loads(line))
        _lead_a_group(number)
        print(number, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]), flush=True)


def _lead_a_group(number: int) -> None:
    """Called in both processes, so that neither is too late."""
    with contextlib.suppress(OSError):  # it has ended, or leads one already
        os.setpgid(number, number)


def _run(wanted: dict[str, str]) -> None:
    """Ends this process."""
    _lead_a_group(os.getpid())
    os.chdir(wanted["folder"])
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    for number, name in ((1, "printed"), (2, "errors")):
        os.dup2(os.open(wanted[name], flags), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv[1:] = wanted["words"]
    status = 1
    try:
        status = main(wanted["words"])
    except SystemExit as end:
        status = end.code
    except Exception:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # it would take as long as some commands to leave what was imported


if __name__ == "__main__":
    serve()
