"""
Visual features of a frozen encoder, kept on disk: each clip goes through the encoder only once, whatever the number of
epochs and runs.

Everything the features depend on is part of their address (`feature_fingerprints.py`, `feature_store.py`). The settings
are the encoder's weights, buffers and configuration, the video processor, the augmentation, the precision, what our
own code does and the versions of the libraries that decode and compute; the key of a row is the content of the video,
the part of it and the augmented view. After a change, features are not found and computed again: they are never stale.
"""

import dataclasses
import itertools
import time
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
from modeling_flallm.own_processing import Modality
from modeling_flallm.sign_encoder_slt import TokenStep, num_tokens_after

from ..arguments.data_arguments import AugmentationArguments, DataArguments, FeatureStoreArguments
from .augmentation import NO_AUGMENTATION
from .collators import CACHED_FEATURES, NUM_TOKENS, FramePreprocessor
from .data import ClipDataset, SignClipDataset
from .feature_fingerprints import ContentDigests, describe_settings, key_of
from .feature_store import FeatureStore, remove_leavings, remove_unused
from .views_to_encode import ClipErrors, ClipView, ViewsToEncode, batches_of

DIGESTS_FOLDER = "digests"  # in the folder of the cache
FEATURES_IN_A_FILE = 64  # or up to a batch more: the most that an interrupted run loses


def default_cache_folder() -> Path:
    """Of features, and of what is known about the contents of videos."""
    return Path(HF_HOME) / "flallm" / "features"


def check_feature_cache(data: DataArguments) -> None:
    """
    Raises:
        ValueError: for options that cannot be combined with cached features.
    """
    if data.streaming:
        raise ValueError(
            "--cache_features cannot be combined with --streaming: a stream keeps nothing. Leave out one of the two."
        )
    if data.mirror_left_handed:
        raise ValueError(
            "--cache_features cannot be combined with --mirror_left_handed: features are kept of clips as they are. "
            "Mirror the videos of left-handed signers yourself, or leave out one of the two."
        )


def check_features_can_be_kept(encoder: SignEncoder, modality: Modality) -> None:
    """
    Raises:
        ValueError: for an encoder whose features training changes, or that takes ready-made ones.
    """
    if next(encoder.features_encoder.parameters(), None) is None:
        raise ValueError(
            "--cache_features keeps what a visual encoder makes of videos, but this model reads "
            f"{modality.words.clips}. Leave it out."
        )
    if not encoder.features_are_frozen:
        raise ValueError(
            "--cache_features needs a frozen visual encoder: with --freeze_visual_encoder False the features change in "
            "every step. Leave out one of the two."
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


class CachedClipDataset(Dataset):
    """
    The clips of a `SignClipDataset` as visual features `(tokens, hidden size)` with their sentences.

    Args:
        keys: of the features of each clip, for each view; epoch `e` uses view `e % len(keys)`.
        token_steps: how many visual tokens the encoder makes of features, see `SignEncoder`.
    """

    def __init__(
        self, clips: SignClipDataset, store: FeatureStore, keys: list[list[str]], token_steps: list[TokenStep]
    ):
        self.clips = clips
        self.store = store
        self.keys = keys
        self.token_steps = token_steps

    @property
    def texts(self) -> list[str]:
        return self.clips.texts

    def set_epoch(self, epoch: int) -> None:
        self.clips.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, Any]:
        key = self.keys[self.clips.epoch % len(self.keys)][index]
        features = self.store[key]
        num_tokens = num_tokens_after(self.token_steps, len(features))
        return {CACHED_FEATURES: features, NUM_TOKENS: num_tokens, **self.clips.sentence_of(index)}


@dataclass
class EncodingSettings:
    """
    How clips go through an encoder.

    Args:
        precision: float32, or the one of autocast.
        batch_size: clips that each process encodes at once.
        num_workers: processes that read clips ahead, for each process that encodes.
        is_silent: whether to show no progress.
    """

    device: torch.device
    precision: torch.dtype = torch.float32
    batch_size: int = 8
    num_workers: int = 0
    is_silent: bool = False


def _check_finite(features: torch.Tensor) -> None:
    if not features.isfinite().all():
        raise ValueError(
            f"its features are not finite in {str(features.dtype).removeprefix('torch.')}. Try --features_dtype "
            "bfloat16 or float32."
        )


@dataclass
class KeptFeatures:
    """
    Features of clips in a store.

    Args:
        keys: of each clip, for each view; None for a clip that is broken.
        errors: what is wrong with broken clips, by their rows.
    """

    store: FeatureStore
    keys: list[list[str | None]]
    errors: dict[int, str]


