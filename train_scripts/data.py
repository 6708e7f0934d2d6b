"""Videos and sentences for training and evaluation: checked video folders, the torch data set, the collator."""

import csv
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import torch
from torch.utils.data import Dataset

from modeling_flallm.own_processing import FLaLLMProcessor, decode_video

from .arguments import DataArguments
from .augmentation import ClipAugmentation, clip_seed

METADATA_FILES = ("metadata.csv", "metadata.jsonl")
# Names of folders that `datasets` reads as the validation split.
VALIDATION_FOLDERS = ("validation", "valid", "val", "dev")


def load_split(arguments: DataArguments, split: str, max_clips: int | None = None) -> datasets.Dataset:
    """
    One split, with a column `video` of `{"path", "bytes"}` that is not decoded, and the column of sentences.

    Raises:
        FileNotFoundError: for a missing folder, split or metadata file, or a video that the metadata names.
        ValueError: for a missing column, an empty sentence, a file named twice or a split without clips.
    """
    if max_clips is not None and max_clips < 1:
        raise ValueError(f"The number of clips to use must be 1 or more, got {max_clips}.")
    if split == "dev":
        split = "validation"
    if Path(arguments.dataset).is_dir():
        dataset = _load_video_folder(Path(arguments.dataset), split, arguments.text_column)
    else:
        dataset = _load_from_hub(arguments.dataset, split)
    dataset = dataset.cast_column("video", datasets.Video(decode=False))
    _check_sentences(dataset, arguments.text_column, f"{arguments.dataset} ({split})")
    return dataset if max_clips is None else dataset.select(range(min(max_clips, len(dataset))))


def _load_video_folder(folder: Path, split: str, text_column: str) -> datasets.Dataset:
    names = VALIDATION_FOLDERS if split == "validation" else (split,)
    split_folder = next((folder / name for name in names if (folder / name).is_dir()), None)
    if split_folder is None:
        found = sorted(path.name for path in folder.iterdir() if path.is_dir())
        raise FileNotFoundError(f"{folder} must hold a folder for the split {split!r}, it has {found}.")
    rows = read_metadata(split_folder, text_column)
    columns = {name: [row.get(name) for row in rows] for name in rows[0] if name != "file_name"}
    # Not load_dataset("videofolder"): it reads the sentence "NA" as none and "007" as 7, and folders as glob patterns.
    return datasets.Dataset.from_dict({**columns, "video": [str(split_folder / row["file_name"]) for row in rows]})


def _load_from_hub(name: str, split: str) -> datasets.Dataset:
    try:
        dataset = datasets.load_dataset(name, split=split)
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(f"--dataset {name!r} is no folder here, and no data set on the Hub: {error}") from error
    if "video" not in dataset.column_names:
        raise ValueError(f"`video` must be a column of the data set {name}, got columns {dataset.column_names}.")
    return dataset


def read_metadata(split_folder: Path, text_column: str) -> list[dict[str, Any]]:
    """
    Rows of the metadata file of one split, checked; values of a CSV file are strings.

    Raises:
        FileNotFoundError: if there is no metadata file, or it names a video that is not there.
        ValueError: for a file that cannot be read, a missing column or a file named twice.
    """
    path = next((split_folder / name for name in METADATA_FILES if (split_folder / name).is_file()), None)
    if path is None:
        raise FileNotFoundError(f"{split_folder} must hold metadata.csv with the columns file_name,{text_column}.")
    rows = _read_rows(path)
    if not rows:
        raise ValueError(f"{path} names no video.")
    for column in ("file_name", text_column):
        if column not in rows[0]:
            advice = " Pass --text_column." if column == text_column else ""
            raise ValueError(f"{path} must have the column {column!r}, got {list(rows[0])}.{advice}")
    unnamed = [number for number, row in enumerate(rows, 1) if not row.get("file_name")]
    if unnamed:
        raise ValueError(f"{path}: row {unnamed[0]} has no file_name.")
    counts = Counter(str(Path(row["file_name"])) for row in rows)
    duplicates = sorted(name for name, count in counts.items() if count > 1)
    if duplicates:
        raise ValueError(f"{path} names {_some(duplicates)} more than once. Every clip needs a file of its own.")
    missing = sorted(name for name in counts if not (split_folder / name).is_file())
    if missing:
        raise FileNotFoundError(f"{path} names {len(missing)} video(s) that are not there: {_some(missing)}.")
    return rows


