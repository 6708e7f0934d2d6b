"""Videos and sentences for training and evaluation: checked video folders, the torch data set, the collator."""

import csv
import functools
import io
import json
import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import datasets
import fsspec
import torch
from datasets.exceptions import DatasetGenerationError
from huggingface_hub.constants import HF_HUB_CACHE
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset
from transformers.image_utils import SizeDict

from modeling_flallm.own_processing import (
    FLaLLMProcessor,
    VideoDecodingError,
    decode_video,
    open_container,
    video_stream,
)

from ..arguments.data_arguments import DataArguments, DatasetArguments
from ..corpora.corpus_tables import MOST_SECONDS, csv_rows, plain_name, split_of
from ..corpora.data_set_columns import (
    NUMBERS,
    WORDS,
    by_our_names,
    check_split,
    check_video_column,
    our_names,
    tell_unused,
    unused,
    with_texts,
)
from ..hub.hub_names import explain_missing_folder
from ..languages.languages import language_in_prompt
from ..languages.target_languages import target_languages
from ..machine.inside_folder import inside
from ..scores.metrics import comparable
from .augmentation import ClipAugmentation, item_seed

METADATA_FILES = ("metadata.csv", "metadata.jsonl")
# Where what is downloaded from the Hub lies.
CACHES = (HF_HUB_CACHE, datasets.config.HF_DATASETS_CACHE, datasets.config.DOWNLOADED_DATASETS_PATH)
IGNORED_LABEL = -100
SampleFrameIndices = Callable[[int, float | None], list[int]]  # of the number of frames and the frames per second


def load_split(
    arguments: DatasetArguments, split: str, max_clips: int | None = None, dataset: str | None = None
) -> datasets.Dataset:
    """
    One split, with a column `video` of `{"path", "bytes"}` that is not decoded, and the column of sentences.

    Args:
        dataset: which of the data sets. Default: the first.

    Raises:
        FileNotFoundError: for a missing folder, split or metadata file, or a video that the metadata names.
        ValueError: for a missing column, an empty sentence, a part of a file that is none or is named twice, or a split
            without clips.
    """
    name = dataset or arguments.dataset[0]
    shown = f"{name} ({split})"
    check_most_clips(max_clips)
    if Path(name).is_dir():
        clips = _load_video_folder(Path(name), split, arguments.text_column)
    else:
        clips = _load_from_hub_for(arguments, name, split, max_clips)
        for row, value in enumerate(clips["split"] if "split" in clips.column_names else ()):
            check_split(value, split, f"{shown}: row {row} (counted from 0)")
    tell_unused(unused(clips.column_names, arguments.text_column), name)
    _check_sentences(clips, arguments.text_column, shown)
    clips = with_texts(clips, (arguments.text_column, *WORDS), shown)
    clips = _with_numbers(clips, shown)
    return clips if max_clips is None else clips.select(range(min(max_clips, len(clips))))


def _load_from_hub_for(arguments: DatasetArguments, name: str, split: str, max_clips: int | None) -> datasets.Dataset:
    if arguments.streaming:
        clips = _load_alone_from_hub(name, split, max_clips, arguments.text_column)
    else:
        clips = open_on_hub(name, split, text_column=arguments.text_column)
    clips = clips.cast_column("video", datasets.Video(decode=False))
    _check_videos(clips, f"{name} ({split})")
    return clips


def _check_videos(clips: datasets.Dataset, name: str) -> None:
    for row, video in enumerate(without_bytes(clips)):
        if video["path"] is None and video["bytes"] is None:
            raise ValueError(f"{name}: row {row} (counted from 0) has no video.")
        check_is_of_hub(video, f"{name}: row {row} (counted from 0)")


def check_most_clips(max_clips: int | None) -> None:
    """
    Raises:
        ValueError: for a limit that leaves no clip.
    """
    if max_clips is not None and max_clips < 1:
        raise ValueError(f"The number of clips to use must be 1 or more, got {max_clips}.")


