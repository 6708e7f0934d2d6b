"""
The evidence picture under the video: which seconds the model looked at when it wrote each word.

One string of HTML for `gr.HTML`. `CSS` and `JAVASCRIPT`, files beside this one, go to `launch(css=..., js=...)`. The
page's `gr.Video` takes `elem_id=VIDEO_ID`: a word's button then makes that video jump to the word's second, and the
word of the second that is playing is marked. While the `gr.Checkbox` with `elem_id=REPEAT_ID` is ticked, the button
plays the word's part again and again. Each word is on the time axis at its peak; below, a table says the same.
"""

import base64
import html
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from texts import DECIMAL_MARKS, TEXTS

VIDEO_ID, REPEAT_ID = "signed-video", "repeat-part"
UNSURE_BELOW = 0.5
MAX_WORDS_WITH_PICTURE = 400
MAX_THUMBNAILS = 10
THUMBNAIL_HEIGHT_IN_PIXELS = 104
MAX_MARKS = 8
MARK_STEPS_IN_SECONDS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600)
NUM_SHADES = 6
MAX_CELLS = 64
# Characters that Gradio's HTML component reads as a template, beside those that HTML reads itself.
TEMPLATE_CHARACTERS = str.maketrans({character: f"&#{ord(character)};" for character in "{}$`\\"})

CSS = Path(__file__).with_name("timeline.css").read_text(encoding="utf-8")
JAVASCRIPT = Path(__file__).with_name("timeline.js").read_text(encoding="utf-8")


def timeline_html(
    pieces: Sequence[dict[str, Any]],
    start: float,
    duration: float,
    thumbnails: Sequence[tuple[float, np.ndarray]] = (),
    language: str = "en",
    text_language: str | None = None,
    unsure_below: float = UNSURE_BELOW,
) -> str:
    """
    The picture for one sentence, or for several a list of captions, each with a picture.

    Args:
        pieces: sentences in order, each with `start` and `end`, `translation_text`, and `words` as the pipeline gives
            them; optionally also `attention` `(words, visual tokens)` and `token_times` `(visual tokens,)`. After 400
            words the pictures stop, so that the page of a long video stays small.
        start: second of the file at which the part that is shown starts. All other times are seconds of the file, too.
        duration: seconds of the part that is shown.
        thumbnails: second and uint8 picture `(height, width, 3)` of some frames; ten of them are shown, and only for a
            single sentence.
        language: of the page, a key of `texts.TEXTS`.
        text_language: tag of the language of the words, for screen readers.
        unsure_below: probability below which a word is marked as unsure.
    """
    texts = TEXTS[language]
    painter = _Painter(texts, language, text_language, unsure_below)
    if len(pieces) == 1:
        body = painter.picture(pieces[0], start, start + duration, thumbnails)
        intro = texts["timeline_intro"]
    else:
        body = painter.captions(pieces)
        intro = texts["timeline_intro_long"]
    jumped, repeated = (_escape(texts[f"timeline_{name}"].format(time="[time]")) for name in ("jumped", "repeated"))
    return (
        f'<section class="timeline" lang="{language}" aria-label="{_escape(texts["timeline_heading"])}">'
        f"<h2>{_escape(texts['timeline_heading'])}</h2><p>{_escape(intro)}</p>"
        f'<p class="status" role="status" data-jumped="{jumped}" data-repeated="{repeated}"></p>'
        f"{body}{painter.legend()}</section>"
    )


