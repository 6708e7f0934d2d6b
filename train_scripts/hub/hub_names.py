"""Arguments that name a local folder or a repository on the Hub: which of the two it is, and what a typo got wrong."""

import difflib
import os
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

# The Hub has a few old repositories without an owner, such as gpt2. No others can be created, and none has our models.
ALWAYS_WITH_OWNER = ("vision_model_name_or_path",)


def is_hub_id(name_or_path: str) -> bool:
    """Whether a name that has been loaded is a repository on the Hub rather than a local folder or file."""
    return _is_valid_hub_id(name_or_path) and not Path(name_or_path).exists()


def _is_valid_hub_id(name_or_path: str) -> bool:
    try:
        validate_repo_id(name_or_path)
    except HFValidationError:
        return False
    return True


def explain_missing_folder(name_or_path: str, needs_owner: bool = False) -> str | None:
    """
    One sentence about a name that is not a local folder and cannot be on the Hub: it is written like a path, or begins
    with a local folder. `None` for all other names.

    Args:
        needs_owner: whether a name without a slash is not a Hub id either.
    """
    path = Path(name_or_path)
    if path.is_dir():
        return None
    if path.exists():
        return f"{name_or_path!r} is a file. Name the folder that contains it."
    if name_or_path.startswith("~"):
        return f"'~' is not expanded here. Write {os.path.expanduser(name_or_path)!r}."
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
    Check every argument whose name ends in `name_or_path`, before loading anything or contacting the Hub.

    Raises:
        ValueError: for a name that is not a local folder and cannot be on the Hub.
    """
    for argument, value in vars(arguments).items():
        if not argument.endswith("name_or_path"):
            continue
        for name in [value] if isinstance(value, str) else value or ():
            reason = explain_missing_folder(name, needs_owner=argument in ALWAYS_WITH_OWNER)
            if reason is not None:
                raise ValueError(f"--{argument} {name!r} is neither a local folder nor a model on the Hub: {reason}")
