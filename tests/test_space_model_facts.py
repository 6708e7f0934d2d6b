"""What the Space says about a model: everything that our cards say, and nothing else."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import EvalResult, ModelCardData
from tiny_corpus import stage1_flags

from train_scripts.stages import visual_initialing

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "spaces_demo"))

import model_facts  # noqa: E402
from model_facts import ModelFacts, Score, facts_as_markdown, read_model_facts  # noqa: E402
from texts import TEXTS  # noqa: E402

BODY = """
# From German Sign Language (`gsg`) to German (`de`)

This model watches a video.

## What it cannot do

- It knows only weather
  reports.
- It does **not** see `colours`.

## Data

**PHOENIX** ([on the Hub](https://huggingface.co/datasets/me/phoenix)), trained together with **Second set**

| split | clips | signers |
|---|---|---|
| train | 7096 | 9 |
| validation | 519 | 9 |

## Scores
"""


def result(name: str, value: float, split: str = "test", **changes) -> EvalResult:
    arguments = {"signature": "nrefs:1|version:2.6.0", "confidence_interval_95": [value - 1.0, value + 1.0]}
    fields = {
        "task_type": "video-text-to-text",
        "dataset_type": "me/phoenix",
        "dataset_name": "PHOENIX",
        "dataset_split": split,
        "dataset_args": {"num_clips": 642},
        "metric_type": "bleu",
        "metric_name": name,
        "metric_value": value,
        "metric_args": arguments,
    }
    return EvalResult(**(fields | changes))


def write_card(folder: Path, results: list[EvalResult], body: str = BODY, **metadata) -> Path:
    data = {"language": ["de"], "tags": ["flallm", "gsg"], "license": "cc-by-nc-4.0", "model_name": "phoenix"}
    card = ModelCardData(**(data | metadata), eval_results=results or None)
    return write_text(folder, f"---\n{card.to_yaml()}\n---\n{body}")


def write_text(folder: Path, text: str) -> Path:
    (folder / "README.md").write_text(text, encoding="utf-8")
    return folder


def test_a_card_of_ours(tmp_path):
    bleu, chrf = np.random.uniform(10, 90, 2).round(2)
    results = [result("BLEU-1", 50.0), result("BLEU-4", float(bleu)), result("chrF", float(chrf))]
    facts = read_model_facts(str(write_card(tmp_path, results)))
    assert facts == ModelFacts(
        model_id=tmp_path.name,
        is_card_readable=True,
        sign_language="German Sign Language",
        sign_language_tag="gsg",
        spoken_language="German",
        spoken_language_tag="de",
        datasets=("PHOENIX", "Second set"),
        num_training_clips=7096,
        scores=(
            Score("BLEU-4", bleu, "PHOENIX", "test", 642, pytest.approx(bleu - 1), pytest.approx(bleu + 1)),
            Score("chrF", chrf, "PHOENIX", "test", 642, pytest.approx(chrf - 1), pytest.approx(chrf + 1)),
        ),
        limits="- It knows only weather\n  reports.\n- It does **not** see `colours`.",
        license="cc-by-nc-4.0",
        card_address=None,
    )


def shown(facts: ModelFacts, language: str) -> str:
    """The Markdown with its character references resolved, as a reader sees it."""
    return re.sub("&#([0-9]+);", lambda found: chr(int(found[1])), facts_as_markdown(facts, language))


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        (
            "en",
            [
                "**Sign language:** German Sign Language (gsg)",
                "**It writes:** German (de)",
                "PHOENIX, Second set: 7096 videos",
                "BLEU-4: 21.5 of 100, on 642 videos of “PHOENIX” (videos it did not learn from)",
                "likely between 20.5 and 22.5",
            ],
        ),
        (
            "de",
            [
                "**Gebärdensprache:** Deutsche Gebärdensprache (gsg)",
                "**Es schreibt:** Deutsch (de)",
                "PHOENIX, Second set: 7096 Videos",
                "BLEU-4: 21,5 von 100, bei 642 Videos aus „PHOENIX“ (Videos, mit denen es nicht gelernt hat)",
                "wahrscheinlich zwischen 20,5 und 22,5",
            ],
        ),
    ],
)
def test_what_the_page_says(tmp_path, language, expected):
    results = [result("BLEU-4", 21.5), result("BLEU-4", 33.0, "validation")]
    text = shown(read_model_facts(str(write_card(tmp_path, results))), language)
    for part in [*expected, "cc-by-nc-4.0", TEXTS[language]["model_scores_meaning"]]:
        assert part in text
    assert "- It knows only weather reports.\n" in text and "- It does not see colours." in text
    assert "33" not in text
    assert TEXTS[language]["model_unknown"] not in text


def test_a_score_that_can_flatter_says_so(tmp_path):
    facts = read_model_facts(str(write_card(tmp_path, [result("BLEU-4", 33.0, "validation")])))
    assert TEXTS["en"]["split_validation"] in shown(facts, "en")


def test_a_card_as_the_training_writes_it(tmp_path):
    languages = {"spoken_language": "de_DE", "sign_language": "gsg"}
    run = {"max_steps": 1, "max_train_clips": 8, "max_evaluation_clips": 3, "model_license": "cc-by-4.0"}
    visual_initialing.train(stage1_flags(tmp_path, **run, **languages))
    facts = read_model_facts(str(tmp_path))
    assert (facts.sign_language, facts.sign_language_tag) == ("German Sign Language", "gsg")
    assert (facts.spoken_language, facts.spoken_language_tag) == ("German", "de_DE")
    assert len(facts.datasets) == 1 and facts.num_training_clips == 8 and facts.license == "cc-by-4.0"
    assert facts.limits.startswith("- It knows only what its training data shows")
    assert [(score.name, score.split, score.num_clips) for score in facts.scores] == [
        ("BLEU-4", "validation", 3),
        ("chrF", "validation", 3),
    ]
    assert TEXTS["de"]["model_unknown"] not in facts_as_markdown(facts, "de")


@pytest.mark.parametrize(
    "text",
    [
        "---\nlanguage: [\n---\n# Something",
        "---\n- a\n- b\n---\n# Something",
        "---\nmodel-index: 3\ntags: 7\nlanguage: {en: 1}\nlicense: [1]\n---\n# Something",
        "---\nmodel-index:\n- name: a\n  results:\n  - task: 3\n---\n# Something",
        "# From zero to hero\n\n## Data\n\n**Everything**",
        "# From German Sign Language (`gsg`) to German (`de`)",
        "no heading at all",
    ],
)
@pytest.mark.parametrize("language", TEXTS)
def test_a_card_that_says_nothing_is_not_added_to(tmp_path, text, language):
    facts = read_model_facts(str(write_text(tmp_path, text)))
    assert facts == ModelFacts(tmp_path.name, is_card_readable=True)
    assert facts_as_markdown(facts, language).count(TEXTS[language]["model_unknown"]) == 6


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe\x00broken", None])
def test_no_card_that_can_be_read(tmp_path, content):
    if content is not None:
        (tmp_path / "README.md").write_bytes(content)
    facts = read_model_facts(str(tmp_path))
    assert facts == ModelFacts(tmp_path.name)
    assert TEXTS["de"]["model_no_card"] in facts_as_markdown(facts, "de")


@pytest.mark.parametrize("name", ["me/there-is-none", "not a name", "../../etc", ""])
def test_a_model_that_is_not_there(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert not read_model_facts(name).is_card_readable


def test_on_the_hub_the_card_of_that_revision_is_read_and_linked(tmp_path, monkeypatch):
    asked = []

    def download(*arguments, **options):
        asked.append((arguments, options))
        return str(write_card(tmp_path, []) / "README.md")

    monkeypatch.setattr(model_facts, "hf_hub_download", download)
    monkeypatch.chdir(tmp_path)
    facts = read_model_facts("me/phoenix", "abc123")
    assert asked == [(("me/phoenix", "README.md"), {"revision": "abc123"})]
    assert facts.model_id == "me/phoenix"
    address = "https://huggingface.co/me/phoenix/blob/abc123/README.md"
    assert facts_as_markdown(facts, "en").endswith(f"]({address})")


def test_cards_of_others(tmp_path):
    body = "# A model\n\n### Training\n\n## Bias, Risks, and Limitations\n\nBad at\nnight.\n\n# More\n"
    metadata = {"tags": ["ase"], "language": ["en", "ase"], "datasets": ["org/how2sign"]}
    facts = read_model_facts(str(write_card(tmp_path, [], body, **metadata)))
    assert (facts.sign_language_tag, facts.spoken_language_tag) == ("ase", "en")
    assert facts.datasets == ("org/how2sign",) and facts.num_training_clips is None
    assert facts.limits == "Bad at\nnight."
    text = shown(facts, "de")
    assert "Amerikanische Gebärdensprache (ase)" in text and "Bad at night." in text


@pytest.mark.parametrize(
    "changes",
    [
        {"metric_args": None},
        {"metric_args": {"signature": 3}},
        {"metric_value": "much"},
        {"metric_value": float("nan")},
        {"metric_value": 101.0},
        {"metric_value": True},
        {"metric_name": "BLEU"},
    ],
)
def test_numbers_that_nobody_can_read_are_left_out(changes):
    good = result("chrF", 12.0, dataset_args=None, metric_args={"signature": "s", "confidence_interval_95": ["a", 2.0]})
    assert model_facts._scores([result("BLEU-4", 20.0, **changes), good]) == (
        Score("chrF", 12.0, "PHOENIX", "test", None, None, None),
    )


def test_a_code_for_local_use_is_no_registered_language(tmp_path):
    body = BODY.replace("German Sign Language (`gsg`)", "a sign language without a registered code (`qsl`)")
    text = shown(read_model_facts(str(write_card(tmp_path, [], body))), "en")
    assert f"**Sign language:** {TEXTS['en']['model_no_registered_code']} (qsl)" in text


@pytest.mark.parametrize(
    "text",
    ["<script>alert(1)</script>", "[x](javascript:alert(1))", "![x](https://a.org/b.png)", "# A **b** _c_ $$x$$ {{v}}"],
)
def test_text_of_a_card_stays_text(text):
    facts = ModelFacts(text, True, text, "gsg", text, "xx", (text,), 3, (), text, text)
    lines = [line for line in facts_as_markdown(facts, "en").splitlines() if "&#" in line]
    assert len(lines) >= 4
    for line in lines:
        quoted = re.sub(r"^\*\*[^*]+:\*\*", "", line)
        assert not re.search(r"[<>\[\]_*`$!{}#]", re.sub("&#[0-9]+;", "", quoted))
