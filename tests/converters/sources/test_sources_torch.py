"""PyTorch: what is converted answers what forward() answers, with a batch that stays free."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit_converters.sources import process
from edgekit_converters.sources.kind import SourceKind
from edgekit_runtime.errors import EnvironmentLackError, UnsupportedModelError, UsageError
from edgekit_runtime.formats import ModelFormat

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'edgekit[torch]'")
pytest.importorskip("onnxscript", reason="needs onnxscript: pip install 'edgekit[torch]'")
pytestmark = [pytest.mark.usefixtures("calm", "_models"), pytest.mark.slow]
IMAGE = "image:1,3,8,8"


@pytest.fixture
def _models(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    yield
    sys.modules.pop("torch_models", None)


@pytest.fixture
def net(_models: None) -> Any:
    from torch_models import convolutional

    module = convolutional()
    # Trained statistics, so that folding them is seen.
    module.features[1].running_mean.normal_()
    return module.eval()


def _check(session: Any, module: Any, *, batch: int = 3) -> None:
    image = np.random.default_rng(1).normal(size=(batch, 3, 8, 8)).astype(np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(image)).numpy()
    (answer,) = session.run({"image": image}).values()
    assert np.abs(answer - expected).max() < 1e-5


@pytest.mark.parametrize("target", list(ModelFormat))
@pytest.mark.parametrize("kind", ["program", "scripted", "traced", "factory", "pickled"])
def test_every_form_of_a_module(
    kind: str, target: ModelFormat, convert: Any, net: Any, tmp_path: Path
) -> None:
    example = torch.rand(2, 3, 8, 8)
    source, shapes, options = tmp_path / "model.bin", [IMAGE], {}
    if kind == "program":
        batch = torch.export.Dim("batch")
        program = torch.export.export(net, (example,), dynamic_shapes={"image": {0: batch}})
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
        source.write_bytes(buffer.getvalue())
        shapes, expected = [], SourceKind.TORCH_PROGRAM
    elif kind == "factory":
        torch.save(net.state_dict(), tmp_path / "weights.pt")
        source = Path("torch_models:convolutional")
        options, expected = {"weights": tmp_path / "weights.pt"}, SourceKind.TORCH_FACTORY
    elif kind == "pickled":
        torch.save(net, source)
        options, expected = {"trust_pickle": True}, SourceKind.TORCH_PICKLE
    else:
        script = torch.jit.script(net) if kind == "scripted" else torch.jit.trace(net, example)
        torch.jit.save(script, str(source))
        expected = SourceKind.TORCH_SCRIPT
    session, report = convert(source, *shapes, target=target, **options)
    assert report.source_kind is expected
    assert report.reference.startswith("torch ")
    assert not report.warnings
    assert [(spec.name, spec.shape) for spec in session.inputs] == [("image", (None, 3, 8, 8))]
    assert [spec.name for spec in session.outputs] == ["output"]
    _check(session, net)
    _check(session, net, batch=1)


def test_named_outputs_and_whole_numbers(convert: Any, tmp_path: Path) -> None:
    from torch_models import Recurrent

    torch.manual_seed(1)
    module = Recurrent().eval()
    torch.save(module.state_dict(), tmp_path / "w.pt")
    session, _ = convert(
        "torch_models:Recurrent", "tokens:1,6:int64", "scale:1,1", weights=tmp_path / "w.pt"
    )
    tokens = np.random.default_rng(1).integers(0, 20, size=(4, 6))
    scale = np.full((4, 1), 2, dtype=np.float32)
    answer = session.run({"tokens": tokens, "scale": scale})
    with torch.no_grad():
        expected = module(torch.from_numpy(tokens), torch.from_numpy(scale))
    assert list(answer) == ["logits", "state"]
    for name, value in expected.items():
        assert np.abs(answer[name] - value.numpy()).max() < 1e-5


def test_examples_from_a_file(convert: Any, net: Any, tmp_path: Path) -> None:
    images = np.random.default_rng(1).normal(size=(5, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "inputs.npz", image=images)
    torch.jit.save(torch.jit.script(net), str(tmp_path / "m.pt"))
    session, report = convert(tmp_path / "m.pt", example=tmp_path / "inputs.npz")
    _check(session, net)
    assert report.artifacts[0].parity[0].worst_probe
    np.savez(tmp_path / "wrong.npz", picture=images)
    with pytest.raises(UsageError, match=r"no input 'picture'") as caught:
        convert(tmp_path / "m.pt", example=tmp_path / "wrong.npz")
    assert "image" in str(caught.value.fix)


def test_a_batch_that_cannot_be_free_is_fixed_with_a_warning(convert: Any) -> None:
    session, report = convert("torch_models:OneAtATime", IMAGE)
    assert session.inputs[0].shape == (1, 3, 8, 8)
    assert any("batch is fixed at 1" in warning for warning in report.warnings)


def test_a_program_with_a_fixed_batch(convert: Any, net: Any, tmp_path: Path) -> None:
    program = torch.export.export(net, (torch.rand(2, 3, 8, 8),))
    torch.export.save(program, str(tmp_path / "m.pt2"))
    session, report = convert(tmp_path / "m.pt2")
    assert session.inputs[0].shape == (2, 3, 8, 8)
    assert any("batch is fixed at 2" in warning for warning in report.warnings)
    _check(session, net, batch=2)


def test_every_operator_that_onnx_lacks_is_named_with_its_line(
    convert: Any, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        convert("torch_models:Decomposing", "x:1,3,3")
    assert "_linalg_eigh" in caught.value.what
    assert "torch_models.py:" in caught.value.what
    assert "special" in caught.value.what or "i1" in caught.value.what
    assert not (tmp_path / "made.onnx").exists()


@pytest.mark.parametrize(
    ("factory", "shape", "said"),
    [
        ("torch_models:absent", IMAGE, "cannot import the factory"),
        ("absent_module:make", IMAGE, "cannot import the factory"),
        ("torch_models:needs_arguments", IMAGE, "the factory failed"),
        ("torch_models:breaks", IMAGE, "no such device"),
        ("torch_models:no_module", IMAGE, "returned dict"),
        ("torch_models:convolutional", "image:1,4,8,8", "does not run with these"),
        ("torch_models:convolutional", "picture:1,3,8,8", "no input 'picture'"),
        ("torch_models:convolutional", "image:1,3", "does not run with these"),
    ],
)
def test_factories_that_do_not_work(factory: str, shape: str, said: str, convert: Any) -> None:
    with pytest.raises(UsageError, match=said):
        convert(factory, shape)


def test_a_model_that_does_not_say_its_shapes(convert: Any, net: Any, tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(net), str(tmp_path / "m.pt"))
    with pytest.raises(UsageError, match="what its inputs look like") as caught:
        convert(tmp_path / "m.pt")
    assert "--input-shape image:1" in str(caught.value.fix)


def test_weights_that_do_not_fit(convert: Any, net: Any, tmp_path: Path) -> None:
    state = net.state_dict()
    del state["head.bias"]
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(UsageError, match=r"head\.bias"):
        convert("torch_models:convolutional", IMAGE, weights=tmp_path / "w.pt")
    torch.save({"epoch": 3, "state_dict": net.state_dict()}, tmp_path / "checkpoint.pt")
    session, _ = convert("torch_models:convolutional", IMAGE, weights=tmp_path / "checkpoint.pt")
    _check(session, net)
    session, report = convert("torch_models:convolutional", IMAGE)
    assert any("no --weights" in warning for warning in report.warnings)


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        import os

        return (os.makedirs, (str(self.path),))


def test_no_file_runs_code_without_trust(convert: Any, net: Any, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    torch.save({"weights": Trap(trace)}, tmp_path / "w.pt")
    with pytest.raises(UnsupportedModelError, match="no plain weights"):
        convert("torch_models:convolutional", IMAGE, weights=tmp_path / "w.pt")
    with pytest.raises(UsageError, match="run any program"):
        convert(tmp_path / "w.pt", IMAGE)
    torch.save(net, tmp_path / "module.pt")
    with pytest.raises(UsageError, match="run any program"):
        convert(tmp_path / "module.pt", IMAGE)
    torch.save(net.state_dict(), tmp_path / "state.pt")
    with pytest.raises(UnsupportedModelError, match="weights without the network"):
        convert(tmp_path / "state.pt", IMAGE)
    assert not trace.exists()


def test_a_program_that_touches_files_is_refused(convert: Any, tmp_path: Path) -> None:
    from torch_models import SavesFiles

    torch.jit.save(torch.jit.script(SavesFiles()), str(tmp_path / "m.pt"))
    with pytest.raises(UnsupportedModelError, match=r"reads or writes files.*save\(\)"):
        convert(tmp_path / "m.pt", "x:1,2")


def _rewrite(source: Path, target: Path, member: str, change: Any) -> None:
    """A copy of an archive with one member changed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            content = old.read(info)
            inner = info.filename.partition("/")[2]
            new.writestr(info, change(content) if inner == member else content)


