"""The sentences of the training split, without its clips: what a test sentence is compared with."""

import sys
from pathlib import Path

from ..arguments.data_arguments import DatasetArguments
from .clip_folders import find_split_folder, read_metadata
from .hub_data_sets import is_clip_folder, open_on_hub

TRAINING_SPLIT = "train"


def read_training_texts(arguments: DatasetArguments) -> list[str] | None:
    """The sentences of the training split of the first data set; None, with a line that says why, if it has none, if
    they cannot be read, and for streamed data sets, of which nothing else is to be downloaded."""
    name = arguments.dataset[0]
    try:
        texts = None if arguments.streaming else _texts_of(name, arguments.text_column)
        reason = "it is streamed" if arguments.streaming else "it has no such split"
    except (FileNotFoundError, ValueError) as error:
        texts, reason = None, str(error)
    if texts is None:
        print(f"The training sentences of {name} are not known: {reason}", file=sys.stderr)
    return texts


def _texts_of(name: str, text_column: str) -> list[str] | None:
    if not is_clip_folder(name):
        return list(map(str, open_on_hub(name, TRAINING_SPLIT, text_column=text_column)[text_column]))
    folder = find_split_folder(Path(name), TRAINING_SPLIT)
    return None if folder is None else [str(row[text_column]) for row in read_metadata(folder, text_column)]
