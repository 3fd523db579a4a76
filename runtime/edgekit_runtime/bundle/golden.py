"""Golden samples: does this device compute what the workstation computed?"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgekit_runtime.errors import GateFailedError, InvalidBundleError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit_runtime.bundle.manifest import GoldenOutputs, Variant
    from edgekit_runtime.session import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenResult:
    """How one output compared over all golden samples.

    Attributes:
        output: The bundle's name of the output.
        samples: How many were compared.
        failed: How many were outside the tolerance.
        max_abs_error: The largest difference, in the output's unit; infinite if one is no number.
        allowed: The tolerance, for people.
    """

    output: str
    samples: int
    failed: int
    max_abs_error: float
    allowed: str


def load_arrays(data: bytes, *, where: str) -> dict[str, NDArray[np.generic]]:
    """Read an `.npz` that came from outside; never unpickles.

    Raises:
        InvalidBundleError: If it is damaged or holds Python objects.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception as error:  # zipfile and numpy raise a dozen kinds
        raise InvalidBundleError(f"the arrays cannot be read: {error}", where=where) from error


def save_arrays(arrays: Mapping[str, NDArray[np.generic]]) -> bytes:
    """Write an `.npz`; the same arrays give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression=zipfile.ZIP_STORED) as archive:
        for name, array in sorted(arrays.items()):
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(
                zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), member.getvalue()
            )
    return buffer.getvalue()


def samples_of(
    arrays: Mapping[str, NDArray[np.generic]],
) -> Iterator[dict[str, NDArray[np.generic]]]:
    """Each sample in turn, as a batch of one; samples lie along the first axis."""
    count = min((len(array) for array in arrays.values()), default=0)
    for position in range(count):
        yield {name: array[position : position + 1] for name, array in arrays.items()}


def run_variant(
    session: Session, variant: Variant, inputs: Mapping[str, NDArray[np.generic]]
) -> dict[str, NDArray[np.generic]]:
    """Run a model by the bundle's names: inputs bound and transposed, outputs likewise.

    Args:
        session: The variant's model, loaded.
        variant: Whose bindings apply.
        inputs: Bundle input name to array.

    Returns:
        Bundle output name to array.
    """
    fed = {}
    for name, binding in variant.inputs.items():
        array = inputs[name]
        fed[binding.tensor] = (
            np.ascontiguousarray(array.transpose(binding.transpose)) if binding.transpose else array
        )
    given = session.run(fed)
    outputs = {}
    for name, binding in variant.outputs.items():
        array = given[binding.tensor]
        if binding.transpose:
            array = array.transpose(np.argsort(binding.transpose))
        outputs[name] = array
    return outputs


def compare(
    expected: Mapping[str, NDArray[np.generic]],
    actual: Mapping[str, NDArray[np.generic]],
    golden: GoldenOutputs,
) -> tuple[GoldenResult, ...]:
    """Compare outputs over all samples: |actual - expected| <= atol + rtol * |expected|.

    Args:
        expected: As stored in the bundle, samples along the first axis.
        actual: As computed here.
        golden: The tolerances.

    Raises:
        InvalidBundleError: If an output is missing or has another shape.
    """
    results = []
    for name, reference in sorted(expected.items()):
        found = actual.get(name)
        if found is None or found.shape != reference.shape:
            raise InvalidBundleError(
                f"the golden output {name!r} does not fit what the model gives", where=golden.file
            )
        wanted = reference.astype(np.float64)
        difference = np.abs(found.astype(np.float64) - wanted)
        # Written so that NaN fails: a comparison with NaN is false.
        good = difference <= golden.atol + golden.rtol * np.abs(wanted)
        per_sample = good.reshape(len(reference), -1).all(axis=1)
        worst = float(np.max(difference, initial=0.0)) if difference.size else 0.0
        results.append(
            GoldenResult(
                output=name,
                samples=len(reference),
                failed=int((~per_sample).sum()),
                max_abs_error=worst if np.isfinite(worst) else float("inf"),
                allowed=f"{golden.atol:g} + {golden.rtol:g} x |expected|",
            )
        )
    return tuple(results)


def prove(
    session: Session,
    variant: Variant,
    inputs: Mapping[str, NDArray[np.generic]],
    expected: Mapping[str, NDArray[np.generic]],
) -> tuple[GoldenResult, ...]:
    """Run the golden samples and compare.

    Raises:
        GateFailedError: If an output is outside its tolerance; says by how much.
        InvalidBundleError: If samples and outputs do not fit together.
    """
    computed: dict[str, list[NDArray[np.generic]]] = {name: [] for name in variant.outputs}
    for sample in samples_of(inputs):
        for name, array in run_variant(session, variant, sample).items():
            computed[name].append(array)
    actual = {name: np.concatenate(parts) for name, parts in computed.items() if parts}
    results = compare(expected, actual, variant.golden)
    if set(expected) != set(variant.outputs) or not all(result.samples for result in results):
        raise InvalidBundleError("a golden output is missing", where=variant.golden.file)
    failed = [result for result in results if result.failed]
    if failed:
        raise GateFailedError(
            "golden samples do not match: "
            + "; ".join(
                f"{r.output}: {r.failed} of {r.samples} samples differ, by up to "
                f"{r.max_abs_error:.4g} where {r.allowed} is allowed"
                for r in failed
            ),
            where=f"variant {variant.id} on {session.runtime.name} {session.runtime.version}",
            fix="keep the version that runs; make the bundle again from the model it was made for",
        )
    return results
