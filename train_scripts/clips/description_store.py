"""
Descriptions of clips on disk: what the signer's hands, face and body do in which frames, as texts and as embeddings.

    <folder>/descriptions.json, README.md, train/metadata.csv, train/<clip>.safetensors, ...

`descriptions.json` says what wrote and what encoded the descriptions. `metadata.csv` names the file of each clip by the
clip's key. A file holds the tensors `embeddings` `(descriptions, width)` and `frames` `(descriptions, 2)`: the first
frame that a description speaks of, and the one after the last, counted from 0 in the clip. Its header holds the texts.
Such a folder is also a data set on the Hub.
"""

import dataclasses
import hashlib
import json
import os
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import datasets
import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open

from modeling_flallm.own_processing import Modality

from ..corpora.corpus_tables import csv_rows, plain_name, split_of
from ..hub.hub_names import explain_missing_folder
from ..machine.inside_folder import inside
from .clip_files import paths_of_clips, read_header
from .clip_folders import find_split_folder

FACTS_FILE = "descriptions.json"
TABLE_FILE = "metadata.csv"
TABLE_COLUMNS = ("clip", "descriptions", "num_descriptions", "num_frames")
DESCRIPTIONS_COLUMN = "descriptions"  # of a data set after `join_descriptions`: the file of each clip
HOW_TO_MAKE_ONE = "Make it with `flallm describe`."


@dataclass(frozen=True)
class ClipDescriptions:
    """
    The descriptions of one clip, in order of time.

    Args:
        embeddings: `(descriptions, width)`, float32.
        frames: `(descriptions, 2)`, int64: the first frame that each describes, and the one after the last. They rise
            and do not overlap; frames between them are not described.
        texts: one for each.
        num_frames: length of the clip that was described.
    """

    embeddings: torch.Tensor
    frames: torch.Tensor
    texts: list[str]
    num_frames: int


@dataclass(frozen=True)
class OriginOfDescriptions:
    """
    What made the descriptions of a folder. Each value also decides whether an interrupted run can go on.

    Args:
        describer: the model that wrote them; None for texts of people or other tools.
        column: of the data set, where they came from it.
        prompt, stride, segment_frames, max_new_tokens, quantization: how the model was asked; None for texts of a
            column.
        text_encoder: the model that made the embeddings; `pooling` of its tokens into one vector.
        dtype: in which the describer computed; None for texts of a column.
        is_normalized: whether embeddings have length 1.
        width: of an embedding; `embeddings_dtype`: "float16", ...
    """

    describer: str | None
    describer_revision: str | None
    describer_license: str | None
    describer_fingerprint: str | None
    column: str | None
    prompt: str | None
    stride: int | None
    segment_frames: int | None
    max_new_tokens: int | None
    quantization: str | None
    dtype: str | None
    text_encoder: str
    text_encoder_revision: str | None
    text_encoder_license: str | None
    text_encoder_fingerprint: str
    pooling: str
    is_normalized: bool
    width: int
    embeddings_dtype: str

    @property
    def facts(self) -> dict[str, Any]:
        """As `descriptions.json` holds them."""
        return dataclasses.asdict(self)

    @property
    def fingerprint(self) -> str:
        """Digest of all that changes a description or its embedding."""
        decisive = {name: value for name, value in self.facts.items() if name not in ONLY_NAMES}
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


# Facts that may differ between runs with the same models.
ONLY_NAMES = (
    "describer",
    "describer_revision",
    "describer_license",
    "text_encoder",
    "text_encoder_revision",
    "text_encoder_license",
)


def join_descriptions(
    split: datasets.Dataset, modality: Modality | type[Modality], name_or_path: str, split_name: str
) -> datasets.Dataset:
    """
    The split with the column `descriptions`: the path of the file with the descriptions of each clip, None for clips
    that have none, whose number is printed. A column of this name that the split already has is replaced.

    Args:
        split: of one data set, as `load_split` returns it.
        name_or_path: the store, a folder or a data set on the Hub.
        split_name: also finds a split that has another usual name in the store (dev, validation).

    Raises:
        FileNotFoundError: if there is no such store.
        ValueError: if it describes none of the clips, or one of its files is damaged or not of this store.
    """
    folder = _local_folder(name_or_path, split_name)
    facts = read_facts(folder, name_or_path)
    files = _files_of_split(folder, split_name, name_or_path)
    keys = clip_keys(split, modality, split_name)
    paths = [files.get(key) for key in keys]
    missing = paths.count(None)
    if missing == len(paths):
        raise ValueError(
            f"--descriptions {name_or_path} describes none of the {len(paths)} clips of the split {split_name!r}. The "
            f"first of them is {keys[0]!r}; described are {', '.join(map(repr, list(files)[:3])) or 'none'}. Name the "
            "store of this data set."
        )
    for path in dict.fromkeys(path for path in paths if path is not None):
        _check_file_of_store(path, facts, name_or_path)
    if missing and os.environ.get("RANK", "0") == "0":  # in the first of several processes
        print(f"{missing:,} of {len(paths):,} {split_name} clips have no descriptions in {name_or_path}.", flush=True)
    if DESCRIPTIONS_COLUMN in split.column_names:
        split = split.remove_columns(DESCRIPTIONS_COLUMN)
    column = [None if path is None else str(path.absolute()) for path in paths]
    return split.add_column(DESCRIPTIONS_COLUMN, column, feature=datasets.Value("string"))


