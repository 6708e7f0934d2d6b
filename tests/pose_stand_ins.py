"""Stand-ins for the packages that find people in pictures, and for what they find; they need no models."""

import sys
import types
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np

from processing.pose_extractor_mediapipe_slt import LEGACY_MODELS
from processing.pose_extractor_slt import PoseExtractor, nobody
from processing.pose_layouts_slt import NUM_POINTS

SIDE = 8  # of the square that stands for a person, in pixels


def frames_with_people(people: list[list[tuple[int, int]]], height: int = 48, width: int = 64) -> np.ndarray:
    """Dark frames `(frames, height, width, 3)` with a white square at each `(x, y)`."""
    frames = np.full((len(people), height, width, 3), 10, np.uint8)
    for frame, places in zip(frames, people, strict=True):
        for x, y in places:
            frame[y : y + SIDE, x : x + SIDE] = 245
    return frames


class SquareExtractor(PoseExtractor):
    """Finds each white square as a person, whose point k is k pixels to the right of and below its corner."""

    name = "squares"
    description = "squares 1.0 sha256:0123456789ab"

    def __init__(self, **settings: Any):
        super().__init__()
        self.settings = settings
        self.rates: list[float | None] = []
        self.num_frames = 0

    def start_clip(self, frames_per_second: float | None) -> None:
        self.rates.append(frames_per_second)

    def find_people(self, frame: np.ndarray) -> np.ndarray:
        assert frame.dtype == np.uint8 and frame.shape[2] == 3 and frame.flags.c_contiguous
        self.num_frames += 1
        is_bright = frame.mean(-1) > 128
        people = []
        while is_bright.any():
            y, x = np.argwhere(is_bright)[0]
            is_bright[y : y + SIDE + 2, max(x - 2, 0) : x + SIDE + 2] = False
            people.append(person_at(x, y))
        return np.stack(people) if people else nobody()


def person_at(x: float, y: float, score: float = 0.9) -> np.ndarray:
    """`(133, 3)`: point k is k pixels to the right of and below the place."""
    offsets = np.arange(NUM_POINTS, dtype=np.float32)
    return np.stack([x + offsets, y + offsets, np.full(NUM_POINTS, score, np.float32)], -1)


class Landmarks:
    """As the legacy solution gives them: x and y as fractions of the picture."""

    def __init__(self, number: int, shift: float, visibility: float):
        self.landmark = [
            types.SimpleNamespace(x=shift + index / 1000, y=shift + index / 2000, visibility=visibility)
            for index in range(number)
        ]


def holistic_result(body: bool = True, left: bool = True, right: bool = True, face: bool = True) -> Any:
    """A result of MediaPipe, whose hands and face have no visibility; parts that it lacks are None."""
    return types.SimpleNamespace(
        pose_landmarks=Landmarks(33, 0.1, 0.75) if body else None,
        face_landmarks=Landmarks(468, 0.2, 0.0) if face else None,
        left_hand_landmarks=Landmarks(21, 0.3, 0.0) if left else None,
        right_hand_landmarks=Landmarks(21, 0.4, 0.0) if right else None,
    )


def as_lists(result: Any) -> Any:
    """The same as the Tasks API gives it: lists, empty where a part is missing."""
    parts = {name: landmarks.landmark if landmarks else [] for name, landmarks in vars(result).items()}
    return types.SimpleNamespace(**parts)


def legacy_mediapipe(folder: Path, result: Any) -> types.ModuleType:
    """A release with `solutions`, whose wheel holds its models; `calls` says what was done with it."""
    module = types.ModuleType("mediapipe")
    module.__version__, module.__file__, module.calls = "0.10.21", str(folder / "__init__.py"), []
    for name in LEGACY_MODELS:
        (folder / "modules" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "modules" / name).write_bytes(name.encode())

    class Holistic:
        def reset(self) -> None:
            module.calls.append("reset")

        def process(self, frame: np.ndarray) -> Any:
            assert frame.flags.c_contiguous
            module.calls.append("process")
            return result

    module.solutions = types.SimpleNamespace(holistic=types.SimpleNamespace(Holistic=Holistic))
    return module


