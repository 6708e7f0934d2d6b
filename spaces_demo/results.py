"""Results, as HTML for the page and as JSON for programs."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from model_facts import ModelFacts
from texts import TEXTS, decimal
from timeline import TEMPLATE_CHARACTERS
from translating import Result, Step

SURE_FROM, UNSURE_FROM = 0.8, 0.5
UNSURE_MARK = "(?)"
LONGEST_REPORT_IN_CHARACTERS = 1000  # each up to six bytes of an address, of which servers take about 8,000
# Distinguished by words, by a sign and by the border, not by colour alone.
SIGNS = {"sure": "✓", "unsure": "?", "very_unsure": "⚠", "unfamiliar": "⚠", "unmeasured": "⚠", "sureness_unknown": "–"}

CSS = Path(__file__).with_name("results.css").read_text(encoding="utf-8")


def sureness(answer: dict[str, Any]) -> str:
    """A name in `texts` for how sure the model is of one answer of the pipeline, as measured on its dev split."""
    if "confidence" not in answer:
        return "sureness_unknown"
    if not answer.get("is_familiar", True):
        return "unfamiliar"
    if not answer["confidence"] and not answer.get("is_measured", False):
        return "unmeasured"  # the pipeline gives 0 to scores below all that were measured
    if answer["confidence"] >= SURE_FROM:
        return "sure"
    return "unsure" if answer["confidence"] >= UNSURE_FROM else "very_unsure"


def step_html(step: Step, language: str) -> str:
    """The current step, below the finished sentences of a long video."""
    texts = TEXTS[language]
    finished = "" if step.finished is None else _text_of_all(step.finished.pieces, texts)
    progress = escape(texts[step.name].format(**step.values))
    return (
        f'<div class="result">{finished}<p class="sentence">{escape(step.sentence)}</p>'
        f'<p>{progress} <progress value="{step.done:.2f}" aria-label="{progress}"></progress></p></div>'
    )


def problem_html(sentence: str) -> str:
    return f'<div class="result problem"><p class="sentence" role="alert">⚠ {escape(sentence)}</p></div>'


def result_html(result: Result, language: str, facts: ModelFacts | None = None) -> str:
    """
    The sentence, how sure it is, alternatives and the time it took; for a long video all sentences. Of a model on the
    Hub, also a link by which a visitor can tell its authors that this is wrong.
    """
    texts = TEXTS[language]
    taken = texts["time_taken"].format(seconds=decimal(result.seconds_taken, language))
    if result.num_translations > 1 and len(result.pieces) == 1:
        level, body = "several", _side_by_side(result, language)
    elif len(result.pieces) == 1:
        (piece,) = result.pieces
        level = sureness(piece)
        body = _sentence(piece, level, texts) + _alternatives(result.alternatives, language)
    else:
        levels = [sureness(piece) for piece in result.pieces]
        level = "sureness_unknown" if "sureness_unknown" in levels or not levels else "mixed"
        body = _text_of_all(result.pieces, texts) + f"<p>{_summary(levels, texts)}</p>"
    hand = result.pieces[0].get("left_handed") if result.pieces else None
    if hand is not None:
        body += f"<p>{escape(texts['taken_for_left_handed' if hand else 'taken_for_right_handed'])}</p>"
    stopped = "" if result.is_whole else f"{texts['stopped']} "
    report = "" if facts is None or facts.page_address is None else _report(result, facts, texts)
    return f'<div class="result {level}">{body}<p>{escape(stopped + taken)}</p>{report}</div>'


def _report(result: Result, facts: ModelFacts, texts: dict[str, str]) -> str:
    """A new discussion of the model, with what the page wrote, for the visitor to complete: words alone, no video."""
    said = "\n".join(piece["translation_text"] for piece in result.pieces) or texts["nothing_signed"]
    if len(said) > LONGEST_REPORT_IN_CHARACTERS:
        said = f"{said[:LONGEST_REPORT_IN_CHARACTERS]} ..."
    quoted = "\n".join(f"> {line}" for line in said.splitlines())
    parts = (texts["report_said"], quoted, texts["report_signed"], "> ...", facts.card_address or facts.page_address)
    words = {"title": texts["report_title"], "description": "\n\n".join(parts)}
    address = f"{facts.page_address}/discussions/new?{urlencode(words)}"
    return (
        f'<p class="report"><a href="{escape(address)}" target="_blank" rel="noopener noreferrer">'
        f"{escape(texts['report_link'])}</a> {escape(texts['report_info'])}</p>"
    )


def _sentence(piece: dict[str, Any], level: str, texts: dict[str, str]) -> str:
    said = [texts[level]]
    if level in ("sure", "unsure", "very_unsure"):
        share = "sureness_share" if piece.get("is_measured", True) else "sureness_share_of_surest"
        said.append(texts[share].format(number=round(100 * piece["confidence"])))
    sureness_of_it = f'<p><span aria-hidden="true">{SIGNS[level]} </span>{escape(" ".join(said))}</p>'
    return _words_of(piece, texts) + sureness_of_it


def _words_of(answer: dict[str, Any], texts: dict[str, str]) -> str:
    return f'<p class="sentence" dir="auto">{escape(answer["translation_text"] or texts["translation_empty"])}</p>'


def _side_by_side(result: Result, language: str) -> str:
    """Each different translation with how sure the model is of it, or with its score if nobody has measured that."""
    texts = TEXTS[language]
    different: dict[str, dict[str, Any]] = {}
    for answer in (*result.pieces, *result.alternatives):
        different.setdefault(answer["translation_text"], answer)
    items = []
    for number, answer in enumerate(different.values(), start=1):
        level = sureness(answer)
        heading = texts["translations_number"].format(number=number, total=len(different))
        if level == "sureness_unknown":
            score = f"{texts['alternatives_score']}: {decimal(answer['score'], language, places=2)}"
            body = f"{_words_of(answer, texts)}<p>{escape(score)}</p>"
        else:
            body = _sentence(answer, level, texts)
        items.append(f'<li class="translation {level}"><h3>{escape(heading)}</h3>{body}</li>')
    notes = "".join(f"<p>{escape(note)}</p>" for note in _notes_on_several(result, len(different), texts))
    return f'<ol class="translations" role="list">{"".join(items)}</ol>{notes}'


def _notes_on_several(result: Result, num_different: int, texts: dict[str, str]) -> list[str]:
    total = 1 + len(result.alternatives)
    notes = []
    if num_different < total:
        notes.append(texts["translations_different"].format(number=num_different, total=total))
    if sureness(result.pieces[0]) == "sureness_unknown":
        notes += [texts["sureness_unknown"], texts["alternatives_score_info"]]
    elif num_different > 1:
        notes.append(texts["translations_sureness"])
    return [*notes, texts["translations_first"]] if num_different > 1 else notes


def _alternatives(alternatives: Sequence[dict[str, Any]], language: str) -> str:
    if not alternatives:
        return ""
    texts = TEXTS[language]
    rows = "".join(
        f'<tr><td dir="auto">{escape(other["translation_text"])}</td>'
        f"<td>{decimal(other['score'], language, places=2)}</td></tr>"
        for other in alternatives
    )
    return (
        f"<h3>{escape(texts['alternatives_heading'])}</h3><p>{escape(texts['alternatives_info'])} "
        f"{escape(texts['alternatives_score_info'])}</p>"
        f'<table><thead><tr><th scope="col">{escape(texts["alternatives_text"])}</th>'
        f'<th scope="col">{escape(texts["alternatives_score"])}</th></tr></thead><tbody>{rows}</tbody></table>'
    )


def _text_of_all(pieces: Sequence[dict[str, Any]], texts: dict[str, str]) -> str:
    if not pieces:
        return f'<p class="sentence">{escape(texts["nothing_signed"])}</p>'
    sentences = "".join(f"<p>{escape(marked(piece))}</p>" for piece in pieces)
    return f'<div class="sentences" dir="auto">{sentences}</div>'


def _summary(levels: Sequence[str], texts: dict[str, str]) -> str:
    if "sureness_unknown" in levels or not levels:
        return escape(texts["sureness_unknown"]) if levels else ""
    unsure = sum(level != "sure" for level in levels)
    return escape(texts["sureness_of_all"].format(unsure=unsure, total=len(levels), mark=UNSURE_MARK))


def marked(piece: dict[str, Any]) -> str:
    """The sentence, with a mark in front if the model is not sure of it."""
    is_sure = sureness(piece) in ("sure", "sureness_unknown")
    return piece["translation_text"] if is_sure else f"{UNSURE_MARK} {piece['translation_text']}"


def as_json(result: Result, captions: dict[str, str], language: str) -> dict[str, Any]:
    """
    The result for programs.

    Args:
        captions: contents of the caption files, by `srt` and `vtt`.
    """
    return {
        "text": " ".join(piece["translation_text"] for piece in result.pieces),
        "sentences": [
            {
                "text": piece["translation_text"],
                "start": round(piece["start"], 3),
                "end": round(piece["end"], 3),
                "score": piece["score"],
                "confidence": piece.get("confidence"),
                "sureness": sureness(piece),
                "sureness_text": TEXTS[language][sureness(piece)],
                "words": piece["words"],
            }
            for piece in result.pieces
        ],
        "alternatives": [
            {
                "text": other["translation_text"],
                "score": other["score"],
                "confidence": other.get("confidence"),
                "sureness": sureness(other),
            }
            for other in result.alternatives
        ],
        "left_handed": result.pieces[0].get("left_handed") if result.pieces else None,
        **captions,
        "seconds_taken": round(result.seconds_taken, 3),
    }


def escape(text: str) -> str:
    return html.escape(text).translate(TEMPLATE_CHARACTERS)
