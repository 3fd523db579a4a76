"""tflite-runtime 2.14 computes dynamic int8 wrongly and says nothing: golden samples find it.

The test with the real engine needs an interpreter that has it, which EDGEKIT_TFLITE_RUNTIME_PYTHON
names: `pip install tflite-runtime==2.14.0 "numpy<2"` in an environment of Python 3.11 or older.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekit_agent import trial
from edgekit_agent.hardware import Hardware
from edgekit_agent.plans import ModelPlan
from edgekit_agent.trial import TrialOutcome, run_trial
from edgekit_runtime.bundle.archive import entry_of
from edgekit_runtime.bundle.golden import save_arrays
from edgekit_runtime.bundle.manifest import (
    MANIFEST_NAME,
    Binding,
    TensorContract,
    parse_manifest,
)
from edgekit_runtime.formats import ModelFormat
from edgekit_runtime.session import open_session
from tests.simulators.signed_fleet import SignedFleet
from tests.simulators.tiny_bundles import GOLDEN, affine_model, bundle_files
from tests.simulators.update_engine import UpdateEngine

ROOT = Path(__file__).resolve().parents[2]
OLD_PYTHON = os.environ.get("EDGEKIT_TFLITE_RUNTIME_PYTHON", "")
OLD_DEVICE = Hardware(
    architecture="armv7l",
    ram_bytes=1 << 30,
    runtimes={"tflite-runtime": "2.14.0"},
    python="3.11",
)
ENGINES = ("litert", "tflite-runtime")


def install(folder: Path, files: dict[str, bytes], trial_of) -> UpdateEngine:
    fleet = SignedFleet()
    fleet.release("m", "1.0.0", files)
    engine = UpdateEngine(folder, fleet, hardware=OLD_DEVICE)
    engine.trial = trial_of
    engine.start()
    engine.order("1.0.0", order_version=1)
    return engine


def assert_float_runs_and_it_was_told(engine: UpdateEngine) -> None:
    active = engine.updates.records["m"].active
    assert active is not None
    assert active.variant == "float32"
    told = [event for event in engine.events if event.startswith("update.variant_failed")]
    assert len(told) == 1
    assert "variant int8-dynamic: golden samples do not match" in told[0]


def test_the_next_variant_is_chosen_when_the_golden_samples_refuse_the_best(
    tmp_path: Path,
) -> None:
    models = [("int8-dynamic", affine_model(2.0, 1e-9)), ("float32", affine_model(2.0))]
    files = bundle_files("m", "1.0.0", models, expected=GOLDEN * 2, runtimes=ENGINES)

    def old_engine(plan: ModelPlan, _budget: object, **_: object) -> TrialOutcome:
        assert plan.runtime == "tflite-runtime"
        wrong = plan.variant == "int8-dynamic"
        return TrialOutcome(
            passed=not wrong, reason="golden samples do not match: y" if wrong else ""
        )

    assert_float_runs_and_it_was_told(install(tmp_path, files, old_engine))


@pytest.mark.slow
@pytest.mark.skipif(
    not OLD_PYTHON, reason="EDGEKIT_TFLITE_RUNTIME_PYTHON names no Python with tflite-runtime"
)
def test_the_real_engine_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = digits_bundle(tmp_path)
    monkeypatch.setattr(trial.sys, "executable", OLD_PYTHON)  # type: ignore[attr-defined]
    paths = [str(ROOT / "runtime"), str(ROOT / "device_agent")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    assert_float_runs_and_it_was_told(install(tmp_path / "device", files, run_trial))


def digits_bundle(folder: Path) -> dict[str, bytes]:
    """The digits model for LiteRT in two precisions, as a tool that knows no old engines has it."""
    from click.testing import CliRunner

    from edgekit.cli import edgekit

    source = ROOT / "examples" / "digits" / "assets"
    done = CliRunner().invoke(
        edgekit,
        ["convert", str(source / "digits_v2.onnx"), "--to", "tflite", "--with-float",
         "--quantize", "int8-dynamic", "-o", str(folder / "out")],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    models = [
        ("int8-dynamic", with_old_versions(folder / "out" / "digits_v2-int8-dynamic.tflite")),
        ("float32", (folder / "out" / "digits_v2.tflite").read_bytes()),
    ]
    with np.load(source / "test.npz") as arrays:
        golden = arrays["image"][:4].astype(np.float32)
    session = open_session(folder / "out" / "digits_v2.tflite", runtime="litert")
    (given,), (made,) = session.inputs, session.outputs
    expected = np.concatenate(
        [session.run({given.name: golden[n : n + 1]})[made.name] for n in range(len(golden))]
    )
    files = bundle_files("m", "1.0.0", models, expected=expected, golden=golden, runtimes=ENGINES)
    manifest = parse_manifest(files[MANIFEST_NAME], where="test")
    files["golden/inputs.npz"] = save_arrays({"x": golden})
    manifest.files["golden/inputs.npz"] = entry_of(files["golden/inputs.npz"])
    files[MANIFEST_NAME] = replace(
        manifest,
        inputs=(TensorContract(name="x", dtype="float32", shape=(None, *golden.shape[1:])),),
        outputs=(TensorContract(name="y", dtype="float32", shape=(None, *expected.shape[1:])),),
        variants=tuple(
            replace(
                variant,
                format=ModelFormat("tflite"),
                inputs={"x": Binding(tensor=given.name)},
                outputs={"y": Binding(tensor=made.name)},
                golden=replace(variant.golden, atol=0.2, rtol=0.05),
            )
            for variant in manifest.variants
        ),
    ).to_json()
    return files


def with_old_versions(path: Path) -> bytes:
    """Without the versions of operators by which edgekit keeps such files from old engines."""
    import ai_edge_litert.schema_py_generated as schema
    import flatbuffers

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes(), 0))
    for code in model.operatorCodes:
        code.version = min(code.version, 5)
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())
