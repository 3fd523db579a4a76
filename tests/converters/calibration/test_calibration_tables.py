"""CSV and Parquet: rows become samples, whatever cannot be read is named by row and column."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit_converters.calibration import CalibrationSet
from edgekit_converters.calibration import source as source_module
from edgekit_runtime.errors import EnvironmentLackError, UsageError
from edgekit_runtime.tensors import TensorSpec

FEATURES = TensorSpec(name="features", dtype="float32", shape=(None, 3))
IMAGE = TensorSpec(name="image", dtype="float32", shape=(None, 1, 2, 2))
AGE = TensorSpec(name="age", dtype="float32", shape=(None, 1))
CITY = TensorSpec(name="city", dtype="int64", shape=(None,))
FREE = TensorSpec(name="series", dtype="float32", shape=(None, None, 2))


def _load(text: str | bytes, specs: list[TensorSpec], tmp_path: Path) -> CalibrationSet:
    path = tmp_path / "a.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return CalibrationSet.load(path, specs)


@pytest.mark.parametrize(
    "text",
    [
        "a,b,c\n1,2,3\n4,5,6.5\n",
        "1,2,3\n4,5,6.5\n",
        "\ufeffa;b;c\r\n1;2;3\r\n4;5;6.5",
        "a\tb\tc\n1\t2\t3\n\n4\t5\t6.5\n\n",
        '"a","b","label","c"\n1,2,cat,3\n4," 5",dog,6.5\n',
        "features.2,features.0,id,features.1\n3,1,x,2\n6.5,4,y,5\n",
    ],
)
def test_columns_of_one_input(text: str, tmp_path: Path) -> None:
    found = _load(text, [FEATURES], tmp_path)
    assert found.samples.arrays["features"].tolist() == [[1, 2, 3], [4, 5, 6.5]]
    assert found.samples.arrays["features"].dtype == np.float32


def test_labels(tmp_path: Path) -> None:
    found = _load("a,b,c,Label\n1,2,3,cat\n4,5,6,cat\n", [FEATURES], tmp_path)
    assert found.samples.labels is not None
    assert found.samples.labels.tolist() == [0, 0]
    assert found.numbering.endswith("cat = 0")
    assert any("one class" in warning for warning in found.warnings)


def test_several_inputs_by_name(tmp_path: Path) -> None:
    text = "city,age,image.0,image.1,image.2,image.3,unused\n7,30,1,2,3,4,9\n"
    found = _load(text, [IMAGE, AGE, CITY], tmp_path).samples.arrays
    assert found["image"].tolist() == [[[[1, 2], [3, 4]]]]
    assert found["age"].tolist() == [[30]]
    assert found["city"].tolist() == [7]
    assert found["city"].dtype == np.int64


def test_a_free_size_follows_from_the_columns(tmp_path: Path) -> None:
    found = _load("1,2,3,4,5,6\n", [FREE], tmp_path).samples.arrays["series"]
    assert found.tolist() == [[[1, 2], [3, 4], [5, 6]]]


def test_a_long_table_is_read_in_parts(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(source_module, "_CHUNK_BYTES", 64 * 3 * 7)
    rows = np.arange(300).reshape(100, 3)
    text = "a,b,c\n" + "\n".join(",".join(map(str, row)) for row in rows)
    found = _load(text, [FEATURES], tmp_path)
    assert len(list(found.source.chunks())) == 15
    assert found.samples.arrays["features"].tolist() == rows.tolist()
    with pytest.raises(UsageError, match="row 102, column 'b': 'x' is no number"):
        _load(text + "\n1,x,2", [FEATURES], tmp_path)


@pytest.mark.parametrize(
    ("text", "specs", "reason"),
    [
        ("a,b\n1,2\n", [FEATURES], "takes 3 number.* there are 2 in 2"),
        ("a,b,c,d,e\n1,2,3,4,5\n", [FREE], "takes 2 times any number"),
        (
            "x,y\n1,2\n",
            [AGE, CITY],
            "no column for the input 'age'.*no column for the input 'city'",
        ),
        ("a,b,c\n1,2\n", [FEATURES], "row 2 has 2 cell"),
        ("a,b,c\n1,2,\n", [FEATURES], "row 2, column 'c': nothing is there"),
        ("a,b,c\n1,2,nan\n", [FEATURES], "holds NaN"),
        ("city\n1.5\n", [CITY], "row 2, column 'city': '1.5' is no whole number"),
        ("a,a,c\n1,2,3\n", [FEATURES], "same name: a"),
        ("a,b,c\n", [FEATURES], "holds no samples"),
        (b"a,b,c\n\xff,2,3\n", [FEATURES], "no readable table"),
        ('a,b,c\n"1,2,3\n', [FEATURES], "no readable table"),
    ],
)
def test_tables_that_do_not_fit(
    text: Any, specs: list[TensorSpec], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=reason):
        _load(text, specs, tmp_path)


def test_two_free_sizes_are_too_many(tmp_path: Path) -> None:
    spec = TensorSpec(name="x", dtype="float32", shape=(None, None, None))
    with pytest.raises(UsageError, match="2 sizes that the model leaves free"):
        _load("1,2\n", [spec], tmp_path)


def test_parquet_without_its_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(EnvironmentLackError) as caught:
        CalibrationSet.load(tmp_path / "a.parquet", [FEATURES])
    assert "edgekit[parquet]" in str(caught.value.fix)


def _parquet(tmp_path: Path, columns: dict[str, Any]) -> Path:
    arrow = pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    from pyarrow import parquet

    parquet.write_table(arrow.table(columns), tmp_path / "a.parquet", row_group_size=7)
    return tmp_path / "a.parquet"


def test_parquet_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "_CHUNK_BYTES", 8 * 3 * 10)
    rows = np.arange(90.0).reshape(30, 3)
    path = _parquet(
        tmp_path,
        {"a": rows[:, 0], "label": ["x", "y"] * 15, "b": rows[:, 1], "c": rows[:, 2].astype(int)},
    )
    found = CalibrationSet.load(path, [FEATURES])
    np.testing.assert_array_equal(found.samples.arrays["features"], rows)
    assert found.samples.labels is not None
    assert found.samples.labels[:3].tolist() == [0, 1, 0]
    assert len(list(found.source.chunks())) >= 3


@pytest.mark.parametrize("fixed", [True, False])
def test_parquet_lists(fixed: bool, tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    rows = np.arange(40, dtype=np.float32).reshape(10, 4)
    kind = arrow.list_(arrow.float32(), 4) if fixed else arrow.list_(arrow.float32())
    path = _parquet(tmp_path, {"image": arrow.array(rows.tolist(), kind), "age": np.arange(10)})
    found = CalibrationSet.load(path, [IMAGE, AGE]).samples.arrays
    np.testing.assert_array_equal(found["image"].reshape(10, 4), rows)
    assert found["age"].shape == (10, 1)


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"features": [[1.0, 2.0, 3.0], [1.0]]}, "not equally long"),
        ({"features": [[1.0, 2.0], [1.0, 5.0]]}, "takes \\[3\\] a sample, the lists hold 2"),
        ({"a": [1.0, None], "b": [1.0, 2.0], "c": [1.0, 2.0]}, "'a' has 1 cell"),
        ({"a": ["x", "y"], "b": [1.0, 2.0], "c": [1.0, 2.0]}, "'a' holds .*string"),
        ({"a": [1.0], "b": [1.0]}, "takes 3 number"),
    ],
)
def test_parquet_that_does_not_fit(columns: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=reason):
        CalibrationSet.load(_parquet(tmp_path, columns), [FEATURES])


def test_damaged_parquet(tmp_path: Path) -> None:
    path = _parquet(tmp_path, {"a": [1.0], "b": [1.0], "c": [2.0]})
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UsageError, match="no readable Parquet"):
        CalibrationSet.load(path, [FEATURES])
