"""Fit a pipeline to models, early: what applications give, what they get, and what is wrong."""

from __future__ import annotations

import contextlib
import io
import wave
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit.bundling.pipeline import PARAMETERS, Pipeline, pipeline_error
from edgekit_runtime.bundle.manifest import Step, TensorContract
from edgekit_runtime.errors import EdgekitError, InvalidBundleError
from edgekit_runtime.media.image import picture_layout
from edgekit_runtime.media.sound import decode_sound
from edgekit_runtime.processing import apply_steps
from edgekit_runtime.tensors import TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MEDIA: Final = ("image", "sound")
_NEED_FLOATS: Final = ("softmax", "sigmoid")


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedPipeline:
    """A pipeline that fits its models.

    Attributes:
        preprocessing: Every step with its tensor.
        postprocessing: The same.
        inputs: What applications give: of the models' shapes.
        outputs: What they get.
    """

    preprocessing: tuple[Step, ...]
    postprocessing: tuple[Step, ...]
    inputs: tuple[TensorContract, ...]
    outputs: tuple[TensorContract, ...]

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        """The inputs as data is checked against them."""
        return tuple(TensorSpec(name=i.name, dtype=i.dtype, shape=i.shape) for i in self.inputs)

    def media(self, tensor: str) -> Step | None:
        """The step that says how a file becomes an input; None where it is a tensor."""
        named = (s for s in self.preprocessing if s.tensor == tensor and s.op in _MEDIA)
        return next(named, None)


def fit_pipeline(
    pipeline: Pipeline,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    *,
    given: Mapping[str, str],
    labels: tuple[str, ...] = (),
) -> FittedPipeline:
    """Fit a pipeline to the tensors of its models; nothing is run but the steps, on zeros.

    Args:
        pipeline: As its maker wrote it.
        inputs: Of the models.
        outputs: Of the models.
        given: The dtype of the data at hand, by input, where it is known.
        labels: Names of the classes of the first output.

    Raises:
        UsageError: Naming every step and field that is wrong.
    """
    faults: list[str] = []
    before = _named(
        pipeline.preprocessing, inputs, "preprocessing", "input", faults, implied=pipeline.implied
    )
    before = _by_channel(before, inputs)
    after = _named(pipeline.postprocessing, outputs, "postprocessing", "output", faults)
    unknown = {*pipeline.dtypes, *pipeline.meanings} - {spec.name for spec in (*inputs, *outputs)}
    faults += [f"{name!r} is no input or output of the models" for name in sorted(unknown)]
    faults += _misplaced(before, after)
    if faults:
        # What a step makes of a tensor cannot be told before these are right.
        raise pipeline_error(faults, where=pipeline.where)
    made_inputs = []
    for spec in inputs:
        own = [(place, step) for place, step in before if step.tensor == spec.name]
        wished = pipeline.dtypes.get(spec.name) or given.get(spec.name, "")
        dtype = _application_dtype(spec, own, wished)
        _check_side(spec, own, dtype, faults)
        made_inputs.append(_contract(replace_dtype(spec, dtype), pipeline.meanings))
    made_outputs = []
    for position, spec in enumerate(outputs):
        own = [(place, step) for place, step in after if step.tensor == spec.name]
        shape, dtype = _answered(spec, own, faults)
        contract = _contract(
            TensorSpec(name=spec.name, dtype=dtype, shape=shape), pipeline.meanings
        )
        made_outputs.append(replace(contract, labels=labels if position == 0 else ()))
    classes = outputs[0].shape[-1] if len(outputs[0].shape) > 1 else None
    if labels and classes not in (None, len(labels)):
        faults.append(f"{len(labels)} labels for {classes} classes of {outputs[0].name!r}")
    if faults:
        raise pipeline_error(faults, where=pipeline.where)
    return FittedPipeline(
        preprocessing=tuple(step for _, step in before),
        postprocessing=tuple(step for _, step in after),
        inputs=tuple(made_inputs),
        outputs=tuple(made_outputs),
    )


def replace_dtype(spec: TensorSpec, dtype: str) -> TensorSpec:
    """The same tensor of another element type."""
    return TensorSpec(name=spec.name, dtype=dtype, shape=spec.shape)


_Placed = list[tuple[str, Step]]


def _named(
    steps: Sequence[Step],
    specs: Sequence[TensorSpec],
    side: str,
    kind: str,
    faults: list[str],
    *,
    implied: int = 0,
) -> _Placed:
    """Every step with its place, for errors, and with the tensor that it is of."""
    names = [spec.name for spec in specs]
    named: _Placed = []
    for position, step in enumerate(steps):
        number = f"[{position - implied}]" if position >= implied else ":"
        place = f"{side}{number} {step.op}"
        if step.op not in PARAMETERS:
            faults.append(f"{place}: there is no such step, there are {', '.join(PARAMETERS)}")
            continue
        tensor = step.tensor or (names[0] if len(names) == 1 else "")
        if not tensor:
            faults.append(f"{place}.tensor: must name one of the {kind}s {', '.join(names)}")
        elif tensor not in names:
            faults.append(f"{place}.tensor: {tensor!r} is no {kind}, there is {', '.join(names)}")
        named.append((place, replace(step, tensor=tensor)))
    return named


