"""
Visual features on disk: with a frozen encoder each clip goes through it once, whatever the number of epochs and runs.

    <folder>/<digest of the settings>/settings.json, <digest of the content>.arrow, ...

All that the features depend on is in their address. The settings are the encoder's weights, buffers and configuration,
the video processor, the augmentation, the precision, what our own code does and the versions of the libraries that
decode and compute; the key of a row is the content of the video, the part of it and the augmented view. So what has
changed is not found, and computed: nothing is ever out of date. A file of features is written under another name,
renamed when it is whole, and never changed; as its name is its digest, a damaged one is noticed.
"""

import ast
import dataclasses
import functools
import hashlib
import inspect
import io
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from huggingface_hub.constants import HF_HOME
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from modeling_flallm import FLaLLMVisionModel, LlavaSltVisualEncoder
from modeling_flallm.own_processing import FLaLLMProcessor

from ..arguments.data_arguments import AugmentationArguments, DataArguments, FeatureCacheArguments
from ..arguments.training_arguments import FLaLLMTrainingArguments
from ..machine.atomic_files import LEAVINGS, write_bytes
from .augmentation import ClipAugmentation
from .data import FramePreprocessor, SignVideoDataset, TranslationCollator, fetch_content, without_bytes

NO_AUGMENTATION = AugmentationArguments(random_crop=False, frame_jitter=False)
LIBRARIES = ("av", "numpy", "torch", "torchvision", "transformers")
FEATURES_IN_A_FILE = 64  # or up to a batch more: what a run that is stopped loses at most
SHARD_SCHEMA = pyarrow.schema({"key": pyarrow.string(), "features": pyarrow.binary()})
# A file that has just been written can change again within the same tick of the file system's clock.
YOUNGEST_TRUSTED_FILE_IN_SECONDS = 2.0
DAY_IN_SECONDS = 24 * 3600


def check_feature_cache(stage: Any, data: DataArguments) -> None:
    """
    Raises:
        ValueError: for what cannot go together with cached features.
    """
    if not stage.freeze_visual_encoder:
        raise ValueError(
            "--cache_features needs a frozen visual encoder: with --freeze_visual_encoder False the features change in "
            "every step. Leave out one of the two."
        )
    if data.streaming:
        raise ValueError(
            "--cache_features cannot go together with --streaming: a stream keeps nothing. Leave out one of the two."
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
            f"--feature_views {num_views} needs augmentation, and all of it is off: the views of a clip would be the "
            "same. Leave out --feature_views."
        )
    return augmentation


def tell_unused_augmentation(augmentation: AugmentationArguments, num_views: int | None) -> None:
    """Print which flags have no effect without views."""
    off = dataclasses.asdict(NO_AUGMENTATION)
    names = [f"--{name}" for name, value in dataclasses.asdict(augmentation).items() if value != off[name]]
    if num_views is None and names:
        print(
            f"Features are kept of clips without augmentation: {', '.join(names)} ha{'s' if len(names) == 1 else 've'} "
            "no effect. With --feature_views several augmented forms of each clip are kept."
        )


def describe_views(num_views: int | None) -> dict[str, Any]:
    """A setting for the model card; the paper's training augments anew in every epoch."""
    return {
        "name": "feature_views",
        "value": "none, clips not augmented" if num_views is None else num_views,
        "paper": "new in every epoch",
        "source": "ours: features are computed once and kept",
        "meaning": "Augmented forms of each training clip.",
    }


