"""Arguments of `flallm export`. Imports nothing heavy."""

from dataclasses import dataclass, field

from .flag_values import check_repo_id

EXPORT_FORMATS, EXPORT_DTYPES = ("onnx", "openvino"), ("float32", "float16", "int8")
DTYPES_OF_EXPORT_FORMAT = {"onnx": EXPORT_DTYPES, "openvino": ("float32", "float16")}


@dataclass
class ExportArguments:
    """Which model, and how it is written."""

    model: str = field(metadata={"help": "Folder or Hub id of a trained model."})
    output_dir: str = field(metadata={"help": "New or empty folder for the exported model."})
    format: str = field(
        default="onnx",
        metadata={
            "help": "For onnxruntime or for OpenVINO.",
            "choices": EXPORT_FORMATS,
        },
    )
    dtype: str = field(
        default="float32",
        metadata={
            "help": "float16 stores weights in half precision and computes in single precision; int8 computes the "
            "linear layers of the text model in eight bits.",
            "choices": EXPORT_DTYPES,
        },
    )
    repo_id: str | None = field(
        default=None,
        metadata={"help": "The model's repository on the Hub, as OWNER/NAME, to upload to, beside the weights."},
    )

    def __post_init__(self):
        check_repo_id("repo_id", self.repo_id, "me/flallm-phoenix")
        allowed = DTYPES_OF_EXPORT_FORMAT[self.format]
        if self.dtype not in allowed:
            raise ValueError(f"--format {self.format} takes --dtype {' or '.join(allowed)}, got {self.dtype}.")
