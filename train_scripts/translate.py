"""
Translate sign language videos with a trained model.

    flallm-translate --model quickstart_output/model clip.mp4 more_clips/ --format csv --output translations.csv

A video longer than one sentence is split where the hands rest, and each of its sentences gets its time:

    flallm-translate --model quickstart_output/model talk.mp4 --long --srt --vtt

writes the captions talk.srt and talk.vtt beside talk.mp4, which video players find by their name. A LLaVA-SLT that was
trained in several languages is asked for one of them with `--spoken_language de`.

Takes files and folders (every video in them and below). A file that cannot be read never stops the others: it is named
at the end, and the exit status is 1.
"""

import argparse
import csv
import io
import itertools
import json
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from tqdm import tqdm

from modeling_flallm import FLaLLMForTranslation, SignLanguageTranslationPipeline
from modeling_flallm.own_processing import (
    FLaLLMProcessor,
    VideoDecodingError,
    format_captions,
    is_hidden_file,
    is_video_file,
)

from .cores import num_cores
from .languages import check_spoken_language, language_name
from .machine import default_device, describe_machine, prepare_machine
from .quantization import DTYPES, QUANTIZATIONS, load_to_translate

MOST_FILES_NAMED = 20
BATCHES_SORTED_BY_LENGTH = 4
MOST_READING_THREADS = 4
Item, Result = TypeVar("Item"), TypeVar("Result")


@dataclass
class Translation:
    """What came of one video: a text or an error; `pieces` are its sentences with `start` and `end` in seconds."""

    file: str
    text: str = ""
    error: str = ""
    position: int = 0  # among the videos
    pieces: list[dict[str, Any]] = field(default_factory=list)


def find_videos(paths: Sequence[str]) -> list[Path]:
    """
    Files as they are named, and all videos below each folder, in order of their names. Hidden files are left out, and
    so is what is no video, which is named on standard error.
    """
    videos: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            videos.append(path)
            continue
        files = sorted(file for file in path.rglob("*") if not _is_hidden_below(path, file) and not file.is_dir())
        videos += [file for file in files if is_video_file(file)]
        _name_left_out(path, [str(file.relative_to(path)) for file in files if not is_video_file(file)])
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
) -> Iterator[Translation]:
    """
    A translation of each of `videos`, bad files included, as soon as it is done: `position` tells its place. While the
    language model writes the sentences of one batch, the visual encoder works on the next one, and threads read the
    videos of those behind.

    Args:
        start, end: seconds within each video; default: all of it.
        num_beams: default: as the model was saved.
        caption_formats: "srt" and "vtt": caption files to write beside each video.
        num_workers: threads that read videos.
    """
    generation = {} if num_beams is None else {"num_beams": num_beams}

    def read(numbered: tuple[int, Path]) -> _Clip:
        return _read_clip(model, processor, *numbered, start, end, caption_formats)

    def encode(batch: list[_Clip]) -> tuple[list[Translation], dict[str, torch.Tensor]]:
        clips = [clip.frames for clip in batch if clip.frames is not None]
        return [clip.translation for clip in batch], _encode(model, processor, clips) if clips else {}

    most_read = batch_size * BATCHES_SORTED_BY_LENGTH + num_workers
    with ThreadPoolExecutor(num_workers) as readers, ThreadPoolExecutor(1) as encoder:
        clips = _ahead(readers, read, enumerate(videos), most_read)
        for translations, inputs in _ahead(encoder, encode, _batches(clips, batch_size), 1):
            if inputs:  # none of files with an error
                sentences = _generate(model, processor, inputs, generation)
                for translation, sentence in zip(translations, sentences, strict=True):
                    translation.text = translation.pieces[0]["text"] = sentence
                    write_captions(translation, caption_formats)
            yield from translations


def translate_long_videos(
    translator: SignLanguageTranslationPipeline,
    videos: Sequence[Path],
    start: float | None = None,
    end: float | None = None,
    num_beams: int | None = None,
    caption_formats: Sequence[str] = (),
) -> Iterator[Translation]:
    """As `translate_videos`, for videos longer than one sentence: one video and one piece of it after the other."""
    generation = {} if num_beams is None else {"num_beams": num_beams}
    for position, video in enumerate(videos):
        translation = Translation(str(video), position=position)
        try:
            _check_caption_files(video, caption_formats)
            segments = translator.processor.video_processor.split_at_rests(str(video), start, end)
            if not segments:
                raise ValueError(f"Nobody moves in {video}: there is nothing to translate.")
            answers = translator.translate_long(str(video), segments, **generation)
            for answer in tqdm(answers, total=len(segments), unit="sentence", desc=video.name, leave=False):
                piece = {"start": answer["start"], "end": answer["end"], "text": answer["translation_text"]}
                translation.pieces.append(piece)
            translation.text = " ".join(piece["text"] for piece in translation.pieces if piece["text"])
            write_captions(translation, caption_formats)
        except (VideoDecodingError, ValueError, OSError) as error:
            translation.error = str(error)
        yield translation


