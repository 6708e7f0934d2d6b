"""Predictions of an unfinished evaluation, saved as they come, so that the same command can resume after them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..arguments.flag_values import check_new_folder
from ..machine.atomic_files import LEAVINGS
from ..machine.kept_lines import KeptLines

UNFINISHED_FILE = "predictions.unfinished.jsonl"


class UnfinishedPredictions(KeptLines):
    """
    A file in the output folder: the settings that the predictions depend on, and one row for each clip so far.

    Args:
        folder: new, empty, or left by an unfinished evaluation.
        settings: JSON values.

    Raises:
        ValueError: for a folder that holds something else, or predictions with other settings.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]):
        path = folder / UNFINISHED_FILE
        if not path.is_file():
            check_new_folder(folder)
        super().__init__(path, settings, "predictions of an evaluation")
        if self.changed_settings():
            raise self._of_another_run(f"with other settings ({', '.join(sorted(self.changed_settings()))})")

    def check_clips(self, clips: Sequence[dict[str, Any]]) -> None:
        """
        Raises:
            ValueError: if the rows so far do not belong to the first of these clips.
        """
        for row, clip in zip(self.lines, clips, strict=False):
            if {name: row.get(name) for name in clip} != clip:
                raise self._of_another_run(f"of other clips (it has {row.get('file_name')}, now {clip['file_name']})")

    def delete(self) -> None:
        """Also removes what killed writers left in the folder."""
        super().delete()
        for leaving in self.path.parent.glob(LEAVINGS):
            leaving.unlink()

    def _of_another_run(self, difference: str) -> ValueError:
        return ValueError(
            f"{self.path} holds predictions of an evaluation that has not ended, {difference}. To go on with it, give "
            "the command as it was; else name a new --output_dir, or delete this file."
        )
