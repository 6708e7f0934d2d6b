"""How much the candidate translations of a clip differ from each other."""

from collections.abc import Sequence

from sacrebleu.metrics import BLEU

from .sign_language_translation_score.sign_language_translation_score import comparable, resolve_tokenizer


def diversity_scores(candidates_of_clips: Sequence[Sequence[str]], language: str | None = None) -> dict[str, float]:
    """Return how the candidates of each clip differ, as means over the clips.

    `self_bleu` (Zhu et al., 2018), 0 to 100: sentence BLEU-4 of each candidate with the others of its clip as
    references, 100 where all are equal; clips with a single candidate are left out, and with no others it is missing.
    `distinct_1` and `distinct_2` (Li et al., 2016), 0 to 1: different words, and pairs of words, as a share of all in
    the candidates; 0 where there are none. `different_sentences`: how many candidates differ from all before them. We
    compute all of these for each clip, because it is the candidates of one video that are to differ. Sentences are
    normalised first (`comparable`). Words are those of BLEU in `language`, in some languages characters.

        >>> diversity_scores([["rain today", "rain tonight", "rain today"]])["different_sentences"]
        2.0
    """
    metric = BLEU(effective_order=True, tokenize=resolve_tokenizer(None, language), force=True)
    clips = [list(map(comparable, candidates)) for candidates in candidates_of_clips]
    words = [[metric.tokenizer(text).split() for text in candidates] for candidates in clips]
    several = [_self_bleu(metric, candidates) for candidates in clips if len(candidates) > 1]
    return {
        **({"self_bleu": _mean(several)} if several else {}),
        "distinct_1": _mean([_distinct(sentences, 1) for sentences in words]),
        "distinct_2": _mean([_distinct(sentences, 2) for sentences in words]),
        "different_sentences": _mean([len(set(candidates)) for candidates in clips]),
    }


def _self_bleu(metric: BLEU, candidates: list[str]) -> float:
    others = ([*candidates[:index], *candidates[index + 1 :]] for index in range(len(candidates)))
    return _mean(
        [metric.sentence_score(text, references).score for text, references in zip(candidates, others, strict=True)]
    )


def _distinct(sentences: list[list[str]], order: int) -> float:
    n_grams = [tuple(words[first : first + order]) for words in sentences for first in range(len(words) - order + 1)]
    return len(set(n_grams)) / len(n_grams) if n_grams else 0.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
