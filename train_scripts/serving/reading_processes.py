"""How processes that read for the server are started, and what they may not do."""

import multiprocessing
from multiprocessing.context import ForkServerContext

IMPORTED_ONCE = "train_scripts.runs.trained_models"  # slow, and hundreds of megabytes


def process_context() -> ForkServerContext:
    """
    Processes are forked from one that has imported what they need, and share its memory. It has no threads and no
    accelerator; a fork of the server itself would copy locks and the accelerator's state.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([IMPORTED_ONCE])
    return context


def limit_this_process(memory_in_bytes: int | None = None) -> None:
    """
    For a process that reads what strangers send, once it has loaded what it needs: it writes no file from then on, not
    even a log, and takes so much memory at most.
    """
    import resource  # not on Windows

    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory_in_bytes is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (memory_in_bytes, memory_in_bytes))
