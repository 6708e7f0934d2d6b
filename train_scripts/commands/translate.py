"""
Translate sign language videos with a trained model.

    flallm translate --model quickstart_output/model clip.mp4 more_clips/ --format csv --output translations.csv

A video longer than one sentence is split where the hands rest, and each of its sentences gets its time:

    flallm translate --model quickstart_output/model talk.mp4 --long --srt --vtt

writes the captions talk.srt and talk.vtt beside talk.mp4, which video players find by their name. A LLaVA-SLT that was
trained in several languages is asked for one of them with `--spoken_language de`.

Takes files and folders (every video in them and below). A file that cannot be translated never stops the others: it is
named at the end, and the exit status is 1. With `--output` everything finished is kept as it comes, beside it in
`translations.csv.unfinished.jsonl`: the same command run again goes on from there. A calibrated model also fills the
columns `confidence` and `familiar` of csv and jsonl.
"""

import dataclasses
import datetime
import itertools
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from tqdm import tqdm

from modeling_flallm import FLaLLMForTranslation, SignLanguageTranslationPipeline
from modeling_flallm.clip_translation_slt import EncodedClips
from modeling_flallm.own_processing import (
    FLaLLMProcessor,
    VideoDecodingError,
    is_feature_file,
    is_hidden_file,
    is_video_file,
)

from ..arguments.command_arguments import TranslateArguments
from ..arguments.command_line import run_command, show_traceback
from ..arguments.commands import COMMANDS
from ..hub.training_run import longest_clip_of_training
from ..languages.languages import language_in_prompt
from ..machine.atomic_files import write_text
from ..machine.machine import default_device, describe_machine, prepare_machine
from ..runs.quantization import load_to_translate
from ..runs.translation_results import (
    CAPTION_FORMATS,
    Journal,
    Printer,
    Table,
    Translation,
    clashing_captions,
    has_captions,
    journal_path,
    write_captions,
)

MOST_FILES_NAMED = 20
BATCHES_SORTED_BY_LENGTH = 4
NO_MEMORY = "can't allocate memory"  # torch on a CPU
Item, Result = TypeVar("Item"), TypeVar("Result")


def find_videos(paths: Sequence[str]) -> list[Path]:
    """
    Files as they are named, and all videos below each folder, in order of their names; of a folder without videos all
    files of visual features. Hidden files are left out, and so is everything else, which is named on standard error.
    """
    videos: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            videos.append(path)
            continue
        files = sorted(file for file in path.rglob("*") if not _is_hidden_below(path, file) and not file.is_dir())
        found = [file for file in files if is_video_file(file)] or [file for file in files if is_feature_file(file)]
        videos += found
        _name_left_out(path, [str(file.relative_to(path)) for file in files if file not in set(found)])
    return videos


def _is_hidden_below(folder: Path, file: Path) -> bool:
    return any(is_hidden_file(part) for part in file.relative_to(folder).parts)


def _name_left_out(folder: Path, names: list[str]) -> None:
    if names:
        more = f" and {len(names) - MOST_FILES_NAMED} more" if len(names) > MOST_FILES_NAMED else ""
        listed = ", ".join(names[:MOST_FILES_NAMED])
        print(f"Left out {len(names)} file(s) of {folder} that are no videos: {listed}{more}", file=sys.stderr)


