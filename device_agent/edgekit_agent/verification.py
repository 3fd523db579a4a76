"""The supervisor's side of verifying: what comes is proven in a process of its own."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Final

from edgekit_agent.plans import VerifyPlan
from edgekit_agent.state import Target, read_target
from edgekit_agent.verifier import VerifiedOrder
from edgekit_agent.workers import run_worker
from edgekit_runtime.errors import VerificationError
from edgekit_runtime.fields import FieldReader

# The largest set on the slowest board takes a fraction of this.
VERIFY_SECONDS: Final = 120.0


class VerifierProcess:
    """Starts a process for each verification."""

    def __init__(self, folder: Path, *, device: str, image_root: Path, director_root: Path) -> None:
        """Trust these roots.

        Args:
            folder: Where trusted metadata is kept between runs.
            device: This device's id.
            image_root: The image repository's initial `root.json`.
            director_root: The director's initial `root.json`.
        """
        self._folder = folder
        self._device = device
        self._image_root = image_root
        self._director_root = director_root

    def verify(self, *, image: bytes, director: bytes, now: float) -> VerifiedOrder:
        """Prove an order, and keep the metadata that proved it.

        Args:
            image: The image repository's metadata set, packed.
            director: The director's metadata set for this device, packed.
            now: Seconds since 1970, by which expiry is judged.

        Raises:
            VerificationError: If anything does not hold; says what in plain words.
        """

        def plan(life: int) -> str:
            return VerifyPlan(
                folder=str(self._folder),
                device=self._device,
                image_root=str(self._image_root),
                director_root=str(self._director_root),
                now=now,
                life=life,
            ).to_json()

        sets = {"image": image, "director": director}
        output = run_worker(
            "edgekit_agent.verify_worker",
            plan,
            stdin=json.dumps({k: base64.b64encode(v).decode() for k, v in sets.items()}).encode(),
            seconds=VERIFY_SECONDS,
            task="verifying the order",
        )
        return _read_result(output)


def _read_result(data: bytes) -> VerifiedOrder:
    reader = FieldReader(json.loads(data))
    if reader.raw("what") is not None:
        raise VerificationError(
            reader.text("what", most=1 << 20),
            where=reader.text("where", default="") or None,
            fix=reader.text("fix", default="") or None,
        )
    entries = reader.nested("targets")
    found: list[Target] = []
    for name in entries.names():
        target = read_target(entries, name)
        if target is not None:
            found.append(target)
    order = VerifiedOrder(
        order_version=reader.integer("order_version"),
        targets=tuple(found),
        signed_time=reader.number("signed_time", least=0),
    )
    if reader.faults:
        raise VerificationError("the verifier gave no proper result: " + "; ".join(reader.faults))
    return order
