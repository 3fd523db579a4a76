"""What a user says about a source: read, checked, and refused where it means nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgekit_converters.sources.kind import SourceKind
from edgekit_converters.sources.options import (
    InputShape,
    SourceOptions,
    check_options,
    example_inputs,
    parse_input_shape,
)
from edgekit_runtime.errors import UsageError


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("image:1,3,224,224", InputShape(name="image", sizes=(1, 3, 224, 224))),
        ("tokens:1,128:int64", InputShape(name="tokens", sizes=(1, 128), dtype="int64")),
        ("1,10", InputShape(name="", sizes=(1, 10))),
        ("1,10:int32", InputShape(name="", sizes=(1, 10), dtype="int32")),
        ("serving:x: 1, 2", InputShape(name="serving:x", sizes=(1, 2))),
    ],
)
def test_shapes_are_read(text: str, shape: InputShape) -> None:
    assert parse_input_shape(text) == shape


@pytest.mark.parametrize(
    "text", ["", "x", "x:", "x:1,a", "x:0,3", "x:-1,3", "x:1:complex", "x:9999999,999999"]
)
def test_what_is_no_shape_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no input shape") as caught:
        parse_input_shape(text)
    assert "NAME:1,3,224,224" in str(caught.value.fix)


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        (SourceKind.ONNX, {"shapes": (InputShape(name="x", sizes=(1,)),)}, "says itself"),
        (SourceKind.TORCH_PROGRAM, {"weights": Path("w")}, "package.module:factory"),
        (SourceKind.LIGHTGBM, {"trust_pickle": True}, "nothing in a file of this kind"),
        (
            SourceKind.TORCH_SCRIPT,
            {"shapes": (InputShape(name="x", sizes=(1,)),), "example": Path("x.npz")},
            "both say",
        ),
    ],
)
def test_options_that_mean_nothing_are_refused(
    kind: SourceKind, options: dict[str, object], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        check_options(kind, SourceOptions(**options), where="model")  # type: ignore[arg-type]


def test_all_faults_are_named_at_once() -> None:
    options = SourceOptions(
        shapes=(InputShape(name="x", sizes=(1,)),), weights=Path("w"), trust_pickle=True
    )
    with pytest.raises(UsageError) as caught:
        check_options(SourceKind.XGBOOST, options, where="model")
    for option in ("--input-shape", "--weights", "--trust-pickle"):
        assert option in caught.value.what


def test_files_that_are_not_there(tmp_path: Path) -> None:
    options = SourceOptions(weights=tmp_path / "absent.pt")
    with pytest.raises(UsageError, match="no such file"):
        check_options(SourceKind.TORCH_FACTORY, options, where="a:b")


def test_examples_are_made_and_read(tmp_path: Path) -> None:
    options = SourceOptions(
        shapes=(
            InputShape(name="b", sizes=(2, 3), dtype="int64"), InputShape(name="a", sizes=(2, 4)),
        )
    )  # fmt: skip
    made = example_inputs(options, ["a", "b", "c"], where="model")
    assert list(made) == ["a", "b"]
    assert made["a"].shape == (2, 4)
    assert made["a"].dtype == np.float32
    assert set(np.unique(made["b"])) <= {0, 1}
    np.savez(tmp_path / "e.npz", a=np.ones((2, 4)), z=np.ones(3))
    with pytest.raises(UsageError, match="no input 'z'") as caught:
        example_inputs(SourceOptions(example=tmp_path / "e.npz"), ["a", "b"], where="model")
    assert "a, b" in str(caught.value.fix)
    with pytest.raises(UsageError, match="what its inputs look like"):
        example_inputs(SourceOptions(), ["a"], where="model")
    only = SourceOptions(shapes=(InputShape(name="", sizes=(1, 2)),))
    assert list(example_inputs(only, ["x"], where="model")) == ["x"]


def test_options_survive_the_way_to_another_process() -> None:
    options = SourceOptions(
        shapes=(parse_input_shape("a:1,2:int64"),), weights=Path("w.pt"), trust_pickle=True
    )
    assert SourceOptions.from_json(options.to_json()) == options
    assert SourceOptions.from_json(SourceOptions().to_json()) == SourceOptions()
