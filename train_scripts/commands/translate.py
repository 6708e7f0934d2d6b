"""
Translate sign language videos with a trained model.

    flallm translate --model quickstart_output/model clip.mp4 more_clips/ --format csv --output translations.csv

Videos longer than one sentence are split where the hands rest, and each sentence gets its times:

    flallm translate --model quickstart_output/model talk.mp4 --long --srt --vtt

writes the captions talk.srt and talk.vtt next to talk.mp4, where video players find them by name. If a LLaVA-SLT, or
a FLa-LLM with a prompt, was trained in several languages, choose one of them with `--spoken_language de`.

Takes files and folders (every video in them and below), or one split of a data set, in a folder, in shards or on the
Hub:

    flallm translate --model me/flallm-dgs --dataset me/dgs-corpus --split test --output translations.tsv

Files that cannot be translated are skipped, listed at the end,
and make the command exit with status 1. With `--output`, finished translations are saved as they come to
`translations.csv.unfinished.jsonl`: running the same command again resumes from there. A calibrated model also fills
the columns `confidence` and `familiar` of csv and jsonl.
"""

import dataclasses
import datetime
import os
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from modeling_flallm.calibration_slt import CALIBRATION_FILE
from modeling_flallm.own_processing import MODALITIES, is_hidden_file

from ..arguments.command_line import run_command
from ..arguments.commands import COMMANDS
from ..arguments.translation_arguments import TranslateArguments
from ..machine.atomic_files import write_text
from ..machine.machine import default_device
from ..machine.ray_cluster import RayCluster
from ..runs.clips_of_data_set import ClipOfDataSet, clips_of_data_set
from ..runs.trained_models import load_config, load_processor
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
from ..runs.translation_streams import translate_here, translate_in_processes
from ..runs.video_translation import is_calibrated

MOST_FILES_NAMED = 20


def find_videos(paths: Sequence[str], model: str) -> list[Path]:
    """
    Files as they are named, folders that are one clip, and below each other folder all files of one modality, in order
    of their names: videos, or whatever else is there; if there are several, those that `model` reads. Hidden files are
    left out, and so is everything else, which is named on standard error.
    """
    videos: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir() or any(modality.is_clip_folder(path) for modality in MODALITIES):
            videos.append(path)
            continue
        files = sorted(file for file in path.rglob("*") if not _is_hidden_below(path, file) and not file.is_dir())
        there = [modality for modality in MODALITIES if any(map(modality.is_file, files))]
        modality = load_processor(model).modality if len(there) > 1 else next(iter(there), MODALITIES[0])
        found = [file for file in files if modality.is_file(file)]
        videos += found
        left_out = [str(file.relative_to(path)) for file in files if not modality.is_file(file)]
        _name_left_out(path, left_out, modality.words.clips)
    return videos


def _is_hidden_below(folder: Path, file: Path) -> bool:
    return any(is_hidden_file(part) for part in file.relative_to(folder).parts)


def _name_left_out(folder: Path, names: list[str], clips: str) -> None:
    if names:
        more = f" and {len(names) - MOST_FILES_NAMED} more" if len(names) > MOST_FILES_NAMED else ""
        listed = ", ".join(names[:MOST_FILES_NAMED])
        print(f"Left out {len(names)} file(s) in {folder} that are not {clips}: {listed}{more}", file=sys.stderr)


def _check(arguments: TranslateArguments) -> None:
    """
    Raises:
        ValueError: for a device or an output file that cannot be used.
    """
    if arguments.device is not None and not _is_usable(arguments.device):
        raise ValueError(f"--device {arguments.device} cannot be used here; leave it out for {default_device().type}")
    output = arguments.output
    if output is None:
        return
    if output.exists() and not journal_path(output).exists():
        raise ValueError(f"--output {output} already exists. Name a new file, or delete this one.")
    if not output.parent.is_dir():
        raise ValueError(f"--output {output}: there is no folder {output.parent}")


def run(argv: Sequence[str] | None = None) -> int:
    """
    Translate from command-line arguments; returns 1 if a file could not be translated.

    Raises:
        ValueError: for mistakes that the user has to fix.
    """
    arguments, sharing = COMMANDS["translate"].parse(argv)
    cluster = sharing.cluster(uses_gpus=arguments.device != "cpu", threads=arguments.num_threads)
    _check(arguments)
    if os.environ.get("RANK", "0") != "0":
        return 0  # of several processes of torchrun or accelerate, only the first one translates
    videos = _clips_to_translate(arguments)
    if arguments.output is None:
        return _translate(arguments, cluster, videos, None)
    return _translate(arguments, cluster, videos, Journal(arguments.output, _settings(arguments)))


