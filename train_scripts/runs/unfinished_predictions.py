"""Predictions of an evaluation that has not ended, kept as they come, so that the same command goes on behind them."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..arguments.flag_values import check_new_folder
from ..machine.atomic_files import LEAVINGS, write_json_lines

UNFINISHED_FILE = "predictions.unfinished.jsonl"


class UnfinishedPredictions:
    """
    A file in the output folder: the settings that the predictions depend on, and one row for each clip so far.

    Args:
        folder: new, empty, or left by an evaluation that has not ended.
        settings: values of JSON.

    Raises:
        ValueError: for a folder that holds something else, or predictions with other settings.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]):
        self.path = folder / UNFINISHED_FILE
        self.settings = json.loads(json.dumps(settings))
        self.rows: list[dict[str, Any]] = []
        if self.path.is_file():
            self._read()
        else:
            check_new_folder(folder)

    def _read(self) -> None:
        *lines, _ = self.path.read_bytes().split(b"\n")  # a kill may have cut off the last one
        try:
            settings, *self.rows = [dict(json.loads(line)) for line in lines]
        except (TypeError, ValueError) as error:
            raise ValueError(f"{self.path} cannot be read as predictions of an evaluation. Delete it.") from error
        changed = sorted(
            name for name in self.settings.keys() | settings if self.settings.get(name) != settings.get(name)
        )
        if changed:
            raise self._of_another_run(f"with other settings ({', '.join(changed)})")

    def check_clips(self, clips: Sequence[dict[str, Any]]) -> None:
        """
        Raises:
            ValueError: if the rows so far are not of the first of these clips.
        """
        for row, clip in zip(self.rows, clips, strict=False):
            if {name: row.get(name) for name in clip} != clip:
                raise self._of_another_run(f"of other clips (it has {row.get('file_name')}, now {clip['file_name']})")

    def _of_another_run(self, difference: str) -> ValueError:
        return ValueError(
            f"{self.path} holds predictions of an evaluation that has not ended, {difference}. To go on with it, give "
            "the command as it was; else name a new --output_dir, or delete this file."
        )

    def open(self) -> None:
        """Write what there is so far, whole lines only; `add` appends to it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json_lines(self.path, [self.settings, *self.rows])

    def add(self, rows: list[dict[str, Any]]) -> None:
        with self.path.open("a", encoding="utf-8", newline="\n") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            file.flush()
            os.fsync(file.fileno())

    def delete(self) -> None:
        """Once scores and predictions are written; with it what killed writers have left."""
        for path in (self.path, *self.path.parent.glob(LEAVINGS)):
            path.unlink()
