"""
Make a video folder for training from a raw corpus: one folder per split with videos and `metadata.csv`, in one schema.

    flallm prepare --corpus phoenix14t --source PHOENIX-2014-T-release-v3/PHOENIX-2014-T --output_dir phoenix14t
    flallm prepare --corpus table --source my_recordings --output_dir my_corpus --sign_language ise --spoken_language it
    flallm prepare --corpus features --source i3d_features --output_dir my_features --features_per_second 12.5
    flallm prepare --corpus poses --source openpose_output --output_dir my_poses --frames_per_second 25

A table is a spreadsheet saved as CSV. Without one, subtitles (srt, vtt) and ELAN files (eaf) next to the videos are
read. Folders of pictures are encoded to mp4, one frame per picture. Video files are not re-encoded: the new folder has
hard links to them, which take no space, or copies where the file system cannot link. Long videos are not cut: `start`
and `end` in `metadata.csv` mark their parts. Every video is decoded once to get `num_frames` and `duration_in_seconds`.
Features that others computed are checked, and written as one `.safetensors` file per clip that states their rate. So
are poses, cut to their clips; with `--poses FOLDER` they are put beside the videos of any corpus, whole.

Anything missing or broken is left out and listed in `report.txt` and `report.json`; the exit status is then 1,
otherwise 0. Running the same command again resumes an interrupted run.
"""

import csv
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from tqdm import tqdm

from ..arguments.command_arguments import PrepareArguments
from ..arguments.command_line import run_command
from ..arguments.commands import COMMANDS
from ..corpora.corpus_readers import read_corpus
from ..corpora.corpus_schema import POSE_COLUMNS, SPLITS, RawClip, RawCorpus
from ..corpora.planned_features import FeaturesPlan
from ..corpora.planned_poses import PosesBesideVideosPlan, PosesPlan, extractors_of
from ..corpora.planned_videos import Plan, VideoPlan, find_faults
from ..corpora.pose_folders import PoseFolder, with_poses
from ..corpora.preparation_report import (
    Report,
    dataset_card,
    formula_note,
    metadata_row,
    metadata_text,
    printable,
    problem_of,
    why_sizes_differ,
)
from ..corpora.prepared_folder import OutputFolder
from ..corpora.prepared_videos import ClipOutcome, ClipTask, run_tasks
from ..hub.hub_errors import HUB_ERRORS, explain_hub_error
from ..hub.uploads import Upload, send
from ..machine.atomic_files import write_json, write_text
from ..machine.inside_folder import inside
from ..machine.ray_cluster import RayCluster

LARGEST_LACK_IN_SECONDS = 0.5


def prepare(arguments: PrepareArguments, cluster: RayCluster | None = None) -> Report:
    """
    Prepare a corpus and write its report.

    Raises:
        ValueError, OSError: for arguments that cannot be met; nothing has been written in that case.
    """
    source, output_dir = Path(arguments.source).resolve(), Path(arguments.output_dir).resolve()
    if not source.exists():
        raise ValueError(f"--source must be the folder of the raw corpus; there is no {arguments.source}.")
    if source.is_relative_to(output_dir) or output_dir.is_relative_to(source):
        raise ValueError(f"--output_dir {arguments.output_dir} must be outside --source and must not contain it.")
    videos, table = (None if path is None else Path(path).resolve() for path in (arguments.videos, arguments.table))
    columns = dict(column.split("=", 1) for column in arguments.columns)
    corpus = read_corpus(arguments.corpus, source, videos, table, columns, arguments.tier)
    if arguments.poses is not None:
        _add_poses(corpus, arguments)
    corpus.sign_language = arguments.sign_language or corpus.sign_language
    corpus.spoken_language = arguments.spoken_language or corpus.spoken_language
    plan = _plan(arguments, corpus)
    with OutputFolder(output_dir, _deciding(arguments, source, corpus, plan)) as folder:
        return _fill(folder, corpus, source, plan, arguments, cluster)


def _add_poses(corpus: RawCorpus, arguments: PrepareArguments) -> None:
    folder = Path(arguments.poses).resolve()
    if corpus.clips_are != "videos":
        raise ValueError(f"--poses goes beside videos, but --corpus {arguments.corpus} is of {corpus.clips_are}.")
    if not folder.is_dir():
        raise ValueError(f"--poses must be the folder of the poses; there is no {arguments.poses}.")
    with_poses(corpus, PoseFolder(folder))


def _plan(arguments: PrepareArguments, corpus: RawCorpus) -> Plan:
    of_features = {"features_per_second": arguments.features_per_second, "features_layer": arguments.features_layer}
    of_frames = {"frames_per_second": arguments.frames_per_second}
    foreign = of_frames if corpus.clips_are == "features" else of_features
    given = [f"--{name}" for name, value in foreign.items() if value is not None]
    if given:
        raise ValueError(
            f"--corpus {arguments.corpus} is of {corpus.clips_are}, which have no {given[0]}. Leave it out."
        )
    if corpus.clips_are == "features":
        return FeaturesPlan(corpus.clips, arguments.features_per_second, arguments.features_layer)
    if corpus.clips_are == "poses":
        return PosesPlan(corpus.clips, arguments.frames_per_second)
    return VideoPlan(_frames_per_second(arguments, corpus), arguments.quality)


