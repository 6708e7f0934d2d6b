"""Translates a video, step by step, into everything that the page shows of it."""

import math
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from decoding import NUM_READERS, POSE_INPUT, POSE_SUFFIXES, VideoProblem, VideoReader
from transformers import Pipeline, StoppingCriteria, StoppingCriteriaList
from turns import SECONDS_BETWEEN_REPORTS, Turn, Turns

try:  # on ZeroGPU, each call of a decorated function borrows an accelerator
    from spaces import GPU as on_accelerator
except ImportError:

    def on_accelerator(function: Callable) -> Callable:
        return function


NUM_THUMBNAILS = 10
THUMBNAIL_HEIGHT_IN_PIXELS = 72
MOST_ALTERNATIVES, MOST_TRANSLATIONS = 3, 5
LONGEST_SENTENCE_IN_SECONDS = 60
SHORTEST_PART_IN_SECONDS = 0.01  # captions count milliseconds
SECONDS_TO_WRITE_ONE_SENTENCE = 120
SECONDS_FOR_A_LONG_VIDEO = 3600
HANDS = {"no": False, "yes": True, "auto": "auto"}  # is the left one the hand that signs?
EVIDENCE = {"return_scores": True, "return_timestamps": True, "return_attention": True}


@dataclass(frozen=True)
class Result:
    """
    Args:
        pieces: the pipeline's answer for each sentence, with `start` and `end` in seconds of the file.
        alternatives: other sentences for a video of one sentence, with `translation_text` and `score`, best first.
        thumbnails: second and picture, uint8 `(height, width, 3)`; none for a long video.
        start, end: seconds of the part that was translated.
        is_whole: whether no sentence is missing, as it would be if the translation was stopped.
        num_translations: how many were asked for; with several, the alternatives are shown beside the first sentence.
    """

    pieces: list[dict[str, Any]]
    alternatives: list[dict[str, Any]]
    thumbnails: list[tuple[float, np.ndarray]]
    start: float
    end: float
    seconds_taken: float
    is_whole: bool = True
    num_translations: int = 1


@dataclass(frozen=True)
class Step:
    """
    The current step: a name in `texts` with its values, the share that is done, 0 to 1, the sentence so far and, of a
    long video, the sentences before it.
    """

    name: str
    values: dict[str, Any]
    done: float
    sentence: str = ""
    finished: Result | None = None


