"""Make a bundle: variants, golden samples, reference statistics, lineage, bill of materials."""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekit.bundling.application_data import (
    ApplicationData,
    ArrayData,
    FileData,
    PreparedSource,
    find_files,
)
from edgekit.bundling.bom import ml_bom
from edgekit.bundling.pipeline import Pipeline, pipeline_beside
from edgekit.bundling.pipeline_fit import FittedPipeline, fit_pipeline
from edgekit.bundling.statistics import reference_statistics
from edgekit_converters.evaluation import evaluate_top1
from edgekit_converters.report import tool_versions
from edgekit_converters.samples import name_arrays
from edgekit_runtime.arrays import read_arrays
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
    NAME_PATTERN,
    Accuracy,
    Binding,
    GoldenOutputs,
    Manifest,
    Requirements,
    Step,
    Variant,
)
from edgekit_runtime.errors import UsageError
from edgekit_runtime.files import require_file, sha256_of
from edgekit_runtime.formats import ModelFormat, detect_format
from edgekit_runtime.processing import apply_steps
from edgekit_runtime.session import Session, open_session
from edgekit_runtime.tensors import TensorSpec
from edgekit_runtime.versions import VERSION_PATTERN

if TYPE_CHECKING:
    from numpy.typing import NDArray

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
# Numbers of an input that its quantiles are taken of: fewer samples where they are pictures.
_STATISTICS_VALUES: Final = 1 << 24
_GIT_SECONDS: Final = 10.0
_TASK_PATTERN: Final = r"[a-z][a-z0-9-]{0,62}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleRequest:
    """A bundle that a user asks for.

    Attributes:
        name: Of the model, the same for all versions.
        version: A semantic version.
        models: The variants' files, the best first.
        data: What applications give: an `.npz` with an array for each input and, for a measured
            accuracy, `labels`; or a folder of pictures or sound, with a subfolder for each class.
        output: The `.ekb` to write.
        task: What the model does: "classification".
        labels: Names of the classes, along the last axis of the first output.
        golden_samples: How many samples of the data a device computes as its proof.
        source: The model that the variants were made from, for the lineage.
        description: For people.
        licences: SPDX expressions or names.
        ram_bytes: Peak memory of a variant above its engine's own, by file name, where measured.
        benchmarks: Results of `edgekit bench`.
        pipeline: Pre- and postprocessing; None: as a `preprocessing.json` in the folder of the
            data says, or none.
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
    pipeline: Pipeline | None = None


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
        UsageError: If name, version, task or pipeline is wrong, a file is missing, the data does
            not fit, or two variants take or give different tensors.
        UnsupportedModelError: If a model cannot be loaded.
        EnvironmentLackError: If an engine is missing or the place cannot be written.
    """
    _require_names(request)
    if not request.models:
        raise UsageError("a bundle needs at least one model", fix="give --variant FILE")
    pipeline = request.pipeline or pipeline_beside(request.data) or Pipeline()
    sessions = [open_session(model) for model in request.models]
    try:
        made = _Made(request=request, pipeline=pipeline, sessions=sessions)
        made.run(progress)
    finally:
        for session in sessions:
            session.close()
    return made.write()


