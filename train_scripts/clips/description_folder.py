"""
The folder of descriptions that `flallm describe` writes; `description_store.py` says what is in it, and reads it.
"""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import safetensors.torch
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from huggingface_hub import DatasetCardData
from safetensors import safe_open

from modeling_flallm.own_processing import Modality

from ..arguments.flag_values import check_new_folder
from ..hub.hub_names import is_hub_id
from ..machine.atomic_files import LEAVINGS, write_bytes, write_csv, write_json, write_text
from .clip_files import file_names, paths_of_clips, read_header
from .description_store import (
    FACTS_FILE,
    ONLY_NAMES,
    TABLE_COLUMNS,
    TABLE_FILE,
    ClipDescriptions,
    OriginOfDescriptions,
    clip_keys,
    digest_of,
    read_descriptions,
    read_facts,
    what_is_wrong,
)

NAME_OF_FINGERPRINT = {"describer_fingerprint": "describer", "text_encoder_fingerprint": "text_encoder"}


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
        self.counts: dict[str, int] = self._check()
        PartialState().wait_for_everyone()  # before the first process writes what the others check
        if PartialState().is_main_process:
            path.mkdir(parents=True, exist_ok=True)
            self._write_facts()
        PartialState().wait_for_everyone()

    def _check(self) -> dict[str, int]:
        """-> the number of clips of the splits that earlier runs have finished"""
        if not (self.path / FACTS_FILE).is_file():
            check_new_folder(self.path)
            return {}
        if not any(self.path.glob("*/*.safetensors")):
            return {}  # a run that was stopped before its first clip leaves nothing that could be mixed up
        facts = read_facts(self.path, str(self.path))
        for name, own in self.origin.facts.items():
            if name not in ONLY_NAMES and facts[name] != own:
                shown = NAME_OF_FINGERPRINT.get(name, name)
                raise ValueError(
                    f"--output_dir {self.path} was made with {shown} {self._shown(facts, name)}, not "
                    f"{self._shown(self.origin.facts, name)}. Go on with the same, or name another folder."
                )
        return dict(facts.get("clips") or {})

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
        wrong = what_is_wrong(found, self.origin.width)
        if wrong is not None:
            raise ValueError(f"The descriptions of {clip.key!r} cannot be kept: {wrong}.")
        values = {**self.origin.facts, "fingerprint": self.origin.fingerprint, "clip": clip.key, "content": content}
        values |= {"num_frames": found.num_frames, "texts": json.dumps(found.texts), "digest": digest_of(found)}
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
        f"embeddings are of {_named(origin.text_encoder, origin.text_encoder_revision, origin.text_encoder_license)}, "
        f"with {origin.pooling} pooling. The licences of the clips apply as well.\n\n"
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
    asked = _every(origin.stride) if origin.segment_frames is None else f"segments of {origin.segment_frames} frames"
    prompt = "\n".join(f"> {line}" for line in str(origin.prompt).splitlines())
    return (
        f"A model wrote them: {named}, asked about {asked}. Nobody has checked them: they can be wrong. The question "
        f"was:\n\n{prompt}\n\n"
    )


def _every(stride: int | None) -> str:
    return "every frame" if stride == 1 else f"one of {stride} frames"


def _named(name: str, revision: str | None, license: str | None) -> str:
    """A model with where it is from."""
    details = [f"commit {revision}" if revision else "", f"licence {license}" if license else "licence not stated"]
    return f"`{name}` ({', '.join(filter(None, details))})"
