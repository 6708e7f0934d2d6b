"""Diversity of candidates against values computed by hand."""

import math
import random
import re

import pytest

from train_scripts.scores.candidates import best_texts, choice_scores, format_choice, oracle_texts, utility_of_flag
from train_scripts.scores.diversity import diversity_scores


def test_equal_candidates_have_no_diversity():
    scores = diversity_scores([["a b c d e"] * 4, ["f g h i"] * 3])
    assert scores["self_bleu"] == pytest.approx(100.0)
    assert (scores["distinct_1"], scores["different_sentences"]) == (pytest.approx((5 / 20 + 4 / 12) / 2), 1.0)
    assert scores["distinct_2"] == pytest.approx((4 / 16 + 3 / 9) / 2)


def test_values_by_hand():
    """
    Of "a b" against "a c" and "a b c": both words and the pair are there, and the closest length is its own. Of "a c"
    one word of one kind is in each, so both count, but no pair: exponential smoothing takes half a match of one. Of
    "a b c", all three words but two of two pairs and no triple, which is half a match; the closest length is 2.
    """
    scores = diversity_scores([["a b", "a c", "a b c"]])
    of_each = [1.0, math.sqrt(1 * 1 / 2), (3 / 3 * 1 / 2 * 1 / 2) ** (1 / 3)]
    assert scores["self_bleu"] == pytest.approx(100 * sum(of_each) / 3)
    assert scores["distinct_1"] == pytest.approx(3 / 7)
    assert scores["distinct_2"] == pytest.approx(3 / 4)
    assert scores["different_sentences"] == 3.0


def test_sentences_are_compared_in_their_normal_form_and_in_the_units_of_the_language():
    assert diversity_scores([["  Ｒain today", "Rain  today"]])["different_sentences"] == 1.0
    by_word, by_character = (diversity_scores([["我爱你", "我爱他"]], language) for language in (None, "zh"))
    assert by_word["distinct_1"] == 1.0 and by_character["distinct_1"] == pytest.approx(4 / 6)
    assert by_character["distinct_2"] == pytest.approx(3 / 4)


def test_single_and_empty_candidates():
    assert diversity_scores([["a b"], ["c"]]) == {"distinct_1": 1.0, "distinct_2": 0.5, "different_sentences": 1.0}
    assert diversity_scores([["", ""]]) == {
        "self_bleu": 0.0,
        "distinct_1": 0.0,
        "distinct_2": 0.0,
        "different_sentences": 1.0,
    }


def test_the_order_of_candidates_and_clips_does_not_matter():
    clips = [[" ".join(random.choices("abcdef", k=5)) for _ in range(4)] for _ in range(3)]
    expected = diversity_scores(clips)
    for candidates in clips:
        random.shuffle(candidates)
    random.shuffle(clips)
    assert diversity_scores(clips) == pytest.approx(expected)


CANDIDATES = [
    ["rain in the evening", "rain in the north today", "rain in the north tonight"],
    ["the sun shines", "the sun shines today", "the sun shines today"],
]
REFERENCES = ["rain in the evening", "the sun shines today"]


def test_the_oracle_takes_what_is_closest_to_the_reference():
    assert oracle_texts(CANDIDATES, REFERENCES) == REFERENCES
    assert oracle_texts([["Regen", "Schnee", "Regnen"]], ["Regenschauer"]) == ["Regen"]  # no BLEU, so chrF decides
    assert oracle_texts([["我爱你们", "我们爱他"]], ["我们爱你"], "zh") == ["我们爱他"]


def test_a_text_encoder_that_does_not_exist(tmp_path):
    message = f"--choose_by must be bleu, chrf, or the folder or Hub id of a text encoder, got '{tmp_path}': "
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        utility_of_flag(str(tmp_path))


def test_a_choice_is_compared_with_the_first_candidate_and_the_oracle():
    chosen = best_texts(CANDIDATES, utility_of_flag("bleu"))
    assert chosen[1] == "the sun shines today" and chosen[0] != REFERENCES[0]
    scores = choice_scores(CANDIDATES, chosen, REFERENCES)
    assert scores["oracle"] == {"bleu4": pytest.approx(100.0), "chrf": pytest.approx(100.0)}
    assert scores["mbr"]["bleu4"] < 100 and scores["single"]["bleu4"] < 100
    assert choice_scores(CANDIDATES, REFERENCES, REFERENCES)["mbr"] == scores["oracle"]
    text = format_choice({"choice": scores, "diversity": diversity_scores(CANDIDATES)})
    assert "oracle (knows the reference; no score of the model)  100.00  100.00" in text
    assert text.splitlines()[-1].startswith("self-BLEU ")
