"""Judge what was made: the same samples through the source and through the artifact."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit_converters.accuracy import compare_answers
from edgekit_converters.evaluation import answers_of
from edgekit_converters.repair.simulation import Run

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

    from edgekit_converters.accuracy import Metric, PairedAccuracy
    from edgekit_converters.accuracy.metric import Answers
    from edgekit_converters.evaluation import EvaluationSet
    from edgekit_converters.intake import Intake
    from edgekit_runtime.session import RuntimeInfo, Session


class Judge:
    """Measures models against their source; the source is asked once.

    Attributes:
        metric: What is measured.
        dataset: On what.
        asked: Whether the user asked for it; else a model that cannot be judged is no error.
    """

    def __init__(
        self, source: Intake, dataset: EvaluationSet, metric: Metric, *, asked: bool = True
    ) -> None:
        """Take in what to judge by; nothing runs yet."""
        self.metric = metric
        self.asked = asked
        self.dataset = dataset
        self._source = source
        self._expected: Answers | None = None

    def judge(self, session: Session) -> PairedAccuracy:
        """Compare a model with its source.

        Raises:
            UsageError: If the labels do not fit what the models answer.
            UnsupportedModelError: If an engine fails.
        """
        if self._expected is None:
            self._expected = answers_of(self._source.session, self.dataset, self.metric)
            self._source.rest()
        computed = answers_of(session, self.dataset, self.metric)
        return compare_answers(self.metric, self._expected, computed, self.dataset.labels)

    def judge_simulated(self, model: Any) -> PairedAccuracy:
        """Compare a quantized `onnx.ModelProto`, computed without any engine's integer kernels."""
        simulated = SimulatedSession(model, like=self._source.session)
        return self.judge(self._source.present(simulated))


class SimulatedSession:
    """A quantized graph behind the interface of a session, run as it stands: see `simulation`."""

    def __init__(self, model: Any, *, like: Session) -> None:
        """Load it.

        Args:
            model: An `onnx.ModelProto`.
            like: Says what goes in and comes out.
        """
        self._run = Run(model)
        self.inputs, self.outputs = like.inputs, like.outputs
        self.runtime: RuntimeInfo = like.runtime

    def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
        """Run one inference; see `Session.run`."""
        return self._run(inputs)

    def close(self) -> None:
        """Nothing is held."""
