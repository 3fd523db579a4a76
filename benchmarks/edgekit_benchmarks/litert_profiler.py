"""LiteRT's own profiler, which its Python package carries without a door to it.

The package's `libLiteRt.so` exports LiteRT's C interface (litert/c/*.h in google-ai-edge/LiteRT),
profiler included; `ctypes` opens it. Structures and arguments are those of versions 2.1.5 to 2.3.
XNNPACK reports its operators one by one, under the names that it gives them after fusing. Times
are whole microseconds, cut off.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgekit_runtime.errors import EnvironmentLackError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_DISTRIBUTION: Final = "ai-edge-litert"
# The first and, excluded, the last version whose interface is the one below.
_SINCE: Final = (2, 1, 5)
_UNTIL: Final = (2, 4)
_WARM_UP: Final = 3
_RUNS: Final = 20
_CPU: Final = 1
_WRITE: Final = 1
# An operator of the interpreter; an operator inside a delegate that reports its own.
_OPERATOR_EVENTS: Final = frozenset({2, 8})
_MAIN_SUBGRAPH: Final = 0
_MOST_AXES: Final = 8

_Handle = ctypes.c_void_p
_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _MemoryUsage(ctypes.Structure):
    _fields_ = (
        ("total_bytes", ctypes.c_size_t),
        ("in_use_bytes", ctypes.c_size_t),
        ("private_bytes", ctypes.c_size_t),
    )


class _Event(ctypes.Structure):
    """`ProfiledEventData` of litert_profiler_event.h."""

    _fields_ = (
        ("tag", ctypes.c_char_p),
        ("type", ctypes.c_int),
        ("start_us", ctypes.c_uint64),
        ("elapsed_us", ctypes.c_uint64),
        ("memory_before", _MemoryUsage),
        ("memory_after", _MemoryUsage),
        ("operator", ctypes.c_uint64),
        ("subgraph", ctypes.c_uint64),
        ("source", ctypes.c_int),
    )


class _Layout(ctypes.Structure):
    """`LiteRtLayout` of litert_layout.h."""

    _fields_ = (
        ("rank", ctypes.c_uint, 7),
        ("has_strides", ctypes.c_uint, 1),
        ("sizes", ctypes.c_int32 * _MOST_AXES),
        ("strides", ctypes.c_uint32 * _MOST_AXES),
    )


class _TensorType(ctypes.Structure):
    """`LiteRtRankedTensorType` of litert_model_types.h."""

    _fields_ = (("element", ctypes.c_int), ("layout", _Layout))


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorEvent:
    """One operator in one inference, as the profiler saw it."""

    type: str
    microseconds: float


def profile_litert(
    model: Path,
    inputs: Mapping[str, NDArray[np.generic]],
    *,
    threads: int,
    reference_kernels: bool,
) -> list[OperatorEvent]:
    """The operators of a `.tflite` file in order, each with the mean of its middle half of times.

    Args:
        model: The file.
        inputs: By the tensors' names.
        threads: How many one inference may use.
        reference_kernels: Use the plain kernels instead of XNNPACK.

    Raises:
        EnvironmentLackError: If this LiteRT has no profiler that is known here, or its profiler
            does not take the model.
    """
    profiled = _Profiled(model, inputs, threads=threads, reference_kernels=reference_kernels)
    for _ in range(_WARM_UP):
        profiled.run()
    return summarize([profiled.run_profiled() for _ in range(_RUNS)])


def summarize(inferences: Sequence[Sequence[OperatorEvent]]) -> list[OperatorEvent]:
    """Every operator once, with the mean of the middle half of its times.

    Not the median: most times are a few whole microseconds.
    """
    times: defaultdict[tuple[int, str], list[float]] = defaultdict(list)
    for inference in inferences:
        for position, event in enumerate(inference):
            times[position, event.type].append(event.microseconds)
    found = []
    for (_, kind), values in times.items():
        quarter = len(values) // 4
        middle = sorted(values)[quarter : len(values) - quarter]
        found.append(OperatorEvent(type=kind, microseconds=sum(middle) / len(middle)))
    return found


class _Profiled:
    """A compiled model with its profiler; lives as long as its process."""

    def __init__(
        self,
        model: Path,
        inputs: Mapping[str, NDArray[np.generic]],
        *,
        threads: int,
        reference_kernels: bool,
    ) -> None:
        self._library = ctypes.CDLL(str(_find_library()))
        self._where = str(model)
        # What the library goes on to read must not be collected.
        self._kept: list[object] = []
        self._environment = self._make("LiteRtCreateEnvironment", 0, None)
        self._model = self._make(
            "LiteRtCreateModelFromFile", self._environment, str(model).encode()
        )
        options = self._make("LiteRtCreateOptions")
        self._call("LiteRtSetOptionsHardwareAccelerators", options, _CPU)
        kernels = "reference" if reference_kernels else "xnnpack"
        self._add(options, b"runtime_options_string", "enable_profiling = true\n")
        self._add(options, b"xnnpack", f'kernel_mode = "{kernels}"\nnum_threads = {threads}\n')
        self._compiled = self._make(
            "LiteRtCreateCompiledModel", self._environment, self._model, options
        )
        self._signature = self._make("LiteRtGetModelSignature", self._model, ctypes.c_size_t(0))
        self._profiler = self._make("LiteRtCompiledModelGetProfiler", self._compiled)
        self._inputs = self._feed(inputs)
        self._outputs = self._make_outputs()

    def run(self) -> None:
        """Run one inference."""
        self._call(
            "LiteRtRunCompiledModel",
            self._compiled,
            ctypes.c_size_t(0),
            ctypes.c_size_t(len(self._inputs)),
            self._inputs,
            ctypes.c_size_t(len(self._outputs)),
            self._outputs,
        )

    def run_profiled(self) -> list[OperatorEvent]:
        """Run one inference and say what its operators took."""
        self._call("LiteRtResetProfiler", self._profiler)
        self._call("LiteRtStartProfiler", self._profiler)
        self.run()
        self._call("LiteRtStopProfiler", self._profiler)
        count = ctypes.c_int()
        self._call("LiteRtGetNumProfilerEvents", self._profiler, ctypes.byref(count))
        events = (_Event * count.value)()
        self._call("LiteRtGetProfilerEvents", self._profiler, count, events)
        return [
            OperatorEvent(
                type=event.tag.decode("utf-8", errors="replace"),
                microseconds=float(event.elapsed_us),
            )
            for event in events
            # Those inside a loop's or a branch's subgraph count as the loop's.
            if event.type in _OPERATOR_EVENTS and event.subgraph == _MAIN_SUBGRAPH
        ]

    def _feed(self, inputs: Mapping[str, NDArray[np.generic]]) -> ctypes.Array[_Handle]:
        """Buffers of the inputs' sizes with their values."""
        import numpy as np

        tensors = self._tensors("Input")
        arrays = []
        for position, tensor in enumerate(tensors):
            name = ctypes.c_char_p()
            self._call("LiteRtGetTensorName", tensor, ctypes.byref(name))
            array = np.ascontiguousarray(inputs[(name.value or b"").decode()])
            arrays.append(array)
            if list(array.shape) != _sizes(self._type_of(tensor).layout):
                self._call(
                    "LiteRtCompiledModelResizeInputTensorNonStrict",
                    self._compiled,
                    ctypes.c_size_t(0),
                    ctypes.c_size_t(position),
                    (ctypes.c_int * array.ndim)(*array.shape),
                    ctypes.c_size_t(array.ndim),
                )
        buffers = (_Handle * len(tensors))()
        for position, (tensor, array) in enumerate(zip(tensors, arrays, strict=True)):
            kind = self._type_of(tensor)
            kind.layout.sizes[: array.ndim] = array.shape
            buffer = self._buffer("Input", position, kind)
            address = self._make("LiteRtLockTensorBuffer", buffer, after=(_WRITE,))
            ctypes.memmove(address, array.ctypes.data, array.nbytes)
            self._call("LiteRtUnlockTensorBuffer", buffer)
            buffers[position] = buffer
        return buffers

    def _make_outputs(self) -> ctypes.Array[_Handle]:
        tensors = self._tensors("Output")
        layouts = (_Layout * len(tensors))()
        self._call(
            "LiteRtGetCompiledModelOutputTensorLayouts",
            self._compiled,
            ctypes.c_size_t(0),
            ctypes.c_size_t(len(tensors)),
            layouts,
            ctypes.c_bool(True),  # noqa: FBT003 - C has no names for arguments
        )
        buffers = (_Handle * len(tensors))()
        for position, (tensor, layout) in enumerate(zip(tensors, layouts, strict=True)):
            kind = self._type_of(tensor)
            kind.layout = layout
            buffers[position] = self._buffer("Output", position, kind)
        return buffers

    def _tensors(self, kind: str) -> list[_Handle]:
        count = ctypes.c_size_t()
        self._call(f"LiteRtGetNumSignature{kind}s", self._signature, ctypes.byref(count))
        function = f"LiteRtGetSignature{kind}TensorByIndex"
        return [
            self._make(function, self._signature, ctypes.c_size_t(position))
            for position in range(count.value)
        ]

    def _type_of(self, tensor: _Handle) -> _TensorType:
        kind = _TensorType()
        self._call("LiteRtGetRankedTensorType", tensor, ctypes.byref(kind))
        return kind

    def _buffer(self, side: str, position: int, kind: _TensorType) -> _Handle:
        needs = self._make(
            f"LiteRtGetCompiledModel{side}BufferRequirements",
            self._compiled,
            ctypes.c_size_t(0),
            ctypes.c_size_t(position),
        )
        return self._make(
            "LiteRtCreateManagedTensorBufferFromRequirements",
            self._environment,
            ctypes.byref(kind),
            needs,
        )

    def _add(self, options: _Handle, name: bytes, text: str) -> None:
        payload = ctypes.create_string_buffer(text.encode())
        deleter = _Deleter(_keep)
        self._kept += [payload, deleter]
        opaque = self._make(
            "LiteRtCreateOpaqueOptions", name, ctypes.cast(payload, ctypes.c_void_p), deleter
        )
        self._call("LiteRtAddOpaqueOptions", options, opaque)

    def _make(self, function: str, *arguments: object, after: Sequence[object] = ()) -> _Handle:
        """Call a function that answers through a pointer, its last argument but for `after`."""
        handle = _Handle()
        self._call(function, *arguments, ctypes.byref(handle), *after)
        return handle

    def _call(self, function: str, *arguments: object) -> None:
        try:
            status: int = getattr(self._library, function)(*arguments)
        except AttributeError as error:
            raise _unknown_version(function) from error
        if status:
            raise EnvironmentLackError(
                f"LiteRT's profiler does not take this model ({function} answers {status})",
                where=self._where,
            )


def _find_library() -> Path:
    try:
        version = importlib.metadata.version(_DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        raise EnvironmentLackError(
            "the times of a .tflite model's operators need ai-edge-litert, which is not installed",
            fix='pip install "edgekit[tflite]"',
        ) from None
    numbers = tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
    if not _SINCE <= numbers < _UNTIL or not sys.platform.startswith("linux"):
        raise _unknown_version(version)
    found = importlib.util.find_spec("ai_edge_litert")
    folder = Path(found.submodule_search_locations[0] if found and found.submodule_search_locations
                  else ".")  # fmt: skip
    library = folder / "libLiteRt.so"
    if not library.exists():
        raise _unknown_version(version)
    return library


def _unknown_version(what: str) -> EnvironmentLackError:
    return EnvironmentLackError(
        f"the profiler of this ai-edge-litert is not one that edgekit knows ({what})",
        fix="on Linux, install ai-edge-litert 2.3",
    )


def _sizes(layout: _Layout) -> list[int]:
    return list(layout.sizes[: layout.rank])


def _keep(_payload: int | None) -> None:
    """Free nothing: Python owns the text."""