def newer_mediapipe(result: Any) -> types.ModuleType:
    """A release with the Tasks API alone."""
    module = types.ModuleType("mediapipe")
    module.__version__, module.calls = "1.2.3", []
    module.Image = types.SimpleNamespace
    module.ImageFormat = types.SimpleNamespace(SRGB="srgb")

    class HolisticLandmarker:
        @staticmethod
        def create_from_options(options: Any) -> "HolisticLandmarker":
            module.calls.append(("create", options.base_options.model_asset_path, options.running_mode))
            return HolisticLandmarker()

        def detect_for_video(self, image: Any, milliseconds: int) -> Any:
            module.calls.append(milliseconds)
            return as_lists(result)

        def close(self) -> None:
            module.calls.append("close")

    vision = types.SimpleNamespace(
        HolisticLandmarker=HolisticLandmarker,
        HolisticLandmarkerOptions=types.SimpleNamespace,
        RunningMode=types.SimpleNamespace(VIDEO="video"),
    )
    module.tasks = types.SimpleNamespace(vision=vision, BaseOptions=types.SimpleNamespace)
    return module


class Session:
    """Of onnxruntime: the shapes of inputs and outputs."""

    def __init__(self, inputs: list[list[Any]], outputs: list[list[Any]]):
        self.get_inputs = lambda: [types.SimpleNamespace(shape=shape) for shape in inputs]
        self.get_outputs = lambda: [types.SimpleNamespace(shape=shape) for shape in outputs]


def rtmlib_and_onnxruntime(
    boxes: np.ndarray,
    classes: np.ndarray | None,
    pose_session: Session | None = None,
    providers: tuple[str, ...] = ("CPUExecutionProvider",),
) -> dict[str, types.ModuleType]:
    """The packages by name: a detector that finds these boxes, and a pose model whose points follow from a box."""
    rtmlib, onnxruntime = types.ModuleType("rtmlib"), types.ModuleType("onnxruntime")
    onnxruntime.get_available_providers = lambda: list(providers)
    rtmlib.__version__, rtmlib.pictures, rtmlib.devices = "0.0.16", [], []

    class YOLOX:
        def __init__(self, path: str, backend: str, device: str):
            rtmlib.devices.append(device)
            self.session = Session([[1, 3, 640, 640]], [[1, 8400, 5 if classes is None else 85]])
            self.det_mode = "human"

        def __call__(self, picture: np.ndarray) -> Any:
            rtmlib.pictures.append(("detector", picture[0, 0].tolist()))
            return (boxes, classes) if self.det_mode == "multiclass" else boxes

    class RTMPose:
        def __init__(self, path: str, backend: str, device: str):
            rtmlib.devices.append(device)
            self.session = pose_session or Session([["batch", 3, 384, 288]], [["batch", 133, 576], ["batch", 133, 768]])

        def __call__(self, picture: np.ndarray, bboxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            rtmlib.pictures.append(("pose", picture[0, 0].tolist()))
            people = np.stack([person_at(*box[:2], score=1.5) for box in bboxes])
            return people[..., :2], people[..., 2]

    rtmlib.YOLOX, rtmlib.RTMPose = YOLOX, RTMPose
    return {"rtmlib": rtmlib, "onnxruntime": onnxruntime}


def install(monkeypatch: Any, modules: dict[str, types.ModuleType | None]) -> None:
    """Put modules into the place of packages; None hides one that is installed."""
    for name, module in modules.items():
        if module is not None:
            module.__spec__ = ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)


def in_this_process(function: Callable[[Any], Any], tasks: list[Any], *_: Any) -> Any:
    """`run_in_processes` without processes, which would import torch again."""
    for task in tasks:
        yield task, function(task)