@dataclass(slots=True, kw_only=True)
class _Made:
    """A bundle while it is made."""

    request: BundleRequest
    pipeline: Pipeline
    sessions: Sequence[Session]
    files: dict[str, bytes] = field(default_factory=dict)
    variants: list[Variant] = field(default_factory=list)
    golden_samples: int = 0
    fitted: FittedPipeline = field(init=False)
    data: ApplicationData = field(init=False)

    def run(self, progress: Callable[[str], None]) -> None:
        """Open the data and run every variant."""
        request, sessions = self.request, self.sessions
        for model, session in zip(request.models, sessions, strict=True):
            _require_same_tensors(request.models[0], sessions[0], model, session)
        self.fitted, self.data = _open_data(request, self.pipeline, sessions)
        source = PreparedSource(self.data, self.fitted)
        golden = source.prepared(_spread(self.data.count, request.golden_samples))
        self.golden_samples = len(next(iter(golden.values())))
        progress(f"{self.golden_samples} golden samples from {request.data.name}")
        self.files[_GOLDEN_INPUTS] = save_arrays(golden)
        for model, session in zip(request.models, sessions, strict=True):
            variant, outputs = _variant(request, model, session, golden, source)
            self.files[variant.file] = model.read_bytes()
            self.files[variant.golden.file] = save_arrays(outputs)
            if variant.id in {other.id for other in self.variants}:
                raise UsageError(
                    f"two models would be the variant {variant.id}",
                    where=str(model),
                    fix="a bundle holds one model of each format and precision",
                )
            self.variants.append(variant)
            progress(f"variant {variant.id}: golden outputs computed")
        self.files[_STATISTICS] = self._statistics(source)

    def write(self) -> Manifest:
        """Write the file, and tell what it holds."""
        request = self.request
        created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.files[_BOM] = ml_bom(
            name=request.name,
            version=request.version,
            task=request.task,
            created=created,
            files={v.file: entry_of(self.files[v.file]).sha256 for v in self.variants},
            tools=tool_versions(),
            licences=request.licences,
            data=(request.data.name, self.data.sha256),
            accuracies={
                v.file: (v.accuracy.metric, v.accuracy.value)
                for v in self.variants
                if v.accuracy is not None
            },
        )
        manifest = Manifest(
            name=request.name,
            version=request.version,
            task=request.task,
            description=request.description,
            created=created,
            inputs=self.fitted.inputs,
            outputs=self.fitted.outputs,
            preprocessing=self.fitted.preprocessing,
            postprocessing=self.fitted.postprocessing,
            variants=tuple(self.variants),
            golden_inputs=_GOLDEN_INPUTS,
            golden_samples=self.golden_samples,
            reference_statistics=_STATISTICS,
            lineage=_lineage(request, self.pipeline, self.data.sha256),
            benchmarks=request.benchmarks,
            licences=request.licences,
            bom=_BOM,
            files={path: entry_of(data) for path, data in self.files.items()},
        )
        write_bundle(request.output, manifest, self.files)
        return manifest

    def _statistics(self, source: PreparedSource) -> bytes:
        """What applications give and get: a device counts before and after its steps."""
        positions = _spread(self.data.count, _STATISTICS_SAMPLES)
        size = max(array.size for array in self.data.take([0]).values())
        few = _spread(self.data.count, max(1, min(len(positions), _STATISTICS_VALUES // size)))
        parts: list[dict[str, NDArray[Any]]] = []
        for position in positions:
            given = run_variant(self.sessions[0], self.variants[0], source.prepared([position]))
            parts.append(apply_steps(self.fitted.postprocessing, given))
        outputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return reference_statistics(self.data.take(few), outputs)


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


def _require_names(request: BundleRequest) -> None:
    """Say what is wrong before anything is computed."""
    faults = []
    if not re.fullmatch(NAME_PATTERN, request.name):
        faults.append(
            f"the name {request.name[:80]!r}: write small letters, digits, dots, dashes and "
            "underscores"
        )
    if not re.fullmatch(VERSION_PATTERN, request.version):
        faults.append(f"the version {request.version[:80]!r}: write it like 1.4.0")
    if not re.fullmatch(_TASK_PATTERN, request.task):
        faults.append(f"the task {request.task[:80]!r}: write it like object-detection")
    if faults:
        raise UsageError("this names no bundle: " + "; ".join(faults))


def _open_data(
    request: BundleRequest, pipeline: Pipeline, sessions: Sequence[Session]
) -> tuple[FittedPipeline, ApplicationData]:
    """The data, and the pipeline fitted to it and to the models."""
    inputs, outputs = (
        _common_specs([getattr(session, side) for session in sessions])
        for side in ("inputs", "outputs")
    )
    given: dict[str, str] = {}
    files: tuple[Path, ...] = ()
    if request.data.is_dir():
        if len(inputs) != 1:
            raise UsageError(
                f"a folder serves a model with one input, this one has {len(inputs)}",
                where=str(request.data),
                fix="give an .npz with an array for each input",
            )
        kind, files = find_files(request.data)
        if kind not in {step.op for step in pipeline.preprocessing}:
            if kind == "sound":
                raise UsageError(
                    "the pipeline does not say how sound becomes the input",
                    where=str(request.data),
                    fix="give its sampling rate: --sound HZ, or a step `sound`",
                )
            # Pictures need to be told nothing.
            step = Step(op=kind, tensor=inputs[0].name)
            steps = (step, *pipeline.preprocessing)
            pipeline = replace(pipeline, preprocessing=steps, implied=pipeline.implied + 1)
    elif pipeline.preprocessing:
        arrays = read_arrays(request.data, kind="bundle data")
        names, _ = name_arrays(list(arrays), inputs)
        # Nobody sends doubles because numpy made some.
        given = {
            name: arrays[key].dtype.name.replace("float64", "float32")
            for name, key in names.items()
            if key in arrays
        }
    fitted = fit_pipeline(pipeline, inputs, outputs, given=given, labels=request.labels)
    if not files:
        return fitted, ArrayData(request.data, fitted.specs)
    (spec,) = fitted.specs
    step = next(s for s in fitted.preprocessing if s.op in {"image", "sound"})
    return fitted, FileData(request.data, files, spec, step, classes=request.labels)


def _variant(
    request: BundleRequest,
    model: Path,
    session: Session,
    golden: Mapping[str, NDArray[Any]],
    source: PreparedSource,
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
        accuracy=_accuracy(session, source),
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


def _spread(count: int, most: int) -> list[int]:
    # Evenly over the whole data: sorted by class it would otherwise give one class.
    return [int(p) for p in np.unique(np.linspace(0, count - 1, min(most, count)).astype(int))]


def _accuracy(session: Session, source: PreparedSource) -> Accuracy | None:
    dataset = source.evaluation_set(session.inputs)
    if dataset.labels is None:
        return None
    measured = evaluate_top1(session, dataset)
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


def _common_specs(sides: Sequence[Sequence[TensorSpec]]) -> tuple[TensorSpec, ...]:
    # An axis that any variant leaves free is free: quantizers fix the outputs' batch in passing.
    return tuple(
        TensorSpec(
            name=specs[0].name,
            dtype=specs[0].dtype,
            shape=tuple(
                None if None in sizes else sizes[0]
                for sizes in zip(*(spec.shape for spec in specs), strict=True)
            ),
        )
        for specs in zip(*sides, strict=True)
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


def _lineage(request: BundleRequest, pipeline: Pipeline, data_sha256: str) -> dict[str, object]:
    lineage: dict[str, object] = {
        "tools": tool_versions(),
        "data": {"file": request.data.name, "sha256": data_sha256},
        "models": [{"file": model.name, "sha256": sha256_of(model)} for model in request.models],
    }
    revision = _revision(request.models[0].parent)
    if revision:
        lineage["revision"] = revision
    if pipeline.where:
        lineage["pipeline"] = {"file": Path(pipeline.where).name, "sha256": pipeline.sha256}
    if request.source:
        require_file(request.source, kind="the source model")
        lineage["source"] = {"file": request.source.name, "sha256": sha256_of(request.source)}
    return lineage


def _revision(folder: Path) -> str:
    """The git revision of a folder, and whether files differ from it; "" where there is none."""
    try:
        commit, changes = (
            subprocess.run(
                ["git", "-c", "core.fsmonitor=false", "-C", str(folder), *arguments],  # noqa: S607
                capture_output=True,
                text=True,
                timeout=_GIT_SECONDS,
                check=True,
            ).stdout.strip()
            for arguments in (
                ["rev-parse", "HEAD"],
                ["status", "--porcelain", "--untracked-files=no"],
            )
        )
    except (OSError, subprocess.SubprocessError):
        # No git, no repository, or one that takes too long: a bundle is made all the same.
        return ""
    return f"{commit} with changes" if changes else commit
