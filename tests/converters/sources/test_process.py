"""What crashes, ends or breaks in the process that holds a framework is an error for the user."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit_converters.sources import worker
from edgekit_converters.sources.frames import Message, pack_array, receive, send
from edgekit_converters.sources.imported import ImportedModel, ReferenceSession
from edgekit_converters.sources.kind import SourceKind
from edgekit_converters.sources.options import SourceOptions
from edgekit_converters.sources.process import import_in_process
from edgekit_runtime.errors import EdgekitError, UnsupportedModelError
from edgekit_runtime.session import RuntimeInfo
from edgekit_runtime.tensors import TensorSpec


def _load() -> Message:
    return Message(
        head={
            "command": "load", "kind": "skops", "source": "model", "paths": [],
            "options": SourceOptions().to_json(),
        }
    )  # fmt: skip


class _Pipe:
    """Both ends of a stream that is written first and read afterwards."""

    def __init__(self, *messages: Message) -> None:
        import io

        self.requests, self.answers = io.BytesIO(), io.BytesIO()
        for message in messages:
            send(self.requests, message)
        self.requests.seek(0)

    def serve(self) -> list[Message]:
        worker.serve(self.requests, self.answers)
        self.answers.seek(0)
        found = []
        while (message := receive(self.answers)) is not None:
            found.append(message)
        return found


def _doubling(source: Path, options: SourceOptions, progress: Any) -> ImportedModel:
    progress("doubling")
    spec = TensorSpec(name="x", dtype="float32", shape=(None, 2))

    def predict(inputs: Any) -> list[Any]:
        if np.isnan(inputs["x"]).any():
            raise ValueError("no number")
        return [inputs["x"] * 2, np.array(["hot"] * len(inputs["x"]), dtype=object)]

    reference = ReferenceSession(
        inputs=[spec],
        outputs=[
            TensorSpec(name="y", dtype="float32", shape=(None, 2)),
            TensorSpec(name="label", dtype="string", shape=(None,)),
        ],
        runtime=RuntimeInfo(name="test", version="1", threads=1),
        predict=predict,
        where=str(source),
    )
    return ImportedModel(model=None, reference=reference, warnings=("a doubt",))


def test_a_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "reader", lambda _: _doubling)
    rows = np.ones((3, 2), np.float32)
    pipe = _Pipe(
        _load(),
        Message(head={"command": "predict"}, parts=[pack_array(rows)]),
        Message(head={"command": "predict"}, parts=[pack_array(rows * np.float32("nan"))]),
        Message(head={"command": "predict"}, parts=[pack_array(rows)]),
    )
    progress, described, first, failed, again = pipe.serve()
    assert progress.head == {"progress": "doubling"}
    assert described.head["warnings"] == ["a doubt"]
    assert described.head["runtime"] == {"name": "test", "version": "1", "threads": 1}
    assert len(first.parts) == 2
    assert failed.head["error"] == "UnsupportedModelError"
    assert "no number" in failed.head["what"]
    assert again.parts == first.parts


def test_an_unforeseen_failure_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> ImportedModel:
        raise KeyError("weights")

    monkeypatch.setattr(worker, "reader", lambda _: broken)
    (answer,) = _Pipe(_load()).serve()
    assert answer.head["error"] == "UnsupportedModelError"
    assert "KeyError: 'weights'" in answer.head["what"]
    assert answer.head["fix"]


def test_what_is_no_model_of_its_kind(tmp_path: Path) -> None:
    pytest.importorskip("skops", reason="needs skops: pip install 'edgekit[sklearn]'")
    with zipfile.ZipFile(tmp_path / "m.skops", "w") as archive:
        archive.writestr("schema.json", json.dumps({"__class__": "system", "__module__": "os"}))
    with pytest.raises(EdgekitError):
        import_in_process(tmp_path / "m.skops", SourceKind.SKOPS, SourceOptions(), lambda _: None)


def test_a_process_that_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(UnsupportedModelError, match="crashed on this model"):
        import_in_process(Path("m.skops"), SourceKind.SKOPS, SourceOptions(), lambda _: None)
