"""A scikit-learn estimator or pipeline, said in ONNX by skl2onnx, compared with its own predict."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit_converters.onnx_graphs import STANDARD_DOMAINS
from edgekit_converters.sources.decision import Decision
from edgekit_converters.sources.imported import (
    ImportedModel,
    Progress,
    ReferenceSession,
    specs_of,
)
from edgekit_converters.sources.options import SourceOptions
from edgekit_converters.sources.quiet import one_line, quiet
from edgekit_runtime.arrays import read_arrays
from edgekit_runtime.errors import EnvironmentLackError, UnsupportedModelError, UsageError
from edgekit_runtime.extras import require
from edgekit_runtime.session import RuntimeInfo

if TYPE_CHECKING:
    from numpy.typing import NDArray

INPUT: Final = "features"
_OPSET: Final = 18
_ML_OPSET: Final = 3
_IR_VERSION: Final = 8
_MATRIX: Final = 2
_BINARY: Final = 2


def import_estimator(
    estimator: Any,
    options: SourceOptions,
    *,
    where: str,
    progress: Progress,
    warnings: Sequence[str] = (),
) -> ImportedModel:
    """Say a fitted estimator in ONNX.

    The input is one float32 matrix `features`; with `--example`, one input an array, by its name:
    the columns of a data frame, for example.

    Args:
        estimator: What was loaded.
        options: Shapes or examples, where the estimator does not know its columns.
        where: The source, for errors.
        progress: Told each step.
        warnings: What is already known to be doubtful.

    Raises:
        UsageError: If its inputs are not known, or what is given does not fit.
        UnsupportedModelError: If it is not fitted, or part of it has no ONNX form.
        EnvironmentLackError: If the extra `sklearn` is not installed.
    """
    sklearn: Any = require("sklearn", extra="sklearn")
    skl2onnx: Any = require("skl2onnx", extra="sklearn")
    types = _input_types(estimator, options, where)
    progress("exporting to ONNX with skl2onnx")
    try:
        with quiet(), _plain_attributes():
            model = skl2onnx.convert_sklearn(
                estimator,
                initial_types=types,
                target_opset={"": _OPSET, "ai.onnx.ml": _ML_OPSET},
            )
    except Exception as error:
        raise UnsupportedModelError(
            f"skl2onnx cannot say this estimator in ONNX: {one_line(error, limit=500)}",
            where=where,
            fix="replace the part that it names, or leave that part to the program that uses the "
            "model: https://onnx.ai/sklearn-onnx/supported.html lists what it knows",
        ) from error
    _without_zip_maps(model)
    _name_outputs(model, estimator)
    _with_current_versions(model)
    inputs, outputs = specs_of(model)
    return ImportedModel(
        model=model,
        reference=ReferenceSession(
            inputs=inputs,
            outputs=outputs,
            runtime=RuntimeInfo(name="scikit-learn", version=str(sklearn.__version__), threads=1),
            predict=_predictor(estimator, [spec.name for spec in inputs], outputs, where),
            where=where,
        ),
        exporter=f"skl2onnx {skl2onnx.__version__}",
        decision=_decision(estimator, [spec.name for spec in outputs]),
        warnings=tuple(warnings),
    )


def _input_types(estimator: Any, options: SourceOptions, where: str) -> list[tuple[str, Any]]:
    data_types: Any = require("skl2onnx.common.data_types", extra="sklearn")
    by_kind = {
        "float32": data_types.FloatTensorType,
        "float64": data_types.DoubleTensorType,
        "int64": data_types.Int64TensorType,
        "int32": data_types.Int32TensorType,
        "bool": data_types.BooleanTensorType,
        "str": data_types.StringTensorType,
    }
    if options.example is not None:
        arrays = read_arrays(options.example, kind="examples")
        given = [
            (name or INPUT, array.shape[1:] or (1,), _kind(array)) for name, array in arrays.items()
        ]
    elif options.shapes:
        given = [(shape.name or INPUT, shape.sizes[1:], shape.dtype) for shape in options.shapes]
    else:
        columns = getattr(estimator, "n_features_in_", None)
        if columns is None:
            raise UsageError(
                "this estimator does not know how many columns it takes",
                where=where,
                fix="fit it with a current scikit-learn, or give --input-shape features:1,COLUMNS",
            )
        given = [(INPUT, (int(columns),), "float32")]
    strange = [f"{name} is {kind}" for name, _, kind in given if kind not in by_kind]
    if strange:
        raise UsageError(
            f"these types of inputs are not known here: {', '.join(strange)}",
            where=where,
            fix=f"known are {', '.join(by_kind)}",
        )
    return [(name, by_kind[kind]([None, *sizes])) for name, sizes, kind in given]


def _kind(array: NDArray[Any]) -> str:
    return "str" if array.dtype.kind in "US" else array.dtype.name


def _predictor(
    estimator: Any, inputs: Sequence[str], outputs: Sequence[Any], where: str
) -> Callable[[Mapping[str, NDArray[Any]]], list[Any]]:
    """The estimator's own functions that give what the ONNX form gives."""

    def predict(arrays: Mapping[str, NDArray[Any]]) -> list[Any]:
        given = rows_of(arrays, inputs, where)
        with quiet():
            if not hasattr(estimator, "predict"):
                return [_dense(estimator.transform(given))]
            first = np.asarray(estimator.predict(given))
            if len(outputs) == 1:
                return [first]
            return [first, *(_scores(estimator, given, spec) for spec in outputs[1:])]

    names = {spec.name for spec in outputs}
    if len(names) > _MATRIX:
        raise UnsupportedModelError(
            f"its ONNX form has more outputs than its own functions give: {', '.join(names)}",
            where=where,
            fix="convert its parts one by one",
        )
    return predict


