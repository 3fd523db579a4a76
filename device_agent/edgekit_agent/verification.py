"""The supervisor's side of verifying: what comes is proven in a process of its own."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from edgekit_agent.doors import describe_exit
from edgekit_agent.plans import VerifyPlan
from edgekit_agent.state import Target, read_target
from edgekit_agent.verifier import VerifiedOrder
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
        life_read, life_write = os.pipe()
        plan = VerifyPlan(
            folder=str(self._folder),
            device=self._device,
            image_root=str(self._image_root),
            director_root=str(self._director_root),
            now=now,
            life=life_read,
        )
        sets = {"image": image, "director": director}
        try:
            done = subprocess.run(
                [sys.executable, "-m", "edgekit_agent.verify_worker", plan.to_json()],
                input=json.dumps(
                    {k: base64.b64encode(v).decode() for k, v in sets.items()}
                ).encode(),
                stdout=subprocess.PIPE,
                pass_fds=(life_read,),
                timeout=VERIFY_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise VerificationError(
                f"verifying the order took longer than {VERIFY_SECONDS:g} s"
            ) from error
        finally:
            os.close(life_read)
            os.close(life_write)
        if done.returncode != 0:
            raise VerificationError(
                f"the order could not be verified: {describe_exit(done.returncode)}"
            )
        return _read_result(done.stdout)


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
    order = VerifiedOrder(order_version=reader.integer("order_version"), targets=tuple(found))
    if reader.faults:
        raise VerificationError("the verifier gave no proper result: " + "; ".join(reader.faults))
    return order