def _read_rows(path: Path) -> list[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix == ".csv":
                rows = list(csv.DictReader(file, strict=True))
            else:
                rows = [json.loads(line) for line in file if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}. Save it as UTF-8.") from error
    except (csv.Error, json.JSONDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}.") from error
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise ValueError(f'{path}: row {number} must be an object, such as {{"file_name": ..., "text": ...}}.')
        if None in row:  # where DictReader puts what is left over
            raise ValueError(f"{path}: row {number} has more values than the header. Put commas in double quotes.")
    return rows


def _check_sentences(dataset: datasets.Dataset, text_column: str, name: str) -> None:
    if text_column not in dataset.column_names:
        raise ValueError(
            f"`{text_column}` must be a column of {name}, got columns {dataset.column_names}. Pass --text_column."
        )
    if len(dataset) == 0:
        raise ValueError(f"{name} has no clips.")
    empty = [index for index, text in enumerate(dataset[text_column]) if text is None or not str(text).strip()]
    if empty:
        raise ValueError(
            f"{len(empty)} sentence(s) of {name} are empty, the first in row {empty[0]} (counted from 0). Every clip "
            "needs its sentence."
        )


def _some(names: list[str], most: int = 5) -> str:
    shown = ", ".join(repr(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


class SignVideoDataset(Dataset):
    """
    Clips as sampled uint8 frames `(frames, 3, height, width)`, with their sentences.

    With an augmentation, frames have been cropped to the final size, and what is drawn depends on nothing but `seed`,
    the epoch (`set_epoch`) and the index: not on the number of processes, workers or restarts.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        processor: FLaLLMProcessor,
        text_column: str = "text",
        augmentation: ClipAugmentation | None = None,
        keep_decoded_videos: bool = False,
        seed: int = 0,
    ):
        self.dataset = dataset
        self.video_processor = processor.video_processor
        self.augmentation = augmentation
        self.seed = seed
        self.texts: list[str] = [str(text) for text in dataset[text_column]]
        self._decoded: dict[int, tuple[torch.Tensor, float]] | None = {} if keep_decoded_videos else None
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()  # seen by worker processes too

    def set_epoch(self, epoch: int) -> None:
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self.augmentation is None:
            frames = self._sampled_frames(index, self.video_processor.sample_frame_indices)
            return {"frames": frames, "text": self.texts[index], "is_cropped": False}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(clip_seed(self.seed, int(self._epoch), index))
            frames = self._sampled_frames(index, self._sample_augmented)
            frames = self.augmentation.spatial(frames)
        return {"frames": frames, "text": self.texts[index], "is_cropped": True}

    def _sample_augmented(self, num_frames: int, frames_per_second: float | None) -> list[int]:
        num_sampled = len(self.video_processor.sample_frame_indices(num_frames, frames_per_second))
        return self.augmentation.sample_frame_indices(num_sampled, num_frames)

    def _sampled_frames(self, index: int, sample: Callable[[int, float | None], list[int]]) -> torch.Tensor:
        """-> uint8 `(sampled frames, 3, height, width)`"""
        if self._decoded is None:
            return self._decode(index, sample_frame_indices=sample).frames
        if index not in self._decoded:
            video = self._decode(index)
            self._decoded[index] = (video.frames, video.fps)
        frames, frames_per_second = self._decoded[index]
        return frames[sample(len(frames), frames_per_second)]

    def _decode(self, index: int, **options: Any):
        row = self.dataset[index]
        start, end = (float(row[name]) if row.get(name) not in (None, "") else None for name in ("start", "end"))
        return decode_video(row["video"], start=start, end=end, **options)


class TranslationCollator:
    """Items of `SignVideoDataset` -> what `FLaLLMForTranslation` takes, padded."""

    def __init__(self, processor: FLaLLMProcessor):
        self.processor = processor

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        resize = not items[0]["is_cropped"]
        return dict(
            self.processor(
                videos=[item["frames"] for item in items],
                text=[item["text"] for item in items],
                do_sample_frames=False,
                do_resize=resize,
                do_center_crop=resize,
                return_tensors="pt",
            )
        )
