"""
Translation while a person signs: frames come in, sentences come out as they grow.

Two threads share the work. The one that brings frames reads and measures them, and finds where sentences end. The other
one, of which there is one for each stream, encodes and writes: the sentences that ended, and, whenever there is time,
the one that is being signed, as far as it got. There is no queue of old states: what was overtaken is never translated.
A server has one such thread for all streams, which writes what several of them have to say together: see `schedule`.
"""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import numpy as np
import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from .clip_translation_slt import EncodedClips
from .long_videos_slt import folded_words, without_repeated_words
from .word_evidence_slt import clip_times

# More sentences that ended do not wait to be written: then `add` waits.
MOST_SENTENCES_THAT_WAIT = 2
FRAMES_ENCODED_AT_ONCE = 8
WITHOUT_BEAMS = {"num_beams": 1, "early_stopping": False, "length_penalty": 1.0}
OF_WHOLE_CLIPS = {"start", "end", "source_fps", "batch_size", "num_workers"}
SECONDS_BETWEEN_REPORTS = 0.05
Task = Any  # the one of `live_clip_slt.py`, which comes from the processor


class StreamingTranslator:
    """
    Translates one stream of frames, of a camera or a file, with a pipeline that other streams may share.

    ```python
    >>> with StreamingTranslator(translator) as stream:
    ...     for seconds, frame in camera:
    ...         for update in stream.add(frame, seconds):
    ...             print(update["translation_text"])
    ...     for update in stream.finish():
    ...         print(update["translation_text"])
    ```

    **Updates** are dictionaries as of `translate_long`: `"translation_text"`, `"start"` and `"end"` of the caption in
    seconds, and `"piece"`, the number of the sentence from 0. `"is_final"` says that the sentence ended and will not
    change; until then each update replaces the one before. `"signing_start"` and `"signing_end"` are the seconds of the
    frames that were translated: a call of the pipeline with these as `start` and `end` on a recording of the stream
    gives the text of the final update. What else a call was asked for, such as scores, is missing while a text is being
    written. A sentence of which it turned out that nobody moved ends with an empty text.

    **Memory** holds the frames of the current sentence in the size that the model reads, and at most
    `MOST_SENTENCES_THAT_WAIT` sentences that wait to be written. If frames come faster than they can be translated, as
    from a file, `add` waits.

    Args:
        pipeline (`SignLanguageTranslationPipeline`):
            Nothing in it or its model changes.
        lengths (`dict`, *optional*):
            Of sentences, as the arguments of `split_at_rests`.
        schedule (`Callable[[StreamingTranslator], None]`, *optional*):
            For streams that share a model. It is called with this stream, which then has no thread of its own, when
            there is something to translate. One other thread must then call `translate_next` until it gives False, or,
            to write for several streams together, `next_translation` until it gives None.
        **arguments:
            Every other argument of a call of the pipeline except `start`, `end`, `source_fps` and those of batches.
            `left_handed="auto"` decides for each translation anew.

    Raises:
        ValueError: for arguments that the pipeline refuses, and clips that have no rests, such as visual features.
    """

    def __init__(
        self,
        pipeline: Any,
        lengths: dict[str, float] | None = None,
        schedule: Callable[["StreamingTranslator"], None] | None = None,
        **arguments: Any,
    ):
        self.pipeline = pipeline
        self._clip = pipeline.processor.modality.live(**(lengths or {}))
        self._writing, self._evidence = _sorted_arguments(pipeline, arguments)
        self._left_handed = self._writing.pop("left_handed", False)
        self._encodes_ahead = self._left_handed is False and pipeline.model.vision_model.encodes_frames_alone
        self._features: dict[int, torch.Tensor] = {}
        self._standing: dict[int, str] = {}  # the text of each sentence that is not final
        self._num_pieces = 0
        self._said: list[str] = []
        self._said_until = 0.0
        self._latest: tuple[list[int], list[dict[str, Any]]] = ([], [])
        self._drafted: list[int] = []
        self._latest_so_far: dict[str, Any] = {}
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="streaming-translator")
        self._schedule = schedule or (lambda stream: self._worker.submit(self._work))
        self._changed = threading.Condition()
        self._ended: deque[Task] = deque()
        self._newest: Task | None = None
        self._is_working = self._is_closed = False
        self._error: BaseException | None = None
        self._updates: deque[dict[str, Any]] = deque()

    def translate(self, frames: Iterable[tuple[float, Any]]) -> Iterator[dict[str, Any]]:
        """Yield the updates of frames that come with their seconds, and at the end what is left."""
        for seconds, frame in frames:
            yield from self.add(frame, seconds)
        yield from self.finish()

    def add(self, frame: Any, seconds: float) -> list[dict[str, Any]]:
        """
        Take a frame that is shown from this second on, and return the updates since the last call.

        Args:
            frame: a picture, as the pipeline takes them in a list: an RGB array `(height, width, 3)`, a tensor, a PIL
                image or a path. For a model of poses, an array `(points, 3)` of x, y and score.
            seconds: when it was taken, 0 or more, later than the frame before. The steps may be uneven. Where no frame
                comes for `idle_seconds`, the sentence ends.

        Raises:
            ValueError: for a frame that cannot be read, and for one that does not come after the last.
        """
        self.take(frame, seconds)
        return self.updates()

    def take(self, frame: Any, seconds: float) -> None:
        """As `add`, for programs that ask for `updates` in another thread."""
        for task in self._clip.take(frame, seconds):
            self.ask_for(task)

    def updates(self) -> list[dict[str, Any]]:
        """
        The updates since the last call, without a new frame.

        Raises:
            Whatever went wrong while they were made.
        """
        with self._changed:
            if self._error is not None:
                raise self._error
            updates = list(self._updates)
            self._updates.clear()
        return updates

    def finish(self) -> Iterator[dict[str, Any]]:
        """End the stream, and yield the last updates as they come."""
        self.end()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._updates or not self._is_working, SECONDS_BETWEEN_REPORTS)
                is_working = self._is_working
            yield from self.updates()
            if not is_working:
                return

    def end(self) -> None:
        """Say that nothing follows the last frame, and do not wait for the last updates."""
        for task in self._clip.end():
            self.ask_for(task)

    @property
    def is_translating(self) -> bool:
        """Whether more updates will come without another frame."""
        return self._is_working

    def close(self) -> None:
        """Stop at once; what is not written yet is lost."""
        with self._changed:
            self._is_closed, self._newest = True, None
            self._ended.clear()
            self._changed.notify_all()
        self._worker.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    # In the thread that brings frames

    def ask_for(self, task: Task) -> None:
        """For programs that find sentences elsewhere, as `LiveClip.take` does. It waits until there `has_room`."""
        with self._changed:
            if task.is_final:
                self._changed.wait_for(lambda: self.has_room)
                self._ended.append(task)
            self._newest = None if task.is_final else task
            if not (self._is_working or self._is_over):
                self._is_working = True
                self._schedule(self)

    @property
    def has_room(self) -> bool:
        """Whether another sentence that ended may wait to be written."""
        return len(self._ended) < MOST_SENTENCES_THAT_WAIT or self._is_over

    @property
    def _is_over(self) -> bool:
        return self._is_closed or self._error is not None

    # In the thread that translates

    def _work(self) -> None:
        while self.translate_next():
            pass

    def translate_next(self) -> bool:
        """Translate what is next, alone; False if there was nothing. An error ends the stream, see `fail`."""
        try:
            translation = self.next_translation()
            if translation is not None:
                self._write_all(translation)
            return translation is not None
        except BaseException as error:
            self.fail(error)
            return False

    def _write_all(self, translation: "Translation") -> None:
        encoded, watch = next(translation, (None, None))
        while encoded is not None:
            criteria = StoppingCriteriaList([*(self._writing.get("stopping_criteria") or []), watch])
            writing = {**self.writing_of(watch.task), "stopping_criteria": criteria}
            written = self.pipeline.write_sentences(encoded, **writing)
            try:
                encoded, watch = translation.send(written[0])
            except StopIteration:
                return

    @property
    def has_ended_sentences(self) -> bool:
        """Whether what comes next is a sentence that ended, which should go first where streams share a model."""
        return bool(self._ended)

    @property
    def next_task(self) -> Task | None:
        """What comes next, if anything does."""
        with self._changed:
            return self._ended[0] if self._ended else self._newest

    @property
    def writing(self) -> dict[str, Any]:
        """The arguments of `write_sentences` for all sentences of this stream, but see `writing_of`."""
        return {**self._writing, "with_evidence": any(self._evidence.values())}

    def writing_of(self, task: Task) -> dict[str, Any]:
        """The same for one task: drafts are written without beams. They are there sooner, and nobody keeps them."""
        is_chosen = self._writing.get("num_candidates") is not None or self.pipeline.model.draws_samples
        return {**self.writing, **(WITHOUT_BEAMS if task.is_draft and not is_chosen else {})}

    def next_translation(self) -> "Translation | None":
        """
        Take what is to be translated next; None if there is nothing. It yields clips to write, one `EncodedClips` after
        the other, each with a `Watch`: stopping criteria with which the text is reported while it grows, but they may
        be left out. It has to be sent what `write_sentences` gives for each of them, with the arguments that
        `writing_of` says of the `task` of the watch, and reports what comes of it, or nothing if the watch
        `is_stopped`.
        """
        task = self._next_task()
        return None if task is None else self._translate(task)

    def fail(self, error: BaseException) -> None:
        """End the stream with an error, which is raised in the thread that asks for updates."""
        with self._changed:
            self._error, self._is_working = error, False
            self._changed.notify_all()

    def _next_task(self) -> Task | None:
        with self._changed:
            task = self._ended.popleft() if self._ended else self._newest
            if task is self._newest:
                self._newest = None
            self._is_working = task is not None and not self._is_closed
            self._changed.notify_all()
            return task if self._is_working else None

    def _translate(self, task: Task) -> "Translation":
        if task.part is None:
            answers = [] if self._num_pieces not in self._standing else [self._nothing(task)]
        elif task.numbers == self._latest[0]:
            answers = self._timed(task, self._latest[1]) if task.is_final else []
        elif task.is_draft and task.numbers == self._drafted:
            answers = []
        else:
            answers = self._timed(task, (yield from self._answers(task)))
        for index, answer in enumerate(answers):
            self._report(answer | {"piece": self._num_pieces + index, "is_final": task.is_final})
        if task.is_final:
            self._finish_sentence(answers)

    def _finish_sentence(self, answers: list[dict[str, Any]]) -> None:
        self._num_pieces += len(answers)
        self._standing, self._latest, self._drafted = {}, ([], []), []
        if answers:
            self._said, self._said_until = folded_words(answers[-1]["translation_text"]), answers[-1]["end"]

    def _answers(self, task: Task) -> "Generator[tuple[EncodedClips, Watch], dict[str, Any], list[dict[str, Any]]]":
        """The translations of a sentence in its parts, mostly one; none if it is too short so far, or was overtaken."""
        if self._encodes_ahead:
            self._encode_all_of(task.part)
        answers = []
        for index, part in enumerate(self._parts(task)):
            watch = Watch(self, task, self._num_pieces + index)
            written = yield self._encode(part), watch
            if watch.is_stopped:
                return []
            answers.append(self.pipeline.answers_of(written, **self._evidence)[0])
        if answers and task.is_draft:
            self._drafted = task.numbers
        elif answers:
            self._latest = (task.numbers, answers)
        return answers

    def _parts(self, task: Task) -> list[Any]:
        """The frames of a sentence in parts that the model takes. None of one that only began; one that ended and is
        too short for the model is extended with its last frame, as in `translate_pieces`."""
        length, least = len(task.numbers), self.pipeline.model.vision_model.get_min_num_frames()
        is_short = task.segment.end - task.segment.start < self._clip.lengths.shortest_seconds
        if not task.is_final and (is_short or length < least):
            return []
        places = [*range(length), *[length - 1] * (least - length)]
        return [task.part.at(places[first:stop]) for first, stop in self._spans(task)]

    def _spans(self, task: Task) -> list[tuple[int, int]]:
        """Where the parts of a sentence begin and end in its frames; of one that is too long for the model they
        overlap, as in `translate_pieces`."""
        length = max(len(task.numbers), self.pipeline.model.vision_model.get_min_num_frames())
        return list(self.pipeline.spans_that_fit(0, length))

    def _encode(self, part: Any) -> EncodedClips:
        times = clip_times(part.metadata, None)
        if not self._encodes_ahead:
            clip = {"frames": self._clip.values(part), "times": times, "metadata": part.metadata}
            return self.pipeline.encode_clips([clip], self._left_handed, self._writing.get("spoken_language"))
        return self.pipeline.encode_over_time(torch.stack([self._features[number] for number in part.numbers]), times)

    def _encode_all_of(self, part: Any) -> None:
        self._features = {number: each for number, each in self._features.items() if number >= part.numbers[0]}
        while self._encode_some_of(part):
            pass

    def _encode_some_of(self, part: Any) -> bool:
        """Encode the next few frames that are not encoded yet, and return whether there were any."""
        places = {number: place for place, number in enumerate(part.numbers) if number not in self._features}
        some = list(places.items())[:FRAMES_ENCODED_AT_ONCE]
        if some:
            features = self.pipeline.encode_frames(self._clip.values(part.at([place for _, place in some])))
            self._features.update(zip((number for number, _ in some), features, strict=True))
        return bool(some)

    def encode_what_came(self) -> None:
        task = self._newest
        if task is not None and self._encodes_ahead:
            self._encode_some_of(task.part)

    def is_overtaken(self, task: Task) -> bool:
        """Whether a translation is not worth finishing: what ended needs the model, or the signer has come to rest."""
        with self._changed:
            if self._is_closed or task.is_final:
                return self._is_closed
            if self._ended:
                return self._ended[0].numbers != task.numbers
            newest = self._newest
            return newest is not None and newest.is_still and newest.numbers != task.numbers

    # Updates

    def _timed(self, task: Task, answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Add the times of a sentence, shared out among its parts. Words that were said before are left out."""
        segment, spans, timed = task.segment, self._spans(task), []
        said, said_until = self._said, self._said_until
        for (first, stop), answer in zip(spans, answers, strict=False):
            signing = np.interp([first, stop], [0, spans[-1][1]], [segment.start, segment.end]).tolist()
            start = segment.caption_start if first == 0 else signing[0]
            end = segment.caption_end if stop == spans[-1][1] else signing[1]
            if start < said_until:
                answer = without_repeated_words(answer, said)
            timed.append(answer | _times(max(start, said_until), end, *signing))
            said, said_until = folded_words(answer["translation_text"]), end
        return timed

    def _nothing(self, task: Task) -> dict[str, Any]:
        segment = task.segment
        start = max(segment.caption_start, self._said_until)
        return {"translation_text": ""} | _times(start, segment.caption_end, segment.start, segment.end)

    def _report(self, update: dict[str, Any]) -> None:
        self._standing[update["piece"]] = update["translation_text"]
        with self._changed:
            if not self._is_closed:
                self._updates.append(update)
                self._changed.notify_all()

    def report_so_far(self, task: Task, piece: int, text: str) -> None:
        """A text that is being written takes the place of an older one where it differs from its beginning."""
        if piece == self._num_pieces:
            (update,) = self._timed(task, [{"translation_text": text}])
            standing = self._standing.get(piece, "")
            if standing.startswith(update["translation_text"]):
                update["translation_text"] = standing
            update |= {"piece": piece, "is_final": False}
            if update["translation_text"] and update != self._latest_so_far:
                self._latest_so_far = update
                self._report(update)


class LiveTranslation:
    """Mixin for `SignLanguageTranslationPipeline`: translates what is being signed."""

    def translate_stream(
        self, frames: Iterable[tuple[float, Any]], lengths: dict[str, float] | None = None, **arguments: Any
    ) -> Iterator[dict[str, Any]]:
        """
        Translate frames while they come, sentence by sentence, in memory that does not grow.

        Args:
            frames: of a camera or any other source, each with its second: pairs `(seconds, frame)` in order of time, as
                `add` of `StreamingTranslator` takes them.
            lengths: of sentences, as the arguments of `split_at_rests`.
            **arguments: of a call, except those for whole videos.

        Returns:
            An iterator over updates, see `StreamingTranslator`. `format_captions` makes captions of them.

        Example:

        ```python
        >>> for update in translator.translate_stream(camera):
        ...     print(update["piece"], update["is_final"], update["translation_text"])
        ```
        """
        with self.open_stream(lengths, **arguments) as stream:
            yield from stream.translate(frames)

    def open_stream(self, lengths: dict[str, float] | None = None, **arguments: Any) -> StreamingTranslator:
        """A stream to which frames are added one by one, with the arguments of `StreamingTranslator`."""
        return StreamingTranslator(self, lengths, **arguments)


class Watch(StoppingCriteria):
    """Looks up at each token: reports the text so far, encodes frames that came, and stops what was overtaken."""

    def __init__(self, stream: StreamingTranslator, task: Task, piece: int):
        self.stream, self.task, self.piece = stream, task, piece
        self.is_stopped = False

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        self.is_stopped = self.is_stopped or self.stream.is_overtaken(self.task)
        if not self.is_stopped:
            self.stream.report_so_far(self.task, self.piece, self.stream.pipeline.processor.decode(input_ids[0]))
            self.stream.encode_what_came()
        return torch.full((len(input_ids),), self.is_stopped, dtype=torch.bool, device=input_ids.device)


Translation = Generator[tuple[EncodedClips, Watch], dict[str, Any], None]


def _times(start: float, end: float, signing_start: float, signing_end: float) -> dict[str, float]:
    times = {"start": start, "end": end, "signing_start": signing_start, "signing_end": signing_end}
    return {name: round(second, 3) for name, second in times.items()}


def _sorted_arguments(pipeline: Any, arguments: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of a call and the defaults of the pipeline -> those of writing, and those of answers."""
    refused = sorted(set(arguments) & OF_WHOLE_CLIPS)
    if refused:
        raise ValueError(f"A stream has no use for {refused}, which are for calls with whole videos. Leave them out.")
    _, writing, evidence = pipeline._sanitize_parameters(**arguments)
    evidence = {**pipeline._postprocess_params, **evidence}
    writing = {**pipeline._forward_params, **writing}
    return {name: value for name, value in writing.items() if name not in evidence}, evidence


__all__ = ["LiveTranslation", "StreamingTranslator"]