@pytest.fixture
def program(net: Any, tmp_path: Path) -> Path:
    batch = torch.export.Dim("batch")
    made = torch.export.export(net, (torch.rand(2, 3, 8, 8),), dynamic_shapes={"image": {0: batch}})
    path = tmp_path / "program.pt2"
    torch.export.save(made, str(path))
    return path


def test_weights_in_a_pickle(convert: Any, program: Path, tmp_path: Path) -> None:
    # As torch 2.8 kept them: read as tensors alone, and refused where they are more.
    trace = tmp_path / "trace"
    for content, refused in (({"w": torch.ones(2)}, False), ({"w": Trap(trace)}, True)):
        buffer = io.BytesIO()
        torch.save(content, buffer)
        copy = tmp_path / f"old-{refused}.pt2"
        copy.write_bytes(program.read_bytes())
        with zipfile.ZipFile(copy, "a") as archive:
            root = archive.namelist()[0].partition("/")[0]
            archive.writestr(f"{root}/data/weights/model.pt", buffer.getvalue())
        # Refused all the same, because these weights are not the program's.
        with pytest.raises(UsageError if refused else UnsupportedModelError):
            convert(copy)
    assert not trace.exists()


def _in_json(change: Any) -> Any:
    def changed(content: bytes) -> bytes:
        document = json.loads(content)
        change(document)
        return json.dumps(document).encode()

    return changed


