"""
Make a video folder for training of a raw corpus: one folder a split, videos and `metadata.csv`, one schema for all.

    flallm prepare --corpus phoenix14t --source PHOENIX-2014-T-release-v3/PHOENIX-2014-T --output_dir phoenix14t
    flallm prepare --corpus table --source my_recordings --output_dir my_corpus --sign_language ise --spoken_language it

A table is a spreadsheet saved as CSV. Without one, subtitles (srt, vtt) and ELAN files (eaf) beside videos are read.
Folders of pictures are encoded to mp4, one frame a picture. Video files stay as they are: the new folder has hard links
to them, which take no space, or copies where the file system cannot link. Parts of long videos are not cut: `start` and
`end` in `metadata.csv` tell them. Every video is decoded once, so that `num_frames` and `duration_in_seconds` are true.

Whatever is missing or broken is left out and listed in `report.txt` and `report.json`; the exit status is then 1, and
0 if there was nothing. A run that was interrupted goes on with the same command.
"""

import contextlib
import csv
import hashlib
import io
import json
import os
import re
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from huggingface_hub import DatasetCardData, HfApi
from tqdm import tqdm

from ..arguments.command_arguments import PrepareArguments
from ..arguments.command_line import run_command
from ..arguments.commands import COMMANDS
from ..corpora.corpus_readers import read_corpus
from ..corpora.corpus_schema import COLUMNS, SPLITS, RawClip, RawCorpus
from ..corpora.prepared_videos import VideoOutcome, VideoTask, run_tasks
from ..corpora.video_encoding import VideoLength
from ..hub.hub_errors import HUB_ERRORS, explain_hub_error
from ..languages.languages import language_name
from ..machine.atomic_files import LEAVINGS, write_json, write_text
from ..machine.inside_folder import inside
from .push_to_hub import Upload, send

STATE_FOLDER = ".preparation"
# What `datasets` and the Hub take for videos; a file of another kind is read by its content, whatever its name.
HUB_VIDEO_SUFFIXES = (".mp4", ".mkv", ".avi", ".mpeg", ".mov", ".webm")
# The Hub takes at most 10,000 files in a folder.
MOST_FILES_IN_A_FOLDER = 5000
LONGEST_NAME = 80
RESERVED_NAMES = {"con", "prn", "aux", "nul", *(f"{name}{digit}" for name in ("com", "lpt") for digit in range(10))}
LARGEST_LACK_IN_SECONDS = 0.5


# What is to be done


def plan_tasks(
    clips: Sequence[RawClip], source_folder: Path, output_dir: Path, encoding: tuple[float, int]
) -> list[tuple[VideoTask, list[RawClip]]]:
    """One task for each video of each split; file names are safe on every system, and the same in every run."""
    clips_of_video: dict[tuple[str, Path], list[RawClip]] = defaultdict(list)
    for clip in clips:
        clips_of_video[clip.split, clip.video].append(clip)
    names = {key: _video_name(key[1], clips) for key, clips in clips_of_video.items()}
    counts = Counter((split, _safe_name(names[split, video]).casefold()) for split, video in names)
    sizes = Counter(split for split, _ in names)
    tasks = []
    for (split, video), clips_of_it in clips_of_video.items():
        is_folder = os.path.isdir(video)
        name = _safe_name(names[split, video])
        # Not normalised: two spellings of one path are two tasks.
        address = hashlib.sha256(repr(str(video).removeprefix(str(source_folder))).encode()).hexdigest()
        if name != names[split, video] or counts[split, name.casefold()] > 1:
            name = f"{name}-{address[:10]}"
        suffix = video.suffix.lower() if not is_folder and video.suffix.lower() in HUB_VIDEO_SUFFIXES else ".mp4"
        subfolder = f"{address[:2]}/" if sizes[split] > MOST_FILES_IN_A_FOLDER else ""
        task = VideoTask(
            split=split,
            source=video,
            file_name=f"{subfolder}{name}{suffix}",
            split_folder=output_dir / split,
            work_folder=output_dir / STATE_FOLDER,
            encoding=encoding if is_folder else None,
            intervals=tuple((clip.start, clip.end) for clip in clips_of_it),
        )
        tasks.append((task, clips_of_it))
    return tasks


