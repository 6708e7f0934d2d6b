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
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import datasets
import safetensors.torch
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from huggingface_hub import DatasetCardData, snapshot_download
from safetensors import SafetensorError, safe_open

from modeling_flallm.own_processing import Modality

from ..arguments.flag_values import check_new_folder
from ..corpora.corpus_tables import csv_rows, plain_name, split_of
from ..hub.hub_names import explain_missing_folder, is_hub_id
from ..machine.atomic_files import LEAVINGS, write_bytes, write_csv, write_json, write_text
from ..machine.inside_folder import inside
from .clip_files import file_names, paths_of_clips, read_header
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
    text_encoder: str
    text_encoder_revision: str | None
    text_encoder_license: str | None
    text_encoder_fingerprint: str
    pooling: str
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
NAME_OF_FINGERPRINT = {"describer_fingerprint": "describer", "text_encoder_fingerprint": "text_encoder"}


# Reading


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
    facts = _read_facts(folder, name_or_path)
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
    if missing and PartialState().is_main_process:
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
        digest = header["digest"]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} must hold the descriptions of a clip, but: {_said(error)}. {advice}") from error
    wrong = _what_is_wrong(found) or (None if _digest_of(found) == digest else "its content is not what was written")
    if wrong is not None:
        raise ValueError(f"{path} must hold the descriptions of a clip, but {wrong}. {advice}")
    return dataclasses.replace(found, embeddings=found.embeddings.float())