def _fill(
    folder: OutputFolder,
    corpus: RawCorpus,
    source: Path,
    plan: Plan,
    arguments: PrepareArguments,
    cluster: RayCluster | None,
) -> Report:
    problems = [problem_of(problem.where, problem.what) for problem in corpus.problems]
    sound = []
    for clip, fault in find_faults(corpus.clips, plan.kind):
        if fault is None:
            sound.append(clip)
        else:
            problems.append(problem_of(clip.name, fault, clip.split))
    tasks = plan.tasks(sound, source, folder.path)
    poses_plan = PosesBesideVideosPlan(sound, plan.settings["frames_per_second"]) if arguments.poses else None
    beside = [] if poses_plan is None else poses_plan.tasks(sound, source, folder.path)
    all_tasks = [task for task, _ in [*tasks, *beside]]
    finished = _finish_tasks(folder, all_tasks, arguments.num_workers, cluster, plan)
    outcomes = {task.key: finished[task.key] for task, _ in tasks}  # in the same order in every run
    of_poses = {task.key: finished[task.key] for task, _ in beside}
    for key, misfit in plan.misfits(outcomes).items():
        outcomes[key] = ClipOutcome(None, [misfit] * len(outcomes[key].lengths))
    rows, more_problems = _collect(tasks, outcomes, corpus, plan, _poses_of_clips(beside, of_poses))
    problems += more_problems
    corpus.notes += [*plan.notes(outcomes), *(poses_plan.notes(of_poses) if poses_plan else [])]
    for problem in problems:  # a report that goes to the Hub should not reveal the names of local folders
        for local in (source, Path(arguments.videos or source).resolve()):
            problem["what"] = problem["what"].replace(f"{local}{os.sep}", "")
    folder.remove_forgotten({key for key, outcome in (outcomes | of_poses).items() if outcome.how is not None})
    return _write(folder, rows, problems, outcomes, of_poses, corpus, plan, arguments)


def _poses_of_clips(
    tasks: list[tuple[ClipTask, list[RawClip]]], outcomes: dict[str, ClipOutcome]
) -> dict[RawClip, dict[str, str] | str]:
    """What poses beside videos add to the row of each clip, or what is wrong with them."""
    return {
        clip: length if isinstance(length, str) else {POSE_COLUMNS[0]: task.file_name}
        for task, clips in tasks
        for clip, length in zip(clips, outcomes[task.key].lengths, strict=True)
    }


def _frames_per_second(arguments: PrepareArguments, corpus: RawCorpus) -> float:
    frames_per_second = arguments.frames_per_second or corpus.frames_per_second
    if frames_per_second is None and any(os.path.isdir(clip.video) for clip in corpus.clips):
        raise ValueError("Folders of pictures do not contain a frame rate: pass --frames_per_second, such as 25.")
    return float(frames_per_second or 25)


def _deciding(arguments: PrepareArguments, source: Path, corpus: RawCorpus, plan: Plan) -> dict[str, Any]:
    """The arguments that determine the content of the output folder; JSON-serializable."""
    return {
        "corpus": arguments.corpus,
        "source": printable(str(source)),
        "videos": arguments.videos,
        "poses": arguments.poses,
        "table": arguments.table,
        "columns": arguments.columns,
        "tier": arguments.tier,
        **plan.settings,
        "sign_language": corpus.sign_language,
        "spoken_language": corpus.spoken_language,
    }


def _finish_tasks(
    folder: OutputFolder, tasks: list[ClipTask], num_workers: int, cluster: RayCluster | None, plan: Plan
) -> dict[str, ClipOutcome]:
    """Outcomes by key, including those of earlier runs."""
    known = {task.key: folder.outcome_of(task) for task in tasks}
    outcomes = {key: outcome for key, outcome in known.items() if outcome is not None}
    if outcomes:
        print(f"Resuming: {len(outcomes)} of {len(tasks)} {plan.unit}s are already finished.")
    for subfolder in {task.target.parent for task in tasks}:
        subfolder.mkdir(parents=True, exist_ok=True)
    left = [task for task in tasks if task.key not in outcomes]
    running = run_tasks(left, num_workers, cluster)
    finished = tqdm(running, total=len(left), desc="preparing", unit=plan.unit, disable=not left)
    for task, outcome in finished:
        folder.remember(task, outcome)
        outcomes[task.key] = outcome
    return outcomes