def _by_channel(before: _Placed, inputs: Sequence[TensorSpec]) -> _Placed:
    """A list of numbers without an axis is of a picture's channels, wherever the input has them."""
    pictures = {step.tensor for _, step in before if step.op == "image"}
    axes: dict[str, tuple[int, int]] = {}
    for spec in inputs:
        if spec.name in pictures:
            with contextlib.suppress(EdgekitError):
                layout = picture_layout(spec.shape, {}, where=spec.name)
                axes[spec.name] = (layout.channels, layout.channels_axis + 1 or -1)
    placed = []
    for place, step in before:
        channels, axis = axes.get(step.tensor, (0, -1))
        lists = [value for value in step.parameters.values() if isinstance(value, list)]
        if lists and "axis" not in step.parameters and channels in {len(each) for each in lists}:
            step = replace(step, parameters=step.parameters | {"axis": axis})  # noqa: PLW2901
        placed.append((place, step))
    return placed


def _misplaced(before: _Placed, after: _Placed) -> list[str]:
    faults = [
        f"{place}: is of inputs, not of outputs" for place, step in after if step.op in _MEDIA
    ]
    seen: set[str] = set()
    for place, step in before:
        if step.op in _MEDIA and step.tensor in seen:
            faults.append(f"{place}: must be the first step of {step.tensor!r}, and its only kind")
        seen.add(step.tensor)
    return faults


def _application_dtype(spec: TensorSpec, steps: _Placed, wished: str) -> str:
    """What applications give: as wished, or the smallest of which the steps make what is needed."""
    working = [step for _, step in steps if step.op not in _MEDIA]
    usual = ["uint8"] if any(step.op == "image" for _, step in steps) else []
    for dtype in [wished, *(usual if working else []), spec.dtype, "float32"]:
        if not dtype:
            continue
        try:
            made = apply_steps(working, {spec.name: _zeros(spec, dtype, working)})[spec.name]
        except InvalidBundleError:
            return spec.dtype
        if made.dtype.name == spec.dtype:
            return dtype
    return wished or spec.dtype


def _check_side(spec: TensorSpec, steps: _Placed, dtype: str, faults: list[str]) -> None:
    """Run an input's steps on zeros, and what devices do with its files on an empty one."""
    array = _zeros(spec, dtype, [step for _, step in steps])
    found = len(faults)
    for place, step in steps:
        array = _tried(step, array, place, faults)
        try:
            if step.op == "image":
                picture_layout(spec.shape, step.parameters, where=spec.name)
            elif step.op == "sound":
                decode_sound(_silence(), spec.shape, step.parameters, where=spec.name)
        except EdgekitError as error:
            faults.append(f"{place}: {error.what}")
    if len(faults) > found:
        return
    if array.dtype.name != spec.dtype or array.ndim != len(spec.shape):
        last = steps[-1][0] if steps else f"inputs.{spec.name}.dtype"
        faults.append(
            f"{last}: the steps make {array.dtype.name} with {array.ndim} axes of {dtype}, the "
            f"models take {spec.dtype} with {len(spec.shape)}; end with a step `cast`"
        )


def _answered(
    spec: TensorSpec, steps: _Placed, faults: list[str]
) -> tuple[tuple[int | None, ...], str]:
    """Shape and dtype of an output after its steps; an axis that follows a free one is free."""
    shapes = []
    dtype = spec.dtype
    for size in (1, 2):
        array: NDArray[Any] = np.zeros([s or size for s in spec.shape], spec.dtype)
        for place, step in steps:
            # Said once, of the first size.
            array = _tried(step, array, place, faults if size == 1 else [])
        shapes.append(array.shape)
        dtype = array.dtype.name
    one, two = shapes
    return tuple(a if a == b else None for a, b in zip(one, two, strict=True)), dtype


def _tried(step: Step, array: NDArray[Any], place: str, faults: list[str]) -> NDArray[Any]:
    if step.op in _NEED_FLOATS and array.dtype.kind != "f":
        faults.append(f"{place}: needs floats and gets {array.dtype.name}; put a `cast` before it")
        return array
    try:
        return apply_steps([step], {step.tensor: array})[step.tensor]
    except (InvalidBundleError, ValueError) as error:
        what = error.what if isinstance(error, EdgekitError) else str(error)
        faults.append(f"{place}: {what}")
        return array


def _zeros(spec: TensorSpec, dtype: str, steps: Sequence[Step]) -> NDArray[Any]:
    """Zeros of an input; a free axis is as long as the list of numbers that a step has for it."""
    shape = [size or 1 for size in spec.shape]
    for step in steps:
        axis = step.parameters.get("axis", -1)
        for value in step.parameters.values():
            if (
                isinstance(value, list)
                and value
                and isinstance(axis, int)
                and -len(shape) <= axis < len(shape)
                and spec.shape[axis] is None
            ):
                shape[axis] = len(value)
    return np.zeros(shape, dtype)


def _silence() -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8_000)
        file.writeframes(bytes(2))
    return buffer.getvalue()


def _contract(spec: TensorSpec, meanings: Mapping[str, str]) -> TensorContract:
    return TensorContract(
        name=spec.name,
        dtype=spec.dtype,
        shape=spec.shape,
        meaning=meanings.get(spec.name, ""),
    )
