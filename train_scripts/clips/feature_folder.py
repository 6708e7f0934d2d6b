"""
A data set of visual features that others can read: `.safetensors` files, a table for each split, and what made them.

    <folder>/features.json, README.md, train/metadata.csv, train/<clip>.safetensors, ...
"""

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import safetensors.torch
from accelerate import PartialState
from accelerate.utils import gather_object
from huggingface_hub import DatasetCardData
from tqdm import tqdm

from modeling_flallm import SignEncoder
from modeling_flallm.own_processing import EncoderOfFeatures, Modality, VisualFeaturesModality

from ..arguments.flag_values import check_new_folder
from ..arguments.visual_features_arguments import VisualFeaturesArguments
from ..corpora.data_set_columns import CLIP_COLUMNS, TABLE_COLUMNS
from ..hub.hub_names import is_hub_id
from ..machine.atomic_files import LEAVINGS, write_bytes, write_csv, write_json, write_text
from .clip_files import file_names, paths_of_clips, read_header
from .data import ClipDataset
from .feature_cache import KeptFeatures

FEATURES_FILE = "features.json"
TENSOR_NAME = "features"
OWN_COLUMNS = (VisualFeaturesModality.table_column, "num_features", "features_per_second")


@dataclass(frozen=True)
class OriginOfFeatures:
    """
    What made the features of a folder.

    Args:
        encoder: name and fingerprint.
        revision: the commit on the Hub that the encoder was loaded from.
        license: of the encoder, or those of several.
        hidden_size: width of a feature.
        features_dtype: "float16", ...
        precision: in which the encoder computed.
        clip_settings: how clips were sampled and prepared.
    """

    encoder: EncoderOfFeatures
    revision: str | None
    license: str | list[str] | None
    hidden_size: int
    features_dtype: str
    precision: str
    clip_settings: dict[str, Any]

    def header(self) -> dict[str, Any]:
        """What each file says."""
        return {
            "encoder": self.encoder.name,
            "encoder_revision": self.revision,
            "encoder_fingerprint": self.encoder.fingerprint,
            "hidden_size": self.hidden_size,
        }


