"""A damaged TFLite file is refused before native code sees it."""

from __future__ import annotations

import importlib
import json
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ai_edge_litert.schema_py_generated as schema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit_runtime.errors import UnsupportedModelError, UsageError
from edgekit_runtime.graph.flatbuffer import tflite_layout
from edgekit_runtime.graph.tflite_bounds import check_tflite_bounds, check_tflite_bytes
from edgekit_runtime.session import open_session
from runtime.graph.tflite_files import conv_model, operator, pack, quantized

WHOLE = pack(conv_model())
RUN_FILES = """
import sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter
for path in sys.argv[1:]:
    print(path, flush=True)
    try:
        engine = Interpreter(model_path=path, num_threads=1)
        engine.allocate_tensors()
        for entry in engine.get_input_details():
            engine.set_tensor(entry["index"], np.zeros(entry["shape"], entry["dtype"]))
        engine.invoke()
    except (ValueError, RuntimeError):
        pass
"""


def refused(data: bytes) -> bool:
    try:
        check_tflite_bytes(data, where="model.tflite")
    except UnsupportedModelError:
        return True
    return False


def mutate(data: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.2:
        return data[: rng.randrange(8, len(data))]
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        changed[rng.randrange(8, len(changed))] = rng.choice([0, 1, 127, 128, 255])
    return bytes(changed)


def assert_engine_survives(files: list[Path]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUN_FILES, *map(str, files)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    reached = [line for line in done.stdout.splitlines() if line in set(map(str, files))]
    assert done.returncode == 0, f"the engine ended with {done.returncode} on {reached[-1:]}"
    assert len(reached) == len(files)


def test_a_whole_file_passes_and_runs(tmp_path: Path) -> None:
    path = tmp_path / "whole.tflite"
    path.write_bytes(WHOLE)
    check_tflite_bounds(path)
    assert [spec.name for spec in open_session(path).inputs] == ["picture"]


@given(st.integers(min_value=0, max_value=len(WHOLE) - 1))
def test_every_truncation_is_refused(length: int) -> None:
    assert refused(WHOLE[:length])


@given(st.binary(max_size=400))
def test_noise_behind_the_identifier_never_raises_anything_else(noise: bytes) -> None:
    refused(b"\x08\x00\x00\x00TFL3" + noise)


def test_mutated_files_that_pass_do_not_crash_the_engine(tmp_path: Path) -> None:
    rng = random.Random(7)  # noqa: S311 - repeatable damage, no secret
    passed, refusals = [], 0
    for number in range(400):
        data = mutate(WHOLE, rng)
        if refused(data):
            refusals += 1
        else:
            passed.append(tmp_path / f"{number}.tflite")
            passed[-1].write_bytes(data)
    assert refusals > 50
    assert len(passed) > 50
    assert_engine_survives(passed)


def test_mutated_real_files_do_not_crash_the_engine(tmp_path: Path, shared_data: Path) -> None:
    rng = random.Random(11)  # noqa: S311 - repeatable damage, no secret
    sources = [path.read_bytes() for path in sorted(shared_data.rglob("*.tflite"))]
    passed = []
    for number in range(600):
        data = mutate(rng.choice(sources), rng)
        if not refused(data):
            passed.append(tmp_path / f"{number}.tflite")
            passed[-1].write_bytes(data)
    assert len(passed) > 50
    assert_engine_survives(passed)


def test_real_files_pass(shared_data: Path) -> None:
    for path in sorted(shared_data.rglob("*.tflite")):
        check_tflite_bounds(path)


def _opcode(model: Any) -> None:
    model.subgraphs[0].operators[0].opcodeIndex = 9


def _missing_tensor(model: Any) -> None:
    model.subgraphs[0].operators[0].inputs = [0, 1, 77]


def _missing_output(model: Any) -> None:
    model.subgraphs[0].outputs = [40]


def _missing_buffer(model: Any) -> None:
    model.subgraphs[0].tensors[1].buffer = 30


def _short_weights(model: Any) -> None:
    model.buffers[1].data = model.buffers[1].data[:100]


def _circle(model: Any) -> None:
    model.subgraphs[0].operators[0].inputs = [4, 1, 2]


def _no_stride(model: Any) -> None:
    model.subgraphs[0].operators[0].builtinOptions.strideW = 0


def _other_options(model: Any) -> None:
    conv = model.subgraphs[0].operators[0]
    conv.builtinOptionsType = schema.BuiltinOptions.ReducerOptions
    conv.builtinOptions = schema.ReducerOptionsT()


def _scales(model: Any) -> None:
    quantized(model.subgraphs[0].tensors[1], [0.1, 0.2], [0, 0])


def _zero_point(model: Any) -> None:
    picture = model.subgraphs[0].tensors[0]
    picture.type = schema.TensorType.INT8
    quantized(picture, [0.1], [-65152])


def _stored_input(model: Any) -> None:
    model.subgraphs[0].inputs = [1]


def _stored_output(model: Any) -> None:
    model.subgraphs[0].operators[1].outputs = [2]
    model.subgraphs[0].operators[2].inputs = [3, 5]


def _no_graph(model: Any) -> None:
    model.subgraphs = []


def _calls_itself(model: Any) -> None:
    loop = schema.WhileOptionsT()
    loop.condSubgraphIndex = loop.bodySubgraphIndex = 0
    graph = model.subgraphs[0]
    graph.operators.append(operator(1, [4], [4], schema.BuiltinOptions.WhileOptions, loop))


def _calls_nothing(model: Any) -> None:
    _calls_itself(model)
    model.subgraphs[0].operators[-1].builtinOptions.bodySubgraphIndex = 5


def _weights_behind_the_end(model: Any) -> None:
    model.buffers[1].data = None
    model.buffers[1].offset, model.buffers[1].size = 1 << 40, 216


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_opcode, "number 9, of 3"),
        (_missing_tensor, "number 77, of 7"),
        (_missing_output, "number 40, of 7"),
        (_missing_buffer, "number 30, of 4"),
        (_short_weights, "needs 216 bytes and has 100"),
        (_circle, "which nothing before it writes"),
        (_no_stride, "below 1"),
        (_other_options, "lacks its strides"),
        (_scales, "2 scales along an axis of 3"),
        (_zero_point, "zero point outside its type"),
        (_stored_input, "input of the graph is a stored constant"),
        (_stored_output, "writes tensor 2, a stored constant"),
        (_no_graph, "holds no graph"),
        (_calls_itself, "in a circle"),
        (_calls_nothing, "number 5, of 1"),
        (_weights_behind_the_end, "lies outside the file"),
    ],
)
def test_contradictions_are_named(damage: Callable[[Any], None], reason: str) -> None:
    model = conv_model()
    damage(model)
    with pytest.raises(UnsupportedModelError, match=reason) as caught:
        check_tflite_bytes(pack(model), where="model.tflite")
    assert caught.value.where == "model.tflite"
    assert caught.value.fix


