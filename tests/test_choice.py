"""The choice among candidates: minimum Bayes risk by hand, what does not change it, and `generate` of every system."""

import math
import random

import pytest
import torch
from test_pipeline import word_tokenizer
from tiny_models import (
    random_batch,
    random_prompts,
    tiny_llava_slt,
    tiny_model,
    video_of,
)

from modeling_flallm.choice_slt import (
    best_candidates,
    bleu_utility,
    chrf_utility,
    utility_named,
)

SYSTEMS = {
    "flallm": lambda: (tiny_model(), video_of(random_batch([9, 5]))),
    "llava_slt": lambda: (tiny_llava_slt(), video_of(random_batch([9, 5])) | random_prompts([9, 5])),
}


def share_of_words(hypotheses: list[str], references: list[str]) -> list[float]:
    """The words that both have, as a share of those that one of them has."""
    pairs = zip(map(str.split, hypotheses), map(str.split, references), strict=True)
    return [len(set(first) & set(second)) / len(set(first) | set(second)) for first, second in pairs]


def test_expected_utilities_are_those_computed_by_hand():
    """With a b c, a b d and a e: 1/2 between the first two, 1/4 between each of them and the third."""
    chosen = best_candidates(["a e", "a b c", "a b d", "a b c"], share_of_words, num_chosen=3)
    assert [index for index, _ in chosen] == [1, 2, 0]
    expected = [(1 + 1 + 1 / 2 + 1 / 4) / 4, (1 + 1 / 2 + 1 / 2 + 1 / 4) / 4, (1 + 3 / 4) / 4]
    assert [utility for _, utility in chosen] == pytest.approx(expected)


@pytest.mark.parametrize("choose_by", ["bleu", "chrf", share_of_words])
def test_the_order_of_the_candidates_does_not_change_the_choice(choose_by):
    texts = [" ".join(random.choices("abcd", k=random.randint(0, 5))) or "e" for _ in range(12)]
    utility = utility_named(choose_by)
    expected = [(texts[index], value) for index, value in best_candidates(texts, utility, 5)]
    for _ in range(3):
        random.shuffle(texts)
        assert [(texts[index], value) for index, value in best_candidates(texts, utility, 5)] == expected


def test_several_that_are_chosen_differ_as_far_as_the_candidates_do():
    texts = ["a b", "a b", "c", "a b", "d", "c"]
    assert [index for index, _ in best_candidates(texts, share_of_words, 3)] == [0, 2, 4]
    assert [index for index, _ in best_candidates(texts, share_of_words, 5)] == [0, 1, 2, 5, 4]
    assert [index for index, _ in best_candidates(texts, share_of_words, 6)] == [0, 1, 3, 2, 5, 4]


def test_bleu_and_chrf_of_single_sentences():
    """
    Precisions 3/4, 2/3 and 1/2 up to three words, and none of four: sacrebleu's exponential smoothing takes 1/2 of a
    match. Of one word of two, 1/1, and the brevity penalty exp(1 - 2/1).
    """
    scores = bleu_utility(["a b c d", "a"], ["a b c e", "a b"])
    assert scores == pytest.approx([(3 / 4 * 2 / 3 * 1 / 2 * 1 / 2) ** (1 / 4), math.exp(-1)])
    assert bleu_utility(["我爱你们"], ["我爱你们"]) == pytest.approx([1.0])
    assert bleu_utility(["我爱你"], ["我爱他"])[0] > 0.4  # one token of one, if the sentence were a single word
    assert chrf_utility(["abc", "abc"], ["abc", "xyz"]) == pytest.approx([1.0, 0.0])


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("generation", [{"num_beams": 1}, {"num_beams": 3}])
def test_one_candidate_is_plain_generation(system, generation):
    model, inputs = SYSTEMS[system]()
    generation = {**generation, "max_new_tokens": 6}
    one = model.generate(**inputs, **generation, num_candidates=1, tokenizer=word_tokenizer())
    assert torch.equal(one, model.generate(**inputs, **generation))


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("generation", [{}, {"num_beams": 6}])
def test_the_best_candidates_are_returned_for_each_clip(system, generation):
    model, inputs = SYSTEMS[system]()
    model.generation_config.num_beams = 2  # fewer than candidates: samples, unless more beams are asked for
    generation = {**generation, "max_new_tokens": 6}
    plain = {"num_return_sequences": 6} | generation
    torch.manual_seed(3)
    candidates = model.generate(**inputs, **({"do_sample": True, "num_beams": 1} | plain))
    if "num_beams" in generation:
        candidates = model.generate(**inputs, **plain)
    tokenizer = word_tokenizer()
    torch.manual_seed(3)
    chosen = model.generate(
        **inputs,
        **generation,
        num_candidates=6,
        num_return_sequences=2,
        choose_by=share_of_words,
        tokenizer=tokenizer,
        return_dict_in_generate=True,
    )
    texts = tokenizer.batch_decode(candidates, skip_special_tokens=True)
    expected = [best_candidates(texts[first : first + 6], share_of_words, 2) for first in (0, 6)]
    rows = [6 * clip + index for clip, best in enumerate(expected) for index, _ in best]
    assert torch.equal(chosen.sequences, candidates[rows])
    scores = [math.log(value) for best in expected for _, value in best]
    assert chosen.sequences_scores.tolist() == pytest.approx(scores)
    assert chosen.sequences.shape[0] == 4
