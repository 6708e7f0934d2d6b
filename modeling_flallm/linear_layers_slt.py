"""Large linear layers of few rows, as when a sentence is written word by word, near the speed of memory on a CPU."""

import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

FEWEST_WEIGHTS = 2**20
MOST_ROWS = 64
# Weights of other types are sharded or quantized.
PLAIN_TYPES = {torch.Tensor, nn.Parameter, type(None)}


def few_rows_in_onednn(model: nn.Module) -> AbstractContextManager:
    """
    A context in which this thread computes linear layers with large weights and few rows by oneDNN instead of MKL,
    which takes up to twice as long for the five rows of five beams (measured on AMD, with and without AVX-512). Results
    agree up to the order of sums. It concerns float32 without gradients on x86 processors. All else is computed as
    always; so are small layers, for which oneDNN is slower.

    Args:
        model: whose layers will be computed. Where it concerns none of them, the context does and costs nothing.
    """
    return _FewRowsInOneDNN() if _has_onednn() and _has_such_a_layer(model) else nullcontext()


def _has_onednn() -> bool:
    return (
        platform.machine() in ("x86_64", "AMD64")
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def _has_such_a_layer(model: nn.Module) -> bool:
    return any(isinstance(layer, nn.Linear) and _is_large(layer.weight) for layer in model.modules())


def _is_large(weight: torch.Tensor) -> bool:
    return weight.numel() >= FEWEST_WEIGHTS and weight.dtype == torch.float32 and weight.device.type == "cpu"


class _FewRowsInOneDNN(TorchFunctionMode):
    def __torch_function__(
        self, function: Callable, types: Sequence[type], arguments: Sequence[Any] = (), others: Mapping | None = None
    ) -> Any:
        if function is nn.functional.linear and not others and _is_faster(*arguments):
            values, weight, bias = (*arguments, None)[:3]
            return torch.ops.mkldnn._linear_pointwise(values, weight, bias, "none", [], "")
        return function(*arguments, **(others or {}))


def _is_faster(values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> bool:
    return (
        _is_large(weight)
        and 0 < values.numel() <= MOST_ROWS * values.shape[-1]
        and {type(values), type(weight), type(bias)} <= PLAIN_TYPES
        and {each.dtype for each in (values, weight, bias) if each is not None} == {torch.float32}
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
    )
