"""The graphs of an exported model: named arrays in, named arrays out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

Arrays = dict[str, np.ndarray]


class Session(Protocol):
    """One graph. It ignores inputs that it does not have, such as a mask that its model does not read."""

    output_names: Sequence[str]

    def __call__(self, inputs: Arrays) -> Arrays:
        """Run the graph: arrays by the names of its inputs -> arrays by the names of its outputs."""


class OnnxSession:
    """
    A graph in ONNX.

    Args:
        path: of the `.onnx` file.
        providers: execution providers of onnxruntime, the first that works is used. Default: the CPU.
        num_threads: 0 leaves the number to onnxruntime.
    """

    suffix = ".onnx"

    def __init__(self, path: Path, providers: Sequence[str] | None = None, num_threads: int = 0):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        # Threads that wait would keep the cores busy that the next graph, or the reader of videos, needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(
            str(path), options, providers=list(providers or ("CPUExecutionProvider",))
        )
        self.input_names = [each.name for each in self.session.get_inputs()]
        self.output_names = [each.name for each in self.session.get_outputs()]

    def __call__(self, inputs: Arrays) -> Arrays:
        values = self.session.run(self.output_names, {name: inputs[name] for name in self.input_names})
        return dict(zip(self.output_names, values, strict=True))


class OpenVinoSession:
    """
    A graph of OpenVINO.

    Args:
        path: of the `.xml` file.
        providers: one device of OpenVINO, such as `"GPU"`. Default: the CPU.
        num_threads: 0 leaves the number to OpenVINO.
    """

    suffix = ".xml"

    def __init__(self, path: Path, providers: Sequence[str] | None = None, num_threads: int = 0):
        import openvino

        device = providers[0] if providers else "CPU"
        settings = {"INFERENCE_NUM_THREADS": num_threads} if num_threads else {}
        # Single precision, also where the processor has bfloat16, which OpenVINO would otherwise use.
        settings["INFERENCE_PRECISION_HINT"] = "f32"
        self.model = openvino.Core().compile_model(str(path), device, settings)
        self.input_names = [each.get_any_name() for each in self.model.inputs]
        self.output_names = [each.get_any_name() for each in self.model.outputs]
        self.request = self.model.create_infer_request()

    def __call__(self, inputs: Arrays) -> Arrays:
        outputs = self.request.infer({name: inputs[name] for name in self.input_names})
        return {name: outputs[index].copy() for index, name in enumerate(self.output_names)}


SESSIONS = {"onnx": OnnxSession, "openvino": OpenVinoSession}
