"""A command for the tests of a cluster's processes, which imports nothing heavy."""

import os
import socket
import time
from pathlib import Path


def main(argv: list[str]) -> int:
    """Meet the other process, and write down what this one knows; `lose one` ends the second one the first time."""
    folder, what = Path(argv[0]), argv[1]
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    has_ended = folder / "ended"
    if rank == 1 and (what == "lose all" or not has_ended.exists()):
        has_ended.touch()
        os._exit(1)
    met = _meet(rank)
    (folder / f"rank_{rank}").write_text(f"rank {rank} of {size}, {met} together")
    return 7 * rank


def _meet(rank: int) -> int:
    """At the address that all were given -> how many came"""
    place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if rank == 0:
        with socket.create_server(place) as server:
            server.settimeout(60)
            server.accept()[0].close()
        return 2
    for _ in range(600):
        try:
            socket.create_connection(place, 1).close()
            return 2
        except OSError:
            time.sleep(0.1)
    return 1