class FeatureStore:
    """
    Features by their keys, in the folder of one group of settings; read from the disk when they are asked for.

    Args:
        width: values of a feature.
        settings: all that the features depend on besides the clips, as JSON has it.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], width: int, dtype: torch.dtype):
        text = json.dumps(settings, sort_keys=True, indent=2)
        self.folder = folder / _name_of_group(text.encode())
        self.width = width
        self.dtype = dtype
        self._rows: dict[str, tuple[Path, int]] = {}
        self._columns: dict[Path, pyarrow.ChunkedArray] = {}
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "settings.json").is_file():
            write_bytes(self.folder / "settings.json", text.encode())
        os.utime(self.folder / "settings.json")  # for `remove_unused`

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def __getitem__(self, key: str) -> torch.Tensor:
        """-> `(tokens, width)`"""
        path, row = self._rows[key]
        if path not in self._columns:
            self._columns[path] = _read_shard(path)["features"]
        values = bytearray(self._columns[path][row].as_buffer())  # a copy, which may be written to
        return torch.frombuffer(values, dtype=self.dtype).view(-1, self.width)

    def __getstate__(self) -> dict[str, Any]:
        """What is open stays here: another process opens it again."""
        return {**self.__dict__, "_columns": {}}

    def look_again(self) -> None:
        """Find what there is, also of other processes. One of each machine looks for damaged files first."""
        if PartialState().is_local_main_process:
            self._remove_damaged()
        PartialState().wait_for_everyone()
        for path in self._unknown():
            with suppress(FileNotFoundError):  # another run may remove it
                keys = _read_shard(path)["key"].to_pylist()
                self._rows.update((key, (path, row)) for row, key in enumerate(keys))

    def _unknown(self) -> list[Path]:
        known = {path for path, _ in self._rows.values()}
        return sorted(set(self.folder.glob("*.arrow")) - known)

    def _remove_damaged(self) -> None:
        for path in self._unknown():
            with suppress(FileNotFoundError):
                if _digest_of_file(path) != path.stem:
                    print(f"{path} is damaged: it is removed, and its features are computed again.")
                    path.unlink()

    def add(self, features: dict[str, torch.Tensor]) -> None:
        """Write `(tokens, width)` for each key into a file of its own."""
        values = [tokens.to(self.dtype).contiguous().view(torch.uint8) for tokens in features.values()]
        rows = {"key": list(features), "features": [tokens.numpy().tobytes() for tokens in values]}
        buffer = io.BytesIO()
        with pyarrow.ipc.new_file(buffer, SHARD_SCHEMA) as writer:
            writer.write_table(pyarrow.table(rows, schema=SHARD_SCHEMA))
        content = buffer.getvalue()
        write_bytes(self.folder / f"{hashlib.sha256(content).hexdigest()}.arrow", content)


def _read_shard(path: Path) -> pyarrow.Table:
    """Memory-mapped; the map stays when the file is closed."""
    with pyarrow.memory_map(str(path)) as source:
        return pyarrow.ipc.open_file(source).read_all()


def remove_unused(folder: Path, days: float) -> None:
    """Remove each group of features that no run has used for so many days, and tell it."""
    for settings in folder.glob("*/settings.json"):
        with suppress(FileNotFoundError):  # another run may remove it, too
            unused = (time.time() - settings.stat().st_mtime) / DAY_IN_SECONDS
            # A folder of features is known by its name: `folder` may hold anything else.
            if unused > days and settings.parent.name == _name_of_group(settings.read_bytes()):
                shutil.rmtree(settings.parent)
                print(f"Features of {settings.parent} are removed: no run has used them for {unused:.0f} days.")


def remove_leavings(folder: Path) -> None:
    """Of runs that were killed while they wrote a file; no file takes a day to write."""
    for path in (*folder.glob(f"*/{LEAVINGS}"), *folder.glob("*/*.arrow.*.part")):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > DAY_IN_SECONDS:
                path.unlink()


def _name_of_group(settings: bytes) -> str:
    return hashlib.sha256(settings).hexdigest()[:32]


def _digest_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# What features depend on


def fingerprint_of_encoder(vision_model: FLaLLMVisionModel | LlavaSltVisualEncoder) -> str:
    """Digest of the configuration and of every weight and buffer."""
    config = _without_bookkeeping(vision_model.config.to_dict())
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, value in sorted(vision_model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _without_bookkeeping(values: dict[str, Any]) -> dict[str, Any]:
    """Without what says where a part came from or how it is loaded, and changes when it is saved."""
    names = ("_name_or_path", "auto_map", "processor_class", "transformers_version")
    return {name: value for name, value in values.items() if name not in names}


@functools.cache
def fingerprint_of_code() -> str:
    """Digest of what the source files of ours do that make features of a video."""
    processing = Path(inspect.getfile(FLaLLMProcessor)).parent
    others = (FLaLLMVisionModel, LlavaSltVisualEncoder, ClipAugmentation, SignVideoDataset, FeatureStore)
    files = [*sorted(processing.glob("*.py")), *(Path(inspect.getfile(each)) for each in others)]
    return hashlib.sha256("\n".join(map(_what_code_does, files)).encode()).hexdigest()


def _what_code_does(path: Path) -> str:
    """The code without comments, docstrings and layout, and without what errors say."""
    return ast.unparse(_WithoutWords().visit(ast.parse(path.read_text(encoding="utf-8"))))


class _WithoutWords(ast.NodeTransformer):
    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        return ast.Raise()


def describe_settings(
    vision_model: FLaLLMVisionModel | LlavaSltVisualEncoder,
    processor: FLaLLMProcessor,
    augmentation: ClipAugmentation | None,
    arguments: FeatureCacheArguments,
    precision: str,
) -> dict[str, Any]:
    """Everything that all clips share; `precision` is that in which the encoder computes."""
    return {
        "encoder": fingerprint_of_encoder(vision_model),
        "video_processor": _without_bookkeeping(json.loads(processor.video_processor.to_json_string())),
        "augmentation": None if augmentation is None else dataclasses.asdict(augmentation.arguments),
        "precision": precision,
        "features_dtype": arguments.features_dtype,
        "code": fingerprint_of_code(),
        "libraries": {name: version(name) for name in LIBRARIES},
    }


def key_of(content: str, start: float | None, end: float | None, view: int) -> str:
    """Of one view of one clip; `content` is the digest of its video."""
    return hashlib.sha256(json.dumps([content, start, end, view]).encode()).hexdigest()


class ContentDigests:
    """
    Digests of the contents of videos. That of a file is remembered for as long as its size, its place on the disk and
    the times of its last change and of its status are the same. Path, size and time of change alone would not do: they
    can be those of another video, copied over the first one with its time. The time of the status cannot be set.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._lock = threading.Lock()
        self._known: dict[Path, dict[str, list[Any]]] = {}  # by folder of videos and name of file
        folder.mkdir(parents=True, exist_ok=True)

    def of_clips(self, clips: datasets.Dataset) -> list[str]:
        """
        In the order of the clips. Each process reads its share of the videos, each of these once; all get all digests.

        Raises:
            ValueError: for a video that cannot be read, in all processes.
        """
        state = PartialState()
        videos = enumerate(without_bytes(clips))
        places = [index if video["bytes"] is not None else video["path"] for index, video in videos]
        mine = list(dict.fromkeys(places))[state.process_index :: state.num_processes]
        with ThreadPoolExecutor() as executor:
            found = gather_object(list(executor.map(lambda place: self._look_at(place, clips), mine)))
        for each in found:
            if each.error:
                raise ValueError(f"The video {each.place} cannot be read: {each.error}")
        if state.is_main_process:
            self._remember(found)
        digests = {each.place: each.digest for each in found}
        return [digests[place] for place in places]

    def _look_at(self, place: int | str, clips: datasets.Dataset) -> "FoundDigest":
        """Errors are told to all processes, as those that have none would wait for this one."""
        try:
            if isinstance(place, str) and "://" not in place:
                return self._look_at_file(place, Path(place).absolute())
            video = clips[place]["video"] if isinstance(place, int) else {"path": place, "bytes": None}
            return FoundDigest(place, hashlib.sha256(fetch_content(video)["bytes"]).hexdigest())
        except (OSError, ValueError) as error:
            return FoundDigest(place, error=str(error))

    def _look_at_file(self, place: str, path: Path) -> "FoundDigest":
        known = self._of_folder(path.parent).get(path.name)
        status = path.stat()
        state = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        if known is not None and known[:-1] == state:
            return FoundDigest(place, known[-1])
        is_young = time.time() - status.st_ctime < YOUNGEST_TRUSTED_FILE_IN_SECONDS
        digest = _digest_of_file(path)
        return FoundDigest(place, digest, None if is_young else [*state, digest])

    def _of_folder(self, folder: Path) -> dict[str, list[Any]]:
        with self._lock:
            if folder not in self._known:
                self._known[folder] = _read_states(self._memory_of(folder))
            return self._known[folder]

    def _memory_of(self, folder: Path) -> Path:
        return self.folder / f"{hashlib.sha256(str(folder).encode()).hexdigest()[:32]}.json"

    def _remember(self, found: list["FoundDigest"]) -> None:
        new = [(Path(each.place).absolute(), each.state) for each in found if each.state is not None]
        for path, state in new:
            self._of_folder(path.parent)[path.name] = state
        for folder in {path.parent for path, _ in new}:
            write_bytes(self._memory_of(folder), json.dumps(self._of_folder(folder)).encode())


