"""How a prepared data set describes itself: the rows of its tables, a report for people, and its card."""

import csv
import io
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import DatasetCardData

from ..languages.languages import language_name
from .corpus_schema import COLUMNS, FEATURE_COLUMNS, POSE_COLUMNS, RawClip, RawCorpus

ABOUT_VIDEOS = "`start` and `end` are seconds within the video, where a clip is a part of it."
HOW_TO_DOWNLOAD = (
    "Training reads the files from a folder on disk, so download this data set (`hf download NAME --repo-type dataset "
    "--local-dir FOLDER`) and pass `--dataset FOLDER`."
)
ABOUT_FEATURES = (
    "Each file in `visual_features` holds one clip: the tensor `features` of shape `(features, width)`. `start` and "
    f"`end` say which part of its source it is. {HOW_TO_DOWNLOAD}"
)
ABOUT_POSES = (
    "Each file in `poses` holds one clip: the tensors `keypoints` `(frames, 133, 2)`, in pixels, and `scores` "
    "`(frames, 133)`, 0 for points that are not seen, in the layout of COCO-WholeBody; its header states the frame "
    f"rate and, if it is known, the size of the picture. {HOW_TO_DOWNLOAD}"
)
POSES_BESIDE_VIDEOS = (
    "`poses` names a file with the poses of the whole video, tensors in the layout of COCO-WholeBody: `keypoints` "
    "`(frames, 133, 2)`, in pixels, and `scores` `(frames, 133)`; `start` and `end` are those of both."
)
TITLES = {COLUMNS[0]: "Videos", FEATURE_COLUMNS[0]: "Visual features", POSE_COLUMNS[0]: "Poses"}


def printable(text: str | None) -> str:
    """Text for a file, with control characters (NUL, line breaks) and undecodable bytes spelled out."""
    return "".join(
        character.encode("unicode_escape").decode() if unicodedata.category(character) in ("Cc", "Cs") else character
        for character in text or ""
    )


def metadata_row(
    clip: RawClip, file_name: str, measured: dict[str, Any], corpus: RawCorpus, columns: Sequence[str]
) -> dict[str, Any]:
    """The values of these columns, among them those that were `measured`; unknown ones are empty."""
    values = {
        columns[0]: file_name,
        "text": clip.text,
        "start": "" if clip.start is None else float(clip.start),
        "end": "" if clip.end is None else float(clip.end),
        "name": printable(clip.name),
        "signer": printable(clip.signer),
        "gloss": printable(clip.gloss),
        "sign_language": corpus.sign_language or "",
        "spoken_language": corpus.spoken_language or "",
        **measured,
    }
    return {column: values[column] for column in columns}


def formula_note(rows: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Cells are not changed, so that models train on what was written; whoever opens the table must be warned."""
    columns = ("text", "name", "signer", "gloss")
    cells = [str(row[column]) for of_split in rows.values() for row in of_split for column in columns]
    count = sum(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in cells)
    if not count:
        return []
    return [
        f"{count} cell(s) of metadata.csv begin with =, +, - or @, which spreadsheet programs take for formulas: "
        "import these columns as text"
    ]


def metadata_text(rows: list[dict[str, Any]]) -> str:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


@dataclass
class Report:
    """
    Everything people need to know about the result.

    Args:
        videos: how many files were made how.
        problems: have a split if it is known.
        columns: of metadata.csv, the first of which names the file of a clip.
        extractors: what made the poses of how many clips, as far as their files say so.
    """

    corpus: str
    source: str
    sign_language: str | None
    spoken_language: str | None
    splits: dict[str, dict[str, Any]]
    videos: dict[str, int]
    problems: list[dict[str, str | None]]
    notes: list[str]
    columns: list[str]
    extractors: dict[str, int] = field(default_factory=dict)

    @property
    def holds(self) -> str:
        return TITLES[self.columns[0]]

    @property
    def poses_made_by(self) -> str:
        """One sentence; empty if there are no poses."""
        shown = ", ".join(f"{printable(name)} ({count} clips)" for name, count in self.extractors.items())
        return f"The poses were extracted with {shown}." if shown else ""

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
        lines += ["", f"{self.holds}: {', '.join(f'{count} {how}' for how, count in self.videos.items()) or 'none'}."]
        lines += [self.poses_made_by] if self.extractors else []
        if self.videos.get("linked"):
            lines.append("Linked videos are the source files under a second name: replace them, never edit them.")
        lines += ["", f"{len(self.problems)} problem(s)" + (":" if self.problems else ".")]
        lines += [f"  {problem['where']}: {problem['what']}" for problem in self.problems]
        if self.notes:
            lines += ["", "Notes:", *(f"  {note}" for note in self.notes)]
        return "\n".join(lines) + "\n"


def problem_of(where: str, what: str, split: str | None = None) -> dict[str, str | None]:
    return {"where": printable(where), "what": printable(" ".join(what.split())), "split": split}


def why_sizes_differ(official: int | None, num_read: int, prepared: int, num_problems_of_files: int) -> str:
    """One line; empty if there is nothing to explain."""
    reasons = []
    if official is not None and num_read != official:
        difference = f"{abs(num_read - official)} {'fewer' if num_read < official else 'more'}"
        reasons.append(f"{difference} could be read than the corpus's paper counts")
        if num_problems_of_files:
            reasons.append(f"its files have {num_problems_of_files} problem(s), listed below")
    if prepared != num_read:
        reasons.append(f"{num_read - prepared} left out for the reasons below")
    return "; ".join(reasons)


def _about(report: Report) -> list[str]:
    """What to know of the files."""
    about = {"Videos": ABOUT_VIDEOS, "Visual features": ABOUT_FEATURES, "Poses": ABOUT_POSES}[report.holds]
    has_both = report.holds == "Videos" and POSE_COLUMNS[0] in report.columns
    return [about, *([POSES_BESIDE_VIDEOS] if has_both else []), *filter(None, [report.poses_made_by])]


def dataset_card(report: Report, dataset_license: str | None) -> str:
    """README.md of the data set; the licence is the corpus's, so none is named unless it is given."""
    has_videos = report.holds == "Videos"
    tags = [report.sign_language] if report.sign_language else []
    data = DatasetCardData(
        language=[report.spoken_language] if report.spoken_language else None,
        license=dataset_license,
        tags=["sign-language-translation", *tags, *(["video"] if has_videos else [])],
    )
    rows = "\n".join(f"| {split} | {counts['prepared']} |" for split, counts in report.splits.items())
    sign = language_name(report.sign_language) or "a sign language"
    spoken = language_name(report.spoken_language) or "a spoken language"
    return (
        f"---\n{data.to_yaml()}\n---\n\n# {report.corpus}: {sign} to {spoken}\n\n"
        f"{report.holds} of {sign} with sentences in {spoken}, prepared by `flallm prepare`.\n\n"
        f"| split | clips |\n|---|---|\n{rows}\n\n"
        f"Columns of `metadata.csv`: {', '.join(f'`{name}`' for name in report.columns)}. "
        f"{' '.join(_about(report))} What is missing or broken in the corpus is listed in "
        "`report.txt`.\n"
    )
