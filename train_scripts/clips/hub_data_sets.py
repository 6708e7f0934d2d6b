"""
Data sets on the Hub, or in shards in a folder: opened, streamed or downloaded, reading only files that belong to them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import fsspec
from datasets.exceptions import DatasetGenerationError
from huggingface_hub.constants import HF_HUB_CACHE

from modeling_flallm.own_processing import MODALITIES, Modality

from ..corpora.corpus_tables import split_of
from ..corpora.data_set_columns import (
    CLIP_COLUMNS,
    check_clip_columns,
    our_names,
    usual_split_name,
)
from ..hub.hub_names import explain_missing_folder

# Where what is downloaded from the Hub lies.
CACHES = (HF_HUB_CACHE, datasets.config.HF_DATASETS_CACHE, datasets.config.DOWNLOADED_DATASETS_PATH)

SHARDS = ("*.parquet", "*.tar")  # tar: WebDataset
JSON_OF_SHARDS = "json"  # its columns are the ends of file names


def is_clip_folder(name: str) -> bool:
    """Whether a data set is a folder of clips with tables; else it is in shards in a folder, or on the Hub."""
    folder = Path(name)
    return folder.is_dir() and (_has_table(folder) or not _holds_shards(folder))


def _has_table(folder: Path) -> bool:
    return any(any(folder.glob(pattern)) for pattern in ("metadata.*", "*/metadata.*"))


def _holds_shards(folder: Path) -> bool:
    return any(any(folder.glob(f"{where}{shards}")) for shards in SHARDS for where in ("", "*/"))


def open_on_hub(
    name: str, split: str, streaming: bool = False, text_column: str | None = "text"
) -> datasets.Dataset | datasets.IterableDataset:
    """
    A split of a data set on the Hub, or in shards in a folder, with its columns renamed to ours. If it is streamed, it
    is not downloaded, and its videos are not decoded.

    Raises:
        FileNotFoundError: if there is no such data set.
        ValueError: for a split that it lacks, if it has no column of clips, or for a column that is not
            understood.
    """
    dataset = _with_columns_of_json(_load_split_from_hub(name, split, streaming))
    columns = column_names(dataset)
    renamed = {theirs: ours for theirs, ours in our_names(tuple(columns), text_column, name).items() if theirs != ours}
    if renamed:
        dataset = dataset.rename_columns(renamed)
    columns = [renamed.get(column, column) for column in columns]
    if not set(CLIP_COLUMNS) & set(columns):
        raise ValueError(
            f"`{'` or `'.join(CLIP_COLUMNS)}` must be a column of the data set {name}, got columns {columns}."
        )
    check_clip_columns(dataset.features, name)
    return dataset


def _load_split_from_hub(name: str, split: str, streaming: bool) -> datasets.Dataset | datasets.IterableDataset:
    """The split of this name, or one with another name for the same split (validation, dev, ...)."""
    try:
        dataset = load_from_hub(name, split=usual_split_name(split), streaming=streaming)
    except ValueError:
        if split_of(split) is None:
            raise
        names = [other for other in datasets.get_dataset_split_names(name) if split_of(other) == split_of(split)]
        if len(names) != 1 or names == [split]:
            raise
        dataset = load_from_hub(name, split=names[0], streaming=streaming)
    return dataset.decode(False) if streaming and dataset.features is not None else dataset


def _with_columns_of_json(
    dataset: datasets.Dataset | datasets.IterableDataset,
) -> datasets.Dataset | datasets.IterableDataset:
    """What a WebDataset says of each clip in a file `.json`, as columns; what another file says goes first."""
    kinds = (dataset.features or {}).get(JSON_OF_SHARDS)
    if not isinstance(kinds, dict):
        return dataset
    new = {name: kind for name, kind in kinds.items() if name not in dataset.features}
    if isinstance(dataset, datasets.Dataset):
        facts = dataset[JSON_OF_SHARDS]
        for name, kind in new.items():
            dataset = dataset.add_column(name, [each[name] for each in facts], feature=kind)
        return dataset.remove_columns(JSON_OF_SHARDS)
    others = {name: kind for name, kind in dataset.features.items() if name != JSON_OF_SHARDS}
    return dataset.map(
        lambda row: {name: row[JSON_OF_SHARDS][name] for name in new},
        remove_columns=[JSON_OF_SHARDS],
        features=datasets.Features({**others, **new}),
    )


def load_from_hub(name: str, **options: Any) -> Any:
    """
    Returns what `datasets.load_dataset` returns.

    Raises:
        FileNotFoundError: if there is no such data set; immediately for a typo in a path.
    """
    try:
        with _finding(name):
            return datasets.load_dataset(name, **options)
    except DatasetGenerationError as error:  # its own text only says that there was one
        raise ValueError(f"The data set {name} cannot be read: {error.__cause__ or error}") from error


def split_names_on_hub(name: str) -> list[str]:
    """
    Raises:
        FileNotFoundError: if there is no such data set.
    """
    with _finding(name):
        return datasets.get_dataset_split_names(name)


@contextmanager
def _finding(name: str) -> Iterator[None]:
    nowhere = f"--dataset {name!r} is neither a local folder nor a data set on the Hub"
    missing = explain_missing_folder(name)
    if missing is not None:
        raise FileNotFoundError(f"{nowhere}: {missing}")
    try:
        yield
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(f"{nowhere}: {error}") from error


def column_names(dataset: datasets.Dataset | datasets.IterableDataset) -> list[str]:
    """For a stream that does not list its columns, those of its first row."""
    return dataset.column_names or list(next(iter(dataset), {}))


def load_alone_from_hub(name: str, split: str, max_clips: int | None, text_column: str | None) -> datasets.Dataset:
    """One split without the others, which `load_dataset` would download too; it is kept on disk for later."""
    rows = open_on_hub(name, split, streaming=True, text_column=text_column)
    rows = rows if max_clips is None else rows.take(max_clips)
    try:
        return datasets.Dataset.from_generator(_rows_with_content, gen_kwargs={"rows": rows}, features=rows.features)
    except DatasetGenerationError as error:
        raise ValueError(f"The data set {name} cannot be read: {error.__cause__ or error}") from error


def _rows_with_content(rows: datasets.IterableDataset) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(rows):
        check_row_is_of_hub(row, f"row {number} (counted from 0)")
        yield with_content(row)


def files_type(modality: type[Modality]) -> Any:
    """The kind of a column of its files, which are then not decoded; None for columns of paths or arrays."""
    return modality.datasets_type and getattr(datasets, modality.datasets_type)(decode=False)


def undecoded(clip: Any, modality: type[Modality]) -> Any:
    """The `{"path", "bytes"}` of a file. Not as `datasets` has it, which takes a file of that name here for bytes."""
    if modality.datasets_type is None:
        return clip
    if isinstance(clip, dict):
        return {name: clip.get(name) for name in ("path", "bytes")}
    return files_type(modality).encode_example(clip)


def with_content(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose clips are on this machine: a file that lies elsewhere as its bytes."""
    for modality in MODALITIES:
        clip = row.get(modality.column)
        if modality.datasets_type is not None and clip is not None:
            row = {**row, modality.column: fetch_content(undecoded(clip, modality))}
    return row


