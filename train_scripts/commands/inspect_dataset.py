"""
Check a data set before training: lengths, words, signers, leaks between splits, unreadable files.

    flallm inspect --dataset my_corpus --output_dir inspection

The data set is a video folder (train/, dev/ or validation/, test/ with metadata.csv) or one on the Hub. The report is
printed, and written as a self-contained page (`inspection.html`) and as figures (`inspection.json`). Every clip is
decoded to its end; of poses, beside videos or instead of them, the skeleton is drawn. Broken files are listed without
stopping the command; the exit status is then 1. Small, on a CPU:

    flallm generate-corpus --output_dir corpus --num_train_clips 20 --num_dev_clips 10 --num_test_clips 10
    flallm inspect --dataset corpus --output_dir inspection --tokenizer_name_or_path language_model
"""

import csv
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import PreTrainedTokenizerBase

from modeling_flallm.configuration_flallm import FLaLLMVisionConfig
from modeling_flallm.encoder_frames_slt import LocalTemporalModule
from modeling_flallm.own_processing import (
    FLaLLMVideoProcessor,
    PoseModality,
    VideoModality,
    is_video_file,
)

from ..arguments.command_arguments import InspectArguments
from ..arguments.command_line import run_command
from ..arguments.commands import COMMANDS
from ..arguments.dataclass_parser import read_yaml
from ..arguments.flag_values import check_new_folder
from ..clips.clip_folders import find_metadata, find_split_folder
from ..clips.hub_data_sets import check_is_of_hub, is_clip_folder, load_from_hub, without_bytes
from ..corpora.corpus_schema import SPLITS, Problem
from ..corpora.corpus_tables import csv_rows, split_of
from ..corpora.data_set_columns import by_our_names, check_clip_columns, check_split, our_names, say_unused, unused
from ..corpora.inspected_clips import Clip, Corpus, measure_clips
from ..corpora.inspected_poses import PoseMeasurement, figures_of_poses
from ..corpora.inspected_rows import check_clips_are_known, cleaned, file_of_poses, find_file, find_poses
from ..corpora.inspection_page import MAX_NUM_TOKENS, format_text, render_page, spread_of
from ..hub.hub_names import check_model_names
from ..machine.atomic_files import write_folder, write_json, write_text
from ..runs.tokenizers import open_tokenizer
from ..scores.metrics import comparable

PRESETS = ("paper_visual_initialing", "sltbaselines_visual_initialing")


# Reads without stopping at errors; in training `data.read_metadata` raises instead.


def read_corpus(arguments: InspectArguments) -> Corpus:
    """
    Raises:
        ValueError: for a folder without any split.
        FileNotFoundError: for a name that is neither a folder nor a data set on the Hub.
    """
    folder = Path(arguments.dataset)
    corpus = _read_folder(folder, arguments) if is_clip_folder(arguments.dataset) else _read_hub(arguments)
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
        split_folder = find_split_folder(folder, split)
        if split_folder is not None:
            found[split] = split_folder
    if not found:
        raise ValueError(f"{folder} must hold folders train, dev or validation, and test, each with metadata.csv.")
    for split in SPLITS:
        if split in found:
            _read_split_folder(corpus, split, found[split], arguments)
        else:
            corpus.warnings.append(Problem(split, "there is no such split"))
    return corpus