class Translator:
    """
    Translates parts of videos; each method raises `VideoProblem` for what the visitor can fix.

    The model writes one sentence at a time, and the visitors take turns; reading a video keeps nobody from the model. A
    clip keeps its place for reading until its turn to be written comes, so that few clips are in memory at a time.
    """

    def __init__(self, pipeline: Pipeline, reader: VideoReader):
        self.pipeline = pipeline
        self.reader = reader
        self.input_name = pipeline.processor.modality.input_names[0]
        self.reads_poses = self.input_name == POSE_INPUT
        # Models that older versions pushed cannot.
        self.can_mirror = hasattr(pipeline.model, "hand_margins")
        self.takes_videos = not self.reads_poses or reader.takes_videos()
        self._looking, self._reading, self._splitting, self._writing = map(Turns, (NUM_READERS, NUM_READERS, 1, 1))

        @on_accelerator
        def write(clip: dict[str, Any], num_translations: int, hand: dict[str, Any]) -> Iterator[str | dict[str, Any]]:
            yield from _in_background(
                lambda evidence: _answers(pipeline, clip, num_translations, evidence | hand),
                pipeline,
                SECONDS_TO_WRITE_ONE_SENTENCE,
            )

        @on_accelerator
        def write_pieces(
            path: str, segments: list[dict[str, float]], visitor: str, hand: dict[str, Any]
        ) -> Iterator[str | dict[str, Any]]:
            if hand.get("left_handed") == "auto":
                with closing(self._clips(path, segments, visitor)) as clips:
                    hand = {"left_handed": torch.tensor(pipeline.is_signer_left_handed(clips))}
            # Closed, so that stopping also gives back the turns that are held between two pieces.
            with closing(self._clips(path, segments, visitor)) as clips:
                yield from _in_background(
                    lambda evidence: pipeline.translate_pieces(clips, **evidence, **hand),
                    pipeline,
                    SECONDS_FOR_A_LONG_VIDEO,
                )

        self._write, self._write_pieces = write, write_pieces

    @contextmanager
    def turn_to_write(self, visitor: str) -> Iterator[None]:
        """Nobody else writes with the model meanwhile."""
        with self._writing.join(visitor) as turn:
            turn.wait()
            yield

    def look(self, path: str, visitor: str = "") -> float:
        """The length of a video in seconds."""
        with self._looking.join(visitor) as turn:
            turn.wait()
            return self.reader.look(path).seconds

    def film(self, path: str, visitor: str = "") -> bytes:
        """An MP4 of the skeletons in a file of poses."""
        with self._looking.join(visitor) as turn:
            turn.wait()
            return self.reader.film(path)

    def is_video(self, path: str) -> bool:
        """Whether poses are to be extracted from a file first."""
        return self.reads_poses and self.takes_videos and not path.lower().endswith(POSE_SUFFIXES)

    def extract_poses(self, path: str, folder: Path, visitor: str = "") -> Iterator[Step | str]:
        """
        Yield steps, and at the end the path of a file with the poses of a video, made in `folder`. The video is
        deleted, whatever happens.
        """
        try:
            with self._splitting.join(visitor) as turn:
                yield from _until_it_comes(turn)
                yield Step("progress_extracting", {}, 0.0)
                arrays = self.reader.poses_of_video(path)
        finally:
            Path(path).unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        poses = folder / f"{Path(path).stem}.npz"
        with poses.open("wb") as file:
            np.savez(file, layout="coco_wholebody", **arrays)
        yield str(poses)

    def translate(
        self,
        path: str,
        start: float | None,
        end: float | None,
        is_long: bool,
        visitor: str = "",
        num_translations: int = 1,
        left_handed: bool | str = False,
    ) -> Iterator[Step | Result]:
        """
        Yield steps, and at the end the result. Closing the iterator stops the translation.

        Args:
            start, end: seconds of the part; `None` is the beginning or the end of the video.
            is_long: cut it where the hands rest, and translate it piece by piece.
            visitor: who asks; the visitors take turns.
            num_translations: of a video of one sentence; pieces of a long video have one each.
            left_handed: whether the signer is, or "auto" to find out, for a long video once.
        """
        began = time.monotonic()
        yield Step("progress_reading", {}, 0.0)
        start, end = _checked_part(start, end, self.look(path, visitor))
        if not is_long and end - start > LONGEST_SENTENCE_IN_SECONDS:
            raise _too_long_for_one(end - start)
        hand = {} if left_handed is False else {"left_handed": left_handed}
        if is_long:
            yield from self._long(path, start, end, visitor, began, hand)
        else:
            yield from self._one_sentence(path, start, end, visitor, began, num_translations, hand)

    def _one_sentence(
        self,
        path: str,
        start: float,
        end: float,
        visitor: str,
        began: float,
        num_translations: int,
        hand: dict[str, Any],
    ) -> Iterator[Step | Result]:
        answers = []
        with self._reading.join(visitor) as reading:
            yield from _until_it_comes(reading)
            clip = self.reader.read(path, start, end)
            self._check_length(clip, end - start)
            thumbnails = self.reader.thumbnails(path, start, end, NUM_THUMBNAILS, THUMBNAIL_HEIGHT_IN_PIXELS)
            with self._writing.join(visitor) as writing:
                yield from _until_it_comes(writing)
                reading.leave()
                yield Step("progress_watching", {"total": len(clip[self.input_name])}, 0.3)
                for event in self._write(clip, num_translations, hand):
                    if isinstance(event, str):
                        yield Step("progress_writing", {}, 0.7, event)
                    else:
                        answers.append(event)
        piece = {**answers[0], "start": start, "end": end}
        seconds_taken = time.monotonic() - began
        yield Result([piece], answers[1:], thumbnails, start, end, seconds_taken, num_translations=num_translations)

    def _check_length(self, clip: dict[str, Any], seconds: float) -> None:
        try:
            self.pipeline.check_length(len(clip[self.input_name]), "the video")
        except ValueError as error:
            problem = VideoProblem("error_too_short") if error.reason == "too_short" else _too_long_for_one(seconds)
            raise problem from error

    def _long(
        self, path: str, start: float, end: float, visitor: str, began: float, hand: dict[str, Any]
    ) -> Iterator[Step | Result]:
        with self._splitting.join(visitor) as turn:
            yield from _until_it_comes(turn)
            yield Step("progress_splitting", {}, 0.0)
            segments = self.reader.split_at_rests(path, start, end)
        pieces: list[dict[str, Any]] = []

        def result(is_whole: bool) -> Result:
            said = [piece for piece in pieces if piece["translation_text"]]
            return Result(said, [], [], start, end, time.monotonic() - began, is_whole)

        finished = None
        for event in self._write_pieces(path, segments, visitor, hand):
            if isinstance(event, dict):
                pieces.append(event)
                finished = result(is_whole=False)
            number = min(pieces[-1]["piece"] + 2 if pieces else 1, len(segments))
            sentence = event if isinstance(event, str) else ""
            values = {"number": number, "total": len(segments)}
            yield Step("progress_piece", values, (number - 1) / len(segments), sentence, finished)
        yield result(is_whole=True)

    def _clips(self, path: str, segments: list[dict[str, float]], visitor: str) -> Iterator[dict[str, Any]]:
        """Pieces of a long video; other visitors get their turn between two of them."""
        if os.environ.get("SPACES_ZERO_GPU"):  # there, this runs in a separate process that cannot reach the readers
            times = [(segment["start"], segment["end"]) for segment in segments]
            clips = self.pipeline.processor.modality.read_segments(path, times)
            yield from ({**clip, **segment} for clip, segment in zip(clips, segments, strict=True))
            return
        for segment in segments:
            with self._reading.join(visitor) as reading:
                reading.wait()
                clip = self.reader.read(path, segment["start"], segment["end"])
                with self._writing.join(visitor) as writing:
                    writing.wait()
                    reading.leave()
                    yield {**clip, **segment}  # goes on when this one is written


