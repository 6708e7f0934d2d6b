"""Several translations side by side in the Space: what the model is asked for, what page and programs get."""

import html
import re
from types import SimpleNamespace

import numpy as np
import pytest
from space_app import TEXTS, clips  # makes the Space's modules known, too
from tiny_corpus import trained_model

# isort: split
import app
from transformers import pipeline
from translating import MOST_TRANSLATIONS, Result, _answers

ENGLISH = TEXTS["en"]


def answer(text: str, score: float = -0.5, **values) -> dict:
    return {"translation_text": text, "score": score, "start": 0.0, "end": 1.0, "words": [], **values}


def measured(text: str, confidence: float) -> dict:
    return answer(text, confidence=confidence, is_familiar=True, is_measured=True)


def shown(*answers: dict, language: str = "en", num_translations: int = 3) -> str:
    result = Result([answers[0]], list(answers[1:]), [], 0.0, 1.0, 2.0, num_translations=num_translations)
    return html.unescape(app.results.result_html(result, language))


def headings(page: str) -> list[str]:
    return re.findall("<h3>(.*?)</h3>", page)


# What is asked of the model


def asked_for(num_beams: int | None, num_translations: int, **attributes) -> dict:
    """The arguments of the pipeline's call for a model with so many beams."""
    asked = {}

    def call(clip: dict, **arguments) -> list[dict]:
        asked.update(arguments)
        return [{"translation_text": ""} for _ in range(arguments["num_return_sequences"])]

    call.model = SimpleNamespace(generation_config=SimpleNamespace(num_beams=num_beams), **attributes)
    assert len(_answers(call, {}, num_translations, {"return_scores": True})) == asked["num_return_sequences"]
    assert asked.pop("return_scores") is True
    return asked


@pytest.mark.parametrize(
    ("num_beams", "num_translations", "expected"),
    [
        (None, 1, {"num_return_sequences": 1, "num_beams": 1}),
        (2, 1, {"num_return_sequences": 2, "num_beams": 2}),
        (8, 1, {"num_return_sequences": 4, "num_beams": 8}),
        (None, 3, {"num_return_sequences": 3, "num_beams": 3}),
        (2, 5, {"num_return_sequences": 5, "num_beams": 5}),
        (8, 2, {"num_return_sequences": 2, "num_beams": 8}),
    ],
)
def test_there_are_at_least_as_many_beams_as_translations(num_beams, num_translations, expected):
    assert asked_for(num_beams, num_translations) == expected
    assert asked_for(num_beams, num_translations, draws_samples=False) == expected


def test_a_model_that_draws_samples_keeps_its_beams():
    assert asked_for(1, 4, draws_samples=True) == {"num_return_sequences": 4}


def test_the_sentence_that_most_samples_agree_on_comes_first_with_the_mean_of_their_confidence():
    samples = [measured("snow", 0.9), measured("rain", 0.2), measured("rain", 0.6), measured("wind", 0.1)]
    for each, score in zip(samples, (-0.1, -0.4, -0.2, -0.9), strict=True):
        each["score"] = score

    def call(clip: dict, **arguments) -> list[dict]:
        return [dict(each) for each in samples]

    call.model = SimpleNamespace(generation_config=SimpleNamespace(num_beams=1), draws_samples=True)
    answers = _answers(call, {}, 4, {})
    assert [each["translation_text"] for each in answers] == ["rain", "rain", "snow", "wind"]
    assert [each["confidence"] for each in answers] == pytest.approx([0.4, 0.4, 0.9, 0.1])
    assert [each["score"] for each in answers] == pytest.approx([-0.3, -0.3, -0.1, -0.9])
    call.model.draws_samples = False
    assert _answers(call, {}, 4, {}) == samples


# What the page shows


