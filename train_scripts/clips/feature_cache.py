"""
Visual features of a frozen encoder, kept on disk: each clip goes through the encoder only once, whatever the number of
epochs and runs.

Everything the features depend on is part of their address (`feature_fingerprints.py`, `feature_store.py`). The settings
are the encoder's weights, buffers and configuration, the video processor, the augmentation, the precision, what our
own code does and the versions of the libraries that decode and compute; the key of a row is the content of the video,
the part of it and the augmented view. After a change, features are not found and computed again: they are never stale.
"""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate import PartialState
from huggingface_hub.constants import HF_HOME
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from modeling_flallm import SignEncoder
from modeling_flallm.own_processing import FLaLLMProcessor

from ..arguments.data_arguments import AugmentationArguments, DataArguments, FeatureCacheArguments
from ..arguments.training_arguments import FLaLLMTrainingArguments
from .collators import CACHED_FEATURES, FramePreprocessor, TranslationCollator
from .data import SignClipDataset
from .feature_fingerprints import ContentDigests, describe_settings, key_of
from .feature_store import FeatureStore, remove_leavings, remove_unused
from .splits import name_of_clip

NO_AUGMENTATION = AugmentationArguments(random_crop=False, frame_jitter=False)
FEATURES_IN_A_FILE = 64  # or up to a batch more: the most that an interrupted run loses


def check_feature_cache(stage: Any, data: DataArguments) -> None:
    """
    Raises:
        ValueError: for options that cannot be combined with cached features.
    """
    if not stage.freeze_visual_encoder:
        raise ValueError(
            "--cache_features needs a frozen visual encoder: with --freeze_visual_encoder False the features change in "
            "every step. Leave out one of the two."
        )
    if data.streaming:
        raise ValueError(
            "--cache_features cannot be combined with --streaming: a stream keeps nothing. Leave out one of the two."
        )


def augmentation_in_cache(augmentation: AugmentationArguments, num_views: int | None) -> AugmentationArguments:
    """
    The augmentation of cached training clips: none without views.

    Raises:
        ValueError: if several views would all be the same.
    """
    if num_views is None:
        return NO_AUGMENTATION
    if num_views > 1 and augmentation == NO_AUGMENTATION:
        raise ValueError(
            f"--feature_views {num_views} needs augmentation, but all of it is off: the views of a clip would be the "
            "same. Leave out --feature_views."
        )
    return augmentation


def tell_unused_augmentation(augmentation: AugmentationArguments, num_views: int | None) -> None:
    """Print which flags have no effect if there are no views."""
    off = dataclasses.asdict(NO_AUGMENTATION)
    names = [f"--{name}" for name, value in dataclasses.asdict(augmentation).items() if value != off[name]]
    if num_views is None and names:
        print(
            f"Features are kept of clips without augmentation: {', '.join(names)} ha{'s' if len(names) == 1 else 've'} "
            "no effect. With --feature_views several augmented versions of each clip are kept."
        )


def describe_views(num_views: int | None) -> dict[str, Any]:
    """A setting for the model card; the paper's training draws new augmentations in every epoch."""
    return {
        "name": "feature_views",
        "value": "none, clips not augmented" if num_views is None else num_views,
        "paper": "new in every epoch",
        "source": "ours: features are computed once and kept",
        "meaning": "Augmented versions of each training clip.",
    }


@dataclass
class ClipView:
    """One view of one clip of a data set, and the key of its features, which also seeds its augmentation."""

    index: int
    view: int
    key: str

    @property
    def seed(self) -> int:
        return int(self.key[:15], 16)


class CachedClipDataset(Dataset):
    """
    The clips of a `SignClipDataset` as visual features `(tokens, hidden size)` with their sentences.

    Args:
        keys: of the features of each clip, for each view; epoch `e` uses view `e % len(keys)`.
    """

    def __init__(self, clips: SignClipDataset, store: FeatureStore, keys: list[list[str]]):
        self.clips = clips
        self.store = store
        self.keys = keys

    @property
    def texts(self) -> list[str]:
        return self.clips.texts

    def set_epoch(self, epoch: int) -> None:
        self.clips.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, Any]:
        key = self.keys[self.clips.epoch % len(self.keys)][index]
        return {CACHED_FEATURES: self.store[key], **self.clips.sentence_of(index)}


