"""How processes that read for the server are started."""

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