def translate_videos(
    model: FLaLLMForTranslation,
    processor: FLaLLMProcessor,
    videos: Sequence[Path],
    batch_size: int = 8,
    start: float | None = None,
    end: float | None = None,
    num_beams: int | None = None,
    caption_formats: Sequence[str] = (),
    num_workers: int = 1,
    longest_clip: int | None = None,
    with_confidence: bool = False,
) -> Iterator[Translation]:
    """
    A translation of each of `videos`, bad files included, as soon as it is done: `position` tells its place. While the
    language model writes the sentences of one batch, the visual encoder works on the next one, and threads read the
    videos of those behind. Whatever fails on a batch is tried on each of its clips alone.

    Args:
        start, end: seconds within each video; default: all of it.
        num_beams: default: as the model was saved.
        caption_formats: "srt" and "vtt": caption files to write beside each video.
        num_workers: threads that read videos.
        longest_clip: visual tokens of the longest clip that the model was trained on; longer ones are marked.
        with_confidence: of a calibrated model, which then keeps the scores of all tokens in memory.
    """
    generation = {"return_scores": with_confidence} | ({} if num_beams is None else {"num_beams": num_beams})
    translator = build_translator(model, processor)

    def read(numbered: tuple[int, Path]) -> _Clip:
        clip = _read_clip(translator, *numbered, start, end)
        if clip.read is not None and longest_clip is not None:
            num_tokens = model.vision_model.get_num_tokens(clip.num_frames)
            clip.translation.is_longer_than_trained = num_tokens > longest_clip
        return clip

    def encode(batch: list[_Clip]) -> tuple[list[_Clip], EncodedClips | None]:
        clips = [clip.read for clip in batch if clip.read is not None]
        try:
            return batch, translator.encode_clips(clips) if clips else None
        except Exception as error:  # the batch is then tried clip by clip
            show_traceback(error)
            return batch, None

    def write(batch: list[_Clip], encoded: EncodedClips | None) -> None:
        """Give each clip of a batch its sentence, or its error."""
        problem = None
        try:
            encoded = translator.encode_clips([clip.read for clip in batch]) if encoded is None else encoded
            answers = _write(translator, encoded, generation)
        except Exception as error:  # one clip must not end the work on all others
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
            if batch[0].read is not None:  # else files with an error
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
) -> Iterator[Translation]:
    """
    As `translate_videos`, for videos longer than one sentence: one video and one piece of it after the other. Pieces
    that the journal has are not translated again.
    """
    generation = {"return_scores": with_confidence} | ({} if num_beams is None else {"num_beams": num_beams})
    for position, video in enumerate(videos):
        translation = Translation(str(video), position=position)
        try:
            for piece in _pieces(translator, video, start, end, generation, journal):
                translation.pieces.append(piece)
            translation.text = " ".join(piece["text"] for piece in translation.pieces if piece["text"])
            write_captions(translation, caption_formats)
        except Exception as error:  # one video must not end the work on all others
            show_traceback(error)
            translation.error = _text_of(error)
        yield translation


def _pieces(
    translator: SignLanguageTranslationPipeline,
    video: Path,
    start: float | None,
    end: float | None,
    generation: dict[str, Any],
    journal: Journal | None,
) -> Iterator[dict[str, Any]]:
    segments = translator.processor.video_processor.split_at_rests(str(video), start, end)
    if not segments:
        raise ValueError(f"Nobody moves in {video}: there is nothing to translate.")
    finished = [] if journal is None else journal.pieces(video)
    # Of the last segment there may be more to come. The one before it is translated again for what it said.
    next_segment = max((piece["piece"] for piece in finished), default=0)
    first = max(next_segment - 1, 0)
    by_times = {(piece["start"], piece["end"]): piece for piece in finished if piece["piece"] < next_segment}
    yield from ({name: value for name, value in piece.items() if name != "piece"} for piece in by_times.values())
    answers = translator.translate_long(str(video), segments[first:], **generation)
    for answer in tqdm(answers, total=len(segments) - first, unit="sentence", desc=video.name, leave=False):
        piece = {"start": answer["start"], "end": answer["end"]} | _columns_of(answer)
        if first + answer["piece"] < next_segment:
            continue
        if journal is not None:
            journal.add_piece(video, {**piece, "piece": first + answer["piece"]})
        yield piece


def is_calibrated(model: FLaLLMForTranslation) -> bool:
    """Whether flallm calibrate has measured how far the model's scores can be trusted."""
    return getattr(model.config, "confidence_calibration", None) is not None


def build_translator(model: FLaLLMForTranslation, processor: FLaLLMProcessor) -> SignLanguageTranslationPipeline:
    # The pipeline refuses a device beside a model that was loaded onto one, as quantized ones are.
    device = None if hasattr(model, "hf_device_map") else model.device
    return SignLanguageTranslationPipeline(model=model, processor=processor, device=device)


def _text_of(error: Exception) -> str:
    """One line; of what is not about the file with the kind of error."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or NO_MEMORY in text:
        return (
            "There is not enough memory for it. Try --dtype bfloat16 or fewer --num_beams, a part of it with --start "
            "and --end, or --long for a video of more than one sentence."
        )
    return text if isinstance(error, VideoDecodingError | ValueError | OSError) else f"{type(error).__name__}: {text}"


@dataclass
class _Clip:
    """What `read_clip` of the pipeline gave for a video, `None` beside an error."""

    translation: Translation
    read: dict[str, Any] | None = None

    @property
    def num_frames(self) -> int:
        return len(self.read["frames"])


def _batches(clips: Iterator[_Clip], batch_size: int) -> Iterator[list[_Clip]]:
    """
    Batches of clips of similar length, for all of a batch waits until its longest sentence is finished. Clips are
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
    """The results of a function in the order of the items, up to `most` of them in work before they are asked for."""
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
    translator: SignLanguageTranslationPipeline, position: int, video: Path, start: float | None, end: float | None
) -> _Clip:
    """What is read of a file; the error of one that cannot be read, or is too short or too long."""
    translation = Translation(str(video), position=position)
    try:
        clip = translator.read_clip(str(video), start, end)
    except Exception as error:  # one file must not end the work on all others
        show_traceback(error)
        translation.error = _text_of(error)
        return _Clip(translation)
    begin = max(start or 0.0, clip["metadata"]["start_in_seconds"] or 0.0)
    translation.pieces.append({"start": begin, "end": begin + (clip["metadata"]["duration"] or 0.0)})
    return _Clip(translation, clip)