def _until_it_comes(turn: Turn) -> Iterator[Step]:
    """Yield a step now and then, as long as others are ahead."""
    is_first = True
    while not turn.wait(0 if is_first else SECONDS_BETWEEN_REPORTS):
        is_first = False
        yield Step("progress_waiting", {"number": turn.num_before()}, 0.0)


def _checked_part(start: float | None, end: float | None, seconds: float) -> tuple[float, float]:
    start, end = max(float(start or 0), 0.0), seconds if end is None else float(end)
    if not math.isfinite(start) or start >= seconds:
        raise VideoProblem("error_times_outside", start=start, duration=seconds)
    if not start < end:
        raise VideoProblem("error_times", start=start, end=end)
    end = min(end, seconds)
    if end - start < SHORTEST_PART_IN_SECONDS:
        raise VideoProblem("error_too_short")
    return start, end


def _too_long_for_one(seconds: float) -> VideoProblem:
    return VideoProblem("error_too_long_for_one", seconds=round(seconds), limit=LONGEST_SENTENCE_IN_SECONDS)


class WriteDown(StoppingCriteria):
    """Shows the best sentence so far at each token, and stops when the time is up or nobody waits any more."""

    def __init__(self, decode: Callable[[torch.Tensor], str], show: Callable[[str], None], is_over: Callable[[], bool]):
        self.decode, self.show, self.is_over = decode, show, is_over

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        self.show(self.decode(input_ids[0]))  # beams come best first
        return torch.full((len(input_ids),), self.is_over(), dtype=torch.bool, device=input_ids.device)


def _in_background(
    ask: Callable[[dict[str, Any]], Iterable[dict[str, Any]]], pipeline: Pipeline, seconds: float
) -> Iterator[str | dict[str, Any]]:
    """
    Yield the sentence as it grows, and answers of the pipeline as they come.

    Args:
        ask: returns the answers, given the arguments of a call.
        seconds: time limit, after which a `VideoProblem` is raised.
    """
    events: queue.SimpleQueue = queue.SimpleQueue()
    deadline, is_stopped = time.monotonic() + seconds, threading.Event()

    def is_over() -> bool:
        return is_stopped.is_set() or time.monotonic() > deadline

    write_down = StoppingCriteriaList([WriteDown(pipeline.processor.decode, events.put, is_over)])

    def run() -> None:
        try:
            for answer in ask({**EVIDENCE, "stopping_criteria": write_down}):
                if is_over():
                    raise VideoProblem("error_took_too_long")
                events.put(answer)
            events.put(None)
        except Exception as error:  # raised again below, in the thread of the visitor
            events.put(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while (event := events.get()) is not None:
            if isinstance(event, Exception):
                raise event
            yield event
    finally:
        is_stopped.set()
        thread.join()


def _answers(
    pipeline: Pipeline, clip: dict[str, Any], num_translations: int, evidence: dict[str, Any]
) -> list[dict[str, Any]]:
    """As many sentences as were asked for; for one, the best sentence and as many others as the beams give."""
    num_beams = pipeline.model.generation_config.num_beams or 1
    count = min(1 + MOST_ALTERNATIVES, num_beams) if num_translations == 1 else num_translations
    # Models that older versions pushed do not say it: they all need beams.
    draws_samples = getattr(pipeline.model, "draws_samples", False)
    beams = {} if draws_samples else {"num_beams": max(num_beams, count)}
    answers = pipeline(clip, num_return_sequences=count, **beams, **evidence)
    answers = answers if isinstance(answers, list) else [answers]
    return _most_frequent_first(answers) if draws_samples else answers


def _most_frequent_first(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Samples come in no order. Those with the same sentence get the mean of their scores: it is about the sentence."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for sample in samples:
        groups.setdefault(sample["translation_text"], []).append(sample)
    for same in groups.values():
        for name in {"score", "confidence"} & same[0].keys():
            mean = sum(sample[name] for sample in same) / len(same)
            for sample in same:
                sample[name] = mean
    ordered = sorted(groups.values(), key=lambda same: (-len(same), -same[0].get("score", 0.0)))
    return [sample for same in ordered for sample in same]
