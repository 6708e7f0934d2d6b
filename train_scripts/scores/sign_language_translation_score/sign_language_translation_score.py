"""BLEU-1 to BLEU-4, chrF and ROUGE-L (mscoco) of sign language translations, as an `evaluate` module.

All scores are computed once over the whole corpus. Predictions and references are normalised first, and each score
carries a signature that says how it was computed. `evaluate.load` runs a copy of this file offline, so it imports
nothing of ours, and each `import` names a single package because `evaluate` finds them with a regular expression.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence

import datasets
import evaluate
import numpy as np
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.metrics.base import Metric, Score, Signature

_DESCRIPTION = """\
Corpus-level scores of sign language translation: BLEU-1..4 and chrF by sacrebleu, identical to its command line on text
in Unicode normal form NFKC with single spaces, to which both sides are normalised (`norm:nfkc` in the signatures), and
`rouge_l_mscoco`, the ROUGE-L of the sign language translation literature (longest common subsequence, F-measure with
beta 1.2, averaged over sentences). `rouge_l_mscoco` is NOT the ROUGE-L of the `rouge_score` package.
"""

_CITATION = """\
@inproceedings{post-2018-call,
    title = "A Call for Clarity in Reporting {BLEU} Scores", author = "Post, Matt",
    booktitle = "Proceedings of the Third Conference on Machine Translation", year = "2018", pages = "186--191"
}
@inproceedings{lin-2004-rouge,
    title = "{ROUGE}: A Package for Automatic Evaluation of Summaries", author = "Lin, Chin-Yew",
    booktitle = "Text Summarization Branches Out", year = "2004", pages = "74--81"
}
"""

_INPUTS_DESCRIPTION = """\
Args:
    predictions: list of str, one translation per segment; empty ones are allowed and counted.
    references: list of str, the raw reference of each segment, never passed through a tokenizer; none may be empty.
    language: tag of the written language ("de", "zh", "zh_CN", "jpn_Jpan"). Chinese, Japanese, Thai and other languages
        written without spaces between words are scored by character, as the literature does for CSL-Daily. So is
        Korean, whose space-separated words include particles that a word tokenizer does not split off.
    tokenize: sacrebleu tokenizer for BLEU, one of "13a", "intl", "none" (words) or "char", "zh" (characters); the
        default is "char" for languages that are scored by character, else "13a". ROUGE-L splits at white space with
        the first three, and into characters with the last two.
    lowercase: lower-case both sides for every score.
    append_period: append " ." to both sides, as many published PHOENIX-2014T results do. Raises most scores.
    num_resamples: bootstrap resamples for the 95 % confidence intervals; 0 for none.
    seed: seed of the resampling. Equal seeds give equal intervals, and the default gives those of sacrebleu.
Returns:
    dict with `bleu1`, `bleu2`, `bleu3`, `bleu4` (cumulative, with brevity penalty), `chrf` and `rouge_l_mscoco`, all
    from 0 to 100; `num_segments`, `num_empty_predictions`; `signatures` (score name -> str); and `confidence_intervals`
    (score name -> dict of `mean`, `half_width`, `low`, `high`), empty when `num_resamples` is 0.
Examples:
    >>> score = evaluate.load("train_scripts/scores/sign_language_translation_score")
    >>> score.compute(predictions=["am tag regen"], references=["am tag regnet es"], num_resamples=0)["rouge_l_mscoco"]
    55.70776255707762
