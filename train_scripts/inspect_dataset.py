"""
What a person looks at before training: lengths, words, signers, leaks between splits, files that cannot be read.

    flallm-inspect --dataset my_corpus --output_dir inspection

The data set is a video folder (train/, dev/ or validation/, test/ with metadata.csv) or one on the Hub. The report is
printed, and written as one page that needs nothing else (`inspection.html`) and as figures (`inspection.json`). Every
clip is decoded to its end. What is broken is named and stops nothing; the exit status is then 1. Small, on a CPU:

    flallm-generate-corpus --output_dir corpus --num_train_clips 20 --num_dev_clips 10 --num_test_clips 10
    flallm-inspect --dataset corpus --output_dir inspection --tokenizer_name_or_path language_model
"""

import base64
import csv
import hashlib
import io
import json
import logging
import math
import multiprocessing
import os
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import jinja2
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import matplotlib.ticker
import torch
from PIL import Image
from tqdm import tqdm

from modeling_flallm.configuration_flallm import FLaLLMVisionConfig
from modeling_flallm.own_processing import FLaLLMVideoProcessor, VideoDecodingError, decode_video
from modeling_flallm.visual_encoder_flallm import LocalTemporalModule

from .arguments import check_new_folder, parse_arguments, read_yaml
from .corpus_schema import SPLITS, Problem
from .data import METADATA_FILES, VALIDATION_FOLDERS
from .languages import check_spoken_language, primary_language
from .training import open_tokenizer, run_command
from .translate import VIDEO_SUFFIXES

PAGE_TEMPLATE = Path(__file__).with_name("inspection_page.html")
DECODER_LOG = logging.getLogger(decode_video.__module__)  # where a damaged file is told of
# Written without spaces between the words; counted by character.
LANGUAGES_WITHOUT_SPACES = {"zh", "zho", "cmn", "yue", "ja", "jpn", "th", "tha"}
PRESETS = ("paper_visual_initialing", "sltbaselines_visual_initialing")
MAX_NUM_TOKENS = 1024  # learned positions of mBART
STRIP_HEIGHT_IN_PIXELS = 96
NUM_STRIP_FRAMES = 5
MOST_SHOWN = 20  # lines of a list other than that of broken files, in text and on the page; the JSON file has all


@dataclass
class InspectArguments:
    """Which data set, and where the report goes."""

    dataset: str = field(metadata={"help": "A video folder, or the id of a data set on the Hub."})
    output_dir: str = field(default="inspection", metadata={"help": "New or empty folder for the report."})
    text_column: str = field(default="text", metadata={"help": "Column that holds the spoken language sentence."})
    spoken_language: str | None = field(
        default=None, metadata={"help": "Language tag of sentences whose rows have none. zh, ja, th: by character."}
    )
    tokenizer_name_or_path: str | None = field(
        default=None, metadata={"help": "Tokenizer whose unknown characters and sentence lengths are counted."}
    )
    num_strips: int = field(default=4, metadata={"help": "Clips of each split that the page shows."})
    num_workers: int = field(default_factory=lambda: os.cpu_count() or 1, metadata={"help": "Decoding processes."})

    def __post_init__(self):
        check_spoken_language(self.spoken_language)
        if self.num_workers < 1 or self.num_strips < 0:
            raise ValueError(
                f"--num_workers must be 1 or more and --num_strips 0 or more, got {self.num_workers} and "
                f"{self.num_strips}."
            )


@dataclass
class Measurement:
    """One clip as it was decoded; `error` says why it was not, `warning` what is damaged, `strip` is a JPEG."""

    error: str = ""
    warning: str = ""
    num_frames: int = 0
    frames_per_second: float | None = None
    duration_in_seconds: float | None = None
    height: int = 0
    width: int = 0
    content_hash: str = ""
    strip: bytes | None = None


@dataclass
class Clip:
    """One row of a split; `row` counts from 1, `index` is its place in a data set of the Hub."""

    split: str
    row: int
    name: str
    text: str
    path: Path | None = None
    start: float | None = None
    end: float | None = None
    signer: str | None = None
    spoken_language: str | None = None
    sign_language: str | None = None
    wants_strip: bool = False
    measured: Measurement = field(default_factory=Measurement)

    @property
    def where(self) -> str:
        return f"{self.split}, row {self.row} ({self.name or 'no file_name'})"

    @property
    def is_readable(self) -> bool:
        return self.measured.num_frames > 0

    def shares_frames_with(self, other: "Clip") -> bool:
        """Whether two parts of files of the same content have more than half of the shorter one in common."""
        if not (self.is_readable and other.is_readable):
            return False
        starts = [clip.start or 0.0 for clip in (self, other)]
        lengths = [clip.measured.duration_in_seconds or 0.0 for clip in (self, other)]
        ends = [start + length for start, length in zip(starts, lengths, strict=True)]
        return starts[0] == starts[1] or min(ends) - max(starts) > min(lengths) / 2

    def units(self) -> list[str]:
        """Words, or characters where the language is written without spaces."""
        language = primary_language(self.spoken_language) if self.spoken_language else None
        words = self.text.split()
        return list("".join(words)) if language in LANGUAGES_WITHOUT_SPACES else words


