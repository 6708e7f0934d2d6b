"""`flallm compare`: paired tests between two evaluations."""

import json
import re
from pathlib import Path

import pytest
from tiny_corpus import error_of

from train_scripts.commands.compare_evaluations import compare, main, options_of, read_evaluation
from train_scripts.commands.evaluate_model import write_results
from train_scripts.scores import comparison
from train_scripts.scores.breakdown import breakdown
from train_scripts.scores.comparison import compare_systems
from train_scripts.scores.content_words import FunctionWords
from train_scripts.scores.metrics import translation_scores

WORDS = ["the", "sun", "will", "shine", "over", "many", "small", "green", "hills", "today"]
NUM_TRIALS = {"bs": 100, "ar": 200}
SIGNERS = ["anna", "ben"] * 20
FUNCTION_WORDS = FunctionWords(("the", "will"), "training", "13a")


def sentences(seed_words: list[str] = WORDS) -> list[str]:
    return [
        " ".join(seed_words[place:] + seed_words[:place]) + f" {number}" for number in range(4) for place in range(10)
    ]


def write(folder: Path, predictions: list[str], references: list[str] | None = None, **options) -> Path:
    references = sentences() if references is None else references
    scores = translation_scores(predictions, references, num_resamples=0, **options)
    scores |= breakdown(predictions, references, FUNCTION_WORDS, **options)
    rows = [
        {"file_name": f"{number}.mp4", "prediction": prediction, "reference": reference, "signer": SIGNERS[number]}
        for number, (prediction, reference) in enumerate(zip(predictions, references, strict=True))
    ]
    write_results(folder, scores, rows)
    return folder


@pytest.fixture(autouse=True)
def few_trials(monkeypatch):
    monkeypatch.setattr(comparison, "NUM_TRIALS", NUM_TRIALS)


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path]:
    """A system that is always right, and one that is wrong about one signer."""
    wrong = [text if place % 2 else text.replace("sun", "rain") for place, text in enumerate(sentences())]
    return write(tmp_path / "right", sentences()), write(tmp_path / "wrong", wrong)


def test_scores_and_signatures_are_those_of_the_evaluations(folders, tmp_path, capsys):
    output = tmp_path / "comparison"
    assert main([*map(str, folders), "--output_dir", str(output)]) == 0
    compared = json.loads((output / "comparison.json").read_text(encoding="utf-8"))
    before = [json.loads((folder / "scores.json").read_text(encoding="utf-8")) for folder in folders]
    for name in ("bleu4", "chrf"):
        values, content = (compared["scores"][key] for key in (name, f"content_{name}"))
        assert [values["first"], values["second"]] == [pytest.approx(scores[name], abs=1e-4) for scores in before]
        of_content = [pytest.approx(scores["content_words"][name], abs=1e-4) for scores in before]
        assert [content["first"], content["second"]] == of_content
        assert values["difference"] == values["second"] - values["first"] < 0
        for test, sign in (("paired_bootstrap", "bs:100"), ("approximate_randomisation", "ar:200")):
            assert 0 < values[test]["p_value"] < 0.05 and sign in values[test]["signature"]
            assert FUNCTION_WORDS.signature in content[test]["signature"]
    assert list(compared["by_signer"]) == ["anna", "ben"] and compared["by_signer"]["ben"]["difference"] == 0
    printed = capsys.readouterr().out
    assert f"first: {folders[0]}\n" in printed and "BLEU-4, content words" in printed and "  anna" in printed


def test_a_system_beside_itself_differs_by_chance(folders):
    values = compare([str(folders[0]), str(folders[0] / "predictions.jsonl")])["scores"]["bleu4"]
    assert values["difference"] == 0
    assert all(values[test]["p_value"] == 1 for test in ("paired_bootstrap", "approximate_randomisation"))


def test_systems_are_compared_as_they_were_scored(tmp_path):
    folder = write(tmp_path / "a", sentences(), lowercase=True, append_period=True)
    options = options_of(read_evaluation(folder).scores)
    assert options["function_words"] == FUNCTION_WORDS
    assert (options["tokenize"], options["lowercase"], options["append_period"]) == ("13a", True, True)
    shouted = [text.upper() for text in sentences()]
    values = compare_systems(sentences(), shouted, sentences(), **options)["scores"]["bleu4"]
    assert values["difference"] == 0
    signature = translation_scores(["今天"], ["今天"], language="zh")["signatures"]
    assert options_of({"signatures": signature})["tokenize"] == "char"


def test_what_cannot_be_compared_is_refused_with_its_first_difference(folders, tmp_path, capsys):
    right, wrong = folders

    def refused(other: Path) -> str:
        return error_of(main, [str(right), str(other)], capsys)

    names = f"{right} and {tmp_path / 'other'}"
    fewer = write(tmp_path / "other", sentences()[:3], sentences()[:3])
    assert refused(fewer) == f"{names} must hold the same clips, got 40 and 3. Evaluate both on the same split."
    write(fewer, sentences(), [*sentences()[:2], "another", *sentences()[3:]])
    assert refused(fewer) == (
        f"{names} must hold the same clips in the same order: reference of clip 2 (counted from 0) is "
        f"{sentences()[2]!r} in the first and 'another' in the second."
    )
    write(fewer, sentences(), lowercase=True)
    assert re.fullmatch(
        re.escape(f"{names} must be scored in the same way: the signature of bleu1 is nrefs:1|case:mixed")
        + r"\S+ in the first and \S+case:lc\S+ in the second\. Evaluate them again with the same flags and the same "
        r"version\.",
        refused(fewer),
    )
    nowhere = tmp_path / "nowhere"
    assert refused(nowhere) == (
        f"{nowhere} must be the folder of an evaluation with predictions.jsonl in it, or such a file."
    )
    nowhere.write_text('{"prediction": "a"}\n', encoding="utf-8")
    assert refused(nowhere) == (
        f"{nowhere} is not what flallm evaluate writes: each line of predictions.jsonl must be JSON with prediction "
        "and reference, got KeyError: 'reference'."
    )
    (right / "scores.json").unlink()
    assert error_of(main, [str(right), str(right)], capsys) == (
        f"{right} or {right} must have its scores.json beside it, which says how to score."
    )
    assert compare([str(right), str(wrong)])["scores"]["bleu4"]["difference"] < 0  # one of both says it
