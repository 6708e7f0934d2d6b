"""The scores of parts of an evaluation, content words, and the report that is printed of them."""

import pytest

from train_scripts.arguments.data_arguments import DatasetArguments
from train_scripts.clips.training_texts import read_training_texts
from train_scripts.scores.breakdown import breakdown, scores_by_length, scores_by_training
from train_scripts.scores.content_words import FunctionWords, function_words_of
from train_scripts.scores.metrics import scores_of_groups, translation_scores, variety_scores
from train_scripts.scores.report import MOST_ROWS, format_report, groups_of

SENTENCES = ["one two three four", "five six seven eight", "one two three nine"]
NO_WORDS = FunctionWords((), "references", "13a")


def test_a_collapsed_model_is_seen_by_its_sentences():
    assert variety_scores(["same  one", "same one", "other"]) == {
        "num_different_predictions": 2,
        "different_predictions": 2 / 3,
        "most_frequent_prediction": 2 / 3,
        "most_frequent_text": "same one",
    }
    scores = breakdown(["same one"] * 3, SENTENCES, NO_WORDS)
    assert scores.keys() == {"by_length", "content_words", "variety"}
    assert scores["variety"]["num_different_references"] == 3
    assert format_report(scores).splitlines()[-1] == (
        "Different translations: 1, of 3 different references. The most frequent one is 100.0 % of all: 'same one'"
    )


def test_signers_are_printed_worst_first():
    scores = breakdown([SENTENCES[0], SENTENCES[0]], SENTENCES[:2], NO_WORDS, ["signer a", "b"])
    assert format_report(scores).splitlines()[:3] == [
        "BLEU-4 by signer, worst first",
        "  b           0.00  (1 clips)",
        "  signer a  100.00  (1 clips)",
    ]


def test_many_signers_are_cut_short():
    number = MOST_ROWS + 2
    signers = [f"signer {n}" for n in range(number)]
    scores = breakdown([SENTENCES[0]] * number, [SENTENCES[0]] * number, NO_WORDS, signers)
    assert len(groups_of(scores)[0].rows) == number
    assert format_report(scores).splitlines()[1 + MOST_ROWS] == "  and 2 more in scores.json"


# By length and by what training had


def test_lengths_are_grouped_into_four_of_about_the_same_size():
    references = [" ".join("abcdefghijkl"[:length]) for length in (12, 1, 2, 3, 4, 5, 6, 7)]
    scores = scores_by_length(references, references)
    assert scores["unit"] == "word" and list(scores["groups"]) == ["1-2", "3-4", "5-6", "7-12"]
    assert all(group["num_segments"] == 2 for group in scores["groups"].values())
    assert scores["groups"]["7-12"]["bleu4"] == pytest.approx(100)
    same = scores_by_length(["x"] * 3, SENTENCES)
    assert same["groups"] == {"4": {"bleu4": 0.0, "num_segments": 3}}


def test_lengths_are_in_characters_where_scores_are():
    scores = scores_by_length(["今天 有雨"], ["今天 有雨"], language="zh")
    assert scores["unit"] == "character" and list(scores["groups"]) == ["4"]


def test_every_clip_is_in_one_group_of_each_kind():
    references = ["a b", "a b c", "A  b", "d"]
    scores = scores_by_training(references, references, ["b a", "a b"])
    counts = {kind: {name: group["num_segments"] for name, group in scores[kind].items()} for kind in scores}
    assert counts == {"by_unseen_words": {"none": 2, "some": 2}, "by_unseen_sentence": {"seen": 2, "unseen": 2}}
    assert scores["by_unseen_words"] == scores_of_groups(references, references, ["none", "some", "none", "some"])
    titles = [group.title for group in groups_of(scores)]
    assert titles == ["by words that training never had", "by sentence"]


def test_training_sentences_are_read_without_their_clips(tmp_path, capsys):
    folder = tmp_path / "corpus" / "train"
    folder.mkdir(parents=True)
    (folder / "a.mp4").touch()  # no video
    (folder / "metadata.csv").write_text("file_name,text\na.mp4,NA\n", encoding="utf-8")
    assert read_training_texts(DatasetArguments(dataset=str(folder.parent))) == ["NA"]
    (folder / "a.mp4").unlink()
    for change, reason in (
        ({}, f"{folder / 'metadata.csv'} names"),
        ({"dataset": str(folder)}, "it has no such split"),
        ({"streaming": True}, "it is streamed"),
    ):
        values = {"dataset": str(folder.parent), **change}
        assert read_training_texts(DatasetArguments(**values)) is None
        start = f"The training sentences of {values['dataset']} are not known: {reason}"
        assert capsys.readouterr().err.startswith(start)


# Content words


def test_function_words_are_the_most_frequent_part_of_the_text():
    texts = ["The cat saw the dog .", "the bird sang .", "a fish"]  # 12 tokens: the 3, . 2, the others 1
    words = FunctionWords.most_frequent(texts, "training", "13a")
    assert words.words == ("the", ".")
    assert words.without("The red bird , the.") == "red bird ,"
    assert function_words_of(["x"], texts).signature == words.signature
    assert words.signature.startswith("content:training.40%.2.")
    assert function_words_of(texts, None).signature.startswith("content:references.40%.2.")


def test_content_words_are_scored_as_if_the_others_were_not_there():
    words = FunctionWords(("the", "."), "training", "13a")
    predictions = ["the big dog will bark at noon .", "the .", "the ."]
    references = ["The small dog will bark at noon.", "cat", "The the."]
    scores = words.scores(predictions, references, lowercase=True, append_period=True)
    expected = translation_scores(
        ["big dog will bark at noon", ""], ["small dog will bark at noon", "cat"], num_resamples=0, lowercase=True
    )
    assert {name: scores[name] for name in ("bleu4", "chrf")} == {name: expected[name] for name in ("bleu4", "chrf")}
    assert scores["num_segments"] == 2  # a reference without content words counts for nothing
    signature = expected["signatures"]["bleu4"].replace("|version", f"|{words.signature}|version")
    assert scores["signatures"]["bleu4"] == signature
    nothing = {"bleu4": 0.0, "chrf": 0.0, "num_segments": 0, "signatures": {}}
    assert words.scores(["the"], ["the ."]) == nothing