@dataclass
class Corpus:
    """Clips with what was found while they were read: `errors` make the exit status 1, `warnings` do not."""

    clips: list[Clip] = field(default_factory=list)
    errors: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    on_hub: dict[str, datasets.Dataset] = field(default_factory=dict)

    def of(self, split: str) -> list[Clip]:
        return [clip for clip in self.clips if clip.split == split]


# Reading, without stopping at what is wrong: `data.read_metadata` does that when it comes to training.


def read_corpus(arguments: InspectArguments) -> Corpus:
    """
    Raises:
        ValueError: for a folder without any split.
        FileNotFoundError: for what is neither a folder nor a data set on the Hub.
    """
    folder = Path(arguments.dataset)
    corpus = _read_folder(folder, arguments) if folder.is_dir() else _read_hub(arguments)
    _check_rows(corpus)
    for split in SPLITS:
        clips = corpus.of(split)
        shown = torch.linspace(0, max(len(clips) - 1, 0), min(arguments.num_strips, len(clips))).long().tolist()
        for index in shown:
            clips[index].wants_strip = True
    return corpus


def _read_folder(folder: Path, arguments: InspectArguments) -> Corpus:
    corpus = Corpus()
    found = {}
    for split in SPLITS:
        names = VALIDATION_FOLDERS if split == "validation" else (split,)
        folders = [folder / name for name in names if (folder / name).is_dir()]
        if folders:
            found[split] = folders[0]
    if not found:
        raise ValueError(f"{folder} must hold folders train, dev or validation, and test, each with metadata.csv.")
    for split in SPLITS:
        if split in found:
            _read_split_folder(corpus, split, found[split], arguments)
        else:
            corpus.warnings.append(Problem(split, "there is no such split"))
    return corpus


def _read_split_folder(corpus: Corpus, split: str, folder: Path, arguments: InspectArguments) -> None:
    metadata = next((folder / name for name in METADATA_FILES if (folder / name).is_file()), None)
    rows = [] if metadata is None else _read_rows(metadata, split, corpus.errors)
    if metadata is None:
        corpus.errors.append(Problem(split, f"there is no metadata.csv with file_name,{arguments.text_column}"))
    elif not rows:
        corpus.errors.append(Problem(split, f"{metadata.name} has no rows"))
    for number, values in rows:
        clip = _clip_of_row(split, number, values, arguments, corpus.errors)
        corpus.clips.append(clip)
        if clip.name:
            _find_file(clip, folder, corpus)
    named = {clip.path for clip in corpus.of(split)}
    videos = (path for path in folder.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file())
    unnamed = sorted(_clean(path.name) for path in videos if path not in named)
    corpus.warnings += [Problem(f"{split}/{name}", "the metadata does not name this file") for name in unnamed]


def _read_rows(path: Path, split: str, errors: list[Problem]) -> list[tuple[int, dict[str, Any]]]:
    """Rows with their numbers, as far as they can be read."""
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        errors.append(Problem(f"{split}/{path.name}", f"is not UTF-8 text: {error}"))
        text = content.decode("utf-8-sig", errors="replace")
    rows = []
    read: Iterator[Any] = csv.DictReader(io.StringIO(text, newline=""))
    if path.suffix != ".csv":
        read = (_json_object(line) for line in text.split("\n") if line.strip())
    number = 0
    while True:
        number += 1
        try:
            rows.append((number, next(read)))
        except StopIteration:
            return rows
        except csv.Error as error:
            errors.append(Problem(f"{split}, row {number}", f"cannot be read, nor what follows: {error}"))
            return rows