def _write(
    translator: SignLanguageTranslationPipeline, encoded: EncodedClips, generation: dict[str, Any]
) -> list[dict[str, Any]]:
    """The `text` of each clip; with scores of a calibrated model also its `confidence` and `familiar`."""
    written = translator.write_sentences(encoded, **generation)
    return [_columns_of(*translator.answers_of(clip)) for clip in written]


def _columns_of(answer: dict[str, Any]) -> dict[str, Any]:
    columns = {"text": answer["translation_text"]}
    if "confidence" in answer:
        columns |= {"confidence": answer["confidence"], "familiar": answer["is_familiar"]}
    return columns


def _check(arguments: TranslateArguments) -> None:
    """
    Raises:
        ValueError: for a device or an output file that cannot be.
    """
    if arguments.device is not None and not _is_usable(arguments.device):
        raise ValueError(f"--device {arguments.device} cannot be used here; leave it out for {default_device().type}")
    output = arguments.output
    if output is None:
        return
    if output.exists() and not journal_path(output).exists():
        raise ValueError(f"--output {output} exists already. Name a new file, or delete this one.")
    if not output.parent.is_dir():
        raise ValueError(f"--output {output}: there is no folder {output.parent}")


def run(argv: Sequence[str] | None = None) -> int:
    """
    Translate from command-line arguments; 1 if a file could not be translated.

    Raises:
        ValueError: for what the user has to mend.
    """
    (arguments,) = COMMANDS["translate"].parse(argv)
    _check(arguments)
    if os.environ.get("RANK", "0") != "0":
        return 0  # of several processes of torchrun or accelerate only the first one translates
    videos = list(dict.fromkeys(find_videos(arguments.videos)))
    if not videos:
        raise ValueError(f"There is no video in {', '.join(arguments.videos)}.")
    if arguments.output is None:
        return _translate(arguments, videos, None)
    return _translate(arguments, videos, Journal(arguments.output, _settings(arguments)))


def _settings(arguments: TranslateArguments) -> dict[str, Any]:
    """What decides the translations of a run, by the names of the flags."""
    names = ("model", "start", "end", "num_beams", "long", "srt", "vtt", "dtype", "quantization", "spoken_language")
    settings = {f"--{name}": getattr(arguments, name) for name in names}
    folder = Path(arguments.model)
    files = [*folder.glob("*.safetensors"), *folder.glob("*config.json")] if folder.is_dir() else []
    if files:
        newest = datetime.datetime.fromtimestamp(max(file.stat().st_mtime for file in files))
        settings["model files of"] = newest.isoformat(" ")
    return settings


def _translate(arguments: TranslateArguments, videos: Sequence[Path], journal: Journal | None) -> int:
    caption_formats = [name for name in CAPTION_FORMATS if getattr(arguments, name)]
    results = _known_results(videos, caption_formats, journal)
    remaining = [position for position in range(len(videos)) if position not in results]
    if journal is None:
        remaining = _without_captions(videos, remaining, caption_formats)
    model, processor = _load(arguments)
    # With a journal always: the format may be another one when the command is run again.
    with_confidence = is_calibrated(model) and (arguments.format != "text" or journal is not None)
    table = Table(arguments.format, arguments.long, with_confidence)
    printer = None if journal is not None else Printer(table, sorted([*results, *remaining]))
    to_do = [videos[position] for position in remaining]
    stream = _open_stream(arguments, model, processor, to_do, journal, with_confidence)
    try:
        for result in results.values() if printer is not None else ():
            printer.add(result)
        with closing(stream):  # at Ctrl-C, too, the threads get nothing more to read
            for result in tqdm(stream, total=len(remaining), unit="clip", desc="translating"):
                result.position = remaining[result.position]
                results[result.position] = result
                printer.add(result) if journal is None else journal.add(result)
    finally:
        if printer is not None:
            printer.close()
    in_order = [results[position] for position in sorted(results)]
    if journal is not None:
        write_text(arguments.output, table.text(in_order))
    return _report(in_order, journal)


