"""The bundle's manifest, version 1: parsed once, strictly, into frozen dataclasses.

The published form is `schema/manifest-v1.schema.json` beside this module.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Final

from edgekit_runtime.errors import InvalidBundleError
from edgekit_runtime.fields import FieldReader, open_document
from edgekit_runtime.formats import ModelFormat
from edgekit_runtime.limits import MAX_BUNDLE_FILES, MAX_FILE_BYTES, MAX_MANIFEST_BYTES
from edgekit_runtime.versions import VERSION_PATTERN

FORMAT: Final = "edgekit-bundle"
FORMAT_VERSION: Final = 1
MANIFEST_NAME: Final = "manifest.json"
# Files of a device's own, beside those of an installed bundle: no bundle may hold one of them.
SLOT_FILE: Final = "slot.json"
PROVEN_FILE: Final = "proven.json"
INDEX_FILE: Final = "index.json"
RESERVED_NAMES: Final = frozenset({MANIFEST_NAME, SLOT_FILE, PROVEN_FILE, INDEX_FILE})
NAME_PATTERN: Final = r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?"
_SHA256_PATTERN = r"[0-9a-f]{64}"
_DTYPE_PATTERN = r"float16|float32|float64|u?int(?:8|16|32|64)|bool"
_MAX_RANK = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorContract:
    """An input or output as applications see it, the same for every variant.

    Attributes:
        name: The bundle's own name for it.
        dtype: A numpy type name.
        shape: One entry an axis; None where the size is free.
        meaning: For people: "grey image, 0 black to 1 white".
        labels: Names of the entries along the last axis, where it counts classes.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    meaning: str = ""
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of the declarative pre- or postprocessing; see `edgekit_runtime.processing`.

    Attributes:
        op: The step's registered name.
        tensor: The input or output that it changes.
        parameters: Its numbers and words, by name.
    """

    op: str
    tensor: str
    parameters: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """How a bundle's tensor reaches a variant's own tensor.

    Attributes:
        tensor: The name inside the model file.
        transpose: Axis order to apply on the way in (inverted on the way out); empty for none.
    """

    tensor: str
    transpose: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """What a device must have to run a variant.

    Attributes:
        runtimes: Engines that run it, the best first: "onnxruntime", "litert".
        architectures: As `platform.machine()` says them; empty for any.
        ram_bytes: Peak memory of the model above the engine's own; 0 if unknown.
    """

    runtimes: tuple[str, ...]
    architectures: tuple[str, ...] = ()
    ram_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """A measured accuracy.

    Attributes:
        metric: "top1".
        value: In the metric's own unit; for "top1" a share of 1.
        samples: How many samples it was measured on.
        dataset_sha256: Of the evaluation file.
    """

    metric: str
    value: float
    samples: int
    dataset_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenOutputs:
    """What a variant gave on the workstation for the golden inputs.

    Attributes:
        file: An `.npz` in the bundle, an array for each output.
        atol: Largest absolute difference that a device may show, in the output's unit.
        rtol: Largest difference relative to the expected value.
    """

    file: str
    atol: float
    rtol: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One model file of the bundle, with what it needs and how it did.

    Attributes:
        id: Unique in the bundle: "litert-int8".
        format: Of the model file.
        precision: "float32", "int8".
        file: Its path in the bundle.
        inputs: For each bundle input, the model's own tensor.
        outputs: For each bundle output, the model's own tensor.
        requires: What a device must have.
        golden: The expected outputs.
        proven_on: Engines and versions that reproduced the golden outputs: "litert 2.3.0".
        accuracy: As measured when the bundle was made; None if it was not.
    """

    id: str
    format: ModelFormat
    precision: str
    file: str
    inputs: dict[str, Binding]
    outputs: dict[str, Binding]
    requires: Requirements
    golden: GoldenOutputs
    proven_on: tuple[str, ...] = ()
    accuracy: Accuracy | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """A file of the bundle: its content's hash and length."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a bundle holds and where it came from.

    Attributes:
        name: Of the model, the same for all its versions.
        version: A semantic version.
        task: "classification", "regression", ….
        created: RFC 3339, UTC.
        inputs: What applications give.
        outputs: What they get.
        preprocessing: Steps between an application's input and the model.
        postprocessing: Steps between the model and an application's output.
        variants: The best first; a device takes the first that fits it.
        golden_inputs: An `.npz` in the bundle, an array for each input, samples first.
        golden_samples: How many there are.
        reference_statistics: A JSON file in the bundle: what inputs and outputs looked like.
        lineage: Where the model came from: hashes, tools, revision.
        benchmarks: Results of `edgekit bench`.
        licences: SPDX expressions or names, of the model and its data.
        bom: A CycloneDX ML-BOM in the bundle.
        files: Every file but the manifest.
        description: For people.
    """

    name: str
    version: str
    task: str
    created: str
    inputs: tuple[TensorContract, ...]
    outputs: tuple[TensorContract, ...]
    variants: tuple[Variant, ...]
    golden_inputs: str
    golden_samples: int
    files: dict[str, FileEntry]
    preprocessing: tuple[Step, ...] = ()
    postprocessing: tuple[Step, ...] = ()
    reference_statistics: str | None = None
    lineage: dict[str, object] = field(default_factory=dict)
    benchmarks: tuple[dict[str, object], ...] = ()
    licences: tuple[str, ...] = ()
    bom: str | None = None
    description: str = ""

    def variant(self, identifier: str) -> Variant:
        """The variant of that id.

        Raises:
            InvalidBundleError: If there is none.
        """
        for variant in self.variants:
            if variant.id == identifier:
                return variant
        known = ", ".join(variant.id for variant in self.variants)
        raise InvalidBundleError(
            f"the bundle has no variant {identifier!r}", where=self.name, fix=f"it has: {known}"
        )

    def files_for(self, variant: Variant) -> tuple[str, ...]:
        """The files, beside the manifest, that a device needs to prove and run one variant."""
        wanted = [variant.file, self.golden_inputs, variant.golden.file]
        if self.reference_statistics:
            wanted.append(self.reference_statistics)
        return tuple(wanted)

    def to_json(self) -> bytes:
        """The manifest as it stands in a bundle."""
        document = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "name": self.name,
            "version": self.version,
            "task": self.task,
            "description": self.description,
            "created": self.created,
            "inputs": [_contract_json(item) for item in self.inputs],
            "outputs": [_contract_json(item) for item in self.outputs],
            "preprocessing": [_step_json(step) for step in self.preprocessing],
            "postprocessing": [_step_json(step) for step in self.postprocessing],
            "variants": [_variant_json(variant) for variant in self.variants],
            "golden": {"inputs": self.golden_inputs, "samples": self.golden_samples},
            "lineage": self.lineage,
            "benchmarks": list(self.benchmarks),
            "licences": list(self.licences),
            "files": {
                path: {"sha256": entry.sha256, "size_bytes": entry.size_bytes}
                for path, entry in sorted(self.files.items())
            },
        }
        if self.reference_statistics:
            document["reference_statistics"] = self.reference_statistics
        if self.bom:
            document["bom"] = self.bom
        return json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"


