"""The bill of materials, against the schema that CycloneDX publishes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.bundling.bom import ml_bom
from edgekit.bundling.create import BundleRequest, create_bundle
from edgekit_runtime.bundle.archive import BundleArchive
from runtime.models import INPUTS, linear_model

TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)


@pytest.fixture(scope="module")
def fault_of() -> Callable[[bytes], object]:
    """What is wrong with a document; None if nothing is. Strictly: no field beyond the schema's."""
    pytest.importorskip("cyclonedx", reason="brings CycloneDX's own schema")
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    validator = JsonStrictValidator(SchemaVersion.V1_6)
    return lambda document: validator.validate_str(document.decode())


@pytest.mark.parametrize("licences", [(), ("Apache-2.0", "(MIT OR BSD-2-Clause)", "Our own, §3")])
def test_a_bundles_bill_is_what_cyclonedx_publishes(
    fault_of: Callable[[bytes], object], tmp_path: Path, licences: tuple[str, ...]
) -> None:
    np.savez(tmp_path / "data.npz", x=INPUTS)
    request = BundleRequest(
        name="linear",
        version="1.2.0-rc.1+build.7",
        models=(linear_model(tmp_path / "linear.onnx"),),
        data=tmp_path / "data.npz",
        output=tmp_path / "linear.ekb",
        golden_samples=3,
        licences=licences,
    )
    create_bundle(request)
    with BundleArchive(request.output) as archive:
        bill = archive.read("bom.cdx.json")
    assert fault_of(bill) is None
    # The same check finds a field that no bill has, and a hash that is none.
    assert fault_of(bill.replace(b'"bomFormat"', b'"bombFormat"')) is not None
    assert fault_of(bill.replace(b'"alg": "SHA-256"', b'"alg": "SHA-257"')) is not None


@given(name=TEXTS, licence=TEXTS, data=TEXTS, metric=TEXTS, value=st.floats())
def test_whatever_it_is_called_the_bill_is_valid(
    fault_of: Callable[[bytes], object],
    name: str,
    licence: str,
    data: str,
    metric: str,
    value: float,
) -> None:
    bill = ml_bom(
        name=name,
        version="1.0.0",
        task="classification",
        created="2026-11-25T12:00:00Z",
        files={f"variants/{name}.onnx": "0" * 64, "variants/b.tflite": "1" * 64},
        tools={"edgekit": "0.1.0"},
        licences=[licence],
        data=(data, "2" * 64),
        accuracies={f"variants/{name}.onnx": (metric, value)},
    )
    assert fault_of(bill) is None
