"""Any object that was loaded from a file of scikit-learn's world: find out whose it is."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from edgekit_converters.sources.imported import (
    ImportedModel,
    Progress,
    ReferenceSession,
    specs_of,
)
from edgekit_converters.sources.options import SourceOptions
from edgekit_converters.sources.sklearn_model import import_estimator, rows_of
from edgekit_runtime.errors import UnsupportedModelError


def import_any(
    held: Any,
    options: SourceOptions,
    *,
    where: str,
    progress: Progress,
    warnings: Sequence[str] = (),
) -> ImportedModel:
    """Import a loaded object: XGBoost's, LightGBM's, or any estimator of scikit-learn.

    Args:
        held: What was loaded.
        options: See `import_estimator`.
        where: The source, for errors.
        progress: Told each step.
        warnings: What is already known to be doubtful.

    Raises:
        UnsupportedModelError: If it is none of these, or has no ONNX form.
    """
    made = _import_booster(held, where, progress) or _import_pipeline(
        held, options, where, progress
    )
    if made is not None:
        return replace(made, warnings=(*warnings, *made.warnings))
    if not hasattr(held, "predict") and not hasattr(held, "transform"):
        inside = f" with {', '.join(map(repr, list(held)[:5]))}" if isinstance(held, dict) else ""
        raise UnsupportedModelError(
            f"the file holds a {type(held).__module__}.{type(held).__qualname__}{inside}, no "
            "fitted estimator",
            where=where,
            fix="save the estimator itself",
        )
    return import_estimator(held, options, where=where, progress=progress, warnings=warnings)


def _import_booster(held: Any, where: str, progress: Progress) -> ImportedModel | None:
    """XGBoost's and LightGBM's models, bare or in their scikit-learn form; None for others."""
    # A package that the object belongs to has been imported by loading it.
    xgboost, lightgbm = sys.modules.get("xgboost"), sys.modules.get("lightgbm")
    if xgboost is not None:
        from edgekit_converters.sources import xgboost_model

        if isinstance(held, xgboost.Booster):
            return xgboost_model.import_booster(xgboost, held, where=where, progress=progress)
        if isinstance(held, xgboost.XGBModel):
            return xgboost_model.import_booster(
                xgboost,
                _best(held, held.get_booster()),
                where=where,
                progress=progress,
                classes=_classes(held),
            )
    if lightgbm is not None:
        from edgekit_converters.sources import lightgbm_model

        if isinstance(held, lightgbm.Booster):
            return lightgbm_model.import_booster(lightgbm, held, where=where, progress=progress)
        if isinstance(held, lightgbm.LGBMModel):
            return lightgbm_model.import_booster(
                lightgbm, held.booster_, where=where, progress=progress, classes=_classes(held)
            )
    return None


def _import_pipeline(
    held: Any, options: SourceOptions, where: str, progress: Progress
) -> ImportedModel | None:
    """A pipeline of scikit-learn that ends in a booster, which skl2onnx does not know."""
    steps = getattr(held, "steps", None)
    booster = _import_booster(steps[-1][1], where, progress) if steps else None
    if booster is None or steps is None:
        return None
    if len(steps) == 1:
        return booster
    before = import_estimator(held[:-1], options, where=where, progress=progress)
    model = _joined(before.model, booster.model)
    inputs, outputs = specs_of(model)
    names = [spec.name for spec in inputs]

    def predict(arrays: Mapping[str, Any]) -> list[Any]:
        if len(outputs) == 1:
            return [held.predict(rows_of(arrays, names, where))]
        rows = rows_of(arrays, names, where)
        return [held.predict(rows), held.predict_proba(rows)]

    return ImportedModel(
        model=model,
        reference=ReferenceSession(
            inputs=inputs,
            outputs=outputs,
            runtime=before.reference.runtime,
            predict=predict,
            where=where,
        ),
        exporter=f"{before.exporter} and {booster.exporter}",
        decision=booster.decision,
    )


def _joined(first: Any, second: Any) -> Any:
    """The second model behind the first, which has one output for its one input."""
    from onnx import compose

    for model in (first, second):
        # To be joined they have to name the same versions; the newer knows the older's operators.
        versions: dict[str, int] = {}
        for opset in (*first.opset_import, *second.opset_import):
            versions[opset.domain] = max(versions.get(opset.domain, 0), opset.version)
        del model.opset_import[:]
        for domain, version in versions.items():
            model.opset_import.add(domain=domain, version=version)
    inner = compose.add_prefix(second, "booster/", rename_inputs=True, rename_outputs=False)
    mapping = [(first.graph.output[0].name, inner.graph.input[0].name)]
    return compose.merge_models(first, inner, io_map=mapping)


def _best(model: Any, booster: Any) -> Any:
    """The trees that the model itself predicts with: up to where training was best."""
    try:
        return booster[: int(model.best_iteration) + 1]
    except AttributeError:
        return booster


def _classes(model: Any) -> Sequence[int | str] | None:
    classes = getattr(model, "classes_", None)
    return None if classes is None else [name.item() for name in classes]