def _json_object(line: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except json.JSONDecodeError:
        return {}
    return values if isinstance(values, dict) else {}


def _clip_of_row(
    split: str, number: int, values: Mapping[str, Any], arguments: InspectArguments, errors: list[Problem]
) -> Clip:
    texts = {name: _clean(value) for name, value in values.items() if name is not None and value is not None}
    clip = Clip(split, number, texts.get("file_name", ""), texts.get(arguments.text_column, ""))
    clip.signer = texts.get("signer") or None
    clip.spoken_language = texts.get("spoken_language") or arguments.spoken_language
    clip.sign_language = texts.get("sign_language") or None
    for name in ("start", "end"):
        try:
            setattr(clip, name, float(texts[name]) if texts.get(name) else None)
        except ValueError:
            errors.append(Problem(clip.where, f"{name} is no number of seconds: {texts[name]!r}"))
    if None in values:  # where DictReader puts what is left over
        errors.append(Problem(clip.where, "has more values than the header; put commas in double quotes"))
    return clip


def _clean(value: Any) -> str:
    """Without half characters, which JSON can hold and no file or tokenizer takes."""
    return str(value).encode("utf-8", "replace").decode("utf-8").strip()


def _find_file(clip: Clip, folder: Path, corpus: Corpus) -> None:
    if os.path.isabs(clip.name) or os.path.normpath(clip.name).startswith(".."):
        corpus.warnings.append(Problem(clip.where, "the file lies outside the folder of its split"))
    try:
        is_there = (folder / clip.name).is_file()
    except (OSError, ValueError) as error:  # a NUL byte, too long a name
        corpus.errors.append(Problem(clip.where, f"the file name cannot be used: {error}"))
        return
    if is_there:
        clip.path = folder / clip.name
    else:
        corpus.errors.append(Problem(clip.where, "there is no such file"))


def _read_hub(arguments: InspectArguments) -> Corpus:
    try:
        splits = datasets.load_dataset(arguments.dataset)
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"--dataset {arguments.dataset!r} is no folder here, and no data set on the Hub: {error}"
        ) from error
    return corpus_of_splits(splits, arguments)


def corpus_of_splits(splits: Mapping[str, datasets.Dataset], arguments: InspectArguments) -> Corpus:
    """
    Clips of a data set with a column `video`.

    Raises:
        ValueError: if there is no such column.
    """
    corpus = Corpus()
    for name, dataset in splits.items():
        split = "validation" if name in VALIDATION_FOLDERS else name
        if "video" not in dataset.column_names:
            raise ValueError(f"`video` must be a column of the data set, got columns {dataset.column_names}.")
        corpus.on_hub[split] = dataset.cast_column("video", datasets.Video(decode=False))
        for number, values in enumerate(dataset.remove_columns("video"), 1):
            name = values.get("file_name") or values.get("name") or f"video {number}"
            row = {**values, "file_name": name}
            corpus.clips.append(_clip_of_row(split, number, row, arguments, corpus.errors))
    return corpus


def _check_rows(corpus: Corpus) -> None:
    seen: dict[tuple, Clip] = {}
    for clip in corpus.clips:
        if not clip.name:
            corpus.errors.append(Problem(clip.where, "has no file_name"))
        if not clip.text:
            corpus.errors.append(Problem(clip.where, "the sentence is empty"))
        if clip.path is not None:
            first = seen.setdefault((clip.path, clip.start, clip.end), clip)
            if first is not clip:
                corpus.errors.append(Problem(clip.where, f"names the same part of a file as row {first.row}"))


# Decoding


_hub_splits: dict[str, datasets.Dataset] = {}  # in a decoding process: what it inherited


def _start_worker(on_hub: dict[str, datasets.Dataset]) -> None:
    torch.set_num_threads(1)
    DECODER_LOG.propagate = False
    _hub_splits.update(on_hub)


def measure_clips(corpus: Corpus, num_workers: int) -> None:
    """
    Decode every clip that has a file, and note what could not be read or is damaged.

    Raises:
        ValueError: if a file brings a decoding process down.
    """
    files: dict[Any, list[Clip]] = defaultdict(list)
    for clip in corpus.clips:
        if clip.path is not None or clip.split in corpus.on_hub:
            files[clip.path or (clip.split, clip.row)].append(clip)
    context = multiprocessing.get_context("fork")  # a data set of the Hub is inherited, not sent
    try:
        with ProcessPoolExecutor(
            num_workers, mp_context=context, initializer=_start_worker, initargs=(corpus.on_hub,)
        ) as pool:
            results = pool.map(_measure_file, files.values())
            for clips, measurements in zip(
                files.values(), tqdm(results, total=len(files), unit="file", desc="decoding"), strict=True
            ):
                for clip, measured in zip(clips, measurements, strict=True):
                    clip.measured = measured
    except BrokenProcessPool as error:
        raise ValueError("A decoding process ended suddenly: too little memory, or a file that crashes it.") from error
    for clip in corpus.clips:
        if clip.measured.error:
            corpus.errors.append(Problem(clip.where, clip.measured.error))
        elif clip.measured.warning:
            corpus.errors.append(Problem(clip.where, clip.measured.warning))


