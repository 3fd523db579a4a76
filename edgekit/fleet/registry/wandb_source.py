"""Bundles in artifacts of Weights & Biases: `wandb:ENTITY/PROJECT/ARTIFACT:VERSION`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from edgekit.fleet.registry.fetched import Fetched, require_one, require_size
from edgekit_runtime.bundle.archive import SUFFIX
from edgekit_runtime.errors import EnvironmentLackError, UsageError
from edgekit_runtime.extras import require

SOURCE: Final = "wandb:"
_NAME: Final = r"[^/:\s]+/[^/:\s]+/[^/:\s]+:[^/:\s]+"


def fetch_from_wandb(source: str, folder: Path) -> Fetched:
    """Fetch the one bundle of an artifact, and the last figures of the run that logged it.

    Of an artifact with other files as well only the bundle is fetched.

    Raises:
        UsageError: If it names no artifact, or there is none, or not exactly one bundle in it.
        EnvironmentLackError: If wandb is not installed, nobody is signed in, or it does not answer.
        GateFailedError: If it is larger than 8 GiB.
    """
    name = source.removeprefix(SOURCE)
    if not re.fullmatch(_NAME, name):
        raise UsageError(
            "this names no artifact",
            where=source,
            fix="write it as wandb:ENTITY/PROJECT/ARTIFACT:VERSION: wandb:acme/digits/model:v3",
        )
    wandb: Any = require("wandb", extra="wandb")
    try:
        artifact = wandb.Api().artifact(name)
        entries = {path: entry.size or 0 for path, entry in artifact.manifest.entries.items()}
        bundles = [path for path in entries if path.endswith(SUFFIX)]
        require_one(bundles, source)
        require_size(entries[bundles[0]], source)
        fetched = Path(artifact.get_entry(bundles[0]).download(root=str(folder)))
        run = artifact.logged_by()
    except ValueError as error:
        # What wandb raises for an artifact that is not there.
        raise UsageError(
            f"W&B does not give it: {error}", where=source, fix="check the name and the version"
        ) from error
    except (wandb.Error, OSError) as error:
        raise EnvironmentLackError(
            f"W&B does not answer: {error}",
            where=source,
            fix="sign in: wandb login, or set WANDB_API_KEY and WANDB_BASE_URL",
        ) from error
    origin = {"version": str(artifact.version), "digest": str(artifact.digest)}
    if run is None:
        return Fetched(path=fetched, origin=origin)
    origin["run"] = str(run.id)
    if run.commit:
        origin["revision"] = str(run.commit)
    figures = {
        f"wandb/{key}": float(value)
        for key, value in dict(run.summary).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    return Fetched(path=fetched, metrics=figures, origin=origin)