def _known_results(
    videos: Sequence[Path], caption_formats: Sequence[str], journal: Journal | None
) -> dict[int, Translation]:
    """By position, what an earlier run finished, and what cannot be done."""
    clashes = clashing_captions(videos, caption_formats)
    results = {}
    for position, video in enumerate(videos):
        finished = None if journal is None else journal.finished(video)
        if video in clashes:
            results[position] = Translation(str(video), error=clashes[video], position=position)
        elif finished is not None:
            results[position] = dataclasses.replace(finished, position=position)
            write_captions(results[position], caption_formats)  # somebody may have removed them since
    num_finished = len(results) - len(clashes)
    if num_finished:
        print(f"Going on: {num_finished} of {len(videos)} video(s) are finished, see {journal.path}.", file=sys.stderr)
    return results


def _without_captions(videos: Sequence[Path], positions: Sequence[int], caption_formats: Sequence[str]) -> list[int]:
    """Of the positions those of videos whose captions have still to be written."""
    remaining = [position for position in positions if not has_captions(videos[position], caption_formats)]
    if len(remaining) < len(positions):
        print(
            f"{len(positions) - len(remaining)} of {len(videos)} video(s) have their captions already and are left "
            "out. Move these files away to have new ones written.",
            file=sys.stderr,
        )
    return remaining


def _load(arguments: TranslateArguments) -> tuple[FLaLLMForTranslation, FLaLLMProcessor]:
    device = torch.device(arguments.device or default_device())
    prepare_machine(device, arguments.num_threads)
    model, processor = load_to_translate(arguments.model, device, arguments.dtype, arguments.quantization)
    print(describe_machine(device, model.vision_model.dtype), file=sys.stderr)
    if arguments.spoken_language is not None:
        choose_language(model, processor, arguments.spoken_language)
    return model, processor


def _open_stream(
    arguments: TranslateArguments,
    model: FLaLLMForTranslation,
    processor: FLaLLMProcessor,
    videos: Sequence[Path],
    journal: Journal | None,
    with_confidence: bool,
) -> Iterator[Translation]:
    caption_formats = [name for name in CAPTION_FORMATS if getattr(arguments, name)]
    wanted = (arguments.start, arguments.end, arguments.num_beams, caption_formats)
    if arguments.long and processor.modality.column != "video":
        raise ValueError("--long splits videos, but this model reads visual features. Leave it out.")
    if arguments.long:
        return translate_long_videos(build_translator(model, processor), videos, *wanted, journal, with_confidence)
    longest = longest_clip_of_training(arguments.model)
    amounts = (arguments.num_workers, longest, with_confidence)
    return translate_videos(model, processor, videos, arguments.batch_size, *wanted, *amounts)


def choose_language(model: FLaLLMForTranslation, processor: FLaLLMProcessor, tag: str) -> None:
    """
    Have the prompt ask for the language of a tag, by its English name, as training does.

    Raises:
        ValueError: the pipeline's, for a model that reads no prompt.
    """
    if not model.system.is_prompted:
        raise ValueError(
            "`spoken_language` goes into a prompt, and this model reads none. Choose its language by the tokenizer's "
            "`tgt_lang` and `forced_bos_token_id`."
        )
    processor.spoken_language = language_in_prompt(tag, processor.spoken_language)


def _is_usable(device: str) -> bool:
    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError):  # an unknown name, or a device that this machine or build has not
        return False
    return True


def _report(translations: Sequence[Translation], journal: Journal | None) -> int:
    """Say what went wrong, and return the exit status."""
    longer = [translation for translation in translations if translation.is_longer_than_trained]
    if longer:
        print(
            f"{len(longer)} of {len(translations)} file(s) are longer than every clip that the model was trained on, "
            "so their sentences may be invented. Add --long to have them split into sentences:",
            file=sys.stderr,
        )
    for translation in longer:
        seconds = translation.pieces[0]["end"] - translation.pieces[0]["start"]
        print(f"  {translation.file}: {seconds:.1f} seconds", file=sys.stderr)
    bad = [translation for translation in translations if translation.error]
    if bad:
        print(f"{len(bad)} of {len(translations)} file(s) could not be translated:", file=sys.stderr)
    for translation in bad:
        print(f"  {translation.file}: {translation.error}", file=sys.stderr)
    if journal is not None and bad:
        print(f"The same command run again tries these again; {journal.path} keeps the others.", file=sys.stderr)
    elif journal is not None:
        journal.delete()
    return 1 if bad else 0


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(run, argv, "With --output, the same command run again goes on after what is finished.")


if __name__ == "__main__":
    sys.exit(main())
