"""
Work in several processes, the one way in which all commands do it. Imports nothing heavy, as every worker imports it.

Workers are spawned, as forking a process with threads (torch, tqdm) can hang. Each has a pipe of its own and one task
at a time: a worker that dies, which decoders in C can bring about, costs that task and nothing else. Workers do not run
the caller's script again, so it needs no `if __name__ == "__main__":`, unless the function comes from it.
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
MOST_WORKERS = 256  # or twice the cores; more is a typing error, and would fill the memory
SECONDS_TO_END = 2.0  # in which an ended worker may remove its half-written file
NO_TASK = object()


def most_workers() -> int:
    return max(MOST_WORKERS, 2 * (os.cpu_count() or 1))


def check_num_workers(name: str, value: int) -> None:
    """
    Raises:
        ValueError: for a number of processes that cannot be meant; it begins with `name`, that of the flag.
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
    Each task with `function(task)`, in the order in which they are finished.

    Args:
        function: one that workers can import by its name; task and result are sent through a pipe.
        tasks: taken one after another, when a worker is free.
        num_workers: processes at most; no more are started than there are tasks.
        lost: makes the result of a task whose worker died or took too long, of the task and what happened.
        seconds_for_a_task: after which its worker is ended.

    Raises:
        ValueError: for fewer than one process, or far too many.
        ChildProcessError: if workers die before they can take a task.
        Exception: what `function` raised, with the worker's traceback as a note. All workers are ended then.
    """
    pool = _Pool(function, tasks, num_workers, lost, seconds_for_a_task)
    try:
        yield from pool.run()
    finally:
        pool.end()


class _Worker:
    """A process, this side of its pipe, and the task that it is at."""

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
        """Without a pipe it ends by itself."""
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
        except OSError:  # too many processes or open files: the others do the work
            if not self._workers:
                raise

    def _answer_of(self, worker: _Worker) -> Iterator[tuple[Any, Any]]:
        try:
            answer = worker.connection.recv()
        except (EOFError, OSError):
            yield from self._replace(worker)
            return
        # An error that its pickled form does not give again.
        except Exception as error:
            raise RuntimeError(f"What a worker process answered cannot be read: {error!r}.") from error
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
        except OSError:  # it died while it waited: no fault of this task
            worker.task = NO_TASK
            self._given_back.append(task)

    def _replace(self, worker: _Worker) -> Iterator[tuple[Any, Any]]:
        """A dead worker by a new one, if there is work. One that could not even begin is not tried again."""
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
    """In words; negative exit codes are signals."""
    if exit_code >= 0:
        return f"its process ended with exit status {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    why = ", as happens when memory runs out" if name == "SIGKILL" else ""
    return f"its process was ended by {name}{why}"


def _why_no_worker_begins(exit_code: int) -> str:
    return (
        f"No worker process could begin ({how_it_ended(exit_code)}). What it printed stands above. If a script calls "
        'this, put what the script does under `if __name__ == "__main__":`. If memory is short, use fewer processes.'
    )


@contextmanager
def _without_keyboard_interrupts() -> Iterator[None]:
    """A process that is started inherits it: Ctrl-C reaches all, and only the one that was called answers it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # else it is started in between, and lets interrupts through again
    earlier = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, earlier)


@contextmanager
def _script_hidden(is_hidden: bool) -> Iterator[None]:
    """A process that is spawned runs the script again that `__main__` tells of: a notebook or stdin cannot be run."""
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
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that files that are being written are removed
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _answer_all(function, pipe)
    except SystemExit as leaving:  # without what Python does at its end, which takes seconds after importing torch
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
        answer = _answer(function, task)


def _answer(function: Callable[[Any], Any], task: Any) -> tuple[Exception | None, Any]:
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
    """Also in the middle of a long task, if the run was killed."""
    multiprocessing.parent_process().join()
    os._exit(1)