def _video_name(video: Path, clips: list[RawClip]) -> str:
    return clips[0].name if len(clips) == 1 else video.stem


def _safe_name(name: str) -> str:
    """A name that every file system, shell and archive takes; not unique."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._-")[:LONGEST_NAME].rstrip(".")
    return f"_{safe}" if not safe or safe.split(".")[0].casefold() in RESERVED_NAMES else safe


def find_faults(clips: Iterable[RawClip]) -> Iterator[tuple[RawClip, str | None]]:
    """Each clip with what is wrong with its description, or None."""
    seen = set()
    for clip in clips:
        place = (clip.split, clip.video, clip.start, clip.end)
        if clip.split not in SPLITS:
            fault = f"the split must be one of {', '.join(SPLITS)}, it is {clip.split!r}."
        elif not clip.text.strip():
            fault = "has no sentence."
        elif "\0" in clip.text or not clip.text.isascii() and _has_surrogates(clip.text):
            fault = "the sentence holds NUL bytes or bytes that are no UTF-8 text."
        elif place in seen:
            fault = "is listed twice: an earlier line names the same video and the same part of it."
        else:
            fault = None
            seen.add(place)
        yield clip, fault


def _has_surrogates(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


# The output folder


class OutputFolder:
    """
    The folder that is made, with what earlier runs finished in it; as a context, it belongs to this process alone.

    Args:
        arguments: what decides its content; a folder is resumed only with the same.

    Raises:
        ValueError: if the folder holds anything else, was made with other arguments, or another process is at work in
            it; nothing has been written then.
    """

    def __init__(self, path: Path, arguments: dict[str, Any]):
        self.path = path
        self.state = path / STATE_FOLDER
        self._check(arguments)
        self.state.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.state / "lock")
        with contextlib.suppress(NotImplementedError):  # of file systems without locks
            try:
                self._lock.acquire(timeout=0)
            except Timeout as error:
                raise ValueError(
                    f"Another flallm prepare is at work in --output_dir {self.path}. Wait until it has ended."
                ) from error
        self._remove_leavings()
        write_json(self.state / "arguments.json", arguments)
        self.finished = dict(self._read_finished())

    def __enter__(self) -> "OutputFolder":
        return self

    def __exit__(self, *_: object) -> None:
        self._remove_leavings()
        self._lock.release()

    def _remove_leavings(self) -> None:
        """What processes left that were killed while they wrote a video or a table."""
        places = (self.path, *(self.path / split for split in SPLITS))
        leavings = [leaving for place in places for leaving in place.glob(LEAVINGS)]
        for leaving in [*leavings, *self.state.glob("*.partial")]:
            leaving.unlink(missing_ok=True)

    def _check(self, arguments: dict[str, Any]) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"--output_dir {self.path} is a file. Name a new or empty folder.")
        if not self.path.is_dir() or not any(self.path.iterdir()):
            return
        # A run that was killed at its very beginning has left a state folder with nothing in it.
        saved_file = self.state / "arguments.json"
        is_new = [child.name for child in self.path.iterdir()] == [STATE_FOLDER] and not saved_file.exists()
        if is_new and not self.state.is_symlink():
            return
        try:
            saved = json.loads(saved_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            saved = None
        if not isinstance(saved, dict):
            raise ValueError(f"--output_dir {self.path} is not empty. Name a new folder, or remove this one.")
        links = [name for name in (STATE_FOLDER, *SPLITS) if (self.path / name).is_symlink()]
        if links:
            raise ValueError(f"--output_dir {self.path} holds a link instead of its folder {links[0]}. Name a new one.")
        for name, value in arguments.items():
            if saved.get(name) != value:
                raise ValueError(
                    f"--output_dir {self.path} was made with {name} {saved.get(name)!r}, not {value!r}. Go on with the "
                    "same arguments, or name a new folder."
                )

    def _read_finished(self) -> Iterator[tuple[str, dict[str, Any]]]:
        path = self.state / "finished.jsonl"
        if not path.exists():
            return
        for line in path.read_bytes().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # the last line, if the run was killed while it was written
            yield entry["key"], entry

    def outcome_of(self, task: VideoTask) -> VideoOutcome | None:
        """What an earlier run found out about a video, if that and its source are still the same."""
        entry = self.finished.get(task.key)
        if entry is None or entry["state"] != _state(task):
            return None
        lengths = [length if isinstance(length, str) else VideoLength(*length) for length in entry["lengths"]]
        return VideoOutcome(entry["how"], lengths)

    def remember(self, task: VideoTask, outcome: VideoOutcome) -> None:
        """Only videos that are there count as finished: what was broken is tried again, as it may have been mended."""
        if outcome.how is None:
            return
        lengths = [
            length if isinstance(length, str) else (length.num_frames, length.duration_in_seconds)
            for length in outcome.lengths
        ]
        entry = {"key": task.key, "state": _state(task), "how": outcome.how, "lengths": lengths}
        self.finished[task.key] = entry
        with (self.state / "finished.jsonl").open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps(entry))  # the line break comes first: it ends a line that was torn off

    def remove_forgotten(self, kept: set[str]) -> None:
        """Delete videos of earlier runs that the corpus no longer names."""
        for key in self.finished.keys() - kept:
            (self.path / key).unlink(missing_ok=True)


def _state(task: VideoTask) -> list[Any]:
    """What changes when a source, a video or the clips of it change; JSON."""
    state: list[Any] = [list(interval) for interval in task.intervals]
    for path in (task.source, task.target):
        try:
            status = path.stat()
        except OSError:
            state.append("missing")
        else:
            state.append([status.st_size, status.st_mtime_ns])
    return state


# Metadata and report


def printable(text: str | None) -> str:
    """Text for a file: control characters, such as NUL and line breaks, and undecodable bytes are spelled out."""
    return "".join(
        character.encode("unicode_escape").decode() if unicodedata.category(character) in ("Cc", "Cs") else character
        for character in text or ""
    )


def metadata_row(clip: RawClip, file_name: str, length: VideoLength, corpus: RawCorpus) -> dict[str, Any]:
    """The columns of `COLUMNS`; what is not known is empty."""
    return {
        "file_name": file_name,
        "text": clip.text,
        "start": "" if clip.start is None else float(clip.start),
        "end": "" if clip.end is None else float(clip.end),
        "name": printable(clip.name),
        "signer": printable(clip.signer),
        "gloss": printable(clip.gloss),
        "sign_language": corpus.sign_language or "",
        "spoken_language": corpus.spoken_language or "",
        "duration_in_seconds": round(float(length.duration_in_seconds), 6),
        "num_frames": length.num_frames,
    }


def _formula_note(rows: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Cells stay as they are, so that what is trained on is what was written; whoever opens the table must know."""
    columns = ("text", "name", "signer", "gloss")
    cells = [str(row[column]) for of_split in rows.values() for row in of_split for column in columns]
    count = sum(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in cells)
    if not count:
        return []
    return [
        f"{count} cell(s) of metadata.csv begin with =, +, - or @, which spreadsheet programs take for formulas: "
        "import these columns as text there"
    ]