def write_captions(translation: Translation, caption_formats: Sequence[str]) -> None:
    """Write caption files beside the video. One that cannot be written becomes the error of this translation."""
    captions = [{**piece, "translation_text": piece["text"]} for piece in translation.pieces]
    try:
        for format_name in caption_formats:
            _check_caption_files(Path(translation.file), [format_name])
            content = format_captions(captions, format_name)
            with (
                Path(translation.file).with_suffix(f".{format_name}").open("x", encoding="utf-8", newline="\n") as file
            ):
                file.write(content)
    except (ValueError, OSError) as error:
        translation.error = str(error)


def _check_caption_files(video: Path, caption_formats: Sequence[str]) -> None:
    for format_name in caption_formats:
        path = video.with_suffix(f".{format_name}")
        if path.exists():
            raise ValueError(f"{path} exists already. Move it away to have new captions written.")


@dataclass
class _Clip:
    """What was read of a video: `frames`, uint8 `(frames, 3, height, width)`, or `None` beside an error."""

    translation: Translation
    frames: torch.Tensor | None = None


def _batches(clips: Iterator[_Clip], batch_size: int) -> Iterator[list[_Clip]]:
    """
    Batches of clips of similar length, for all of a batch waits until its longest sentence is finished. Clips are
    sorted a few batches at a time; those with an error make a batch of their own.
    """
    while together := list(itertools.islice(clips, batch_size * BATCHES_SORTED_BY_LENGTH)):
        good = [clip for clip in together if clip.frames is not None]
        if bad := [clip for clip in together if clip.frames is None]:
            yield bad
        good.sort(key=lambda clip: len(clip.frames))
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
    model: FLaLLMForTranslation,
    processor: FLaLLMProcessor,
    position: int,
    video: Path,
    start: float | None,
    end: float | None,
    caption_formats: Sequence[str],
) -> _Clip:
    """Sampled, resized and cropped frames; the error of a file that cannot be read, or is too short or too long."""
    translation = Translation(str(video), position=position)
    try:
        _check_caption_files(video, caption_formats)
        inputs = processor.video_processor(
            str(video), start=start, end=end, do_rescale=False, do_normalize=False, return_metadata=True
        )
        frames = inputs["pixel_values_videos"][0]
        num_tokens = model.vision_model.get_num_tokens(len(frames))
        if num_tokens < 1:
            raise ValueError(f"{video} is too short to translate: {len(frames)} frame(s) are left after sampling.")
        if not model.config.is_encoder_decoder:
            num_tokens += processor.num_prompt_tokens
        model.check_num_tokens(num_tokens)  # here, so that one long clip does not stop the others of its batch
    except (VideoDecodingError, ValueError, OSError) as error:
        translation.error = str(error)
        return _Clip(translation)
    metadata = inputs["video_metadata"][0]
    begin = max(start or 0.0, metadata["start_in_seconds"] or 0.0)
    translation.pieces.append({"start": begin, "end": begin + (metadata["duration"] or 0.0)})
    return _Clip(translation, frames)


