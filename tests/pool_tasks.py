"""Tasks for the tests of the process pool. Imports nothing heavy, because every worker imports it."""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path


class OnlyHere:
    """Cannot be sent from a worker."""

    def __reduce__(self):
        raise TypeError("only here")


class OddError(Exception):
    """Cannot be recreated from its arguments, like some errors of libraries."""

    def __init__(self, first, second):
        super().__init__("odd")


class EndsItsProcess:
    """A path that kills the process that looks at it, as a bug in a decoder would."""

    def resolve(self):
        os._exit(1)


class LethalFile(type(Path())):
    """The same when it is opened."""

    def __fspath__(self):
        os._exit(1)


class EndsItsReceiver:
    """A path that ends the process to which it is sent."""

    def __str__(self) -> str:
        return "deadly.mp4"

    def __reduce__(self):
        return os._exit, (1,)


def do(task: str) -> str:
    """`task` says what to do; `double 3` gives 6."""
    what, _, value = task.partition(" ")
    match what:
        case "exit":
            os._exit(int(value))
        case "kill":
            os.kill(os.getpid(), getattr(signal, value))
        case "crash":
            ctypes.string_at(0)
        case "sleep":
            time.sleep(float(value))
        case "raise":
            raise ValueError(value)
        case "odd":
            raise OddError(1, 2)
        case "leave":
            sys.exit(3)
        case "unsendable":
            return OnlyHere()
        case "torch":
            return str("torch" in sys.modules)
        case "write":
            return write_slowly(Path(value))
    return str(2 * int(value)) if what == "double" else what


def write_slowly(path: Path) -> str:
    """Removes its half-written file when it is stopped."""
    path.write_text(str(os.getpid()))
    try:
        time.sleep(600)
    finally:
        path.unlink()
    return "written"
