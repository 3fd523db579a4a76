"""First stage: one plain form of every ONNX model, so that the later stages meet few shapes of it.

Functions are expanded, the opset is raised, initialisers are no inputs, shapes are inferred, what
is constant is computed, BatchNormalization is folded into the layer before it, what exporters write
out in many nodes is said in few, and nodes that nothing reads are gone. The result is portable ONNX
and computes what the source computes.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import numpy as np

from edgekit_converters.batch_norm import fold_batch_norms
from edgekit_converters.body_constants import copy_constants_into_bodies
from edgekit_converters.branches import inline_known_branches
from edgekit_converters.default_attributes import write_default_attributes
from edgekit_converters.old_hardmax import flatten_old_hardmax
from edgekit_converters.old_resizing import state_old_resizing
from edgekit_converters.onnx_graphs import STANDARD_DOMAINS, bodies_of, opset_of, replace_nodes
from edgekit_converters.onnx_source.skeleton import (
    inferable,
    skeleton,
    take_large_constants,
    take_shapes,
)
from edgekit_converters.patterns import simplify
from edgekit_converters.resize_scales import settle_scales
from edgekit_converters.sizes import settle_sizes
from edgekit_runtime.errors import UnsupportedModelError

# Quantization per channel needs 13; from 13 on, axes are inputs and Softmax means one axis.
LEAST_OPSET: Final = 13
# onnx.checker refuses what other tools write for older ones, and all runtimes read 8.
_LEAST_IR_VERSION: Final = 8
_LAST_BATCHED_SCAN: Final = 8
# A gigabyte of floats; what expands further was not meant to be stored.
_FOLD_LIMIT_ELEMENTS: Final = 1 << 28
_MAX_ROUNDS: Final = 8
_NEVER_CONSTANT: Final = frozenset(
    {
        "RandomNormal",
        "RandomUniform",
        "RandomNormalLike",
        "RandomUniformLike",
        "Multinomial",
        "Bernoulli",
        "QuantizeLinear",
        "DequantizeLinear",
        # What they make is no tensor.
        "Optional",
        "SequenceConstruct",
        "SequenceEmpty",
        "SplitToSequence",
    }
)


def normalise(model: Any, *, where: str) -> Any:
    """Bring a model into the plain form that this module describes.

    Args:
        model: A checked `onnx.ModelProto`; it is not changed.
        where: The model's path, for errors.

    Returns:
        A new `onnx.ModelProto`.

    Raises:
        UnsupportedModelError: If the opset cannot be raised, shapes contradict each other, or a
            constant part cannot be computed.
    """
    model = _expand_functions(model, where)
    # Before the opset is raised: the converter of versions writes Dropouts that are not valid.
    _skip_identities(model)
    model = _raise_versions(model, where)
    write_default_attributes(model)
    _separate_initialisers(model)
    model = settle_constants(model, where)
    _skip_identities(model)
    fold_batch_norms(model)
    _drop_unread(model)
    model = settle_constants(model, where)
    return simplify(model, settle=lambda changed: settle_constants(changed, where))


def settle_constants(model: Any, where: str) -> Any:
    """Infer all shapes, and compute what is constant once they are known, again and again."""
    copy_constants_into_bodies(model)
    settle_scales(model)
    model = infer_shapes(model, where)
    for _ in range(_MAX_ROUNDS):
        changed = settle_sizes(model)
        _drop_unread(model)
        changed |= _fold_constants(model, where)
        changed |= copy_constants_into_bodies(model)
        if inline_known_branches(model):
            _skip_identities(model)
            changed = True
        if not changed:
            break
        settle_scales(model)
        model = infer_shapes(model, where)
    return model


def infer_shapes(model: Any, where: str) -> Any:
    """Infer every shape anew; what the file claims about its inner values is not trusted.

    Raises:
        UnsupportedModelError: If shapes or types contradict each other.
    """
    import onnx

    _forget_shapes(model.graph)
    # Strict inference refuses domains that it does not know; those are named later, all at once,
    # by the stage that cannot lower them. It also stumbles over sequences in the body of a Loop.
    known_domains = all(node.domain in STANDARD_DOMAINS for node in model.graph.node)
    bodies = any(bodies_of(node) for node in model.graph.node)
    # Large constants need not be copied for it.
    bare = inferable(skeleton(model))
    for strict in (True, False)[not known_domains :]:
        try:
            inferred = onnx.shape_inference.infer_shapes(bare, strict_mode=strict, data_prop=True)
            break
        except Exception as error:
            if strict and bodies:
                continue
            raise UnsupportedModelError(
                f"the model's shapes contradict each other: {' '.join(str(error).split())[:300]}",
                where=where,
                fix="export the model again; check it with onnx.shape_inference",
            ) from error
    take_shapes(inferred, model)
    return model


def _forget_shapes(graph: Any) -> None:
    """Remove what is said about inner values, in the bodies of nodes too."""
    graph.ClearField("value_info")
    for node in graph.node:
        for body in bodies_of(node):
            _forget_shapes(body)


def _expand_functions(model: Any, where: str) -> Any:
    import onnx.inliner

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if not copy.functions:
        return copy
    try:
        return onnx.inliner.inline_local_functions(copy)
    except Exception as error:
        raise UnsupportedModelError(
            f"the model's functions cannot be expanded: {error}", where=where
        ) from error


def _raise_versions(model: Any, where: str) -> Any:
    from onnx import version_converter

    model.ir_version = max(model.ir_version, _LEAST_IR_VERSION)
    if not any(entry.domain in STANDARD_DOMAINS for entry in model.opset_import):
        # All its operators are of other domains: any version of ONNX's own does.
        model.opset_import.add(domain="", version=LEAST_OPSET)
    opset = opset_of(model)
    if opset >= LEAST_OPSET:
        return model
    batched = [node for node in model.graph.node if node.op_type == "Scan" and node.domain == ""]
    if opset <= _LAST_BATCHED_SCAN and batched:
        # The converter of versions would take the batch away, from the model's inputs as well.
        raise UnsupportedModelError(
            f"Scan of opset {opset} has a batch of its own, which later ones have not",
            where=f"{where}: {batched[0].name or batched[0].output[0]}",
            fix="export the model again with opset 9 or newer",
        )
    try:
        raised = version_converter.convert_version(skeleton(model), LEAST_OPSET)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise UnsupportedModelError(
            f"opset {opset} cannot be raised to {LEAST_OPSET}: {reason}",
            where=where,
            fix=f"export the model again with opset {LEAST_OPSET} or newer",
        ) from error
    take_large_constants(model, raised)
    state_old_resizing(raised, opset, where)
    flatten_old_hardmax(raised, opset)
    return raised


def _separate_initialisers(model: Any) -> None:
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    del graph.input[:]
    graph.input.extend(inputs)


def _fold_constants(model: Any, where: str) -> bool:
    """Compute what depends on constants alone, in one run of the engine."""
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    sizes = _element_counts(graph)
    strange = _strange_values(graph)
    folded, kept = [], []
    for node in graph.node:
        foldable = (
            node.domain == ""
            and node.op_type not in _NEVER_CONSTANT
            and all(name in constants or not name for name in node.input)
            and not bodies_of(node)
            and not outputs.intersection(node.output)
            and not strange.intersection((*node.input, *node.output))
            and all(sizes.get(name, 0) <= _FOLD_LIMIT_ELEMENTS for name in node.output)
        )
        if foldable:
            folded.append(node)
            constants.update(node.output)
        else:
            kept.append(node)
    if not folded:
        return False
    read = {name for node in kept for name in _reads(node)} | outputs
    wanted = [name for node in folded for name in node.output if name in read]
    computed = _evaluate(model, folded, wanted, where) if wanted else []
    graph.initializer.extend(computed)
    replace_nodes(graph, kept)
    _drop_unread(model)
    return True


def _evaluate(model: Any, nodes: list[Any], wanted: list[str], where: str) -> list[Any]:
    import onnxruntime
    from onnx import ModelProto, ValueInfoProto, numpy_helper

    needed = {name for node in nodes for name in node.input}
    part = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    part.functions.extend(model.functions)
    graph = part.graph
    graph.name = "constants"
    graph.node.extend(nodes)
    for node in graph.node:
        # The engine takes no two of one name, ONNX does.
        node.name = ""
    graph.initializer.extend(t for t in model.graph.initializer if t.name in needed)
    graph.output.extend(ValueInfoProto(name=name) for name in wanted)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(
            part.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        arrays = session.run(wanted, {})
        return [
            # Not ascontiguousarray, which makes a number a list of one.
            numpy_helper.from_array(np.asarray(array, order="C"), name)
            for name, array in zip(wanted, arrays, strict=True)
        ]
    except Exception as error:
        names = ", ".join(node.name or node.output[0] for node in nodes[:5])
        reason = " ".join(str(error).split())[:300]
        raise UnsupportedModelError(
            f"a constant part of the model cannot be computed: {reason}",
            where=f"{where}: {names}",
        ) from error


def _skip_identities(model: Any) -> None:
    """Read through Identity and inference-time Dropout, except where others need their name."""
    graph = model.graph
    outputs = {value.name for value in graph.output}
    # What the body of an If or a Loop reads from outside keeps its name as well.
    for node in graph.node:
        outputs.update(_reads(node)[len(node.input) :])
    constants = {tensor.name: tensor for tensor in graph.initializer}
    read = {name for node in graph.node for name in _reads(node)} | outputs
    renamed: dict[str, str] = {}
    kept = []
    for node in graph.node:
        for position, name in enumerate(node.input):
            node.input[position] = renamed.get(name, name)
        if node.op_type == "Identity" or _is_idle_dropout(node, constants, read):
            if node.output[0] in outputs:
                _forget_dropout(node)
                kept.append(node)
            else:
                renamed[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    replace_nodes(graph, kept)


def _is_idle_dropout(node: Any, constants: dict[str, Any], read: set[str]) -> bool:
    from onnx import numpy_helper

    if node.op_type != "Dropout" or read.intersection(node.output[1:]):
        return False
    training = node.input[2] if len(node.input) > 2 else ""  # noqa: PLR2004 - training_mode
    if not training:
        return True
    tensor = constants.get(training)
    return tensor is not None and not bool(numpy_helper.to_array(tensor))


def _forget_dropout(node: Any) -> None:
    node.op_type = "Identity"
    del node.input[1:]
    del node.output[1:]
    del node.attribute[:]


def _drop_unread(model: Any) -> None:
    """Remove nodes and constants that nothing reads, in place."""
    graph = model.graph
    readers = Counter(name for node in graph.node for name in _reads(node))
    readers.update(value.name for value in graph.output)
    kept = []
    for node in reversed(graph.node):
        if any(readers[name] for name in node.output):
            kept.append(node)
        else:
            readers.subtract(_reads(node))
    replace_nodes(graph, kept[::-1])
    # One by one: what stays is not copied.
    for at in reversed(range(len(graph.initializer))):
        if readers[graph.initializer[at].name] <= 0:
            del graph.initializer[at]


def _reads(node: Any) -> list[str]:
    """What a node reads, with what the bodies of an If, Loop or Scan read from outside."""
    names = list(node.input)
    for body in bodies_of(node):
        for inner in body.node:
            names += _reads(inner)
        names += [value.name for value in body.output]
    return names


def _strange_values(graph: Any) -> set[str]:
    """Values of types that numpy lacks: no engine's answer could be read back."""
    from onnx import TensorProto

    known = set(range(TensorProto.FLOAT, TensorProto.COMPLEX128 + 1)) | {TensorProto.UNDEFINED}
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.value_info, *graph.input, *graph.output):
        types[value.name] = value.type.tensor_type.elem_type
    return {name for name, kind in types.items() if kind not in known}


def _element_counts(graph: Any) -> dict[str, int]:
    return {
        value.name: int(np.prod([dim.dim_value for dim in value.type.tensor_type.shape.dim]))
        for value in graph.value_info
    }
