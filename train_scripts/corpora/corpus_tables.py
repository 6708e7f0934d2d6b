"""
Rows of the tables of raw corpora, written by hand, in spreadsheet programs or by people's own code: a broken line costs
only that line, and is reported with file and number. Names of columns and splits are recognised regardless of letter
case, blanks and Unicode form; whatever is not recognised is reported, never silently ignored.
"""

import csv
import io
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .corpus_schema import SPLITS, Problem

MOST_LINES_OF_A_ROW = 20
# Our choice: 115 days. No video is longer, and decoders cannot handle such numbers.
MOST_SECONDS = 1e7
SAVE_AS_UTF8 = "Save the file as UTF-8 (spreadsheet programs call it 'CSV UTF-8')"
SPLIT_NAMES = {split: split for split in SPLITS} | {
    "training": "train",
    "dev": "validation",
    "devel": "validation",
    "development": "validation",
    "val": "validation",
    "valid": "validation",
    "testing": "test",
}
SECONDS = ("", "_s", "_sec", "_seconds", "_in_s", "_in_seconds", "_hh_mm_ss_ms", "_ss_msec")  # the last two are ELAN's
COLUMN_NAMES: dict[str, tuple[str, ...]] = {
    "file": ("file", "file_name", "filename", "file_path", "path", "video", "video_file", "video_path"),
    "text": ("text", "sentence", "translation"),
    "start": tuple(f"{name}{unit}" for name in ("start", "start_time", "begin", "begin_time") for unit in SECONDS),
    "end": tuple(f"{name}{unit}" for name in ("end", "end_time") for unit in SECONDS),
    "name": ("name", "clip_name"),
    "signer": ("signer", "signer_id", "speaker", "person", "participant"),
    "gloss": ("gloss", "glosses"),
    "split": ("split", "subset", "partition", "data_split", "set"),
}
TABLE_COLUMNS = tuple(COLUMN_NAMES)
# Unrecognised columns whose names match one of these may hold splits or times: ignoring them could be silently wrong.
SPLIT_WORDS = {*SPLIT_NAMES, "fold", "folds"}
TIME_UNIT = "(?:_(?:ms|s|sec|seconds|frame|frames|time|tc|timecode))?"
TIME_KIND = "(?:(?:frame|frames|time|tc|timecode)_)?"
LIKE_SPLIT = re.compile("split|subset|partition")
LIKE_START = re.compile(
    f"(.*(start|begin|onset|anfang).*)|({TIME_KIND}(from|von|ab|in|debut){TIME_UNIT})|times?|timecodes?|tc|interval|zeit"
)
LIKE_END = re.compile(
    f"(.*_)?(end|ende|ends|endtime|endzeit|stop|offset)(_.*)?|{TIME_KIND}(to|bis|until|out|fin){TIME_UNIT}"
)
LIKE_DURATION = re.compile("duration|length|dauer")


class RowError(ValueError):
    """What is wrong with one row: `Gathered.add` turns it into a `Problem`."""


@dataclass(frozen=True)
class Row:
    """Values of one row by column, and its location: file and line."""

    where: str
    values: dict[str, Any]


@dataclass(frozen=True)
class Table:
    """
    Args:
        rows: values by our column names; empty for columns that the table lacks.
        columns: our names of the columns that the table has.
        unused: the table's own names of its other columns, each with its set of values.
    """

    rows: Iterator[Row | Problem]
    columns: set[str]
    unused: dict[str, set[str]]


# Names


def plain_name(name: str) -> str:
    """`" Start Time "`, `"start-time"` and `"START_TIME"` -> `"start_time"`"""
    visible = "".join(character for character in name if unicodedata.category(character) != "Cf")
    return re.sub(r"[\W_]+", "_", unicodedata.normalize("NFKC", visible).casefold()).strip("_")


def _without_gaps(name: str) -> str:
    """`"StartTime"` and `"start_time"` -> `"starttime"`"""
    return plain_name(name).replace("_", "")


def split_of(name: str) -> str | None:
    """`" Dev"` -> `"validation"`; None if it is not the name of a split."""
    return SPLIT_NAMES.get(plain_name(name))


