"""`.skops`: a scikit-learn estimator as data; every type in it is named before it is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit_converters.sources.estimator import import_any
from edgekit_converters.sources.imported import ImportedModel, Progress
from edgekit_converters.sources.options import SourceOptions
from edgekit_converters.sources.quiet import one_line, quiet
from edgekit_converters.sources.sklearn_parts import HARMLESS_TYPES, check_trees
from edgekit_runtime.errors import EnvironmentLackError, UnsupportedModelError, UsageError
from edgekit_runtime.extras import require


def import_skops(source: Path, options: SourceOptions, progress: Progress) -> ImportedModel:
    """Load an estimator that skops saved.

    Raises:
        UsageError: If it holds types that skops does not know to be harmless, and is not trusted;
            they are all named.
        UnsupportedModelError: If it is damaged or has no ONNX form.
        EnvironmentLackError: If a package that it needs is not installed.
    """
    where = str(source)
    progress("loading scikit-learn and skops")
    require("sklearn", extra="sklearn")
    skops: Any = require("skops.io", extra="sklearn")
    try:
        with quiet():
            unknown = [str(name) for name in skops.get_untrusted_types(file=where)]
            untrusted = [name for name in unknown if name not in HARMLESS_TYPES]
            if not untrusted or options.trust_pickle:
                held = skops.load(where, trusted=unknown)
    except ModuleNotFoundError as error:
        raise EnvironmentLackError(
            f"the model needs the Python package {error.name!r}, which is not installed",
            where=where,
            fix=f"install it as it was where the model was saved: pip install {error.name}",
        ) from error
    except Exception as error:
        raise _unreadable(where, error) from error
    if untrusted and not options.trust_pickle:
        raise UsageError(
            f"making this model would run code of types that are not known to be harmless: "
            f"{', '.join(untrusted)}",
            where=where,
            fix="build it of scikit-learn's own types; if you know these and trust who saved the "
            "file, add --trust-pickle",
        )
    check_trees(held, where=where)
    return import_any(held, options, where=where, progress=progress)


def _unreadable(where: str, error: Exception) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"skops cannot load this file: {one_line(error)}",
        where=where,
        fix="it may be damaged, or saved by a newer skops: save it again with skops.io.dump",
    )
