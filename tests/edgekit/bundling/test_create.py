"""Bundles: made from models and data, and proven as a device proves them."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekit.bundling.create import BundleRequest, create_bundle, prove_bundle
from edgekit.bundling.statistics import summarise
from edgekit_runtime.bundle.archive import BundleArchive, entry_of, write_bundle
from edgekit_runtime.errors import GateFailedError, UnsupportedModelError, UsageError
from runtime.models import INPUTS, WEIGHTS, linear_model


@pytest.fixture
def request_(tmp_path: Path) -> BundleRequest:
    labels = (INPUTS @ WEIGHTS).argmax(axis=1)
    labels[0] = 1 - labels[0]
    np.savez(tmp_path / "data.npz", x=INPUTS, labels=labels)
    return BundleRequest(
        name="linear",
        version="1.2.0",
        models=(linear_model(tmp_path / "linear.onnx"),),
        data=tmp_path / "data.npz",
        output=tmp_path / "linear.ekb",
        labels=("left", "right"),
        golden_samples=3,
        licences=("Apache-2.0",),
    )


def test_a_bundle_holds_what_was_measured(request_: BundleRequest, tmp_path: Path) -> None:
    create_bundle(request_)
    with BundleArchive(request_.output) as archive:
        manifest = archive.manifest
        statistics = json.loads(archive.read("reference/statistics.json"))
        bom = json.loads(archive.read("bom.cdx.json"))
    (variant,) = manifest.variants
    assert variant.id == "onnx-float32"
    assert variant.accuracy is not None
    assert variant.accuracy.value == pytest.approx(3 / 4)
    assert variant.accuracy.samples == 4
    assert variant.proven_on[0].startswith("onnxruntime ")
    assert manifest.golden_samples == 3
    assert manifest.outputs[0].labels == ("left", "right")
    assert manifest.lineage["models"] == [
        {"file": "linear.onnx", "sha256": entry_of(request_.models[0].read_bytes()).sha256}
    ]
    assert statistics["inputs"]["x"]["mean"] == pytest.approx(INPUTS.mean())
    assert sum(statistics["largest"]["scores"]) == len(INPUTS)
    assert bom["specVersion"] == "1.6"
    subject = bom["metadata"]["component"]
    assert subject["type"] == "machine-learning-model"
    (figure,) = subject["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert figure == {"type": "top1", "value": "0.75", "slice": "variants/onnx-float32.onnx"}
    parts = {item["name"]: item["hashes"][0]["content"] for item in bom["components"]}
    assert parts == {
        "variants/onnx-float32.onnx": manifest.files["variants/onnx-float32.onnx"].sha256,
        "data.npz": manifest.lineage["data"]["sha256"],
    }


def test_the_revision_of_the_models_is_told(request_: BundleRequest, tmp_path: Path) -> None:
    git = shutil.which("git")
    if git is None:
        pytest.skip("git is not installed")
    assert "revision" not in create_bundle(request_).lineage

    def run(*arguments: str) -> str:
        names = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        done = subprocess.run(
            [git, *names, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    run("init", "-q")
    run("add", "linear.onnx")
    run("commit", "-q", "-m", "one")
    commit = run("rev-parse", "HEAD")
    assert create_bundle(request_).lineage["revision"] == commit
    linear_model(request_.models[0], WEIGHTS * 2)
    assert create_bundle(request_).lineage["revision"] == f"{commit} with changes"


def test_it_proves_itself_here(request_: BundleRequest, tmp_path: Path) -> None:
    create_bundle(request_)
    folder = tmp_path / "proof"
    folder.mkdir()
    (proven,) = prove_bundle(request_.output, folder)
    assert proven.results[0].samples == 3
    assert proven.results[0].failed == 0


def test_other_weights_do_not_pass(request_: BundleRequest, tmp_path: Path) -> None:
    manifest = create_bundle(request_)
    with BundleArchive(request_.output) as archive:
        files = {name: archive.read(name) for name in manifest.files}
    other = linear_model(tmp_path / "other.onnx", WEIGHTS * 0)
    files["variants/onnx-float32.onnx"] = other.read_bytes()
    entries = {name: entry_of(data) for name, data in files.items()}
    write_bundle(request_.output, replace(manifest, files=entries), files)
    folder = tmp_path / "proof"
    folder.mkdir()
    with pytest.raises(GateFailedError, match="golden samples do not match"):
        prove_bundle(request_.output, folder)


def test_variants_must_agree_on_their_tensors(request_: BundleRequest, tmp_path: Path) -> None:
    import onnx

    model = onnx.load(str(request_.models[0]))
    model.graph.input[0].name = model.graph.node[0].input[0] = "y"
    onnx.save(model, str(tmp_path / "other.onnx"))
    request = replace(request_, models=(*request_.models, tmp_path / "other.onnx"))
    with pytest.raises(UsageError, match="same tensors: inputs: y float32 here, x float32 in"):
        create_bundle(request)
    assert not request_.output.exists()


def test_two_variants_of_one_kind_are_refused(request_: BundleRequest) -> None:
    with pytest.raises(UsageError, match="onnx-float32"):
        create_bundle(replace(request_, models=request_.models * 2))


def test_no_models_and_no_model(request_: BundleRequest, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least one model"):
        create_bundle(replace(request_, models=()))
    (tmp_path / "x.onnx").write_text("nothing")
    with pytest.raises(UnsupportedModelError):
        create_bundle(replace(request_, models=(tmp_path / "x.onnx",)))


def test_quantiles_describe_the_values() -> None:
    summary = summarise(np.arange(101, dtype=np.float32))
    assert summary["count"] == 101
    assert summary["quantiles"] == pytest.approx(list(range(0, 101, 5)))
