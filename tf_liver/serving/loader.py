"""A SavedModel through TensorFlow's C++ loader, the one that TF Serving uses, by TensorFlow's C API.

Nothing of TensorFlow's Python is imported: what answers here is `LoadSavedModel` (tensorflow/cc/saved_model/loader.cc)
and a session, with the graph's own optimiser, on whatever device TensorFlow finds.
"""

import ctypes
import importlib.util
import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

# TF_DataType of tensorflow/c/tf_datatype.h; 7 is a string.
_TYPES: dict[np.dtype[Any], int] = {np.dtype(np.float32): 1, np.dtype(np.uint8): 4, np.dtype(np.int16): 5}
_DTYPES: dict[int, np.dtype[Any]] = {number: dtype for dtype, number in _TYPES.items()}
_STRING, _STRING_BYTES = 7, 24  # sizeof(TF_TString)

# {signature: {"inputs" or "outputs": {name: tensor name in the graph}}}
Signatures = Mapping[str, Mapping[str, Mapping[str, str]]]
Array = np.ndarray | list[bytes]


class _Buffer(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("length", ctypes.c_size_t), ("deallocator", ctypes.c_void_p))


class _Output(ctypes.Structure):
    _fields_ = (("operation", ctypes.c_void_p), ("index", ctypes.c_int))


class ServingError(RuntimeError):
    """An error of the C++ runtime; `code` is TensorFlow's and gRPC's number for its kind."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@cache
def _library() -> Any:
    """Return TensorFlow's C API, from the libraries in its wheel."""
    spec = importlib.util.find_spec("tensorflow")
    assert spec is not None
    folder = next(iter(spec.submodule_search_locations or ()))
    for name in ("libtensorflow_framework.so.2", "libtensorflow_cc.so.2"):
        library = ctypes.CDLL(f"{folder}/{name}", mode=ctypes.RTLD_GLOBAL)
    pointers = "NewStatus NewGraph NewSessionOptions LoadSessionFromSavedModel GraphOperationByName AllocateTensor"
    for name in [*pointers.split(), "TensorData", "StringGetDataPointer"]:
        getattr(library, f"TF_{name}").restype = ctypes.c_void_p
    for name in ("TensorByteSize", "StringGetSize"):
        getattr(library, f"TF_{name}").restype = ctypes.c_size_t
    library.TF_Message.restype = ctypes.c_char_p
    library.TF_Dim.restype = ctypes.c_int64
    return library


class LoadedModel:
    """A SavedModel in the C++ runtime.

    Raises:
        ServingError: a folder that the loader refuses, because of missing variables for instance.
    """

    def __init__(self, folder: Path, signatures: Signatures) -> None:
        self._signatures, self._tf = signatures, _library()
        self._graph = ctypes.c_void_p(self._tf.TF_NewGraph())
        options = ctypes.c_void_p(self._tf.TF_NewSessionOptions())
        tags = (ctypes.c_char_p * 1)(b"serve")
        self._session = ctypes.c_void_p(
            self._checked("LoadSessionFromSavedModel", options, None, os.fsencode(folder), tags, 1, self._graph, None)
        )
        self._tf.TF_DeleteSessionOptions(options)

    def run(self, signature: str, inputs: Mapping[str, Array], only: Sequence[str] = ()) -> dict[str, Array]:
        """Return the outputs of a signature, or those named in `only`; strings are lists of bytes.

        Raises:
            KeyError: no such signature, input or output.
            ServingError: what the graph says to the inputs.
        """
        names = self._signatures[signature]
        wanted = only or sorted(names["outputs"])
        feeds = self._places([names["inputs"][name] for name in inputs])
        fetches = self._places([names["outputs"][name] for name in wanted])
        tensors = (ctypes.c_void_p * len(inputs))(*(self._tensor(value) for value in inputs.values()))
        results = (ctypes.c_void_p * len(wanted))()
        try:
            self._checked(
                *("SessionRun", self._session, None, feeds, tensors, len(inputs)),
                *(fetches, results, len(wanted), None, 0, None),
            )
            return {name: self._array(ctypes.c_void_p(r)) for name, r in zip(wanted, results, strict=True)}
        finally:
            for pointer in (*tensors, *results):
                if pointer:
                    self._tf.TF_DeleteTensor(ctypes.c_void_p(pointer))

    def close(self) -> None:
        """Give the model's memory back."""
        for what in ("CloseSession", "DeleteSession"):
            self._checked(what, self._session)
        self._tf.TF_DeleteGraph(self._graph)

    def _checked(self, function: str, *arguments: Any) -> Any:
        """Call a function of the C API with a status, and raise what the status says."""
        status = ctypes.c_void_p(self._tf.TF_NewStatus())
        try:
            result = getattr(self._tf, f"TF_{function}")(*arguments, status)
            if code := self._tf.TF_GetCode(status):
                raise ServingError(self._tf.TF_Message(status).decode(errors="replace"), code)
            return result
        finally:
            self._tf.TF_DeleteStatus(status)

    def _places(self, names: Sequence[str]) -> Any:
        places = (_Output * len(names))()
        for place, name in zip(places, names, strict=True):
            operation, _, index = name.partition(":")
            place.operation = self._tf.TF_GraphOperationByName(self._graph, operation.encode())
            place.index = int(index)
        return places

    def _tensor(self, value: Array) -> int:
        """Return a new tensor with a value's contents."""
        if isinstance(value, np.ndarray):
            tensor, data = self._allocate(_TYPES[value.dtype], value.shape, value.nbytes)
            ctypes.memmove(data, np.ascontiguousarray(value).ctypes.data, value.nbytes)
            return tensor
        tensor, data = self._allocate(_STRING, (len(value),), len(value) * _STRING_BYTES)
        for n, text in enumerate(value):
            place = ctypes.c_void_p(data + n * _STRING_BYTES)
            self._tf.TF_StringInit(place)
            self._tf.TF_StringCopy(place, text, ctypes.c_size_t(len(text)))
        return tensor

    def _allocate(self, kind: int, shape: tuple[int, ...], size: int) -> tuple[int, int]:
        """Return a new tensor and where its data lie."""
        dimensions = (ctypes.c_int64 * len(shape))(*shape)
        tensor = self._tf.TF_AllocateTensor(kind, dimensions, len(shape), ctypes.c_size_t(size))
        return tensor, self._tf.TF_TensorData(ctypes.c_void_p(tensor))

    def _array(self, tensor: ctypes.c_void_p) -> Array:
        """Return a copy of a tensor."""
        shape = [self._tf.TF_Dim(tensor, n) for n in range(self._tf.TF_NumDims(tensor))]
        data, kind = self._tf.TF_TensorData(tensor), self._tf.TF_TensorType(tensor)
        if kind == _STRING:
            places = [ctypes.c_void_p(data + n * _STRING_BYTES) for n in range(shape[0])]
            return [
                ctypes.string_at(self._tf.TF_StringGetDataPointer(place), self._tf.TF_StringGetSize(place))
                for place in places
            ]
        text = ctypes.string_at(data, self._tf.TF_TensorByteSize(tensor)) if data else b""
        return np.frombuffer(text, _DTYPES[kind]).reshape(shape)