_EVIL = "__import__('os').makedirs('TRACE')"


@pytest.mark.parametrize(
    ("member", "change", "said"),
    [
        (
            "models/model.json",
            lambda d: d["guards_code"].append(f"L['image'].size()[0] == {_EVIL}"),
            "run as Python",
        ),
        (
            "models/model.json",
            lambda d: d["graph_module"]["graph"]["nodes"][0].update(target="torch.os.system"),
            "run as Python",
        ),
        (
            "models/model.json",
            lambda d: d["graph_module"]["graph"]["nodes"][0].update(
                target="torch.ops.aten.from_file.default"
            ),
            "run as Python",
        ),
        (
            "models/model.json",
            lambda d: d["graph_module"]["graph"]["tensor_values"]["image"]["sizes"].append(
                {"as_expr": {"expr_str": _EVIL, "hint": None}}
            ),
            "run as Python",
        ),
        (
            "models/model.json",
            lambda d: d["graph_module"]["graph"]["tensor_values"].update({"x\nimport os": {}}),
            "a name that is none",
        ),
        (
            "data/weights/model_weights_config.json",
            lambda d: next(iter(d["config"].values())).update(use_pickle=True),
            "as a pickle",
        ),
    ],
)
def test_a_program_with_code_in_it_is_refused(
    member: str, change: Any, said: str, convert: Any, program: Path, tmp_path: Path
) -> None:
    convert(program)
    _rewrite(program, tmp_path / "evil.pt2", member, _in_json(change))
    with pytest.raises(UsageError, match=said) as caught:
        convert(tmp_path / "evil.pt2")
    assert "--trust-pickle" in str(caught.value.fix)
    assert not Path("TRACE").exists()