def load_training_split(arguments: DataArguments) -> tuple[datasets.Dataset, list[int]]:
    """
    The training split of every data set, one after another, and how many clips each has; `max_train_clips` holds for
    each of them.

    Raises:
        FileNotFoundError, ValueError: as `load_split`.
    """
    parts = [
        load_split(arguments, arguments.train_split, arguments.max_train_clips, name) for name in arguments.dataset
    ]
    sizes = [len(part) for part in parts]
    return parts[0] if len(parts) == 1 else _one_after_another(parts, arguments.text_column), sizes


def _one_after_another(parts: list[datasets.Dataset], text_column: str) -> datasets.Dataset:
    """
    Of columns that not all data sets have, those that are used here stay, empty where there are none; `load_split` has
    told of the others.
    """
    columns = {text_column: "string", **dict.fromkeys(WORDS, "string"), **dict.fromkeys(NUMBERS, "float64")}
    columns = {name: kind for name, kind in columns.items() if any(name in part.column_names for part in parts)}
    features = datasets.Features({name: datasets.Value(kind) for name, kind in columns.items()})
    features["video"] = datasets.Video(decode=False)
    for index, part in enumerate(parts):
        for name in set(columns) - set(part.column_names):
            part = part.add_column(name, [None] * len(part), feature=features[name])
        parts[index] = part.select_columns(list(features)).cast(features)
    return datasets.concatenate_datasets(parts)


def _with_numbers(clips: datasets.Dataset, name: str) -> datasets.Dataset:
    """Numbers where a table has texts, and none where it has an empty field; parts of a file that are none raise."""
    values = {column: list(clips[column]) for column in NUMBERS if column in clips.column_names}
    for column, texts in values.items():
        numbers = [_as_number(text, column, row, name) for row, text in enumerate(texts)]
        values[column] = numbers
        clips = clips.remove_columns(column).add_column(column, numbers, feature=datasets.Value("float64"))
    nothing = [None] * len(clips)
    for row, (start, end) in enumerate(zip(values.get("start", nothing), values.get("end", nothing), strict=True)):
        _check_part(start, end, row, name)
    return clips


def _check_part(start: float | None, end: float | None, row: int, name: str) -> None:
    if end is not None and end <= (start or 0):
        raise ValueError(
            f"{name}: row {row} (counted from 0) ends at {end:g} s, but starts at {start or 0:g} s. Each part of a "
            "video must end after its start."
        )


def checked_row(row: dict[str, Any], text_column: str, number: int, name: str) -> dict[str, Any]:
    """
    One row as `load_split` would give it, with the sentence as `text`, of what is used in training.

    Args:
        number: of the row, and `name`: of what it is a row of, for the texts of errors.

    Raises:
        ValueError: for an empty sentence, a missing video or a part of a file that is none.
    """
    text, video = row.get(text_column), row.get("video")
    if text is None or not comparable(str(text)):
        raise ValueError(
            f"{name}: the sentence in row {number} (counted from 0) is empty. Every clip needs its sentence."
        )
    if isinstance(text, list | dict | bool):
        raise ValueError(f"{name}: row {number} (counted from 0): {text_column} must be a text, got {text!r}.")
    if video is None:
        raise ValueError(f"{name}: row {number} (counted from 0) has no video.")
    start, end = (_as_number(row.get(column), column, number, name) for column in ("start", "end"))
    _check_part(start, end, number, name)
    return {
        "text": str(text),
        "video": undecoded(video),
        "start": start,
        "end": end,
        "spoken_language": row.get("spoken_language"),
    }


def _as_number(value: Any, column: str, row: int, name: str) -> float | None:
    if value is None or not str(value).strip():
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number <= (math.inf if column == "num_frames" else MOST_SECONDS) or number == math.inf:
        what = "a number of frames" if column == "num_frames" else "seconds from the beginning of the video"
        raise ValueError(f"{name}: {column} must be {what}, got {value!r} in row {row} (counted from 0).")
    return number


