"""Random models in every scheme: both engines load what is written, and answer in its shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.random_graphs.grow import grow
from edgekit_converters.litert.compile import compile_to_litert
from edgekit_converters.normalise import normalise
from edgekit_converters.quantize.plan import Io, QuantizationPlan
from edgekit_converters.quantize.scheme import Scheme
from edgekit_converters.quantize.source import float_source
from edgekit_converters.quantize.write_litert import write_litert
from edgekit_converters.quantize.write_onnx import write_onnx
from edgekit_converters.ranges import DEFAULT_METHOD, collect_ranges
from edgekit_runtime.errors import UnsupportedModelError
from edgekit_runtime.session import open_session
from tests.converters.quantize.measured import run_onnx

FAMILIES = [
    ("products",), ("windows", "products"), ("products", "elementwise", "moving"),
    ("blocks", "products"), ("windows", "reducing", "products"), ("states", "products"),
]  # fmt: skip
SEEDS = 12
WAYS: list[tuple[Scheme, Io]] = [
    *((scheme, "float") for scheme in Scheme),
    *((scheme, "int8") for scheme in Scheme if scheme.needs_ranges),
]


def prepared(seed: int, families: tuple[str, ...]) -> tuple[Any, dict[str, Any]] | None:
    """A float model and inputs; None where the seed gives no model that onnxruntime runs."""
    draft = grow(seed, families=families)
    try:
        model = normalise(draft.model(), where="random")
        run_onnx(model, draft.feeds(0))
    except Exception:  # noqa: BLE001 - not every draft is a model
        return None
    return model, draft.feeds(0)


@pytest.mark.slow
@pytest.mark.parametrize("families", FAMILIES, ids="-".join)
def test_engines_load_what_is_written(families: tuple[str, ...], tmp_path: Path) -> None:
    written = 0
    for seed in range(7000, 7000 + SEEDS):
        found = prepared(seed, families)
        if found is None:
            continue
        plain, feeds = found
        samples = {name: array for name, array in feeds.items() if array.dtype == np.float32}
        model, _ = float_source(plain, where="random", samples=samples)
        expected = run_onnx(plain, feeds)
        seen = collect_ranges(model, [feeds])
        try:
            compiled = compile_to_litert(model, where="random")
        except UnsupportedModelError:
            compiled = None
        for scheme, io in WAYS:
            steps = scheme.activation_steps
            ranges = {n: v.range(DEFAULT_METHOD, steps=steps) for n, v in seen.items() if v.finite}
            plan = QuantizationPlan(
                scheme=scheme, ranges=ranges if scheme.needs_ranges else {}, io=io
            )
            for suffix in (".onnx", ".tflite"):
                path = tmp_path / f"m{suffix}"
                try:
                    if suffix == ".onnx":
                        write_onnx(model, plan, path, where="random")
                    elif compiled is not None:
                        write_litert(compiled, plan, path, where="random", normalised=model)
                    else:
                        continue
                except UnsupportedModelError:
                    # Nothing to quantize, or not what the border asks for.
                    continue
                session = open_session(path)
                written += 1
                if io == "float":
                    computed = session.run(feeds)
                    for name, values in expected.items():
                        assert computed[name].shape == values.shape, (seed, scheme, suffix)
                        assert computed[name].dtype == values.dtype, (seed, scheme, suffix)
                session.close()
    assert written >= SEEDS
