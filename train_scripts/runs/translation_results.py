"""The outputs of flallm translate: tables, captions, and the journal from which an interrupted run resumes."""

import contextlib
import csv
import io
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from modeling_flallm.own_processing import format_captions

from ..machine.atomic_files import write_text
from ..machine.kept_lines import KeptLines, state_of_file
from .clips_of_data_set import ClipOfDataSet

CAPTION_FORMATS = ("srt", "vtt")
CONFIDENCE_COLUMNS = ("confidence", "familiar")


@dataclass
class Translation:
    """
    Result for one video: a text or an error; `pieces` are its sentences with `start` and `end` in seconds. `confidence`
    (0 to 1) and `familiar` come from calibrated models, whose pieces have them, too. `left_handed` says whether the
    video was mirrored, if that was a question.
    """

    file: str
    text: str = ""
    error: str = ""
    position: int = 0  # among the videos
    pieces: list[dict[str, Any]] = field(default_factory=list)
    confidence: float | None = None
    familiar: bool | None = None
    left_handed: bool | None = None
    is_longer_than_trained: bool = False


# Tables


@dataclass(frozen=True)
class Table:
    """
    The format of the output: `text` (file, tab, sentence; only files without errors), or `jsonl` or `csv`, which list
    failed files with their error.

    Args:
        with_pieces: each line of `jsonl` has the list of `pieces`, and each piece has a row in the `csv`.
        with_confidence: the model is calibrated, so there are columns `confidence` and `familiar`.
        with_hand: there is a column `left_handed`.
    """

    format: str = "text"
    with_pieces: bool = False
    with_confidence: bool = False
    with_hand: bool = False

    @property
    def columns(self) -> list[str]:
        confidence = [*CONFIDENCE_COLUMNS] if self.with_confidence else []
        hand = ["left_handed"] if self.with_hand else []
        if not self.with_pieces:
            return ["file", "text", *confidence, *hand, "error"]
        if self.format == "csv":
            return ["file", "start", "end", "text", *confidence, *hand, "error"]
        return ["file", "text", *hand, "error", "pieces"]

    def header(self) -> str:
        return self._csv_line(dict(zip(self.columns, self.columns, strict=True))) if self.format == "csv" else ""

    def lines(self, translation: Translation) -> str:
        """For one video; "" if there is nothing to write. Bytes of a file name that are not UTF-8 are spelled out."""
        return self._lines(translation).encode("utf-8", "backslashreplace").decode()

    def _lines(self, translation: Translation) -> str:
        if self.format == "jsonl":
            row = {name: getattr(translation, name) for name in self.columns}
            return json.dumps(row, ensure_ascii=False) + "\n"
        if self.format == "csv":
            return "".join(map(self._csv_line, self._csv_rows(translation)))
        return "" if translation.error else f"{translation.file}\t{translation.text}\n"

    def _csv_rows(self, translation: Translation) -> list[dict[str, Any]]:
        if not self.with_pieces:
            return [{name: getattr(translation, name) for name in self.columns}]
        rows = [{"file": translation.file, **piece} for piece in translation.pieces]
        return rows + [{"file": translation.file, "error": translation.error}] * bool(translation.error)

    def _csv_line(self, row: dict[str, Any]) -> str:
        file = io.StringIO()
        csv.DictWriter(file, self.columns, lineterminator="\n").writerow(row)
        return file.getvalue()

    def text(self, translations: Iterable[Translation]) -> str:
        """The complete output."""
        return self.header() + "".join(map(self.lines, translations))


class Printer:
    """Prints a table line by line in the order of the videos, each as soon as all videos before it are done."""

    def __init__(self, table: Table, positions: Sequence[int]):
        self.table = table
        self._positions = list(positions)
        self._waiting: dict[int, Translation] = {}
        sys.stdout.write(table.header())

    def add(self, translation: Translation) -> None:
        self._waiting[translation.position] = translation
        while self._positions and self._positions[0] in self._waiting:
            self._print(self._positions.pop(0))

    def close(self) -> None:
        """Also prints results that wait for videos that will not come any more."""
        for position in sorted(self._waiting):
            self._print(position)

    def _print(self, position: int) -> None:
        sys.stdout.write(self.table.lines(self._waiting.pop(position)))
        sys.stdout.flush()


# Captions