def rows_of(arrays: Mapping[str, NDArray[Any]], names: Sequence[str], where: str) -> Any:
    """Inputs as an estimator takes them: one matrix, or the columns of a data frame."""
    if len(names) == 1:
        return arrays[names[0]]
    return _pandas(where).DataFrame({name: arrays[name].reshape(-1) for name in names})


def _pandas(where: str) -> Any:
    try:
        return importlib.import_module("pandas")
    except ModuleNotFoundError as error:
        raise EnvironmentLackError(
            "an estimator with several inputs takes a data frame, and pandas is not installed",
            where=where,
            fix="pip install pandas",
        ) from error


def _dense(value: Any) -> Any:
    return value.toarray() if hasattr(value, "toarray") else value


def _scores(estimator: Any, rows: Any, spec: Any) -> Any:
    """The scores beside a label: probabilities, decision values or distances."""
    if hasattr(estimator, "predict_proba"):
        return estimator.predict_proba(rows)
    if hasattr(estimator, "decision_function"):
        values = np.asarray(estimator.decision_function(rows))
        # A decision between two is one number; its ONNX form has one column a class.
        columns = spec.shape[-1] if len(spec.shape) == _MATRIX else 1
        pair = values.ndim == 1 and columns == _BINARY
        return np.stack([-values, values], axis=1) if pair else values
    return _dense(estimator.transform(rows))


def _decision(estimator: Any, outputs: Sequence[str]) -> Decision | None:
    if len(outputs) != _BINARY:
        return None
    classes = getattr(estimator, "classes_", None)
    if classes is None and getattr(estimator, "_estimator_type", "") == "outlier_detector":
        classes = np.array([-1, 1])
    if classes is None and hasattr(estimator, "fit_predict") and hasattr(estimator, "offset_"):
        classes = np.array([-1, 1])
    if not isinstance(classes, np.ndarray) or classes.ndim != 1:
        return None
    names = [name.item() if isinstance(name, np.generic) else name for name in classes]
    if not all(isinstance(name, int | str) for name in names):
        return None
    return Decision(
        label=outputs[0],
        scores=outputs[1],
        classes=tuple(int(name) if isinstance(name, bool) else name for name in names),
    )


