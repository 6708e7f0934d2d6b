"""The table of scores at the end of both quickstarts."""

from train_scripts.commands.quickstart import print_scores
from train_scripts.scores.metrics import TITLE_OF_SCORE


def scores(value: float) -> dict:
    intervals = {name: {"low": value - 1, "high": value + 1} for name in TITLE_OF_SCORE}
    return {
        **dict.fromkeys(TITLE_OF_SCORE, value),
        "confidence_intervals": intervals,
        "num_segments": 150,
        "signatures": {"bleu4": "norm:nfkc"},
    }


def test_one_stage_has_no_heading(capsys):
    print_scores({"stage 3": scores(97.27)})
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "150 test clips, signers never seen in training (95 % interval by bootstrap)"
    assert lines[2] == "BLEU-1               97.27 [96.27, 98.27]"
    assert lines[-1] == "BLEU-4: norm:nfkc" and len(lines) == 3 + len(TITLE_OF_SCORE)


def test_two_stages_have_a_column_each(capsys):
    print_scores({"stage 1": scores(95.73), "stage 2": scores(5.0)})
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "                                     stage 1                   stage 2"
    assert lines[3] == "BLEU-1                  95.73 [94.73, 96.73]         5.00 [4.00, 6.00]"
