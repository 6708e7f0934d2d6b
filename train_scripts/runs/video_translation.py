"""Many videos to sentences: reading, encoding and writing overlap, and a bad file costs only itself."""

import functools
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from tqdm import tqdm
from transformers import PreTrainedConfig

from modeling_flallm import FLaLLMForTranslation, SignLanguageTranslationPipeline
from modeling_flallm.clip_translation_slt import EncodedClips
from modeling_flallm.own_processing import FLaLLMProcessor, VideoDecodingError

from ..arguments.command_line import show_traceback
from .clips_of_data_set import ClipOfDataSet
from .translation_results import (
    Journal,
    Translation,
    write_captions,
)

BATCHES_SORTED_BY_LENGTH = 4
NO_MEMORY = "can't allocate memory"  # torch on a CPU
Item, Result = TypeVar("Item"), TypeVar("Result")


def translate_videos(
    model: FLaLLMForTranslation,
    processor: FLaLLMProcessor,
    videos: Sequence[Path | ClipOfDataSet],
    batch_size: int = 8,
    start: float | None = None,
    end: float | None = None,
    num_beams: int | None = None,
    caption_formats: Sequence[str] = (),
    num_workers: int = 1,
    longest_clip: int | None = None,
    with_confidence: bool = False,
    choice: dict[str, Any] | None = None,
    left_handed: bool | str = False,
) -> Iterator[Translation]:
    """
    Yields a translation of each of `videos`, including failed files, as soon as it is done; `position` is its index.
    While the language model writes the sentences of one batch, the visual encoder works on the next one, and threads
    read the videos of later batches. If anything fails on a batch, each of its clips is tried alone.

    Args:
        start, end: seconds within each video; default: all of it.
        num_beams: default: the value saved with the model.
        caption_formats: "srt" and "vtt": caption files to write next to each video.
        num_workers: threads that read videos.
        longest_clip: visual tokens of the longest clip that the model was trained on; longer ones are marked.
        with_confidence: for a calibrated model, which then keeps the scores of all tokens in memory.
        choice: `num_candidates` and `choose_by` of the pipeline, to choose among candidates.
        left_handed: as of the pipeline; which hand was taken is told in `left_handed` of a translation.
    """
    generation = _generation(with_confidence, num_beams, choice)
    translator = build_translator(model, processor)
    encode_clips = functools.partial(translator.encode_clips, left_handed=left_handed)

    def read(numbered: tuple[int, Path | ClipOfDataSet]) -> _Clip:
        clip = _read_clip(translator, *numbered, start, end)
        if clip.read is not None and longest_clip is not None:
            num_tokens = model.vision_model.get_num_tokens(clip.num_frames)
            clip.translation.is_longer_than_trained = num_tokens > longest_clip
        return clip

    def encode(batch: list[_Clip]) -> tuple[list[_Clip], EncodedClips | None]:
        clips = [clip.read for clip in batch if clip.read is not None]
        try:
            return batch, encode_clips(clips) if clips else None
        except Exception as error:  # then the batch is tried clip by clip
            show_traceback(error)
            return batch, None

    def write(batch: list[_Clip], encoded: EncodedClips | None) -> None:
        """Give each clip of a batch its sentence, or its error."""
        problem = None
        try:
            encoded = encode_clips([clip.read for clip in batch]) if encoded is None else encoded
            answers = _write(translator, encoded, generation)
        except Exception as error:  # one clip must not stop the work on all others
            show_traceback(error)
            problem, encoded, answers = _text_of(error), None, []
        for clip, answer in zip(batch, answers, strict=False):
            clip.translation.pieces[0] |= answer
            _complete(clip.translation, answer)
            write_captions(clip.translation, caption_formats)
        if problem is not None and len(batch) == 1:
            batch[0].translation.error = problem
        elif problem is not None:
            torch.cuda.empty_cache()  # does nothing without CUDA
            for clip in batch:
                write([clip], None)

    most_read = batch_size * BATCHES_SORTED_BY_LENGTH + num_workers
    with ThreadPoolExecutor(num_workers) as readers, ThreadPoolExecutor(1) as encoder:
        clips = _ahead(readers, read, enumerate(videos), most_read)
        for batch, encoded in _ahead(encoder, encode, _batches(clips, batch_size), 1):
            if batch[0].read is not None:  # otherwise these are files with an error
                write(batch, encoded)
            yield from (clip.translation for clip in batch)


def _complete(translation: Translation, answer: dict[str, Any]) -> None:
    for name, value in answer.items():
        setattr(translation, name, value)


def translate_long_videos(
    translator: SignLanguageTranslationPipeline,
    videos: Sequence[Path],
    start: float | None = None,
    end: float | None = None,
    num_beams: int | None = None,
    caption_formats: Sequence[str] = (),
    journal: Journal | None = None,
    with_confidence: bool = False,
    choice: dict[str, Any] | None = None,
    left_handed: bool | str = False,
) -> Iterator[Translation]:
    """
    Like `translate_videos`, for videos longer than one sentence: one video and one piece of it at a time. Pieces in the
    journal are not translated again.
    """
    generation = _generation(with_confidence, num_beams, choice)
    generation |= {} if left_handed is False else {"left_handed": left_handed}
    for position, video in enumerate(videos):
        translation = Translation(str(video), position=position)
        try:
            for piece in _pieces(translator, video, start, end, generation, journal):
                translation.pieces.append(piece)
            translation.text = " ".join(piece["text"] for piece in translation.pieces if piece["text"])
            translation.left_handed = translation.pieces[-1].get("left_handed")
            write_captions(translation, caption_formats)
        except Exception as error:  # one video must not stop the work on all others
            show_traceback(error)
            translation.error = _text_of(error)
        yield translation


