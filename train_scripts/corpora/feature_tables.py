"""Tables of sentences that are published with features, recognised by their file names."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from .corpus_rows import without_added_quotes
from .corpus_tables import SPLIT_NAMES, Problem, Row, open_table, shown_path

FILE, TEXT = "file", "text"


@dataclass(frozen=True)
class KnownTable:
    """
    Args:
        title: what it is, for people.
        file_name: pattern of its name, with the split as its only group.
        columns: its names for our columns; None for a JSON file `{video: {clip: {"translation": ...}}}`.
        delimiter: between values, which are not quoted.
        languages: sign language and spoken language, if they follow from the table.
    """

    title: str
    file_name: str
    columns: dict[str, str] | None
    delimiter: str = "\t"
    languages: tuple[str | None, str | None] = (None, None)

    def split_of(self, path: Path) -> str | None:
        match = re.fullmatch(self.file_name, path.name)
        return match and SPLIT_NAMES[match[1]]

    def rows(self, path: Path, folder: Path) -> Iterator[Row | Problem]:
        """
        Values by our column names, with the name of each clip as `file`.

        Raises:
            ValueError: for a file that cannot be read, or lacks a column.
        """
        if self.columns is None:
            yield from _json_rows(path, folder)
            return
        names = {ours: (theirs,) for ours, theirs in self.columns.items()}
        for row in open_table(path, folder, self.delimiter, names, (FILE, TEXT)).rows:
            if isinstance(row, Row):
                row.values[FILE] = PurePosixPath(row.values[FILE].strip()).name  # paths are those of its author
                row.values[TEXT] = without_added_quotes(row.values[TEXT])
            yield row


KNOWN_TABLES = (
    KnownTable(
        "the sentences of How2Sign's I3D features (Tarrés et al., 2023)",
        r"cvpr23\.fairseq\.i3d\.(train|val|test)\.how2sign\.tsv",
        {FILE: "signs_file", TEXT: "translation", "signer": "signer_id"},
        languages=("ase", "en"),
    ),
    KnownTable(
        "How2Sign's realigned sentences",
        r"how2sign_realigned_(train|val|test)\.csv",
        {FILE: "SENTENCE_NAME", TEXT: "SENTENCE"},
        languages=("ase", "en"),
    ),
    KnownTable(
        "PHOENIX14T's annotation",
        r"PHOENIX-2014-T\.(train|dev|test)\.corpus\.csv",
        {FILE: "name", TEXT: "translation", "signer": "speaker", "gloss": "orth"},
        delimiter="|",
        languages=("gsg", "de"),
    ),
    KnownTable("annotation in the form of T5_for_SLT", r".+\.annotations?\.(train|dev|val|test)\.json", None),
)


def known_table(path: Path) -> KnownTable | None:
    """The kind of a file of sentences, if it is known."""
    return next((table for table in KNOWN_TABLES if table.split_of(path)), None)


def _json_rows(path: Path, folder: Path) -> Iterator[Row]:
    try:
        videos = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not a JSON file in UTF-8: {error}.") from error
    if not isinstance(videos, dict) or not all(isinstance(clips, dict) for clips in videos.values()):
        raise ValueError(f'{path} must hold {{video: {{clip: {{"translation": ...}}}}}}, got something else.')
    for video, clips in videos.items():
        for name, clip in clips.items():
            if name != "clip_order":
                yield Row(
                    f"{shown_path(path, folder)}, {video}/{name}", {FILE: f"{video}/{name}", TEXT: _sentence(clip)}
                )


def _sentence(clip: Any) -> str:
    text = clip.get("translation") if isinstance(clip, dict) else None
    return text if isinstance(text, str) else ""