class _ViewsToEncode(Dataset):
    """Views of clips -> their frames; errors name the clip."""

    def __init__(self, clips: SignClipDataset, views: Sequence[ClipView], collator: TranslationCollator):
        self.clips = clips
        self.views = views
        self.collator = collator

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, position: int) -> tuple[ClipView, dict[str, Any]]:
        view = self.views[position]
        with errors_name_the_clip(self.clips.dataset, view.index):
            return view, self.clips.clip_of(view.index, view.seed)

    def collate(self, items: list[tuple[ClipView, dict[str, Any]]]) -> dict[str, Any]:
        views, clips = zip(*items, strict=True)
        return {
            "views": views,
            "num_frames": [self.clips.modality.length_of(clip) for clip in clips],
            **self.collator.clip_inputs(clips),
        }


@contextmanager
def errors_name_the_clip(dataset: datasets.Dataset, index: int) -> Iterator[None]:
    """By its row and its file."""
    try:
        yield
    except (ValueError, OSError) as error:
        row = dataset[index]
        part = "".join(f", {name} {row[name]:g} s" for name in ("start", "end") if row.get(name) is not None)
        path = f", {name_of_clip(row)}" if name_of_clip(row) else ""
        raise ValueError(f"clip {index} (counted from 0{path}{part}): {error}") from error


def _batches_of(loader: DataLoader) -> Iterator[dict[str, Any]]:
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
            f"`flallm inspect` finds such files; fewer --dataloader_num_workers need less memory. ({error})"
        ) from error


def _longest_length(clips: SignClipDataset, index: int) -> int:
    with errors_name_the_clip(clips.dataset, index):
        return clips.longest_lengths([index])[0]


def _check_length(num_frames: int, num_tokens: int) -> None:
    if num_tokens < 1:
        raise ValueError(
            f"it is too short: the encoder makes no visual token from {num_frames} frames after sampling. Use a longer "
            "clip or a larger --frame_sampling_rate."
        )


def _check_finite(features: torch.Tensor) -> None:
    if not features.isfinite().all():
        raise ValueError(
            f"its features are not finite in {str(features.dtype).removeprefix('torch.')}. Try --features_dtype "
            "bfloat16 or float32."
        )


