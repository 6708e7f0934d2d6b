"""The clips that the rows of a data set name, as `flallm inspect` finds them: without stopping at errors."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from modeling_flallm.own_processing import MODALITIES, PoseModality, VideoModality, array_files

from ..machine.inside_folder import inside
from .corpus_schema import Problem
from .inspected_clips import Clip, Corpus


def check_clips_are_known(columns: Iterable[str], name: Any) -> None:
    """Raise a `ValueError` for a data set of other clips, such as features, which would seem to lack all its videos."""
    found = [modality for modality in MODALITIES if modality.column in columns or modality.table_column in columns]
    if found and not any(modality in (VideoModality, PoseModality) for modality in found):
        raise ValueError(
            f"{name} holds {found[0].words.clips} (column {found[0].column}). flallm inspect looks at videos and "
            "poses, and at no other data set."
        )


def cleaned(value: Any) -> str:
    """Without lone surrogates, which JSON can hold but no file or tokenizer accepts."""
    return str(value).encode("utf-8", "replace").decode("utf-8").strip()


def find_poses(clip: Clip, name: Any, folder: Path, corpus: Corpus) -> Any:
    """The path of the poses of a row, with the name of their array if it states one, or their array."""
    if isinstance(name, list):
        return name
    name = "" if name is None else cleaned(name)
    try:
        file, array = PoseModality.split_file_name(name) if name else ("", "")
    except ValueError as error:
        corpus.errors.append(Problem(clip.where, str(error)))
        return None
    if not file:
        corpus.errors.append(Problem(clip.where, "has no poses"))
        return None
    path = find_file(clip, file, folder, corpus)
    return None if path is None else f"{path.absolute()}{array}"


def file_of_poses(clip: Clip) -> Path | None:
    return array_files.split_name(clip.poses)[0] if isinstance(clip.poses, str) else None


def find_file(clip: Clip, name: str, folder: Path, corpus: Corpus) -> Path | None:
    try:
        path = inside(folder, name)
        is_there = path.is_file()
    except (OSError, ValueError) as error:  # outside the folder, a NUL byte, or too long
        text = str(error).replace(str(folder), folder.name)
        corpus.errors.append(Problem(clip.where, f"the file name cannot be used: {text}"))
        return None
    if is_there:
        return path
    shown = "" if name == clip.name else f": {name}"
    corpus.errors.append(Problem(clip.where, f"there is no such file{shown}"))
    return None
