"""
Greedy search and beam search in numpy, step by step those of transformers 5
(https://huggingface.co/docs/transformers/main_classes/text_generation), so that they give the same sentences.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, Self

import numpy as np

WORST_SCORE = np.float32(-1e9)


@dataclass(frozen=True)
class Generation:
    """
    How to write, by the names of transformers' `GenerationConfig`.

    Args:
        eos_token_id: tokens that end a sentence.
        max_length, min_length: in tokens, including `decoder_start_token_id`.
    """

    pad_token_id: int
    eos_token_id: tuple[int, ...]
    decoder_start_token_id: int | None = None
    max_length: int = 20
    min_length: int = 0
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | None = None
    suppress_tokens: tuple[int, ...] = ()

    def changed(self, given: dict[str, Any]) -> Self:
        """
        These settings with those of one call, which may also be `max_new_tokens` and `min_new_tokens`.

        Raises:
            TypeError: for a setting that this program does not have.
        """
        known = [each.name for each in fields(self)]
        start = self.decoder_start_token_id is not None
        lengths = {f"{name}_length": given.pop(f"{name}_new_tokens", None) for name in ("max", "min")}
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise TypeError(
                f"An exported model has no generation settings {', '.join(unknown)}. It has max_new_tokens, "
                f"min_new_tokens, {', '.join(known)}. For others use the model itself."
            )
        given |= {name: value + start for name, value in lengths.items() if value is not None}
        changed = replace(self, **given)
        if changed.num_beams < 1 or changed.max_length < 1 + start:
            raise ValueError(
                "`num_beams` must be 1 or more, and `max_length` must leave room for one token, got "
                f"{changed.num_beams} and {changed.max_length}."
            )
        return changed


class Decoder(Protocol):
    """Writes one token after the other; it has a row for each sentence that is being written."""

    def first(self) -> np.ndarray:
        """Logits `(clips, vocabulary)` of the first token of each clip."""

    def next(self, token_ids: np.ndarray) -> np.ndarray:
        """The tokens `(rows,)` that were chosen -> logits `(rows, vocabulary)` of those after them."""

    def reorder(self, rows: np.ndarray) -> None:
        """Go on with these rows; rows may be repeated and left out."""


def generate(decoder: Decoder, num_clips: int, settings: Generation) -> np.ndarray:
    """-> token ids `(clips, length)`, padded at their end; they begin with `decoder_start_token_id` if there is one."""
    search = _greedy_search if settings.num_beams == 1 else _beam_search
    return search(decoder, num_clips, settings)


def _start(num_rows: int, settings: Generation) -> np.ndarray:
    """Token ids `(rows, 0 or 1)` before the first that is written."""
    start = settings.decoder_start_token_id
    return np.full((num_rows, 0 if start is None else 1), start or 0, np.int64)


def _greedy_search(decoder: Decoder, num_clips: int, settings: Generation) -> np.ndarray:
    sequences, is_open = _start(num_clips, settings), np.ones(num_clips, bool)
    logits = decoder.first()
    while True:
        scores = processed(logits.astype(np.float32), sequences, settings)
        token_ids = np.where(is_open, scores.argmax(1), settings.pad_token_id)
        sequences = np.concatenate([sequences, token_ids[:, None]], 1)
        is_open &= ~np.isin(token_ids, settings.eos_token_id)
        if not is_open.any() or sequences.shape[1] >= settings.max_length:
            return sequences
        logits = decoder.next(token_ids)


@dataclass
class _Beams:
    """Sequences `(clips, beams, length)` with their scores `(clips, beams)`."""

    sequences: np.ndarray
    scores: np.ndarray

    def chosen(self, places: np.ndarray, scores: np.ndarray | None = None) -> "_Beams":
        scores = self.scores if scores is None else scores
        return _Beams(np.take_along_axis(self.sequences, places[..., None], 1), np.take_along_axis(scores, places, 1))


def _beam_search(decoder: Decoder, num_clips: int, settings: Generation) -> np.ndarray:
    """As `GenerationMixin._beam_search`, whose state these variables are."""
    num_beams, start = settings.num_beams, _start(num_clips, settings)
    prompt_length = start.shape[1]
    running = _Beams(np.repeat(start[:, None], num_beams, 1), np.zeros((num_clips, num_beams), np.float32))
    running.scores[:, 1:] = WORST_SCORE
    finished = _Beams(running.sequences, np.full_like(running.scores, WORST_SCORE))
    is_finished = np.zeros((num_clips, num_beams), bool)
    may_improve = np.ones((num_clips, 1), bool)
    logits = decoder.first()
    decoder.reorder(np.arange(num_clips).repeat(num_beams))
    logits = logits.repeat(num_beams, 0)
    while True:
        written = running.sequences.reshape(num_clips * num_beams, -1)
        scores = processed(log_softmax(logits.astype(np.float32)), written, settings)
        best, parents, token_ids = _continuations(running, scores, settings)
        length = best.sequences.shape[2]
        stops = np.isin(token_ids, settings.eos_token_id) | (length >= settings.max_length)
        # The running beams are the best that do not stop.
        still_running = best.scores + stops * WORST_SCORE
        places = top(still_running, num_beams)
        running = best.chosen(places, still_running)
        # Sentences that stop compete with those that stopped before.
        finished, is_finished = _finish(best, stops, finished, is_finished, may_improve, prompt_length, settings)
        may_improve = may_improve & _could_be_better(running, finished, is_finished, length - prompt_length, settings)
        all_done = is_finished.all() and settings.early_stopping is True
        if not may_improve.any() or all_done or stops.all():
            return finished.sequences[:, 0]
        rows = np.take_along_axis(parents, places, 1) + num_beams * np.arange(num_clips)[:, None]
        decoder.reorder(rows.reshape(-1))
        logits = decoder.next(running.sequences[..., -1].reshape(-1))


def _continuations(running: _Beams, scores: np.ndarray, settings: Generation) -> tuple[_Beams, np.ndarray, np.ndarray]:
    """The best sequences with one token more, and for each `(clips, candidates)` its beam and that token."""
    num_clips, num_beams = running.scores.shape
    num_candidates = max(2, 1 + len(settings.eos_token_id)) * num_beams
    scores = scores.reshape(num_clips, num_beams, -1) + running.scores[..., None]
    flat = scores.reshape(num_clips, -1)
    places = top(flat, num_candidates)
    parents, token_ids = places // scores.shape[2], places % scores.shape[2]
    sequences = np.take_along_axis(running.sequences, parents[..., None], 1)
    longer = np.concatenate([sequences, token_ids[..., None]], 2)
    return _Beams(longer, np.take_along_axis(flat, places, 1)), parents, token_ids


def _finish(
    best: _Beams,
    stops: np.ndarray,
    finished: _Beams,
    is_finished: np.ndarray,
    may_improve: np.ndarray,
    prompt_length: int,
    settings: Generation,
) -> tuple[_Beams, np.ndarray]:
    """The best finished sentences, of those until now and of the first `num_beams` candidates that stop."""
    num_beams, length = settings.num_beams, best.sequences.shape[2]
    just_finished = stops & (np.arange(stops.shape[1]) < num_beams)
    scores = best.scores / np.float32((length - prompt_length) ** settings.length_penalty)
    is_full = is_finished.all(1, keepdims=True) & (settings.early_stopping is True)
    for is_excluded in (is_full, ~may_improve, ~just_finished):
        scores = scores + is_excluded * WORST_SCORE
    padding = np.full((*finished.sequences.shape[:2], 1), settings.pad_token_id, np.int64)
    both = _Beams(
        np.concatenate([np.concatenate([finished.sequences, padding], 2), best.sequences], 1),
        np.concatenate([finished.scores, scores], 1),
    )
    places = top(both.scores, num_beams)
    are_finished = np.concatenate([is_finished, just_finished], 1)
    return both.chosen(places), np.take_along_axis(are_finished, places, 1)


def _could_be_better(
    running: _Beams, finished: _Beams, is_finished: np.ndarray, num_written: int, settings: Generation
) -> np.ndarray:
    """Whether a running sentence of each clip `(clips, 1)` could still beat its worst finished one: a heuristic."""
    if settings.early_stopping == "never" and settings.length_penalty > 0:
        num_written = settings.max_length - (settings.decoder_start_token_id is not None)
    best_possible = running.scores[:, :1] / np.float32(num_written**settings.length_penalty)
    worst = np.where(is_finished, finished.scores.min(1, keepdims=True), WORST_SCORE)
    return (best_possible > worst).any(1, keepdims=True)


def top(values: np.ndarray, count: int) -> np.ndarray:
    """Places `(rows, count)` of the highest values `(rows, n)`, the highest first."""
    candidates = np.argpartition(-values, min(count, values.shape[1] - 1), 1)[:, :count]
    candidates.sort(1)
    order = np.argsort(-np.take_along_axis(values, candidates, 1), 1, kind="stable")
    return np.take_along_axis(candidates, order, 1)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


# ------------------------------------------------------------------------------------- logits processors


def processed(scores: np.ndarray, sequences: np.ndarray, settings: Generation) -> np.ndarray:
    """Scores `(rows, vocabulary)` after all that the settings ask for, in the order of transformers."""
    for process in PROCESSORS:
        scores = process(scores, sequences, settings)
    return scores


def _penalise_repetition(scores: np.ndarray, sequences: np.ndarray, settings: Generation) -> np.ndarray:
    if settings.repetition_penalty == 1 or not sequences.size:
        return scores
    penalty = np.float32(settings.repetition_penalty)
    old = np.take_along_axis(scores, sequences, 1)
    scores = scores.copy()
    np.put_along_axis(scores, sequences, np.where(old < 0, old * penalty, old / penalty), 1)
    return scores


def _forbid_repeated_ngrams(scores: np.ndarray, sequences: np.ndarray, settings: Generation) -> np.ndarray:
    size = settings.no_repeat_ngram_size
    if not size or sequences.shape[1] < size:
        return scores
    scores = scores.copy()
    for row, tokens in zip(scores, sequences.tolist(), strict=True):
        last = tokens[len(tokens) - size + 1 :]
        row[[tokens[k + size - 1] for k in range(len(tokens) - size + 1) if tokens[k : k + size - 1] == last]] = -np.inf
    return scores


def _forbid_short_sentences(scores: np.ndarray, sequences: np.ndarray, settings: Generation) -> np.ndarray:
    is_short = sequences.shape[1] < settings.min_length
    return _without(scores, settings.eos_token_id) if is_short else scores


def _force_tokens(scores: np.ndarray, sequences: np.ndarray, settings: Generation) -> np.ndarray:
    length = sequences.shape[1]
    places = ((settings.forced_bos_token_id, 1), (settings.forced_eos_token_id, settings.max_length - 1))
    for token_id, place in places:
        if token_id is not None and length == place:
            scores = np.full_like(scores, -np.inf)
            scores[:, token_id] = 0
    return scores


def _suppress_tokens(scores: np.ndarray, sequences: np.ndarray, settings: Generation) -> np.ndarray:
    return _without(scores, settings.suppress_tokens) if settings.suppress_tokens else scores


def _without(scores: np.ndarray, token_ids: tuple[int, ...]) -> np.ndarray:
    scores = scores.copy()
    scores[:, list(token_ids)] = -np.inf
    return scores


PROCESSORS: tuple[Callable[[np.ndarray, np.ndarray, Generation], np.ndarray], ...] = (
    _penalise_repetition,
    _forbid_repeated_ngrams,
    _forbid_short_sentences,
    _force_tokens,
    _suppress_tokens,
)
