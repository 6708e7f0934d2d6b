# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""
Writes timed sentences as caption files, SubRip (srt) and WebVTT (vtt, https://www.w3.org/TR/webvtt1/), or as plain text
(txt).

Both caption formats treat some characters as markup. Here every character is text: WebVTT can escape them; in SubRip,
which cannot, they become their wide forms (as in Chinese text), which Unicode's NFKC turns back.
"""

import math
import textwrap
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any

LONGEST_LINE_IN_CHARACTERS = 42
LINES_PER_CAPTION = 2
WIDE_FORMS = str.maketrans("<>{}\\", "\uff1c\uff1e\uff5b\uff5d\uff3c")
ESCAPED = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
# Marks that change the writing direction affect more than their own line.
DIRECTION_MARKS = dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)])


def format_captions(captions: Iterable[dict[str, Any]], format_name: str) -> str:
    """
    Write captions, dictionaries with `start` and `end` in seconds and `translation_text`, as the text of a file of the
    format "srt" or "vtt", or without times as "txt", a line for each.

    Lines of the first two have up to 42 characters, captions up to two lines; a longer text becomes several captions
    that share its time in proportion to their lengths. Empty texts are left out, and so are updates of a stream that
    are not final. Raises `ValueError` for another format, and for captions that do not come in order of time, overlap,
    or end before they start.
    """
    if format_name not in ("srt", "vtt", "txt"):
        raise ValueError(f'The format of captions must be "srt", "vtt" or "txt", got {format_name!r}.')
    captions = (caption for caption in captions if caption.get("is_final", True))
    if format_name == "txt":
        return "".join(f"{text}\n" for caption in captions if (text := _visible(caption["translation_text"])))
    blocks = [] if format_name == "srt" else ["WEBVTT\n"]
    for number, (start, end, lines) in enumerate(_timed_lines(captions), start=1):
        if format_name == "srt":
            times = f"{number}\n{_time(start, ',')} --> {_time(end, ',')}"
            text = "\n".join(line.translate(WIDE_FORMS) for line in lines)
        else:
            times = f"{_time(start, '.')} --> {_time(end, '.')}"
            text = "\n".join(line.translate(ESCAPED) for line in lines)
        blocks.append(f"{times}\n{text}\n")
    return "\n".join(blocks)


def _timed_lines(captions: Iterable[dict[str, Any]]) -> Iterator[tuple[int, int, list[str]]]:
    """Yield start and end in milliseconds and the lines of each caption."""
    said_until = 0
    for caption in captions:
        start, end = (_milliseconds(caption[name]) for name in ("start", "end"))
        if not said_until <= start < end:
            raise ValueError(
                f"Captions must come in order of time without overlaps, got {caption['start']} to {caption['end']} "
                f"seconds after one that ends at {said_until / 1000}."
            )
        said_until = end
        yield from _shared_out(start, end, _lines(caption["translation_text"]))


def _visible(text: str) -> str:
    """In one line."""
    visible = "".join(
        " " if unicodedata.category(character) in ("Cc", "Zl", "Zp") else character
        for character in text.translate(DIRECTION_MARKS)
    )
    return " ".join(visible.split())


def _lines(text: str) -> list[str]:
    visible = _visible(text)
    is_wide = any(unicodedata.east_asian_width(character) in "WF" for character in visible)
    longest = LONGEST_LINE_IN_CHARACTERS // 2 if is_wide else LONGEST_LINE_IN_CHARACTERS
    lines = textwrap.wrap(visible, longest)
    if len(lines) != LINES_PER_CAPTION:
        return lines
    # The narrowest width that needs no further line: two lines of similar length are read faster.
    narrower = (textwrap.wrap(visible, width) for width in range(len(visible) // 2, longest))
    return next((balanced for balanced in narrower if len(balanced) == LINES_PER_CAPTION), lines)


def _shared_out(start: int, end: int, lines: list[str]) -> Iterator[tuple[int, int, list[str]]]:
    """Share milliseconds among captions of at most two lines, in proportion to their lengths."""
    parts = [lines[first : first + LINES_PER_CAPTION] for first in range(0, len(lines), LINES_PER_CAPTION)]
    lengths = [sum(map(len, part)) for part in parts]
    edges = [start + (end - start) * sum(lengths[:index]) // sum(lengths) for index in range(len(parts))] + [end]
    for part, first, stop in zip(parts, edges[:-1], edges[1:], strict=True):
        if first < stop:
            yield first, stop, part


def _milliseconds(seconds: float) -> int:
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f"Times of captions must be 0 or more seconds, got {seconds}.")
    return round(seconds * 1000)


def _time(milliseconds: int, mark: str) -> str:
    seconds, milliseconds = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{mark}{milliseconds:03d}"


__all__ = ["format_captions"]