"""

MAX_NGRAM_ORDER = 4
ROUGE_L_BETA = 1.2
SACREBLEU_DEFAULT_SEED = 12345
SCORED_UNIT_OF_TOKENIZER = {"13a": "word", "intl": "word", "none": "word", "char": "character", "zh": "character"}
# ISO 639 tags, including the older three-letter MARC codes; "13a" leaves a whole clause of these as one word.
CHARACTER_LEVEL_LANGUAGES = {
    *("zh", "zho", "chi", "cmn", "yue", "wuu", "nan", "hak", "gan", "hsn", "lzh"),  # Chinese
    *("ja", "jpn"),  # Japanese
    *("ko", "kor"),  # Korean
    *("th", "tha", "lo", "lao"),  # Thai and Lao
    *("my", "mya", "bur", "shn", "km", "khm"),  # Burmese, Shan and Khmer
    *("bo", "bod", "tib", "dz", "dzo"),  # Tibetan and Dzongkha
}
# Control characters and hints for line breaks and directions are invisible. The joiners U+200C and U+200D are spelling.
INVISIBLE_CHARACTERS = dict.fromkeys(
    [
        *(*range(0x09), *range(0x0E, 0x1C), *range(0x7F, 0x85), *range(0x86, 0xA0)),  # all but line breaks and tabs
        *(0xAD, 0x200B, 0x2060, 0xFEFF),
        *(0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)),
    ]
)


def comparable(text: str) -> str:
    """Return the form in which sentences are compared: Unicode NFKC, like the labels, with single spaces and without
    invisible characters. Every Unicode space and line break counts as a space."""
    return " ".join(unicodedata.normalize("NFKC", text.translate(INVISIBLE_CHARACTERS)).split())


class RougeLSignature(Signature):
    """Signature of `RougeLMscoco` in sacrebleu's notation, without its version: the formula is not sacrebleu's."""

    def __init__(self, arguments: dict):
        super().__init__(arguments)
        case = "lc" if arguments["lowercase"] else "mixed"
        self.info.update(
            case=case, formula="mscoco", beta=ROUGE_L_BETA, unit=arguments["unit"], average="segments", version=None
        )


class RougeLMscoco(Metric):
    """ROUGE-L as computed by mscoco caption evaluation and, following it, the sign language translation literature.

    Per segment, with L the length of the longest common subsequence of the `unit`s ("word": split at white space;
    "character": all but white space), P = L / prediction length, R = L / reference length:
    (1 + 1.2^2) P R / (R + 1.2^2 P), 0 if nothing is shared; the mean over the segments, times 100. No stemming, and
    punctuation is kept. The `rouge_score` package tokenizes differently and uses beta 1, so its numbers differ.
    """

    _SIGNATURE_TYPE = RougeLSignature

    def __init__(self, unit: str, lowercase: bool):
        super().__init__()
        self.unit = unit
        self.lowercase = lowercase

    def _preprocess_segment(self, sent: str) -> str:
        sent = sent.lower() if self.lowercase else sent
        return " ".join("".join(sent.split())) if self.unit == "character" else sent

    def _extract_reference_info(self, refs: Sequence[str]) -> dict[str, list[str]]:
        return {"reference_units": refs[0].split()}

    def _compute_segment_statistics(self, hypothesis: str, ref_kwargs: dict[str, list[str]]) -> list[float]:
        """Return [F-measure, 1], so that the sums over any set of segments give their mean."""
        prediction_units, reference_units = hypothesis.split(), ref_kwargs["reference_units"]
        common_length = longest_common_subsequence_length(prediction_units, reference_units)
        if common_length == 0:
            return [0.0, 1]
        precision, recall = common_length / len(prediction_units), common_length / len(reference_units)
        beta_squared = ROUGE_L_BETA**2
        return [(1 + beta_squared) * precision * recall / (recall + beta_squared * precision), 1]

    def _compute_score_from_stats(self, stats: Sequence[float]) -> Score:
        return Score("ROUGE-L (mscoco)", 100 * stats[0] / stats[1])

    def _aggregate_and_compute(self, stats: list[list[float]]) -> Score:
        return self._compute_score_from_stats(np.sum(stats, axis=0))


def longest_common_subsequence_length(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the number of units in the longest (not necessarily contiguous) common subsequence of two sequences."""
    lengths = [0] * (len(second) + 1)
    for unit in first:
        diagonal = 0
        for position, other in enumerate(second, start=1):
            above = lengths[position]
            lengths[position] = diagonal + 1 if unit == other else max(above, lengths[position - 1])
            diagonal = above
    return lengths[-1]


