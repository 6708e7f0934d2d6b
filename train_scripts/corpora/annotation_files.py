"""
Sentences with times, read from files that annotate one video: subtitles in SubRip (srt) and WebVTT
(https://www.w3.org/TR/webvtt1/), ELAN annotations (eaf) and ELAN's tab-delimited exports.

Times are converted to seconds from the beginning of the video. Nothing is dropped silently: anything that is not a
sentence with times becomes a `Problem`.
"""

import csv
import html
import re
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import unquote
from xml.parsers import expat

from .corpus_schema import Problem
from .corpus_tables import Row, RowError, likely_delimiter, parse_seconds, plain_name, read_text, shown_path

EXPORT_SUFFIXES = (".txt", ".csv", ".tsv", ".tab")
CLOCK = r"(?:\d+:)?\d{1,2}:\d{2}(?:[.,]\d{1,3})?"
CUE_TIMES = re.compile(rf"\s*({CLOCK})\s*-->\s*({CLOCK})(?:\s.*)?")
VTT_HEADER = re.compile(r"\AWEBVTT[^\r\n]*(?:(?:\r\n|\r|\n)(?![^\r\n]*-->)[^\r\n]+)*")
NO_CUE = re.compile(r"(NOTE|STYLE|REGION)\b")
# Names of the time columns in ELAN's exports; the words before the dash depend on ELAN's language.
EXPORTED_TIMES = re.compile(r".* - (hh:mm:ss\.ms|ss\.msec|msec)")
EXPORTED_CLOCK = re.compile(r"\d\d:\d\d:\d\d\.\d{3}")
EXPORTED_TIME = re.compile(r"[\d:.,]+")


@dataclass
class Annotations:
    """
    Args:
        tiers: rows with `text`, `start`, `end` and `signer`, by tier name; subtitles, which have no tiers, are all
            under an empty name.
        media: for ELAN, the names of the media files, and the second in each at which the times begin.
    """

    tiers: dict[str, list[Row | Problem]]
    media: dict[str, float] = field(default_factory=dict)


def read_annotations(path: Path, folder: Path) -> Annotations:
    """
    All sentences of one file with their times.

    Raises:
        ValueError: for a file that is not one of these kinds, is broken, or does not say where its times begin.
    """
    return READERS.get(path.suffix.lower(), _read_export)(path, folder)


def is_annotation_file(path: Path) -> bool:
    """By its suffix or, for ELAN exports, which may have any suffix, by its first line."""
    suffix = path.suffix.lower()
    if not path.is_file() or suffix not in (*READERS, *EXPORT_SUFFIXES):
        return False
    try:
        return suffix in READERS or _is_export(next(filter(None, _export_rows(path)), []))
    except (OSError, ValueError):  # an unrelated file
        return False


def _row(where: str, text: str, start: float | None, end: float | None, signer: str = "") -> Row:
    times = {name: "" if value is None else str(round(value, 6)) for name, value in (("start", start), ("end", end))}
    return Row(where, {"text": text, **times, "signer": signer})


# Subtitles


def _read_srt(path: Path, folder: Path) -> Annotations:
    return Annotations({"": list(_cues(read_text(path), shown_path(path, folder), _text_of_srt))})


def _read_vtt(path: Path, folder: Path) -> Annotations:
    text = read_text(path)
    if re.search(r"^X-TIMESTAMP-MAP", text, re.MULTILINE):
        raise ValueError(
            f"{path} is a segment of a stream (X-TIMESTAMP-MAP): its times do not start at the beginning of the video. "
            "Download the subtitles of the whole video."
        )
    cues = VTT_HEADER.sub(lambda header: re.sub(r"[^\r\n]", "", header[0]), text)  # keeps the line numbers
    return Annotations({"": list(_cues(cues, shown_path(path, folder), _text_of_vtt))})


def _cues(text: str, shown: str, text_of: Callable[[list[str]], str]) -> Iterator[Row | Problem]:
    """Cues, even without blank lines between them; they may overlap."""
    for number, block in _blocks(text):
        places = [index for index, line in enumerate(block) if "-->" in line]
        is_number = len(block) == 1 and block[0].strip().isdecimal()
        before = block[: max(places[0] - 1, 0)] if places else [] if is_number or NO_CUE.match(block[0]) else block
        if before:  # one line, the name of the cue, may come before its times
            yield Problem(f"{shown}, line {number}", f"it has no times, and is left out: {' '.join(before)[:80]!r}")
        for place, following in zip(places, [*places, len(block)][1:], strict=True):
            lines = block[place + 1 : following]
            if following < len(block) and lines and lines[-1].strip().isdecimal():
                lines.pop()  # the number of the next cue
            yield _cue(f"{shown}, line {number + place}", block[place], text_of(lines))


