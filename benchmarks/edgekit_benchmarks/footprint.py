"""What a model needs of a device's memory and flash: planned from its graph, not fitted."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from edgekit_runtime.graph.lifetimes import plan_memory

if TYPE_CHECKING:
    from edgekit_benchmarks.job import ModelMemory
    from edgekit_runtime.graph.model import Graph

# Within this the plan and what was taken are the same.
_CLOSE: Final = 0.15
# Resident memory is told to about this: allocators grow by the megabyte, and the kernel counts
# pages in batches.
_RESOLUTION_BYTES: Final = 1_000_000
# No board that runs Linux and Python has less.
_MICROCONTROLLER_MB: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class _EngineFacts:
    """An engine's own needs, measured with Python 3.11 and numpy on Linux x86-64.

    Attributes:
        resident_bytes: Python, numpy and the engine, a model of a few layers included.
        installed_bytes: The package on disk, without Python and numpy.
        weight_copies: How often the weights are resident: mapped or read, and packed.
        arenas: How many arenas' worth of activations stay resident from the second run on.
        note: What is behind the last two.
    """

    resident_bytes: int
    installed_bytes: int
    weight_copies: float
    arenas: float
    note: str


_ENGINES: Final = {
    "onnxruntime": _EngineFacts(
        resident_bytes=67_000_000,
        installed_bytes=73_000_000,
        weight_copies=1.0,
        arenas=2.0,
        note="onnxruntime keeps the blocks of the first inference, and from the second on takes "
        "its planned arena as one block beside them",
    ),
    "litert": _EngineFacts(
        resident_bytes=51_000_000,
        installed_bytes=58_000_000,
        weight_copies=2.0,
        arenas=1.0,
        note="the file is mapped, and XNNPACK packs the weights once more",
    ),
    "tflite-runtime": _EngineFacts(
        resident_bytes=45_000_000,
        installed_bytes=7_000_000,
        weight_copies=2.0,
        arenas=1.0,
        note="the file is mapped, and XNNPACK packs the weights once more",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """What a model needs with an engine.

    Attributes:
        weights_bytes: Everything stored in the file that is computed with.
        activations_bytes: An arena that holds the computed tensors, planned over their lifetimes.
        busiest: The operator at which most is alive.
        unplanned: How many tensors have no known size and are left out.
        engine_bytes: Python, numpy and the engine.
        peak_bytes: The whole process: the engine, the weights as often as it holds them, and the
            activations as often as it holds those.
        flash_bytes: The file and the engine's package, without Python and numpy.
        note: What is behind the two "as often".
    """

    weights_bytes: int
    activations_bytes: int
    busiest: str
    unplanned: int
    engine_bytes: int
    peak_bytes: int
    flash_bytes: int
    note: str

    def to_json(self) -> dict[str, object]:
        """The figures as a JSON object."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceMemory:
    """What a model needs of a board's memory, and what there is.

    Attributes:
        needed_bytes: The whole process; on a microcontroller, where weights stay in flash and an
            engine is compiled in, the activations alone.
        ram_mb: The sizes that the board is sold with, ascending.
        micro: Whether it is a microcontroller.
    """

    needed_bytes: int
    ram_mb: tuple[float, ...]
    micro: bool

    @property
    def fits(self) -> bool:
        """Whether the largest size has room for it; what else runs there is not counted."""
        return self.needed_bytes <= self.ram_mb[-1] * 2**20

    @property
    def ram(self) -> str:
        """The sizes for people: "640 kB", "1 to 8 GB"."""
        least, most = _capacity(self.ram_mb[0]), _capacity(self.ram_mb[-1])
        if least == most:
            return most
        return f"{least.removesuffix(most[-3:])} to {most}"


def memory_on(footprint: Footprint, ram_mb: tuple[float, ...]) -> DeviceMemory:
    """What of a footprint lies in a board's memory."""
    micro = ram_mb[-1] < _MICROCONTROLLER_MB
    return DeviceMemory(
        needed_bytes=footprint.activations_bytes if micro else footprint.peak_bytes,
        ram_mb=ram_mb,
        micro=micro,
    )


