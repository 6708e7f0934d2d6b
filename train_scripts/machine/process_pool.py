"""
A pool of worker processes, shared by all commands. Imports nothing heavy, because every worker imports it.

Workers are spawned, since forking a process that has threads (torch, tqdm) can hang. Each has its own pipe and handles
one task at a time: if a worker dies, as C decoders can make it, only that task is lost. Workers do not re-run the
caller's script unless the function is defined in it, so the script needs no `if __name__ == "__main__":`.
"""

import math
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from multiprocessing import connection, resource_tracker
from typing import Any, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

SPAWN = multiprocessing.get_context("spawn")
MOST_WORKERS = 256  # or twice the cores; a larger number is a typing error and would fill the memory
SECONDS_TO_END = 2.0  # time for a terminated worker to remove its half-written file
NO_TASK = object()


def most_workers() -> int:
    return max(MOST_WORKERS, 2 * (os.cpu_count() or 1))


def check_num_workers(name: str, value: int) -> None:
    """
    Raises:
        ValueError: if the number of processes is out of range; the message begins with `name`, the name of the flag.
    """
    if not 1 <= value <= most_workers():
        raise ValueError(f"{name} must be from 1 to {most_workers()}, got {value}.")


def run_in_processes(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    num_workers: int,
    lost: Callable[[Task, str], Result],
    seconds_for_a_task: float = math.inf,
) -> Iterator[tuple[Task, Result]]:
    """
    Run `function(task)` for each task and yield each task with its result, in the order in which they finish.

    Args:
        function: must be importable by name in the workers; tasks and results are sent through a pipe.
        tasks: taken one at a time, whenever a worker is free.
        num_workers: maximum number of processes; no more are started than there are tasks.
        lost: makes the result for a task whose worker died or timed out, given the task and what happened.
        seconds_for_a_task: timeout after which its worker is terminated.

    Raises:
        ValueError: for less than one process, or far too many.
        ChildProcessError: if workers die before they can take a task.
        Exception: whatever `function` raised, with the worker's traceback as a note. All workers are terminated.
    """
    pool = _Pool(function, tasks, num_workers, lost, seconds_for_a_task)
    try:
        yield from pool.run()
    finally:
        pool.end()


class _Worker:
    """A process, our end of its pipe, and its current task."""

    def __init__(self, function: Callable[[Any], Any], runs_script: bool):
        self.connection, other_side = SPAWN.Pipe()
        self.process = SPAWN.Process(target=_work, args=(function, other_side), daemon=True)
        try:
            with _without_keyboard_interrupts(), _script_hidden(not runs_script):
                self.process.start()
        except BaseException:
            self.connection.close()
            raise
        finally:
            other_side.close()
        self.is_ready = False
        self.task: Any = NO_TASK
        self.deadline = math.inf

    def give(self, task: Any, seconds: float) -> None:
        self.task, self.deadline = task, time.monotonic() + seconds
        self.connection.send(task)

    def close(self) -> None:
        """Once its pipe is closed, the worker ends by itself."""
        self.connection.close()