def _read_split_folder(corpus: Corpus, split: str, folder: Path, arguments: InspectArguments) -> None:
    metadata = find_metadata(folder)
    rows = [] if metadata is None else _read_rows(metadata, split, corpus.errors)
    rows = _by_our_names(rows, arguments, f"{split}/{metadata and metadata.name}", corpus)
    columns = {column for _, values in rows for column in values}
    check_clips_are_known(columns, folder.parent)
    corpus.has_videos &= VideoModality.table_column in columns or PoseModality.table_column not in columns
    if metadata is None:
        corpus.errors.append(Problem(split, f"there is no metadata.csv with file_name,{arguments.text_column}"))
    elif not rows:
        corpus.errors.append(Problem(split, f"{metadata.name} has no rows"))
    for number, values in rows:
        clip = _clip_of_row(split, number, values, arguments, corpus.errors)
        corpus.clips.append(clip)
        if clip.name and corpus.has_videos:
            clip.path = find_file(clip, clip.name, folder, corpus)
        if PoseModality.table_column in columns:
            clip.poses = find_poses(clip, values.get(PoseModality.table_column), folder, corpus)
    named = {clip.path or file_of_poses(clip) for clip in corpus.of(split)}
    is_clip = is_video_file if corpus.has_videos else PoseModality.is_file
    files = (path for path in folder.iterdir() if is_clip(path) and path.is_file())
    unnamed = sorted(cleaned(path.name) for path in files if path not in named and path.absolute() not in named)
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
    if path.suffix.lower() == ".csv":
        read: Iterator[Any] = csv_rows(text, is_strict=False)
    else:
        read = (_json_object(line) for line in text.split("\n") if line.strip())
    number = 0
    while True:
        number += 1
        try:
            rows.append((number, next(read)))
        except StopIteration:
            return rows
        except csv.Error as error:
            errors.append(Problem(f"{split}, row {number}", f"cannot be read, nor can the rows after it: {error}"))
            return rows


def _by_our_names(
    rows: list[tuple[int, dict[str, Any]]], arguments: InspectArguments, where: str, corpus: Corpus
) -> list[tuple[int, dict[str, Any]]]:
    """Unrecognised columns that may matter are an error of the file; unused columns are reported."""
    try:
        named = [(number, by_our_names(values, arguments.text_column, where)) for number, values in rows]
    except ValueError as error:
        corpus.errors.append(Problem(where, str(error).removeprefix(f"{where} ")))
        return rows
    columns = {column for _, values in named for column in values if column is not None}
    others = unused(columns, arguments.text_column)
    if others:
        corpus.warnings.append(Problem(where, say_unused(others)))
    return named