def _capacity(megabytes: float) -> str:
    if megabytes < 1:
        return f"{megabytes * 1000:.0f} kB"
    return f"{megabytes:g} MB" if megabytes < 2**10 else f"{megabytes / 2**10:g} GB"


def plan_footprint(graph: Graph, *, file_bytes: int, engine: str) -> Footprint:
    """Plan what a model needs.

    Args:
        graph: The model.
        file_bytes: The size of its file.
        engine: "onnxruntime", "litert" or "tflite-runtime".
    """
    plan = plan_memory(graph)
    facts = _ENGINES[engine]
    weights = sum(tensor.constant_bytes or 0 for tensor in graph.tensors.values())
    return Footprint(
        weights_bytes=weights,
        activations_bytes=plan.peak_bytes,
        busiest=plan.busiest,
        unplanned=plan.unknown,
        engine_bytes=facts.resident_bytes,
        peak_bytes=round(
            facts.resident_bytes + weights * facts.weight_copies + plan.peak_bytes * facts.arenas
        ),
        flash_bytes=file_bytes + facts.installed_bytes,
        note=facts.note,
    )


def compare_activations(
    footprint: Footprint,
    taken: ModelMemory,
    *,
    engine: str,
    plain: ModelMemory | None = None,
) -> tuple[str, ...]:
    """Say how the planned activations agree with what an engine took, and why they do not.

    Args:
        footprint: What was planned.
        taken: What the engine took as it is used.
        engine: Its name.
        plain: What it took with its plain kernels and no optimisation; None if that was not tried.
    """
    planned = footprint.activations_bytes
    if engine != "onnxruntime":
        # LiteRT touches its arena while it loads: weights and arena cannot be told apart.
        planned += round(footprint.weights_bytes * _ENGINES[engine].weight_copies)
        took = taken.model_bytes + taken.first_activations_bytes
        what = "weights and activations"
    else:
        took = taken.first_activations_bytes
        what = "activations"
    said = [f"{what}: planned {_mega(planned)}, the first inference took {_mega(took)}"]
    if abs(took - planned) <= planned * _CLOSE:
        said[0] += ", as planned"
    elif _same(planned, took):
        said[0] += f", the same as near as it can be told ({_mega(_RESOLUTION_BYTES)})"
    elif plain is None:
        said[0] += f" ({took / max(1, planned) - 1:+.0%}): {_REASONS[engine]}"
    else:
        said.append(_explain(footprint, took - planned, plain, engine=engine))
    if taken.activations_bytes > taken.first_activations_bytes + max(
        _RESOLUTION_BYTES, round(taken.first_activations_bytes * _CLOSE)
    ):
        said.append(
            f"{_mega(taken.activations_bytes)} stay resident from the second inference on: "
            f"{_ENGINES[engine].note}"
        )
    return tuple(said)


_PACKING: Final = (
    "XNNPACK plans an arena of its own and packs weights; --explain-memory tells how much"
)
_REASONS: Final = {
    "onnxruntime": "its arena grows in steps before there is a plan, fusions save tensors, blocked "
    "layouts add some; --explain-memory tells how much",
    "litert": _PACKING,
    "tflite-runtime": _PACKING,
}


def _explain(footprint: Footprint, difference: int, plain: ModelMemory, *, engine: str) -> str:
    planned = footprint.activations_bytes
    took = plain.first_activations_bytes
    if _same(planned, took):
        return (
            f"with {engine}'s plain kernels, and no graph optimisation, the activations take "
            f"{_mega(took)} of {_mega(planned)} planned: the remaining {difference / 1e6:+.1f} MB "
            "are its optimised kernels' layouts, fusions and scratch memory"
        )
    return (
        f"with {engine}'s plain kernels the activations take {_mega(took)} of {_mega(planned)} "
        "planned: the engine computes "
        + (
            "some operators in place"
            if took < planned
            else "with scratch memory, or its arena grows in steps before there is a plan"
        )
    )


def _same(planned: int, took: int) -> bool:
    return abs(took - planned) <= max(_RESOLUTION_BYTES, planned * _CLOSE)


def _mega(count: float) -> str:
    return f"{count / 1e6:.1f} MB"