class _Pool:
    def __init__(
        self,
        function: Callable[[Any], Any],
        tasks: Iterable[Any],
        num_workers: int,
        lost: Callable[[Any, str], Any],
        seconds_for_a_task: float,
    ):
        check_num_workers("num_workers", num_workers)
        self._function = function
        self._tasks = iter(tasks)
        self._given_back = list(islice(self._tasks, num_workers))
        self._lost = lost
        self._seconds_for_a_task = seconds_for_a_task
        sources = (getattr(function, "func", function), *map(type, self._given_back[:1]))
        self._runs_script = any(source.__module__ == "__main__" for source in sources)
        self._workers: list[_Worker] = []
        self._leaving: list[_Worker] = []

    def run(self) -> Iterator[tuple[Any, Any]]:
        for _ in range(len(self._given_back)):
            self._start_worker()
        while self._is_work_left():
            soonest = min(worker.deadline for worker in self._workers)
            seconds = None if soonest == math.inf else max(soonest - time.monotonic(), 0)
            waiting = {worker.connection: worker for worker in self._workers}
            for ready in connection.wait(list(waiting), seconds):
                yield from self._answer_of(waiting[ready])
            for worker in self._workers[:]:
                if worker.deadline <= time.monotonic() and not worker.connection.poll():
                    yield self._end_late(worker)

    def _is_work_left(self) -> bool:
        return any(worker.task is not NO_TASK for worker in self._workers) or self._is_task_waiting()

    def _is_task_waiting(self) -> bool:
        task = self._next_task()
        if task is not NO_TASK:
            self._given_back.insert(0, task)
        return task is not NO_TASK

    def _start_worker(self) -> None:
        try:
            self._workers.append(_Worker(self._function, self._runs_script))
        except OSError:  # too many processes or open files: the other workers do the work
            if not self._workers:
                raise

    def _answer_of(self, worker: _Worker) -> Iterator[tuple[Any, Any]]:
        try:
            answer = worker.connection.recv()
        except (EOFError, OSError):
            yield from self._replace(worker)
            return
        # An exception that fails to unpickle.
        except Exception as error:
            raise RuntimeError(f"The answer of a worker process cannot be read: {error!r}.") from error
        task, worker.task, worker.deadline = worker.task, NO_TASK, math.inf
        worker.is_ready = True
        self._give_next(worker)
        if answer is None:
            return
        error, result = answer
        if error is not None:
            raise error
        yield task, result

    def _next_task(self) -> Any:
        return self._given_back.pop(0) if self._given_back else next(self._tasks, NO_TASK)

    def _give_next(self, worker: _Worker) -> None:
        task = self._next_task()
        if task is NO_TASK:
            self._workers.remove(worker)
            self._leaving.append(worker)
            worker.close()
            return
        try:
            worker.give(task, self._seconds_for_a_task)
        except OSError:  # the worker died while idle: not the fault of this task
            worker.task = NO_TASK
            self._given_back.append(task)

    def _replace(self, worker: _Worker) -> Iterator[tuple[Any, Any]]:
        """Replace a dead worker if there is work left, unless it died before it could take a task."""
        self._remove(worker)
        if not worker.is_ready:
            if not self._workers and self._is_task_waiting():
                raise ChildProcessError(_why_no_worker_begins(worker.process.exitcode))
            return
        self._start_for_waiting_tasks()
        if worker.task is not NO_TASK:
            yield worker.task, self._lost(worker.task, how_it_ended(worker.process.exitcode))

    def _end_late(self, worker: _Worker) -> tuple[Any, Any]:
        worker.process.kill()
        self._remove(worker)
        self._start_for_waiting_tasks()
        return worker.task, self._lost(worker.task, f"it took longer than {self._seconds_for_a_task:g} s")

    def _start_for_waiting_tasks(self) -> None:
        if self._is_task_waiting():
            self._start_worker()

    def _remove(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.close()
        worker.process.join()

    def end(self) -> None:
        for worker in self._workers:
            worker.process.terminate()
        for worker in (*self._workers, *self._leaving):
            worker.close()
            worker.process.join(SECONDS_TO_END)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()


def how_it_ended(exit_code: int) -> str:
    """In words; negative exit codes mean signals."""
    if exit_code >= 0:
        return f"its process ended with exit status {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    why = ", as happens when memory runs out" if name == "SIGKILL" else ""
    return f"its process was killed by {name}{why}"


def _why_no_worker_begins(exit_code: int) -> str:
    return (
        f"No worker process could start ({how_it_ended(exit_code)}). Its output is above. If a script calls this, put "
        'its code under `if __name__ == "__main__":`. If memory is short, use fewer processes.'
    )


@contextmanager
def _without_keyboard_interrupts() -> Iterator[None]:
    """Child processes inherit this: Ctrl-C reaches all of them, but only the process that was called responds."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # otherwise it starts inside this block and unblocks interrupts again
    earlier = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, earlier)


@contextmanager
def _script_hidden(is_hidden: bool) -> Iterator[None]:
    """A spawned process re-runs the script that `__main__` refers to, but a notebook or stdin cannot be run."""
    script = sys.modules["__main__"]
    if is_hidden:
        sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


# In a worker


def _work(function: Callable[[Any], Any], pipe: connection.Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that half-written files are removed
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _answer_all(function, pipe)
    except SystemExit as leaving:  # skip Python's own shutdown, which takes seconds once torch is imported
        sys.stderr.flush()
        os._exit(leaving.code if isinstance(leaving.code, int) else 1)


def _answer_all(function: Callable[[Any], Any], pipe: connection.Connection) -> None:
    answer = None
    while True:
        try:
            _send(pipe, answer)
            task = pipe.recv()
        except (EOFError, OSError):
            return
        except Exception as error:
            answer = error, None
            continue
        answer = answer_of(function, task)


def answer_of(function: Callable[[Any], Any], task: Any) -> tuple[Exception | None, Any]:
    """What it raised, with its traceback as a note, or None, and the result."""
    try:
        return None, function(task)
    except Exception as error:
        error.add_note(f"In a worker process:\n{traceback.format_exc()}")
        return error, None


def _send(pipe: connection.Connection, answer: tuple[Exception | None, Any] | None) -> None:
    try:
        pipe.send(answer)
    except OSError:
        raise
    except Exception as error:
        pipe.send((TypeError(f"The result {answer!r:.300} cannot be sent: {error}."), None))


def _end_with_parent() -> None:
    """Even in the middle of a long task, if the parent was killed."""
    multiprocessing.parent_process().join()
    os._exit(1)
