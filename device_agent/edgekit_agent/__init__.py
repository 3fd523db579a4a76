"""What runs on a device: proven updates, offline inference; imports edgekit_runtime only.

`machine` decides, as a pure function of what happened; `supervisor` carries out, and holds the
adapters together: `transports` (the network), `verification` (signatures), `chunks` and `slots`
(files), `trial` and `doors` (processes), `telemetry` (what is measured and reported). `server` is
the process that holds the models; only it and `trial_worker` load an inference engine, only
`verify_worker` python-tuf, and only `install_worker` reads indexes, chunks and deltas.

Applications in Python load a model into their own process with `load`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgekit_agent.local import LocalModel


def load(
    model: str | Path, *, config: str | Path = "agent.toml", threads: int | None = None
) -> LocalModel:
    """Load a model that the agent serves, or an `.ekb` file, into this process.

        with edgekit_agent.load("digits", config="agent/agent.toml") as model:
            outputs = model.infer({"image": image})

    Args:
        model: The name of a bundle, or the path of an `.ekb`.
        config: The agent's `agent.toml`; not read for an `.ekb`.
        threads: How many threads one inference may use; by default what the agent's own may, or 1.

    Raises:
        UsageError: If there is no such bundle.
        EdgekitError: If it does not fit this device, or cannot be loaded.
    """
    from edgekit_agent.local import load_model

    return load_model(model, config=Path(config), threads=threads)