def _metadata_text(rows: list[dict[str, Any]]) -> str:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


@dataclass
class Report:
    """Everything that a person has to know about the result; `problems` have a split where it is known."""

    corpus: str
    source: str
    sign_language: str | None
    spoken_language: str | None
    splits: dict[str, dict[str, Any]]
    videos: dict[str, int]
    problems: list[dict[str, str | None]]
    notes: list[str]

    def as_text(self) -> str:
        lines = [
            f"{self.corpus} from {printable(self.source)}",
            f"{language_name(self.sign_language) or 'sign language not named'} -> "
            f"{language_name(self.spoken_language) or 'spoken language not named'}",
            "",
            f"{'split':12}{'official':>10}{'read':>10}{'prepared':>10}",
        ]
        for split, counts in self.splits.items():
            official = counts["official"]
            lines.append(
                f"{split:12}{'-' if official is None else official:>10}{counts['read']:>10}{counts['prepared']:>10}"
                f"   {counts['why']}".rstrip()
            )
        lines += ["", f"Videos: {', '.join(f'{count} {how}' for how, count in self.videos.items()) or 'none'}."]
        if self.videos.get("linked"):
            lines.append("Linked videos are the source's own files under a second name: replace them, never edit them.")
        lines += ["", f"{len(self.problems)} problem(s)" + (":" if self.problems else ".")]
        lines += [f"  {problem['where']}: {problem['what']}" for problem in self.problems]
        if self.notes:
            lines += ["", "Notes:", *(f"  {note}" for note in self.notes)]
        return "\n".join(lines) + "\n"