def check_row_is_of_hub(row: dict[str, Any], where: str) -> None:
    """
    Raises:
        ValueError: for a row of a data set on the Hub that names a file on this machine.
    """
    for modality in MODALITIES:
        clip = row.get(modality.column)
        if clip is not None and modality.datasets_type is not None:
            check_is_of_hub(undecoded(clip, modality), where)
        elif isinstance(clip, str | bytes | dict):
            shape = modality.words.shape
            raise ValueError(f"{where}: {modality.column} must be an array {shape}, got {str(clip)[:100]!r}.")


def check_is_of_hub(video: dict[str, Any] | None, where: str) -> None:
    """
    A table on the Hub can hold the path of any file on this machine; only files that were downloaded for it are read.

    Raises:
        ValueError: for a video without bytes whose path leads elsewhere.
    """
    if video is None or video["bytes"] is not None or video["path"] is None:
        return
    source = video["path"].rpartition("::")[2]  # for a file in an archive, the address of the archive
    if "://" in source:
        is_of_hub = source.startswith(("hf://", "https://", f"{datasets.config.HF_ENDPOINT}/"))
    else:
        path = Path(source).resolve()
        is_of_hub = any(path.is_relative_to(Path(root).resolve()) for root in CACHES)
    if not is_of_hub:
        raise ValueError(
            f"{where} names {video['path']!r}, which is not a file of the data set. Its videos must be in it, or their "
            "bytes in its table."
        )


def without_bytes(clips: datasets.Dataset, column: str) -> list[dict[str, Any]]:
    """The `{"path", "bytes"}` of all files of a column, empty where there are bytes, which can be a whole corpus."""
    videos = []
    for batch in clips.select_columns(column).with_format("arrow").iter(batch_size=100):
        for chunk in batch.column(column).chunks:
            fields = dict(zip((field.name for field in chunk.type), chunk.flatten(), strict=True))
            pairs = zip(fields["path"].to_pylist(), fields["bytes"].is_valid().to_pylist(), strict=True)
            videos += [{"path": path, "bytes": b"" if has_bytes else None} for path, has_bytes in pairs]
    return videos


def fetch_content(video: dict[str, Any]) -> dict[str, Any]:
    """The `{"path", "bytes"}` of a file; of one that is not on this machine with its bytes."""
    if video["bytes"] is not None or "://" not in video["path"]:
        return video
    with fsspec.open(video["path"], "rb") as file:
        return {"path": video["path"], "bytes": file.read()}
