# Copyright 2026 The FLaLLM authors. Licensed under the Apache License, Version 2.0.
"""
Reads features and poses that other projects store as pickles of NumPy's arrays. What builds an array in a pickle is
replaced by stand-ins of ours, which take plain values alone: nothing that the file names is imported or called.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np

from .plain_pickle_slt import PlainUnpickler, UnpicklingError, read_plain_pickle

KINDS_OF_NUMBERS = "biuf"  # booleans, whole numbers, fractions: all that needs no code to be read
NDARRAY = "numpy.ndarray"  # stands for the class in a call, and can do nothing
MODULES = ("core", "_core")  # before and since NumPy 2


class _StandIn:
    """Takes no values from a pickle but those of `__call__` and `__setstate__`."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise UnpicklingError("it changes a function of NumPy")


class _TypeOfNumbers(_StandIn):
    """`numpy.dtype` of an array: first its kind and size, such as `f4`, then the order of its bytes."""

    __slots__ = ("dtype",)

    def __init__(self, name: Any):
        name = name.decode() if isinstance(name, bytes) else name
        if not (isinstance(name, str) and len(name) in (2, 3) and name[0] in KINDS_OF_NUMBERS and name[1:].isdigit()):
            raise UnpicklingError(f"it holds an array of {name!r}, which are no numbers")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: Any) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _ArrayOfPickle(_StandIn):
    """An array, empty until its state is read."""

    __slots__ = ("array",)

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, is_fortran, content = state
        self.array = _array(content, kind, shape, "F" if is_fortran else "C")


class _NewType(_StandIn):
    __slots__ = ()

    def __call__(self, name: Any, *options: Any) -> _TypeOfNumbers:
        return _TypeOfNumbers(name)


class _Reconstruct(_StandIn):
    __slots__ = ()

    def __call__(self, kind: Any, *options: Any) -> _ArrayOfPickle:
        if kind != NDARRAY:
            raise UnpicklingError("it holds an array of a class of its own")
        return _ArrayOfPickle()


class _FromBuffer(_StandIn):
    __slots__ = ()

    def __call__(self, content: Any, kind: Any, shape: Any, order: Any) -> _ArrayOfPickle:
        built = _ArrayOfPickle()
        built.array = _array(content, kind, shape, order)
        return built


class _Scalar(_StandIn):
    __slots__ = ()

    def __call__(self, kind: Any, content: Any) -> Any:
        return _array(content, kind, (), "C").item()


class _Encode(_StandIn):
    """How Python 3 writes bytes into pickles of protocol 2 and below."""

    __slots__ = ()

    def __call__(self, text: Any, encoding: Any) -> bytes:
        if not isinstance(text, str) or encoding != "latin1":
            raise UnpicklingError("it holds bytes that are written in no known way")
        return text.encode("latin1")


STAND_INS = {
    ("_codecs", "encode"): _Encode,
    ("numpy", "ndarray"): lambda: NDARRAY,
    ("numpy", "dtype"): _NewType,
    **{(f"numpy.{module}.multiarray", "_reconstruct"): _Reconstruct for module in MODULES},
    **{(f"numpy.{module}.multiarray", "scalar"): _Scalar for module in MODULES},
    **{(f"numpy.{module}.numeric", "_frombuffer"): _FromBuffer for module in MODULES},
}


class ArrayUnpickler(PlainUnpickler):
    """A `PlainUnpickler` that also builds arrays of numbers."""

    expected = f"{PlainUnpickler.expected}, and arrays of numbers"

    def find_class(self, module_name: str, global_name: str) -> Any:
        stand_in = STAND_INS.get((module_name, global_name))
        return super().find_class(module_name, global_name) if stand_in is None else stand_in()

    def load(self) -> Any:
        return _with_arrays(super().load())


def read_array_pickle(path: Path) -> Any:
    """
    The content of a pickle of plain containers and NumPy's arrays of numbers, gzipped or not.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: for anything that is not such a pickle, or is too large when unpacked.
    """
    return read_plain_pickle(path, unpickler=ArrayUnpickler)


def _array(content: Any, kind: Any, shape: Any, order: Any) -> np.ndarray:
    if not isinstance(kind, _TypeOfNumbers) or not isinstance(content, bytes | bytearray) or order not in ("C", "F"):
        raise UnpicklingError("it holds an array that is no block of numbers")
    if any(not isinstance(size, int) or size < 0 for size in shape) or (
        math.prod(shape) * kind.dtype.itemsize != len(content)
    ):
        raise UnpicklingError(f"it holds an array of shape {shape} in {len(content)} bytes")
    return np.frombuffer(content, kind.dtype).reshape(shape, order=order)


def _with_arrays(content: Any) -> Any:
    """Arrays in the place of what stood in for them."""
    if isinstance(content, _ArrayOfPickle):
        return content.array
    if isinstance(content, dict):
        return {name: _with_arrays(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return type(content)(_with_arrays(value) for value in content)
    return content
