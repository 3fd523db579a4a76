"""Pickles run code: refused with the reason, unless the user trusts the file."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit_runtime.errors import EnvironmentLackError, UnsupportedModelError, UsageError

joblib = pytest.importorskip("joblib", reason="needs scikit-learn: pip install 'edgekit[sklearn]'")
pytestmark = pytest.mark.usefixtures("calm")


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.makedirs, (str(self.path),))


@pytest.mark.parametrize("name", ["m.pkl", "m.joblib", "m.joblib.gz", "m.onnx", "model"])
def test_a_pickle_is_refused_before_it_runs(name: str, convert: Any, tmp_path: Path) -> None:
    source, trace = tmp_path / name, tmp_path / "trace"
    if ".joblib" in name:
        joblib.dump(Trap(trace), source)
    else:
        source.write_bytes(pickle.dumps(Trap(trace)))
    with pytest.raises(UsageError, match="run any program with your rights") as caught:
        convert(source)
    assert "--trust-pickle" in str(caught.value.fix)
    assert "skops" in str(caught.value.fix)
    assert not trace.exists()


def test_a_trusted_pickle_is_loaded(convert: Any, table: Any, tmp_path: Path) -> None:
    pytest.importorskip("skl2onnx", reason="needs skl2onnx: pip install 'edgekit[sklearn]'")
    from sklearn.linear_model import LinearRegression

    features, wanted = table("regression")
    model = LinearRegression().fit(features, wanted)
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(model))
    for compress in (0, 3, ("bz2", 3), ("xz", 3), ("gzip", 3)):
        joblib.dump(model, tmp_path / "m.joblib", compress=compress)
        for name in ("m.pkl", "m.joblib"):
            session, _ = convert(tmp_path / name, trust_pickle=True)
            answer = session.run({"features": features})["prediction"][:, 0]
            assert np.abs(answer - model.predict(features)).max() < 1e-5


def test_what_is_no_estimator(convert: Any, tmp_path: Path) -> None:
    pytest.importorskip("skl2onnx", reason="needs skl2onnx: pip install 'edgekit[sklearn]'")
    joblib.dump({"model": 1, "scaler": 2}, tmp_path / "m.joblib")
    with pytest.raises(UnsupportedModelError, match=r"builtins.dict with 'model', 'scaler'"):
        convert(tmp_path / "m.joblib", trust_pickle=True)


def test_a_damaged_pickle(convert: Any, tmp_path: Path) -> None:
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(list(range(1000)))[:400])
    with pytest.raises(UnsupportedModelError, match="cannot be loaded"):
        convert(tmp_path / "m.pkl", trust_pickle=True)


def test_a_pickle_that_needs_a_package(convert: Any, tmp_path: Path) -> None:
    code = (
        "import sys, types, pickle\n"
        "module = types.ModuleType('absent_package'); sys.modules['absent_package'] = module\n"
        "module.Model = type('Model', (), {'__module__': 'absent_package'})\n"
        "sys.stdout.buffer.write(pickle.dumps(module.Model()))\n"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    (tmp_path / "m.pkl").write_bytes(made.stdout)
    with pytest.raises(EnvironmentLackError, match="absent_package"):
        convert(tmp_path / "m.pkl", trust_pickle=True)