def check_segments(name: str, segments: Sequence[str]) -> list[str]:
    """Return `segments` as a list; raises TypeError or ValueError unless it holds strings only, and at least one."""
    if not isinstance(segments, Iterable) or isinstance(segments, str | bytes | dict):
        raise TypeError(f"{name} must be a list of strings, one per segment, got {type(segments).__name__}.")
    segments = list(segments)
    if not segments:
        raise ValueError(f"{name} is empty: a corpus score needs at least one segment.")
    for index, segment in enumerate(segments):
        if not isinstance(segment, str):
            raise TypeError(
                f"{name}[{index}] must be a string, got {type(segment).__name__}: {segment!r}. "
                f"Pass raw text, not token ids, and one reference per segment."
            )
    return segments


def check_parallel_segments(predictions: Sequence[str], references: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return both sides as lists of equal length; raises as `check_segments`, and ValueError for an empty reference."""
    predictions = check_segments("predictions", predictions)
    references = check_segments("references", references)
    if len(predictions) != len(references):
        raise ValueError(
            f"predictions and references must have the same length, in the same order; got {len(predictions)} "
            f"predictions and {len(references)} references."
        )
    empty = [index for index, reference in enumerate(references) if not comparable(reference)]
    if empty:
        raise ValueError(
            f"references[{empty[0]}] is empty ({len(empty)} of {len(references)} references are). A score against "
            f"nothing has no meaning: drop these segments from both sides or restore their text."
        )
    return predictions, references


def resolve_tokenizer(tokenize: str | None, language: str | None) -> str:
    """Return the name of the sacrebleu tokenizer; raises ValueError for an unknown one, or for a malformed tag."""
    if language is not None and not re.fullmatch(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]+)*", language):
        raise ValueError(f"language must be a tag such as 'de', 'zh' or 'zh_CN', got {language!r}.")
    if tokenize is None:
        primary_language = re.split("[-_]", language or "")[0].lower()
        return "char" if primary_language in CHARACTER_LEVEL_LANGUAGES else "13a"
    if tokenize not in SCORED_UNIT_OF_TOKENIZER:
        raise ValueError(f"tokenize must be one of {sorted(SCORED_UNIT_OF_TOKENIZER)}, got {tokenize!r}.")
    return tokenize


def build_metrics(tokenize: str, lowercase: bool) -> dict[str, Metric]:
    """Return the six sacrebleu-style metrics, keyed by the names under which their scores are reported."""
    # `force` silences sacrebleu's advice to detokenize, which PHOENIX, published tokenized, triggers on every call.
    bleu_options = {"tokenize": tokenize, "lowercase": lowercase, "force": True}
    metrics: dict[str, Metric] = {
        f"bleu{order}": BLEU(max_ngram_order=order, **bleu_options) for order in range(1, MAX_NGRAM_ORDER + 1)
    }
    metrics["chrf"] = CHRF(lowercase=lowercase)
    metrics["rouge_l_mscoco"] = RougeLMscoco(SCORED_UNIT_OF_TOKENIZER[tokenize], lowercase)
    return metrics


def segment_statistics(metric: Metric, predictions: list[str], references: list[str]) -> np.ndarray:
    """Return the statistics of each segment, (segments, statistics), whose column sums determine the corpus score."""
    # sacrebleu builds its own significance tests on this and `_compute_score_from_stats`: with them, a single pass over
    # the text serves the score and every resample.
    return np.array(metric._extract_corpus_statistics(predictions, [references]), dtype=np.float64)


def corpus_score(metric: Metric, summed_statistics: np.ndarray) -> float:
    """Return the score, 0 to 100, from the summed statistics of its segments."""
    return float(metric._compute_score_from_stats(summed_statistics).score)


def bootstrap_scores(
    metrics: dict[str, Metric], statistics: dict[str, np.ndarray], num_resamples: int, seed: int
) -> dict[str, np.ndarray]:
    """Return, by score name, the scores (num_resamples,) of corpora resampled from the segments with replacement.

    Draws exactly as sacrebleu does, with the same segments for every metric.
    """
    generator = np.random.default_rng(seed)
    num_segments = len(next(iter(statistics.values())))
    scores = {name: np.empty(num_resamples) for name in metrics}
    for resample in range(num_resamples):
        drawn = generator.choice(num_segments, size=num_segments, replace=True)
        times_drawn = np.bincount(drawn, minlength=num_segments).astype(np.float64)
        for name, metric in metrics.items():
            scores[name][resample] = corpus_score(metric, times_drawn @ statistics[name])
    return scores


def confidence_interval(resampled_scores: np.ndarray) -> dict[str, float]:
    """Return mean, half width, low and high end of the central 95 % of the scores (num_resamples,), like sacrebleu."""
    ordered = np.sort(resampled_scores)
    num_cut_each_side = len(ordered) // 40
    low, high = float(ordered[num_cut_each_side]), float(ordered[len(ordered) - num_cut_each_side - 1])
    return {"mean": float(ordered.mean()), "half_width": (high - low) / 2, "low": low, "high": high}


def signature_of(name: str, metric: Metric, append_period: bool) -> str:
    """Return the signature of a metric that has seen its references; for BLEU-4 and chrF, that of sacrebleu plus the
    normal form."""
    signature = metric.get_signature()
    signature.update("norm", "nfkc")
    if isinstance(metric, BLEU) and metric.max_ngram_order != MAX_NGRAM_ORDER:
        signature.update("order", metric.max_ngram_order)
    if append_period:
        signature.update("period", "appended")
    return signature.format()


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS_DESCRIPTION)
class SignLanguageTranslationScore(evaluate.Metric):
    """The module itself; see `_DESCRIPTION` and `_INPUTS_DESCRIPTION` above."""

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features({name: datasets.Value("string") for name in ("predictions", "references")})
        return evaluate.MetricInfo(
            description=_DESCRIPTION, citation=_CITATION, inputs_description=_INPUTS_DESCRIPTION, features=features
        )

    def compute(self, *, predictions=None, references=None, **options) -> dict | None:
        """Check the arguments before `evaluate` does, whose messages for the same mistakes say little."""
        if predictions is not None or references is not None or self.writer is None:
            predictions, references = check_parallel_segments(predictions, references)
        return super().compute(predictions=predictions, references=references, **options)

    def _compute(
        self,
        predictions: Sequence[str],
        references: Sequence[str],
        language: str | None = None,
        tokenize: str | None = None,
        lowercase: bool = False,
        append_period: bool = False,
        num_resamples: int = 1000,
        seed: int = SACREBLEU_DEFAULT_SEED,
    ) -> dict:
        predictions, references = check_parallel_segments(predictions, references)
        if num_resamples < 0:
            raise ValueError(f"num_resamples must be 0 (no confidence intervals) or more, got {num_resamples}.")
        predictions, references = ([comparable(segment) for segment in side] for side in (predictions, references))
        num_empty_predictions = predictions.count("")
        if append_period:
            predictions, references = ([f"{segment} ." for segment in side] for side in (predictions, references))
        metrics = build_metrics(resolve_tokenizer(tokenize, language), lowercase)
        statistics = {name: segment_statistics(metric, predictions, references) for name, metric in metrics.items()}
        intervals = {}
        if num_resamples > 0:
            for metric in metrics.values():
                metric.n_bootstrap, metric.seed = num_resamples, str(seed)
            resampled = bootstrap_scores(metrics, statistics, num_resamples, seed)
            intervals = {name: confidence_interval(scores) for name, scores in resampled.items()}
        return {
            **{name: corpus_score(metric, statistics[name].sum(axis=0)) for name, metric in metrics.items()},
            "num_segments": len(references),
            "num_empty_predictions": num_empty_predictions,
            "signatures": {name: signature_of(name, metric, append_period) for name, metric in metrics.items()},
            "confidence_intervals": intervals,
        }
