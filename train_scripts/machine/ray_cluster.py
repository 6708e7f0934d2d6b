"""
The machines of a Ray cluster, in place of the processes of one machine: for tasks, and for commands whose processes
know of each other. Imports nothing heavy.

All machines must have this package, and see the same files under the same names.
"""

import importlib
import math
import os
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from .process_pool import NO_TASK, answer_of

Task = TypeVar("Task")
Result = TypeVar("Result")

MOST_TRIES = 3  # of a task, or of a command, whose process was lost
SECONDS_TO_LOOK_AROUND = 1.0  # how long to wait for answers before looking for tasks that take too long
LONGEST_REASON = 300  # in characters: Ray's are pages
LOST_CLUSTER = "The Ray cluster is gone. Start it again, then run the same command again."


@dataclass(frozen=True)
class RayCluster:
    """
    Machines that share the work.

    Args:
        address: `host:port` of the cluster; "auto" for the one of this machine, "local" to start one here for a while.
        num_workers: processes; None for one on each GPU, or on each core of a cluster without GPUs.
        uses_gpus: whether the work computes with models.
        threads: cores for each process.
    """

    address: str
    num_workers: int | None = None
    uses_gpus: bool = False
    threads: int = 1

    def connect(self) -> Any:
        """
        Ray, connected.

        Raises:
            ValueError: if it is not installed, or there is no such cluster.
        """
        try:
            import ray
        except ImportError as error:
            raise ValueError("--ray_address needs Ray: pip install 'flallm[distributed]'.") from error
        if not ray.is_initialized():
            try:
                ray.init(address=self.address, logging_level="warning")
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise ValueError(
                    f"--ray_address {self.address}: there is no Ray cluster ({error}). Start one with `ray start "
                    "--head`, and join it on the other machines with `ray start --address host:port`."
                ) from error
        return ray

    def processes(self, ray: Any) -> tuple[int, dict[str, float]]:
        """
        How many, and what each of them has, as the options of an actor. If there are more than have a place now, it
        says so: the others wait until machines come, or come back.

        Raises:
            ValueError: for a cluster that has no place for any, unless `num_workers` says how many there will be.
        """
        most = self._most_workers(ray)
        number = self.num_workers or most
        if number == 0:
            raise ValueError(f"--num_threads {self.threads}: no machine of the cluster has so many cores.")
        if number > most:
            print(f"The cluster has places for {most} of {number} processes: the others wait.", file=sys.stderr)
        return number, {"num_cpus": self.threads, "num_gpus": int(self._computes_on_gpus(ray))}

    def _computes_on_gpus(self, ray: Any) -> bool:
        return self.uses_gpus and ray.cluster_resources().get("GPU", 0) >= 1

    def _most_workers(self, ray: Any) -> int:
        """A process has all of its cores, and its GPU, on one machine."""
        on_gpus = self._computes_on_gpus(ray)
        machines = [machine["Resources"] for machine in ray.nodes() if machine["Alive"]]
        by_cores = [int(machine.get("CPU", 0)) // self.threads for machine in machines]
        by_gpus = [int(machine.get("GPU", 0)) for machine in machines]
        return sum(map(min, by_cores, by_gpus)) if on_gpus else sum(by_cores)


# ---------------------------------------------------------------------------------------------------------- tasks


def run_on_ray(
    cluster: RayCluster,
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    lost: Callable[[Task, str], Result],
    seconds_for_a_task: float = math.inf,
) -> Iterator[tuple[Task, Result]]:
    """
    Like `run_in_processes`, on the machines of a cluster. A task whose process or machine is lost is tried again
    elsewhere, `MOST_TRIES` times in all; each task has exactly one result. No more tasks are under way than there are
    processes.

    Raises:
        ValueError: as `RayCluster` does.
        ChildProcessError: if no process can start, or the cluster is gone.
        Exception: whatever `function` raised, with the worker's traceback as a note.
    """
    pool = _RayPool(cluster, function, tasks, lost, seconds_for_a_task)
    try:
        yield from pool.run()
    finally:
        pool.end()


def _in_one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]} ..."


class _RayWorker:
    """In a process of the cluster."""

    def begin(self, folder: str) -> None:
        os.chdir(folder)

    def answer(self, function: Callable[[Any], Any], task: Any) -> tuple[Exception | None, Any]:
        return answer_of(function, task)


@dataclass(eq=False)
class _Busy:
    """What a process is doing: a task, or starting."""

    actor: Any
    task: Any = NO_TASK
    tries: int = 0
    deadline: float = math.inf


