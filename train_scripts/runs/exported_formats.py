"""
Writes the graphs of an exported model as ONNX or for OpenVINO, in full or in fewer bits. Not as programs of
`torch.export`: `torch.export.load` unpickles (`pickle.loads`, and `torch.load` without `weights_only`).
"""

import importlib.util
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from .exported_graphs import Graph

# Linear layers of these graphs become int8; sign encoders, embeddings and the layer that writes words stay as they are.
QUANTIZED_GRAPHS = ("text_encoder", "decoder")
LEAST_HALVED = 1024  # numbers; smaller weights keep single precision
LARGEST_HALF = 65504.0
NOISY_LOGGERS = ("torch.onnx", "onnxscript", "onnx_ir", "torch.export", "root")


def write_onnx(graph: Graph, folder: Path, dtype: str) -> None:
    """
    Write `NAME.onnx`, and weights that are too large for one file beside it in `NAME.onnx.data`.

    Raises:
        ValueError: for weights that half precision cannot hold.
    """
    import onnx

    path = folder / f"{graph.name}.onnx"
    with _quiet():
        program = torch.onnx.export(
            graph.module,
            tuple(graph.inputs.values()),
            dynamo=True,
            dynamic_shapes=_shapes(graph),
            input_names=list(graph.inputs),
            output_names=graph.output_names,
            verbose=False,
        )
        program.save(path)
    if dtype == "int8" and graph.name in QUANTIZED_GRAPHS:
        _quantize(path)
    elif dtype == "float16":
        model = onnx.load(path)
        _halve_weights(model.graph)
        _save_onnx(model, path)


def write_openvino(graph: Graph, folder: Path, dtype: str) -> None:
    """Write `NAME.xml` and `NAME.bin`. The graph goes through ONNX."""
    import openvino

    write_onnx(graph, folder, "float32")
    onnx_path = folder / f"{graph.name}.onnx"
    model = openvino.convert_model(onnx_path)
    openvino.save_model(model, folder / f"{graph.name}.xml", compress_to_fp16=dtype == "float16")
    del model
    for path in (onnx_path, onnx_path.with_suffix(".onnx.data")):
        path.unlink(missing_ok=True)


FORMATS: dict[str, Callable[[Graph, Path, str], None]] = {
    "onnx": write_onnx,
    "openvino": write_openvino,
}


PACKAGES = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),
}


def check_packages(format_name: str) -> None:
    """
    Raises:
        ValueError: if a package that the format needs is not installed.
    """
    missing = [name for name in PACKAGES[format_name] if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f'--format {format_name} needs {", ".join(missing)}: pip install "flallm[export]"'
            + (" openvino" if "openvino" in missing else "")
        )


def _shapes(graph: Graph) -> tuple[Any, ...]:
    """`dynamic_shapes` for the modules, whose last parameter may stand for several inputs (`*arrays`)."""
    dimensions = list(graph.dimensions.values())
    code = graph.module.forward.__func__.__code__
    num_named = code.co_argcount - 1
    more = tuple(dimensions[num_named:])
    return (*dimensions[:num_named], *((more,) if more else ()))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the many lines that exporters write about what they do."""
    loggers = [logging.getLogger(name) for name in NOISY_LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _halve_weights(graph: Any) -> None:
    """
    Store large weights in half precision, and cast them to single precision where they are used: onnxruntime does that
    once, when it loads the model, so that all is computed as before. Half the bytes, on every processor.
    """
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for weight in graph.initializer:
        values = numpy_helper.to_array(weight)
        if weight.data_type != TensorProto.FLOAT or values.size < LEAST_HALVED:
            continue
        if np.abs(values).max() > LARGEST_HALF:
            raise ValueError(
                f"The weights {weight.name} hold numbers above {LARGEST_HALF:g}, which half precision cannot hold. "
                "Export with --dtype float32 or int8."
            )
        name = weight.name
        weight.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.float16"))
        casts.append(helper.make_node("Cast", [f"{name}.float16"], [name], name=f"{name}.cast", to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _quantize(path: Path) -> None:
    """Linear layers in int8, their inputs quantized as they come, but not the layer that writes words."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet(), tempfile.TemporaryDirectory(dir=path.parent) as folder:
        quantized = Path(folder) / path.name
        quantize_dynamic(
            path,
            quantized,
            op_types_to_quantize=["MatMul", "Gemm"],
            nodes_to_exclude=_nodes_that_write_words(onnx.load(path, load_external_data=False).graph),
            weight_type=QuantType.QInt8,
            per_channel=True,
            use_external_data_format=True,  # files of one graph end at 2 GB
        )
        model = onnx.load(quantized)
    _save_onnx(model, path)


def _nodes_that_write_words(graph: Any) -> list[str]:
    """The last linear layer before the logits; none in a graph without logits."""
    makers = {name: node for node in graph.node for name in node.output}
    place = "logits" if any(output.name == "logits" for output in graph.output) else None
    while place in makers:
        node = makers[place]
        if node.op_type in ("MatMul", "Gemm"):
            return [node.name]
        place = node.input[0]
    return []


def _save_onnx(model: Any, path: Path) -> None:
    import onnx

    data = path.with_suffix(".onnx.data")
    data.unlink(missing_ok=True)
    onnx.save(model, path, save_as_external_data=True, location=data.name, size_threshold=1 << 20)