def description_facts(name_or_path: str) -> dict[str, Any]:
    """
    What made the descriptions of a store: the fields of `OriginOfDescriptions`, and `clips`, their number by split.

    Raises:
        FileNotFoundError, ValueError: if there is no such store, or its facts cannot be read.
    """
    return _read_facts(_local_folder(name_or_path), name_or_path)


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
    """
    nothing = [None] * len(split)
    starts, ends = (split[name] if name in split.column_names else nothing for name in ("start", "end"))
    paths = paths_of_clips(split, modality)
    keys = [
        _name_in_split(path, split_name) + _part(start, end)
        for path, start, end in zip(paths, starts, ends, strict=True)
    ]
    counts = Counter(keys)
    return [key if counts[key] == 1 else f"{key}_{number:06d}" for number, key in enumerate(keys)]


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


def _read_facts(folder: Path, name_or_path: str) -> dict[str, Any]:
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
    except (OSError, ValueError, TypeError, KeyError) as error:
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
            f"--descriptions {name_or_path} must describe the split {split_name!r}, it describes {has}. Run `flallm "
            "describe` to its end."
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


def _what_is_wrong(found: ClipDescriptions) -> str | None:
    embeddings, frames, texts = found.embeddings, found.frames, found.texts
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        return "its texts are not a list of texts"
    if embeddings.ndim != 2 or not embeddings.is_floating_point():
        return f"embeddings are {embeddings.dtype} {tuple(embeddings.shape)}, not numbers (descriptions, width)"
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


def _digest_of(found: ClipDescriptions) -> str:
    """Of texts, frames and embeddings, as they are in the file."""
    digest = hashlib.sha256(json.dumps([found.texts, found.frames.tolist(), found.num_frames]).encode())
    digest.update(found.embeddings.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _said(error: Exception) -> str:
    return f"it has no {error.args[0]!r}" if isinstance(error, KeyError) else str(error)


# Writing


@dataclass(frozen=True)
class ClipToDescribe:
    """
    One clip of a split in the store.

    Args:
        index: its row in the split.
        key: what the store calls it.
        path: of its file in the store.
    """

    index: int
    key: str
    path: Path


class DescriptionFolder:
    """
    The output folder, new or of an interrupted run with the same models and settings. All processes write their share.

    Raises:
        ValueError: if it holds anything else, or descriptions of another origin; nothing has been written then.
    """

    def __init__(self, path: Path, origin: OriginOfDescriptions):
        self.path = path
        self.origin = origin
        self.counts: dict[str, int] = {}
        self._check()
        PartialState().wait_for_everyone()  # before the first process writes what the others check
        if PartialState().is_main_process:
            path.mkdir(parents=True, exist_ok=True)
            self._write_facts()
        PartialState().wait_for_everyone()

    def _check(self) -> None:
        if not (self.path / FACTS_FILE).is_file():
            check_new_folder(self.path)
            return
        if not any(self.path.glob("*/*.safetensors")):
            return  # a run that was stopped before its first clip leaves nothing that could be mixed up
        facts = _read_facts(self.path, str(self.path))
        for name, own in self.origin.facts.items():
            if name not in ONLY_NAMES and facts[name] != own:
                shown = NAME_OF_FINGERPRINT.get(name, name)
                raise ValueError(
                    f"--output_dir {self.path} was made with {shown} {self._shown(facts, name)}, not "
                    f"{self._shown(self.origin.facts, name)}. Go on with the same, or name another folder."
                )

    @staticmethod
    def _shown(facts: dict[str, Any], name: str) -> str:
        """A model by its name and fingerprint, which two models of the same name do not share."""
        if name not in NAME_OF_FINGERPRINT or facts[name] is None:
            return repr(facts[name])
        return f"{facts[NAME_OF_FINGERPRINT[name]]!r} (fingerprint {facts[name][:12]})"

    def clips_of(
        self, split: str, clips: datasets.Dataset, modality: Modality | type[Modality], name: str
    ) -> list[ClipToDescribe]:
        """
        The places of all clips of a split in the store, whose folder is made.

        Args:
            split: what the store calls the split, and `name`: what the data set calls it.
        """
        folder = self.path / split
        if PartialState().is_main_process:
            folder.mkdir(exist_ok=True)
            for leaving in folder.glob(LEAVINGS):
                leaving.unlink(missing_ok=True)
        PartialState().wait_for_everyone()
        keys = clip_keys(clips, modality, name)
        names = file_names(paths_of_clips(clips, modality))
        return [ClipToDescribe(i, key, folder / file) for i, (key, file) in enumerate(zip(keys, names, strict=True))]

    def holds(self, clip: ClipToDescribe, content: str) -> bool:
        """
        Whether the file of a clip is complete and undamaged. `content` is a digest of what was described.

        Raises:
            ValueError: for a file of another origin.
        """
        header = read_header(clip.path)
        fingerprint = header.get("fingerprint", self.origin.fingerprint)
        if fingerprint != self.origin.fingerprint:
            raise ValueError(
                f"{clip.path} holds descriptions by {header.get('describer')!r}, encoded by "
                f"{header.get('text_encoder')!r}, of other settings or models than this run with "
                f"{self.origin.describer!r} and {self.origin.text_encoder!r}. Name another folder."
            )
        if header.get("clip") != clip.key or header.get("content") != content:
            return False
        try:
            read_descriptions(clip.path)
        except ValueError:
            return False
        return True

    def write(self, clip: ClipToDescribe, content: str, found: ClipDescriptions) -> None:
        """
        Write the file of a clip.

        Raises:
            ValueError: for descriptions that `read_descriptions` would refuse.
        """
        embeddings = found.embeddings.to(getattr(torch, self.origin.embeddings_dtype)).cpu().contiguous()
        found = dataclasses.replace(found, embeddings=embeddings)
        wrong = _what_is_wrong(found)
        if wrong is not None:
            raise ValueError(f"The descriptions of {clip.key!r} cannot be kept: {wrong}.")
        values = {**self.origin.facts, "fingerprint": self.origin.fingerprint, "clip": clip.key, "content": content}
        values |= {"num_frames": found.num_frames, "texts": json.dumps(found.texts), "digest": _digest_of(found)}
        header = {name: str(value) for name, value in values.items() if value is not None}
        tensors = {"embeddings": embeddings, "frames": found.frames.contiguous()}
        write_bytes(clip.path, safetensors.torch.save(tensors, header))

    def write_table(self, split: str, clips: Iterable[ClipToDescribe]) -> None:
        """Write the table of one split. Each process names the clips whose files are complete."""
        mine = [(clip.index, self._row_of(clip)) for clip in clips]
        rows = [row for _, row in sorted(gather_object(mine), key=lambda each: each[0])]
        if PartialState().is_main_process:
            write_csv(self.path / split / TABLE_FILE, TABLE_COLUMNS, rows)
            self.counts[split] = len(rows)

    @staticmethod
    def _row_of(clip: ClipToDescribe) -> dict[str, Any]:
        with safe_open(clip.path, framework="pt") as file:
            num_descriptions, num_frames = file.get_slice("frames").get_shape()[0], file.metadata()["num_frames"]
        return dict(zip(TABLE_COLUMNS, (clip.key, clip.path.name, num_descriptions, num_frames), strict=True))

    def finish(self, sources: Sequence[str]) -> None:
        """
        Write what is known at the end, and the card.

        Args:
            sources: names of the data sets.
        """
        if PartialState().is_main_process:
            self._write_facts()
            write_text(self.path / "README.md", _card(self.origin, self.counts, sources))

    def _write_facts(self) -> None:
        write_json(self.path / FACTS_FILE, {**self.origin.facts, "clips": self.counts})


def _card(origin: OriginOfDescriptions, counts: dict[str, int], sources: Sequence[str]) -> str:
    """README.md, with the licences of the models: those of the clips and of texts are the user's to add."""
    licenses = list(dict.fromkeys(filter(None, (origin.describer_license, origin.text_encoder_license))))
    data = DatasetCardData(
        license=licenses[0] if len(licenses) == 1 else licenses or None,
        source_datasets=[name for name in sources if is_hub_id(name)] or None,
        tags=["sign-language-translation", "descriptions"],
    )
    table = "\n".join(f"| {split} | {count} |" for split, count in counts.items())
    return (
        f"---\n{data.to_yaml()}\n---\n\n# Descriptions of sign language clips\n\n"
        f"What the hands, face and body of the signer do, in words and as embeddings. {_who_described(origin)} The "
        f"embeddings are of {_named(origin.text_encoder, origin.text_encoder_revision, origin.text_encoder_license)} "
        f"({origin.pooling} pooling). The licences of the clips apply as well.\n\n"
        f"Made by `flallm describe`. Each clip has a `.safetensors` file: `embeddings`, {origin.embeddings_dtype} "
        f"(descriptions, {origin.width}), and `frames` (descriptions, 2), the first frame that a description speaks "
        f"of and the one after the last. The header of the file holds the texts. `{TABLE_FILE}` names the file of each "
        f"clip.\n\n| split | clips |\n|---|---|\n{table}\n\n"
        "Train on them with `--descriptions OWNER/NAME`, beside the clips that they describe.\n"
    )


def _who_described(origin: OriginOfDescriptions) -> str:
    if origin.describer is None:
        return f"The texts are from the column `{origin.column}` of the data set."
    named = _named(origin.describer, origin.describer_revision, origin.describer_license)
    asked = (
        f"every {origin.stride} frames"
        if origin.segment_frames is None
        else f"segments of {origin.segment_frames} frames"
    )
    prompt = "\n".join(f"> {line}" for line in str(origin.prompt).splitlines())
    return (
        f"A model wrote them: {named}, asked about {asked}. Nobody has checked them: they can be wrong. The question "
        f"was:\n\n{prompt}\n\n"
    )


def _named(name: str, revision: str | None, license: str | None) -> str:
    """A model with where it is from."""
    details = [f"commit {revision}" if revision else "", f"licence {license}" if license else "licence not stated"]
    return f"`{name}` ({', '.join(filter(None, details))})"
