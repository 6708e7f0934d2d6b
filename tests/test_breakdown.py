"""The scores of parts of an evaluation, and the report that is printed of them."""

from train_scripts.scores.breakdown import breakdown
from train_scripts.scores.metrics import variety_scores
from train_scripts.scores.report import MOST_ROWS, format_report, groups_of

SENTENCES = ["one two three four", "five six seven eight", "one two three nine"]


def test_a_collapsed_model_is_seen_by_its_sentences():
    assert variety_scores(["same  one", "same one", "other"]) == {
        "num_different_predictions": 2,
        "different_predictions": 2 / 3,
        "most_frequent_prediction": 2 / 3,
        "most_frequent_text": "same one",
    }
    scores = breakdown(["same one"] * 3, SENTENCES)
    assert scores.keys() == {"variety"} and scores["variety"]["num_different_references"] == 3
    assert format_report(scores) == (
        "Different translations: 1, of 3 different references. The most frequent one is 100.0 % of all: 'same one'"
    )


def test_signers_are_printed_worst_first():
    scores = breakdown([SENTENCES[0], SENTENCES[0]], SENTENCES[:2], ["signer a", "b"])
    assert format_report(scores).splitlines()[:3] == [
        "BLEU-4 by signer, worst first",
        "  b           0.00  (1 clips)",
        "  signer a  100.00  (1 clips)",
    ]


def test_many_signers_are_cut_short():
    number = MOST_ROWS + 2
    scores = breakdown([SENTENCES[0]] * number, [SENTENCES[0]] * number, [f"signer {n}" for n in range(number)])
    assert len(groups_of(scores)[0].rows) == number
    assert format_report(scores).splitlines()[1 + MOST_ROWS] == "  and 2 more in scores.json"
