"""The words of the Space: the same in both languages, and the choice between them."""

import string
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "spaces_demo"))

import texts  # noqa: E402


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def test_both_languages_have_the_same_keys_in_the_same_order():
    assert list(texts.TEXTS) == list(texts.LANGUAGES)
    assert list(texts.ENGLISH) == list(texts.GERMAN)


def test_a_text_has_the_same_placeholders_in_both_languages():
    pairs = {key: (placeholders(text), placeholders(texts.GERMAN[key])) for key, text in texts.ENGLISH.items()}
    assert {key: pair for key, pair in pairs.items() if pair[0] != pair[1] or "" in pair[0]} == {}
    assert any(english for english, _ in pairs.values())


@pytest.mark.parametrize("language", texts.TEXTS)
def test_every_text_says_something_without_stray_spaces(language):
    assert {
        key: text for key, text in texts.TEXTS[language].items() if text != " ".join(text.split()) or not text
    } == {}


def test_sentences_are_translated():
    same = {key for key, text in texts.ENGLISH.items() if text == texts.GERMAN[key]}
    assert same == set()


def test_an_error_ends_as_a_sentence_and_names_its_limits():
    for language in texts.TEXTS.values():
        assert all(text.endswith(".") for key, text in language.items() if key.startswith("error_"))
        seconds, limit = np.random.randint(100, 1000, 2)
        message = language["error_too_long"].format(seconds=seconds, limit=limit)
        assert str(seconds) in message and str(limit) in message


@pytest.mark.parametrize(
    ("header", "language"),
    [
        (None, "en"),
        ("", "en"),
        ("de", "de"),
        ("de-AT,de;q=0.9,en;q=0.8", "de"),
        ("en-GB,en;q=0.9,de;q=0.8", "en"),
        ("en;q=0.2, de;q=0.7", "de"),
        ("fr-CH, fr;q=0.9, de;q=0.5, en;q=0.4, *;q=0.1", "de"),
        ("de, en", "de"),
        ("en, de", "en"),
        ("DE-de", "de"),
        ("de;q=0, fr", "en"),
        ("de;q=0, en;q=0", "en"),
        ("en;q=0.5, de ; q = 0.9", "de"),
        ("den, dex;q=1, en;q=0.1", "en"),
        ("de;q=much, en;q=0.1", "en"),
        ("de;q=nan, en;q=0.1", "en"),
        ("de;q=1e3, en;q=0.1", "en"),
        (";;;,,,q=", "en"),
        ("*", "en"),
        ("ja", "en"),
    ],
)
def test_the_language_of_a_browser(header, language):
    assert texts.language_from_header(header) == language


def test_any_header_gives_a_language():
    alphabet = np.array(list("dentq=;,.*-0123 é"))
    for _ in range(500):
        header = "".join(np.random.choice(alphabet, np.random.randint(30)))
        assert texts.language_from_header(header) in texts.TEXTS