def _measure_file(clips: list[Clip]) -> list[Measurement]:
    """All clips of one file, read once for its hash; each part is decoded from the keyframe before it."""
    first = clips[0]
    try:
        if first.path is None:
            video = _hub_splits[first.split][first.row - 1]["video"]
            content = video["bytes"]
            digest = hashlib.sha256(Path(video["path"]).read_bytes() if content is None else content).hexdigest()
        else:
            video = first.path
            with video.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return [Measurement(error=str(error)) for _ in clips]
    return [_measure(video, clip, digest) for clip in clips]


def _measure(video: Any, clip: Clip, digest: str) -> Measurement:
    measured = Measurement(content_hash=digest)
    sizes: list[tuple[int, int]] = []
    warnings = _LogLines()

    def shrink(frame: torch.Tensor) -> torch.Tensor:
        sizes.append(tuple(frame.shape[-2:]))
        return _shrink(frame)

    DECODER_LOG.addHandler(warnings)
    try:
        decoded = decode_video(video, clip.start, clip.end, None, _evenly_spaced, shrink)
    except (VideoDecodingError, OSError, ValueError) as error:
        measured.error = _without_folder(str(error), clip)
        return measured
    finally:
        DECODER_LOG.removeHandler(warnings)
    measured.warning = _without_folder(" ".join(warnings.lines), clip)
    measured.num_frames = decoded.num_source_frames
    measured.frames_per_second = decoded.fps
    measured.duration_in_seconds = decoded.duration_in_seconds
    measured.height, measured.width = sizes[0]
    measured.strip = _strip(decoded.frames) if clip.wants_strip else None
    return measured


def _without_folder(text: str, clip: Clip) -> str:
    """A report may be passed on: it names the file, not where it lies on this disk."""
    return text if clip.path is None else text.replace(str(clip.path.absolute()), clip.name)


class _LogLines(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def _evenly_spaced(num_frames: int, _: float | None) -> list[int]:
    """First to last: the decoder has to go through all of them, and only these are kept."""
    return torch.linspace(0, num_frames - 1, NUM_STRIP_FRAMES).round().long().tolist()


def _shrink(frame: torch.Tensor) -> torch.Tensor:
    """uint8 `(3, height, width)` -> the same at most `STRIP_HEIGHT_IN_PIXELS` high"""
    _, height, width = frame.shape
    if height <= STRIP_HEIGHT_IN_PIXELS:
        return frame
    size = (STRIP_HEIGHT_IN_PIXELS, max(round(width * STRIP_HEIGHT_IN_PIXELS / height), 1))
    return torch.nn.functional.interpolate(frame[None], size, mode="bilinear", antialias=True)[0]


def _strip(frames: torch.Tensor) -> bytes:
    """uint8 `(frames, 3, height, width)` -> a JPEG of them side by side"""
    file = io.BytesIO()
    Image.fromarray(torch.cat(list(frames), dim=2).permute(1, 2, 0).numpy()).save(file, "JPEG", quality=80)
    return file.getvalue()


# Figures


def build_report(corpus: Corpus, arguments: InspectArguments) -> dict[str, Any]:
    """Everything that text and page say, as `inspection.json` holds it."""
    splits = [split for split in dict.fromkeys((*SPLITS, *(clip.split for clip in corpus.clips))) if corpus.of(split)]
    vocabulary = Counter(unit for clip in corpus.of("train") for unit in clip.units())
    report = {
        "dataset": _clean(Path(arguments.dataset).name if Path(arguments.dataset).is_dir() else arguments.dataset),
        "splits": {split: _split_figures(corpus.of(split), vocabulary) for split in splits},
        "leakage": _across_splits(corpus, splits),
        "presets": [_preset_figures(name, corpus.clips) for name in PRESETS],
        "decoded_size_in_gib": sum(_decoded_bytes(clip) for clip in corpus.clips) / 2**30,
        "errors": [vars(problem) for problem in corpus.errors],
        "warnings": [vars(problem) for problem in corpus.warnings],
    }
    if arguments.tokenizer_name_or_path is not None:
        report["tokenizer"] = _tokenizer_figures(arguments.tokenizer_name_or_path, corpus, splits)
    return report


def _split_figures(clips: list[Clip], train: Counter) -> dict[str, Any]:
    readable = [clip for clip in clips if clip.is_readable]
    seconds = [clip.measured.duration_in_seconds for clip in readable if clip.measured.duration_in_seconds]
    words = Counter(unit for clip in clips for unit in clip.units())
    unseen = {word: count for word, count in words.items() if word not in train}
    sentences = Counter(clip.text for clip in clips if clip.text)
    parts = Counter((clip.measured.content_hash, clip.start, clip.end) for clip in readable)
    return {
        "clips": len(clips),
        "readable_clips": len(readable),
        "hours": sum(seconds) / 3600,
        "duration_in_seconds": _spread(seconds),
        "frames": _spread([clip.measured.num_frames for clip in readable]),
        "resolutions": _counts(f"{clip.measured.width}x{clip.measured.height}" for clip in readable),
        "frame_rates": _counts(
            f"{clip.measured.frames_per_second:.2f}" for clip in readable if clip.measured.frames_per_second
        ),
        "words": _spread([len(clip.units()) for clip in clips if clip.text]),
        "characters": _spread([len(clip.text) for clip in clips if clip.text]),
        "vocabulary": len(words),
        "singletons": sum(count == 1 for count in words.values()),
        "unseen_words": len(unseen),
        "unseen_word_rate": sum(unseen.values()) / words.total() if words else 0.0,
        "signers": _counts(clip.signer for clip in clips if clip.signer),
        "sign_languages": _counts(clip.sign_language for clip in clips if clip.sign_language),
        "spoken_languages": _counts(clip.spoken_language for clip in clips if clip.spoken_language),
        "repeated_sentences": len(clips) - len(sentences) - sum(not clip.text for clip in clips),
        "repeated_clips": sum(count - 1 for count in parts.values()),
    }


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {
        "min": min(values),
        "median": statistics.median(values),
        "mean": statistics.mean(values),
        "max": max(values),
    }


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())


