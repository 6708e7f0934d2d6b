"""
Extract the poses of the signers in videos, with rtmlib or MediaPipe (`pip install "flallm[rtmlib]"` or
`"flallm[mediapipe]"`).

    flallm poses clip.mp4 more_clips/ --output_dir poses
    flallm poses phoenix14t/ --output_dir phoenix14t_poses
    flallm poses phoenix14t/ --output_dir phoenix14t_poses --videos False --num_workers 8

Videos give one file of poses each. A data set (a folder with train/, dev/, test/, in each a metadata.csv or
metadata.jsonl) becomes a data set with the column `poses`; its videos are linked into it, which takes no space, or left
out with `--videos False`. If the clips are parts of long videos, only these parts are looked at.

Each file states what made it: package, version and digest of the model. Broken videos, and those in which nobody is
seen, are skipped, listed at the end, and make the command exit with status 1. After an interruption, run the same
command again to resume.
"""

import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from ..arguments.command_line import run_command
from ..arguments.commands import COMMANDS
from ..arguments.pose_extraction_arguments import PosesArguments
from ..clips.pose_folder import CARD, ClipTable, PoseFolder, find_tables, find_videos
from ..clips.pose_tasks import ExtractorSettings, PoseOutcome, PoseTask, quiet_extractor, run_pose_tasks
from ..machine.cores import num_cores
from ..machine.ray_cluster import RayCluster


def extract(arguments: PosesArguments, cluster: RayCluster | None = None) -> tuple[dict[PoseTask, PoseOutcome], int]:
    """
    Extract poses and write what is made of them. Returns the outcomes of all videos, and the number of clips that can
    be used.

    Raises:
        ValueError, OSError: for arguments that cannot be met; nothing has been written in that case.
    """
    tables, videos = _sources(arguments)
    settings = ExtractorSettings(arguments.extractor, arguments.model_file, arguments.detector_file, arguments.device)
    extractor, suffix = quiet_extractor(settings), f".{arguments.format}"
    folder = PoseFolder(arguments.output_dir, extractor.description, arguments.format)
    of_tables = [folder.tasks_of_table(table, suffix, settings) for table in tables]
    of_videos = folder.tasks_of_videos(videos, suffix, settings)
    tasks = [task for group in (*of_tables, of_videos) for task in group.values()]
    print(f"Extracting with {extractor.description}.", flush=True)
    num_workers = arguments.num_workers or (1 if extractor.uses_all_cores else num_cores())
    outcomes = _finish(folder, tasks, num_workers, cluster)
    num_clips = sum(outcomes[task].error is None for task in of_videos.values())
    for table, group in zip(tables, of_tables, strict=True):
        sound = {name: task for name, task in group.items() if outcomes[task].error is None}
        num_clips += folder.write_table(table, sound, arguments.videos)
    _copy_card(tables, arguments)
    return outcomes, num_clips


def _sources(arguments: PosesArguments) -> tuple[list[ClipTable], dict[str, Path]]:
    """Tables of a data set, or videos."""
    paths = [Path(source) for source in arguments.sources]
    output_dir = arguments.output_dir.resolve()
    for path in filter(Path.is_dir, paths):
        if output_dir.is_relative_to(path.resolve()) or path.resolve().is_relative_to(output_dir):
            raise ValueError(f"--output_dir {arguments.output_dir} must be outside {path} and must not contain it.")
    tables = [table for path in paths if path.is_dir() for table in find_tables(path, arguments.text_column)]
    if tables and len(paths) > 1:
        raise ValueError("Of a data set, the poses are extracted alone: name one folder for each run.")
    if not arguments.videos and not tables:
        raise ValueError("--videos False leaves the videos of a data set out, and there is none. Leave it out.")
    return tables, {} if tables else find_videos(paths)


def _finish(
    folder: PoseFolder, tasks: list[PoseTask], num_workers: int, cluster: RayCluster | None
) -> dict[PoseTask, PoseOutcome]:
    """Outcomes of all tasks, including those of earlier runs."""
    known = {task: folder.outcome_of(task) for task in tasks}
    outcomes = {task: outcome for task, outcome in known.items() if outcome is not None}
    if outcomes:
        print(f"Resuming: {len(outcomes)} of {len(tasks)} videos are already finished.", flush=True)
    left = [task for task in tasks if task not in outcomes]
    finished = run_pose_tasks(left, num_workers, cluster)
    for task, outcome in tqdm(finished, total=len(left), desc="extracting", unit="clip", disable=not left):
        folder.remember(task, outcome)
        outcomes[task] = outcome
    return {task: outcomes[task] for task in tasks}


def _copy_card(tables: list[ClipTable], arguments: PosesArguments) -> None:
    """The card of a data set says where its clips are from, and what may be done with them."""
    card = Path(arguments.sources[0]) / CARD
    if tables and card.is_file():
        shutil.copyfile(card, arguments.output_dir / CARD)


def run(argv: Sequence[str] | None = None) -> int:
    """Extract poses from command-line arguments; returns 1 if a video is broken."""
    arguments, sharing = COMMANDS["poses"].parse(argv)
    started = time.monotonic()
    outcomes, num_clips = extract(arguments, sharing.cluster(uses_gpus=arguments.device == "cuda"))
    problems = [f"{task.source}: {outcome.error}" for task, outcome in outcomes.items() if outcome.error is not None]
    if problems:
        print(f"Left out {len(problems)} of {len(outcomes)} videos:", *problems, sep="\n  ", file=sys.stderr)
    num_frames = sum(outcome.num_frames for outcome in outcomes.values())
    seconds = time.monotonic() - started
    print(f"{num_clips:,} clips, {num_frames:,} frames, {seconds:.1f} seconds: {arguments.output_dir}")
    return int(bool(problems))


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(run, argv)


if __name__ == "__main__":
    sys.exit(main())
