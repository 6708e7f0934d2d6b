"""From rows of raw corpora to clips: what has been gathered so far, and the values that a row must have."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .corpus_schema import Problem, RawClip, RawCorpus
from .corpus_tables import SPLIT_NAMES, Row, RowError, check_characters, parse_seconds, split_of


class SplitError(RowError):
    """An unknown split."""


@dataclass
class Gathered:
    """The clips read so far; names are unique within each split."""

    clips: list[RawClip] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    first_use: dict[tuple[str, str], str] = field(default_factory=dict)
    unknown_splits: dict[str, str] = field(default_factory=dict)

    def add(self, rows: Iterable[Row | Problem], to_clip: Callable[[dict[str, Any]], RawClip]) -> None:
        """Turn every row into a clip or a problem."""
        for row in rows:
            if isinstance(row, Problem):
                self.problems.append(row)
                continue
            try:
                self._add_clip(to_clip(row.values), row.where)
            except SplitError as error:
                self.unknown_splits.setdefault(str(error), row.where)
            except RowError as error:
                self.problems.append(Problem(row.where, str(error)))

    def _add_clip(self, clip: RawClip, where: str) -> None:
        key = (clip.split, clip.name)
        if key in self.first_use:
            raise RowError(f"the name {clip.name!r} is already used in {self.first_use[key]}; this row is left out")
        self.first_use[key] = where
        self.clips.append(clip)

    def corpus(self, **facts: Any) -> RawCorpus:
        """
        Raises:
            ValueError: for unknown splits, listing all of them.
        """
        if self.unknown_splits:
            some = [f"{split!r} ({where})" for split, where in list(self.unknown_splits.items())[:10]]
            raise ValueError(
                f"The split of a clip must be one of {', '.join(sorted(SPLIT_NAMES))}, got {', '.join(some)}"
                f"{' and more' if len(self.unknown_splits) > len(some) else ''}. Correct the column, so that no clip "
                "ends up in the wrong split."
            )
        return RawCorpus(self.clips, self.problems, notes=self.notes, **facts)


# Values of a row


def sentence(text: str) -> str:
    """The text on one line, without surrounding white space."""
    text = re.sub(r"\s*[\r\n]+\s*", " ", text.strip())
    if not text:
        raise RowError("the sentence is empty")
    check_characters([text])
    return text


def without_added_quotes(text: str) -> str:
    """
    Undoes the quoting that some program added to a sentence although the table has none: all quotation marks inside are
    doubled. If they are not, the outer ones belong to the sentence.
    """
    inner = text.strip()[1:-1]
    is_quoted = text.strip() == f'"{inner}"' and '""' in inner and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if is_quoted else text


def clip_name(name: str) -> str:
    """A name that can be part of a file name."""
    name = name.strip()
    if not name or name in {".", ".."} or re.search(r"[/\\\x00-\x1f]", name):
        raise RowError(f"{name!r} cannot be the name of a clip: it must not be empty or contain / or \\")
    check_characters([name])
    return name


def path_below(name: str) -> str:
    """A path as written, with `/` between its parts; refused if it would leave its folder."""
    name = name.strip().replace("\\", "/")
    if not name.strip("/."):
        raise RowError(f"the path {name!r} does not name a file")
    if name.startswith("/") or re.match("[A-Za-z]:/", name) or ".." in name.split("/"):
        raise RowError(f"the path {name!r} would leave the folder of the corpus, and is refused")
    check_characters([name])
    return name


def split_named(name: str) -> str:
    split = split_of(name)
    if split is None:
        raise SplitError(name)
    return split


def times_of(values: dict[str, str], start_column: str, end_column: str) -> tuple[float | None, float | None]:
    """Start and end in seconds, None for an empty value."""
    start, end = parse_seconds(values[start_column], start_column), parse_seconds(values[end_column], end_column)
    if end is not None and end <= (start or 0.0):
        raise RowError(f"{end_column} must come after {start_column}, got {start or 0.0} to {end} seconds")
    return start, end


def part_of(video: Path, values: dict[str, str], start_column: str, end_column: str) -> tuple[float, float]:
    """Start and end of a sentence in a video with many sentences, where both are required."""
    start, end = times_of(values, start_column, end_column)
    if start is None or end is None:
        raise RowError(f"it lacks {start_column} or {end_column}, which say where in {video.name} the sentence is")
    return start, end
