"""Deleting what visitors sent: also what no list names, since its upload broke off or an earlier process ended."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_SWEEPS = 30
SECONDS_OF_A_BROKEN_UPLOAD = 5 * 60


def delete_old_files(folder: Path, seconds: float, kept: Iterable[str] = ()) -> None:
    """
    Delete every file below a folder that has not changed for so long, and uploads that broke off earlier.

    Args:
        kept: paths of files that belong to the page, such as its examples.
    """
    kept, now = set(kept), time.time()
    for parent, _, names in os.walk(folder):
        # Gradio writes an upload beside the folders of files that have come whole, and moves it when it is complete.
        limit = min(seconds, SECONDS_OF_A_BROKEN_UPLOAD) if Path(parent) == folder else seconds
        for name in names:
            path = os.path.join(parent, name)
            if path not in kept:
                _delete_if_older(path, now - limit)


def _delete_if_older(path: str, when: float) -> None:
    try:
        if os.lstat(path).st_ctime <= when:
            os.remove(path)
    except FileNotFoundError:
        pass  # moved or deleted meanwhile
    except OSError:
        logger.exception("%s is old and cannot be deleted.", path)


def keep_deleting(folder: Path, seconds: float, kept: Callable[[], Iterable[str]]) -> None:
    """From now on, in a thread, and at once what an earlier process has left."""

    def sweep() -> None:
        while True:
            try:
                delete_old_files(folder, seconds, kept())
            except Exception:
                logger.exception("Old files cannot be deleted.")
            time.sleep(SECONDS_BETWEEN_SWEEPS)

    threading.Thread(target=sweep, name="uploads", daemon=True).start()