def _json_object(line: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except json.JSONDecodeError:
        return {}
    return values if isinstance(values, dict) else {}


def _clip_of_row(
    split: str, number: int, values: Mapping[str, Any], arguments: InspectArguments, errors: list[Problem]
) -> Clip:
    texts = {name: cleaned(value) for name, value in values.items() if name is not None and value is not None}
    name = texts.get("file_name") or texts.get(PoseModality.table_column, "")
    clip = Clip(split, number, name, texts.get(arguments.text_column, ""))
    clip.signer = texts.get("signer") or None
    clip.spoken_language = texts.get("spoken_language") or arguments.spoken_language
    clip.sign_language = texts.get("sign_language") or None
    try:
        check_split(values.get("split"), split, clip.where)
    except ValueError as error:
        errors.append(Problem(clip.where, str(error).removeprefix(f"{clip.where}: ")))
    for name in ("start", "end"):
        try:
            setattr(clip, name, float(texts[name]) if texts.get(name) else None)
        except ValueError:
            errors.append(Problem(clip.where, f"{name} is not a number of seconds: {texts[name]!r}"))
    if None in values:  # where DictReader puts surplus values
        errors.append(Problem(clip.where, "has more values than the header; put commas in double quotes"))
    return clip


def _read_hub(arguments: InspectArguments) -> Corpus:
    return corpus_of_splits(load_from_hub(arguments.dataset), arguments)


def corpus_of_splits(splits: Mapping[str, datasets.Dataset], arguments: InspectArguments) -> Corpus:
    """
    Clips of a data set with a column `video`, or of arrays `poses`, or both.

    Raises:
        ValueError: if there is neither.
    """
    corpus = Corpus()
    for name, dataset in splits.items():
        split = split_of(name) or name
        split = name if split in corpus.on_hub else split  # a dev split next to validation
        columns = our_names(tuple(dataset.column_names), arguments.text_column, arguments.dataset)
        dataset = dataset.rename_columns({theirs: ours for theirs, ours in columns.items() if theirs != ours})
        check_clips_are_known(dataset.column_names, arguments.dataset)
        clips = [name for name in (VideoModality.column, PoseModality.column) if name in dataset.column_names]
        if not clips:
            raise ValueError(
                f"`video` or `poses` must be a column of the data set, got columns {dataset.column_names}."
            )
        check_clip_columns(dataset.features, arguments.dataset)
        corpus.has_videos = clips[0] == VideoModality.column
        for number, values in enumerate(dataset.remove_columns(clips), 1):
            name = values.get("file_name") or values.get("name") or f"{clips[0]} {number}"
            row = {**values, "file_name": name}
            corpus.clips.append(_clip_of_row(split, number, row, arguments, corpus.errors))
        if PoseModality.column in clips:
            arrays = dataset.select_columns(PoseModality.column).with_format("numpy")
            for clip, row in zip(corpus.of(split), arrays, strict=True):
                clip.poses = row[PoseModality.column]
        if not corpus.has_videos:
            continue
        corpus.on_hub[split] = dataset.cast_column("video", datasets.Video(decode=False))
        for clip, video in zip(corpus.of(split), without_bytes(corpus.on_hub[split], "video"), strict=True):
            try:
                check_is_of_hub(video, "the row")
            except ValueError as error:
                clip.measured.error = str(error)
    return corpus


def _check_rows(corpus: Corpus) -> None:
    seen: dict[tuple, Clip] = {}
    for clip in corpus.clips:
        if not clip.name:
            column = (VideoModality if corpus.has_videos else PoseModality).table_column
            corpus.errors.append(Problem(clip.where, f"has no {column}"))
        if not clip.text:
            corpus.errors.append(Problem(clip.where, "the sentence is empty"))
        place = clip.path or clip.poses
        if isinstance(place, str | Path):
            first = seen.setdefault((place, clip.start, clip.end), clip)
            if first is not clip:
                corpus.errors.append(Problem(clip.where, f"names the same part of a file as row {first.row}"))


# Figures


def build_report(
    corpus: Corpus, arguments: InspectArguments, tokenizer: PreTrainedTokenizerBase | None = None
) -> dict[str, Any]:
    """The content of text, page and `inspection.json`."""
    splits = [split for split in dict.fromkeys((*SPLITS, *(clip.split for clip in corpus.clips))) if corpus.of(split)]
    vocabulary = Counter(unit for clip in corpus.of("train") for unit in clip.units())
    report = {
        "dataset": cleaned(Path(arguments.dataset).name if Path(arguments.dataset).is_dir() else arguments.dataset),
        "splits": {split: _split_figures(corpus.of(split), vocabulary) for split in splits},
        "leakage": _across_splits(corpus, splits),
        "presets": [_preset_figures(name, corpus.clips) for name in PRESETS] if corpus.has_videos else [],
        "decoded_size_in_gib": sum(_decoded_bytes(clip) for clip in corpus.clips) / 2**30
        if corpus.has_videos
        else None,
        "errors": [vars(problem) for problem in corpus.errors],
        "warnings": [vars(problem) for problem in corpus.warnings],
    }
    if any(clip.poses is not None for clip in corpus.clips):
        report["poses"] = {split: figures_of_poses(_poses_by_signer(corpus.of(split))) for split in splits}
    if tokenizer is not None:
        report["tokenizer"] = _tokenizer_figures(tokenizer, corpus, splits)
    return report


def _poses_by_signer(clips: list[Clip]) -> dict[str | None, list[PoseMeasurement]]:
    """Of the clips whose poses can be read."""
    found = defaultdict(list)
    for clip in clips:
        if clip.measured_poses is not None and not clip.measured_poses.error:
            found[clip.signer].append(clip.measured_poses)
    return found


def _split_figures(clips: list[Clip], train: Counter) -> dict[str, Any]:
    readable = [clip for clip in clips if clip.is_readable]
    seconds = [clip.measured.duration_in_seconds for clip in readable if clip.measured.duration_in_seconds]
    words = Counter(unit for clip in clips for unit in clip.units())
    unseen = {word: count for word, count in words.items() if word not in train}
    sentences = Counter(comparable(clip.text) for clip in clips if clip.text)
    parts = Counter((clip.measured.content_hash, clip.start, clip.end) for clip in readable)
    return {
        "clips": len(clips),
        "readable_clips": len(readable),
        "hours": sum(seconds) / 3600,
        "duration_in_seconds": spread_of(seconds),
        "frames": spread_of([clip.measured.num_frames for clip in readable]),
        "resolutions": _counts(
            f"{clip.measured.width}x{clip.measured.height}" if clip.measured.width else "not stated"
            for clip in readable
        ),
        "frame_rates": _counts(
            f"{clip.measured.frames_per_second:.2f}" for clip in readable if clip.measured.frames_per_second
        ),
        "words": spread_of([len(clip.units()) for clip in clips if clip.text]),
        "characters": spread_of([len(clip.text) for clip in clips if clip.text]),
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


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())


def _across_splits(corpus: Corpus, splits: Sequence[str]) -> list[dict[str, Any]]:
    """For each pair of splits: clips of the second whose frames, sentence or signer also occur in the first."""
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
    sentences = {comparable(clip.text) for clip in first if clip.text}
    signers = {clip.signer for clip in first if clip.signer}
    return {
        "splits": [first[0].split, second[0].split],
        "clips": len(second),
        "same_clips": [list(pair) for pair in same],
        "same_sentences": sum(comparable(clip.text) in sentences for clip in second),
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
        "tokens": spread_of(tokens),
        "too_long": [clip.where for clip, count in pairs if count > MAX_NUM_TOKENS],
        "too_short": [clip.where for clip, count in pairs if count < max(len(clip.units()), 1)],
        "batch_size": batch_size,
        "largest_batch_in_gib": batch_size * max(frames, default=0) * bytes_per_frame / 2**30,
    }


def _decoded_bytes(clip: Clip) -> int:
    return 3 * clip.measured.num_frames * clip.measured.height * clip.measured.width


def _tokenizer_figures(tokenizer: PreTrainedTokenizerBase, corpus: Corpus, splits: Sequence[str]) -> dict[str, Any]:
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
        "tokens": {split: spread_of([len(ids) for ids in token_ids[split]]) for split in splits},
        "sentences_with_unknown_tokens": {
            split: sum(tokenizer.unk_token_id in ids for ids in token_ids[split]) for split in splits
        },
        "unknown_characters": unknown,
    }


# The command


def inspect(arguments: InspectArguments) -> dict[str, Any]:
    """
    Read, decode, print and write the report, and return it.

    Raises:
        FileNotFoundError, ValueError: as in `read_corpus`, or if the output folder is not empty, or there is no such
            tokenizer.
    """
    output_dir = Path(arguments.output_dir)
    check_new_folder(output_dir)
    check_model_names(arguments)
    name = arguments.tokenizer_name_or_path
    tokenizer = None if name is None else open_tokenizer(name)  # report a mistake before hours of decoding
    corpus = read_corpus(arguments)
    measure_clips(corpus, arguments.num_workers)
    report = build_report(corpus, arguments, tokenizer)

    def fill(unfinished: Path) -> None:
        write_json(unfinished / "inspection.json", report)
        write_text(unfinished / "inspection.html", render_page(report, corpus))

    write_folder(output_dir, fill)
    print(format_text(report))
    print(f"Page: {output_dir / 'inspection.html'}")
    return report


def run(argv: Sequence[str] | None = None) -> dict[str, Any]:
    (arguments,) = COMMANDS["inspect"].parse(argv)
    return inspect(arguments)


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(lambda given: int(bool(run(given)["errors"])), argv)


if __name__ == "__main__":
    sys.exit(main())