def test_each_translation_has_a_heading_its_sentence_and_how_sure_the_model_is():
    page = shown(measured("<b>rain</b>", 0.9), measured("snow", 0.6), measured("", 0.1))
    assert headings(page) == ["Translation 1 of 3", "Translation 2 of 3", "Translation 3 of 3"]
    assert re.findall('<li class="translation ([a-z_]+)">', page) == ["sure", "unsure", "very_unsure"]
    cards = page.split("<li ")[1:]
    expected = zip(cards, ["<b>rain</b>", "snow", ENGLISH["translation_empty"]], [90, 60, 10], strict=True)
    for (card, sentence, number), level in zip(expected, ["sure", "unsure", "very_unsure"], strict=True):
        assert f'<p class="sentence" dir="auto">{sentence}</p>' in card
        assert f"{ENGLISH[level]} Of 100 sentences like this one, about {number} were right." in card
    assert ENGLISH["translations_sureness"] in page and ENGLISH["translations_first"] in page
    assert ENGLISH["alternatives_heading"] not in page and "<table>" not in page
    assert "&lt;b&gt;rain" in app.results.result_html(
        Result([measured("<b>rain</b>", 0.9)], [], [], 0.0, 1.0, 2.0, num_translations=2), "en"
    )


@pytest.mark.parametrize(("language", "mark"), [("en", "."), ("de", ",")])
def test_without_a_measurement_each_has_its_score_and_the_page_says_once_why(language, mark):
    scores = -np.random.uniform(0.1, 2, 3)
    page = shown(*(answer(f"sentence {score}", score) for score in scores), language=language)
    texts = TEXTS[language]
    for score in scores:
        assert f"<p>{texts['alternatives_score']}: {score:.2f}</p>".replace(".", mark) in page.replace(".", mark)
    assert page.count(texts["sureness_unknown"]) == page.count(texts["alternatives_score_info"]) == 1
    assert texts["translations_sureness"] not in page and texts["translations_first"] in page


def test_equal_translations_are_shown_once():
    page = shown(measured("rain", 0.9), measured("snow", 0.8), measured("rain", 0.7), num_translations=3)
    assert headings(page) == ["Translation 1 of 2", "Translation 2 of 2"]
    assert "about 90 were right" in page and "about 70" not in page
    assert "Different sentences: 2 of 3. The others were the same." in page
    page = shown(measured("rain", 0.9), measured("rain", 0.7), num_translations=2)
    assert headings(page) == ["Translation 1 of 1"] and "Different sentences: 1 of 2." in page
    assert ENGLISH["translations_first"] not in page and ENGLISH["translations_sureness"] not in page


def test_by_default_the_page_shows_one_with_its_alternatives():
    page = shown(measured("rain", 0.9), measured("snow", 0.8), num_translations=1)
    assert headings(page) == [ENGLISH["alternatives_heading"]] and '<ol class="translations"' not in page


def test_a_long_video_has_one_translation_for_each_sentence():
    result = Result([measured("rain", 0.9), measured("snow", 0.8)], [], [], 0.0, 2.0, 2.0)
    assert '<ol class="translations"' not in app.results.result_html(result, "en")


# What programs get


def test_programs_get_how_sure_the_model_is_of_each():
    result = Result([measured("rain", 0.9)], [measured("snow", 0.6)], [], 0.0, 1.0, 2.0, num_translations=2)
    (other,) = app.results.as_json(result, {}, "en")["alternatives"]
    assert other == {"text": "snow", "score": -0.5, "confidence": 0.6, "sureness": "unsure"}
    result = Result([answer("rain")], [answer("snow", -0.7)], [], 0.0, 1.0, 2.0)
    (other,) = app.results.as_json(result, {}, "en")["alternatives"]
    assert other == {"text": "snow", "score": -0.7, "confidence": None, "sureness": "sureness_unknown"}


@pytest.mark.slow
@pytest.mark.usefixtures("forked_workers")
def test_as_many_are_written_as_were_asked_for():
    translator = app.load_translator(str(trained_model()), None)
    clip = str(clips()[np.random.randint(len(clips()))])
    try:
        *_, result = translator.translate(clip, None, None, is_long=False, num_translations=MOST_TRANSLATIONS)
    finally:
        translator.reader.close()
    expected = pipeline("sign-language-translation", str(trained_model()))(
        clip, num_return_sequences=MOST_TRANSLATIONS, num_beams=MOST_TRANSLATIONS, return_scores=True
    )
    answers = [*result.pieces, *result.alternatives]
    assert [each["translation_text"] for each in answers] == [each["translation_text"] for each in expected]
    assert [each["score"] for each in answers] == pytest.approx([each["score"] for each in expected], abs=1e-4)
    assert result.num_translations == MOST_TRANSLATIONS
