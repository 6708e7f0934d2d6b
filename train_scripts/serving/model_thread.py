"""
The one thread of a server that computes with the model, and the one place that decides whose turn it is.

Sentences that ended, and clips, go first, those that have waited longest before the others. When none of them waits and
all frames are read, sentences come after which the signer rests, as they have probably ended, and then drafts of those
that are still being signed, which are written without beams. Those chosen together are written together.
"""

import itertools
import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from modeling_flallm import SignLanguageTranslationPipeline, StreamingTranslator
from modeling_flallm.clip_translation_slt import EncodedClips
from modeling_flallm.streaming_slt import Watch

from .metrics import Metrics

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LOOKS = 0.02


class Turn(IntEnum):
    """Who goes first."""

    ENDED = 0
    RESTING = 1
    DRAFT = 2


@dataclass(frozen=True)
class ToWrite:
    """Clips, and the arguments of `write_sentences` for them. Drafts are stopped by their `watch`."""

    encoded: EncodedClips
    writing: dict[str, Any]
    watch: Watch | None = None

    def goes_with(self, other: "ToWrite") -> bool:
        """Whether both can be written together."""
        mine, others = (
            (each.encoded.are_left_handed is None, each.watch is None, each.writing) for each in (self, other)
        )
        return mine == others


# Is sent what was written for the clips that it yielded.
Steps = Generator[ToWrite, list[dict[str, Any]], None]


@dataclass(eq=False)
class ClipToTranslate:
    """A `clip` as `read_clip` gives it, the arguments of `write_sentences` for it, and its answers to come."""

    clip: dict[str, Any]
    left_handed: bool | str
    writing: dict[str, Any]
    answers: "Future[list[dict[str, Any]]]" = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)
    turn = Turn.ENDED

    def fail(self, error: BaseException) -> None:
        if not self.answers.done():
            self.answers.set_exception(error)


@dataclass(eq=False)
class StreamToTranslate:
    """A stream that has something to translate, and what to call when it may have updates."""

    stream: StreamingTranslator
    on_updates: Callable[[], None]
    since: float = field(default_factory=time.monotonic)

    @property
    def turn(self) -> Turn:
        task = self.stream.next_task
        if task is None or task.is_draft:
            return Turn.DRAFT
        return Turn.ENDED if task.is_final else Turn.RESTING

    @property
    def writing(self) -> dict[str, Any]:
        return self.stream.writing

    def fail(self, error: BaseException) -> None:
        self.stream.fail(error)
        self.on_updates()


Waiting = ClipToTranslate | StreamToTranslate


@dataclass
class FramesToRead:
    """How many frames of how many streams wait to be read; changed by the event loop alone."""

    frames: int = 0
    streams: int = 0

    @property
    def are_late(self) -> bool:
        """Whether more than one of each wait. What is computed meanwhile takes time from the threads that read."""
        return self.frames > self.streams


@dataclass(eq=False)
class Work:
    """What is done for some who waited."""

    owners: list[Waiting]
    steps: Steps

    def fail(self, error: Exception) -> None:
        logger.error("A translation failed.", exc_info=error)
        for owner in self.owners:
            owner.fail(error)


