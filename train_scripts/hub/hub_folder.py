"""Checks which files of a saved model belong on the Hub, and whether they are all there."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from safetensors import SafetensorError, safe_open
from transformers.dynamic_module_utils import get_relative_imports

from modeling_flallm.calibration_slt import CALIBRATION_FILE
from modeling_flallm.hub_card_slt import with_usage_of
from modeling_flallm.systems import (
    DEFAULT_SYSTEM,
    SYSTEMS,
    system_of_pretrained,
    system_of_text_autoencoder,
    system_of_visual_encoder,
)

from ..arguments.flag_values import is_repo_id
from ..machine.inside_folder import inside, is_also_outside
from .model_card import CARD_FILE, named_card
from .training_run import RUN_FILE

TOKENIZER_FILES = {
    "tokenizer.json",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "spiece.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
}
VOCABULARY_FILES = TOKENIZER_FILES - {
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
}
MODEL_FILES = {"config.json", "generation_config.json", CALIBRATION_FILE}
TOKENIZER_FILE = "tokenizer_config.json"
PROCESSOR_FILES = {"processor_config.json", TOKENIZER_FILE}
VIDEO_PROCESSOR_FILE = "video_preprocessor_config.json"  # of a model without a tokenizer
WEIGHT_INDEX = "model.safetensors.index.json"
ADAPTER_FILES = {"adapter_config.json", "adapter_model.safetensors"}


@dataclass(frozen=True)
class Kind:
    """
    What belongs to a model of one type.

    Args:
        auto_classes: classes that must be able to load it; the last is the one to load it with.
        processor_files: files that it must have.
    """

    auto_classes: tuple[str, ...]
    processor_files: frozenset[str] = frozenset(PROCESSOR_FILES)
    has_tokenizer: bool = True


VISUAL_ENCODER_KIND = Kind(("AutoConfig", "AutoModel"), frozenset({VIDEO_PROCESSOR_FILE}), has_tokenizer=False)
PRETRAINED_KIND = Kind(("AutoConfig", "AutoModel"))
TEXT_AUTOENCODER_KIND = Kind(("AutoConfig", "AutoModel"), frozenset({TOKENIZER_FILE}))

# What an earlier push may have left in a repository and no longer belongs there once its file is not sent again. So do
# Python files that are named after a system.
REPLACED_PATTERNS = (
    "model.safetensors",
    "model-*-of-*.safetensors",
    WEIGHT_INDEX,
    "*_slt.py",
    "systems.py",
    "chat_template.jinja",
    CALIBRATION_FILE,
)


@dataclass
class ModelFiles:
    """
    What is uploaded from a folder.

    Args:
        files: by name in the repository: a local path, or content that differs from the local file.
        left_out: names of files and folders that are not uploaded.
        auto_class: the class with which transformers loads the model, or the base model of an adapter.
    """

    files: dict[str, Path | bytes]
    auto_class: str
    left_out: list[str] = field(default_factory=list)
    base_model_repo_id: str | None = None

    @property
    def is_adapter(self) -> bool:
        return "adapter_config.json" in self.files


def read_model_folder(folder: Path, repo_id: str, base_model_repo_id: str | None = None) -> ModelFiles:
    """
    The files of a model with its processor, or of a LoRA adapter, which training or `save_pretrained` left in a folder.

    Args:
        repo_id: where they are uploaded to; the model card names it.
        base_model_repo_id: for an adapter: its base model on the Hub. Goes into the upload, not into the folder.

    Raises:
        ValueError: names everything that is missing or broken, or a file that is not inside the folder.
    """
    if not folder.is_dir():
        raise ValueError(f"--model {folder} is not a folder. Name the one in which training saved the model.")
    is_adapter = _has(folder, "adapter_config.json")
    if base_model_repo_id is not None and not is_adapter:
        raise ValueError(f"--base_model_repo_id is for a LoRA adapter, and {folder} holds a whole model. Leave it out.")
    found = _adapter_files(folder, base_model_repo_id) if is_adapter else _model_files(folder)
    if _has(folder, RUN_FILE):
        found.files |= named_card(folder, repo_id, found.base_model_repo_id)
    elif isinstance(found.files.get(CARD_FILE), Path):
        card = found.files[CARD_FILE].read_bytes().decode(errors="surrogateescape")
        found.files[CARD_FILE] = with_usage_of(repo_id, card, folder).encode(errors="surrogateescape")
    found.left_out = sorted(
        path.name + "/" * path.is_dir() for path in folder.iterdir() if path.name not in found.files
    )
    return found


def _model_files(folder: Path) -> ModelFiles:
    references: list[str] = []
    kind = _kind_of(folder)
    problems = [
        *_config_problems(folder, kind, references),
        *_weight_problems(folder),
        *_processor_problems(folder, kind),
    ]
    references += _processor_references(folder, kind.processor_files)
    modules, missing = _needed_modules(folder, references)
    problems += [f"{name} is missing, which another file needs" for name in sorted(missing)]
    _raise_if_any(folder, problems)
    if _has(folder, CALIBRATION_FILE):
        _parse_json(folder / CALIBRATION_FILE)  # a damaged one keeps the model from loading
    names = {*MODEL_FILES, *kind.processor_files, *TOKENIZER_FILES, CARD_FILE, *modules, *_weight_names(folder)}
    return ModelFiles(_existing(folder, names), auto_class=kind.auto_classes[-1])


def _kind_of(folder: Path) -> Kind:
    """For a model type that no system has, the kind of a translation model, which is what people push."""
    config = _read_json(folder / "config.json") if _has(folder, "config.json") else {}
    model_type = str(config.get("model_type"))
    if system_of_visual_encoder(model_type) is not None:
        return VISUAL_ENCODER_KIND
    if system_of_pretrained(model_type) is not None:
        return PRETRAINED_KIND
    if system_of_text_autoencoder(model_type) is not None:
        return TEXT_AUTOENCODER_KIND
    return Kind(("AutoConfig", "AutoModel", SYSTEMS.get(model_type, DEFAULT_SYSTEM).auto_class))


def _auto_class_of_base(class_name: Any) -> str:
    """The Auto class for an adapter's base model, by the class name that peft stores."""
    systems = (system for system in SYSTEMS.values() if system.model_class == class_name)
    return next(systems, DEFAULT_SYSTEM).auto_class