def _collect(
    tasks: list[tuple[ClipTask, list[RawClip]]],
    outcomes: dict[str, ClipOutcome],
    corpus: RawCorpus,
    plan: Plan,
    poses: dict[RawClip, dict[str, str] | str],
) -> tuple[dict[str, list[dict[str, Any]]], list[dict[str, str | None]]]:
    """
    Each clip becomes a row of its split or a problem, or both if it is shorter than it should be; `poses` are those
    beside videos.
    """
    rows: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    problems = []
    for task, clips in tasks:
        for clip, length in zip(clips, outcomes[task.key].lengths, strict=True):
            more = poses.get(clip, {})
            fault = next((each for each in (length, more) if isinstance(each, str)), None)
            if fault is not None:
                problems.append(problem_of(clip.name, fault, clip.split))
                continue
            values = plan.values_of(length) | more
            rows[clip.split].append(metadata_row(clip, task.file_name, values, corpus, _columns(plan, bool(poses))))
            lack = 0.0 if clip.end is None else clip.end - (clip.start or 0) - length.duration_in_seconds
            if lack > LARGEST_LACK_IN_SECONDS:
                what = f"is kept, but the {plan.kind} ends {lack:.2f} seconds before the clip does."
                problems.append(problem_of(clip.name, what, clip.split))
    return rows, problems


def _columns(plan: Plan, has_poses_beside: bool) -> tuple[str, ...]:
    return (*plan.columns, POSE_COLUMNS[0]) if has_poses_beside else plan.columns


def _write(
    folder: OutputFolder,
    rows: dict[str, list[dict[str, Any]]],
    problems: list[dict[str, str | None]],
    outcomes: dict[str, ClipOutcome],
    of_poses: dict[str, ClipOutcome],
    corpus: RawCorpus,
    plan: Plan,
    arguments: PrepareArguments,
) -> Report:
    splits = {}
    for split in SPLITS:
        official = corpus.official_sizes.get(split)
        num_read, prepared = sum(clip.split == split for clip in corpus.clips), len(rows[split])
        why = why_sizes_differ(official, num_read, prepared, len(corpus.problems))
        splits[split] = {"official": official, "read": num_read, "prepared": prepared, "why": why}
        metadata = folder.path / split / "metadata.csv"
        if rows[split]:
            write_text(metadata, metadata_text(rows[split]), newline="")
        else:
            metadata.unlink(missing_ok=True)
            _remove_empty(folder.path / split)
    extractors = extractors_of([*outcomes.values(), *of_poses.values()])
    videos = Counter(outcome.how for outcome in outcomes.values() if outcome.how is not None)
    report = Report(
        corpus=arguments.corpus,
        source=printable(arguments.source),
        sign_language=corpus.sign_language,
        spoken_language=corpus.spoken_language,
        splits=splits,
        videos=dict(sorted(videos.items())),
        problems=problems,
        notes=[printable(note) for note in [*corpus.notes, *formula_note(rows)]],
        columns=list(_columns(plan, bool(of_poses))),
        extractors={name: count for name, count in extractors.items() if name is not None},
    )
    write_json(folder.path / "report.json", asdict(report), ensure_ascii=True)
    write_text(folder.path / "report.txt", report.as_text())
    write_text(folder.path / "README.md", dataset_card(report, arguments.dataset_license))
    return report


def _remove_empty(folder: Path) -> None:
    """Remove a folder in which all clips turned out to be broken, with its empty subfolders."""
    for parent, _, _ in os.walk(folder, topdown=False):
        if not any(os.scandir(parent)):
            os.rmdir(parent)


def push(folder: Path, report: Report, arguments: PrepareArguments) -> None:
    """Upload the files of the data set in one commit."""
    names = ["README.md", "report.txt", "report.json"]
    for split in SPLITS:
        metadata = folder / split / "metadata.csv"
        if metadata.is_file():
            with metadata.open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
            columns = [column for index, column in enumerate(rows[0]) if index == 0 or column == POSE_COLUMNS[0]]
            files_of_clips = {f"{split}/{row[column]}" for row in rows for column in columns}
            names += [f"{split}/metadata.csv", *sorted(files_of_clips)]
    files = {name: inside(folder, name) for name in names}
    upload = Upload(arguments.push_to_hub, "dataset", files, left_out=[])
    api = HfApi()
    try:
        api.whoami()  # later answers to a wrong token look like a missing repository
        send(api, upload, arguments.private, f"Prepare {report.corpus} with flallm prepare", variables={})
    except HUB_ERRORS as error:
        raise ValueError(explain_hub_error(error, arguments.push_to_hub)) from error
    print(f"\nSent to {api.endpoint}/datasets/{arguments.push_to_hub}.")


def run(argv: Sequence[str] | None = None) -> int:
    """Prepare from command-line arguments; returns 1 if anything is wrong with the corpus."""
    arguments, sharing = COMMANDS["prepare"].parse(argv)
    report = prepare(arguments, sharing.cluster(uses_gpus=False))
    print(report.as_text(), end="")
    if arguments.push_to_hub is not None:
        push(Path(arguments.output_dir), report, arguments)
    return int(bool(report.problems))


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(run, argv)


if __name__ == "__main__":
    sys.exit(main())
