"""The quantized and half-precision forms of one source: one calibration, one plan, both formats."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgekit_converters.litert.compile import (
    CompiledFile,
    CompiledModel,
    compile_to_file,
    compile_to_litert,
)
from edgekit_converters.parked import ParkedModel
from edgekit_converters.quantize.litert import file_statistics, write_litert_file
from edgekit_converters.quantize.plan import Io, QuantizationPlan, Range, matching_nodes
from edgekit_converters.quantize.scheme import Scheme
from edgekit_converters.quantize.source import float_source
from edgekit_converters.quantize.write_litert import write_litert
from edgekit_converters.quantize.write_onnx import write_onnx
from edgekit_converters.ranges import (
    DEFAULT_METHOD,
    RangeMethod,
    RangeStatistics,
    collect_ranges,
)
from edgekit_runtime.errors import UsageError
from edgekit_runtime.formats import ModelFormat
from edgekit_runtime.graph.read import read_graph

if TYPE_CHECKING:
    from edgekit_converters.calibration import CalibrationSet
    from edgekit_converters.litert.layout import BorderLayout
    from edgekit_converters.repair.attempts import Candidate


#: What LiteRT files say of their origin.
DESCRIPTION: Final = "converted by edgekit"


class ReducedForms:
    """Writes what is asked for in less than float32; the source is calibrated once, when needed."""

    def __init__(
        self,
        *,
        normalised: ParkedModel | None,
        source: Path,
        compiled: CompiledFile | None,
        calibration: CalibrationSet | None,
        scratch: Path,
        keep_float: tuple[str, ...] = (),
        io: Io = "float",
        method: RangeMethod = DEFAULT_METHOD,
        layout: BorderLayout,
        progress: Callable[[str], None],
    ) -> None:
        """Take in what they are made of; nothing is computed yet.

        Args:
            normalised: The source in ONNX; None for a `.tflite` that has no such form.
            source: What the user named, for that case.
            compiled: The source in LiteRT, where LiteRT is a target and it came by way of ONNX.
            calibration: Needed by schemes with fixed ranges.
            scratch: A folder for what is not needed in memory.
            keep_float: Names and operator types, as the user gave them.
            io: What inputs and outputs of static schemes become.
            method: How ranges are chosen.
            layout: Of LiteRT inputs and outputs with four axes.
            progress: Told one plain sentence a step.
        """
        self._normalised = normalised
        self._source = source
        self._where = str(source)
        self._compiled = compiled
        self._calibration = calibration
        self._scratch = scratch
        self._keep_float = keep_float
        self._io = io
        self.method = method
        self._layout = layout
        self._progress = progress
        self._opened: ParkedModel | None = None
        self._compiled_float: CompiledFile | None = None
        self._plans: dict[Scheme, QuantizationPlan] = {}
        self._statistics: Mapping[str, RangeStatistics] | None = None
        # Of the source's own tensors, where it is quantized as it is.
        self._file_statistics: Mapping[str, RangeStatistics] | None = None
        #: What the user should read of the source itself; known when something was written.
        self.remarks: tuple[str, ...] = ()

    @property
    def has_onnx_form(self) -> bool:
        """Whether there is a model to calibrate, to plan for and to search with."""
        return self._normalised is not None

    def write(self, target: ModelFormat, scheme: Scheme, output: Path) -> tuple[str, ...]:
        """Write one form.

        Args:
            target: Its format.
            scheme: Its arithmetic.
            output: Where to; the folder exists.

        Returns:
            Sentences that the user should read.

        Raises:
            UsageError: If a name that is to stay float fits nothing.
            UnsupportedModelError: If the source is quantized already, or nothing would change.
        """
        if self._normalised is None or (target is ModelFormat.LITERT and self._compiled is None):
            plan = self._file_plan(scheme)
            return write_litert_file(self._source, plan, output, where=self._where)
        plan = self.plan(scheme)
        model = self.float_model()
        if target is ModelFormat.ONNX:
            return write_onnx(model, plan, output, where=self._where)
        compiled = self._compiled_model()
        return write_litert(compiled, plan, output, where=self._where, normalised=model)

    def write_candidate(
        self, target: ModelFormat, candidate: Candidate, output: Path
    ) -> tuple[str, ...]:
        """Write what a search for repairs came up with; see `write`."""
        model, plan = candidate.model, candidate.plan
        if target is ModelFormat.ONNX:
            return write_onnx(model, plan, output, where=self._where)
        compiled = compile_to_litert(
            model, where=self._where, description=DESCRIPTION, layout=self._layout
        )
        return write_litert(compiled, plan, output, where=self._where, normalised=model)

    def float_model(self) -> Any:
        """The `onnx.ModelProto` that is calibrated and quantized, its weights floats.

        Raises:
            UnsupportedModelError: If the source computes in integers already.
        """
        if self._normalised is None:
            raise ValueError("the source has no ONNX form")
        if self._opened is None:
            # An input that is an integer itself has one scale for all of its columns.
            known = self._calibration.samples.arrays if self._calibration else {}
            model, remarks = float_source(
                self._normalised.load(),
                where=self._where,
                samples=known if self._io == "float" else None,
            )
            self.remarks = tuple(remarks)
            self._opened = self._normalised
            if self.remarks:
                self._opened = ParkedModel(model, self._scratch / "opened")
        return self._opened.load()

    def statistics(self) -> Mapping[str, RangeStatistics]:
        """What flows through the model of `float_model` on the calibration data."""
        if self._statistics is None:
            model = self.float_model()
            calibration = self._known_calibration()
            self._progress(f"calibrating with {calibration.count} sample(s)")
            self._statistics = collect_ranges(model, calibration.batches())
        return self._statistics

    def plan(self, scheme: Scheme) -> QuantizationPlan:
        """How the model of `float_model` becomes a scheme's, before anything is repaired.

        Raises:
            UsageError: If a name that is to stay float fits nothing.
            UnsupportedModelError: If the source computes in integers already.
        """
        if scheme not in self._plans:
            self._plans[scheme] = self._planned(scheme)
        return self._plans[scheme]

    def _planned(self, scheme: Scheme) -> QuantizationPlan:
        keep_float = matching_nodes(self.float_model(), self._keep_float)
        return QuantizationPlan(
            scheme=scheme,
            ranges=self._ranges(scheme, self.statistics() if scheme.needs_ranges else {}),
            keep_float=keep_float,
            io=self._border(scheme),
        )

    def _ranges(self, scheme: Scheme, seen: Mapping[str, RangeStatistics]) -> dict[str, Range]:
        if not scheme.needs_ranges:
            return {}
        return {
            name: value.range(self.method, steps=scheme.activation_steps)
            for name, value in seen.items()
            # A mask of infinities that is clipped masks no more.
            if value.finite
        }

    def _compiled_model(self) -> CompiledModel:
        """The LiteRT form of the model of `float_model`."""
        compiled = self._compiled_float
        if compiled is None and not self.remarks:
            compiled = self._compiled
        if compiled is None:
            # What was compiled has the source's weights, which may be integers.
            compiled = compile_to_file(
                self.float_model(),
                self._scratch / "opened.tflite",
                where=self._where,
                description=DESCRIPTION,
                layout=self._layout,
            )
        self._compiled_float = compiled
        lowered = compiled.load()
        return CompiledModel(
            content=compiled.path.read_bytes(),
            program=lowered.program,
            graph=lowered.graph,
            prepared=lowered.prepared,
            borders=lowered.borders,
        )

    def _file_plan(self, scheme: Scheme) -> QuantizationPlan:
        """The plan for a `.tflite` file as it is, in the names of its tensors."""
        keep_float = _named_in_file(self._source, self._keep_float)
        if scheme.needs_ranges and self._file_statistics is None:
            calibration = self._known_calibration()
            self._progress(f"calibrating with {calibration.count} sample(s)")
            self._file_statistics = file_statistics(
                self._source, calibration.batches(), where=self._where
            )
        return QuantizationPlan(
            scheme=scheme,
            ranges=self._ranges(scheme, self._file_statistics or {}),
            keep_float=keep_float,
            io=self._border(scheme),
        )

    def _border(self, scheme: Scheme) -> Io:
        return self._io if scheme.needs_ranges else "float"

    def _known_calibration(self) -> CalibrationSet:
        if self._calibration is None:  # pragma: no cover - the request was checked for it
            raise UsageError("there is no calibration data", where="calibration")
        return self._calibration


def _named_in_file(source: Path, wanted: tuple[str, ...]) -> frozenset[str]:
    """What the operators of a `.tflite` file make that a user means by name or by type.

    Raises:
        UsageError: Naming everything that fits no operator.
    """
    found: set[str] = set()
    unknown = []
    operators = read_graph(source).operators if wanted else ()
    for word in wanted:
        fitting = {
            name
            for operator in operators
            for name in operator.outputs
            if word in operator.outputs or word.lower() == operator.type.lower()
        }
        if not fitting:
            unknown.append(word)
        found |= fitting
    if unknown:
        types = sorted({operator.type for operator in operators})
        raise UsageError(
            f"no tensor or operator type of the model: {', '.join(unknown)}",
            where="keep-float",
            fix=f"the model's operator types are {', '.join(types)}; edgekit inspect lists more",
        )
    return frozenset(found)