def _problem(where: str, what: str, split: str | None = None) -> dict[str, str | None]:
    return {"where": printable(where), "what": printable(" ".join(what.split())), "split": split}


def _why_sizes_differ(official: int | None, num_read: int, prepared: int, num_problems_of_files: int) -> str:
    """One line; empty where there is nothing to explain."""
    reasons = []
    if official is not None and num_read != official:
        difference = f"{abs(num_read - official)} {'fewer' if num_read < official else 'more'}"
        reasons.append(f"{difference} could be read than the corpus's paper counts")
        if num_problems_of_files:
            reasons.append(f"its files have {num_problems_of_files} problem(s), listed below")
    if prepared != num_read:
        reasons.append(f"{num_read - prepared} left out, with their reasons below")
    return "; ".join(reasons)


# The command


def prepare(arguments: PrepareArguments) -> Report:
    """
    Prepare a corpus and write its report.

    Raises:
        ValueError, OSError: for arguments that cannot be met; nothing has been written then.
    """
    source, output_dir = Path(arguments.source).resolve(), Path(arguments.output_dir).resolve()
    if not source.exists():
        raise ValueError(f"--source must be the folder of the raw corpus; there is no {arguments.source}.")
    if source.is_relative_to(output_dir) or output_dir.is_relative_to(source):
        raise ValueError(f"--output_dir {arguments.output_dir} must lie outside of --source, and not around it.")
    videos, table = (None if path is None else Path(path).resolve() for path in (arguments.videos, arguments.table))
    columns = dict(column.split("=", 1) for column in arguments.columns)
    corpus = read_corpus(arguments.corpus, source, videos, table, columns, arguments.tier)
    corpus.sign_language = arguments.sign_language or corpus.sign_language
    corpus.spoken_language = arguments.spoken_language or corpus.spoken_language
    encoding = (_frames_per_second(arguments, corpus), arguments.quality)
    with OutputFolder(output_dir, _deciding(arguments, source, corpus, encoding)) as folder:
        return _fill(folder, corpus, source, encoding, arguments)


def _fill(
    folder: OutputFolder, corpus: RawCorpus, source: Path, encoding: tuple[float, int], arguments: PrepareArguments
) -> Report:
    problems = [_problem(problem.where, problem.what) for problem in corpus.problems]
    sound = []
    for clip, fault in find_faults(corpus.clips):
        if fault is None:
            sound.append(clip)
        else:
            problems.append(_problem(clip.name, fault, clip.split))
    tasks = plan_tasks(sound, source, folder.path, encoding)
    outcomes = _finish_tasks(folder, [task for task, _ in tasks], arguments.num_workers)
    rows, more_problems = _collect(tasks, outcomes, corpus)
    problems += more_problems
    for problem in problems:  # a report that is sent to the Hub need not tell how its maker's folders are called
        problem["what"] = problem["what"].replace(f"{source}{os.sep}", "")
    folder.remove_forgotten({task.key for task, _ in tasks if outcomes[task.key].how is not None})
    return _write(folder, rows, problems, outcomes, corpus, arguments)


