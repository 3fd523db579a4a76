"""Make a bundle: variants, golden samples, reference statistics, lineage, bill of materials."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit.bundling.bom import ml_bom
from edgekit.bundling.statistics import reference_statistics
from edgekit_converters.evaluation import EvaluationSet, evaluate_top1
from edgekit_converters.report import tool_versions
from edgekit_converters.samples import Samples, read_samples
from edgekit_runtime.bundle.archive import BundleArchive, entry_of, write_bundle
from edgekit_runtime.bundle.golden import (
    GoldenResult,
    load_arrays,
    prove,
    run_variant,
    samples_of,
    save_arrays,
)
from edgekit_runtime.bundle.manifest import (
    Accuracy,
    Binding,
    GoldenOutputs,
    Manifest,
    Requirements,
    TensorContract,
    Variant,
)
from edgekit_runtime.errors import UsageError
from edgekit_runtime.files import require_file, sha256_of
from edgekit_runtime.formats import ModelFormat, detect_format
from edgekit_runtime.session import Session, open_session

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_runtime.tensors import TensorSpec

_RUNTIMES: Final = {
    ModelFormat.ONNX: ("onnxruntime",),
    ModelFormat.LITERT: ("litert", "tflite-runtime"),
}
_FAMILY: Final = {ModelFormat.ONNX: "onnx", ModelFormat.LITERT: "litert"}
_GOLDEN_INPUTS: Final = "golden/inputs.npz"
_STATISTICS: Final = "reference/statistics.json"
_BOM: Final = "bom.cdx.json"
# Float kernels of other engines and processors sum in another order; measured on this kind of
# model: below 1e-5 of the output's range. Integer kernels of LiteRT differ by one or two steps an
# operator between x86 and ARM; an int8 output has 255 steps.
_FLOAT_SHARE: Final = 1e-3
_INT8_STEPS: Final = 4 / 255
_STATISTICS_SAMPLES: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleRequest:
    """A bundle that a user asks for.

    Attributes:
        name: Of the model, the same for all versions.
        version: A semantic version.
        models: The variants' files, the best first.
        data: `.npz` with the model's inputs and, for a measured accuracy, `labels`.
        output: The `.ekb` to write.
        task: What the model does: "classification".
        labels: Names of the classes, along the last axis of the first output.
        golden_samples: How many samples of the data a device computes as its proof.
        source: The model that the variants were made from, for the lineage.
        description: For people.
        licences: SPDX expressions or names.
        ram_bytes: Peak memory of a variant above its engine's own, by file name, where measured.
        benchmarks: Results of `edgekit bench`.
    """

    name: str
    version: str
    models: tuple[Path, ...]
    data: Path
    output: Path
    task: str = "classification"
    labels: tuple[str, ...] = ()
    golden_samples: int = 16
    source: Path | None = None
    description: str = ""
    licences: tuple[str, ...] = ()
    ram_bytes: Mapping[str, int] | None = None
    benchmarks: tuple[dict[str, object], ...] = ()


def _ignore(_: str) -> None:
    """The default for `progress`."""


def create_bundle(request: BundleRequest, *, progress: Callable[[str], None] = _ignore) -> Manifest:
    """Run every variant on the data, and write the bundle.

    The golden outputs are computed here, by each variant itself; `prove_bundle` checks a bundle as
    a device does.

    Args:
        request: What to put in.
        progress: Told one plain sentence a step.

    Raises:
        UsageError: If a file is missing, the data does not fit, or two variants take or give
            different tensors.
        UnsupportedModelError: If a model cannot be loaded.
        EnvironmentLackError: If an engine is missing or the place cannot be written.
    """
    if not request.models:
        raise UsageError("a bundle needs at least one model", fix="give --variant FILE")
    sessions = [open_session(model) for model in request.models]
    contract = sessions[0]
    for model, session in zip(request.models, sessions, strict=True):
        _require_same_tensors(request.models[0], contract, model, session)
    samples = read_samples(request.data, contract.inputs, kind="bundle")
    chosen = _spread(samples, request.golden_samples)
    progress(f"{len(next(iter(chosen.values())))} golden samples from {request.data.name}")
    files: dict[str, bytes] = {_GOLDEN_INPUTS: save_arrays(chosen)}
    variants: list[Variant] = []
    for model, session in zip(request.models, sessions, strict=True):
        variant, outputs = _variant(request, model, session, chosen, samples)
        files[variant.file] = model.read_bytes()
        files[variant.golden.file] = save_arrays(outputs)
        if variant.id in {other.id for other in variants}:
            raise UsageError(
                f"two models would be the variant {variant.id}",
                where=str(model),
                fix="a bundle holds one model of each format and precision",
            )
        variants.append(variant)
        progress(f"variant {variant.id}: golden outputs computed")
    seen = _spread(samples, _STATISTICS_SAMPLES)
    files[_STATISTICS] = reference_statistics(seen, _run(sessions[0], variants[0], seen))
    created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    files[_BOM] = ml_bom(
        name=request.name,
        version=request.version,
        task=request.task,
        created=created,
        files={variant.file: entry_of(files[variant.file]).sha256 for variant in variants},
        tools=tool_versions(),
        licences=request.licences,
    )
    manifest = Manifest(
        name=request.name,
        version=request.version,
        task=request.task,
        description=request.description,
        created=created,
        inputs=_contracts([session.inputs for session in sessions]),
        outputs=_contracts([session.outputs for session in sessions], labels=request.labels),
        variants=tuple(variants),
        golden_inputs=_GOLDEN_INPUTS,
        golden_samples=len(next(iter(chosen.values()))),
        reference_statistics=_STATISTICS,
        lineage=_lineage(request),
        benchmarks=request.benchmarks,
        licences=request.licences,
        bom=_BOM,
        files={path: entry_of(data) for path, data in files.items()},
    )
    write_bundle(request.output, manifest, files)
    for session in sessions:
        session.close()
    return manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenVariant:
    """A variant whose golden samples matched here."""

    id: str
    runtime: str
    results: tuple[GoldenResult, ...]


def prove_bundle(path: Path, folder: Path) -> tuple[ProvenVariant, ...]:
    """Open a bundle and run every variant's golden samples on this machine.

    Args:
        path: The `.ekb`.
        folder: An empty folder for the unpacked files.

    Raises:
        InvalidBundleError: If it breaks the format.
        VerificationError: If a file is not what the manifest says.
        GateFailedError: If a golden sample does not match.
        EnvironmentLackError: If no engine for any variant is installed.
    """
    with BundleArchive(path) as archive:
        archive.extract(folder)
        manifest = archive.manifest
    inputs = load_arrays((folder / manifest.golden_inputs).read_bytes(), where=str(path))
    proven = []
    for variant in manifest.variants:
        session = open_session(folder / variant.file)
        expected = load_arrays((folder / variant.golden.file).read_bytes(), where=str(path))
        proven.append(
            ProvenVariant(
                id=variant.id,
                runtime=f"{session.runtime.name} {session.runtime.version}",
                results=prove(session, variant, inputs, expected),
            )
        )
        session.close()
    return tuple(proven)


def _variant(
    request: BundleRequest,
    model: Path,
    session: Session,
    golden: Mapping[str, NDArray[Any]],
    samples: Samples,
) -> tuple[Variant, dict[str, NDArray[Any]]]:
    model_format = detect_format(model)
    precision = _precision(model)
    identifier = f"{_FAMILY[model_format]}-{precision}"
    variant = Variant(
        id=identifier,
        format=model_format,
        precision=precision,
        file=f"variants/{identifier}{model_format.suffix}",
        inputs={spec.name: Binding(tensor=spec.name) for spec in session.inputs},
        outputs={spec.name: Binding(tensor=spec.name) for spec in session.outputs},
        requires=Requirements(
            runtimes=_RUNTIMES[model_format],
            ram_bytes=(request.ram_bytes or {}).get(model.name, 0),
        ),
        golden=GoldenOutputs(file=f"golden/{identifier}.npz", atol=0.0, rtol=0.0),
        proven_on=(f"{session.runtime.name} {session.runtime.version} on {platform.machine()}",),
        accuracy=_accuracy(request.data, session, samples),
    )
    outputs = _run(session, variant, golden)
    span = max(float(np.ptp(array.astype(np.float64))) for array in outputs.values())
    share = _FLOAT_SHARE if precision == "float32" else _INT8_STEPS
    tolerance = GoldenOutputs(file=variant.golden.file, atol=span * share, rtol=0.0)
    return replace(variant, golden=tolerance), outputs


def _run(
    session: Session, variant: Variant, inputs: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in variant.outputs}
    # One by one, as a device computes them: a batch may sum in another order.
    for sample in samples_of(inputs):
        for name, array in run_variant(session, variant, sample).items():
            parts[name].append(array)
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def _spread(samples: Samples, count: int) -> dict[str, NDArray[Any]]:
    # Evenly over the whole file: data sorted by class would otherwise give one class.
    positions = np.unique(np.linspace(0, samples.count - 1, min(count, samples.count)).astype(int))
    return {name: array[positions] for name, array in samples.arrays.items()}


def _accuracy(data: Path, session: Session, samples: Samples) -> Accuracy | None:
    if samples.labels is None:
        return None
    measured = evaluate_top1(session, EvaluationSet.load(data, session.inputs))
    return Accuracy(
        metric=measured.metric,
        value=measured.value,
        samples=measured.samples,
        dataset_sha256=measured.dataset_sha256,
    )


def _precision(model: Path) -> str:
    from edgekit_runtime.graph.read import read_graph
    from edgekit_runtime.graph.summary import describe_quantization

    return describe_quantization(read_graph(model)).kind


def _contracts(
    sides: Sequence[Sequence[TensorSpec]], *, labels: tuple[str, ...] = ()
) -> tuple[TensorContract, ...]:
    # An axis that any variant leaves free is free: quantizers fix the outputs' batch in passing.
    return tuple(
        TensorContract(
            name=specs[0].name,
            dtype=specs[0].dtype,
            shape=tuple(
                None if None in sizes else sizes[0]
                for sizes in zip(*(spec.shape for spec in specs), strict=True)
            ),
            labels=labels if position == 0 else (),
        )
        for position, specs in enumerate(zip(*sides, strict=True))
    )


def _require_same_tensors(first: Path, contract: Session, model: Path, session: Session) -> None:
    faults = []
    for side in ("inputs", "outputs"):
        wanted, found = getattr(contract, side), getattr(session, side)
        if [(s.name, s.dtype, len(s.shape)) for s in wanted] != [
            (s.name, s.dtype, len(s.shape)) for s in found
        ]:
            faults.append(
                f"{side}: {_names(found)} here, {_names(wanted)} in {first.name}",
            )
    if faults:
        raise UsageError(
            "the variants of a bundle must take and give the same tensors: " + "; ".join(faults),
            where=str(model),
            fix="make all variants from one model with `edgekit convert`",
        )


def _names(specs: Any) -> str:
    return ", ".join(f"{spec.name} {spec.dtype}" for spec in specs)


def _lineage(request: BundleRequest) -> dict[str, object]:
    lineage: dict[str, object] = {
        "tools": tool_versions(),
        "data": {"file": request.data.name, "sha256": sha256_of(request.data)},
        "models": [{"file": model.name, "sha256": sha256_of(model)} for model in request.models],
    }
    if request.source:
        require_file(request.source, kind="the source model")
        lineage["source"] = {"file": request.source.name, "sha256": sha256_of(request.source)}
    return lineage