def _across_splits(corpus: Corpus, splits: Sequence[str]) -> list[dict[str, Any]]:
    """For each pair of splits: clips of the second whose frames, sentence or signer the first has too."""
    pairs = [(first, second) for index, first in enumerate(splits) for second in splits[index + 1 :]]
    return [_between(corpus.of(first), corpus.of(second)) for first, second in pairs]


def _between(first: list[Clip], second: list[Clip]) -> dict[str, Any]:
    by_content = defaultdict(list)
    for clip in first:
        by_content[clip.measured.content_hash].append(clip)
    same = []
    for clip in second:
        others = by_content.get(clip.measured.content_hash, [])
        same += [(clip.where, other.where) for other in others if clip.shares_frames_with(other)][:1]
    sentences = {clip.text for clip in first if clip.text}
    signers = {clip.signer for clip in first if clip.signer}
    return {
        "splits": [first[0].split, second[0].split],
        "clips": len(second),
        "same_clips": [list(pair) for pair in same],
        "same_sentences": sum(clip.text in sentences for clip in second),
        "same_signers": sorted({clip.signer for clip in second if clip.signer in signers}),
        "clips_of_same_signers": sum(clip.signer in signers for clip in second),
    }


def _preset_figures(name: str, clips: list[Clip]) -> dict[str, Any]:
    """Visual tokens under a preset, clips that do not fit, and the size of its largest possible batch of pixels."""
    preset = read_yaml(name)
    sampling = {key: preset.get(key) for key in ("frame_sampling_rate", "max_num_frames")}
    processor = FLaLLMVideoProcessor(**sampling)
    config = FLaLLMVisionConfig(**{key: preset[key] for key in ("temporal_blocks", "temporal_padding")})
    temporal_module = LocalTemporalModule(config.hidden_size, config)
    readable = [clip for clip in clips if clip.is_readable]
    frames = [len(processor.sample_frame_indices(clip.measured.num_frames)) for clip in readable]
    tokens = [int(temporal_module.get_num_tokens(torch.tensor(count))) for count in frames]
    pairs = list(zip(readable, tokens, strict=True))
    bytes_per_frame = 3 * preset["crop_size"] ** 2 * 4  # float32
    batch_size = preset["per_device_train_batch_size"]
    return {
        "name": name,
        "tokens": _spread(tokens),
        "too_long": [clip.where for clip, count in pairs if count > MAX_NUM_TOKENS],
        "too_short": [clip.where for clip, count in pairs if count < max(len(clip.units()), 1)],
        "batch_size": batch_size,
        "largest_batch_in_gib": batch_size * max(frames, default=0) * bytes_per_frame / 2**30,
    }


