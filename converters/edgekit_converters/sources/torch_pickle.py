"""What `torch.save` wrote: weights alone, or a whole module as a pickle of Python objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit_converters.sources.imported import ImportedModel, Progress
from edgekit_converters.sources.options import SourceOptions
from edgekit_converters.sources.quiet import one_line, quiet
from edgekit_converters.sources.torch_factory import import_eager
from edgekit_converters.sources.torch_module import require_torch
from edgekit_converters.sources.trust import refuse_untrusted
from edgekit_runtime.errors import UnsupportedModelError

_ADVICE = (
    "give the module's own code instead: `edgekit convert package.module:factory --weights "
    "FILE`, or save it with torch.export.save (.pt2)"
)


def import_pickled_module(
    source: Path, options: SourceOptions, progress: Progress
) -> ImportedModel:
    """Load a whole module that was saved with `torch.save(module)`.

    Raises:
        UsageError: If the file needs trust, or the example inputs do not fit.
        UnsupportedModelError: If it holds no module, or the module cannot be exported.
        EnvironmentLackError: If the extra `torch` is not installed.
    """
    where = str(source)
    torch = require_torch(progress)
    held = _plain_weights(torch, where)
    if held is None:
        # More than tensors: only running the file's own code can make them.
        if not options.trust_pickle:
            refuse_untrusted(where, what="a module that torch.save pickled", safe=_ADVICE)
        try:
            with quiet():
                held = torch.load(where, map_location="cpu", weights_only=False)
        except Exception as error:
            raise UnsupportedModelError(
                f"PyTorch cannot load this file: {one_line(error)}",
                where=where,
                fix=f"it may be damaged, or need the code that it was saved with; {_ADVICE}",
            ) from error
    if not isinstance(held, torch.nn.Module):
        raise UnsupportedModelError(
            "these are weights without the network that they belong to",
            where=where,
            fix="name the code that makes the network: "
            f"`edgekit convert package.module:factory --weights {where}`",
        )
    return import_eager(torch, held, options, where=where, progress=progress)


def _plain_weights(torch: Any, where: str) -> Any:
    """What the file holds if that is tensors and containers alone, else None."""
    try:
        return torch.load(where, map_location="cpu", weights_only=True)
    except Exception:  # noqa: BLE001 - whatever a hostile pickle raises
        return None