def read_descriptions(path: str | Path) -> ClipDescriptions:
    """
    The descriptions of one clip, verified.

    Raises:
        ValueError: for a file that is missing, damaged, or not of descriptions.
    """
    advice = f"Remove it and run `flallm describe` again, or download {Path(path).name} again."
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        found = ClipDescriptions(
            tensors["embeddings"], tensors["frames"], json.loads(header["texts"]), int(header["num_frames"])
        )
        digest, width = header["digest"], int(header["width"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} must hold the descriptions of a clip, but: {_said(error)}. {advice}") from error
    wrong = what_is_wrong(found, width)
    if wrong is None and digest_of(found) != digest:
        wrong = "its content is not what was written"
    if wrong is not None:
        raise ValueError(f"{path} must hold the descriptions of a clip, but {wrong}. {advice}")
    return dataclasses.replace(found, embeddings=found.embeddings.float())


def description_facts(name_or_path: str) -> dict[str, Any]:
    """
    What made the descriptions of a store: the fields of `OriginOfDescriptions`, and `clips`, their number by split.

    Raises:
        FileNotFoundError, ValueError: if there is no such store, or its facts cannot be read.
    """
    return read_facts(_local_folder(name_or_path), name_or_path)


def description_width(name_or_path: str) -> int:
    """
    Width of the embeddings of a store.

    Raises:
        FileNotFoundError, ValueError: as `description_facts`.
    """
    return description_facts(name_or_path)["width"]


def clip_keys(split: datasets.Dataset, modality: Modality | type[Modality], split_name: str) -> list[str]:
    """
    What a store calls the clips of a split: the path of each clip's file from the folder of its split, or the file's
    name where it is in no such folder, and `#start-end` in seconds for a part of a file. A clip without a file, and
    files of the same name, get their number in the split.

    Raises:
        ValueError: for clips that need their number, of which a slice such as `train[10:]` has another one.
    """
    nothing = [None] * len(split)
    starts, ends = (split[name] if name in split.column_names else nothing for name in ("start", "end"))
    paths = paths_of_clips(split, modality)
    keys = [
        _name_in_split(path, split_name) + _part(start, end)
        for path, start, end in zip(paths, starts, ends, strict=True)
    ]
    counts = Counter(keys)
    needs_number = [path is None or counts[key] > 1 for path, key in zip(paths, keys, strict=True)]
    if any(needs_number) and "[" in split_name:
        raise ValueError(
            f"Clips of {split_name!r} have no file name, or the same one: descriptions are then found by the number "
            "of a clip in its split, which a slice changes. Name the whole split."
        )
    return [
        f"{key}_{number:06d}" if needed else key
        for number, (key, needed) in enumerate(zip(keys, needs_number, strict=True))
    ]


def _name_in_split(path: str | None, split_name: str) -> str:
    if path is None:
        return "clip"
    parts = PurePath(unicodedata.normalize("NFC", path).replace("\\", "/")).parts
    split = split_name.partition("[")[0]
    of_split = [place for place, part in enumerate(parts[:-1]) if _is_same_split(part, split)]
    return "/".join(parts[of_split[-1] + 1 :] if of_split else parts[-1:])


def _is_same_split(folder: str, split: str) -> bool:
    return plain_name(folder) == plain_name(split) or split_of(folder) == split_of(split) is not None


def _part(start: float | None, end: float | None) -> str:
    if start is None and end is None:
        return ""
    return f"#{float(start or 0)}-{'' if end is None else float(end)}"


def _local_folder(name_or_path: str, split_name: str | None = None) -> Path:
    """A folder as it is; of a data set on the Hub the facts and the files of one split, downloaded."""
    if Path(name_or_path).is_dir():
        return Path(name_or_path)
    nowhere = f"--descriptions {name_or_path!r} is neither a local folder nor a data set on the Hub"
    missing = explain_missing_folder(name_or_path)
    if missing is not None:
        raise FileNotFoundError(f"{nowhere}: {missing}")
    splits = [] if split_name is None else _other_names(split_name)
    try:
        patterns = [FACTS_FILE, *(f"{name}/*" for name in splits)]
        return Path(snapshot_download(name_or_path, repo_type="dataset", allow_patterns=patterns))
    except (OSError, ValueError) as error:  # what huggingface_hub raises for repositories and connections is an OSError
        raise FileNotFoundError(f"{nowhere}: {error}") from error


def _other_names(split_name: str) -> list[str]:
    """The name of a split, and the usual ones of the same split in which `flallm describe` writes it."""
    name = split_name.partition("[")[0]
    return list(dict.fromkeys((name, split_of(name) or name)))


def read_facts(folder: Path, name_or_path: str) -> dict[str, Any]:
    """
    The facts of the store in a folder, which is called `name_or_path`.

    Raises:
        FileNotFoundError, ValueError: as `description_facts`.
    """
    path = folder / FACTS_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{name_or_path} must be a store of descriptions, but has no {FACTS_FILE}. {HOW_TO_MAKE_ONE}"
        )
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        origin = _origin_of(facts)
        if not isinstance(origin.width, int) or origin.width < 1:
            raise ValueError(f"width must be a number, got {origin.width!r}")
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {_said(error)}. {HOW_TO_MAKE_ONE}") from error
    return facts