class FeatureCache:
    """
    Features of clips from the frozen encoder of a model that is about to be trained.

    Args:
        model: with a `vision_model`, which is moved to the device of the training.

    Raises:
        ValueError: for a model that reads ready-made features.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        processor: FLaLLMProcessor,
        arguments: FeatureCacheArguments,
        training: FLaLLMTrainingArguments,
    ):
        if next(model.vision_model.parameters(), None) is None:
            raise ValueError(
                "--cache_features keeps what a visual encoder makes of videos, but this model reads "
                f"{processor.modality.words.clips}. Leave it out."
            )
        self.vision_model: SignEncoder = model.vision_model.to(training.device)
        self.processor = processor
        self.arguments = arguments
        self.training = training
        self.folder = Path(arguments.feature_cache_dir or Path(HF_HOME) / "flallm" / "features")
        self.digests = ContentDigests(self.folder / "digests")
        self.autocast_dtype = {training.bf16: torch.bfloat16, training.fp16: torch.float16}.get(True)

    def clips(self, clips: SignClipDataset, name: str, num_views: int = 1) -> CachedClipDataset:
        """
        The clips with their features; all processes together compute those that are not in the cache.

        Args:
            name: what the clips are for, shown with the progress.

        Raises:
            ValueError: for a clip that cannot be read, is too short, or whose features do not fit the dtype.
        """
        store = self._open_store(clips)
        digests = self.digests.of_clips(clips.dataset, clips.modality)
        views = [self._views(clips.dataset, digests, view) for view in range(num_views)]
        wanted = {view.key: view for views_of_clips in views for view in views_of_clips}
        missing = [view for key, view in wanted.items() if key not in store]
        started = time.monotonic()
        self._encode([view for view in missing if self._is_mine(view)], clips, store, name)
        clips.forget_decoded_clips()
        PartialState().wait_for_everyone()
        store.look_again()
        if any(key not in store for key in wanted):
            raise ValueError(f"Features of {store.folder} were removed while others were computed. Start again.")
        if self.training.process_index == 0:
            self._summarise(len(clips), num_views, len(wanted), len(missing), time.monotonic() - started, name)
        return CachedClipDataset(clips, store, [[view.key for view in of_clips] for of_clips in views])

    def remove_unused(self) -> None:
        """Of other settings, as set by `feature_cache_days`; call it once the features of all splits are open."""
        if self.training.process_index > 0:
            return
        remove_leavings(self.folder)
        if self.arguments.feature_cache_days is not None:
            remove_unused(self.folder, self.arguments.feature_cache_days)

    def _open_store(self, clips: SignClipDataset) -> FeatureStore:
        precision = str(self.autocast_dtype or torch.float32).removeprefix("torch.")
        augmentation = clips.read_clip.augmentation
        settings = describe_settings(self.vision_model, self.processor, augmentation, self.arguments, precision)
        dtype = getattr(torch, self.arguments.features_dtype)
        store = FeatureStore(self.folder, settings, self.vision_model.config.hidden_size, dtype)
        store.look_again()
        PartialState().wait_for_everyone()  # before any process adds to the features that the others count
        return store

    @staticmethod
    def _views(dataset: datasets.Dataset, digests: list[str], view: int) -> list[ClipView]:
        nothing = [None] * len(dataset)
        starts, ends = (dataset[name] if name in dataset.column_names else nothing for name in ("start", "end"))
        keys = [key_of(*of_clip, view) for of_clip in zip(digests, starts, ends, strict=True)]
        return [ClipView(index, view, key) for index, key in enumerate(keys)]

    def _is_mine(self, view: ClipView) -> bool:
        """Decided by the key, because processes may not find the same features missing."""
        return int(view.key, 16) % self.training.world_size == self.training.process_index

    def _encode(self, views: list[ClipView], clips: SignClipDataset, store: FeatureStore, name: str) -> None:
        if not views:
            return
        lengths = {index: _longest_length(clips, index) for index in {view.index for view in views}}
        longest_first = sorted(views, key=lambda view: -lengths[view.index])  # so memory runs out early, if at all
        on_device = clips.read_clip.preprocess_on_device
        dataset = _ViewsToEncode(clips, longest_first, TranslationCollator(self.processor, on_device))
        loader = DataLoader(
            dataset,
            batch_size=self.training.per_device_eval_batch_size,
            collate_fn=dataset.collate,
            num_workers=self.training.dataloader_num_workers,
        )
        self._write_features(loader, FramePreprocessor(self.processor, clips.read_clip.augmentation), store, name)

    def _write_features(
        self, loader: DataLoader, frame_preprocessor: FramePreprocessor, store: FeatureStore, name: str
    ) -> None:
        is_silent = self.training.disable_tqdm or self.training.process_index > 0
        waiting: dict[str, torch.Tensor] = {}
        with tqdm(total=len(loader.dataset), desc=f"features of the {name} clips", disable=is_silent) as bar:
            for batch in _batches_of(loader):
                waiting |= self._features_of(batch, loader.dataset.clips.dataset, frame_preprocessor)
                bar.update(len(batch["views"]))
                if len(waiting) >= FEATURES_IN_A_FILE:
                    store.add(waiting)
                    waiting = {}
        if waiting:
            store.add(waiting)

    @torch.no_grad()
    def _features_of(
        self, batch: dict[str, Any], dataset: datasets.Dataset, frame_preprocessor: FramePreprocessor
    ) -> dict[str, torch.Tensor]:
        """-> by key `(tokens, hidden size)` on the CPU, in the dtype of the cache"""
        device, dtype = self.training.device, getattr(torch, self.arguments.features_dtype)
        num_tokens = self._num_tokens(dataset, batch)
        if "frames" in batch:
            batch |= frame_preprocessor([frames.to(device) for frames in batch["frames"]], batch["spatial_seeds"])
        with torch.autocast(device.type, self.autocast_dtype, enabled=self.autocast_dtype is not None):
            inputs = {name: batch[name].to(device) for name in self.processor.modality.input_names}
            hidden = self.vision_model(**inputs).last_hidden_state
        features = {}
        for view, tokens, count in zip(batch["views"], hidden, num_tokens, strict=True):
            features[view.key] = tokens[:count].to("cpu", dtype)
            with errors_name_the_clip(dataset, view.index):
                _check_finite(features[view.key])
        return features

    def _num_tokens(self, dataset: datasets.Dataset, batch: dict[str, Any]) -> list[int]:
        counts = [self.vision_model.get_num_tokens(num_frames) for num_frames in batch["num_frames"]]
        for view, num_frames, count in zip(batch["views"], batch["num_frames"], counts, strict=True):
            with errors_name_the_clip(dataset, view.index):
                _check_length(num_frames, count)
        return counts

    def _summarise(
        self, num_clips: int, num_views: int, num_wanted: int, num_missing: int, seconds: float, name: str
    ) -> None:
        clips = f"{num_clips:,} {name} clips" + (f" in {num_views} views" if num_views > 1 else "")
        print(
            f"{clips}: {num_wanted - num_missing:,} features from the cache, {num_missing:,} computed in "
            f"{seconds:.1f} s. They are in {self.folder}."
        )