def test_the_session_refuses_a_truncated_file(tmp_path: Path) -> None:
    path = tmp_path / "cut.tflite"
    path.write_bytes(WHOLE[: len(WHOLE) // 2])
    with pytest.raises(UnsupportedModelError, match="damaged"):
        open_session(path)


def test_a_missing_or_empty_file_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "empty.tflite").touch()
    for name in ("absent.tflite", "empty.tflite"):
        with pytest.raises(UsageError):
            check_tflite_bounds(tmp_path / name)


def test_the_check_loads_neither_numpy_nor_an_engine() -> None:
    code = (
        "import sys, json, edgekit_runtime.graph.tflite_bounds;"
        "print(json.dumps([m for m in ('numpy', 'ai_edge_litert', 'onnx') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert json.loads(done.stdout) == []


def test_the_layout_is_the_installed_schemas() -> None:
    source = Path(importlib.import_module(schema.__name__).__file__ or "").read_text("utf-8")
    layout = tflite_layout()
    for name, kinds in layout.tables.items():
        body = re.search(rf"^class {name}\(object\):\n(.*?)(?=^class |^def )", source, re.S | re.M)
        assert body is not None, name
        slots = {(int(offset) - 4) // 2 for offset in re.findall(r"_tab\.Offset\((\d+)\)", body[1])}
        assert slots == {slot for slot, kind in enumerate(kinds) if kind}, name
        strings = len(set(re.findall(r"return self\._tab\.String\(o \+", body[1])))
        assert bool(strings) == ("string" in kinds), name
    for name, members in layout.unions.items():
        codes = {
            code: member
            for member, code in vars(getattr(schema, name)).items()
            if isinstance(code, int) and code and not member.startswith("_")
        }
        assert codes == {code: member for code, member in enumerate(members) if member}