def _origin_of(facts: dict[str, Any]) -> OriginOfDescriptions:
    return OriginOfDescriptions(**{field.name: facts[field.name] for field in dataclasses.fields(OriginOfDescriptions)})


def _files_of_split(folder: Path, split_name: str, name_or_path: str) -> dict[str, Path]:
    """The files of the clips by their keys."""
    split_folder = find_split_folder(folder, split_name.partition("[")[0])
    table = None if split_folder is None else inside(split_folder, TABLE_FILE)
    if table is None or not table.is_file():
        has = sorted(path.name for path in folder.iterdir() if (path / TABLE_FILE).is_file())
        raise ValueError(
            f"--descriptions {name_or_path} must describe the split {split_name!r}, it describes {has}. Run "
            f"`flallm describe --splits {split_name}` into the same folder."
        )
    rows = list(csv_rows(table.read_bytes().decode("utf-8-sig"), is_strict=True))
    if rows and not {*TABLE_COLUMNS[:2]} <= rows[0].keys():
        raise ValueError(f"{table} must have the columns {', '.join(TABLE_COLUMNS)}, got {', '.join(rows[0])}.")
    return {row["clip"]: inside(split_folder, row["descriptions"]) for row in rows}


def _check_file_of_store(path: Path, facts: dict[str, Any], name_or_path: str) -> None:
    """By the header alone: that it is of this store and of its width."""
    header = read_header(path)
    if not header:
        raise ValueError(f"{path} is missing or damaged. Run `flallm describe` again, or download the store again.")
    for name, expected in (("width", str(facts["width"])), ("fingerprint", _origin_of(facts).fingerprint)):
        if header.get(name) != expected:
            raise ValueError(
                f"{path} must be of the store {name_or_path}, with the {name} {expected}, got {header.get(name)}. "
                "Remove it and run `flallm describe` again."
            )


def what_is_wrong(found: ClipDescriptions, width: int) -> str | None:
    """Why these cannot be the descriptions of a clip, with embeddings of this width; None if they can."""
    embeddings, frames, texts = found.embeddings, found.frames, found.texts
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        return "its texts are not a list of texts"
    if embeddings.ndim != 2 or not embeddings.is_floating_point():
        return f"embeddings are {embeddings.dtype} {tuple(embeddings.shape)}, not numbers (descriptions, width)"
    if embeddings.shape[1] != width:
        return f"embeddings have the width {embeddings.shape[1]}, not {width}"
    if frames.shape != (len(texts), 2) or frames.dtype != torch.int64 or len(embeddings) != len(texts):
        return (
            f"frames are {frames.dtype} {tuple(frames.shape)} and embeddings {tuple(embeddings.shape)} for "
            f"{len(texts)} texts"
        )
    if not embeddings.isfinite().all():
        return "embeddings are not finite"
    bounds = frames.flatten().tolist()
    if bounds != sorted(bounds) or any(first >= end for first, end in frames.tolist()):
        return "its frames do not rise"
    if bounds and (bounds[0] < 0 or bounds[-1] > found.num_frames):
        return f"its frames {bounds[0]} to {bounds[-1]} are not inside the {found.num_frames} frames of the clip"
    return None


def digest_of(found: ClipDescriptions) -> str:
    """Of texts, frames and embeddings, as they are in the file."""
    digest = hashlib.sha256(json.dumps([found.texts, found.frames.tolist(), found.num_frames]).encode())
    digest.update(found.embeddings.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _said(error: Exception) -> str:
    return f"it has no {error.args[0]!r}" if isinstance(error, KeyError) else str(error)