def _clips_to_translate(arguments: TranslateArguments) -> list[Path] | list[ClipOfDataSet]:
    if arguments.dataset is not None:
        return clips_of_data_set(arguments.dataset, arguments.split, load_processor(arguments.model).modality)
    videos = list(dict.fromkeys(find_videos(arguments.videos, arguments.model)))
    if not videos:
        raise ValueError(f"There is no video in {', '.join(arguments.videos)}.")
    return videos


def _settings(arguments: TranslateArguments) -> dict[str, Any]:
    """Everything that affects the translations of a run, by flag name."""
    names = ("model", "start", "end", "num_beams", "long", "srt", "vtt", "dtype", "quantization", "spoken_language")
    of_choice = ("num_candidates", "choose_by") if arguments.num_candidates is not None else ()
    of_hand = ("left_handed",) if arguments.left_handed is not False else ()
    of_data_set = ("dataset", "split") if arguments.dataset is not None else ()
    settings = {f"--{name}": getattr(arguments, name) for name in (*names, *of_choice, *of_hand, *of_data_set)}
    folder = Path(arguments.model)
    patterns = ("*.safetensors", "*config.json", CALIBRATION_FILE)
    files = [file for pattern in patterns for file in folder.glob(pattern)] if folder.is_dir() else []
    if files:
        newest = datetime.datetime.fromtimestamp(max(file.stat().st_mtime for file in files))
        settings["model files of"] = newest.isoformat(" ")
    return settings


def _translate(
    arguments: TranslateArguments,
    cluster: RayCluster | None,
    videos: Sequence[Path | ClipOfDataSet],
    journal: Journal | None,
) -> int:
    caption_formats = [name for name in CAPTION_FORMATS if getattr(arguments, name)]
    results = _known_results(videos, caption_formats, journal)
    remaining = [position for position in range(len(videos)) if position not in results]
    if journal is None:
        remaining = _without_captions(videos, remaining, caption_formats)
    # With a journal always, because the next run of the command may ask for another format.
    wants_confidence = arguments.format != "text" or journal is not None
    wants_confidence &= arguments.num_candidates is None  # it was measured for log probabilities alone
    with_confidence = wants_confidence and is_calibrated(load_config(arguments.model))
    table = Table(arguments.format, arguments.long, with_confidence, arguments.left_handed is not False)
    printer = None if journal is not None else Printer(table, sorted([*results, *remaining]))
    to_do = [videos[position] for position in remaining]
    if cluster is None and arguments.num_processes == 1:
        stream = translate_here(arguments, to_do, journal, with_confidence)
    else:
        stream = translate_in_processes(arguments, to_do, journal, with_confidence, cluster)
    try:
        for result in results.values() if printer is not None else ():
            printer.add(result)
        with closing(stream):  # so that the threads stop reading after Ctrl-C, too
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
    videos: Sequence[Path | ClipOfDataSet], caption_formats: Sequence[str], journal: Journal | None
) -> dict[int, Translation]:
    """By position: what an earlier run finished, and what cannot be done."""
    clashes = clashing_captions(videos, caption_formats) if caption_formats else {}
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
        print(f"Resuming: {num_finished} of {len(videos)} video(s) are finished, see {journal.path}.", file=sys.stderr)
    return results


def _without_captions(videos: Sequence[Path], positions: Sequence[int], caption_formats: Sequence[str]) -> list[int]:
    """The positions of videos whose captions have not been written yet."""
    remaining = [position for position in positions if not has_captions(videos[position], caption_formats)]
    if len(remaining) < len(positions):
        print(
            f"{len(positions) - len(remaining)} of {len(videos)} video(s) already have their captions and are left "
            "out. Move these files away to have new ones written.",
            file=sys.stderr,
        )
    return remaining


def _is_usable(device: str) -> bool:
    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError):  # an unknown name, or a device that this machine or build lacks
        return False
    return True


def _report(translations: Sequence[Translation], journal: Journal | None) -> int:
    """Report what went wrong, and return the exit status."""
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
        print(f"Run the same command again to retry these; {journal.path} keeps the others.", file=sys.stderr)
    elif journal is not None:
        journal.delete()
    return 1 if bad else 0


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(run, argv, "With --output, running the same command again resumes after what is finished.")


if __name__ == "__main__":
    sys.exit(main())
