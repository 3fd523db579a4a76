from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from converters.onnx_files import model_of, write
from edgekit_converters.sources.idle import IdleSession
from edgekit_converters.sources.onnx_file import import_onnx_file
from edgekit_converters.sources.options import SourceOptions
from edgekit_runtime.errors import UnsupportedModelError
from edgekit_runtime.session import Session, open_session

ONE = {"x": np.ones((1, 4), np.float32)}


class Opening:
    """Opens a model, and counts how often, and how many are open."""

    def __init__(self, path: Path) -> None:
        self.path, self.times, self.held = path, 0, 0

    def __call__(self) -> Session:
        session = open_session(self.path)
        self.times, self.held = self.times + 1, self.held + 1
        close = session.close

        def closed() -> None:
            self.held -= 1
            close()

        session.close = closed  # type: ignore[method-assign]
        return session


def doubling(path: Path, width: int = 4) -> Path:
    weights = 2 * np.eye(width, dtype=np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="double")
    write(model_of([node], inputs={"x": [1, width]}, constants={"w": weights}), path)
    return path


def test_the_engine_holds_the_model_only_while_it_is_asked(tmp_path: Path) -> None:
    opening = Opening(doubling(tmp_path / "m.onnx"))
    session = IdleSession(opening)
    assert (opening.times, opening.held) == (1, 0)
    assert [spec.name for spec in (*session.inputs, *session.outputs)] == ["x", "y"]
    assert session.run(ONE)["y"].tolist() == [[2, 2, 2, 2]]
    assert session.run(ONE)["y"].tolist() == [[2, 2, 2, 2]]
    assert (opening.times, opening.held) == (2, 1)
    session.rest()
    session.rest()
    assert opening.held == 0
    assert session.run(ONE)["y"].tolist() == [[2, 2, 2, 2]]
    session.close()
    assert (opening.times, opening.held) == (3, 0)


def test_a_model_that_the_engine_refuses_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no model")
    with pytest.raises(UnsupportedModelError):
        IdleSession(Opening(tmp_path / "m.onnx"))


@pytest.mark.parametrize(("width", "idle"), [(4, False), (3000, True)])
def test_large_files_alone_are_let_go_of(tmp_path: Path, width: int, idle: bool) -> None:
    source = doubling(tmp_path / "m.onnx", width)
    imported = import_onnx_file(source, SourceOptions(), lambda _: None)
    assert isinstance(imported.reference, IdleSession) is idle
    inputs = np.arange(width, dtype=np.float32)[None]
    assert (imported.reference.run({"x": inputs})["y"] == 2 * inputs).all()
    imported.reference.close()
