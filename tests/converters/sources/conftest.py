from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgekit_converters.convert import ConversionReport, ConversionRequest, Precision, convert_model
from edgekit_converters.sources import read
from edgekit_converters.sources.options import SourceOptions, parse_input_shape
from edgekit_runtime.formats import ModelFormat
from edgekit_runtime.session import Session, open_session

Convert = Callable[..., tuple[Session, ConversionReport]]


@pytest.fixture
def convert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Convert:
    """Convert a source to one float file; returns what runs it, and the report.

    The source is read in this process, which has its framework already.
    """

    def import_here(source: Path, kind: Any, options: Any, progress: Any) -> Any:
        return read.reader(kind)(source, options, progress)

    monkeypatch.setattr(read, "import_in_process", import_here)
    return _converter(tmp_path)


@pytest.fixture
def convert_apart(tmp_path: Path) -> Convert:
    """The same, reading the source in a process of its own, as users do."""
    return _converter(tmp_path)


def _converter(tmp_path: Path) -> Convert:

    def made(
        source: Path | str,
        *shapes: str,
        target: ModelFormat = ModelFormat.ONNX,
        layout: Any = None,
        **options: Any,
    ) -> tuple[Session, ConversionReport]:
        output = tmp_path / f"made{target.suffix}"
        request = ConversionRequest(
            source=Path(source),
            output=output,
            targets=(target,),
            precisions=(Precision.FLOAT32,),
            options=SourceOptions(shapes=tuple(map(parse_input_shape, shapes)), **options),
            **({"layout": layout} if layout else {}),
        )
        report = convert_model(request)
        return open_session(output), report

    return made


@pytest.fixture
def calm() -> Iterator[None]:
    """Training warns about convergence and the like, which is not what is tested."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def table(kind: str) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Samples to train on: "binary", "classes" or "regression"."""
    rng = np.random.default_rng(11)
    features = rng.normal(size=(300, 6)).astype(np.float32)
    score = features[:, 0] * features[:, 1] + features[:, 2] - 0.5 * features[:, 3]
    noisy = score + rng.normal(scale=0.1, size=300)
    if kind == "binary":
        # Not at zero: there a sum of many terms is decided by its last digits.
        return features, (noisy > 0.3).astype(np.int64)
    if kind == "classes":
        return features, np.digitize(noisy, [-0.7, 0.7]).astype(np.int64)
    return features, noisy


@pytest.fixture(name="table")
def _table() -> Callable[[str], tuple[NDArray[np.float32], NDArray[Any]]]:
    return table