class ModelThread:
    """
    Translates clips and streams with one pipeline, until it is closed.

    Args:
        max_batch_size: sentences that are written together at most.
        batch_wait_seconds: how long a clip waits for others at most.
    """

    def __init__(
        self,
        pipeline: SignLanguageTranslationPipeline,
        metrics: Metrics,
        max_batch_size: int,
        batch_wait_seconds: float,
    ):
        self.pipeline, self._metrics = pipeline, metrics
        self._max_batch_size, self._batch_wait_seconds = max_batch_size, batch_wait_seconds
        self.frames_to_read = FramesToRead()
        self._changed = threading.Condition()
        self._waiting: list[Waiting] = []
        self._is_closed = False
        metrics.watch("waiting", lambda: len(self._waiting))
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def translate(
        self, clip: dict[str, Any], left_handed: bool | str, writing: dict[str, Any]
    ) -> "Future[list[dict[str, Any]]]":
        """The answers of the pipeline for a clip of `read_clip`, later. They are cancelled like any future."""
        # As streams say it, so that both are written together.
        waiting = ClipToTranslate(clip, left_handed, {**writing, "with_evidence": False})
        self._add(waiting)
        return waiting.answers

    def schedule(self, stream: StreamingTranslator, on_updates: Callable[[], None]) -> None:
        """Translate what a stream has, see `schedule` of `StreamingTranslator`."""
        self._add(StreamToTranslate(stream, on_updates))

    def close(self) -> None:
        """End after the batch that is being translated; who still waits gets an error."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join()
        for waiting in self._waiting:
            waiting.fail(RuntimeError("The server is shutting down."))

    def _add(self, waiting: Waiting) -> None:
        with self._changed:
            self._waiting.append(waiting)
            self._changed.notify_all()

    # In the thread

    def _run(self) -> None:
        while (chosen := self._choose()) is not None:
            self._translate(chosen)

    def _choose(self) -> list[Waiting] | None:
        """Those whose turn it is, with the same arguments of writing as the first of them; None at the end."""
        with self._changed:
            while not self._is_closed:
                alike = self._next_alike()
                patience = self._patience(alike)
                if patience <= 0:
                    self._waiting = [each for each in self._waiting if each not in alike]
                    return alike
                self._changed.wait(patience)
        return None

    def _next_alike(self) -> list[Waiting]:
        turns = {each: each.turn for each in self._waiting}
        turn = min(turns.values(), default=Turn.ENDED)
        if turn != Turn.ENDED and self.frames_to_read.are_late:
            return []
        candidates = sorted((each for each in turns if turns[each] == turn), key=lambda each: each.since)
        return [each for each in candidates if each.writing == candidates[0].writing][: self._max_batch_size]

    def _patience(self, alike: list[Waiting]) -> float:
        """How many seconds these may wait for others: streams none, and clips until the first has waited enough."""
        if not alike:
            return SECONDS_BETWEEN_LOOKS if self._waiting else threading.TIMEOUT_MAX
        if len(alike) == self._max_batch_size or any(isinstance(each, StreamToTranslate) for each in alike):
            return 0.0
        return alike[0].since + self._batch_wait_seconds - time.monotonic()

    def _translate(self, chosen: list[Waiting]) -> None:
        now = time.monotonic()
        for each in chosen:
            self._metrics.seconds.labels("wait").observe(now - each.since)
        works = itertools.chain(self._works_of_streams(chosen), self._works_of_clips(chosen))
        encoded = {work: first for work in works if (first := self._advance(work, None)) is not None}
        while encoded:
            written = self._write_all(encoded)
            encoded = {work: more for work in written if (more := self._advance(work, written[work])) is not None}

    def _works_of_streams(self, chosen: list[Waiting]) -> Iterator[Work]:
        """Drafts go back if a sentence has ended while those before them were encoded."""
        for each in chosen:
            if isinstance(each, StreamToTranslate):
                if each.turn == Turn.DRAFT and self.has_ended_sentences():
                    self._add(each)
                else:
                    yield Work([each], self._steps_of_stream(each))

    def _works_of_clips(self, chosen: list[Waiting]) -> Iterator[Work]:
        """Clips that can be encoded together, without those for which nobody waits any more."""
        alike: dict[Any, list[ClipToTranslate]] = {}
        for each in chosen:
            if isinstance(each, ClipToTranslate) and each.answers.set_running_or_notify_cancel():
                alike.setdefault((each.left_handed, each.clip["frames"].shape[1:]), []).append(each)
        for clips in alike.values():
            yield Work(clips, self._steps_of_clips(clips))

    def _steps_of_stream(self, waiting: StreamToTranslate) -> Steps:
        """The next translation of a stream, which afterwards waits for its next turn."""
        translation = waiting.stream.next_translation()
        if translation is None:
            waiting.on_updates()
            return
        encoded, watch = next(translation, (None, None))
        while encoded is not None:
            writing = waiting.stream.writing_of(watch.task)
            written = yield ToWrite(encoded, writing, watch if watch.task.is_draft else None)
            try:
                encoded, watch = translation.send(written[0])
            except StopIteration:
                break
        waiting.on_updates()
        self.schedule(waiting.stream, waiting.on_updates)

    def _steps_of_clips(self, clips: list[ClipToTranslate]) -> Steps:
        first = clips[0]
        encoded = self.pipeline.encode_clips(
            [each.clip for each in clips], first.left_handed, first.writing.get("spoken_language")
        )
        for each, written in zip(clips, (yield ToWrite(encoded, first.writing)), strict=True):
            each.answers.set_result(self.pipeline.answers_of(written))

    def _advance(self, work: Work, written: list[dict[str, Any]] | None) -> ToWrite | None:
        """Go on with what was written -> what is to be written next, or None at the end"""
        try:
            with self._metrics.time_of("encode"):
                return work.steps.send(written)
        except StopIteration:
            return None
        except Exception as error:
            work.fail(error)
            return None

    def _write_all(self, encoded: dict[Work, ToWrite]) -> dict[Work, list[dict[str, Any]]]:
        """What is written for each, together where that is possible, without those that failed."""
        written = {}
        while encoded:
            first = next(iter(encoded.values()))
            together = {work: each for work, each in encoded.items() if each.goes_with(first)}
            encoded = {work: each for work, each in encoded.items() if work not in together}
            written |= self._write_together(together)
        return written

    def _write_together(self, encoded: dict[Work, ToWrite]) -> dict[Work, list[dict[str, Any]]]:
        """If it fails, such as for too little memory, each is tried by itself."""
        first = next(iter(encoded.values()))
        watches = [each.watch for each in encoded.values() if each.watch is not None]
        try:
            joined = EncodedClips.joined([each.encoded for each in encoded.values()])
            self._metrics.batch_sizes.observe(len(joined.num_frames))
            writing = self._stopped_for_others(first.writing, watches)
            with self._metrics.time_of("write"):
                sentences = iter(self.pipeline.write_sentences(joined, **writing))
            return {
                work: list(itertools.islice(sentences, len(each.encoded.num_frames))) for work, each in encoded.items()
            }
        except Exception as error:
            if len(encoded) > 1:
                logger.warning("A batch failed, and each of its sentences is tried by itself: %r", error)
                alone = (self._write_together({work: each}) for work, each in encoded.items())
                return {work: sentences for each in alone for work, sentences in each.items()}
            next(iter(encoded)).fail(error)
            return {}

    def _stopped_for_others(self, writing: dict[str, Any], drafts: list[Watch]) -> dict[str, Any]:
        if not drafts:
            return writing
        return {**writing, "stopping_criteria": StoppingCriteriaList([_UntilOthersWait(self, drafts)])}

    def has_ended_sentences(self) -> bool:
        """Whether somebody waits who goes before drafts."""
        with self._changed:
            return any(each.turn == Turn.ENDED for each in self._waiting)


class _UntilOthersWait(StoppingCriteria):
    """Stops drafts when a sentence ended; they are written anew later, as far as they got by then."""

    def __init__(self, model: ModelThread, drafts: list[Watch]):
        self._model, self._drafts = model, drafts

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        have_ended = (watch.stream.has_ended_sentences for watch in self._drafts)
        is_stopped = self._model.has_ended_sentences() or any(have_ended)
        for watch in self._drafts:
            watch.is_stopped = is_stopped
        return torch.full((len(input_ids),), is_stopped, dtype=torch.bool, device=input_ids.device)