def find_columns(
    header: list[str], names: Mapping[str, tuple[str, ...]], needed: Iterable[str], path: Path
) -> dict[str, int]:
    """
    The positions in a header of the columns it has, by our names.

    Args:
        names: what each of our columns may be called, most likely name first.
        needed: the required columns, by our names.

    Raises:
        ValueError: if a required column is missing, or any of ours occurs twice.
    """
    plain = [_without_gaps(name) for name in header]
    found, wrong = {}, []
    for ours, theirs in names.items():
        if header.count(theirs[0]) == 1:
            found[ours] = header.index(theirs[0])
            continue
        name = next((name for name in map(_without_gaps, theirs) if name in plain), None)
        if name is None or plain.count(name) > 1:
            wrong += [theirs[0]] if name is not None or ours in needed else []
        else:
            found[ours] = plain.index(name)
    if wrong:
        expected = [names[ours][0] for ours in names if ours in needed]
        expected += [name for name in wrong if name not in expected]
        raise ValueError(f"{path} must have the columns {', '.join(expected)} once each, got {str(header)[:300]}.")
    return found


def check_unused_columns(unused: Iterable[str], columns: Iterable[str], path: Path) -> None:
    """
    Raises:
        ValueError: for an unrecognised column that may hold splits or times, if no recognised column does.
    """
    for name in unused:
        meaning = _likely_meaning(plain_name(name), "start" in columns)
        if meaning is not None and meaning not in columns:
            what = "train, validation or test" if meaning == "split" else "seconds from the beginning of the video"
            raise ValueError(
                f"{path} has a column {name!r}, which is not recognised and may be the {meaning} of each clip. If it "
                f"is, rename it to {meaning} ({what}); otherwise remove it from the file."
            )


def check_for_splits(table: Table, path: Path) -> None:
    """
    Raises:
        ValueError: for a column with another name, perhaps in another language, whose values are names of splits.
    """
    for name, values in table.unused.items():
        if "split" not in table.columns and values and all(map(split_of, values)):
            raise ValueError(
                f"{path} has a column {name!r}, which is not recognised but holds names of splits: "
                f"{', '.join(sorted(values))}. If it says which split each clip belongs to, rename it to split; "
                "otherwise remove it from the file."
            )


def _likely_meaning(name: str, has_start: bool) -> str | None:
    """For a `plain_name`: `"start_frame"` -> `"start"`, `"is_test"` -> `"split"`, `"comment"` -> None"""
    if LIKE_SPLIT.search(name) or set(name.split("_")) & SPLIT_WORDS:
        return "split"
    if LIKE_START.fullmatch(name):
        return "start"
    if LIKE_END.fullmatch(name) or (has_start and LIKE_DURATION.search(name)):
        return "end"
    return None


# Reading


def read_text(path: Path, errors: str = "surrogateescape") -> str:
    """
    The text of a file in UTF-8, or in UTF-16 like Excel's "Unicode text". Bytes that are not UTF-8 become lone
    surrogates, so that they cost only their own row, unless `errors` says otherwise.

    Raises:
        ValueError: for broken UTF-16.
    """
    content = path.read_bytes()
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    elif len(content) > 3 and content[1] == content[3] == 0:
        encoding = "utf-16-le"
    elif len(content) > 3 and content[0] == content[2] == 0:
        encoding = "utf-16-be"
    else:
        return content.decode("utf-8-sig", errors=errors)
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is broken UTF-16 text: {error.reason}. {SAVE_AS_UTF8}.") from error


def without_separator_line(text: str) -> tuple[str, str | None]:
    """The text without the words of Excel's first line `sep=;` (the line stays, empty), and the delimiter it names."""
    line = re.match(r'\s*"?sep=([^\r\n])\1*"?[ ]*(?=[\r\n]|$)', text, re.IGNORECASE)
    return (text[line.end() :], line[1]) if line else (text, None)


def likely_delimiter(header: str) -> str:
    """The most frequent of comma, semicolon, tab and bar in a line."""
    return max(",;\t|", key=header.count)


def csv_rows(text: str, is_strict: bool) -> Iterator[dict[str | None, Any]]:
    """
    Rows of a CSV file that we wrote, or that follows our format (`metadata.csv`), by the names in its header; values
    beyond the last column are under None.

    Raises:
        csv.Error: at a row that cannot be read; with `is_strict` at a misplaced quotation mark.
    """
    text, delimiter = without_separator_line(text)
    text = text.lstrip("\r\n")
    delimiter = delimiter or likely_delimiter(text.partition("\n")[0])
    return csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=is_strict)


