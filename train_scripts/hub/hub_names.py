"""Arguments that name a folder here or a repository on the Hub: which of the two, and what is wrong with a typo."""

import difflib
import os
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

# The Hub has old repositories without an owner, such as gpt2, but takes no new ones, and nobody else has these models.
ALWAYS_WITH_OWNER = ("vision_model_name_or_path",)


def is_hub_id(name_or_path: str) -> bool:
    """Whether a name that has been loaded is a repository on the Hub, and no folder or file here."""
    return _is_valid_hub_id(name_or_path) and not Path(name_or_path).exists()


def _is_valid_hub_id(name_or_path: str) -> bool:
    try:
        validate_repo_id(name_or_path)
    except HFValidationError:
        return False
    return True


def explain_missing_folder(name_or_path: str, needs_owner: bool = False) -> str | None:
    """
    One sentence on a name that is no folder here and need not be looked for on the Hub: it is written as a path is, or
    begins with a folder that is here. `None` for all others.

    Args:
        needs_owner: whether a name without a slash is no Hub id, either.
    """
    path = Path(name_or_path)
    if path.is_dir():
        return None
    if path.exists():
        return f"{name_or_path!r} is a file. Name the folder that it lies in."
    if name_or_path.startswith("~"):
        return f"'~' is not replaced here. Write {os.path.expanduser(name_or_path)!r}."
    has_owner = "/" in name_or_path
    looks_like_a_path = name_or_path.startswith(".") or (has_owner and Path(path.parts[0]).exists())
    if _is_valid_hub_id(name_or_path) and (has_owner or not needs_owner) and not looks_like_a_path:
        return None
    return _first_missing_part(path)


def _first_missing_part(path: Path) -> str:
    parent = next(parent for parent in path.parents if parent.exists())
    missing = path.relative_to(parent).parts[0]
    beside = [child.name for child in parent.iterdir() if child.is_dir()] if parent.is_dir() else []
    where = "here" if parent == Path() else f"in {str(parent)!r}"
    close = difflib.get_close_matches(missing, beside, n=1)
    advice = f"Did you mean {str(parent / close[0])!r}?" if close else "Name a folder, or OWNER/NAME on the Hub."
    return f"there is no {missing!r} {where}. {advice}"


def check_model_names(arguments: Any) -> None:
    """
    Every argument whose name ends with `name_or_path`, before anything is loaded or the Hub is asked.

    Raises:
        ValueError: for what is no folder here and cannot be on the Hub.
    """
    for argument, name in vars(arguments).items():
        if argument.endswith("name_or_path") and name is not None:
            reason = explain_missing_folder(name, needs_owner=argument in ALWAYS_WITH_OWNER)
            if reason is not None:
                raise ValueError(f"--{argument} {name!r} is no folder here, and no model on the Hub: {reason}")