def _load_video_folder(folder: Path, split: str, text_column: str) -> datasets.Dataset:
    split_folder = find_split_folder(folder, split)
    if split_folder is None:
        found = sorted(path.name for path in folder.iterdir() if path.is_dir())
        meant = "validation" if split == "dev" else split
        raise FileNotFoundError(f"{folder} must hold a folder for the split {meant!r}, it has {found}.")
    rows = read_metadata(split_folder, text_column)
    names = dict.fromkeys(name for row in rows for name in row if name != "file_name")
    columns = {name: _of_one_kind([row.get(name) for row in rows]) for name in names if name != "video"}
    # Not load_dataset("videofolder"): it reads the sentence "NA" as none and "007" as 7, and folders as glob patterns.
    clips = datasets.Dataset.from_dict({**columns, "video": [str(split_folder / row["file_name"]) for row in rows]})
    return clips.cast_column("video", datasets.Video(decode=False))


def find_split_folder(folder: Path, split: str) -> Path | None:
    """
    The folder of a split, in any letter case; of one that has several names (validation, dev, ...) that of this name.

    Raises:
        ValueError: if several could be it, or for a link out of the data set.
    """
    folders = sorted(path for path in folder.iterdir() if path.is_dir())
    same = [path for path in folders if path.name == split]
    alike = same or [path for path in folders if plain_name(path.name) == plain_name(split)]
    alike = alike or [path for path in folders if split_of(path.name) == split_of(split) is not None]
    if len(alike) > 1:
        names = ", ".join(path.name for path in alike)
        raise ValueError(f"{folder} has several folders for the split {split!r}: {names}. Leave one of them.")
    return inside(folder, alike[0].name) if alike else None


def open_on_hub(
    name: str, split: str, streaming: bool = False, text_column: str = "text"
) -> datasets.Dataset | datasets.IterableDataset:
    """
    A split of a data set on the Hub, whose columns have the names that are used here; streamed, it is not downloaded,
    and its videos are not decoded.

    Raises:
        FileNotFoundError: if there is no such data set.
        ValueError: for a split that it lacks, if it has no videos, or for a column that is not understood.
    """
    dataset = _load_split_from_hub(name, split, streaming)
    columns = column_names(dataset)
    renamed = {theirs: ours for theirs, ours in our_names(tuple(columns), text_column, name).items() if theirs != ours}
    if renamed:
        dataset = dataset.rename_columns(renamed)
    columns = [renamed.get(column, column) for column in columns]
    if "video" not in columns:
        raise ValueError(f"`video` must be a column of the data set {name}, got columns {columns}.")
    check_video_column(dataset.features, name)
    return dataset


def _load_split_from_hub(name: str, split: str, streaming: bool) -> datasets.Dataset | datasets.IterableDataset:
    """The split of this name, or the one that has another of its names (validation, dev, ...)."""
    try:
        dataset = load_from_hub(name, split="validation" if split == "dev" else split, streaming=streaming)
    except ValueError:
        if split_of(split) is None:
            raise
        names = [other for other in datasets.get_dataset_split_names(name) if split_of(other) == split_of(split)]
        if len(names) != 1 or names == [split]:
            raise
        dataset = load_from_hub(name, split=names[0], streaming=streaming)
    return dataset.decode(False) if streaming and dataset.features is not None else dataset


