"""Samples that a function of the user yields."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgekit_converters.calibration import CalibrationSet, generated, require_data
from edgekit_converters.calibration import survey as survey_module
from edgekit_runtime.errors import UsageError
from edgekit_runtime.tensors import TensorSpec

X = TensorSpec(name="x", dtype="float32", shape=(None, 3))
Y = TensorSpec(name="y", dtype="int64", shape=(None,))

Load = Callable[..., CalibrationSet]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(body: str, *specs: TensorSpec, name: str = "shop_samples:samples") -> CalibrationSet:
        (tmp_path / "shop_samples.py").write_text(f"import numpy as np\n{body}\n")
        return CalibrationSet.load(Path(name), list(specs or [X]))

    return write


@pytest.mark.parametrize(
    "body",
    [
        "def samples():\n  for n in range(40): yield np.full(3, n)",
        "def samples():\n  for n in range(40): yield {'x': np.full((1, 3), n)}",
        "def samples():\n  for n in range(0, 40, 8): yield np.arange(n, n + 8)[:, None] + [0] * 3",
        "def samples(): return [[n] * 3 for n in range(40)]",
        "class samples:\n  def __iter__(self): return iter([[n] * 3 for n in range(40)])",
    ],
)
def test_samples_and_batches(body: str, load: Load) -> None:
    found = load(body)
    assert found.count == 40
    np.testing.assert_array_equal(found.samples.arrays["x"][:, 1], np.arange(40))
    assert len(found.samples.sha256) == 64
    assert found.warnings == ()


def test_several_inputs_and_labels(load: Load) -> None:
    found = load("def samples():\n  for n in range(40): yield {'x': [n] * 3, 'y': n}, n % 3", X, Y)
    assert found.samples.arrays["y"].tolist() == list(range(40))
    assert found.samples.labels is not None
    assert found.samples.labels[:4].tolist() == [0, 1, 2, 0]


def test_what_does_not_fit_in_memory_is_asked_for_again(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey_module, "_EXCERPT_BYTES", 120)
    monkeypatch.setattr(survey_module, "_LARGE_SAMPLES", 1)
    found = load("def samples():\n  for n in range(40): yield np.full(3, n)")
    assert found.samples.count <= 10
    values = np.concatenate([batch["x"] for batch in found.batches()])
    assert values[:40, 0].tolist() == list(range(40))


def test_a_function_without_an_end(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generated, "_MOST_SAMPLES", 50)
    found = load("def samples():\n  while True: yield np.random.rand(3)")
    assert found.count == 50
    assert any("more than 50 samples" in text for text in found.warnings)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("def samples(): return 3", "returned int"),
        ("def samples(): return []", "holds no samples"),
        ("def samples():\n  yield [1, 2, 3]\n  raise KeyError('row 7')", "KeyError: 'row 7'"),
        ("def samples(path): yield 1", "missing 1 required"),
        ("def samples():\n  yield [1, 2]", r"item 1: 'x' has shape \[1, 2\]"),
        ("def samples():\n  yield {'z': [1, 2, 3]}", "item 1: there is no array for the input 'x'"),
        ("def samples():\n  yield ['a', 'b', 'c']", "item 1: 'x' is str"),
        ("def samples():\n  yield [1, [2], 3]", "item 1 holds no plain arrays"),
        ("def samples():\n  yield [1, 2, 3]\n  yield [np.nan, 2, 3]", "first in sample 2"),
        ("def samples():\n  yield np.ones((4, 3)), [1, 2]", "different numbers of samples"),
        ("samples = 3", "int, not a function"),
        ("sample = 3", "cannot import the function: AttributeError"),
        ("raise OSError('disk')", "cannot import the function: OSError: disk"),
    ],
)
def test_functions_that_cannot_be_used(body: str, reason: str, load: Load) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        load(body)
    assert caught.value.where == "shop_samples:samples"


def test_samples_of_other_sizes(load: Load) -> None:
    free = TensorSpec(name="x", dtype="float32", shape=(None, None))
    with pytest.raises(UsageError, match=r"\[4\] a sample in item 2, and was \[3\]"):
        load("def samples():\n  yield np.ones(3)\n  yield np.ones(4)", free)


def test_arrays_alone_for_several_inputs(load: Load) -> None:
    with pytest.raises(UsageError, match="no dict of arrays"):
        load("def samples():\n  yield np.ones(3)", X, Y)


@pytest.mark.parametrize("name", ["absent_module_of_tests:f", "json:absent"])
def test_functions_that_are_not_there(name: str) -> None:
    with pytest.raises(UsageError, match="cannot import"):
        CalibrationSet.load(Path(name), [X])


def test_what_may_be_named(tmp_path: Path) -> None:
    for path in (tmp_path, Path("package.module:function"), Path("a:B.make")):
        assert require_data(path) == path
    for path in (Path("absent.npz"), Path("a b:c"), Path("no/where:f"), tmp_path / "a"):
        with pytest.raises(UsageError, match="no such file"):
            require_data(path)
