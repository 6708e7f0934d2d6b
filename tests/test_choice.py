"""The choice among candidates: minimum Bayes risk by hand, what does not change it, and `generate` of every system."""

import math
import random
import re
import sys

import pytest
import torch
from test_pipeline import word_tokenizer
from tiny_models import random_batch, random_prompts, tiny_llava_slt, tiny_model, video_of
from transformers import BertConfig, BertModel
from transformers.trainer_pt_utils import nested_concat

from modeling_flallm.choice_slt import (
    EmbeddingUtility,
    best_candidates,
    bleu_utility,
    chrf_utility,
    utility_named,
)
from train_scripts.scores.metrics import beside_their_clip, generated_token_ids

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


def test_probable_candidates_count_more():
    """By their number a b c and a b d agree best; the third has nearly all of the probability."""
    chosen = best_candidates(["a b c", "a b d", "a e"], share_of_words, 3, [0.04, 0.06, 0.9])
    assert [index for index, _ in chosen] == [2, 1, 0]
    assert chosen[0][1] == pytest.approx(0.9 + 0.1 / 4)
    assert best_candidates(["a b c", "a b d", "a e"], share_of_words)[0][0] == 0


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
    weights = [None, None]
    torch.manual_seed(3)
    candidates = model.generate(**inputs, **({"do_sample": True, "num_beams": 1} | plain))
    if "num_beams" in generation:
        asked = {"return_dict_in_generate": True, "output_scores": True}
        output = model.generate(**inputs, **plain, **asked)
        candidates = output.sequences
        transitions = model.compute_transition_scores(candidates, output.scores, output.beam_indices)
        weights = transitions.sum(1).unflatten(0, (2, 6)).softmax(1).tolist()
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
    expected = [
        best_candidates(texts[first : first + 6], share_of_words, 2, of_clip)
        for first, of_clip in zip((0, 6), weights, strict=True)
    ]
    rows = [6 * clip + index for clip, best in enumerate(expected) for index, _ in best]
    if generation.get("num_beams") is None:  # weights that are nearly equal may be in any order
        assert torch.equal(chosen.sequences, candidates[rows])
    scores = [math.log(value) for best in expected for _, value in best]
    assert chosen.sequences_scores.tolist() == pytest.approx(scores)
    assert chosen.sequences.shape[0] == 4


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_system_may_write_its_candidates_otherwise(system, monkeypatch):
    model, inputs = SYSTEMS[system]()
    given = []

    def written(num_candidates: int) -> dict:
        return {"num_return_sequences": num_candidates, "do_sample": True}

    sequences = torch.tensor([[4, 5], [4, 6], [4, 6], [7, 8], [7, 8], [9, 8]])
    monkeypatch.setattr(model, "_write_sequences", lambda **kwargs: given.append(kwargs) or sequences)
    monkeypatch.setattr(model, "candidate_arguments", lambda count, generation: generation | written(count))
    chosen = model.generate(**inputs, num_candidates=3, tokenizer=word_tokenizer())
    assert chosen.tolist() == [[4, 6], [7, 8]]
    settings = given[0].get("generation_config")
    assert (given[0] if settings is None else vars(settings))["num_return_sequences"] == 3


def test_arguments_that_mean_nothing():
    model, inputs = SYSTEMS["flallm"]()
    tokenizer = word_tokenizer()
    few_beams = (
        "8 candidates need 8 beams or more, or else sampling without beams. Pass `num_beams=8`, or neither `num_beams` "
        "nor `do_sample` to sample."
    )
    wrong = [
        ({"choose_by": "chrf"}, "`choose_by` chooses among candidates: pass `num_candidates`, how many to write."),
        ({"num_candidates": 8, "num_beams": 4, "tokenizer": tokenizer}, few_beams),
        ({"num_candidates": 8, "do_sample": False, "tokenizer": tokenizer}, few_beams),
        ({"num_candidates": 0, "tokenizer": tokenizer}, "`num_candidates` must be a whole number from 1, got 0."),
        (
            {"num_candidates": 2},
            "`num_candidates` compares candidates as texts: pass `tokenizer`, the model's tokenizer or processor.",
        ),
        (
            {"num_candidates": 2, "num_return_sequences": 3, "tokenizer": tokenizer},
            "`num_return_sequences` must be at most `num_candidates`, got 3 of 2.",
        ),
        (
            {"num_candidates": 2, "choose_by": "meteor", "tokenizer": tokenizer},
            "`choose_by` must be 'bleu' or 'chrf', or a function of hypotheses and references, such as "
            "`EmbeddingUtility(name_or_path)`, got 'meteor'.",
        ),
    ]
    for arguments, message in wrong:
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            model.generate(**inputs, **arguments)
    with pytest.raises(ValueError, match=re.escape("must return one number for each of 2 pairs, got 1.")):
        best_candidates(["a", "b"], lambda hypotheses, references: [0.5])


def test_without_sacrebleu_only_a_choice_by_its_scores_fails(monkeypatch):
    """`test_export.py` holds that the saved files import no such package."""
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    assert best_candidates(["a b", "a"], share_of_words) == [(1, 0.75)]
    message = "Choosing by BLEU or chrF needs sacrebleu: `pip install sacrebleu`, or pass a function as `choose_by`."
    for utility in (bleu_utility, chrf_utility):
        with pytest.raises(ImportError, match=re.escape(message)):
            utility(["a"], ["a"])


def test_embeddings_are_compared_by_their_cosine(tmp_path):
    config = BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    model = BertModel(config)
    torch.nn.init.normal_(model.embeddings.word_embeddings.weight)
    model.save_pretrained(tmp_path)
    tokenizer = word_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    utility = EmbeddingUtility(str(tmp_path))

    def embedding(text: str) -> torch.Tensor:
        return model.eval()(torch.tensor([tokenizer(text)["input_ids"]])).last_hidden_state.mean(1)

    texts = ["w5 w6 w7", "w8", "w9 w10", "w11", "w12 w13"]
    pairs = [(first, second) for first in texts for second in texts]
    expected = [
        torch.cosine_similarity(embedding(first), embedding(second)).clamp(min=0).item() for first, second in pairs
    ]
    assert utility(*map(list, zip(*pairs, strict=True))) == pytest.approx(expected, abs=1e-5)
    assert 0 <= min(expected) < 0.9


# What the Trainer gathers


def test_candidates_stay_with_their_clip_where_the_trainer_fills_up_and_joins_batches():
    num_candidates = 2
    sizes = [(3, 4), (2, 6), (1, 3)]  # clips and tokens
    batches = [torch.randint(4, 30, (num_clips * num_candidates, length)) for num_clips, length in sizes]
    gathered = None
    for batch in batches:
        rows = beside_their_clip(batch, {"num_return_sequences": num_candidates})
        gathered = rows if gathered is None else nested_concat(gathered, rows, padding_index=-100)
    token_ids = generated_token_ids(gathered.numpy(), 6, pad_token_id=1)
    assert token_ids.shape == (6, 6, num_candidates)
    found = token_ids.transpose(0, 2, 1).reshape(12, 6).tolist()
    expected = [row.tolist() + [1] * (6 - len(row)) for batch in batches for row in batch]
    assert found == expected
    assert beside_their_clip(batches[0], {"num_beams": 4}) is batches[0]
