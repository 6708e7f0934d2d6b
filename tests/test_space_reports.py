"""The link of the Space by which a visitor says that a sentence is wrong: what it passes on, and where to."""

import html
import re
from urllib.parse import parse_qs, urlsplit

import pytest
from space_app import TEXTS  # makes the Space's modules known, too

# isort: split
import app
from model_facts import ModelFacts, read_model_facts
from translating import Result

PAGE = "https://huggingface.co/me/flallm-phoenix"
CARD = f"{PAGE}/blob/{'a' * 40}/README.md"
ON_THE_HUB = ModelFacts("me/flallm-phoenix", card_address=CARD, page_address=PAGE)


def result_of(*sentences: str) -> Result:
    pieces = [{"translation_text": text, "score": -0.5, "start": 0.0, "end": 1.0, "words": []} for text in sentences]
    return Result(pieces, [], [], 0.0, 1.0, 2.0)


def report_of(*sentences: str, language: str = "en", facts: ModelFacts = ON_THE_HUB) -> tuple[str, dict[str, str]]:
    """The address of the link without what it passes on, and that."""
    shown = app.results.result_html(result_of(*sentences), language, facts)
    (address,) = re.findall('<p class="report"><a href="([^"]*)"', shown)
    parts = urlsplit(html.unescape(address))
    words = {name: value for name, (value,) in parse_qs(parts.query, strict_parsing=True).items()}
    return parts._replace(query="").geturl(), words


@pytest.mark.parametrize("language", TEXTS)
def test_a_new_discussion_of_the_model_holds_the_sentence_and_the_commit(language):
    texts = TEXTS[language]
    address, words = report_of('am "Tag" {regnet} <b>es</b> & mehr', language=language)
    assert address == f"{PAGE}/discussions/new"
    said = '> am "Tag" {regnet} <b>es</b> & mehr'
    description = f"{texts['report_said']}\n\n{said}\n\n{texts['report_signed']}\n\n> ...\n\n{CARD}"
    assert words == {"title": texts["report_title"], "description": description}
    shown = app.results.result_html(result_of("x"), language, ON_THE_HUB)
    assert html.escape(texts["report_info"]) in shown
    assert 'target="_blank" rel="noopener noreferrer"' in shown


def test_of_a_long_video_all_sentences_are_passed_on_and_of_silence_that():
    assert "> one\n> two\n" in report_of("one", "two")[1]["description"]
    assert f"> {TEXTS['en']['nothing_signed']}\n" in report_of()[1]["description"]


def test_many_sentences_are_cut_because_addresses_have_a_longest_length():
    _, words = report_of(*["ein langer Satz mit Wörtern"] * 500)
    assert words["description"].count("langer") < 100 and " ...\n\n" in words["description"]
    shown = app.results.result_html(result_of(*["ü" * 100] * 500), "de", ON_THE_HUB)
    assert len(re.findall('href="([^"]*)"', shown)[0]) < 8_000


def test_without_a_readable_card_the_page_of_the_model_is_named():
    _, words = report_of("x", facts=ModelFacts("me/flallm-phoenix", page_address=PAGE))
    assert words["description"].endswith(f"\n\n{PAGE}")


def test_a_model_in_a_folder_has_no_page(tmp_path):
    facts = read_model_facts(str(tmp_path))
    assert facts.page_address is None
    assert 'class="report"' not in app.results.result_html(result_of("x"), "en", facts)


def test_a_model_on_the_hub_has_one(monkeypatch):
    import model_facts

    def missing(*arguments, **others):
        raise OSError("no card")

    monkeypatch.setattr(model_facts, "hf_hub_download", missing)
    assert read_model_facts("me/flallm-phoenix") == ModelFacts("me/flallm-phoenix", page_address=PAGE)
