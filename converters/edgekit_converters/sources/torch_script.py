"""TorchScript: a program in PyTorch's own small language, with its weights, in a zip archive.

Its pickles are read by PyTorch's own reader, which makes tensors and containers and calls nothing
of Python, and its code runs in PyTorch's interpreter. Of the functions that such code can call, two
reach beyond tensors; a program that names one of them is refused before it is loaded.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from pathlib import Path
from typing import Any, Final

from edgekit_converters.sources.imported import Arrays, ImportedModel, Progress
from edgekit_converters.sources.options import SourceOptions, example_inputs
from edgekit_converters.sources.quiet import one_line, quiet
from edgekit_converters.sources.torch_factory import trace_to_onnx
from edgekit_converters.sources.torch_module import (
    Exporter,
    import_module,
    output_names,
    require_torch,
)
from edgekit_converters.sources.torch_unsupported import in_script
from edgekit_runtime.errors import UnsupportedModelError

# aten::save(item, filename) and aten::from_file(filename, ...), in any spelling of a call.
_FILE_ACCESS: Final = re.compile(rb"\b(save|from_file)\s*\(")
_MAX_CODE_BYTES: Final = 64 << 20


def import_script(source: Path, options: SourceOptions, progress: Progress) -> ImportedModel:
    """Load a TorchScript file and export it to ONNX.

    Raises:
        UsageError: If the example inputs do not fit its forward().
        UnsupportedModelError: If it is damaged, reads or writes files, or cannot be exported.
        EnvironmentLackError: If the extra `torch` is not installed.
    """
    where = str(source)
    _refuse_file_access(source)
    torch = require_torch(progress)
    try:
        with quiet():
            module: Any = torch.jit.load(where, map_location="cpu").eval()
            parameters = [argument.name for argument in module.forward.schema.arguments[1:]]
    except Exception as error:
        raise UnsupportedModelError(
            f"PyTorch cannot load this TorchScript file: {one_line(error)}",
            where=where,
            fix="it may be damaged, or need operators of a package such as torchvision: save it "
            "again, or export the module with torch.export",
        ) from error
    examples = example_inputs(options, parameters, where=where)

    def export(inputs: Arrays, free: bool) -> Any:  # noqa: FBT001 - Exporter's signature
        tensors = {name: torch.from_numpy(array.copy()) for name, array in inputs.items()}
        names = output_names(module(**tensors))
        return trace_to_onnx(torch, module, inputs, names, free=free)

    return import_module(
        torch,
        module,
        examples,
        (
            Exporter(
                name="torch.onnx (TorchScript)",
                export=export,
                unsupported=lambda: in_script(
                    torch, module, map(torch.from_numpy, examples.values())
                ),
            ),
        ),
        where=where,
        progress=progress,
    )


def _refuse_file_access(source: Path) -> None:
    with zipfile.ZipFile(source) as archive:
        code = [
            info
            for info in archive.infolist()
            if info.filename.partition("/")[2].startswith("code/") and info.filename[-3:] == ".py"
        ]
        if sum(info.file_size for info in code) > _MAX_CODE_BYTES:
            raise UnsupportedModelError(
                "this TorchScript file has too much code", where=str(source)
            )
        for info in code:
            try:
                found = _FILE_ACCESS.search(archive.read(info))
            except (zipfile.BadZipFile, zlib.error, OSError, NotImplementedError) as error:
                raise UnsupportedModelError(
                    f"this TorchScript file is damaged: {one_line(error)}",
                    where=str(source),
                    fix="copy it again",
                ) from error
            if found:
                raise UnsupportedModelError(
                    f"this TorchScript program reads or writes files: {info.filename} calls "
                    f"{found.group(1).decode()}()",
                    where=str(source),
                    fix="a model has no need to; take the call out and save it again",
                )
