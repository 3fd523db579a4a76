"""A device that only verifies what a fleet publishes for it."""

from __future__ import annotations

import time
from pathlib import Path

from edgekit.fleet.folder import Fleet
from edgekit.fleet.keys import director_root, image_root
from edgekit.fleet.repositories import open_director, open_images
from edgekit_agent.verifier import Verifier


def accepted(fleet: Fleet, folder: Path) -> int:
    """The version of the order that `dev-1` believes, which keeps its state in a folder."""
    verifier = Verifier(
        folder,
        device="dev-1",
        image_root=image_root(fleet).read_bytes(),
        director_root=director_root(fleet).read_bytes(),
    )
    return verifier.verify(
        image=open_images(fleet).published(),
        director=open_director(fleet).published("dev-1"),
        now=time.time(),
    ).order_version
