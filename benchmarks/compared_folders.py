"""
Whether two folders hold the same results: tensors to the bit, tables and texts to the letter.

Times, and what a run says of itself, are no results: they are left out, each by its name.
"""

import json
import re
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import GenerationConfig

from train_scripts.machine.atomic_files import LEAVINGS

# Of files in JSON: how long a run took and which memory it used, whether it was resumed and from which checkpoint, the
# mean loss since then, and the digest of a card that says so.
LEFT_OUT_VALUES = {
    "seconds", "train_runtime", "train_samples_per_second", "train_steps_per_second", "eval_runtime",
    "eval_samples_per_second", "eval_steps_per_second", "peak_memory_in_gib", "is_resumed", "resume_from_checkpoint",
    "train_loss", "card_digest",
}  # fmt: skip
# What is the same whether it is written or not: defaults, once a model has generated, and how a tokenizer padded last.
DEFAULTS_OF_GENERATION = GenerationConfig._get_default_generation_params()
LEFT_OUT_OF_CARDS = re.compile(r"^- Time:.*|; peak memory [\d.]+ GiB", re.MULTILINE)
# What `flallm prepare` notes while it runs, in the order in which its processes finish, and with the times of files;
# and the cache of `flallm features`, whose results are in its --output_dir, too.
LEFT_OUT_FILES = ("*/.preparation/finished.jsonl", "*/.preparation/lock", "cache/*")


def differences(whole: Path, killed: Path) -> list[str]:
    """The names of files that one folder lacks, or that hold other results."""
    names = sorted(_files_of(whole) | _files_of(killed))
    return [name for name in names if not _is_same(whole / name, killed / name)]


def leavings(folder: Path) -> list[str]:
    """Files and folders that killed writers have left."""
    return sorted(path.name for path in folder.rglob(LEAVINGS))


def _files_of(folder: Path) -> set[str]:
    names = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    results = {str(name) for name in names if not any(Path(part).match(LEAVINGS) for part in name.parts)}
    return {name for name in results if not any(fnmatch(name, pattern) for pattern in LEFT_OUT_FILES)}


def _is_same(first: Path, second: Path) -> bool:
    if not (first.is_file() and second.is_file()):
        return False
    if first.read_bytes() == second.read_bytes():
        return True
    read = READERS.get(first.suffix)
    return read is not None and _are_equal(read(first), read(second))


def _are_equal(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        kinds = [(tensor.dtype, tensor.shape) for tensor in (first, second)]
        return kinds[0] == kinds[1] and torch.equal(_bits(first), _bits(second))
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return first.keys() == second.keys() and all(_are_equal(first[name], second[name]) for name in first)
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(_are_equal, first, second))
    return bool(first == second)


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().flatten().view(torch.uint8)


def _read_json(path: Path) -> Any:
    value = _without_times(json.loads(path.read_text(encoding="utf-8")))
    if path.name == "generation_config.json":
        return {name: each for name, each in value.items() if each != DEFAULTS_OF_GENERATION.get(name)}
    return {**value, "padding": None} if path.name == "tokenizer.json" else value


def _read_json_lines(path: Path) -> Any:
    return [_without_times(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_times(each) for name, each in value.items() if name not in LEFT_OUT_VALUES}
    return [_without_times(each) for each in value] if isinstance(value, list) else value


def _read_card(path: Path) -> str:
    return LEFT_OUT_OF_CARDS.sub("", path.read_text(encoding="utf-8"))


def _read_tensors(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        return {"metadata": file.metadata(), **{f"tensor {name}": file.get_tensor(name) for name in file.keys()}}  # noqa: SIM118


def _read_archive(path: Path) -> Any:
    return torch.load(path, weights_only=True)


READERS: dict[str, Callable[[Path], Any]] = {
    ".json": _read_json,
    ".jsonl": _read_json_lines,
    ".md": _read_card,
    ".safetensors": _read_tensors,
    ".pt": _read_archive,
}
