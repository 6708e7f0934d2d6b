"""Sentences to learn from and to measure on: text files with one per line, and data sets of clips."""

import random
import unicodedata
from pathlib import Path

import datasets

from ..arguments.stage_arguments import SentenceArguments
from ..clips.clip_folders import read_metadata
from ..clips.hub_data_sets import column_names, is_clip_folder, load_from_hub
from ..clips.splits import check_text_column


def read_sentences(text_file: str) -> list[str]:
    """
    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not UTF-8 or has no sentence.
    """
    path = Path(text_file)
    if not path.is_file():
        raise FileNotFoundError(f"--text_file {path} does not exist.")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}.") from error
    sentences = [line.strip() for line in lines if line.strip()]
    if not sentences:
        raise ValueError(f"{path} has no sentence. It must hold one per line.")
    return sentences


def read_text(text: SentenceArguments) -> list[str]:
    """
    All lines of all files and data sets, NFKC-normalised like the processor's sentences.

    Raises:
        FileNotFoundError, ValueError: for a missing or empty file or data set, or one without that column.
    """
    lines = [line for name in text.text_file or () for line in read_sentences(name)]
    for name in text.dataset or ():
        lines += _sentences_of_dataset(name, text)
    return [unicodedata.normalize("NFKC", line) for line in lines]


def _sentences_of_dataset(name: str, text: SentenceArguments) -> list[str]:
    if is_clip_folder(name):
        rows = read_metadata(Path(name) / text.train_split, text.text_column)
    else:
        rows = _text_on_hub(name, text)
    sentences = [str(row[text.text_column] or "").strip() for row in rows]
    if not any(sentences):
        raise ValueError(f"{name} ({text.train_split}) has no sentence in the column {text.text_column!r}.")
    return [sentence for sentence in sentences if sentence]


def _text_on_hub(name: str, text: SentenceArguments) -> datasets.IterableDataset:
    """Streamed without its other columns: no video is downloaded when sentences and videos are in the same table."""
    rows = load_from_hub(name, split=text.train_split, streaming=True)
    check_text_column(column_names(rows), text.text_column, name)
    return rows.select_columns([text.text_column])


def hold_out(lines: list[str], text: SentenceArguments, seed: int) -> tuple[list[str], list[str]]:
    """
    -> lines to train on and lines to measure on; they share none, however often a line occurs.

    Raises:
        ValueError: if nothing is left to train on.
    """
    if text.evaluation_text_file is not None:
        held_out = [unicodedata.normalize("NFKC", line) for line in read_sentences(text.evaluation_text_file)]
    else:
        different = list(dict.fromkeys(lines))
        count = max(1, round(text.evaluation_share * len(different)))
        held_out = random.Random(seed).sample(different, count)
    unseen = set(held_out)
    kept = [line for line in lines if line not in unseen]
    if not kept:
        raise ValueError(
            "No line is left to train on after removing those of the evaluation. Give more text, or another "
            "--evaluation_text_file."
        )
    return kept, held_out
