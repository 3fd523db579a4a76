"""Put a random model through the converter and LiteRT, and say what came of it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from converters.random_graphs.draft import WORLDS, Draft
from converters.random_graphs.engines import run_onnxruntime, run_reference
from edgekit_converters.litert.compile import CompiledModel, compile_to_litert
from edgekit_converters.litert.layout import BorderLayout
from edgekit_converters.normalise import normalise
from edgekit_runtime.errors import EdgekitError, UnsupportedModelError
from edgekit_runtime.session import Session, open_session

PASSED: Final = "passed"
REFUSED: Final = "refused"
INVALID: Final = "invalid"
DISPUTED: Final = "disputed"
SENSITIVE: Final = "sensitive"
UNLOADABLE: Final = "unloadable"
WRONG: Final = "wrong"
BROKEN: Final = "broken"
FAULTS: Final = frozenset({UNLOADABLE, WRONG, BROKEN})

Array = NDArray[Any]
_TOLERANCE: Final = 1e-4
_HALF_TOLERANCE: Final = 5e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of a model.

    Attributes:
        outcome: "passed"; "refused" by name; "invalid" for ONNX itself; "disputed", where
            onnxruntime and ONNX's reference differ; "sensitive", where a millionth more or less
            in the inputs changes as much; and what must not be: "unloadable", "wrong", "broken".
        reason: Why, where it did not pass.
        compiled: What was made of it.
    """

    outcome: str
    reason: str = ""
    compiled: CompiledModel | None = None


def judge(draft: Draft, *, layout: BorderLayout = BorderLayout.KEEP) -> Verdict:
    """Convert a draft's model, and run it in all worlds."""
    try:
        model = draft.model()
    except Exception as error:  # noqa: BLE001 - whatever it is, the model is not one
        return Verdict(outcome=INVALID, reason=_line(error))
    try:
        compiled = compile_to_litert(
            normalise(model, where="random"), where="random", layout=layout
        )
    except UnsupportedModelError as error:
        return _refused(draft, model, error)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
        return Verdict(outcome=BROKEN, reason=_line(error))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.tflite"
        path.write_bytes(compiled.content)
        try:
            session = open_session(path)
            try:
                fault = _run(draft, session, compiled)
            finally:
                session.close()
        except EdgekitError as error:
            return Verdict(outcome=UNLOADABLE, reason=error.what, compiled=compiled)
    if not fault:
        return Verdict(outcome=PASSED, compiled=compiled)
    outcome = WRONG
    if _is_sensitive(draft, model):
        outcome = SENSITIVE
    elif _is_disputed(draft, model):
        outcome = DISPUTED
    return Verdict(outcome=outcome, reason=fault, compiled=compiled)


def as_text(draft: Draft) -> str:
    """A draft's model as a person reads it, with all shapes."""
    try:
        model = draft.model()
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # noqa: BLE001 - it is shown as far as it goes
        return "\n".join(onnx.printer.to_text(node) for node in draft.nodes)
    return str(onnx.printer.to_text(model))


def _refused(draft: Draft, model: Any, error: UnsupportedModelError) -> Verdict:
    """Refusals that blame the model are only right where ONNX's inference says so too."""
    if "contradict each other" in error.what:
        try:
            onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        except Exception:  # noqa: BLE001 - it is not for us to say what is wrong
            return Verdict(outcome=INVALID, reason=error.what)
        return Verdict(outcome=BROKEN, reason=error.what)
    return Verdict(outcome=REFUSED, reason=error.what)


def _run(draft: Draft, session: Session, compiled: CompiledModel) -> str:
    """What is wrong with the outputs, "" for nothing; the first world comes twice."""
    for world in (*range(WORLDS), 0):
        feeds = {
            name: _reordered(name, array, compiled) for name, array in draft.feeds(world).items()
        }
        computed = session.run(feeds)
        if list(computed) != draft.outputs:
            return f"its outputs are {list(computed)}, not {draft.outputs}"
        for name, expected in draft.expected(world).items():
            fault = compare(_reordered(name, expected, compiled), computed[name], _tolerance(draft))
            if fault:
                return f"{name}: {fault}"
    return ""


def _reordered(name: str, array: Array, compiled: CompiledModel) -> Array:
    order = compiled.borders.get(name)
    return array if order is None else np.ascontiguousarray(array.transpose(order))


def compare(expected: Array, computed: Array, tolerance: float) -> str:
    """How a result differs, "" if it does not."""
    if (expected.dtype, expected.shape) != (computed.dtype, computed.shape):
        return f"{computed.dtype}{computed.shape} instead of {expected.dtype}{expected.shape}"
    if not expected.size:
        return ""
    if expected.dtype.kind not in "f":
        share = float(np.mean(expected != computed))
        return f"{share:.1%} of its elements differ" if share else ""
    wide, other = expected.astype(np.float64), computed.astype(np.float64)
    error = float(np.abs(wide - other).max()) / max(float(np.abs(wide).max()), 1e-3)
    return "" if error <= tolerance else f"it is off by {error:.2e}"


def _tolerance(draft: Draft) -> float:
    halves = any(draft.dtype(name) == "float16" for name in draft.values)
    return _HALF_TOLERANCE if halves else _TOLERANCE


def _is_disputed(draft: Draft, model: Any) -> bool:
    """Whether the reference contradicts the draft's values, and so onnxruntime."""
    try:
        return any(
            compare(expected, other, _tolerance(draft))
            for world in range(WORLDS)
            for expected, other in zip(
                draft.expected(world).values(),
                run_reference(model, draft.feeds(world)),
                strict=True,
            )
        )
    except Exception:  # noqa: BLE001 - the reference lacks something: no second opinion
        return False


def _is_sensitive(draft: Draft, model: Any) -> bool:
    """Whether inputs that differ by a millionth give outputs that differ almost as much."""
    rng = np.random.default_rng(0)

    def shaken(array: Array) -> Array:
        if array.dtype.kind != "f":
            return array
        return np.asarray(array * (1 + 1e-6 * rng.normal(size=array.shape))).astype(array.dtype)

    other = type(model)()
    other.CopyFrom(model)
    for tensor in other.graph.initializer:
        array = shaken(numpy_helper.to_array(tensor))
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    try:
        for world in (*range(WORLDS),) * 3:
            feeds = {name: shaken(array) for name, array in draft.feeds(world).items()}
            others = run_onnxruntime(other, feeds)
            for expected, array in zip(draft.expected(world).values(), others, strict=True):
                if compare(expected, array, _tolerance(draft) / 5):
                    return True
    except Exception:  # noqa: BLE001 - onnxruntime does not take the model as a whole
        return False
    return False


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
