"""
Runs a model that `flallm export` wrote, without torch and transformers. It is copied into the exported folder, beside
the readers of `processing/`, and runs only there:

    import sys; sys.path.insert(0, "exported")
    from flallm_runner import load

    load()("clip.mp4")  # {"translation_text": "..."}
"""

from pathlib import Path
from typing import Any

from .search import Generation


def load(folder: str | Path | None = None, **options: Any) -> "Translator":  # noqa: F821
    """The exported model in a folder, by default the one that holds this program; `options` as of `Translator`."""
    from .translator import Translator

    return Translator(Path(__file__).resolve().parent.parent if folder is None else folder, **options)


__all__ = ["Generation", "load"]