@dataclass
class FoundDigest:
    """
    Of one video, which is the file at a place or the bytes in a row.

    Args:
        state: of a file, to be remembered with its digest as the last element.
        error: why there is none.
    """

    place: int | str
    digest: str = ""
    state: list[Any] | None = None
    error: str = ""


def _read_states(path: Path) -> dict[str, list[Any]]:
    """State and digest of each file by its name; empty where there is no such table that can be read."""
    try:
        states = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}
    return {name: state for name, state in states.items() if isinstance(state, list) and len(state) == 5}


# Computing and reading them


@dataclass
class ClipView:
    """One view of one clip of a data set, and the key of its features, which also seeds its augmentation."""

    index: int
    view: int
    key: str

    @property
    def seed(self) -> int:
        return int(self.key[:15], 16)


class CachedVideoDataset(Dataset):
    """
    The clips of a `SignVideoDataset` as visual features `(tokens, hidden size)` with their sentences.

    Args:
        keys: of the features of each clip, for each view; epoch `e` takes view `e % len(keys)`.
    """

    def __init__(self, clips: SignVideoDataset, store: FeatureStore, keys: list[list[str]]):
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
        return {"features": self.store[key], **self.clips.sentence_of(index)}


class _ViewsToEncode(Dataset):
    """Views of clips -> their frames; errors name the clip."""

    def __init__(self, clips: SignVideoDataset, views: Sequence[ClipView], collator: TranslationCollator):
        self.clips = clips
        self.views = views
        self.collator = collator

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, position: int) -> tuple[ClipView, dict[str, Any]]:
        view = self.views[position]
        with errors_name_the_clip(self.clips.dataset, view.index):
            return view, self.clips.frames_of(view.index, view.seed)

    def collate(self, items: list[tuple[ClipView, dict[str, Any]]]) -> dict[str, Any]:
        views, clips = zip(*items, strict=True)
        return {
            "views": views,
            "num_frames": [len(clip["frames"]) for clip in clips],
            **self.collator.video_inputs(clips),
        }