def _adapter_files(folder: Path, base_model_repo_id: str | None) -> ModelFiles:
    """An adapter brings its processor, if it is in the folder; the Python files come with the base model."""
    if not _has(folder, "adapter_model.safetensors"):
        _raise_if_any(folder, ["adapter_model.safetensors is missing"])
    modules, missing = _needed_modules(folder, _processor_references(folder, PROCESSOR_FILES))
    problems = [f"{name} is missing, which another file needs" for name in sorted(missing)]
    problems += _broken_weights(folder, ["adapter_model.safetensors"])
    _raise_if_any(folder, problems)
    files = _existing(folder, {*ADAPTER_FILES, *PROCESSOR_FILES, *TOKENIZER_FILES, CARD_FILE, *modules})
    config = _read_json(folder / "adapter_config.json")
    auto_class = _auto_class_of_base(_dictionary(config, "auto_mapping").get("base_model_class"))
    if base_model_repo_id is None:
        base_model_repo_id = config.get("base_model_name_or_path")
        _check_base(base_model_repo_id)
        return ModelFiles(files, base_model_repo_id=base_model_repo_id, auto_class=auto_class)
    config["base_model_name_or_path"] = base_model_repo_id
    files["adapter_config.json"] = json.dumps(config, indent=2).encode()
    if CARD_FILE in files:
        files[CARD_FILE] = _card_with_base(folder / CARD_FILE, base_model_repo_id)
    return ModelFiles(files, base_model_repo_id=base_model_repo_id, auto_class=auto_class)


def _card_with_base(path: Path, base_model_repo_id: str) -> bytes:
    """The card with the base model's id replacing the folder that peft writes there, which the Hub rejects."""
    card = ModelCard.load(path, ignore_metadata_errors=True)
    card.data.base_model = base_model_repo_id
    card.data.tags = [tag for tag in card.data.tags or [] if not tag.startswith("base_model:")]
    return str(card).encode()


def _check_base(name_or_path: str | None) -> None:
    if not is_repo_id(name_or_path) or Path(name_or_path).exists():
        raise ValueError(
            f"The adapter's base model is {name_or_path!r}, which nobody else can load: push that model first, and "
            "name it with --base_model_repo_id OWNER/NAME."
        )


def _config_problems(folder: Path, kind: Kind, references: list[str]) -> Iterator[str]:
    """Problems of config.json; adds to `references` the classes that it names as `module.Class`."""
    if not _has(folder, "config.json"):
        yield "config.json is missing"
        return
    config = _read_json(folder / "config.json")
    auto_map = _dictionary(config, "auto_map")
    missing = [name for name in kind.auto_classes if name not in auto_map]
    if missing:
        yield (
            f"config.json names no Python file for {', '.join(missing)} (load the model with this version of FLaLLM "
            "and save it again)"
        )
    references += _classes_of(auto_map.values())
    pipelines = _dictionary(config, "custom_pipelines").values()
    references += _classes_of(pipeline.get("impl") for pipeline in pipelines if isinstance(pipeline, dict))