def _of_one_kind(values: list[Any]) -> list[Any]:
    """A column of a data set has one kind of value; in JSON a signer may be 1 in one row and "S2" in the next."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) < 2 or kinds <= {int, float}:
        return values
    return [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]


def load_from_hub(name: str, **options: Any) -> Any:
    """
    What `datasets.load_dataset` gives.

    Raises:
        FileNotFoundError: if there is no such data set; at once for a typo in a path.
    """
    nowhere = f"--dataset {name!r} is no folder here, and no data set on the Hub"
    missing = explain_missing_folder(name)
    if missing is not None:
        raise FileNotFoundError(f"{nowhere}: {missing}")
    try:
        return datasets.load_dataset(name, **options)
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(f"{nowhere}: {error}") from error
    except DatasetGenerationError as error:  # its own text only says that there was one
        raise ValueError(f"The data set {name} cannot be read: {error.__cause__ or error}") from error


def column_names(dataset: datasets.Dataset | datasets.IterableDataset) -> list[str]:
    """Of a stream that does not tell its columns, those of its first row."""
    return dataset.column_names or list(next(iter(dataset), {}))


def _load_alone_from_hub(name: str, split: str, max_clips: int | None, text_column: str) -> datasets.Dataset:
    """One split without the others, which `load_dataset` would download, too; it is kept on disk for the next time."""
    rows = open_on_hub(name, split, streaming=True, text_column=text_column)
    rows = rows if max_clips is None else rows.take(max_clips)
    try:
        return datasets.Dataset.from_generator(_rows_with_content, gen_kwargs={"rows": rows}, features=rows.features)
    except DatasetGenerationError as error:
        raise ValueError(f"The data set {name} cannot be read: {error.__cause__ or error}") from error


def _rows_with_content(rows: datasets.IterableDataset) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(rows):
        if row["video"] is not None:
            check_is_of_hub(undecoded(row["video"]), f"row {number} (counted from 0)")
            row = {**row, "video": fetch_content(row["video"])}
        yield row


def undecoded(video: Any) -> dict[str, Any]:
    """The `{"path", "bytes"}` of a video. Not as `datasets` has it, which takes a file of that name here for bytes."""
    if isinstance(video, dict):
        return {name: video.get(name) for name in ("path", "bytes")}
    return datasets.Video(decode=False).encode_example(video)


def check_is_of_hub(video: dict[str, Any] | None, where: str) -> None:
    """
    A table on the Hub can hold the path of any file of this machine; what was downloaded for it may be read.

    Raises:
        ValueError: for a video without bytes whose path leads elsewhere.
    """
    if video is None or video["bytes"] is not None or video["path"] is None:
        return
    source = video["path"].rpartition("::")[2]  # of a file in an archive, the address of the archive
    if "://" in source:
        is_of_hub = source.startswith(("hf://", "https://", f"{datasets.config.HF_ENDPOINT}/"))
    else:
        path = Path(source).resolve()
        is_of_hub = any(path.is_relative_to(Path(root).resolve()) for root in CACHES)
    if not is_of_hub:
        raise ValueError(
            f"{where} names {video['path']!r}, which is no file of the data set. Its videos must lie in it, or their "
            "bytes in its table."
        )


def without_bytes(clips: datasets.Dataset) -> list[dict[str, Any]]:
    """The `{"path", "bytes"}` of all videos of a data set, empty where there are bytes, which can be a whole corpus."""
    videos = []
    for batch in clips.select_columns("video").with_format("arrow").iter(batch_size=100):
        for chunk in batch.column("video").chunks:
            fields = dict(zip((field.name for field in chunk.type), chunk.flatten(), strict=True))
            pairs = zip(fields["path"].to_pylist(), fields["bytes"].is_valid().to_pylist(), strict=True)
            videos += [{"path": path, "bytes": b"" if has_bytes else None} for path, has_bytes in pairs]
    return videos


def fetch_content(video: Any) -> dict[str, Any]:
    """The `{"path", "bytes"}` of a video; of a file that is not on this machine with its bytes."""
    video = undecoded(video)
    if video["bytes"] is not None or "://" not in video["path"]:
        return video
    with fsspec.open(video["path"], "rb") as file:
        return {"path": video["path"], "bytes": file.read()}


def read_metadata(split_folder: Path, text_column: str) -> list[dict[str, Any]]:
    """
    Rows of the metadata file of one split, checked; values of a CSV file are strings.

    Raises:
        FileNotFoundError: if there is no metadata file, or it names a video that is not there.
        ValueError: for a file that cannot be read, a missing column, a part of a file that is named twice, or a video
            outside of the folder.
    """
    path = find_metadata(split_folder)
    if path is None:
        raise FileNotFoundError(f"{split_folder} must hold metadata.csv with the columns file_name,{text_column}.")
    rows = [by_our_names(row, text_column, str(path)) for row in _read_rows(path)]
    if not rows:
        raise ValueError(f"{path} names no video.")
    columns = list(dict.fromkeys(column for row in rows for column in row))
    for column in ("file_name", text_column):
        if column not in columns:
            advice = " Pass --text_column." if column == text_column else ""
            raise ValueError(f"{path} must have the column {column!r}, got {columns}.{advice}")
    for number, row in enumerate(rows, 1):
        where = f"{path}: row {number}"
        _check_texts(row, text_column, where)
        check_split(row.get("split"), split_folder.name, where)
        try:
            row["file_name"] = _as_it_is_there(split_folder, row["file_name"])
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
    parts = Counter((str(Path(row["file_name"])), *_part_of_file(row)) for row in rows)
    duplicates = sorted({name for (name, *_), count in parts.items() if count > 1})
    if duplicates:
        raise ValueError(
            f"{path} names {_some(duplicates)} more than once. Every clip needs a file of its own, or a part of it of "
            "its own in the columns start and end (seconds)."
        )
    missing = sorted({name for name, *_ in parts if not (split_folder / name).is_file()})
    if missing:
        raise FileNotFoundError(f"{path} names {len(missing)} video(s) that are not there: {_some(missing)}.")
    return rows


def find_metadata(split_folder: Path) -> Path | None:
    """
    The table of a split, in any letter case.

    Raises:
        ValueError: if there are several, or for a link out of the folder.
    """
    found = sorted(path.name for path in split_folder.iterdir() if path.name.casefold() in METADATA_FILES)
    if len(found) > 1:
        raise ValueError(f"{split_folder} has {' and '.join(found)}. Leave one of them.")
    return inside(split_folder, found[0]) if found else None


def _as_it_is_there(split_folder: Path, name: str) -> str:
    """A name in the Unicode form in which the file system has it: macOS writes umlauts as two characters."""
    forms = (name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD")))
    return next((form for form in forms if inside(split_folder, form).is_file()), name)


def _check_texts(row: dict[str, Any], text_column: str, where: str) -> None:
    """JSON can hold anything where a text belongs; a sentence may be a number."""
    name, sentence = row.get("file_name"), row.get(text_column)
    if not name:
        raise ValueError(f"{where} has no file_name.")
    if not isinstance(name, str):
        raise ValueError(f"{where}: file_name must be a text, got {name!r}.")
    if isinstance(sentence, list | dict | bool):
        raise ValueError(f"{where}: {text_column} must be a text, got {sentence!r}.")


def _part_of_file(row: dict[str, Any]) -> tuple[Any, Any]:
    """`start` and `end` in a form in which "1.50" and 1.5 are the same."""
    values = []
    for name in ("start", "end"):
        try:
            values.append(float(row.get(name) or 0))
        except (TypeError, ValueError):
            values.append(str(row[name]))  # said with the number of its row by `_with_numbers`
    return values[0], values[1]


def _read_rows(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
        if path.suffix.lower() == ".csv":
            rows = list(csv_rows(text, is_strict=True))
        else:
            rows = [json.loads(line) for line in io.StringIO(text, newline="") if line.strip()]
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
    check_text_column(dataset.column_names, text_column, name)
    if len(dataset) == 0:
        raise ValueError(f"{name} has no clips.")
    empty = [index for index, text in enumerate(dataset[text_column]) if text is None or not comparable(str(text))]
    if empty:
        raise ValueError(
            f"{len(empty)} sentence(s) of {name} are empty, the first in row {empty[0]} (counted from 0). Every clip "
            "needs its sentence."
        )


def check_text_column(columns: list[str], text_column: str, name: str) -> None:
    """
    Raises:
        ValueError: if there is no column of sentences.
    """
    if text_column not in columns:
        raise ValueError(f"`{text_column}` must be a column of {name}, got columns {columns}. Pass --text_column.")


def _some(names: list[str], most: int = 5) -> str:
    shown = ", ".join(repr(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


class ClipReader:
    """
    What of a clip's frames is used: sampled as at evaluation or, with an augmentation, as `seed` draws it.

    With an augmentation, frames have been cropped to the final size. With `preprocess_on_device` they stay as they are,
    and `spatial_seed` is the draw that `FramePreprocessor` makes.
    """

    def __init__(
        self,
        processor: FLaLLMProcessor,
        augmentation: ClipAugmentation | None = None,
        preprocess_on_device: bool = False,
    ):
        self.video_processor = processor.video_processor
        self.augmentation = augmentation
        self.preprocess_on_device = preprocess_on_device

    def __call__(self, read: Callable[[SampleFrameIndices], torch.Tensor], seed: int) -> dict[str, Any]:
        """
        Args:
            read: gives the frames that are asked for, uint8 `(sampled frames, 3, height, width)`.
        """
        if self.augmentation is None:
            frames = read(self.video_processor.sample_frame_indices)
            return {"frames": frames, "spatial_seed": None, "is_cropped": False}
        with torch.random.fork_rng(devices=[]):
            # Of the CPU alone: torch.manual_seed would also start the accelerator's random numbers anew.
            torch.default_generator.manual_seed(seed)
            frames = read(self._sample_augmented)
            spatial_seed = int(torch.randint(2**62, ()))
        if not self.preprocess_on_device:
            frames = self.augmentation.apply_spatial(frames, spatial_seed)
        return {"frames": frames, "spatial_seed": spatial_seed, "is_cropped": not self.preprocess_on_device}

    def _sample_augmented(self, num_frames: int, frames_per_second: float | None) -> list[int]:
        num_sampled = len(self.video_processor.sample_frame_indices(num_frames, frames_per_second))
        return self.augmentation.sample_frame_indices(num_sampled, num_frames)

    def longest_length(self, num_frames: int) -> int:
        """The most frames that are used of so many."""
        num_sampled = len(self.video_processor.sample_frame_indices(num_frames))
        return num_sampled if self.augmentation is None else self.augmentation.longest_length(num_sampled, num_frames)


def decode_clip(row: dict[str, Any], **options: Any) -> Any:
    """The `DecodedVideo` of a row, which may be a part of a file."""
    return decode_video(row["video"], start=row.get("start"), end=row.get("end"), **options)


class RandomDataset(Dataset):
    """
    What is drawn for an item depends on nothing but `seed`, the epoch (`set_epoch`) and the index: not on the number of
    processes, workers or restarts.
    """

    def __init__(self, seed: int):
        self.seed = seed
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()  # seen by worker processes too

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        self._epoch.fill_(epoch)

    def seed_of(self, index: int) -> int:
        """For the draws of one item in this epoch."""
        return item_seed(self.seed, self.epoch, index)


class SignVideoDataset(RandomDataset):
    """
    Clips as sampled uint8 frames `(frames, 3, height, width)`, with their sentences. See `ClipReader`.

    A column `spoken_language` holds the language tag of each sentence; `target_language` is what a multilingual
    tokenizer calls it.

    Raises:
        ValueError: for a language that the tokenizer lacks.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        processor: FLaLLMProcessor,
        text_column: str = "text",
        augmentation: ClipAugmentation | None = None,
        keep_decoded_videos: bool = False,
        preprocess_on_device: bool = False,
        seed: int = 0,
    ):
        super().__init__(seed)
        self.dataset = dataset
        self.read_clip = ClipReader(processor, augmentation, preprocess_on_device)
        self.texts: list[str] = [str(text) for text in dataset[text_column]]
        tags = dataset["spoken_language"] if "spoken_language" in dataset.column_names else [None] * len(dataset)
        self.spoken_languages: list[str | None] = list(tags)
        self.target_languages = target_languages(processor.tokenizer, self.spoken_languages)
        self._decoded: dict[int, tuple[torch.Tensor, float]] | None = {} if keep_decoded_videos else None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.frames_of(index, self.seed_of(index)), **self.sentence_of(index)}

    def frames_of(self, index: int, seed: int) -> dict[str, Any]:
        """What `ClipReader` gives for a clip and a seed."""
        return self.read_clip(functools.partial(self._sampled_frames, index), seed)

    def sentence_of(self, index: int) -> dict[str, Any]:
        return {
            "text": self.texts[index],
            "target_language": self.target_languages[index],
            "spoken_language": self.spoken_languages[index],
        }

    def forget_decoded_videos(self) -> None:
        """Free the memory of `keep_decoded_videos`."""
        if self._decoded is not None:
            self._decoded.clear()

    def longest_lengths(self, indices: Sequence[int] | None = None) -> list[int]:
        """
        The most frames that each clip, or each of `indices`, can have after sampling and augmentation; nothing is
        decoded for it.
        """
        indices = range(len(self)) if indices is None else indices
        known = self.dataset["num_frames"] if "num_frames" in self.dataset.column_names else [None] * len(self)
        counts = [int(known[index]) if known[index] else self._count_frames(index) for index in indices]
        return [self.read_clip.longest_length(count) for count in counts]

    def _count_frames(self, index: int) -> int:
        row = self.dataset[index]
        content = row["video"]["bytes"]
        source = io.BytesIO(content) if content is not None else row["video"]["path"]
        try:
            num_frames, seconds = _frames_and_seconds(source)
        except VideoDecodingError:  # no video, which decoding says better, or pictures
            return decode_clip(row, sample_frame_indices=lambda num_frames, fps: [0]).num_source_frames
        start, end = row.get("start"), row.get("end")
        if start is None and end is None:
            return num_frames
        part = min(seconds if end is None else end, seconds) - (start or 0.0)
        return max(math.ceil(part * num_frames / seconds), 1)

    def _sampled_frames(self, index: int, sample: SampleFrameIndices) -> torch.Tensor:
        """-> uint8 `(sampled frames, 3, height, width)`"""
        if self._decoded is None:
            return decode_clip(self.dataset[index], sample_frame_indices=sample).frames
        if index not in self._decoded:
            video = decode_clip(self.dataset[index])
            self._decoded[index] = (video.frames, video.fps)
        frames, frames_per_second = self._decoded[index]
        return frames[sample(len(frames), frames_per_second)]