def open_table(
    path: Path, folder: Path, delimiter: str | None, names: Mapping[str, tuple[str, ...]], needed: Iterable[str]
) -> Table:
    """
    A text file with a header. If a delimiter is given, there is no quoting; otherwise the file is CSV as spreadsheet
    programs write it, separated by what its first line names (`sep=;`) or by what its header has most of.

    Raises:
        ValueError: like `find_columns`, and for an empty file or broken UTF-16.
    """
    text, quoted = read_text(path), delimiter is None
    if quoted:
        text, delimiter = without_separator_line(text)
    lines = re.split(r"\r\n|\r|\n", text)
    first = next((number for number, line in enumerate(lines) if line.strip()), None)
    if first is None:
        raise ValueError(f"{path} is empty, expected a header with {', '.join(needed)}.")
    delimiter = delimiter or likely_delimiter(lines[first])
    header, num_lines = _header_at(lines, first, delimiter, quoted)
    places = find_columns(header, names, needed, path)
    rows = list(_rows(lines, first + num_lines, len(header), delimiter, quoted, shown_path(path, folder)))
    unused = {
        name or f"column {index + 1}": {row.values["all"][index].strip() for row in rows if isinstance(row, Row)} - {""}
        for index, name in enumerate(header)
        if index not in places.values()
    }
    by_name = (row if isinstance(row, Problem) else _by_our_names(row, names, places) for row in rows)
    return Table(by_name, set(places), unused)


def read_rows(path: Path, folder: Path, delimiter: str | None, needed: Iterable[str]) -> Iterator[Row | Problem]:
    """The rows of a table with a known layout, which has the needed columns and maybe more; raises as `open_table`."""
    return open_table(path, folder, delimiter, {name: (name,) for name in needed}, needed).rows


def _by_our_names(row: Row, names: Iterable[str], places: Mapping[str, int]) -> Row:
    values = row.values["all"]
    return Row(row.where, {name: values[places[name]] if name in places else "" for name in names})


def _rows(
    lines: list[str], number: int, width: int, delimiter: str, quoted: bool, shown: str
) -> Iterator[Row | Problem]:
    """Each row with `{"all": its values}`."""
    while number < len(lines):
        values, num_lines = _row_at(lines, number, delimiter, quoted, width)
        where = f"{shown}, line {number + 1}" + (f" to {number + num_lines}" if num_lines > 1 else "")
        number += num_lines
        if values is not None and not any(value.strip() for value in values):
            continue
        problem = _problem_with(values, width)
        yield Problem(where, problem) if problem else Row(where, {"all": values})


def _problem_with(values: list[str] | None, width: int) -> str | None:
    if values is None:
        return "it cannot be read as CSV: a quotation mark is not closed, or must be doubled"
    if len(values) < width or any(value.strip() for value in values[width:]):
        return f"it has {len(values)} values, but the header has {width}"
    try:
        check_characters(values)
    except RowError as error:
        return str(error)
    return None


def _header_at(lines: list[str], number: int, delimiter: str, quoted: bool) -> tuple[list[str], int]:
    """The column names, none if they are broken, and the number of lines they span."""
    for num_lines in range(1, MOST_LINES_OF_A_ROW + 1 if quoted else 2):
        names = _parse(lines[number : number + num_lines], delimiter, quoted)
        if names is not None:
            return [" ".join(name.split()) for name in names], num_lines
    return [], 1


def _row_at(lines: list[str], number: int, delimiter: str, quoted: bool, width: int) -> tuple[list[str] | None, int]:
    """Values of the row that begins on a line, None if it is broken, and the number of lines it spans."""
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
            raise RowError("it contains a NUL byte; the file is broken there")
        if not value.isascii() and re.search("[\ud800-\udfff]", value):
            raise RowError(f"it is not UTF-8 text. {SAVE_AS_UTF8}")


def shown_path(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def parse_seconds(text: str, column: str) -> float | None:
    """
    `12.5`, `12,5`, `1:02.5`, `00:01:02.500` and `12:01:02 AM` -> seconds; an empty text -> None

    Raises:
        RowError: for anything else, and for more seconds than any video lasts.
    """
    text = text.strip()
    if not text:
        return None
    clock = re.fullmatch(r"(\d+:\d+:\d[^ ]*) ?([AP])\.?M\.?", text, re.IGNORECASE)  # Excel's format for a time of day
    *larger, last = (clock[1] if clock else text).replace(",", ".").split(":")
    try:
        units = [int(unit) for unit in larger]
        seconds = math.nan if "_" in text else float(last)
    except ValueError:
        units, seconds = [], math.nan
    if len(units) > 2 or min(units, default=0) < 0 or not 0 <= seconds < math.inf:
        raise RowError(f"{column} must be seconds or hours:minutes:seconds, got {text!r}")
    if clock:
        units[0] = units[0] % 12 + 12 * (clock[2] in "pP")
    seconds += sum(unit * 60**power for power, unit in enumerate(reversed(units), 1))
    if seconds > MOST_SECONDS:
        raise RowError(f"{column} must be at most {MOST_SECONDS:,.0f} seconds, got {text!r}")
    return seconds
