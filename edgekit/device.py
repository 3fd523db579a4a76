"""A board's profile as the converters ask for it: how long a mix of floats and integers takes."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgekit_benchmarks.layers import list_layers
from edgekit_benchmarks.predict import (
    ANCHORED,
    ESTIMATE_ONLY,
    PREDICTED,
    WEAKLY_PREDICTED,
    Prediction,
    predict,
)
from edgekit_benchmarks.profile import load_profiles
from edgekit_runtime.errors import UsageError
from edgekit_runtime.formats import ModelFormat
from edgekit_runtime.graph.read import read_graph

if TYPE_CHECKING:
    from edgekit_benchmarks.layers import ModelLayers
    from edgekit_benchmarks.profile import Profile

_RUNTIMES: Final = {ModelFormat.ONNX: "onnxruntime", ModelFormat.LITERT: "litert"}
_WEAKEST_FIRST: Final = (ESTIMATE_ONLY, WEAKLY_PREDICTED, PREDICTED, ANCHORED)


def profiled_device(name: str) -> ProfiledDevice:
    """The board of that name.

    Raises:
        UsageError: If there is none, or the name is a family's.
    """
    profiles = load_profiles(name)
    if len(profiles) > 1:
        raise UsageError(
            f"{name} is a family of {len(profiles)} boards, and a model is tuned for one",
            where="--profile",
            fix=f"choose one of {', '.join(profile.name for profile in profiles)}",
        )
    return ProfiledDevice(profiles[0])


class ProfiledDevice:
    """Predicts latency from a profile, one thread an inference."""

    def __init__(self, profile: Profile) -> None:
        """Take a profile."""
        self._profile = profile
        self._layers: dict[Path, ModelLayers] = {}
        self._costs: dict[tuple[Path, str, str], Prediction] = {}

    @property
    def name(self) -> str:
        """The board, as people know it."""
        return self._profile.title

    def latency_ms(self, model: Path, target: ModelFormat, *, integers: Collection[str]) -> float:
        """The likely median latency; see `edgekit_converters.goal.Device`.

        A layer costs what it does in a model that is all of its kind. What no layer accounts for
        is shared out by the number of layers.
        """
        runtime = _RUNTIMES[target]
        floats = self._predicted(model, runtime, "float32")
        narrow = self._predicted(model, runtime, "int8")
        if not floats.layers:
            return narrow.latency_ms if integers else floats.latency_ms
        mixed, count = 0.0, 0
        for wide_layer, narrow_layer in zip(floats.layers, narrow.layers, strict=True):
            inside = wide_layer.name in integers
            mixed += (narrow_layer if inside else wide_layer).milliseconds
            count += inside
        share = count / len(floats.layers)
        return mixed + share * _fixed_ms(narrow) + (1 - share) * _fixed_ms(floats)

    def kind(self, model: Path, target: ModelFormat) -> str:
        """What such a figure is, by the weaker of the two that it is mixed from."""
        kinds = {
            self._predicted(model, _RUNTIMES[target], dtype).kind for dtype in ("float32", "int8")
        }
        return next(kind for kind in _WEAKEST_FIRST if kind in kinds)

    def _predicted(self, model: Path, runtime: str, dtype: str) -> Prediction:
        key = (model, runtime, dtype)
        if key not in self._costs:
            if model not in self._layers:
                self._layers[model] = list_layers(read_graph(model))
            self._costs[key] = predict(
                self._layers[model], self._profile, runtime=runtime, dtype=dtype, with_layers=True
            )
        return self._costs[key]


def _fixed_ms(prediction: Prediction) -> float:
    """What no layer accounts for."""
    return prediction.latency_ms - sum(layer.milliseconds for layer in prediction.layers)
