"""Our quantized models beside the plain defaults of others: the table in docs/quantization.md.

Run: `python tools/quantize_table.py [--check]`, with EDGEKIT_SHARED set to a folder of models and
data, see tests/converters/quantize/subjects.py. `--check` writes nothing, and fails where ours is
less accurate than another of about the same size.
"""

from __future__ import annotations

import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "quantization.md"
BEGIN, END = "<!-- table -->", "<!-- end of table -->"
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from edgekit_converters.litert.compile import compile_to_litert  # noqa: E402 - found by the path
from edgekit_converters.litert.emit import SIGNATURE  # noqa: E402
from edgekit_converters.quantize.scheme import Scheme  # noqa: E402
from edgekit_converters.sources.quiet import quiet  # noqa: E402
from tests.converters.quantize.subjects import (  # noqa: E402
    SHARED,
    Judgement,
    Prepared,
    Subject,
    own_subjects,
    shared_subject,
)

# A file is as large as another one if it is at most that much larger.
SAME_SIZE = 1.1
# How rarely chance alone may bring about a difference that counts.
SIGNIFICANT = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One form of one model, by us and by another.

    Attributes:
        scheme: What it is quantized to.
        suffix: Of the format.
        ours: What became of it with us.
        rival: Who else.
        theirs: What became of it there, or why nothing did.
    """

    scheme: Scheme
    suffix: str
    ours: Judgement
    rival: str
    theirs: Judgement | str

    @property
    def is_behind(self) -> bool:
        """Whether the other one is more accurate, and not larger."""
        theirs = self.theirs
        if isinstance(theirs, str) or theirs.size_bytes > SAME_SIZE * self.ours.size_bytes:
            return False
        lost = int((theirs.right & ~self.ours.right).sum())
        won = int((self.ours.right & ~theirs.right).sum())
        return chance(lost, won) < SIGNIFICANT


def chance(lost: int, won: int) -> float:
    """How likely one of two equals loses so many of the samples that only one gets right."""
    both = lost + won
    return sum(math.comb(both, more) for more in range(lost, both + 1)) * 0.5**both


Rival = Callable[[Prepared, Path, Path], None]


def onnxruntime_static(prepared: Prepared, source: Path, target: Path) -> None:
    """`quantize_static` as its documentation has it: preprocessed, everything else by default."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    batches = prepared.batches(prepared.subject.calibration, 1)

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, Any] | None:
            return next(batches, None)

    ready = target.with_name("ready.onnx")
    try:
        quant_pre_process(str(source), str(ready))
    except AssertionError:
        # Its inference of symbolic shapes fails on encoders; they can be quantized all the same.
        quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)
    quantize_static(str(ready), str(target), Reader())


def onnxruntime_dynamic(_: Prepared, source: Path, target: Path) -> None:
    """`quantize_dynamic` by default."""
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(str(source), str(target))


def ai_edge_quantizer(recipe_name: str) -> Rival:
    """A recipe of ai-edge-quantizer by default, on our float `.tflite`."""

    def quantize(prepared: Prepared, source: Path, target: Path) -> None:
        from ai_edge_quantizer import quantizer, recipe

        # Floats at the border, as ours have them; by default it would be integer.
        border = [
            {"regex": ".*", "operation": side, "algorithm_key": "no_quantize"}
            for side in ("INPUT", "OUTPUT")
        ]
        rules = [*getattr(recipe, recipe_name)(), *(border if "static" in recipe_name else ())]
        work = quantizer.Quantizer(str(source), rules)
        ranges = None
        if work.need_calibration:
            batches = list(prepared.batches(prepared.subject.calibration, 1))
            ranges = work.calibrate({SIGNATURE: batches}, num_threads=1)
        work.quantize(ranges, serialize_to_path=str(target))

    return quantize


RIVALS: dict[tuple[Scheme, str], tuple[str, Rival]] = {
    (Scheme.INT8, ".onnx"): ("onnxruntime", onnxruntime_static),
    (Scheme.INT8, ".tflite"): ("ai-edge-quantizer", ai_edge_quantizer("static_wi8_ai8")),
    (Scheme.INT16X8, ".tflite"): ("ai-edge-quantizer", ai_edge_quantizer("static_wi8_ai16")),
    (Scheme.INT8_DYNAMIC, ".onnx"): ("onnxruntime", onnxruntime_dynamic),
    (Scheme.INT8_DYNAMIC, ".tflite"): (
        "ai-edge-quantizer",
        ai_edge_quantizer("dynamic_wi8_afp32"),
    ),
    (Scheme.INT8_WEIGHTS, ".tflite"): (
        "ai-edge-quantizer",
        ai_edge_quantizer("weight_only_wi8_afp32"),
    ),
    (Scheme.INT4_WEIGHTS, ".tflite"): (
        "ai-edge-quantizer",
        ai_edge_quantizer("weight_only_wi4_afp32"),
    ),
}


