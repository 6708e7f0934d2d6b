"""What `flallm prepare` wrote, and the tables that it is given."""

import csv
import json
from pathlib import Path


def table(folder: Path, text: str, name: str = "clips.csv") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")


def rows_of(folder: Path, split: str = "train") -> list[dict[str, str]]:
    with (folder / split / "metadata.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def report_of(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def problems_of(folder: Path) -> dict[str, str]:
    return {problem["where"]: problem["what"] for problem in report_of(folder)["problems"]}
