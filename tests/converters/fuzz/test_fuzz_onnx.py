"""Whatever an ONNX file holds, it is converted or refused: no crash, no hang, no other error."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.fuzz.child import Child
from converters.fuzz.mutations import Mutation, mutate_bytes, mutate_model, mutations
from converters.fuzz.profile import assert_survives, fuzzing
from converters.fuzz.seeds import SEEDS, seed_model


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    with Child("import_onnx") as child:
        yield child


@pytest.mark.parametrize("name", SEEDS)
def test_the_models_that_mutations_start_from_are_whole(name: str, child: Child) -> None:
    assert_survives(child, seed_model(name).SerializeToString(), ".onnx")


@pytest.mark.slow
@fuzzing(900)
@given(name=st.sampled_from(list(SEEDS)), changes=mutations())
def test_changed_fields(name: str, changes: list[Mutation], child: Child) -> None:
    model = mutate_model(seed_model(name), changes)
    assert_survives(child, model.SerializeToString(), ".onnx")


@pytest.mark.slow
@fuzzing(400)
@given(name=st.sampled_from(list(SEEDS)), changes=mutations(12))
def test_changed_bytes(name: str, changes: list[Mutation], child: Child) -> None:
    content = mutate_bytes(seed_model(name).SerializeToString(), changes)
    assert_survives(child, content, ".onnx")


@pytest.mark.slow
@fuzzing(200)
@given(content=st.binary(max_size=300))
def test_any_bytes_at_all(content: bytes, child: Child) -> None:
    assert_survives(child, b"\x08\x08" + content, ".onnx")
