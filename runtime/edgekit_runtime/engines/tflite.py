"""TFLite models through LiteRT, or through its predecessor tflite-runtime."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit_runtime.engines.checks import check_inputs
from edgekit_runtime.errors import EnvironmentLackError, UnsupportedModelError
from edgekit_runtime.graph.tflite_bounds import check_tflite_bounds
from edgekit_runtime.installed import installed_version
from edgekit_runtime.session import RuntimeInfo
from edgekit_runtime.tensors import TensorQuantization, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class _Engine:
    name: str
    distribution: str
    module: str
    extra: str


_ENGINES = (
    _Engine(
        name="litert",
        distribution="ai-edge-litert",
        module="ai_edge_litert.interpreter",
        extra="tflite",
    ),
    _Engine(
        name="tflite-runtime",
        distribution="tflite-runtime",
        module="tflite_runtime.interpreter",
        extra="tflite-runtime",
    ),
)


class TfliteSession:
    """A model loaded into a TFLite interpreter on the CPU."""

    def __init__(
        self,
        model: Path,
        *,
        threads: int = 1,
        runtime: str | None = None,
        reference_kernels: bool = False,
    ) -> None:
        """Load `model`; see `edgekit_runtime.session.open_session` for the errors."""
        engine, module = _load_engine(runtime)
        self._where = str(model)
        # The engine trusts every offset in the file: a damaged one would end the process.
        check_tflite_bounds(model)
        options: dict[str, Any] = {"model_path": str(model), "num_threads": threads}
        if reference_kernels:
            options["experimental_op_resolver_type"] = module.OpResolverType.BUILTIN_REF
        try:
            self._interpreter: Any = module.Interpreter(**options)
            # Names that are no text come to light here, as a UnicodeDecodeError.
            self._input_details = self._interpreter.get_input_details()
            self._is_allocated = self._allocate_first()
            self._input_details = self._interpreter.get_input_details()
            self._output_details = self._interpreter.get_output_details()
        except (ValueError, RuntimeError) as error:
            raise UnsupportedModelError(
                f"{engine.name} refuses this model: {' '.join(str(error).split())}",
                where=self._where,
                fix="run `edgekit inspect` on it; if it is damaged, convert or copy it again",
            ) from error
        # Whether sizes of tensors are computed while the model runs; not known before the first
        # call. The plain kernels do not care.
        self._computes_sizes: bool | None = False if reference_kernels else None
        self.inputs = tuple(_spec(detail) for detail in self._input_details)
        self.outputs = tuple(_spec(detail) for detail in self._output_details)
        self.runtime = RuntimeInfo(
            name=engine.name,
            version=installed_version(engine.distribution),
            threads=threads,
        )

    def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
        """Run one inference, independent of those before; see `Session.run`."""
        import numpy as np

        check_inputs(self.inputs, inputs, where=self._where)
        try:
            self._resize(inputs)
            # LiteRT's own recurrent layers would go on from the last call's state.
            self._interpreter.reset_all_variables()
            for detail in self._input_details:
                # The engine knows int64 but not `longlong`, as which onnxruntime gives the same.
                array = np.asarray(inputs[detail["name"]], dtype=detail["dtype"])
                self._interpreter.set_tensor(detail["index"], array)
            planned = self._shapes() if self._computes_sizes is None else None
            self._interpreter.invoke()
            if planned is not None:
                self._computes_sizes = planned != self._shapes()
            return {detail["name"]: self._read(detail) for detail in self._output_details}
        except (ValueError, RuntimeError) as error:
            raise UnsupportedModelError(
                f"the engine failed while running the model: {' '.join(str(error).split())}",
                where=self._where,
            ) from error

    def prepare(self, inputs: Mapping[str, NDArray[np.generic]]) -> Callable[[], object]:
        """See `EngineSession.prepare`."""
        self.run(inputs)
        if self._computes_sizes:
            # Each call must plan anew; see `_forget_plan`.
            return partial(self.run, inputs)
        # The engine keeps its inputs' memory for them alone: they are there at every call.
        call: Callable[[], object] = self._interpreter.invoke
        return call

    def close(self) -> None:
        """Let go of the model."""
        self._interpreter = None

    def _read(self, detail: Mapping[str, Any]) -> NDArray[np.generic]:
        """A copy of an output, which outlives the next call."""
        try:
            array: NDArray[np.generic] = self._interpreter.get_tensor(detail["index"])
        except ValueError:
            # The engine cannot read a tensor of a computed size that turns out to be empty.
            import numpy as np

            shapes = {now["index"]: now["shape"] for now in self._interpreter.get_output_details()}
            if 0 not in shapes[detail["index"]]:
                raise
            array = np.zeros(shapes[detail["index"]], dtype=detail["dtype"])
        return array

    def _resize(self, inputs: Mapping[str, NDArray[np.generic]]) -> None:
        changed = not self._is_allocated
        for detail in self._input_details:
            shape = list(inputs[detail["name"]].shape)
            if list(detail["shape"]) != shape:
                self._interpreter.resize_tensor_input(detail["index"], shape)
                changed = True
        if self._computes_sizes and not changed:
            changed = self._forget_plan()
        if changed:
            self._interpreter.allocate_tensors()
            self._is_allocated = True
            self._input_details = self._interpreter.get_input_details()

    def _allocate_first(self) -> bool:
        """Allocate with the sizes in the file; those that stand for free ones need not work."""
        try:
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError):
            if not any(-1 in detail.get("shape_signature", ()) for detail in self._input_details):
                raise
            return False
        return True

    def _forget_plan(self) -> bool:
        """Let the engine prepare every operator anew; whether it can be made to.

        XNNPACK's parts of a model share their working memory. Where one of them needs more when
        sizes turn out larger than planned, others go on to use the memory from before, and give
        anything at the next call (measured with ai-edge-litert 2.3.0).
        """
        for detail in self._input_details:
            shape = list(detail["shape"])
            if shape:
                self._interpreter.resize_tensor_input(detail["index"], [shape[0] + 1, *shape[1:]])
                self._interpreter.resize_tensor_input(detail["index"], shape)
                return True
        return False

    def _shapes(self) -> list[list[int]]:
        return [detail["shape"].tolist() for detail in self._interpreter.get_tensor_details()]


def _load_engine(runtime: str | None) -> tuple[_Engine, Any]:
    wanted = [engine for engine in _ENGINES if runtime in (None, engine.name)]
    for engine in wanted:
        try:
            return engine, importlib.import_module(engine.module)
        except ModuleNotFoundError:
            continue
    raise EnvironmentLackError(
        f"running a .tflite model needs {' or '.join(e.distribution for e in wanted)}, "
        "which is not installed",
        where=f"extra {wanted[0].extra!r}",
        fix=f'pip install "edgekit[{wanted[0].extra}]"',
    )


def _spec(detail: Mapping[str, Any]) -> TensorSpec:
    import numpy as np

    signature = detail.get("shape_signature", detail["shape"])
    scale, zero_point = detail["quantization"]
    return TensorSpec(
        name=detail["name"],
        dtype=np.dtype(detail["dtype"]).name,
        shape=tuple(None if size < 0 else int(size) for size in signature),
        quantization=TensorQuantization(scale=float(scale), zero_point=int(zero_point))
        if scale
        else None,
    )