def _processor_problems(folder: Path, kind: Kind) -> Iterator[str]:
    missing = sorted(name for name in kind.processor_files if not _has(folder, name))
    yield from (f"{name} is missing" for name in missing)
    if kind.has_tokenizer and not any(_has(folder, name) for name in VOCABULARY_FILES):
        yield "the tokenizer's vocabulary, such as tokenizer.json, is missing"


def _processor_references(folder: Path, names: Iterable[str]) -> list[str]:
    """Classes that the processor and the tokenizer name as `module.Class`, at any depth of their files."""
    contents = [_read_json(folder / name) for name in sorted(names) if _has(folder, name)]
    return [name for content in contents for auto_map in _auto_maps(content) for name in _classes_of(auto_map.values())]


def _auto_maps(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict):
            if key == "auto_map":
                yield value
            else:
                yield from _auto_maps(value)


def _classes_of(values: Iterable[Any]) -> list[str]:
    """A tokenizer's entry is a pair of classes, one of which may be null."""
    entries = [entry for value in values for entry in (value if isinstance(value, list) else [value])]
    return [entry for entry in entries if isinstance(entry, str)]


def _needed_modules(folder: Path, references: list[str]) -> tuple[set[str], set[str]]:
    """File names of the `module.Class` references and their relative imports: those that exist, and those missing."""
    waiting = {reference.split("--")[-1].split(".")[0] for reference in references}
    present, missing = set(), set()
    while waiting:
        name = f"{waiting.pop()}.py"
        if not name.removesuffix(".py").isidentifier() or not _has(folder, name):  # a module name is never a path
            missing.add(name)
        elif name not in present:
            present.add(name)
            waiting.update(get_relative_imports(folder / name))
    return present, missing


def _weight_names(folder: Path) -> list[str]:
    """model.safetensors, or the index of a sharded model and its shards; empty if there is neither."""
    if _has(folder, WEIGHT_INDEX):
        return [WEIGHT_INDEX, *sorted(_shard_names(folder))]
    return ["model.safetensors"] if _has(folder, "model.safetensors") else []


def _shard_names(folder: Path) -> set[str]:
    """The files that an index names. Anybody may have written it, so only weights next to it are accepted."""
    index = folder / WEIGHT_INDEX
    shards = _read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise ValueError(f"{index} has no `weight_map` of weights and their files. Save the model again.")
    names = set(shards.values())
    for name in sorted(names):
        inside(folder, name)
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ValueError(f"{index} names {name!r}, which is no .safetensors file beside it. Save the model again.")
    return names


def _weight_problems(folder: Path) -> list[str]:
    names = _weight_names(folder)
    if not names:
        return ["the weights, model.safetensors, are missing"]
    if len(names) > 1 and _has(folder, "model.safetensors"):
        return ["it holds both model.safetensors and a sharded model, of which one is from another run (remove it)"]
    return _broken_weights(folder, [name for name in names if name != WEIGHT_INDEX])


def _broken_weights(folder: Path, names: list[str]) -> list[str]:
    problems = []
    for name in names:
        try:
            with safe_open(folder / name, "pt"):  # reads the header, and compares it with the file size
                pass
        except FileNotFoundError:
            problems.append(f"{name} is missing")
        except SafetensorError as error:
            problems.append(f"{name} is broken ({error})")
    return problems


def _existing(folder: Path, names: Iterable[str]) -> dict[str, Path | bytes]:
    return {name: folder / name for name in sorted(names) if _has(folder, name)}


def _has(folder: Path, name: str) -> bool:
    """
    Whether a file exists.

    Raises:
        ValueError: for a file that is outside the folder, or also exists there.
    """
    path = inside(folder, name)
    if not path.is_file():
        return False
    if is_also_outside(path, folder):
        raise ValueError(f"{path} is a hard link to a file outside its folder. Put a copy of it in its place.")
    return True


def _parse_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON file: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    content = _parse_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold one JSON object, got {type(content).__name__}. Save the model again.")
    return content


def _dictionary(content: dict[str, Any], key: str) -> dict[str, Any]:
    value = content.get(key)
    return value if isinstance(value, dict) else {}


def _raise_if_any(folder: Path, problems: list[str]) -> None:
    if problems:
        raise ValueError(f"{folder} holds no complete model: {'; '.join(problems)}.")


def replaced_files(in_repository: Iterable[str], sent: Iterable[str]) -> list[str]:
    """Weights, Python files and the calibration of an earlier push that the new one has no file for."""
    sent = set(sent)
    patterns = (*REPLACED_PATTERNS, *(f"*_{model_type}.py" for model_type in SYSTEMS))
    return sorted(
        name for name in in_repository if name not in sent and any(fnmatch(name, pattern) for pattern in patterns)
    )
