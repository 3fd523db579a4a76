"""Put one conformance case through the converter and LiteRT, and say what came of it."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, numpy_helper

from converters.conformance.cases import Case
from edgekit_converters.litert.compile import compile_to_litert
from edgekit_converters.normalise import normalise
from edgekit_runtime.errors import EdgekitError, UnsupportedModelError
from edgekit_runtime.session import open_session

PASSED = "passed"
REFUSED = "refused"
UNLOADABLE = "unloadable"
WRONG = "wrong"
BROKEN = "broken"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of a case.

    Attributes:
        case: Its name.
        operator: What it is about.
        outcome: "passed"; "refused", before a file exists; "unloadable", the runtime refuses or
            fails on the file; "wrong", beyond the case's tolerance; "broken", the converter
            failed in a way that it should not.
        reason: Why, where it did not pass.
    """

    case: str
    operator: str
    outcome: str
    reason: str = ""

    def to_json(self) -> dict[str, str]:
        """As plain data."""
        return asdict(self)


def judge(case: Case) -> Verdict:
    """Convert a case's model and run it on each of its data sets."""
    outcome, reason = _outcome(case)
    return Verdict(case=case.name, operator=case.operator, outcome=outcome, reason=reason)


def _outcome(case: Case) -> tuple[str, str]:
    try:
        content = compile_to_litert(normalise(case.model, where=case.name), where=case.name).content
    except UnsupportedModelError as error:
        return REFUSED, error.what
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
        return BROKEN, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.tflite"
        path.write_bytes(content)
        try:
            return _run(case, path)
        except EdgekitError as error:
            return UNLOADABLE, error.what


def _run(case: Case, path: Path) -> tuple[str, str]:
    session = open_session(path)
    try:
        for given, wanted in case.data_sets:
            fault = _run_set(case, session, given, wanted)
            if fault:
                return WRONG, fault
    finally:
        session.close()
    return PASSED, ""


def _run_set(case: Case, session: Any, given: tuple[Any, ...], wanted: tuple[Any, ...]) -> str:
    stored = {tensor.name for tensor in case.model.graph.initializer}
    names = [value.name for value in case.model.graph.input if value.name not in stored]
    arrays = dict(zip(names, (_array(item) for item in given), strict=False))
    taken = [spec.name for spec in session.inputs]
    if taken != names:
        return f"its inputs are {taken}, not {names}"
    computed = session.run(arrays)
    outputs = [value.name for value in case.model.graph.output]
    if list(computed) != outputs:
        return f"its outputs are {list(computed)}, not {outputs}"
    for name, expected in zip(outputs, wanted, strict=True):
        fault = _compare(_array(expected), computed[name], case)
        if fault:
            return f"{name}: {fault}"
    return ""


def _array(item: Any) -> Any:
    """What a case gives, as an array: some give ONNX's own tensors."""
    return numpy_helper.to_array(item) if isinstance(item, TensorProto) else np.asarray(item)


def _compare(expected: Any, computed: Any, case: Case) -> str:
    if expected.dtype != computed.dtype:
        return f"{computed.dtype} instead of {expected.dtype}"
    if expected.shape != computed.shape:
        return f"shape {computed.shape} instead of {expected.shape}"
    try:
        # As onnx.backend.test.runner judges its backends.
        np.testing.assert_allclose(
            expected.astype(np.float32) if expected.dtype == np.float16 else expected,
            computed.astype(np.float32) if computed.dtype == np.float16 else computed,
            rtol=case.rtol,
            atol=case.atol,
        )
    except AssertionError as error:
        return " ".join(str(error).split())[:300]
    return ""
