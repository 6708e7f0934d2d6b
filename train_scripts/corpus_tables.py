"""
Rows of the tables of raw corpora, which people wrote by hand, in spreadsheet programs or in their own: a broken line
costs that line, with its file and number, and not those after it.
"""

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .corpus_schema import Problem

MOST_LINES_OF_A_ROW = 20
SAVE_AS_UTF8 = "Save the file as UTF-8 (spreadsheet programs call it 'CSV UTF-8')"


class RowError(ValueError):
    """What is wrong with one row: `Gathered.add` makes a `Problem` of it."""


@dataclass(frozen=True)
class Row:
    """Values of one row by column, and where it stands: file and line."""

    where: str
    values: dict[str, Any]


def read_rows(path: Path, folder: Path, delimiter: str | None, needed: Iterable[str]) -> Iterator[Row | Problem]:
    """
    Rows of a text file with a header. With a delimiter, there is no quoting; without, the file is CSV as spreadsheet
    programs write it, divided by what its header has most of. A broken line costs that line, not those after it.

    Raises:
        ValueError: if a needed column is missing.
    """
    content = path.read_bytes()
    shown = shown_path(path, folder)
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return iter([Problem(shown, f"all of it is left out: it is UTF-16, not UTF-8. {SAVE_AS_UTF8}")])
    # What is no UTF-8 becomes lone surrogates, so that it costs its own row only.
    lines = re.split(r"\r\n|\r|\n", content.decode("utf-8-sig", errors="surrogateescape"))
    first = next((number for number, line in enumerate(lines) if line.strip()), None)
    if first is None:
        raise ValueError(f"{path} is empty, expected a header with {', '.join(needed)}.")
    quoted = delimiter is None
    delimiter = delimiter or max(",;\t|", key=lines[first].count)
    header = [name.strip() for name in _parse(lines[first : first + 1], delimiter, quoted) or []]
    missing = [name for name in needed if header.count(name) != 1]
    if missing:
        raise ValueError(f"{path} must have the columns {', '.join(needed)} once each, got {str(header)[:300]}.")
    return _rows(lines, first + 1, header, delimiter, quoted, shown)


def _rows(
    lines: list[str], number: int, header: list[str], delimiter: str, quoted: bool, shown: str
) -> Iterator[Row | Problem]:
    while number < len(lines):
        values, num_lines = _row_at(lines, number, delimiter, quoted, len(header))
        where = f"{shown}, line {number + 1}" + (f" to {number + num_lines}" if num_lines > 1 else "")
        number += num_lines
        if values is not None and not any(value.strip() for value in values):
            continue
        problem = _problem_with(values, header)
        yield Problem(where, problem) if problem else Row(where, dict(zip(header, values or [], strict=False)))


def _problem_with(values: list[str] | None, header: list[str]) -> str | None:
    if values is None:
        return "it cannot be read as CSV: a quotation mark is not closed, or stands where it must be doubled"
    if len(values) < len(header) or any(value.strip() for value in values[len(header) :]):
        return f"it has {len(values)} values, the header has {len(header)}"
    try:
        check_characters(values)
    except RowError as error:
        return str(error)
    return None


def _row_at(lines: list[str], number: int, delimiter: str, quoted: bool, width: int) -> tuple[list[str] | None, int]:
    """Values of the row that begins in a line, None if it is broken, and how many lines it takes."""
    most_lines = MOST_LINES_OF_A_ROW if quoted else 1
    for num_lines in range(1, min(most_lines, len(lines) - number) + 1):
        values = _parse(lines[number : number + num_lines], delimiter, quoted)
        if values is not None and (num_lines == 1 or len(values) == width):
            return values, num_lines
    return None, 1


def _parse(lines: list[str], delimiter: str, quoted: bool) -> list[str] | None:
    if not quoted:
        return lines[0].split(delimiter)
    try:
        return next(csv.reader(["\n".join(lines)], delimiter=delimiter, strict=True), [])
    except csv.Error:
        return None


def check_characters(values: Iterable[str]) -> None:
    for value in values:
        if "\0" in value:
            raise RowError("it holds a NUL byte; the file is broken there")
        if not value.isascii() and re.search("[\ud800-\udfff]", value):
            raise RowError(f"it is not UTF-8 text. {SAVE_AS_UTF8}")


def shown_path(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)