class _RayPool:
    def __init__(
        self,
        cluster: RayCluster,
        function: Callable[[Any], Any],
        tasks: Iterable[Any],
        lost: Callable[[Any, str], Any],
        seconds_for_a_task: float,
    ):
        self._ray = cluster.connect()
        self._function, self._lost, self._seconds_for_a_task = function, lost, seconds_for_a_task
        number, of_each = cluster.processes(self._ray)
        self._actor_class = self._ray.remote(_RayWorker).options(**of_each)
        self._tasks = ((task, 0) for task in tasks)
        self._given_back: list[tuple[Any, int]] = list(islice(self._tasks, number))
        self._busy: dict[Any, _Busy] = {}  # by what each will answer
        self._failed_starts = 0  # until one process has begun

    def run(self) -> Iterator[tuple[Any, Any]]:
        for _ in range(len(self._given_back)):
            self._start()
        while self._is_work_left():
            finished, _ = self._ray.wait(list(self._busy), timeout=SECONDS_TO_LOOK_AROUND)
            for reference in finished:
                yield from self._answer_of(reference, self._busy.pop(reference))
            for reference, busy in list(self._busy.items()):
                if busy.deadline <= time.monotonic():
                    yield self._end_late(reference, busy)

    def _is_work_left(self) -> bool:
        return any(busy.task is not NO_TASK for busy in self._busy.values()) or self._is_task_waiting()

    def _is_task_waiting(self) -> bool:
        if not self._given_back:
            self._given_back += islice(self._tasks, 1)
        return bool(self._given_back)

    def _start(self) -> None:
        """It may wait for a place in the cluster for as long as others have it."""
        actor = self._actor_class.remote()
        self._busy[actor.begin.remote(os.getcwd())] = _Busy(actor)

    def _answer_of(self, reference: Any, busy: _Busy) -> Iterator[tuple[Any, Any]]:
        try:
            answered = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError:
            raise
        except self._ray.exceptions.RayError as error:
            yield from self._replace(busy, error)
            return
        self._failed_starts = -math.inf
        self._give_next(busy.actor)
        if busy.task is NO_TASK:
            return
        error, result = answered
        if error is not None:
            raise error
        yield busy.task, result

    def _give_next(self, actor: Any) -> None:
        if not self._is_task_waiting():
            self._ray.kill(actor)
            return
        task, tries = self._given_back.pop(0)
        deadline = time.monotonic() + self._seconds_for_a_task
        self._busy[actor.answer.remote(self._function, task)] = _Busy(actor, task, tries + 1, deadline)

    def _replace(self, busy: _Busy, error: Exception) -> Iterator[tuple[Any, Any]]:
        """Of a process that was lost: its task goes to another one, unless that has been tried often enough."""
        if not self._ray.is_initialized():
            raise ChildProcessError(LOST_CLUSTER) from error
        why = _in_one_line(error)
        self._failed_starts += busy.task is NO_TASK
        if self._failed_starts >= MOST_TRIES:
            raise ChildProcessError(f"No worker process could start: {why}") from error
        if busy.task is not NO_TASK and busy.tries < MOST_TRIES:
            self._given_back.insert(0, (busy.task, busy.tries))
        if self._is_task_waiting():
            self._start()
        if busy.task is not NO_TASK and busy.tries >= MOST_TRIES:
            yield busy.task, self._lost(busy.task, f"its process was lost {MOST_TRIES} times, at last: {why}")

    def _end_late(self, reference: Any, busy: _Busy) -> tuple[Any, Any]:
        del self._busy[reference]
        self._ray.kill(busy.actor)
        if self._is_task_waiting():
            self._start()
        return busy.task, self._lost(busy.task, f"it took longer than {self._seconds_for_a_task:g} s")

    def end(self) -> None:
        if self._ray.is_initialized():
            for busy in self._busy.values():
                self._ray.kill(busy.actor)


# ------------------------------------------------------------------------- processes that know of each other


def is_one_of_several() -> bool:
    """Whether torchrun, or `run_as_processes_on_ray`, has started this process."""
    return "RANK" in os.environ


def run_as_processes_on_ray(cluster: RayCluster, module: str, argv: Sequence[str]) -> int:
    """
    Run a command in processes of a cluster, as torchrun would. If one is lost, all begin again, `MOST_TRIES` times in
    all, and go on with what the others have kept.

    Args:
        module: its `main` runs the command.

    Returns:
        int: the exit status of the command.

    Raises:
        ValueError: as `RayCluster` does.
        ChildProcessError: if processes were lost too often.
    """
    ray = cluster.connect()
    for number in range(1, MOST_TRIES + 1):
        num_processes, of_each = cluster.processes(ray)  # a machine may have gone
        process = ray.remote(_RayProcess).options(**of_each)
        actors = [process.remote() for _ in range(num_processes)]
        try:
            places = ray.get([actor.place.remote(os.getcwd()) for actor in actors])
            environments = _environments(places)
            return max(
                ray.get([actor.run.remote(module, argv, own) for actor, own in zip(actors, environments, strict=True)])
            )
        except ray.exceptions.RayTaskError:
            raise
        except ray.exceptions.RayError as error:
            why = _in_one_line(error)
            if number == MOST_TRIES or not ray.is_initialized():
                raise ChildProcessError(f"A process of the cluster was lost {number} times, at last: {why}") from error
            print(f"A process was lost; all begin again with what is kept. {why}", file=sys.stderr, flush=True)
        finally:
            for actor in actors:
                ray.kill(actor)
    raise AssertionError("every try returns or raises")


class _RayProcess:
    """In a process of the cluster."""

    def place(self, folder: str) -> tuple[str, int]:
        """-> the machine's address, and a port that nobody uses"""
        os.chdir(folder)
        address = importlib.import_module("ray").util.get_node_ip_address()
        with socket.socket() as listener:
            listener.bind((address, 0))
            return address, listener.getsockname()[1]

    def run(self, module: str, argv: list[str], environment: dict[str, str]) -> int:
        os.environ.update(environment)
        return importlib.import_module(module).main(argv)


def _environments(places: Sequence[tuple[str, int]]) -> list[dict[str, str]]:
    """The variables of torchrun for each process. It sees its own GPU alone, which is therefore always the first."""
    master, port = places[0]
    machines = [address for address, _ in places]
    return [
        {
            "RANK": str(rank),
            "WORLD_SIZE": str(len(places)),
            "LOCAL_RANK": "0",
            "LOCAL_WORLD_SIZE": str(machines.count(machine)),
            "MASTER_ADDR": master,
            "MASTER_PORT": str(port),
        }
        for rank, machine in enumerate(machines)
    ]
