"""BLEU and chrF of content words: function words are removed from both sides, as they survive without the video."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sacrebleu.metrics import BLEU

from .metrics import more_signed, translation_scores
from .sign_language_translation_score.sign_language_translation_score import comparable, resolve_tokenizer

SHARE_OF_FUNCTION_WORDS = 0.4  # of all running words; ours
FROM_TRAINING, FROM_REFERENCES = "training", "references"


@dataclass(frozen=True)
class FunctionWords:
    """
    The words, in lower case, that are taken for function words.

    Args:
        words: most frequent first.
        source: what they were counted in, "training" or "references".
        tokenize: sacrebleu tokenizer whose tokens they are.
    """

    words: tuple[str, ...]
    source: str
    tokenize: str

    @classmethod
    def most_frequent(cls, texts: Sequence[str], source: str, tokenize: str) -> "FunctionWords":
        """The most frequent words, punctuation included, that together make up 40 % of `texts` or just more.

        No list of function words is needed, so that this works in every language (ours). What a corpus is about can be
        among them, such as "rain" in weather forecasts. Of words that are equally frequent, the first in the alphabet
        is taken first.
        """
        counts = Counter(token.lower() for text in texts for token in tokens_of(text, tokenize))
        most, words, covered = SHARE_OF_FUNCTION_WORDS * counts.total(), [], 0
        for word, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
            if covered >= most:
                break
            words.append(word)
            covered += count
        return cls(tuple(words), source, tokenize)

    @property
    def signature(self) -> str:
        """Such as content:training.40%.7.1f3a52c8: counted where, share, number of words and digest of the list."""
        digest = hashlib.sha256("\n".join(sorted(self.words)).encode()).hexdigest()[:8]
        return f"content:{self.source}.{SHARE_OF_FUNCTION_WORDS:.0%}.{len(self.words)}.{digest}"

    def without(self, text: str) -> str:
        """The other words of a text, with spaces between them."""
        words = frozenset(self.words)
        return " ".join(token for token in tokens_of(text, self.tokenize) if token.lower() not in words)

    def scores(self, predictions: Sequence[str], references: Sequence[str], **options: Any) -> dict[str, Any]:
        """Return `bleu4`, `chrf`, `num_segments` and `signatures` of the content words.

        Clips whose reference has none are left out; the scores are 0 if that leaves nothing. `options` are those of
        `translation_scores`, of which `append_period` has no effect.
        """
        texts = (map(self.without, side) for side in (predictions, references))
        pairs = [pair for pair in zip(*texts, strict=True) if pair[1]]
        if not pairs:
            return {"bleu4": 0.0, "chrf": 0.0, "num_segments": 0, "signatures": {}}
        options = {**options, "num_resamples": 0, "append_period": False, "tokenize": self.tokenize}
        scores = translation_scores(*map(list, zip(*pairs, strict=True)), **options)
        signatures = {name: scores["signatures"][name] for name in ("bleu4", "chrf")}
        return {
            **{name: scores[name] for name in ("bleu4", "chrf", "num_segments")},
            "signatures": {name: more_signed(signature, self.signature) for name, signature in signatures.items()},
        }


def function_words_of(
    references: Sequence[str], training_texts: Sequence[str] | None, language: str | None = None
) -> FunctionWords:
    """Return those of the training sentences or, where these are not known, of the references."""
    tokenize = resolve_tokenizer(None, language)
    if training_texts is None:
        return FunctionWords.most_frequent(references, FROM_REFERENCES, tokenize)
    return FunctionWords.most_frequent(training_texts, FROM_TRAINING, tokenize)


def tokens_of(text: str, tokenize: str) -> list[str]:
    """Return the tokens that BLEU counts, after `comparable`."""
    return BLEU(tokenize=tokenize, force=True).tokenizer(comparable(text)).split()