@torch.no_grad()
def _encode(
    model: FLaLLMForTranslation, processor: FLaLLMProcessor, clips: list[torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Frames, uint8, of each clip -> what `generate` takes instead of them."""
    frames = [clip.to(model.device) for clip in clips]
    inputs = dict(
        processor(videos=frames, do_sample_frames=False, do_resize=False, do_center_crop=False, return_tensors="pt")
    )
    output = model.vision_model(inputs.pop("pixel_values_videos"), inputs.pop("pixel_attention_mask"))
    inputs["visual_features"], inputs["visual_attention_mask"] = output.last_hidden_state, output.attention_mask
    return {name: values.to(model.device) for name, values in inputs.items()}


@torch.no_grad()
def _generate(
    model: FLaLLMForTranslation,
    processor: FLaLLMProcessor,
    inputs: dict[str, torch.Tensor],
    generation: dict[str, int],
) -> list[str]:
    return processor.batch_decode(model.generate(**inputs, **generation))


def format_translations(translations: Sequence[Translation], format_name: str, with_pieces: bool = False) -> str:
    """
    As `text` (file, tab, sentence; good files only), or `jsonl` or `csv`, which hold bad files with their error.
    `with_pieces` adds to each line of `jsonl` the list of `pieces`, and gives each piece a row of the `csv`.
    """
    names = ["file", "text", "error"]
    if format_name == "jsonl":
        names += ["pieces"] * with_pieces
        rows = [{name: getattr(translation, name) for name in names} for translation in translations]
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if format_name == "csv":
        rows = [{name: getattr(translation, name) for name in names} for translation in translations]
        if with_pieces:
            names = ["file", "start", "end", "text", "error"]
            rows = [
                row | piece
                for row, translation in zip(rows, translations, strict=True)
                for piece in (translation.pieces if not translation.error else [{}])
            ]
        file = io.StringIO()
        writer = csv.DictWriter(file, fieldnames=names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return file.getvalue()
    return "".join(f"{translation.file}\t{translation.text}\n" for translation in translations if not translation.error)


def parse_command_line(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Translate sign language videos.", allow_abbrev=False)
    parser.add_argument("videos", nargs="+", help="video files, or folders of them")
    parser.add_argument("--model", required=True, help="folder or Hub id of a trained model")
    parser.add_argument("--format", choices=["text", "jsonl", "csv"], default="text", help="form of the output")
    parser.add_argument("--output", type=Path, help="file to write; default: standard output")
    parser.add_argument("--batch_size", type=int, default=8, help="clips that are translated together")
    parser.add_argument("--num_beams", type=int, help="beams; default: as the model was saved")
    parser.add_argument("--start", type=float, help="second at which to start in each video")
    parser.add_argument("--end", type=float, help="second at which to stop in each video")
    parser.add_argument("--long", action="store_true", help="split videos longer than one sentence where hands rest")
    parser.add_argument("--srt", action="store_true", help="write captions beside each video, as clip.srt")
    parser.add_argument("--vtt", action="store_true", help="write captions beside each video, as clip.vtt")
    parser.add_argument(
        "--dtype",
        choices=list(DTYPES),
        help="in what the model computes; default: bfloat16 where the processor does so natively, else float32",
    )
    parser.add_argument(
        "--quantization",
        choices=QUANTIZATIONS,
        help="bits in which the language model keeps its weights: less memory, and on CPUs int8 is the fastest",
    )
    parser.add_argument(
        "--num_workers",
        type=int,
        default=min(MOST_READING_THREADS, max(num_cores() - 1, 1)),
        help="threads that read videos ahead of the model",
    )
    parser.add_argument(
        "--spoken_language",
        help="LLaVA-SLT: tag of the language to write, such as de; default: the one it was trained in",
    )
    parser.add_argument("--num_threads", type=int, help="threads of a CPU; default: one for each core that is free")
    parser.add_argument("--device", help="such as cuda or cpu; default: the accelerator if there is one")
    arguments = parser.parse_args(argv)
    for name in ("batch_size", "num_beams", "num_workers", "num_threads"):
        number = getattr(arguments, name)
        if number is not None and number < 1:
            parser.error(f"--{name} must be 1 or more, got {number}")
    if arguments.device is not None and not _is_usable(arguments.device):
        parser.error(f"--device {arguments.device} cannot be used here; leave it out for {default_device().type}")
    if arguments.output is not None and arguments.output.exists():
        parser.error(f"--output {arguments.output} exists already; name a new file")
    if arguments.output is not None and not arguments.output.parent.is_dir():
        parser.error(f"--output {arguments.output}: there is no folder {arguments.output.parent}")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_command_line(argv)
    videos = find_videos(arguments.videos)
    if not videos:
        print(f"error: no video in {', '.join(arguments.videos)}", file=sys.stderr)
        return 1
    try:
        device = torch.device(arguments.device or default_device())
        check_spoken_language(arguments.spoken_language)
        prepare_machine(device, arguments.num_threads)
        model, processor = load_to_translate(arguments.model, device, arguments.dtype, arguments.quantization)
        print(describe_machine(device, model.vision_model.dtype), file=sys.stderr)
        if arguments.spoken_language is not None:
            choose_language(model, processor, arguments.spoken_language)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    caption_formats = [name for name in ("srt", "vtt") if getattr(arguments, name)]
    wanted = (arguments.start, arguments.end, arguments.num_beams, caption_formats)
    if arguments.long:
        # The pipeline refuses a device beside a model that was loaded onto one, as quantized ones are.
        device = None if hasattr(model, "hf_device_map") else model.device
        translator = SignLanguageTranslationPipeline(model=model, processor=processor, device=device)
        stream = translate_long_videos(translator, videos, *wanted)
    else:
        stream = translate_videos(model, processor, videos, arguments.batch_size, *wanted, arguments.num_workers)
    with closing(stream):  # at Ctrl-C, too, the threads get nothing more to read
        translations = list(tqdm(stream, total=len(videos), unit="clip", desc="translating"))
    translations.sort(key=lambda translation: translation.position)
    output = format_translations(translations, arguments.format, arguments.long)
    if arguments.output is None:
        sys.stdout.write(output)
    else:
        arguments.output.write_text(output, encoding="utf-8")
    return _report_errors(translations)


def choose_language(model: FLaLLMForTranslation, processor: FLaLLMProcessor, tag: str) -> None:
    """
    Have the prompt ask for the language of a tag, by its English name, as training does.

    Raises:
        ValueError: the pipeline's, for a model that reads no prompt.
    """
    if model.config.is_encoder_decoder:
        raise ValueError(
            "`spoken_language` goes into a prompt, and this model reads none. Choose its language by the tokenizer's "
            "`tgt_lang` and `forced_bos_token_id`."
        )
    processor.spoken_language = language_name(tag) or tag


def _is_usable(device: str) -> bool:
    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError):  # an unknown name, or a device that this machine or build has not
        return False
    return True


def _report_errors(translations: Sequence[Translation]) -> int:
    bad = [translation for translation in translations if translation.error]
    if bad:
        print(f"{len(bad)} of {len(translations)} file(s) could not be translated:", file=sys.stderr)
    for translation in bad:
        print(f"  {translation.file}: {translation.error}", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