def _decoded_bytes(clip: Clip) -> int:
    return 3 * clip.measured.num_frames * clip.measured.height * clip.measured.width


def _tokenizer_figures(name: str, corpus: Corpus, splits: Sequence[str]) -> dict[str, Any]:
    """
    Raises:
        ValueError: if there is no such tokenizer.
    """
    tokenizer = open_tokenizer(name)
    texts = {split: [clip.text for clip in corpus.of(split) if clip.text] for split in splits}
    token_ids = {split: [tokenizer(text)["input_ids"] for text in texts[split]] for split in splits}
    characters = sorted({character for split in splits for text in texts[split] for character in text})
    unknown = [
        character
        for character in characters
        if not character.isspace()
        and tokenizer.unk_token_id in tokenizer(character, add_special_tokens=False)["input_ids"]
    ]
    return {
        "tokens": {split: _spread([len(ids) for ids in token_ids[split]]) for split in splits},
        "sentences_with_unknown_tokens": {
            split: sum(tokenizer.unk_token_id in ids for ids in token_ids[split]) for split in splits
        },
        "unknown_characters": unknown,
    }


# Text and page


def verdicts(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What to look at first: pairs of `"Problem"`, `"Warning"`, `"Note"` or `"Good"` and a sentence."""
    lines = []
    if report["errors"]:
        lines.append(("Problem", f"{len(report['errors'])} row(s) or file(s) are broken; each is named below."))
    for pair in report["leakage"]:
        first, second = pair["splits"]
        if pair["same_clips"]:
            text = f"LEAKAGE: {len(pair['same_clips'])} of {pair['clips']} clips of {second} are in {first} too."
            lines.append(("Problem", f"{text} Scores on {second} would be too good."))
        if pair["same_sentences"]:
            text = f"{pair['same_sentences']} of {pair['clips']} sentences of {second} are also sentences of {first}."
            lines.append(("Warning", text))
    for split, figures in report["splits"].items():
        if figures["repeated_clips"]:
            lines.append(("Warning", f"{figures['repeated_clips']} clip(s) of {split} are copies of another."))
    for preset in report["presets"]:
        if preset["too_long"]:
            text = f"{len(preset['too_long'])} clip(s) have more than {MAX_NUM_TOKENS} visual tokens, more than mBART"
            lines.append(("Warning", f"{preset['name']}: {text} can take. Set --max_num_frames."))
        if preset["too_short"]:
            text = f"{len(preset['too_short'])} clip(s) have fewer visual tokens than their sentence has words."
            lines.append(("Note", f"{preset['name']}: {text}"))
    for pair in report["leakage"]:
        if pair["same_signers"]:
            first, second = pair["splits"]
            text = f"{pair['clips_of_same_signers']} of {pair['clips']} clips of {second} are by signers of {first}."
            lines.append(("Note", text))
    if report["warnings"]:
        lines.append(("Note", f"{len(report['warnings'])} other thing(s) to know are listed below."))
    if not any(kind in ("Problem", "Warning") for kind, _ in lines):
        lines.insert(0, ("Good", "Every file can be read to its end, and no clip or sentence is in two splits."))
    return lines


def tables(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Tables of text and page: title, header and rows of texts; the first cell of a row is its header."""
    splits = report["splits"]
    found = [
        {"title": "Splits", "header": ["", *splits], "rows": _split_rows(splits)},
        {
            "title": "Between the splits",
            "header": ["first, second", "same clips", "same sentences", "signers in both", "their clips in the second"],
            "rows": [_pair_row(pair) for pair in report["leakage"]],
        },
        {
            "title": "Under the presets",
            "header": ["preset", "visual tokens", "too long", "fewer tokens than words", "largest batch of pixels"],
            "rows": [_preset_row(preset) for preset in report["presets"]],
        },
    ]
    if "tokenizer" in report:
        tokenizer = report["tokenizer"]
        unknown = tokenizer["sentences_with_unknown_tokens"]
        rows = [[split, _show_spread(spread), str(unknown[split])] for split, spread in tokenizer["tokens"].items()]
        header = ["", "tokens in a sentence", "sentences with unknown tokens"]
        found.append({"title": "Tokenizer", "header": header, "rows": rows})
    return [table for table in found if table["rows"]]


def _split_rows(splits: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    rows: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "clips": lambda figures: str(figures["clips"]),
        "clips that can be read": lambda figures: str(figures["readable_clips"]),
        "hours": lambda figures: f"{figures['hours']:.2f}",
        "seconds": lambda figures: _show_spread(figures["duration_in_seconds"]),
        "frames": lambda figures: _show_spread(figures["frames"]),
        "width x height": lambda figures: _show_counts(figures["resolutions"]),
        "frames per second": lambda figures: _show_counts(figures["frame_rates"]),
        "words in a sentence": lambda figures: _show_spread(figures["words"]),
        "characters in a sentence": lambda figures: _show_spread(figures["characters"]),
        "vocabulary": lambda figures: str(figures["vocabulary"]),
        "words that occur once": lambda figures: str(figures["singletons"]),
        "words not in train": lambda figures: f"{figures['unseen_words']} ({figures['unseen_word_rate']:.1%} of all)",
        "sentences again": lambda figures: str(figures["repeated_sentences"]),
        "clips again": lambda figures: str(figures["repeated_clips"]),
        "signers": lambda figures: f"{len(figures['signers'])}" if figures["signers"] else "not given",
        "sign language": lambda figures: _show_counts(figures["sign_languages"]) or "not given",
        "spoken language": lambda figures: _show_counts(figures["spoken_languages"]) or "not given",
    }
    return [[title, *(show(figures) for figures in splits.values())] for title, show in rows.items()]


def _pair_row(pair: Mapping[str, Any]) -> list[str]:
    signers = pair["same_signers"]
    cells = [", ".join(pair["splits"]), str(len(pair["same_clips"])), str(pair["same_sentences"])]
    return [*cells, f"{len(signers)} {_some(signers)}".strip(), str(pair["clips_of_same_signers"])]


def _preset_row(preset: Mapping[str, Any]) -> list[str]:
    cells = [preset["name"], _show_spread(preset["tokens"]), str(len(preset["too_long"]))]
    memory = f"{preset['largest_batch_in_gib']:.2f} GiB ({preset['batch_size']} clips)"
    return [*cells, str(len(preset["too_short"])), memory]


def _some(names: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(names[:most])
    return f"({shown}{', ...' if len(names) > most else ''})" if names else ""


def _show_spread(spread: Mapping[str, float] | None) -> str:
    if spread is None:
        return "none"
    low, middle, high = (f"{spread[name]:.1f}".removesuffix(".0") for name in ("min", "median", "max"))
    return f"{low} to {high}, median {middle}"


def _show_counts(counts: Mapping[str, int], most: int = 3) -> str:
    shown = [name if len(counts) == 1 else f"{name} ({count})" for name, count in list(counts.items())[:most]]
    return ", ".join(shown) + (f" and {len(counts) - most} more" if len(counts) > most else "")


def notes(report: Mapping[str, Any]) -> list[str]:
    lines = [
        "All frames as decoded, which --keep_decoded_videos would hold: at most "
        f"{report['decoded_size_in_gib']:.2f} GiB of main memory. A batch of pixels is float32, of the longest clips; "
        "weights and activations of the model come on top.",
        "Words are what white space separates; Chinese, Japanese and Thai are counted by character.",
    ]
    unknown = report.get("tokenizer", {}).get("unknown_characters")
    if unknown is not None:
        lines.append(f"Characters that the tokenizer does not know: {' '.join(unknown) or 'none'}.")
    return lines


def problem_lists(report: Mapping[str, Any]) -> list[tuple[str, list[str], int]]:
    """Titles, lines and how many there are: everything that is broken, of other lists the first `MOST_SHOWN`."""
    lists = [("Broken", _lines(report["errors"])), ("Other things to know", _lines(report["warnings"]))]
    for pair in report["leakage"]:
        lists.append(("The same clip in two splits", [" = ".join(names) for names in pair["same_clips"]]))
    for preset in report["presets"]:
        lists.append((f"Too long for {preset['name']}", preset["too_long"]))
        lists.append((f"Fewer visual tokens than words under {preset['name']}", preset["too_short"]))
    return [(title, lines[: None if title == "Broken" else MOST_SHOWN], len(lines)) for title, lines in lists if lines]


def _lines(problems: Sequence[Mapping[str, str]]) -> list[str]:
    return [f"{problem['where']}: {problem['what']}" for problem in problems]


def format_text(report: Mapping[str, Any]) -> str:
    """The report for a terminal."""
    lines = [f"{report['dataset']}", ""]
    lines += [f"{kind}: {sentence}" for kind, sentence in verdicts(report)]
    for table in tables(report):
        lines += ["", table["title"], *_format_table([table["header"], *table["rows"]])]
    lines += ["", *notes(report)]
    for title, shown, count in problem_lists(report):
        lines += ["", f"{title}:", *(f"  {_one_line(entry)}" for entry in shown)]
        if len(shown) < count:
            lines.append(f"  and {count - len(shown)} more in inspection.json")
    return "\n".join(lines) + "\n"


def _one_line(text: str) -> str:
    """Without what would move the cursor of a terminal."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def _format_table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    cells = ((_one_line(cell).ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return [f"  {'  '.join(row)}".rstrip() for row in cells]


def render_page(report: Mapping[str, Any], corpus: Corpus) -> str:
    """One HTML page with its pictures inside; everything from the data is escaped."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(PAGE_TEMPLATE.read_text(encoding="utf-8")).render(
        report=report,
        verdicts=verdicts(report),
        tables=tables(report),
        notes=notes(report),
        histograms=_histograms(corpus, list(report["splits"])),
        strips=_strips(corpus),
        problem_lists=problem_lists(report),
    )


def _strips(corpus: Corpus) -> list[dict[str, str]]:
    return [
        {"where": clip.where, "text": clip.text, "picture": _data_address(clip.measured.strip, "image/jpeg")}
        for clip in corpus.clips
        if clip.measured.strip is not None
    ]


def _data_address(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _histograms(corpus: Corpus, splits: Sequence[str]) -> list[dict[str, str]]:
    quantities: dict[str, Callable[[Clip], float | None]] = {
        "seconds of a clip": lambda clip: clip.measured.duration_in_seconds,
        "frames of a clip": lambda clip: clip.measured.num_frames or None,
        "words of a sentence": lambda clip: len(clip.units()) or None,
        "characters of a sentence": lambda clip: len(clip.text) or None,
    }
    pictures = []
    for title, measure in quantities.items():
        values = {split: [value for clip in corpus.of(split) if (value := measure(clip))] for split in splits}
        if any(values.values()):
            ranges = [f"{split} {_show_spread(_spread(numbers))}" for split, numbers in values.items()]
            picture = _data_address(_draw_histogram(title, values), "image/svg+xml")
            pictures.append({"title": title, "alt": f"Histogram of {title}: {'; '.join(ranges)}", "picture": picture})
    return pictures


def _draw_histogram(title: str, values: Mapping[str, Sequence[float]]) -> bytes:
    """-> SVG with a row of bars for each split, all on one axis"""
    everything = [value for numbers in values.values() for value in numbers]
    low, high = min(everything), max(everything)
    edges = torch.linspace(math.floor(low), max(math.ceil(high), math.floor(low) + 1), 25).tolist()
    figure, rows = plt.subplots(len(values), 1, sharex=True, figsize=(5, 1.1 + 1.1 * len(values)), squeeze=False)
    for axes, (split, numbers) in zip(rows[:, 0], values.items(), strict=True):
        axes.hist(numbers, bins=edges, color="#1f5a94", edgecolor="white", linewidth=0.5)
        axes.set_ylabel(split.replace("$", r"\$"))
        axes.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(3, integer=True))
        axes.spines[["top", "right"]].set_visible(False)
    rows[-1, 0].set_xlabel(title)
    figure.supylabel("clips", fontsize=10)
    figure.tight_layout()
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    plt.close(figure)
    return file.getvalue()


def inspect(arguments: InspectArguments) -> dict[str, Any]:
    """
    Read, decode, print and write the report, and return it.

    Raises:
        FileNotFoundError, ValueError: as `read_corpus`, or if the output folder is not empty.
    """
    output_dir = Path(arguments.output_dir)
    check_new_folder(output_dir)
    corpus = read_corpus(arguments)
    measure_clips(corpus, arguments.num_workers)
    report = build_report(corpus, arguments)
    output_dir.mkdir(parents=True, exist_ok=True)
    figures = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    (output_dir / "inspection.json").write_text(figures, encoding="utf-8")
    (output_dir / "inspection.html").write_text(render_page(report, corpus), encoding="utf-8")
    print(format_text(report))
    print(f"Page: {output_dir / 'inspection.html'}")
    return report


def run(argv: Sequence[str] | None = None) -> dict[str, Any]:
    (arguments,) = parse_arguments((InspectArguments,), argv, description="Look at a data set before training.")
    return inspect(arguments)


def main(argv: Sequence[str] | None = None) -> int:
    reports: list[dict[str, Any]] = []
    status = run_command(lambda: reports.append(run(argv)))
    return status or int(bool(reports[0]["errors"]))


if __name__ == "__main__":
    sys.exit(main())