class FeatureCache:
    """
    Features of clips from a frozen encoder, on disk.

    Args:
        encoder: is moved to the device.
        modality: reads the clips.
    """

    def __init__(
        self,
        encoder: SignEncoder,
        modality: Modality,
        arguments: FeatureStoreArguments,
        settings: EncodingSettings,
    ):
        self.encoder = encoder.to(settings.device)
        self.modality = modality
        self.settings = settings
        self.dtype: torch.dtype = getattr(torch, arguments.features_dtype)
        self.folder = Path(arguments.feature_cache_dir or default_cache_folder())
        self.digests = ContentDigests(self.folder / DIGESTS_FOLDER)
        self.shortest = next(length for length in itertools.count(1) if encoder.get_num_features(length) >= 1)

    def clips(self, clips: SignClipDataset, name: str, num_views: int = 1) -> CachedClipDataset:
        """
        The clips with their features, to train on. Arguments and errors as of `compute`.

        Raises:
            ValueError: for a clip that cannot be read, is too short, or whose features do not fit the dtype, and for
                clips with descriptions.
        """
        if clips.descriptions is not None:
            raise ValueError(
                "--descriptions cannot be combined with --cache_features: the frame encoder that learns from them is "
                "not frozen, so that its features change in every step. Leave out one of the two."
            )
        self.shortest = self.encoder.get_min_num_frames()
        features = self.compute(clips, name, num_views)
        return CachedClipDataset(clips, features.store, features.keys, self.encoder.get_token_steps_of_features())

    def compute(
        self, clips: ClipDataset, name: str, num_views: int = 1, skips_broken_clips: bool = False
    ) -> KeptFeatures:
        """
        The features of clips; all processes together compute those that are not in the cache.

        Args:
            name: what the clips are for, shown with the progress.
            skips_broken_clips: return the errors of clips instead of raising the first.

        Raises:
            ValueError: for a clip that cannot be read, is too short, or whose features do not fit the dtype.
        """
        errors = ClipErrors(clips.dataset, skips_broken_clips)
        store = self._open_store(clips)
        digests = self._digests(clips, errors)
        tempos = self._tempos(clips.dataset, digests)
        views = [self._views(clips.dataset, digests, tempos, view) for view in range(num_views)]
        wanted = {view.key: view for views_of_clips in views for view in views_of_clips if view is not None}
        missing = [view for key, view in wanted.items() if key not in store]
        started = time.monotonic()
        self._encode([view for view in missing if _is_mine(view)], clips, store, errors, name)
        clips.forget_decoded_clips()
        PartialState().wait_for_everyone()
        store.look_again()
        if skips_broken_clips:
            errors.share()
        self._check_all_are_there(views, wanted, store, errors)
        if PartialState().is_main_process:
            num_new = sum(view.key in store for view in missing)
            seconds = time.monotonic() - started
            self._summarise(len(clips), num_views, len(wanted) - len(missing), num_new, seconds, name)
        keys = [[view.key if view is not None and view.key in store else None for view in group] for group in views]
        return KeptFeatures(store, keys, errors.texts)

    def remove_unused(self, days: float | None) -> None:
        """
        Remove the features of settings that no run has used for so many days, never by default; call it once the
        features of all splits are open.
        """
        if not PartialState().is_main_process:
            return
        remove_leavings(self.folder)
        if days is not None:
            remove_unused(self.folder, days)

    def _open_store(self, clips: ClipDataset) -> FeatureStore:
        augmentation = clips.read_clip.augmentation
        settings = describe_settings(self.encoder, self.modality, augmentation, self.settings.precision, self.dtype)
        store = FeatureStore(self.folder, settings, self.encoder.features_size, self.dtype)
        store.look_again()
        PartialState().wait_for_everyone()  # before any process adds to the features that the others count
        return store

    def _digests(self, clips: ClipDataset, errors: ClipErrors) -> list[str | None]:
        """Of the content of each clip; None for one that cannot be read."""
        if not errors.are_gathered:
            return self.digests.of_clips(clips.dataset, self.modality)
        found = self.digests.find(clips.dataset, self.modality)
        for index, each in enumerate(found):
            if each.error:
                errors.add(index, f"it cannot be read: {each.error}")
        return [each.digest or None for each in found]

    def _tempos(self, dataset: datasets.Dataset, digests: list[str | None]) -> list[float]:
        """See `Modality.tempo`; rows are only looked at where it matters."""
        if not self.modality.knows_rates:
            return [1.0] * len(digests)
        return [1.0 if digest is None else self.modality.tempo(dataset[index]) for index, digest in enumerate(digests)]

    @staticmethod
    def _views(
        dataset: datasets.Dataset, digests: list[str | None], tempos: list[float], view: int
    ) -> list[ClipView | None]:
        nothing = [None] * len(dataset)
        starts, ends = (dataset[name] if name in dataset.column_names else nothing for name in ("start", "end"))
        return [
            None if digest is None else ClipView(index, view, key_of(digest, start, end, view, tempo))
            for index, (digest, start, end, tempo) in enumerate(zip(digests, starts, ends, tempos, strict=True))
        ]

    def _encode(
        self, views: list[ClipView], clips: ClipDataset, store: FeatureStore, errors: ClipErrors, name: str
    ) -> None:
        lengths: dict[int, int] = {}
        for index in {view.index for view in views}:
            with errors.of_clip(index):
                lengths[index] = clips.longest_lengths([index])[0]
        views = [view for view in views if view.index in lengths]
        if not views:
            return
        longest_first = sorted(views, key=lambda view: -lengths[view.index])  # so memory runs out early, if at all
        dataset = ViewsToEncode(clips, longest_first, errors, self.shortest)
        loader = DataLoader(
            dataset,
            batch_size=self.settings.batch_size,
            collate_fn=dataset.collate,
            num_workers=self.settings.num_workers,
        )
        self._write_features(loader, FramePreprocessor(self.modality, clips.read_clip.augmentation), store, name)

    def _write_features(
        self, loader: DataLoader, frame_preprocessor: FramePreprocessor, store: FeatureStore, name: str
    ) -> None:
        is_silent = self.settings.is_silent or not PartialState().is_main_process
        errors = loader.dataset.errors
        waiting: dict[str, torch.Tensor] = {}
        with tqdm(total=len(loader.dataset), desc=f"features of the {name} clips", disable=is_silent) as bar:
            for batch in batches_of(loader):
                errors.texts |= batch["errors"]
                if batch["views"]:
                    waiting |= self._features_of(batch, errors, frame_preprocessor)
                bar.update(batch["num_views"])
                if len(waiting) >= FEATURES_IN_A_FILE:
                    store.add(waiting)
                    waiting = {}
        if waiting:
            store.add(waiting)

    @torch.no_grad()
    def _features_of(
        self, batch: dict[str, Any], errors: ClipErrors, frame_preprocessor: FramePreprocessor
    ) -> dict[str, torch.Tensor]:
        """-> by key `(features, features_size)` on the CPU, in the dtype of the cache"""
        device, precision = self.settings.device, self.settings.precision
        if "frames" in batch:
            batch |= frame_preprocessor([frames.to(device) for frames in batch["frames"]], batch["spatial_seeds"])
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            inputs = {name: batch[name].to(device) for name in self.modality.input_names}
            hidden = self.encoder.compute_features(**inputs).last_hidden_state
        features = {}
        for view, values, length in zip(batch["views"], hidden, batch["lengths"], strict=True):
            with errors.of_clip(view.index):
                kept = values[: self.encoder.get_num_features(length)].to("cpu", self.dtype)
                _check_finite(kept)
                features[view.key] = kept
        return features

    @staticmethod
    def _check_all_are_there(
        views: list[list[ClipView | None]], wanted: dict[str, ClipView], store: FeatureStore, errors: ClipErrors
    ) -> None:
        """Of clips with the same content, which are encoded once, the error of one is that of all."""
        for view in filter(None, itertools.chain(*views)):
            encoded = wanted[view.key].index
            if view.key in store:
                continue
            if encoded not in errors.texts:
                raise ValueError(f"Features of {store.folder} were removed while others were computed. Start again.")
            if view.index != encoded:
                errors.add(view.index, f"as {errors.texts[encoded]}")

    def _summarise(
        self, num_clips: int, num_views: int, num_found: int, num_computed: int, seconds: float, name: str
    ) -> None:
        clips = f"{num_clips:,} {name} clips" + (f" in {num_views} views" if num_views > 1 else "")
        print(
            f"{clips}: {num_found:,} features from the cache, {num_computed:,} computed in {seconds:.1f} s. They are "
            f"in {self.folder}."
        )


def _is_mine(view: ClipView) -> bool:
    """Whether this process computes it. Decided by the key: processes may not find the same features missing."""
    return int(view.key, 16) % PartialState().num_processes == PartialState().process_index
