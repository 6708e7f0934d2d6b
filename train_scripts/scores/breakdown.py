"""The scores of parts of an evaluation, which one number over all clips hides."""

from collections.abc import Sequence
from typing import Any

from .content_words import FunctionWords, tokens_of
from .metrics import comparable, scores_by_signer, scores_of_groups, variety_scores
from .sign_language_translation_score.sign_language_translation_score import (
    SCORED_UNIT_OF_TOKENIZER,
    resolve_tokenizer,
)

MOST_LENGTHS = 4  # groups of clips by length; ours


def breakdown(
    predictions: Sequence[str],
    references: Sequence[str],
    function_words: FunctionWords,
    signers: Sequence[str | None] | None = None,
    training_texts: Sequence[str] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Return what `flallm evaluate` adds to the scores of all clips.

    These are the scores of `scores_by_signer`, where the `signers` are known, of `scores_by_length`, and of
    `scores_by_training`, where the `training_texts` are known; `content_words`, those of `function_words` with the list
    itself; and `variety`, those of `variety_scores` with `num_different_references`. `options` are those of
    `translation_scores`.
    """
    content = function_words.scores(predictions, references, **options)
    variety = variety_scores(predictions) | {"num_different_references": len(set(map(comparable, references)))}
    return {
        **({} if signers is None else scores_by_signer(predictions, references, signers, **options)),
        "by_length": scores_by_length(predictions, references, **options),
        **({} if training_texts is None else scores_by_training(predictions, references, training_texts, **options)),
        "content_words": content | {"function_words": list(function_words.words)},
        "variety": variety,
    }


def scores_by_length(predictions: Sequence[str], references: Sequence[str], **options: Any) -> dict[str, Any]:
    """Return the BLEU-4 of clips with shorter and longer references, in at most four groups of about the same size.

    The result holds the `unit` in which references are counted, "word" or "character", and under `groups`, by the
    lengths such as "6-9", `bleu4` and `num_segments`, shortest first. Lengths are those of the references between
    spaces; where the language is scored by character, all characters but spaces.
    """
    unit = SCORED_UNIT_OF_TOKENIZER[resolve_tokenizer(options.get("tokenize"), options.get("language"))]
    texts = map(comparable, references)
    lengths = [len(text.replace(" ", "")) if unit == "character" else len(text.split()) for text in texts]
    ordered = sorted(lengths)
    ends = sorted({ordered[-(-len(ordered) * part // MOST_LENGTHS) - 1] for part in range(1, MOST_LENGTHS + 1)})
    group_of = {length: next(place for place, end in enumerate(ends) if length <= end) for length in lengths}
    spans = [[length for length in ordered if group_of[length] == place] for place in range(len(ends))]
    names = [f"{span[0]}-{span[-1]}" if span[0] < span[-1] else str(span[0]) for span in spans]
    scores = scores_of_groups(predictions, references, [names[group_of[length]] for length in lengths], **options)
    return {"unit": unit, "groups": {name: scores[name] for name in names}}


def scores_by_training(
    predictions: Sequence[str], references: Sequence[str], training_texts: Sequence[str], **options: Any
) -> dict[str, Any]:
    """Return the BLEU-4 of clips by what of their references occurs in the training sentences, in lower case.

    The result holds `by_unseen_words`, with the clips that have `none` and those with `some` words that no training
    sentence has; and `by_unseen_sentence`, with the clips whose reference is one of the training sentences, `seen`, and
    those whose is not, `unseen`; each with `bleu4` and `num_segments`, as far as there are such clips. Words are the
    tokens of BLEU, in some languages characters.
    """
    tokenize = resolve_tokenizer(options.get("tokenize"), options.get("language"))
    known_sentences = {comparable(text).lower() for text in training_texts}
    known_words = {word for text in known_sentences for word in tokens_of(text, tokenize)}
    texts = [comparable(reference).lower() for reference in references]
    words = ["none" if known_words.issuperset(tokens_of(text, tokenize)) else "some" for text in texts]
    sentences = ["seen" if text in known_sentences else "unseen" for text in texts]
    return {
        "by_unseen_words": scores_of_groups(predictions, references, words, **options),
        "by_unseen_sentence": scores_of_groups(predictions, references, sentences, **options),
    }