def rows(subject: Subject, folder: Path) -> Iterator[Row]:
    """All forms of one model."""
    import onnx

    prepared = Prepared(subject)
    floats = {".onnx": folder / "float.onnx", ".tflite": folder / "float.tflite"}
    onnx.save_model(subject.source, str(floats[".onnx"]))
    # As anybody would convert it: what we do to it before we quantize is ours.
    compiled = compile_to_litert(prepared.plain, where=subject.name)
    floats[".tflite"].write_bytes(compiled.content)
    for (scheme, suffix), (rival, quantize) in RIVALS.items():
        mine, other = folder / f"ours{suffix}", folder / f"theirs{suffix}"
        prepared.write(scheme, mine)
        theirs: Judgement | str
        try:
            with quiet():
                quantize(prepared, floats[suffix], other)
            theirs = prepared.judge(other, folder)
        except Exception as error:  # noqa: BLE001 - whatever they raise is their result
            theirs = f"fails: {type(error).__name__}"
        yield Row(
            scheme=scheme,
            suffix=suffix,
            ours=prepared.judge(mine, folder),
            rival=rival,
            theirs=theirs,
        )


def table(found: dict[str, tuple[Subject, list[Row]]]) -> str:
    """The table in Markdown."""
    tools = ("onnxruntime", "ai-edge-quantizer", "ai-edge-litert")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in tools)
    lines = [
        f"Measured here, with {versions}: accuracy in %, agreement with the float model in %, and "
        "the file in kB; ours / theirs. Both are judged on the same samples and calibrated with "
        "the same, at most 200.",
        "",
        "| model | scheme | format | beside | accuracy | agreement | kB |",
        "|---|---|---|---|---|---|---|",
    ]
    for subject, listed in found.values():
        float_accuracy = listed[0].ours.source_accuracy
        title = f"{subject.name}: float {100 * float_accuracy:.2f}, {len(subject.labels)} samples"
        for row in listed:
            ours, theirs = row.ours, row.theirs
            cells = _cells(ours)
            if isinstance(theirs, str):
                texts = [f"{cells[0]} / {theirs}", *cells[1:]]
            else:
                pairs = zip(cells, _cells(theirs), strict=True)
                texts = [f"{mine} / {other}" for mine, other in pairs]
            form = "ONNX" if row.suffix == ".onnx" else "LiteRT"
            lines.append(f"| {title} | {row.scheme} | {form} | {row.rival} | {' | '.join(texts)} |")
            title = ""
    return "\n".join(lines)


def _cells(judgement: Judgement) -> list[str]:
    return [
        f"{100 * judgement.accuracy:.2f}",
        f"{100 * judgement.agreement:.2f}",
        f"{judgement.size_bytes / 1000:.1f}",
    ]


def main() -> None:
    """Measure everything, and write the table, or say where ours is behind."""
    shared = Path(os.environ.get("EDGEKIT_SHARED", ROOT.parent / "shared" / "data"))
    subjects = list(own_subjects())
    if shared.is_dir():
        subjects += [shared_subject(name, shared) for name in SHARED]
    found: dict[str, tuple[Subject, list[Row]]] = {}
    for subject in subjects:
        with tempfile.TemporaryDirectory() as name:
            found[subject.name] = subject, list(rows(subject, Path(name)))
        print(f"measured {subject.name}", file=sys.stderr)
    text = table(found)
    behind = [
        f"{name}, {row.scheme} {row.suffix}: {row.ours.accuracy:.2%} beside {row.rival}"
        for name, (_, listed) in found.items()
        for row in listed
        if row.is_behind
    ]
    print(text)
    if "--check" not in sys.argv[1:]:
        before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
        _, _, after = rest.partition(END)
        PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")
    if behind:
        sys.exit("behind:\n" + "\n".join(behind))


if __name__ == "__main__":
    main()