def _name_outputs(model: Any, estimator: Any) -> None:
    """Call the outputs what they are, and put a decision between two into the classes' order."""
    outputs = model.graph.output
    if len(outputs) == _BINARY and hasattr(estimator, "predict"):
        _rename_output(model.graph, outputs[0], "label")
        proba = hasattr(estimator, "predict_proba")
        _rename_output(model.graph, outputs[1], "probabilities" if proba else "scores")
        last = estimator[-1] if hasattr(estimator, "steps") else estimator
        if type(last).__name__ in {"SVC", "NuSVC"} and not proba and len(last.classes_) == _BINARY:
            _negate_output(model.graph, outputs[1])
    elif len(outputs) == 1:
        named = "prediction" if hasattr(estimator, "predict") else "transformed"
        _rename_output(model.graph, outputs[0], named)


def _rename_output(graph: Any, output: Any, name: str) -> None:
    old = output.name
    if old == name:
        return
    for node in graph.node:
        for names in (node.input, node.output):
            for place, item in enumerate(names):
                if item in {old, name}:
                    # What has the wanted name already gives way.
                    names[place] = name if item == old else f"{name}/inner"
    output.name = name


def _negate_output(graph: Any, output: Any) -> None:
    """SVC's two columns say how far it is from the other class: the first for the second."""
    from onnx import helper

    inner = f"{output.name}/reversed"
    for node in graph.node:
        for place, name in enumerate(node.output):
            if name == output.name:
                node.output[place] = inner
    graph.node.append(helper.make_node("Neg", [inner], [output.name], name=output.name))


def _without_zip_maps(model: Any) -> None:
    """Give the scores as an array, where skl2onnx makes a list of dictionaries of them."""
    graph = model.graph
    for node in [node for node in graph.node if node.op_type == "ZipMap"]:
        for output in graph.output:
            if output.name == node.output[0]:
                classes = len(node.attribute[0].ints) or len(node.attribute[0].strings)
                producer = next(n for n in graph.node if node.input[0] in n.output)
                position = list(producer.output).index(node.input[0])
                producer.output[position] = output.name
                for other in graph.node:
                    for place, name in enumerate(other.input):
                        if name == node.input[0] and other is not node:
                            other.input[place] = output.name
                _set_float_matrix(output, classes)
        graph.node.remove(node)


def _set_float_matrix(value: Any, columns: int) -> None:
    from onnx import TensorProto, helper

    value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, ["batch", columns]))


def _with_current_versions(model: Any) -> None:
    """State the versions that were asked for: skl2onnx states the oldest that has its operators."""
    for opset in model.opset_import:
        if opset.domain in STANDARD_DOMAINS:
            opset.version = max(opset.version, _OPSET)
    if not any(opset.domain in STANDARD_DOMAINS for opset in model.opset_import):
        model.opset_import.add(domain="", version=_OPSET)
    model.ir_version = max(model.ir_version, _IR_VERSION)
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if dims and not dims[0].HasField("dim_value"):
            dims[0].dim_param = "batch"


@contextlib.contextmanager
def _plain_attributes() -> Iterator[None]:
    """Let skl2onnx's attributes be numbers: protobuf refuses the truth values it uses for them."""
    _container: Any = require("skl2onnx.common._container", extra="sklearn")
    original = _container.make_node

    def make_node(*arguments: Any, **options: Any) -> Any:
        plain = {
            name: [int(item) if isinstance(item, bool | np.bool_) else item for item in value]
            if isinstance(value, list)
            else value
            for name, value in options.items()
        }
        return original(*arguments, **plain)

    _container.make_node = make_node
    try:
        yield
    finally:
        _container.make_node = original