def _frames_per_second(arguments: PrepareArguments, corpus: RawCorpus) -> float:
    frames_per_second = arguments.frames_per_second or corpus.frames_per_second
    if frames_per_second is None and any(os.path.isdir(clip.video) for clip in corpus.clips):
        raise ValueError("Folders of pictures do not tell their frame rate: pass --frames_per_second, such as 25.")
    return float(frames_per_second or 25)


def _deciding(
    arguments: PrepareArguments, source: Path, corpus: RawCorpus, encoding: tuple[float, int]
) -> dict[str, Any]:
    """The arguments that decide the content of the output folder; JSON."""
    return {
        "corpus": arguments.corpus,
        "source": printable(str(source)),
        "videos": arguments.videos,
        "table": arguments.table,
        "columns": arguments.columns,
        "tier": arguments.tier,
        "frames_per_second": encoding[0],
        "quality": encoding[1],
        "sign_language": corpus.sign_language,
        "spoken_language": corpus.spoken_language,
    }


def _finish_tasks(folder: OutputFolder, tasks: list[VideoTask], num_workers: int) -> dict[str, VideoOutcome]:
    """Outcomes by key, of earlier runs where there are any."""
    known = {task.key: folder.outcome_of(task) for task in tasks}
    outcomes = {key: outcome for key, outcome in known.items() if outcome is not None}
    if outcomes:
        print(f"Going on: {len(outcomes)} of {len(tasks)} videos are finished already.")
    for subfolder in {task.target.parent for task in tasks}:
        subfolder.mkdir(parents=True, exist_ok=True)
    left = [task for task in tasks if task.key not in outcomes]
    finished = tqdm(run_tasks(left, num_workers), total=len(left), desc="preparing", unit="video", disable=not left)
    for task, outcome in finished:
        folder.remember(task, outcome)
        outcomes[task.key] = outcome
    return outcomes


def _collect(
    tasks: list[tuple[VideoTask, list[RawClip]]], outcomes: dict[str, VideoOutcome], corpus: RawCorpus
) -> tuple[dict[str, list[dict[str, Any]]], list[dict[str, str | None]]]:
    """Each clip becomes a row of its split or a problem, or both when it is shorter than it should be."""
    rows: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    problems = []
    for task, clips in tasks:
        for clip, length in zip(clips, outcomes[task.key].lengths, strict=True):
            if isinstance(length, str):
                problems.append(_problem(clip.name, length, clip.split))
                continue
            rows[clip.split].append(metadata_row(clip, task.file_name, length, corpus))
            lack = 0.0 if clip.end is None else clip.end - (clip.start or 0) - length.duration_in_seconds
            if lack > LARGEST_LACK_IN_SECONDS:
                what = f"is kept, but the video ends {lack:.2f} seconds before the clip does."
                problems.append(_problem(clip.name, what, clip.split))
    return rows, problems