@contextmanager
def errors_name_the_clip(dataset: datasets.Dataset, index: int) -> Iterator[None]:
    """By its row and its file."""
    try:
        yield
    except (ValueError, OSError) as error:
        row = dataset[index]
        part = "".join(f", {name} {row[name]:g} s" for name in ("start", "end") if row.get(name) is not None)
        path = f", {row['video']['path']}" if row["video"]["path"] else ""
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
            "A process that decodes clips died, of a file that crashes the decoder or of too little memory. "
            f"`flallm inspect` names such files; with fewer --dataloader_num_workers less memory is needed. ({error})"
        ) from error


def _longest_length(clips: SignVideoDataset, index: int) -> int:
    with errors_name_the_clip(clips.dataset, index):
        return clips.longest_lengths([index])[0]


def _check_length(num_frames: int, num_tokens: int) -> None:
    if num_tokens < 1:
        raise ValueError(
            f"it is too short: of {num_frames} frames after sampling the encoder makes no visual token. Use a longer "
            "clip or a larger --frame_sampling_rate."
        )


def _check_finite(features: torch.Tensor) -> None:
    if not features.isfinite().all():
        raise ValueError(
            f"its features are no finite numbers in {str(features.dtype).removeprefix('torch.')}. Try --features_dtype "
            "bfloat16 or float32."
        )


