"""`.joblib` and `.pkl`: a Python object, which is made by running what the file says."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from edgekit_converters.sources.estimator import import_any
from edgekit_converters.sources.imported import ImportedModel, Progress
from edgekit_converters.sources.options import SourceOptions
from edgekit_converters.sources.quiet import one_line
from edgekit_converters.sources.trust import refuse_untrusted
from edgekit_runtime.errors import EnvironmentLackError, UnsupportedModelError
from edgekit_runtime.extras import require

_ADVICE = (
    "save the model as data instead: skops.io.dump(model, 'model.skops') for scikit-learn, "
    "booster.save_model('model.ubj') for XGBoost, 'model.txt' for LightGBM"
)


def import_pickle(source: Path, options: SourceOptions, progress: Progress) -> ImportedModel:
    """Load a pickled scikit-learn, XGBoost or LightGBM model that the user trusts.

    Raises:
        UsageError: If it is not trusted, or its inputs are not known.
        UnsupportedModelError: If it is damaged, holds something else, or has no ONNX form.
        EnvironmentLackError: If a package that it needs is not installed.
    """
    where = str(source)
    if not options.trust_pickle:
        refuse_untrusted(where, what="a Python pickle", safe=_ADVICE)
    progress("loading the pickle")
    joblib: Any = require("joblib", extra="sklearn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            held = joblib.load(where)
        except ModuleNotFoundError as error:
            raise EnvironmentLackError(
                f"the pickle needs the Python package {error.name!r}, which is not installed",
                where=where,
                fix=f"install it as it was where the model was saved: pip install {error.name}",
            ) from error
        except Exception as error:
            raise UnsupportedModelError(
                f"the pickle cannot be loaded: {type(error).__name__}: {one_line(error)}",
                where=where,
                fix="it may be damaged, or saved with other versions of its packages; " + _ADVICE,
            ) from error
    doubts = [
        one_line(Exception(str(warning.message)), limit=200)
        for warning in caught
        if warning.category.__name__ == "InconsistentVersionWarning"
    ]
    return import_any(
        held, options, where=where, progress=progress, warnings=list(dict.fromkeys(doubts))[:3]
    )