class FeatureFolder:
    """
    The output folder, new or of an interrupted run with the same encoder and settings. All processes write their share.

    Raises:
        ValueError: if it holds anything else, or features of another encoder or dtype; nothing has been written then.
    """

    def __init__(self, path: Path, origin: OriginOfFeatures, is_silent: bool = False):
        self.path = path
        self.origin = origin
        self.is_silent = is_silent or not PartialState().is_main_process
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self._check()
        PartialState().wait_for_everyone()  # before the first process writes what the others check
        if PartialState().is_main_process:
            path.mkdir(parents=True, exist_ok=True)
            self._write_facts()
        PartialState().wait_for_everyone()

    def _check(self) -> None:
        facts = self.path / FEATURES_FILE
        if not facts.is_file():
            check_new_folder(self.path)
            return
        try:
            values = json.loads(facts.read_text(encoding="utf-8"))
            found = EncoderOfFeatures(values["encoder"], values["encoder_fingerprint"])
            dtype = values["features_dtype"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{facts} cannot be read: {error}. Name a new folder for --output_dir.") from error
        if found.fingerprint != self.origin.encoder.fingerprint:
            raise ValueError(
                f"--output_dir {self.path} holds features of {found}, not of {self.origin.encoder}. Name another "
                "folder."
            )
        if dtype != self.origin.features_dtype:
            raise ValueError(
                f"--output_dir {self.path} was made with --features_dtype {dtype}, not {self.origin.features_dtype}. "
                "Go on with the same, or name another folder."
            )

    def write_split(self, split: str, parts: list[tuple[ClipDataset, KeptFeatures]], encoder: SignEncoder) -> None:
        """
        Write the files and the table of one split.

        Args:
            parts: its clips in each data set, with their features; broken clips are left out.

        Raises:
            ValueError: for files of another encoder.
        """
        folder = self.path / split
        state = PartialState()
        if state.is_main_process:
            folder.mkdir(exist_ok=True)
            for leaving in folder.glob(LEAVINGS):
                leaving.unlink(missing_ok=True)
        state.wait_for_everyone()
        paths = [path for clips, _ in parts for path in paths_of_clips(clips.dataset, clips.modality)]
        places = [(part, index) for part, (clips, _) in enumerate(parts) for index in range(len(clips))]
        todo = list(zip(file_names(paths), places, strict=True))
        rates: dict[str, float | None] = {}
        mine = todo[state.process_index :: state.num_processes]
        for name, (part, index) in tqdm(mine, desc=f"files of the {split} clips", disable=self.is_silent):
            clips, kept = parts[part]
            if kept.keys[0][index] is not None:
                rates[name] = self._write_file(folder / name, kept, index, clips, encoder)
        rates = functools.reduce(dict.__or__, gather_object([rates]))
        if not state.is_main_process:
            return
        columns = [_scalar_columns(clips.dataset) for clips, _ in parts]
        rows = [
            _row_of(name, rates[name], parts[part][1], index, columns[part][index])
            for name, (part, index) in todo
            if name in rates
        ]
        others = dict.fromkeys(name for row in rows for name in row if name not in OWN_COLUMNS)
        write_csv(folder / "metadata.csv", [OWN_COLUMNS[0], *others, *OWN_COLUMNS[1:]], rows)
        self.rows[split] = rows

    def finish(self, sources: list[str]) -> None:
        """
        Write what is known at the end, and the card.

        Args:
            sources: names of the data sets.
        """
        if PartialState().is_main_process:
            self._write_facts()
            write_text(self.path / "README.md", self._card(sources))

    def _write_file(
        self, path: Path, kept: KeptFeatures, index: int, clips: ClipDataset, encoder: SignEncoder
    ) -> float | None:
        """-> features per second; a file that is there with the same origin is left as it is"""
        key = kept.keys[0][index]
        header = read_header(path)
        fingerprint = header.get("encoder_fingerprint", self.origin.encoder.fingerprint)
        if fingerprint != self.origin.encoder.fingerprint:
            found = EncoderOfFeatures(header.get("encoder"), fingerprint)
            raise ValueError(f"{path} holds features of {found}, not of {self.origin.encoder}. Name another folder.")
        if header.get("clip") == key:
            return float(header["features_per_second"]) if "features_per_second" in header else None
        rate = features_per_second(clips.modality, clips.dataset[index], encoder)
        values = {**self.origin.header(), "features_per_second": rate, "clip": key}
        header = {name: str(value) for name, value in values.items() if value is not None}
        write_bytes(path, safetensors.torch.save({TENSOR_NAME: kept.store[key]}, header))
        return rate

    def _write_facts(self) -> None:
        write_json(
            self.path / FEATURES_FILE,
            {
                **self.origin.header(),
                "features_dtype": self.origin.features_dtype,
                "precision": self.origin.precision,
                "features_per_second": self._mean_rate(),
                "clips": {split: len(rows) for split, rows in self.rows.items()},
                "clip_settings": self.origin.clip_settings,
            },
        )

    def _mean_rate(self) -> float | None:
        """Of all clips whose rate is known; each file has its own."""
        known = [row for rows in self.rows.values() for row in rows if row["features_per_second"]]
        seconds = sum(row["num_features"] / row["features_per_second"] for row in known)
        return round(sum(row["num_features"] for row in known) / seconds, 3) if seconds else None

    def _card(self, sources: list[str]) -> str:
        """README.md, with the licence of the encoder: that of the clips is the user's to add."""
        rows = [row for rows in self.rows.values() for row in rows]
        spoken = {row["spoken_language"] for row in rows if row.get("spoken_language")}
        data = DatasetCardData(
            language=sorted(spoken) or None,
            license=self.origin.license,
            source_datasets=[name for name in sources if is_hub_id(name)] or None,
            tags=["sign-language-translation", "visual-features"],
        )
        origin = self.origin
        of = origin.encoder.name if origin.revision is None else f"{origin.encoder.name} at commit {origin.revision}"
        table = "\n".join(f"| {split} | {len(rows)} |" for split, rows in self.rows.items())
        return (
            f"---\n{data.to_yaml()}\n---\n\n# Visual features of sign language clips\n\n"
            f"Computed by `flallm features` with the encoder {of}: one {origin.features_dtype} tensor "
            f"`{TENSOR_NAME}` of the shape (features, {origin.hidden_size}) for each clip, in the order of time. Each "
            f"file says in its header which encoder made it. `{FEATURES_FILE}` has the encoder's fingerprint and how "
            "clips were prepared. The licence above is the encoder's: the licence of the clips applies as well.\n\n"
            f"| split | clips |\n|---|---|\n{table}\n\n"
            f"Train on them with `--{VisualFeaturesArguments.flag} {origin.hidden_size}`.\n"
        )


def features_per_second(modality: Modality, row: dict[str, Any], encoder: SignEncoder) -> float | None:
    """How many features a clip has for each second, if it has times."""
    rate = modality.rate(row)
    if rate is None:
        return None
    length = modality.count(row)
    num_sampled = len(modality.sample_indices(length, rate))
    _, spacing = encoder.features_encoder.get_centre_and_spacing()
    return round(rate * num_sampled / length / spacing, 4)


def _row_of(name: str, rate: float | None, kept: KeptFeatures, index: int, others: dict[str, Any]) -> dict[str, Any]:
    own = (name, kept.store.count(kept.keys[0][index]), rate)
    return {**others, **dict(zip(OWN_COLUMNS, own, strict=True))}


def _scalar_columns(dataset: datasets.Dataset) -> list[dict[str, Any]]:
    """The texts and numbers of each row."""
    left_out = {*CLIP_COLUMNS, *TABLE_COLUMNS, *OWN_COLUMNS}
    classes = {name: kind for name, kind in dataset.features.items() if isinstance(kind, datasets.ClassLabel)}
    values = {
        name
        for name, kind in dataset.features.items()
        if isinstance(kind, datasets.Value) and "binary" not in kind.dtype
    }
    names = [name for name in dataset.column_names if name in {*classes, *values} - left_out]
    if not names:
        return [{} for _ in range(len(dataset))]
    rows = dataset.select_columns(names).with_format(None)
    return [{name: _as_text(value, classes.get(name)) for name, value in row.items()} for row in rows]


def _as_text(value: Any, classes: datasets.ClassLabel | None) -> Any:
    """The name of a class for its number; other values as they are."""
    return value if classes is None or value is None else classes.int2str(value)