def parse_manifest(data: bytes, *, where: str) -> Manifest:
    """Read a manifest.

    Args:
        data: The bytes of `manifest.json`.
        where: The bundle, for the error.

    Raises:
        InvalidBundleError: If it breaks the format; every invalid field is named.
    """
    reader = open_document(
        data,
        name="manifest",
        form=(FORMAT, FORMAT_VERSION),
        most_bytes=MAX_MANIFEST_BYTES,
        error=InvalidBundleError,
        where=where,
        fix="make the bundle with this version of edgekit, or update edgekit here",
    )
    manifest = _read_manifest(reader)
    if not reader.faults:
        _check_references(reader, manifest)
    if reader.faults:
        raise InvalidBundleError(
            "the manifest is invalid: " + "; ".join(reader.faults), where=where
        )
    return manifest


def is_safe_path(path: str) -> bool:
    """Whether a bundle may hold a file of that name: relative, plain, not hidden, no way out."""
    pure = PurePosixPath(path)
    return (
        0 < len(path) <= 200  # noqa: PLR2004
        and path.isprintable()
        and "\\" not in path
        and ":" not in path
        and not pure.is_absolute()
        and not any(part.startswith(".") for part in pure.parts)
        and str(pure) == path
    )


def _read_manifest(reader: FieldReader) -> Manifest:
    golden = reader.nested("golden")
    files = reader.nested("files")
    if len(files.names()) > MAX_BUNDLE_FILES:
        reader.fault("files", f"lists more than {MAX_BUNDLE_FILES} files")
    return Manifest(
        name=reader.text("name", pattern=NAME_PATTERN),
        version=reader.text("version", pattern=VERSION_PATTERN),
        task=reader.text("task", pattern=r"[a-z][a-z0-9-]{0,62}"),
        description=reader.text("description", default=""),
        created=reader.text("created", pattern=r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"),
        inputs=reader.items("inputs", _read_contract, most=64),
        outputs=reader.items("outputs", _read_contract, most=64),
        preprocessing=reader.items("preprocessing", _read_step, optional=True, most=64),
        postprocessing=reader.items("postprocessing", _read_step, optional=True, most=64),
        variants=reader.items("variants", _read_variant, most=64),
        golden_inputs=golden.text("inputs"),
        golden_samples=golden.integer("samples", least=1, most=10_000),
        reference_statistics=_optional_text(reader, "reference_statistics"),
        lineage=_plain_object(reader, "lineage"),
        benchmarks=tuple(
            item for item in reader.sequence("benchmarks", optional=True) if isinstance(item, dict)
        ),
        licences=reader.texts("licences", optional=True),
        bom=_optional_text(reader, "bom"),
        files={name: _read_file(files.nested(name)) for name in files.names()},
    )


def _read_contract(reader: FieldReader) -> TensorContract:
    shape: list[int | None] = []
    for size in reader.sequence("shape", most=_MAX_RANK):
        if size is None or (isinstance(size, int) and not isinstance(size, bool) and size > 0):
            shape.append(size)
        else:
            reader.fault("shape", f"{size!r} is neither a positive whole number nor null")
    return TensorContract(
        name=reader.text("name", pattern=r".{1,256}"),
        dtype=reader.text("dtype", pattern=_DTYPE_PATTERN),
        shape=tuple(shape),
        meaning=reader.text("meaning", default=""),
        labels=reader.texts("labels", optional=True, most=100_000),
    )


def _read_step(reader: FieldReader) -> Step:
    return Step(
        op=reader.text("op", pattern=r"[a-z][a-z0-9_]{0,62}"),
        tensor=reader.text("tensor"),
        parameters=_plain_object(reader, "parameters"),
    )


def _read_variant(reader: FieldReader) -> Variant:
    requires = reader.nested("requires")
    golden = reader.nested("golden")
    text = reader.text("format", pattern="onnx|tflite")
    return Variant(
        id=reader.text("id", pattern=NAME_PATTERN),
        format=ModelFormat(text) if text in set(ModelFormat) else ModelFormat.ONNX,
        precision=reader.text("precision", pattern=r"[a-z0-9-]{1,32}"),
        file=reader.text("file"),
        inputs=_read_bindings(reader.nested("inputs")),
        outputs=_read_bindings(reader.nested("outputs")),
        requires=Requirements(
            runtimes=requires.texts("runtimes", most=16),
            architectures=requires.texts("architectures", optional=True, most=16),
            ram_bytes=requires.integer("ram_bytes", default=0),
        ),
        golden=GoldenOutputs(
            file=golden.text("file"),
            atol=golden.number("atol", least=0),
            rtol=golden.number("rtol", least=0),
        ),
        proven_on=reader.texts("proven_on", optional=True, most=64),
        accuracy=_read_accuracy(reader.nested("accuracy")) if reader.raw("accuracy") else None,
    )


def _read_bindings(reader: FieldReader) -> dict[str, Binding]:
    return {name: _read_binding(reader.nested(name)) for name in reader.names()}


def _read_binding(reader: FieldReader) -> Binding:
    order = reader.sequence("transpose", optional=True, most=_MAX_RANK)
    axes = tuple(axis for axis in order if isinstance(axis, int) and not isinstance(axis, bool))
    if sorted(axes) != list(range(len(order))):
        reader.fault("transpose", "must be an order of the axes: each once, from 0")
    return Binding(tensor=reader.text("tensor"), transpose=axes)


def _read_accuracy(reader: FieldReader) -> Accuracy:
    return Accuracy(
        metric=reader.text("metric"),
        value=reader.number("value"),
        samples=reader.integer("samples", least=1),
        dataset_sha256=reader.text("dataset_sha256", pattern=_SHA256_PATTERN),
    )


def _read_file(reader: FieldReader) -> FileEntry:
    return FileEntry(
        sha256=reader.text("sha256", pattern=_SHA256_PATTERN),
        size_bytes=reader.integer("size_bytes", most=MAX_FILE_BYTES),
    )


def _check_references(reader: FieldReader, manifest: Manifest) -> None:
    for path in manifest.files:
        if not is_safe_path(path):
            reader.fault("files", f"{path!r} is not a safe relative path")
        elif path in RESERVED_NAMES:
            reader.fault("files", f"{path!r} is the name of a file of our own")
    if not manifest.variants:
        reader.fault("variants", "must hold at least one")
    if len({variant.id for variant in manifest.variants}) != len(manifest.variants):
        reader.fault("variants", "uses an id twice")
    _check_files(reader, manifest)
    _check_tensors(
        reader,
        ("inputs", "preprocessing"),
        manifest.inputs,
        manifest.preprocessing,
        {variant.id: set(variant.inputs) for variant in manifest.variants},
    )
    _check_tensors(
        reader,
        ("outputs", "postprocessing"),
        manifest.outputs,
        manifest.postprocessing,
        {variant.id: set(variant.outputs) for variant in manifest.variants},
    )


def _check_tensors(
    reader: FieldReader,
    fields: tuple[str, str],
    contracts: tuple[TensorContract, ...],
    steps: tuple[Step, ...],
    bound: dict[str, set[str]],
) -> None:
    side, processing = fields
    names = {item.name for item in contracts}
    if not contracts:
        reader.fault(side, "must name at least one tensor")
    if len(names) != len(contracts):
        reader.fault(side, "names a tensor twice")
    for identifier, held in bound.items():
        if held != names:
            reader.fault(f"variants.{identifier}.{side}", f"must bind exactly {sorted(names)}")
    for step in steps:
        if step.tensor not in names:
            reader.fault(processing, f"{step.op} names an unknown tensor {step.tensor!r}")


def _check_files(reader: FieldReader, manifest: Manifest) -> None:
    needed = {"golden.inputs": manifest.golden_inputs}
    if manifest.reference_statistics:
        needed["reference_statistics"] = manifest.reference_statistics
    if manifest.bom:
        needed["bom"] = manifest.bom
    for variant in manifest.variants:
        needed[f"variants.{variant.id}.file"] = variant.file
        needed[f"variants.{variant.id}.golden.file"] = variant.golden.file
    for place, path in needed.items():
        if path not in manifest.files:
            reader.fault(place, f"{path!r} is not among the files")


def _optional_text(reader: FieldReader, name: str) -> str | None:
    return None if reader.raw(name) is None else reader.text(name)


def _plain_object(reader: FieldReader, name: str) -> dict[str, object]:
    value = reader.raw(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        reader.fault(name, "must be an object")
        return {}
    return value


def _contract_json(item: TensorContract) -> dict[str, object]:
    document: dict[str, object] = {
        "name": item.name,
        "dtype": item.dtype,
        "shape": list(item.shape),
        "meaning": item.meaning,
    }
    if item.labels:
        document["labels"] = list(item.labels)
    return document


def _step_json(step: Step) -> dict[str, object]:
    return {"op": step.op, "tensor": step.tensor, "parameters": step.parameters}


def _bindings_json(bindings: dict[str, Binding]) -> dict[str, object]:
    return {
        name: {"tensor": binding.tensor}
        | ({"transpose": list(binding.transpose)} if binding.transpose else {})
        for name, binding in bindings.items()
    }


def _variant_json(variant: Variant) -> dict[str, object]:
    document: dict[str, object] = {
        "id": variant.id,
        "format": variant.format.value,
        "precision": variant.precision,
        "file": variant.file,
        "inputs": _bindings_json(variant.inputs),
        "outputs": _bindings_json(variant.outputs),
        "requires": {
            "runtimes": list(variant.requires.runtimes),
            "architectures": list(variant.requires.architectures),
            "ram_bytes": variant.requires.ram_bytes,
        },
        "golden": {
            "file": variant.golden.file,
            "atol": variant.golden.atol,
            "rtol": variant.golden.rtol,
        },
        "proven_on": list(variant.proven_on),
    }
    if variant.accuracy:
        document["accuracy"] = {
            "metric": variant.accuracy.metric,
            "value": variant.accuracy.value,
            "samples": variant.accuracy.samples,
            "dataset_sha256": variant.accuracy.dataset_sha256,
        }
    return document