class _Painter:
    """Draws sentences in the language of the page; times of a minute or more become minutes and seconds."""

    def __init__(self, texts: dict[str, str], language: str, text_language: str | None, unsure_below: float):
        self.texts = {name: html.escape(text) for name, text in texts.items()}
        self.decimal_mark = DECIMAL_MARKS[language]
        self.lang = f' lang="{_escape(text_language)}"' if text_language else ""
        self.unsure_below = unsure_below

    def picture(
        self, piece: dict[str, Any], start: float, end: float, thumbnails: Sequence[tuple[float, np.ndarray]] = ()
    ) -> str:
        """Film strip, time axis and one row per word, all from second `start` to `end`; then the table."""
        if not piece["words"]:
            return f"<p>{self.texts['timeline_no_words']}</p>"
        axis = _Axis(start, end)
        rows = "".join(
            f'<li>{self._button(word, axis)}<div class="heat" aria-hidden="true"{shades}>{self._marks(word, axis)}'
            "</div></li>"
            for word, shades in zip(piece["words"], _shades(piece, axis), strict=True)
        )
        return (
            f'<div class="picture" data-from="{axis.start:.2f}" data-to="{axis.end:.2f}">{_film(thumbnails, axis)}'
            f'<div class="axis" aria-hidden="true">{self._second_marks(axis)}</div><ol class="words">{rows}</ol>'
            f'<div class="playhead"></div></div>{self._table(piece["words"], axis)}'
        )

    def captions(self, pieces: Sequence[dict[str, Any]]) -> str:
        """Every sentence with its time, and pictures of the first ones, as many as the page can hold."""
        items, num_words, is_full = [], 0, False
        for piece in pieces:
            num_words += len(piece["words"])
            is_first_left_out = num_words > MAX_WORDS_WITH_PICTURE and not is_full
            is_full = is_full or is_first_left_out
            note = f"<p>{self.texts['timeline_too_long']}</p>" if is_first_left_out else ""
            items.append(self._caption(piece, note if is_full else self._folded_picture(piece)))
        return f'<ol class="pieces">{"".join(items)}</ol>'

    def _caption(self, piece: dict[str, Any], below: str) -> str:
        axis = _Axis(piece["start"], piece["end"])
        start, end = (self._time(seconds, True) for seconds in (axis.start, axis.end))
        name = self.texts["timeline_piece"].format(start=start, end=end)
        return (
            f'<li data-from="{axis.start:.2f}" data-to="{axis.end:.2f}"><button type="button" '
            f'data-seconds="{axis.start:.2f}" data-time="{start}" aria-label="{name}">{start} – {end}</button>'
            f'<span class="said"{self.lang} dir="auto">{_escape(piece["translation_text"])}</span>{below}</li>'
        )

    def _folded_picture(self, piece: dict[str, Any]) -> str:
        picture = self.picture(piece, piece["start"], piece["end"])
        return f"<details><summary>{self.texts['timeline_details']}</summary>{picture}</details>"

    def _button(self, word: dict[str, Any], axis: "_Axis") -> str:
        is_unsure = word["probability"] < self.unsure_below
        template = self.texts["timeline_unsure_word" if is_unsure else "timeline_word"]
        start, end, peak = (self._time(word[name], axis.in_minutes) for name in ("start", "end", "peak"))
        text, left = _escape(word["word"]), axis.percent(word["peak"])
        name = template.format(word=text, start=start, end=end, peak=peak, unit=self._unit(axis))
        mark = " ?" if is_unsure else ""
        return (
            f'<button type="button" class="{"unsure" if is_unsure else "likely"}" '
            f'style="left:{left};transform:translateX(-{left})" data-seconds="{word["peak"]:.2f}" '
            f'data-time="{peak} {self._unit(axis)}" data-from="{word["start"]:.2f}" data-to="{word["end"]:.2f}" '
            f'aria-label="{name}"><span{self.lang} dir="auto">{text}</span>{mark}</button>'
        )

    def _marks(self, word: dict[str, Any], axis: "_Axis") -> str:
        """The frame around the interval, and the line at the peak."""
        left, right = axis.percent(word["start"]), axis.percent(word["end"])
        return (
            f'<i style="left:{left};right:calc(100% - {right})"></i><b style="left:{axis.percent(word["peak"])}"></b>'
        )

    def _second_marks(self, axis: "_Axis") -> str:
        marks = []
        for seconds in axis.marks():
            left = axis.percent(seconds)
            text = self._time(seconds, axis.in_minutes)
            marks.append(
                f'<i style="left:{left}"></i><span style="left:{left};transform:translateX(-{left})">{text}</span>'
            )
        return "".join(marks)

    def _table(self, words: Sequence[dict[str, Any]], axis: "_Axis") -> str:
        names = ("table_word", "table_start", "table_end", "table_peak", "table_sure")
        rows = "".join(f"<tr>{self._table_row(word, axis)}</tr>" for word in words)
        head_cells = "".join(f'<th scope="col">{self.texts[name]}</th>' for name in names)
        caption = self.texts["table_times"].format(unit=self._unit(axis))
        return (
            f"<details><summary>{self.texts['table_heading']}</summary>"
            f'<div class="table-box" role="region" tabindex="0" aria-label="{self.texts["table_heading"]}">'
            f"<table><caption>{caption}</caption><thead><tr>{head_cells}</tr></thead><tbody>{rows}</tbody></table></div></details>"
        )

    def _table_row(self, word: dict[str, Any], axis: "_Axis") -> str:
        times = [self._time(word[name], axis.in_minutes) for name in ("start", "end", "peak")]
        unsure = f" ({self.texts['table_unsure_word']})" if word["probability"] < self.unsure_below else ""
        cells = "".join(f"<td>{text}</td>" for text in [*times, f"{100 * word['probability']:.0f} %{unsure}"])
        return f'<th scope="row"{self.lang} dir="auto">{_escape(word["word"])}</th>{cells}'

    def legend(self) -> str:
        items = (f"<li>{text}</li>" for name, text in self.texts.items() if name.startswith("timeline_legend_"))
        return f'<ul class="legend">{"".join(items)}</ul>'

    def _unit(self, axis: "_Axis") -> str:
        return self.texts["unit_minutes" if axis.in_minutes else "unit_seconds"]

    def _time(self, seconds: float, in_minutes: bool) -> str:
        """`3.04` -> "3.0", or "0:03.0" in minutes, "1:02:03.0" from an hour on; with a comma in German."""
        tenths = round(10 * seconds)
        rest = f"{tenths / 10:.1f}"
        if in_minutes:
            minutes = tenths // 600
            hours = f"{minutes // 60}:{minutes % 60:02d}" if minutes >= 60 else f"{minutes}"
            rest = f"{hours}:{tenths % 600 / 10:04.1f}"
        return rest.replace(".", self.decimal_mark)