def _generation(with_confidence: bool, num_beams: int | None, choice: dict[str, Any] | None) -> dict[str, Any]:
    """Arguments of the pipeline."""
    beams = {} if num_beams is None else {"num_beams": num_beams}
    return {"return_scores": with_confidence} | beams | (choice or {})


def _pieces(
    translator: SignLanguageTranslationPipeline,
    video: Path,
    start: float | None,
    end: float | None,
    generation: dict[str, Any],
    journal: Journal | None,
) -> Iterator[dict[str, Any]]:
    segments = translator.processor.modality.split_at_rests(str(video), start, end)
    if not segments:
        raise ValueError(f"Nobody moves in {video}: there is nothing to translate.")
    finished = [] if journal is None else journal.pieces(video)
    # The last of these segments may have more pieces to come, so it is redone; so is the one before it, as context.
    next_segment = max((piece["piece"] for piece in finished), default=0)
    first = max(next_segment - 1, 0)
    by_times = {(piece["start"], piece["end"]): piece for piece in finished if piece["piece"] < next_segment}
    yield from ({name: value for name, value in piece.items() if name != "piece"} for piece in by_times.values())
    if by_times and "left_handed" in generation:  # the same hand for the whole video
        generation = {**generation, "left_handed": torch.tensor(finished[0]["left_handed"])}
    answers = translator.translate_long(str(video), segments[first:], **generation)
    for answer in tqdm(answers, total=len(segments) - first, unit="sentence", desc=video.name, leave=False):
        piece = {"start": answer["start"], "end": answer["end"]} | _columns_of(answer)
        if first + answer["piece"] < next_segment:
            continue
        if journal is not None:
            journal.add_piece(video, {**piece, "piece": first + answer["piece"]})
        yield piece


def is_calibrated(config: PreTrainedConfig) -> bool:
    """Whether flallm calibrate has measured how far the model's scores can be trusted."""
    return getattr(config, "confidence_calibration", None) is not None


def build_translator(model: FLaLLMForTranslation, processor: FLaLLMProcessor) -> SignLanguageTranslationPipeline:
    # The pipeline rejects a device for a model that was loaded onto one, as quantized models are.
    device = None if hasattr(model, "hf_device_map") else model.device
    return SignLanguageTranslationPipeline(model=model, processor=processor, device=device)


def _text_of(error: Exception) -> str:
    """One line; errors that are not about the file also name their type."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or NO_MEMORY in text:
        return (
            "There is not enough memory for it. Try --dtype bfloat16 or fewer --num_beams, a part of it with --start "
            "and --end, or --long for a video of more than one sentence."
        )
    return text if isinstance(error, VideoDecodingError | ValueError | OSError) else f"{type(error).__name__}: {text}"


@dataclass
class _Clip:
    """What the pipeline's `read_clip` returned for a video, `None` if there is an error."""

    translation: Translation
    read: dict[str, Any] | None = None

    @property
    def num_frames(self) -> int:
        return len(self.read["frames"])


def _batches(clips: Iterator[_Clip], batch_size: int) -> Iterator[list[_Clip]]:
    """
    Batches of clips of similar length, because a whole batch waits until its longest sentence is finished. Clips are
    sorted a few batches at a time; those with an error make a batch of their own.
    """
    while together := list(itertools.islice(clips, batch_size * BATCHES_SORTED_BY_LENGTH)):
        good = [clip for clip in together if clip.read is not None]
        if bad := [clip for clip in together if clip.read is None]:
            yield bad
        good.sort(key=lambda clip: clip.num_frames)
        yield from (good[first : first + batch_size] for first in range(0, len(good), batch_size))


def _ahead(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], most: int
) -> Iterator[Result]:
    """The results of a function in the order of the items, computing up to `most` of them ahead."""
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _read_clip(
    translator: SignLanguageTranslationPipeline,
    position: int,
    video: Path | ClipOfDataSet,
    start: float | None,
    end: float | None,
) -> _Clip:
    """What is read from a file or a row, or the error if it cannot be read, or is too short or too long."""
    translation = Translation(str(video), position=position)
    try:
        if isinstance(video, ClipOfDataSet):
            (clip,) = translator.preprocess(video.row())["clips"]
        else:
            clip = translator.read_clip(str(video), start, end)
    except Exception as error:  # one file must not stop the work on all others
        show_traceback(error)
        translation.error = _text_of(error)
        return _Clip(translation)
    begin = max(start or 0.0, clip["metadata"]["start_in_seconds"] or 0.0)
    translation.pieces.append({"start": begin, "end": begin + (clip["metadata"]["duration"] or 0.0)})
    return _Clip(translation, clip)


def _write(
    translator: SignLanguageTranslationPipeline, encoded: EncodedClips, generation: dict[str, Any]
) -> list[dict[str, Any]]:
    """The `text` of each clip; with the scores of a calibrated model also its `confidence` and `familiar`."""
    written = translator.write_sentences(encoded, **generation)
    return [_columns_of(*translator.answers_of(clip)) for clip in written]


def _columns_of(answer: dict[str, Any]) -> dict[str, Any]:
    columns = {"text": answer["translation_text"]}
    if "left_handed" in answer:
        columns["left_handed"] = answer["left_handed"]
    if "confidence" in answer:
        columns |= {"confidence": answer["confidence"], "familiar": answer["is_familiar"]}
    return columns