def _cue(where: str, times: str, text: str) -> Row | Problem:
    found = CUE_TIMES.fullmatch(times)
    if found is None:
        return Problem(where, f"its times cannot be read, expected 00:01:02,500 --> 00:01:04,000, got {times!r}")
    try:
        return _row(where, text, *(parse_seconds(time, "the time") for time in found.groups()))
    except RowError as error:
        return Problem(where, str(error))


def _blocks(text: str) -> Iterator[tuple[int, list[str]]]:
    """Blocks of lines separated by blank lines, each with the number of its first line."""
    block: list[str] = []
    for number, line in enumerate([*re.split(r"\r\n|\r|\n", text), ""], 1):
        if line.strip():
            block.append(line)
        elif block:
            yield number - len(block), block
            block = []


def _text_of_srt(lines: list[str]) -> str:
    tags = r"</?(?:i|b|u|s|font|c|v)\b[^<>]*>|\{\\[^{}]*\}"
    return " ".join(re.sub(tags, "", _as_one_line(lines), flags=re.IGNORECASE).split())


def _text_of_vtt(lines: list[str]) -> str:
    return " ".join(html.unescape(re.sub(r"<[^<>]*>|\{\\[^{}]*\}", "", _as_one_line(lines))).split())


def _as_one_line(lines: list[str]) -> str:
    return re.sub(r"<br\s*/?>|\\N", " ", " ".join(lines), flags=re.IGNORECASE)


# ELAN


def _read_eaf(path: Path, folder: Path) -> Annotations:
    document = _parse_xml(path)
    if document.tag != "ANNOTATION_DOCUMENT":
        raise ValueError(f"{path} is not an ELAN file: it begins with <{document.tag}>, not <ANNOTATION_DOCUMENT>.")
    units = {header.get("TIME_UNITS", "milliseconds") for header in document.iter("HEADER")}
    if units - {"milliseconds"}:
        raise ValueError(f"{path} measures time in {units.pop()}, not milliseconds. Save it with a newer ELAN.")
    media = {}
    for descriptor in document.iter("MEDIA_DESCRIPTOR"):
        address = descriptor.get("MEDIA_URL") or descriptor.get("RELATIVE_MEDIA_URL") or ""
        media[PurePosixPath(unquote(address).replace("\\", "/")).name] = _origin(descriptor, path)
    slots = {slot.get("TIME_SLOT_ID"): slot.get("TIME_VALUE") for slot in document.iter("TIME_SLOT")}
    annotations = {
        annotation.get("ANNOTATION_ID"): annotation
        for kind in ("ALIGNABLE_ANNOTATION", "REF_ANNOTATION")
        for annotation in document.iter(kind)
    }
    tiers: dict[str, list[Row | Problem]] = defaultdict(list)
    for tier in document.iter("TIER"):
        name = tier.get("TIER_ID", "")
        for annotation in tier.iterfind("ANNOTATION/*"):
            where = f"{shown_path(path, folder)}, tier {name!r}, annotation {annotation.get('ANNOTATION_ID')!r}"
            try:
                start, end = _times_of(annotation, annotations, slots)
                text = annotation.findtext("ANNOTATION_VALUE") or ""
                tiers[name].append(_row(where, text, start, end, tier.get("PARTICIPANT", "")))
            except RowError as error:
                tiers[name].append(Problem(where, str(error)))
    return Annotations(dict(tiers), media)


