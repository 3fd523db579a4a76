"""What a figure from this machine says about another one."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Final

from edgekit_converters.quantize.scheme import Scheme
from edgekit_runtime.formats import ModelFormat

_X86: Final = frozenset({"x86_64", "amd64"})
_CPUINFO: Final = Path("/proc/cpuinfo")
# The release that 32-bit boards have computes such files without an error, and wrongly.
_WRONG_IN_OLD_RUNTIMES: Final = frozenset(
    {Scheme.INT8_DYNAMIC, Scheme.INT4_WEIGHTS, Scheme.INT16X8}
)


def how_judged(*, machine: str | None = None, cpuinfo: str | None = None) -> str:
    """How accuracy is measured here, and what that says about the device; a paragraph.

    Args:
        machine: As `platform.machine` tells it; None: this one's.
        cpuinfo: What Linux says of the processor; None: this one's.
    """
    machine = (machine or platform.machine()).lower()
    if machine not in _X86:
        return (
            f"measured in the engines themselves on {machine}: 8-bit products do not saturate "
            "here, nor on other boards; LiteRT's kernels may differ by one or two steps between "
            "processors"
        )
    if cpuinfo is None:
        cpuinfo = _CPUINFO.read_text(errors="replace") if _CPUINFO.is_file() else ""
    vnni = "avx512_vnni" in cpuinfo or "avx_vnni" in cpuinfo
    here = (
        f"measured in the engines themselves on {machine}"
        + (", with VNNI: 8-bit products do not saturate" if vnni else
           " without VNNI, where onnxruntime's 8-bit products can saturate; on ARM they do not")
    )  # fmt: skip
    return (
        f"{here}. The ONNX weights are chosen so that none does on any processor, and candidates "
        "of a search are compared without such kernels: the figures hold on ARM as well. LiteRT's "
        "kernels may differ by one or two steps between processors"
    )


def doubts_of(scheme: Scheme, target: ModelFormat) -> tuple[str, ...]:
    """What a user should know of engines that compute a scheme wrongly."""
    if target is ModelFormat.LITERT and scheme in _WRONG_IN_OLD_RUNTIMES:
        return (
            f"{scheme} needs LiteRT: tflite-runtime 2.14 computes such "
            "files wrongly without an error, so the versions of its operators make old engines "
            "refuse it; int8 and int8-weights run there",
        )
    return ()


def slower_than_float(
    scheme: Scheme, latency_ms: float | None, float_ms: float | None, board: str, kind: str
) -> tuple[str, ...]:
    """A sentence where a device is predicted to gain nothing from a scheme.

    Args:
        scheme: With fixed ranges.
        latency_ms: Of the artifact, predicted.
        float_ms: Of its float form, predicted.
        board: The device.
        kind: What the figures are.
    """
    if latency_ms is None or float_ms is None or latency_ms < float_ms:
        return ()
    return (
        f"{scheme} is predicted to be no faster than float on {board}: {latency_ms:.3g} ms "
        f"against {float_ms:.3g} ms ({kind}); it saves memory, not time",
    )
