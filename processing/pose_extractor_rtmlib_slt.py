# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""
Poses by rtmlib: models of the RTMPose family (RTMPose, arXiv 2303.07399; DWPose, arXiv 2307.15880; RTMW, arXiv
2407.08634) in ONNX, on CPUs and GPUs. They give the 133 points of COCO-WholeBody themselves.

The usual model is DWPose-l at 384 x 288, an RTMPose-l distilled from RTMPose-x, which was also trained on UBody, where
people sign. Its people are found by a YOLOX-l.
"""

import contextlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from .pose_extractor_slt import PoseExtractor, import_extractor, nobody
from .pose_layouts_slt import NUM_POINTS
from .pose_models_slt import PinnedModel, given_model_file, shown_digest

DWPOSE = "https://huggingface.co/yzd-v/DWPose/resolve/1a7144101628d69ee7a3768d1ee3a094070dc388"
POSE_MODEL = PinnedModel(
    f"{DWPOSE}/dw-ll_ucoco_384.onnx", "724f4ff2439ed61afb86fb8a1951ec39c6220682803b4a8bd4f598cd913b1843", "Apache-2.0"
)
DETECTOR = PinnedModel(
    f"{DWPOSE}/yolox_l.onnx", "7860ae79de6c89a3c1eb72ae9a2756c0ccfbe04b7791bb5880afabd97855a411", "Apache-2.0"
)
PERSON = 0  # class of COCO
WIDTH_WITHOUT_CLASSES = 5  # of a detector's output: box and score, after its own suppression of overlaps
MOST_PEOPLE = 3  # ours: each costs as much as the first, and the signer is large


class RtmlibExtractor(PoseExtractor):
    """
    A detector of people, and a pose model on each of the three largest. Frames do not depend on each other.

    Args:
        model_file: a whole-body model with 133 points, such as RTMW or RTMPose-x (`end2end.onnx`). Default: DWPose-l.
        detector_file: a YOLOX in ONNX. Default: YOLOX-l.
        device: "cpu" or "cuda". Default: the GPU if onnxruntime can use one.

    Raises:
        ValueError: if rtmlib or onnxruntime are not installed, for a device that onnxruntime cannot use, and for a
            model file that is missing, cannot be downloaded or gives other points.
    """

    name = "rtmlib"
    uses_all_cores = True

    def __init__(
        self,
        model_file: str | Path | None = None,
        detector_file: str | Path | None = None,
        device: str | None = None,
    ):
        super().__init__()
        rtmlib, device = import_extractor("rtmlib"), _device(device)
        pose_file = POSE_MODEL.path() if model_file is None else given_model_file(model_file)
        detector_file = DETECTOR.path() if detector_file is None else given_model_file(detector_file)
        with contextlib.redirect_stdout(sys.stderr):  # rtmlib prints what it loads
            self._model = rtmlib.RTMPose(str(pose_file), backend="onnxruntime", device=device)
            self._detector = rtmlib.YOLOX(str(detector_file), backend="onnxruntime", device=device)
        height, width = _input_size(self._model, pose_file)
        self._model.model_input_size = (width, height)
        self._detector.model_input_size = _input_size(self._detector, detector_file)
        width = self._detector.session.get_outputs()[0].shape[-1]  # the name of a dimension if it is not fixed
        if isinstance(width, int) and width > WIDTH_WITHOUT_CLASSES:
            self._detector.det_mode = "multiclass"
        _check_num_points(self._model, pose_file)
        models = " ".join(f"{path.stem} {shown_digest([path])}" for path in (pose_file, detector_file))
        self.description = f"rtmlib {_version(rtmlib)} {models}"

    def start_clip(self, frames_per_second: float | None) -> None:
        """Nothing is kept from frame to frame."""

    def find_people(self, frame: np.ndarray) -> np.ndarray:
        # rtmlib leaves the order of colours to its caller. YOLOX was trained on BGR, the pose models on RGB
        # (issues 48 of Tau-J/rtmlib and 25 of IDEA-Research/DWPose).
        boxes = self._boxes(np.ascontiguousarray(frame[..., ::-1]))
        if not len(boxes):  # without boxes, RTMPose would take the whole picture for a person
            return nobody()
        keypoints, scores = self._model(frame, bboxes=boxes)
        scores = np.clip(scores, 0, 1)[..., None]
        return np.concatenate([keypoints, scores], -1).astype(np.float32)

    def _boxes(self, picture: np.ndarray) -> np.ndarray:
        """The boxes of the largest people, `(people, 4)`: left, top, right, bottom in pixels."""
        if self._detector.det_mode == "multiclass":
            boxes, classes = self._detector(picture)
            boxes = boxes[classes == PERSON]
        else:
            boxes = self._detector(picture)
        boxes = np.reshape(boxes, (-1, 4))
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        return boxes[np.argsort(-areas, kind="stable")[:MOST_PEOPLE]]


def _device(wanted: str | None) -> str:
    """Raises `ValueError` for a device that onnxruntime cannot use."""
    providers = import_extractor("onnxruntime").get_available_providers()
    has_gpu = "CUDAExecutionProvider" in providers
    if wanted is None:
        return "cuda" if has_gpu else "cpu"
    if wanted.partition(":")[0] not in ("cpu", "cuda"):
        raise ValueError(f"rtmlib runs on cpu or cuda, got the device {wanted!r}.")
    if wanted != "cpu" and not has_gpu:
        raise ValueError(
            f"The device {wanted!r} needs an onnxruntime for GPUs, this one has {', '.join(providers)}: pip uninstall "
            "onnxruntime, then pip install onnxruntime-gpu."
        )
    return wanted


def _input_size(tool: Any, path: Path) -> tuple[int, int]:
    """Height and width of the pictures that a model takes, as its file states them."""
    shape = tool.session.get_inputs()[0].shape
    if len(shape) != 4 or not all(isinstance(side, int) for side in shape[2:]):
        raise ValueError(f"{path} must take pictures (batch, 3, height, width) of a fixed size, got {shape}.")
    return shape[2], shape[3]


def _check_num_points(model: Any, path: Path) -> None:
    """Raises `ValueError` for a model of other points, such as one of the body alone."""
    shapes = [output.shape for output in model.session.get_outputs()]
    found = [shape[1] if len(shape) == 3 else None for shape in shapes]
    # A dimension without a fixed size has a name.
    if len(shapes) != 2 or any(number != NUM_POINTS and not isinstance(number, str) for number in found):
        raise ValueError(
            f"{path} must be a whole-body model of the RTMPose family, with two outputs (batch, {NUM_POINTS}, bins), "
            f"got {shapes}."
        )


def _version(rtmlib: ModuleType) -> str:
    return getattr(rtmlib, "__version__", None) or import_extractor("rtmlib.version").__version__
