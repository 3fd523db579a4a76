from __future__ import annotations

from dataclasses import replace

import pytest

from edgekit_agent.hardware import Hardware, choose_runtime, choose_variant, detect_hardware
from edgekit_runtime.bundle.manifest import Manifest, Requirements, parse_manifest
from edgekit_runtime.errors import UnsupportedModelError
from tests.simulators.tiny_bundles import GOLDEN, affine_model, bundle_files

BOARD = Hardware(
    architecture="aarch64", ram_bytes=512 << 20, runtimes={"litert": "2.3.0"}, python="3.11"
)


def manifest(*needs: Requirements) -> Manifest:
    models = [(f"v{position}", affine_model(1.0)) for position in range(len(needs))]
    made = parse_manifest(
        bundle_files("m", "1.0.0", models, expected=GOLDEN)["manifest.json"], where="t"
    )
    variants = tuple(
        replace(variant, requires=need) for variant, need in zip(made.variants, needs, strict=True)
    )
    return replace(made, variants=variants)


FITS = Requirements(runtimes=("onnxruntime", "litert"))


@pytest.mark.parametrize(
    ("need", "reason"),
    [
        (Requirements(runtimes=("onnxruntime",)), "needs onnxruntime"),
        (replace(FITS, architectures=("x86_64",)), "is for x86_64, not aarch64"),
        (replace(FITS, ram_bytes=1 << 30), "needs 1024 MB of memory, and there are 512 MB"),
    ],
)
def test_the_first_that_fits_is_chosen_and_others_say_why_not(
    need: Requirements, reason: str
) -> None:
    assert choose_variant(manifest(need, FITS, FITS), BOARD).id == "v1"
    with pytest.raises(UnsupportedModelError) as caught:
        choose_variant(manifest(need), BOARD)
    assert reason in str(caught.value.where)


def test_failed_variants_are_passed_over() -> None:
    assert choose_variant(manifest(FITS, FITS), BOARD, failed={"v0"}).id == "v1"


def test_the_best_installed_runtime_is_taken() -> None:
    assert choose_runtime(manifest(FITS).variants[0], BOARD) == "litert"
    with pytest.raises(UnsupportedModelError):
        choose_runtime(manifest(FITS).variants[0], replace(BOARD, runtimes={}))


def test_this_machine_is_described() -> None:
    here = detect_hardware()
    assert here.architecture
    assert here.ram_bytes > 1 << 20
