"""What visual features depend on, as digests: the encoder, our code, the settings, and the contents of the videos."""

import ast
import dataclasses
import functools
import hashlib
import inspect
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import PreTrainedConfig, PreTrainedModel

from modeling_flallm import SIGN_ENCODERS, SignEncoder
from modeling_flallm.backbone_slt import run_backbone
from modeling_flallm.own_processing import FLaLLMProcessor, Modality

from ..machine.atomic_files import write_bytes
from .augmentation import ClipAugmentation, MiddleFrames
from .feature_store import digest_of_file
from .hub_data_sets import fetch_content, without_bytes

LIBRARIES = ("av", "numpy", "torch", "torchvision", "transformers")
# In addition to all of `processing` and the encoders.
FILES_THAT_MAKE_FEATURES = (
    "augmentation.py",
    "collators.py",
    "data.py",
    "feature_cache.py",
    "feature_store.py",
    "pose_augmentation.py",
    "views_to_encode.py",
)
# A file that has just been written can change again within the same clock tick of the file system.
YOUNGEST_TRUSTED_FILE_IN_SECONDS = 2.0
# What every configuration says: where a part comes from and how it is loaded, which changes when it is saved, and
# what it returns. What its outputs depend on is in the other fields of its own class, and in its weights.
BOOKKEEPING = {*PreTrainedConfig().to_dict(), "auto_map", "processor_class", "source"} - {"model_type"}


def fingerprint_of_encoder(encoder: PreTrainedModel) -> str:
    """Digest of the configuration and of every weight and buffer."""
    config = _without_bookkeeping(encoder.config.to_dict())
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, value in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def fingerprint_of_features(encoder: SignEncoder, modality: Modality) -> str:
    """
    Digest of what makes the features of a clip: the encoder, and how clips are sampled and prepared for it. Features of
    other precision or other versions of the code differ by rounding alone, and have the same.
    """
    clip_settings = {name: value for name, value in settings_of(modality).items() if value is not None}
    settings = [fingerprint_of_encoder(encoder.features_encoder), clip_settings]
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def settings_of(modality: Modality) -> dict[str, Any]:
    """
    How clips are sampled and prepared: the settings of the part of a processor that reads them. Without the frame rates
    of its training, which change nothing but the `tempo` of clips of other rates.
    """
    settings = json.loads(modality.part.to_json_string())
    settings.pop("training_fps", None)
    return _without_bookkeeping(settings)


def _without_bookkeeping(value: Any) -> Any:
    """Also of the configurations within a configuration."""
    if not isinstance(value, dict):
        return value
    return {name: _without_bookkeeping(part) for name, part in value.items() if name not in BOOKKEEPING}


@functools.cache
def fingerprint_of_code() -> str:
    """Digest of the behaviour of those of our source files that compute features from videos."""
    processing = Path(inspect.getfile(FLaLLMProcessor)).parent
    files = [
        *sorted(processing.glob("*.py")),
        *(Path(inspect.getfile(encoder)) for encoder in SIGN_ENCODERS.values()),
        Path(inspect.getfile(run_backbone)),
        *(Path(__file__).with_name(name) for name in FILES_THAT_MAKE_FEATURES),
    ]
    return hashlib.sha256("\n".join(map(_what_code_does, files)).encode()).hexdigest()


def _what_code_does(path: Path) -> str:
    """The code without comments, docstrings, layout and error texts."""
    return ast.unparse(_WithoutWords().visit(ast.parse(path.read_text(encoding="utf-8"))))


class _WithoutWords(ast.NodeTransformer):
    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        return ast.Raise()


def describe_settings(
    encoder: SignEncoder,
    modality: Modality,
    augmentation: ClipAugmentation | MiddleFrames | None,
    precision: torch.dtype,
    features_dtype: torch.dtype,
) -> dict[str, Any]:
    """Everything that all clips share; `precision` is the one in which the encoder computes."""
    return {
        "encoder": fingerprint_of_encoder(encoder.features_encoder),
        modality.slot: settings_of(modality),
        "augmentation": None if augmentation is None else dataclasses.asdict(augmentation.arguments),
        "precision": _name_of_dtype(precision),
        "features_dtype": _name_of_dtype(features_dtype),
        "code": fingerprint_of_code(),
        "libraries": {name: version(name) for name in LIBRARIES},
    }


def _name_of_dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def key_of(content: str, start: float | None, end: float | None, view: int, tempo: float = 1.0) -> str:
    """Of one view of one clip; `content` is the digest of its video, `tempo` that of the modality."""
    of_other_rate = [] if tempo == 1.0 else [round(tempo, 6)]
    return hashlib.sha256(json.dumps([content, start, end, view, *of_other_rate]).encode()).hexdigest()


class ContentDigests:
    """
    Digests of the contents of videos. The digest of a file is remembered as long as its size, its inode, its
    modification time and its status change time stay the same. Path, size and modification time would not be enough:
    another video, copied over the first one along with its time, can have the same. The status time cannot be set.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._lock = threading.Lock()
        self._known: dict[Path, dict[str, list[Any]]] = {}  # by folder of videos and name of file
        folder.mkdir(parents=True, exist_ok=True)

    def of_clips(self, clips: datasets.Dataset, modality: Modality) -> list[str]:
        """
        In the order of the clips, as `find`.

        Raises:
            ValueError: for a video that cannot be read, in all processes.
        """
        found = self.find(clips, modality)
        for each in found:
            if each.error:
                raise ValueError(f"The video {each.place} cannot be read: {each.error}")
        return [each.digest for each in found]

    def find(self, clips: datasets.Dataset, modality: Modality) -> list["FoundDigest"]:
        """
        The digest of each clip, or why it has none. Each process reads its share of the videos, each video once; all
        get all digests.
        """
        state = PartialState()
        places = _places_of(clips, modality)
        mine = list(dict.fromkeys(places))[state.process_index :: state.num_processes]
        with ThreadPoolExecutor() as executor:
            found = gather_object(list(executor.map(lambda place: self._look_at(place, clips, modality), mine)))
        if state.is_main_process:
            self._remember(found)
        by_place = {each.place: each for each in found}
        return [by_place[place] for place in places]

    def _look_at(self, place: int | str, clips: datasets.Dataset, modality: Modality) -> "FoundDigest":
        """Errors are told to all processes, as those that have none would wait for this one."""
        try:
            if isinstance(place, str) and "://" not in place:
                return self._look_at_file(place, Path(place).absolute())
            if modality.datasets_type is None:
                return FoundDigest(place, hashlib.sha256(modality.read(clips[place]).values.numpy()).hexdigest())
            video = clips[place][modality.column] if isinstance(place, int) else {"path": place, "bytes": None}
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
        digest = digest_of_file(path)
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
    The digest of one video, which is a file at a place or the bytes in a row.

    Args:
        state: of a file, to be remembered with its digest as the last element.
        error: why there is none.
    """

    place: int | str
    digest: str = ""
    state: list[Any] | None = None
    error: str = ""


def _places_of(clips: datasets.Dataset, modality: Modality) -> list[int | str]:
    """Of each clip the path of its file, or its row where that holds the clip itself."""
    if modality.datasets_type is None:
        return list(range(len(clips)))
    files = enumerate(without_bytes(clips, modality.column))
    return [index if file["bytes"] is not None else file["path"] for index, file in files]


def _read_states(path: Path) -> dict[str, list[Any]]:
    """State and digest of each file by name; empty if there is no readable table."""
    try:
        states = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}
    return {name: state for name, state in states.items() if isinstance(state, list) and len(state) == 5}