class FeatureCache:
    """
    Features of clips under the frozen encoder of a model that is about to be trained.

    Args:
        model: with a `vision_model`, which is moved to the device of the training.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        processor: FLaLLMProcessor,
        arguments: FeatureCacheArguments,
        training: FLaLLMTrainingArguments,
    ):
        self.vision_model: FLaLLMVisionModel | LlavaSltVisualEncoder = model.vision_model.to(training.device)
        self.processor = processor
        self.arguments = arguments
        self.training = training
        self.folder = Path(arguments.feature_cache_dir or Path(HF_HOME) / "flallm" / "features")
        self.digests = ContentDigests(self.folder / "digests")
        self.autocast_dtype = {training.bf16: torch.bfloat16, training.fp16: torch.float16}.get(True)

    def clips(self, clips: SignVideoDataset, name: str, num_views: int = 1) -> CachedVideoDataset:
        """
        The clips with their features; what is not in the cache is computed, by all processes together.

        Args:
            name: what the clips are for, to tell the progress.

        Raises:
            ValueError: for a clip that cannot be read, is too short, or whose features do not fit the dtype.
        """
        store = self._open_store(clips)
        digests = self.digests.of_clips(clips.dataset)
        views = [self._views(clips.dataset, digests, view) for view in range(num_views)]
        wanted = {view.key: view for views_of_clips in views for view in views_of_clips}
        missing = [view for key, view in wanted.items() if key not in store]
        started = time.monotonic()
        self._encode([view for view in missing if self._is_mine(view)], clips, store, name)
        clips.forget_decoded_videos()
        PartialState().wait_for_everyone()
        store.look_again()
        if any(key not in store for key in wanted):
            raise ValueError(f"Features of {store.folder} have gone while others were computed. Start again.")
        if self.training.process_index == 0:
            self._summarise(len(clips), num_views, len(wanted), len(missing), time.monotonic() - started, name)
        return CachedVideoDataset(clips, store, [[view.key for view in of_clips] for of_clips in views])

    def remove_unused(self) -> None:
        """Of other settings, as `feature_cache_days` says; call it when the features of all splits are opened."""
        if self.training.process_index > 0:
            return
        remove_leavings(self.folder)
        if self.arguments.feature_cache_days is not None:
            remove_unused(self.folder, self.arguments.feature_cache_days)

    def _open_store(self, clips: SignVideoDataset) -> FeatureStore:
        precision = str(self.autocast_dtype or torch.float32).removeprefix("torch.")
        augmentation = clips.read_clip.augmentation
        settings = describe_settings(self.vision_model, self.processor, augmentation, self.arguments, precision)
        dtype = getattr(torch, self.arguments.features_dtype)
        store = FeatureStore(self.folder, settings, self.vision_model.config.hidden_size, dtype)
        store.look_again()
        PartialState().wait_for_everyone()  # before any process adds to what the others count
        return store

    @staticmethod
    def _views(dataset: datasets.Dataset, digests: list[str], view: int) -> list[ClipView]:
        nothing = [None] * len(dataset)
        starts, ends = (dataset[name] if name in dataset.column_names else nothing for name in ("start", "end"))
        keys = [key_of(*of_clip, view) for of_clip in zip(digests, starts, ends, strict=True)]
        return [ClipView(index, view, key) for index, key in enumerate(keys)]

    def _is_mine(self, view: ClipView) -> bool:
        """By the key, as processes may not find the same features missing."""
        return int(view.key, 16) % self.training.world_size == self.training.process_index

    def _encode(self, views: list[ClipView], clips: SignVideoDataset, store: FeatureStore, name: str) -> None:
        if not views:
            return
        lengths = {index: _longest_length(clips, index) for index in {view.index for view in views}}
        longest_first = sorted(views, key=lambda view: -lengths[view.index])  # what needs most memory comes first
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
            hidden = self.vision_model(
                batch["pixel_values_videos"].to(device), batch["pixel_attention_mask"].to(device)
            ).last_hidden_state
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
            f"{seconds:.1f} s. They lie in {self.folder}."
        )
