"""Clips on their way to a frozen encoder: read, collated, and broken ones named or skipped."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import datasets
from accelerate.utils import gather_object
from torch.utils.data import DataLoader, Dataset

from .data import ClipDataset
from .splits import name_of_clip


@dataclass
class ClipView:
    """One view of one clip of a data set, and the key of its features, which also seeds its augmentation."""

    index: int
    view: int
    key: str

    @property
    def seed(self) -> int:
        return int(self.key[:15], 16)


class ClipErrors:
    """
    Errors of clips, which name their clip by its row and its file: raised, or gathered by row where broken clips are
    skipped.
    """

    def __init__(self, dataset: datasets.Dataset, are_gathered: bool = False):
        self.dataset = dataset
        self.are_gathered = are_gathered
        self.texts: dict[int, str] = {}

    @contextmanager
    def of_clip(self, index: int) -> Iterator[None]:
        """
        Raises:
            ValueError: for an error in the block, unless errors are gathered.
        """
        try:
            yield
        except (ValueError, OSError) as error:
            self.add(index, error)

    def add(self, index: int, error: Exception | str) -> None:
        """
        Raises:
            ValueError: with the text of the error, unless errors are gathered.
        """
        row = self.dataset[index]
        part = "".join(f", {name} {row[name]:g} s" for name in ("start", "end") if row.get(name) is not None)
        path = f", {name_of_clip(row)}" if name_of_clip(row) else ""
        text = f"clip {index} (counted from 0{path}{part}): {error}"
        if not self.are_gathered:
            raise ValueError(text) from (error if isinstance(error, Exception) else None)
        self.texts[index] = text

    def share(self) -> None:
        """Tell all processes what each of them has gathered."""
        for texts in gather_object([self.texts]):
            self.texts |= texts


class ViewsToEncode(Dataset):
    """
    Views of clips -> their frames.

    Args:
        shortest: frames of the shortest clip of which the encoder makes a feature.
    """

    def __init__(self, clips: ClipDataset, views: Sequence[ClipView], errors: ClipErrors, shortest: int):
        self.clips = clips
        self.views = views
        self.errors = errors
        self.shortest = shortest

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, position: int) -> tuple[ClipView, dict[str, Any] | None, str | None]:
        """-> the view, and its clip or what is wrong with it; errors are gathered in the process that reads."""
        view, clip = self.views[position], None
        with self.errors.of_clip(view.index):
            clip = self._read(view)
        return view, clip, self.errors.texts.get(view.index)

    def _read(self, view: ClipView) -> dict[str, Any]:
        clip = self.clips.clip_of(view.index, view.seed)
        length = self.clips.modality.length_of(clip)
        if length < self.shortest:
            raise ValueError(
                f"it is too short: the encoder makes no visual token from {length} frames after sampling. Use a longer "
                "clip or a larger --frame_sampling_rate."
            )
        return clip

    def collate(self, items: list[tuple[ClipView, dict[str, Any] | None, str | None]]) -> dict[str, Any]:
        errors = {view.index: error for view, _, error in items if error is not None}
        batch = {"num_views": len(items), "errors": errors, "views": [view for view, clip, _ in items if clip]}
        clips = [clip for _, clip, _ in items if clip]
        if not clips:
            return batch
        lengths = [self.clips.modality.length_of(clip) for clip in clips]
        inputs = self.clips.modality.collate(clips, self.clips.read_clip.preprocess_on_device)
        return {**batch, "lengths": lengths, **inputs}


def batches_of(loader: DataLoader) -> Iterator[dict[str, Any]]:
    """
    Raises:
        ValueError: if a loading process dies.
    """
    try:
        yield from loader
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise ValueError(
            "A process that decodes clips died, either from a file that crashes the decoder or for lack of memory. "
            f"`flallm inspect` finds such files; fewer loading processes need less memory. ({error})"
        ) from error