@functools.lru_cache(maxsize=1)  # the parts of one long video follow each other
def _frames_and_seconds(source: Any) -> tuple[int, float]:
    """Frames and length of a video file as its header says; where it says nothing, its packets are counted."""
    with open_container(source, str(source)) as container:
        stream = video_stream(container, str(source))
        rate = float(stream.average_rate or stream.guessed_rate or 25)
        if stream.frames:
            return stream.frames, stream.frames / rate
        if container.duration and len(container.streams) == 1:  # else it may be the length of the sound
            seconds = container.duration / av.time_base
            return max(math.ceil(seconds * rate), 1), seconds
        num_frames = max(sum(1 for packet in container.demux(stream) if packet.size), 1)
        return num_frames, num_frames / rate


class TranslationCollator:
    """
    Items of `SignVideoDataset` -> what `FLaLLMForTranslation` takes, padded; of items that hold cached `features`
    `(tokens, hidden size)` instead of frames, `visual_features` and their mask.

    With `preprocess_on_device` the frames of each clip stay as they are, uint8, with the seeds of their augmentation:
    `FramePreprocessor` makes pixel values of them where the model is.
    """

    def __init__(self, processor: FLaLLMProcessor, preprocess_on_device: bool = False):
        self.processor = processor
        self.preprocess_on_device = preprocess_on_device

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        # Text first: the Trainer takes the batch size from the first tensor.
        text_inputs = self.text_inputs(items)
        if "features" in items[0]:
            return {**text_inputs, **_padded_features([item["features"] for item in items])}
        return {**text_inputs, **self.video_inputs(items)}

    def text_inputs(self, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Of what `SignVideoDataset.sentence_of` gives for each clip."""
        return {"labels": self._labels([item["text"] for item in items], [item["target_language"] for item in items])}

    def video_inputs(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        """Of what `ClipReader` gives for each clip."""
        frames = [item["frames"] for item in items]
        if self.preprocess_on_device:
            return {"frames": frames, "spatial_seeds": [item["spatial_seed"] for item in items]}
        return _pixel_values(self.processor, frames, resize=not items[0]["is_cropped"])

    def _labels(self, texts: list[str], languages: list[str | None]) -> torch.Tensor:
        """-> `(batch, tokens)`, each sentence with the code of its language."""
        tokenizer = self.processor.tokenizer
        usual = getattr(tokenizer, "tgt_lang", None)
        if set(languages) <= {usual}:
            return self.processor(text_target=texts)["labels"]
        labels: list[torch.Tensor] = [torch.empty(0)] * len(texts)
        try:
            for language in dict.fromkeys(languages):
                tokenizer.tgt_lang = language
                rows = [row for row, other in enumerate(languages) if other == language]
                of_language = self.processor(text_target=[texts[row] for row in rows])["labels"]
                for row, values in zip(rows, of_language, strict=True):
                    labels[row] = values[values != IGNORED_LABEL]
        finally:
            tokenizer.tgt_lang = usual
        return pad_sequence(labels, batch_first=True, padding_value=IGNORED_LABEL)


class PromptedTranslationCollator(TranslationCollator):
    """
    As `TranslationCollator`, for `LlavaSltForTranslation`: prompt and sentence are one row of `input_ids`, padded on
    the left, and the prompt names the language of the sentence, where the data set tells it.
    """

    def text_inputs(self, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        inputs = self.processor(
            text_target=[item["text"] for item in items],
            num_visual_tokens=[self._num_visual_tokens(item) for item in items],
            spoken_language=[
                language_in_prompt(item["spoken_language"], self.processor.spoken_language) for item in items
            ],
            return_tensors="pt",
        )
        return dict(inputs)

    def _num_visual_tokens(self, item: dict[str, Any]) -> int:
        if "features" in item:
            return len(item["features"])
        return self.processor.get_num_visual_tokens(len(item["frames"]))


def _padded_features(features: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        "visual_features": pad_sequence(features, batch_first=True),
        "visual_attention_mask": pad_sequence(
            [torch.ones(len(tokens), dtype=torch.long) for tokens in features], batch_first=True
        ),
    }


class FramePreprocessor:
    """
    Resize, augment, crop and normalise the uint8 frames of a batch, with the same draws and results as in the loading
    processes, on the device on which the frames are.
    """

    def __init__(self, processor: FLaLLMProcessor, augmentation: ClipAugmentation | None = None):
        self.processor = processor
        self.augmentation = augmentation

    def __call__(self, frames: list[torch.Tensor], spatial_seeds: list[int | None]) -> dict[str, torch.Tensor]:
        """
        Args:
            frames: of each clip, uint8 `(frames, 3, height, width)`.
            spatial_seeds: of each clip, or `None` for all at evaluation.
        """
        if spatial_seeds[0] is None:
            return _pixel_values(self.processor, self._resized(frames), resize=False, crop=True)
        drawn = [self.augmentation.apply_spatial(*pair) for pair in zip(frames, spatial_seeds, strict=True)]
        return _pixel_values(self.processor, drawn, resize=False)

    def _resized(self, frames: list[torch.Tensor]) -> list[torch.Tensor]:
        """All frames of a clip at once, where the processor takes one after another."""
        video_processor = self.processor.video_processor
        size = SizeDict(**dict(video_processor.size))
        return [video_processor.resize(clip, size=size, resample=video_processor.resample) for clip in frames]


def _pixel_values(
    processor: FLaLLMProcessor, frames: list[torch.Tensor], resize: bool, crop: bool | None = None
) -> dict[str, torch.Tensor]:
    """`crop` at the centre: by default where the frames are resized, too."""
    return dict(
        processor.video_processor.preprocess_frames(
            frames, do_resize=resize, do_center_crop=resize if crop is None else crop
        )
    )