class _Axis:
    """The time axis of one picture, in seconds of the file."""

    def __init__(self, start: float, end: float):
        self.start, self.end = start, max(end, start + 0.01)
        self.in_minutes = self.end >= 60

    def percent(self, seconds: float) -> str:
        share = 100 * (seconds - self.start) / (self.end - self.start)
        return f"{min(max(share, 0), 100):.1f}%"

    def marks(self) -> list[float]:
        """At most eight round seconds."""
        seconds = self.end - self.start
        step = next((step for step in MARK_STEPS_IN_SECONDS if seconds / step < MAX_MARKS), seconds)
        return [number * step for number in range(math.ceil(self.start / step), math.floor(self.end / step) + 1)]


def _escape(text: str) -> str:
    return html.escape(text).translate(TEMPLATE_CHARACTERS)


def _film(thumbnails: Sequence[tuple[float, np.ndarray]], axis: _Axis) -> str:
    """Each thumbnail from its second to that of the next one."""
    if not thumbnails:
        return ""
    chosen = np.linspace(0, len(thumbnails) - 1, min(MAX_THUMBNAILS, len(thumbnails))).round().astype(int)
    shown = [thumbnails[index] for index in chosen]
    edges = [axis.start, *(second for second, _ in shown[1:]), axis.end]
    images = "".join(
        f'<img alt="" src="{_data_address(picture)}" style="left:{axis.percent(left)};'
        f'width:{axis.percent(axis.start + right - left)}">'
        for (_, picture), left, right in zip(shown, edges[:-1], edges[1:], strict=True)
    )
    return f'<div class="film" aria-hidden="true">{images}</div>'


def _data_address(picture: np.ndarray) -> str:
    """A small JPEG picture as an address, from uint8 `(height, width, 3)`."""
    image = Image.fromarray(picture)
    height = THUMBNAIL_HEIGHT_IN_PIXELS
    image = image.resize((max(1, round(image.width * height / image.height)), height))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=70)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def _shades(piece: dict[str, Any], axis: _Axis) -> list[str]:
    """For each word the style attribute that paints its row of the heat map; empty without attention."""
    if piece.get("attention") is None:
        return [""] * len(piece["words"])
    times = np.asarray(piece["token_times"], dtype=float)
    attention = np.asarray(piece["attention"], dtype=float)
    half = np.diff(times).mean() / 2 if len(times) > 1 else (axis.end - axis.start) / 2
    per_cell = math.ceil(len(times) / MAX_CELLS)
    starts = np.arange(0, len(times), per_cell)
    edges = np.append(times[starts] - half, times[-1] + half)
    strongest = np.maximum.reduceat(attention, starts, axis=1)
    levels = (NUM_SHADES * strongest / np.maximum(strongest.max(1, keepdims=True), 1e-9)).round().astype(int)
    return [f' style="background:linear-gradient(90deg,{_stops(row, edges, axis)})"' for row in levels]


def _shade(level: int) -> str:
    return f"var(--tl-h{level})" if level else "transparent"


def _stops(levels: np.ndarray, edges: np.ndarray, axis: _Axis) -> str:
    """Colour stops of one row of shades, neighbours of the same shade together."""
    changes = np.flatnonzero(np.diff(levels)) + 1
    stops = [
        f"{_shade(levels[first])} {axis.percent(edges[first])} {axis.percent(edges[last])}"
        for first, last in zip([0, *changes], [*changes, len(levels)], strict=True)
    ]
    before, behind = axis.percent(edges[0]), axis.percent(edges[-1])
    return ",".join([f"transparent 0 {before}", *stops, f"transparent {behind} 100%"])
