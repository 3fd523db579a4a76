"""`.pt2`: a program that torch.export captured, with its weights, in a zip archive.

PyTorch warns against loading such a file from others, and for good reason: beside data it may hold
pickles, libraries compiled for one machine, and text that is evaluated as Python. What is refused
here, before PyTorch sees the file, is everything of that kind; what remains is data. A file that
needs more is loaded with `--trust-pickle`.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from edgekit_converters.sources.imported import ImportedModel, Progress
from edgekit_converters.sources.options import SourceOptions
from edgekit_converters.sources.quiet import one_line, quiet
from edgekit_converters.sources.torch_factory import program_to_onnx
from edgekit_converters.sources.torch_module import (
    Exporter,
    import_module,
    output_names,
    require_torch,
)
from edgekit_converters.sources.torch_unsupported import in_program
from edgekit_converters.sources.trust import refuse_untrusted
from edgekit_runtime.errors import UnsupportedModelError

_DAMAGES: Final = (zipfile.BadZipFile, zlib.error, OSError, ValueError)
_MAX_TEXT_BYTES: Final = 256 << 20
_ADVICE: Final = (
    "save the exported program again with torch.export.save from a plain module, or give the "
    "module's own code: `edgekit convert package.module:factory --weights FILE`"
)
# What torch.export.save writes for a program without custom objects.
_PLAIN_MEMBERS: Final = re.compile(
    r"(archive_format|archive_version|byteorder|version|\.data/[\w.]+|\.format_version"
    r"|\.storage_alignment|models/model\.json|extra/.*"
    r"|data/(weights|constants)/((weight|tensor)_\d+|model_(weights|constants)_config\.json)"
    r"|data/(weights|constants|sample_inputs)/model\.pt)"
)
_NAME: Final = re.compile(r"[\w.$\-\[\]]*")
# What a size is called that has bounds: PyTorch looks it up, and does not evaluate it.
_SIZE_TEXT: Final = re.compile(r"[\w\s+\-*/(),]*")
_OPERATOR: Final = re.compile(
    r"torch\.ops\.(aten|prim|prims|higher_order|quantized_decomposed|torchvision)"
    r"\.(?!save\b|from_file\b)\w+(\.\w+)*"
    r"|_operator\.(getitem|add|sub|mul|neg|pos|abs|truediv|floordiv|mod|pow|eq|ne|lt|le|gt|ge|and_"
    r"|or_|not_)"
    r"|math\.\w+|torch\.sym_\w+"
)
# A size such as Add(Integer(1), Symbol('s0', integer=True)): sympy evaluates it as Python.
_SYMBOL: Final = re.compile(r"Symbol\('\w+'(, \w+=(True|False))*\)")
_SQUARE: Final = re.compile(r"Pow\(\s*,\s*Integer\(\d\)\)")
_WORD: Final = re.compile(r"[A-Za-z_]\w*")
_SIZE_WORDS: Final = frozenset(
    {"Integer", "Rational", "Add", "Mul", "Max", "Min", "Mod", "PythonMod", "FloorDiv", "CleanDiv"}
    | {"CeilDiv", "IntTrueDiv", "FloatTrueDiv", "CeilToInt", "FloorToInt", "TruncToInt", "ToFloat"}
    | {"RoundToInt", "Equality", "Unequality", "StrictGreaterThan", "StrictLessThan", "GreaterThan"}
    | {"LessThan", "And", "Or", "Not", "Where", "ModularIndexing", "Identity"}
)
# No dots, no operators, no number beyond 64 bits: nothing to reach for, nothing that takes forever.
_SIZE_REST: Final = re.compile(r"[\w\s,()=\-]*")
_LONG_NUMBER: Final = re.compile(r"\d{19}")
# A condition such as L['image'].size()[0] == 2: PyTorch compiles it as Python.
_GUARD_ACCESS: Final = re.compile(r"L(\['[\w.]+'\]|\[\d+\])+(\.size\(\)\[\d+\]|\.shape\[\d+\])?")
_GUARD_WORDS: Final = frozenset({"and", "or", "not", "True", "False", "max", "min"})
_GUARD_REST: Final = re.compile(r"[\w\s+\-*/%(),<>=!]*")
# Text that PyTorch only reads, or that says where an operator came from.
_FREE_TEXT: Final = frozenset({"metadata", "torch_version", "verifiers", "as_string", "as_strings"})
_SPECIFICATIONS: Final = frozenset({"in_spec", "out_spec"})
_PLAIN_CONTAINERS: Final = frozenset(
    {"builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"}
)


def import_program(source: Path, options: SourceOptions, progress: Progress) -> ImportedModel:
    """Load an exported program and turn it into ONNX; its own dynamic shapes are kept.

    Raises:
        UsageError: If the file holds code and is not trusted.
        UnsupportedModelError: If it is damaged, too old or too new, or cannot be exported.
        EnvironmentLackError: If the extra `torch` is not installed.
    """
    where = str(source)
    torch = require_torch(progress)
    if not options.trust_pickle:
        found = next(_code_in(torch, source), None)
        if found is not None:
            refuse_untrusted(where, what=f"a .pt2 file that holds {found}", safe=_ADVICE)
    progress("loading the exported program")
    try:
        with quiet():
            program = torch.export.load(where)
    except Exception as error:
        raise _unreadable(where, error) from error
    examples = _example_arrays(program, where)
    module = program.module()
    positional = len((program.example_inputs or ((), {}))[0])

    def run(**tensors: Any) -> Any:
        named = list(tensors.items())
        return module(*(tensor for _, tensor in named[:positional]), **dict(named[positional:]))

    def export(inputs: dict[str, Any], free: bool) -> Any:  # noqa: FBT001 - Exporter's signature
        del inputs, free  # the program says itself which sizes are free
        names = output_names(run(**_tensors(torch, examples)))
        return program_to_onnx(torch, program, examples, names)

    return import_module(
        torch,
        run,
        examples,
        (Exporter(name="torch.export", export=export, unsupported=lambda: in_program(program)),),
        where=where,
        progress=progress,
    )


def _tensors(torch: Any, arrays: dict[str, Any]) -> dict[str, Any]:
    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}


def _example_arrays(program: Any, where: str) -> dict[str, Any]:
    """The inputs that the program was captured with, by the names of its parameters."""
    names = list(program.graph_signature.user_inputs)
    arguments, keywords = program.example_inputs or ((), {})
    values = [*arguments, *keywords.values()]
    if len(names) != len(values) or not all(hasattr(value, "numpy") for value in values):
        raise UnsupportedModelError(
            "the program takes more than tensors, or its example inputs are missing",
            where=where,
            fix="export a module whose forward() takes tensors alone",
        )
    return {
        str(name): value.detach().cpu().numpy() for name, value in zip(names, values, strict=True)
    }


def _code_in(torch: Any, source: Path) -> Iterator[str]:
    """Everything in the archive that would run when PyTorch loads it, in words."""
    try:
        with zipfile.ZipFile(source) as archive:
            for info in archive.infolist():
                member = info.filename.partition("/")[2]
                if not _PLAIN_MEMBERS.fullmatch(member):
                    yield f"{member!r}, which is not plain data"
                elif member.endswith(".json"):
                    if info.file_size > _MAX_TEXT_BYTES:
                        raise _unreadable(str(source), f"{member} is too large")
                    yield from _code_in_json(json.loads(archive.read(info)))
                elif member.endswith("/model.pt") and info.file_size:
                    # torch 2.8 keeps weights and constants so, and all versions the examples.
                    content = io.BytesIO(archive.read(info))
                    try:
                        torch.load(content, map_location="cpu", weights_only=True)
                    except Exception:  # noqa: BLE001 - whatever a hostile pickle raises
                        yield f"a pickle of more than tensors ({member})"
    except (*_DAMAGES, RecursionError, NotImplementedError) as error:
        raise _unreadable(str(source), error) from error


def _code_in_json(value: Any, key: str = "") -> Iterator[str]:
    if key in _FREE_TEXT:
        return
    if isinstance(value, dict):
        if value.get("use_pickle"):
            yield "a tensor as a pickle"
        names = _SIZE_TEXT if key == "range_constraints" else _NAME
        for name, item in value.items():
            if not names.fullmatch(name):
                yield f"a name that is none: {name[:60]!r}"
            yield from _code_in_json(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from _code_in_json(item, key)
    elif isinstance(value, str) and not _is_harmless(value, key):
        yield f"text that PyTorch would run as Python: {value[:60]!r}"


def _is_harmless(text: str, key: str) -> bool:
    if key == "target":
        return _OPERATOR.fullmatch(text) is not None
    if key == "expr_str":
        rest = _SQUARE.sub(" ", _SYMBOL.sub(" ", text))
        return (
            _SIZE_REST.fullmatch(rest) is not None
            and _LONG_NUMBER.search(rest) is None
            and _SIZE_WORDS.issuperset(_WORD.findall(rest))
        )
    if key == "guards_code":
        rest = _GUARD_ACCESS.sub(" ", text)
        return (
            _GUARD_REST.fullmatch(rest) is not None
            and "**" not in rest
            and _GUARD_WORDS.issuperset(_WORD.findall(rest))
        )
    if key in _SPECIFICATIONS:
        return _is_plain_specification(text)
    return _NAME.fullmatch(text) is not None


def _is_plain_specification(text: str) -> bool:
    """Whether the description of nested inputs or outputs names built-in containers alone."""

    def plain(value: Any) -> bool:
        if isinstance(value, dict):
            kind = value.get("type")
            if kind is not None and kind not in _PLAIN_CONTAINERS:
                return False
            return "__enum__" not in value and all(map(plain, value.values()))
        if isinstance(value, list):
            return all(map(plain, value))
        return not isinstance(value, str) or "__enum__" not in value

    try:
        return plain(json.loads(text)) if text else True
    except (ValueError, RecursionError):
        return False


def _unreadable(where: str, reason: object) -> UnsupportedModelError:
    text = reason if isinstance(reason, str) else one_line(Exception(reason))
    return UnsupportedModelError(
        f"PyTorch cannot load this .pt2 file: {text}",
        where=where,
        fix="it may be damaged, or saved by a newer PyTorch: save it again, or update torch",
    )