def _write(
    folder: OutputFolder,
    rows: dict[str, list[dict[str, Any]]],
    problems: list[dict[str, str | None]],
    outcomes: dict[str, VideoOutcome],
    corpus: RawCorpus,
    arguments: PrepareArguments,
) -> Report:
    splits = {}
    for split in SPLITS:
        official = corpus.official_sizes.get(split)
        num_read, prepared = sum(clip.split == split for clip in corpus.clips), len(rows[split])
        why = _why_sizes_differ(official, num_read, prepared, len(corpus.problems))
        splits[split] = {"official": official, "read": num_read, "prepared": prepared, "why": why}
        metadata = folder.path / split / "metadata.csv"
        if rows[split]:
            write_text(metadata, _metadata_text(rows[split]), newline="")
        else:
            metadata.unlink(missing_ok=True)
            _remove_empty(folder.path / split)
    videos = Counter(outcome.how for outcome in outcomes.values() if outcome.how is not None)
    report = Report(
        corpus=arguments.corpus,
        source=printable(arguments.source),
        sign_language=corpus.sign_language,
        spoken_language=corpus.spoken_language,
        splits=splits,
        videos=dict(sorted(videos.items())),
        problems=problems,
        notes=[printable(note) for note in [*corpus.notes, *_formula_note(rows)]],
    )
    write_json(folder.path / "report.json", asdict(report), ensure_ascii=True)
    write_text(folder.path / "report.txt", report.as_text())
    write_text(folder.path / "README.md", dataset_card(report, arguments.dataset_license))
    return report


def _remove_empty(folder: Path) -> None:
    """Remove a folder in which all videos turned out to be broken, with its empty subfolders."""
    for parent, _, _ in os.walk(folder, topdown=False):
        if not any(os.scandir(parent)):
            os.rmdir(parent)


def dataset_card(report: Report, dataset_license: str | None) -> str:
    """README.md of the data set; the licence is the corpus's, so that none is named unless it was given."""
    data = DatasetCardData(
        language=[report.spoken_language] if report.spoken_language else None,
        license=dataset_license,
        tags=["sign-language-translation", *([report.sign_language] if report.sign_language else []), "video"],
    )
    rows = "\n".join(f"| {split} | {counts['prepared']} |" for split, counts in report.splits.items())
    sign = language_name(report.sign_language) or "a sign language"
    spoken = language_name(report.spoken_language) or "a spoken language"
    return (
        f"---\n{data.to_yaml()}\n---\n\n# {report.corpus}: {sign} to {spoken}\n\n"
        f"Videos of {sign} with sentences in {spoken}, prepared by `flallm prepare`.\n\n"
        f"| split | clips |\n|---|---|\n{rows}\n\n"
        f"Columns of `metadata.csv`: {', '.join(f'`{name}`' for name in COLUMNS)}. `start` and `end` are seconds "
        "within the video, where a clip is a part of it. What is missing or broken in the corpus is listed in "
        "`report.txt`.\n"
    )


def push(folder: Path, report: Report, arguments: PrepareArguments) -> None:
    """Send what belongs to the data set, in one commit."""
    names = ["README.md", "report.txt", "report.json"]
    for split in SPLITS:
        metadata = folder / split / "metadata.csv"
        if metadata.is_file():
            with metadata.open(encoding="utf-8", newline="") as file:
                videos = {f"{split}/{row['file_name']}" for row in csv.DictReader(file)}
            names += [f"{split}/metadata.csv", *sorted(videos)]
    files = {name: inside(folder, name) for name in names}
    upload = Upload(arguments.push_to_hub, "dataset", files, left_out=[])
    api = HfApi()
    try:
        api.whoami()  # a wrong token reads like a missing repository in every later answer
        send(api, upload, arguments.private, f"Prepare {report.corpus} with flallm prepare", variables={})
    except HUB_ERRORS as error:
        raise ValueError(explain_hub_error(error, arguments.push_to_hub)) from error
    print(f"\nSent to {api.endpoint}/datasets/{arguments.push_to_hub}.")


def run(argv: Sequence[str] | None = None) -> int:
    """Prepare from command-line arguments; 1 if anything is wrong with the corpus."""
    (arguments,) = COMMANDS["prepare"].parse(argv)
    report = prepare(arguments)
    print(report.as_text(), end="")
    if arguments.push_to_hub is not None:
        push(Path(arguments.output_dir), report, arguments)
    return int(bool(report.problems))


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(run, argv)


if __name__ == "__main__":
    sys.exit(main())