def caption_files(video: Path, caption_formats: Sequence[str]) -> list[Path]:
    return [video.with_suffix(f".{name}") for name in caption_formats]


def has_captions(video: Path, caption_formats: Sequence[str]) -> bool:
    """Whether all of its caption files exist; they are written atomically."""
    return bool(caption_formats) and all(path.exists() for path in caption_files(video, caption_formats))


def clashing_captions(videos: Sequence[Path], caption_formats: Sequence[str]) -> dict[Path, str]:
    """For each video whose caption files an earlier video already uses, what is wrong."""
    owners: dict[Path, Path] = {}
    problems = {}
    for video in videos:
        for path in caption_files(video, caption_formats):
            owner = owners.setdefault(path, video)
            if owner != video:
                problems[video] = f"Its captions would be {path}, like those of {owner}. Rename one of the two videos."
    return problems


def write_captions(translation: Translation, caption_formats: Sequence[str]) -> None:
    """
    Write caption files next to the video. Existing files with other content are never replaced: then none is written,
    and that becomes the error of this translation.
    """
    captions = [{**piece, "translation_text": piece["text"]} for piece in translation.pieces]
    try:
        if caption_formats and any(piece["end"] <= piece["start"] for piece in translation.pieces):
            raise ValueError(
                f"{translation.file} does not say how long it lasts, so its captions have no times. Features say it as "
                "features_per_second in the metadata of a .safetensors file; flallm prepare writes such files."
            )
        contents = [format_captions(captions, name) for name in caption_formats]
        files = dict(zip(caption_files(Path(translation.file), caption_formats), contents, strict=True))
        for path, content in files.items():
            if path.exists() and path.read_bytes() != content.encode():
                raise ValueError(f"{path} already exists. Move it away to have new captions written.")
        for path, content in files.items():
            if not path.exists():
                write_text(path, content)
    except (ValueError, OSError) as error:
        translation.error = str(error)


# The journal


class Journal(KeptLines):
    """
    `OUTPUT.unfinished.jsonl`: finished parts of an output, saved as they come until it is complete. An interrupted run
    resumes from there, and a run with failed files tries those again.

    Args:
        settings: everything that affects the translations, by flag name.

    Raises:
        ValueError: if it was begun with other settings, or cannot be read.
    """

    def __init__(self, output: Path, settings: dict[str, Any]):
        super().__init__(journal_path(output), settings, f"what is finished of --output {output}")
        self._finished: dict[str, dict[str, Any]] = {}
        self._pieces: dict[str, list[dict[str, Any]]] = {}
        for entry in self.lines:
            with contextlib.suppress(KeyError, TypeError):
                self._take(entry)
        if not self._pieces and all(entry["translation"]["error"] for entry in self._finished.values()):
            self.forget()
            return
        for name, (before, now) in self.changed_settings().items():
            raise ValueError(
                f"--output {output} was begun with {name} {_shown(before)}, now it is {_shown(now)}. Run the original "
                f"command, or delete {self.path} to start over."
            )

    def _take(self, entry: dict[str, Any]) -> None:
        if "piece" in entry:
            self._pieces.setdefault(entry["file"], []).append(entry)
        else:
            self._finished[Translation(**entry["translation"]).file] = entry

    def finished(self, video: Path | ClipOfDataSet) -> Translation | None:
        """The result of an earlier run for a video that has not changed since; failed videos do not count."""
        entry = self._finished.get(str(video))
        if entry is None or entry["state"] != state_of_file(Path(str(video))) or entry["translation"]["error"]:
            return None
        return Translation(**entry["translation"])

    def pieces(self, video: Path) -> list[dict[str, Any]]:
        """Finished sentences of a long video that is not finished, each with `piece`, the index of its segment."""
        state = state_of_file(video)
        return [entry["piece"] for entry in self._pieces.get(str(video), []) if entry["state"] == state]

    def add(self, translation: Translation) -> None:
        self.append({"state": state_of_file(Path(translation.file)), "translation": asdict(translation)})

    def add_piece(self, video: Path, piece: dict[str, Any]) -> None:
        self.append({"state": state_of_file(video), "file": str(video), "piece": piece})


def journal_path(output: Path) -> Path:
    return output.with_name(f"{output.name}.unfinished.jsonl")


def _shown(value: Any) -> str:
    return "left out" if value in (None, False) else str(value)
