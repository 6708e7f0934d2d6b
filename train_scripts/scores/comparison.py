"""Two systems on the same clips: whether their difference could be chance."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sacrebleu.metrics.base import Metric
from sacrebleu.significance import PairedTest

from .content_words import FunctionWords
from .metrics import TITLE_OF_SCORE, comparable, more_signed, scores_of_groups
from .sign_language_translation_score.sign_language_translation_score import build_metrics

PAIRED_TESTS = {"paired_bootstrap": "bs", "approximate_randomisation": "ar"}  # and what sacrebleu calls them
NUM_TRIALS = {"bs": 1000, "ar": 10000}  # as sacrebleu's command
COMPARED = ("bleu4", "chrf")
CONTENT = "content_"


def compare_systems(
    first: Sequence[str],
    second: Sequence[str],
    references: Sequence[str],
    tokenize: str = "13a",
    lowercase: bool = False,
    append_period: bool = False,
    function_words: FunctionWords | None = None,
    signers: Sequence[str | None] | None = None,
) -> dict[str, Any]:
    """Return how the translations of two systems differ, as `first`, `second` and `difference`, second minus first.

    `scores` holds BLEU-4 and chrF and, with `function_words`, those of content words, each with its `signature` and the
    p values of sacrebleu's `PairedTest`: `paired_bootstrap` with 1000 resamples (Koehn 2004) and
    `approximate_randomisation` with 10000 trials (Riezler and Maxwell 2005), seeds and numbers those of sacrebleu. Of
    equal translations p is 1, for which sacrebleu gives the smallest that it can.
    `by_signer` holds the BLEU-4 of each signer, if `signers` are given, those first for whom the second system is
    worse. The other options are those of `translation_scores`.
    """

    def as_scored(text: str) -> str:
        return f"{comparable(text)} ." if append_period else comparable(text)

    def metrics() -> dict[str, Metric]:
        return {name: metric for name, metric in build_metrics(tokenize, lowercase).items() if name in COMPARED}

    scores = _paired([first, second, references], as_scored, metrics)
    if function_words is not None:
        kept = [place for place, text in enumerate(references) if function_words.without(text)]
        texts = [[side[place] for place in kept] for side in (first, second, references)]
        content = _paired(texts, function_words.without, metrics, function_words.signature) if kept else {}
        scores |= {f"{CONTENT}{name}": values for name, values in content.items()}
    options = {"tokenize": tokenize, "lowercase": lowercase, "append_period": append_period}
    by_signer = {} if signers is None else _by_signer(first, second, references, signers, **options)
    return {"num_segments": len(references), "scores": scores, **({"by_signer": by_signer} if by_signer else {})}


def _paired(
    texts: Sequence[Sequence[str]],
    as_scored: Callable[[str], str],
    metrics: Callable[[], Mapping[str, Metric]],
    more_signature: str | None = None,
) -> dict[str, dict[str, Any]]:
    first, second, references = ([as_scored(text) for text in side] for side in texts)
    results: dict[str, dict[str, Any]] = {name: {} for name in COMPARED}
    for test, kind in PAIRED_TESTS.items():
        systems = [("first", first), ("second", second)]
        paired = PairedTest(systems, metrics(), [references], test_type=kind, n_samples=NUM_TRIALS[kind])
        signatures, scores = paired()
        for name, theirs in zip(metrics(), signatures, strict=True):
            of_first, of_second = (result.score for result in scores[theirs])
            signature = more_signed(signatures[theirs].format(), more_signature)
            results[name] |= {"first": of_first, "second": of_second, "difference": of_second - of_first}
            p_value = 1.0 if first == second else scores[theirs][1].p_value
            results[name][test] = {"p_value": p_value, "signature": signature}
    return results


def _by_signer(
    first: Sequence[str],
    second: Sequence[str],
    references: Sequence[str],
    signers: Sequence[str | None],
    **options: Any,
) -> dict[str, dict[str, float]]:
    of_first, of_second = (scores_of_groups(side, references, signers, **options) for side in (first, second))
    rows = {
        signer: {
            "first": of_first[signer]["bleu4"],
            "second": of_second[signer]["bleu4"],
            "difference": of_second[signer]["bleu4"] - of_first[signer]["bleu4"],
            "num_segments": of_first[signer]["num_segments"],
        }
        for signer in of_first
    }
    return dict(sorted(rows.items(), key=lambda item: (item[1]["difference"], item[0])))


def format_comparison(comparison: Mapping[str, Any]) -> str:
    """Return the result of `compare_systems` as tables, with what a p value says."""
    lines = [f"{comparison['num_segments']} clips{'':10}first  second  difference  p (bootstrap)  p (randomisation)"]
    for name, values in comparison["scores"].items():
        title = TITLE_OF_SCORE[name.removeprefix(CONTENT)] + (", content words" if name.startswith(CONTENT) else "")
        p_values = (values[test]["p_value"] for test in PAIRED_TESTS)
        lines.append(f"{title:<22}{_numbers(values)}{''.join(f'{p_value:>16.4f}' for p_value in p_values)}")
    signers = comparison.get("by_signer", {})
    lines += ["BLEU-4 by signer, worst change first"] if signers else []
    lines += [
        f"  {signer:<20}{_numbers(values)}  ({values['num_segments']} clips)" for signer, values in signers.items()
    ]
    return "\n".join(
        [
            *lines,
            "p: how likely so large a difference is by chance, for other clips of this kind. It says nothing about "
            "other seeds of training.",
        ]
    )


def _numbers(values: Mapping[str, float]) -> str:
    return f"{values['first']:>7.2f} {values['second']:>7.2f} {values['difference']:>+11.2f}"
