"""Arguments of `flallm poses`. Imports nothing heavy."""

from dataclasses import dataclass, field
from pathlib import Path

from ..machine.process_pool import check_num_workers

POSE_EXTRACTORS = ("rtmlib", "mediapipe")
POSE_FORMATS = ("safetensors", "pose", "npz")


@dataclass
class PosesArguments:
    """Which videos, and what finds the poses."""

    sources: list[str] = field(
        metadata={
            "help": "Video files, folders of them, or the folder of a data set (metadata.csv in train/, dev/, test/).",
            "positional": True,
        }
    )
    output_dir: Path = field(
        metadata={"help": "New or empty folder, or that of an interrupted run to resume."},
    )
    extractor: str | None = field(
        default=None,
        metadata={"help": "Default: the first of these that is installed.", "choices": POSE_EXTRACTORS},
    )
    model_file: str | None = field(
        default=None,
        metadata={
            "help": "In place of the usual model. rtmlib: a whole-body model in ONNX, such as RTMW or RTMPose-x; "
            "mediapipe: a .task file."
        },
    )
    detector_file: str | None = field(
        default=None, metadata={"help": "rtmlib: a YOLOX in ONNX that finds people, in place of the usual one."}
    )
    device: str | None = field(
        default=None, metadata={"help": "rtmlib: cpu or cuda. Default: the GPU if onnxruntime can use one."}
    )
    format: str = field(default="safetensors", metadata={"help": "Of the files of poses.", "choices": POSE_FORMATS})
    videos: bool = field(
        default=True, metadata={"help": "Of a data set: False leaves its videos and their column out."}
    )
    text_column: str = field(default="text", metadata={"help": "Column that holds the spoken language sentence."})
    num_workers: int | None = field(
        default=None,
        metadata={
            "help": "Worker processes, each with its own copy of the models. Default: one for each core; for rtmlib, "
            "which uses all cores by itself, one."
        },
    )

    def __post_init__(self):
        if self.num_workers is not None:
            check_num_workers("--num_workers", self.num_workers)