def _parse_xml(path: Path) -> ElementTree.Element:
    """Refuses a DOCTYPE, which ELAN files never have: it could pull in other files or use unlimited memory."""
    builder, parser = ElementTree.TreeBuilder(), expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = builder.start, builder.end
    parser.CharacterDataHandler = builder.data

    def refuse(*_: object) -> None:
        raise ValueError("it has a DOCTYPE, which ELAN never writes and which could pull in other files")

    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(path.read_bytes(), True)
    except (expat.ExpatError, LookupError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as XML: {error}.") from error
    return builder.close()


def _origin(descriptor: ElementTree.Element, path: Path) -> float:
    """The time in the media file, in seconds, that corresponds to time 0 of the annotations."""
    origin = descriptor.get("TIME_ORIGIN") or "0"
    if not re.fullmatch(r"-?\d{1,10}", origin):
        raise ValueError(f"{path}: TIME_ORIGIN must be milliseconds, got {origin!r}.")
    return int(origin) / 1000


def _times_of(
    annotation: ElementTree.Element,
    annotations: Mapping[str | None, ElementTree.Element],
    slots: Mapping[str | None, str | None],
) -> tuple[float, float]:
    """In seconds; an annotation that refers to another one has the times of that one."""
    seen = set()
    while annotation.tag == "REF_ANNOTATION":
        reference = annotation.get("ANNOTATION_REF")
        if reference in seen or reference not in annotations:
            raise RowError(f"it refers to the annotation {reference!r}, which has no times")
        seen.add(reference)
        annotation = annotations[reference]
    times = [slots.get(annotation.get(f"TIME_SLOT_REF{number}")) for number in (1, 2)]
    if not all(time is not None and re.fullmatch(r"\d{1,10}", time) for time in times):
        raise RowError("it has no times: align its beginning and end in ELAN")
    return int(times[0]) / 1000, int(times[1]) / 1000


def _read_export(path: Path, folder: Path) -> Annotations:
    """With a header, one column per tier; without one, rows of tier, participant, times and text."""
    rows = _export_rows(path)
    header = next(filter(None, rows), [])
    if not _is_export(header):
        raise ValueError(
            f"{path} is not a tab-delimited ELAN export. Export begin and end time in the format hh:mm:ss.ms."
        )
    has_header = any(EXPORTED_TIMES.fullmatch(cell.strip()) for cell in header)
    read = _named_cells if has_header else _plain_cells
    tiers: dict[str, list[Row | Problem]] = defaultdict(list)
    for number, row in enumerate(rows, 1):
        where = f"{shown_path(path, folder)}, line {number}"
        if not row or (row is header and has_header):
            continue
        try:
            for tier, text, start, end, signer in read(row, header):
                tiers[tier].append(_row(where, text, start, end, signer))
        except RowError as error:
            tiers[""].append(Problem(where, str(error)))
    return Annotations(dict(tiers))


Cell = tuple[str, str, float | None, float | None, str]  # tier, text, start and end in seconds, signer


def _named_cells(row: list[str], header: list[str]) -> Iterator[Cell]:
    if len(row) < len(header) or any(cell.strip() for cell in row[len(header) :]):
        raise RowError(f"it has {len(row)} values, but the header has {len(header)}")
    times: dict[str, list[str]] = defaultdict(list)
    others: dict[str, str] = {}
    for name, value in zip(header, row, strict=False):
        unit = EXPORTED_TIMES.fullmatch(name.strip())
        if unit:
            times[unit[1]].append(value)
        elif value.strip():
            others[name.strip()] = value
    unit = next(unit for unit in ("hh:mm:ss.ms", "ss.msec", "msec") if unit in times)
    if len(times[unit]) < 2:
        raise RowError("it has no end time: export both begin and end time")
    start, end = (parse_seconds(time, "the time") for time in times[unit][:2])
    if unit == "msec":
        start, end = (None if time is None else time / 1000 for time in (start, end))
    plain = {plain_name(name): name for name in others}
    signer = others.pop(plain.get("participant", ""), "")
    tier = others.pop(plain.get("tier", plain.get("tier_name", "")), "")
    for name in ("file", "file_name", "file_path"):
        others.pop(plain.get(name, ""), None)
    for name, text in others.items():
        yield tier.strip() or name, text, start, end, signer


def _plain_cells(row: list[str], header: list[str]) -> Iterator[Cell]:
    clocks = [index for index, cell in enumerate(row) if EXPORTED_CLOCK.fullmatch(cell.strip())]
    times = row[clocks[0] : -1] if clocks else []
    if (
        len(clocks) < 2
        or clocks[-1] == len(row) - 1
        or not all(EXPORTED_TIME.fullmatch(time.strip()) for time in times)
    ):
        raise RowError("it has no begin and end time in the format hh:mm:ss.ms followed by one text")
    start, end = (parse_seconds(row[index], "the time") for index in clocks[:2])
    yield row[0].strip() if clocks[0] else "", row[-1], start, end, row[1] if clocks[0] > 1 else ""


def _is_export(row: list[str]) -> bool:
    cells = [cell.strip() for cell in row]
    has_file = any(plain_name(cell) in ("file", "video") for cell in cells)
    is_header = sum(bool(EXPORTED_TIMES.fullmatch(cell)) for cell in cells) > 1
    return (is_header and not has_file) or sum(bool(EXPORTED_CLOCK.fullmatch(cell)) for cell in cells) > 1


def _export_rows(path: Path) -> list[list[str]]:
    """The cells of each line, an empty list for a blank line. Tab-separated files have no quoting."""
    lines = re.split(r"\r\n|\r|\n", read_text(path))
    first = next((line for line in lines if line.strip()), "")
    delimiter = "\t" if "\t" in first else likely_delimiter(first)
    rows = (_cells(line, delimiter) for line in lines)
    return [row if any(cell.strip() for cell in row) else [] for row in rows]


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return line.split("\t") if delimiter == "\t" else next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return [line]


READERS: dict[str, Callable[[Path, Path], Annotations]] = {".srt": _read_srt, ".vtt": _read_vtt, ".eaf": _read_eaf}