def test_a_program_with_a_pickle_for_its_examples(
    convert: Any, program: Path, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    buffer = io.BytesIO()
    torch.save(((Trap(trace),), {}), buffer)
    _rewrite(
        program, tmp_path / "evil.pt2", "data/sample_inputs/model.pt", lambda _: buffer.getvalue()
    )
    with pytest.raises(UsageError, match="more than tensors"):
        convert(tmp_path / "evil.pt2")
    _rewrite(
        program, tmp_path / "raw.pt2", "data/sample_inputs/model.pt",
        lambda _: pickle.dumps(Trap(trace)),
    )  # fmt: skip
    with pytest.raises(UsageError, match="more than tensors"):
        convert(tmp_path / "raw.pt2")
    assert not trace.exists()


def test_a_program_with_compiled_code(convert: Any, program: Path, tmp_path: Path) -> None:
    copy = tmp_path / "compiled.pt2"
    copy.write_bytes(program.read_bytes())
    with zipfile.ZipFile(copy, "a") as archive:
        root = archive.namelist()[0].partition("/")[0]
        archive.writestr(f"{root}/data/aotinductor/model/model.so", b"\x7fELF")
    with pytest.raises(UsageError, match="not plain data"):
        convert(copy)


def test_sizes_that_are_computed_are_no_code(convert: Any, tmp_path: Path) -> None:
    class Doubles(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.cat([x, x[:, 1:]], dim=1) * x.shape[1]

    free = torch.export.Dim.AUTO
    length = torch.export.Dim("length", min=4, max=64)
    program = torch.export.export(
        Doubles(), (torch.rand(2, 8),), dynamic_shapes={"x": {0: free, 1: length}}
    )
    torch.export.save(program, str(tmp_path / "m.pt2"))
    with zipfile.ZipFile(tmp_path / "m.pt2") as archive:
        text = b"".join(archive.read(name) for name in archive.namelist() if name[-5:] == ".json")
    assert b"Mul(Integer(2), Symbol(" in text
    session, _ = convert(tmp_path / "m.pt2")
    assert session.run({"x": np.ones((3, 10), np.float32)})["output"].shape == (3, 19)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_files(
    share: float, convert: Any, net: Any, program: Path, tmp_path: Path
) -> None:
    torch.jit.save(torch.jit.script(net), str(tmp_path / "script.pt"))
    for source in (program, tmp_path / "script.pt"):
        content = source.read_bytes()
        cut = tmp_path / f"cut-{source.name}"
        cut.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(UnsupportedModelError):
            convert(cut, *([] if source is program else [IMAGE]))


def test_the_process_that_reads_ends_with_the_conversion(
    convert_apart: Any, net: Any, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    original = subprocess.Popen

    def popen(*arguments: Any, **options: Any) -> Any:
        started.append(original(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(process.subprocess, "Popen", popen)
    session, report = convert_apart(program)
    _check(session, net)
    assert report.reference.startswith("torch ")
    with pytest.raises(UsageError, match="cannot import the factory"):
        convert_apart("torch_models:absent", IMAGE)
    assert len(started) == 2
    assert all(child.poll() is not None for child in started)


def test_a_missing_package_is_named_with_its_installation(
    convert: Any, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(EnvironmentLackError) as caught:
        convert(program)
    assert caught.value.fix == 'pip install "edgekit[torch]"'


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C reaches a process group otherwise")
def test_ctrl_c_while_the_framework_works_leaves_nothing(tmp_path: Path) -> None:
    import os
    import signal

    models = Path(__file__).with_name("torch_models.py")
    (tmp_path / "torch_models.py").write_bytes(models.read_bytes())
    before = sorted(tmp_path.iterdir())
    command = [sys.executable, "-m", "edgekit", "convert", "torch_models:convolutional"]
    with subprocess.Popen(
        [*command, "--input-shape", IMAGE, "-o", "out"], cwd=tmp_path, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    ) as running:  # fmt: skip
        assert running.stderr is not None
        while "exporting" not in (line := running.stderr.readline()):
            assert line, "it ended before it could be interrupted"
        os.killpg(running.pid, signal.SIGINT)
        said = running.stderr.read()
        assert running.wait(timeout=60) == 130
    assert "Interrupted" in said
    assert "Traceback" not in said
    left = [path for path in sorted(tmp_path.iterdir()) if path.name != "__pycache__"]
    assert left == before
    with pytest.raises(ProcessLookupError):
        # The group is empty: the process that held the framework ended as well.
        os.killpg(running.pid, 0)
