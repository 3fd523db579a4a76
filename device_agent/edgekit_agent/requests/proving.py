"""Is a request signed by those who may order this device what to run? Needs python-tuf."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit_runtime.errors import VerificationError
from edgekit_runtime.extras import require
from edgekit_runtime.requests import DeviceRequest, SignedRequest, read_request


def prove_request(
    request: SignedRequest, *, root: bytes, device: str, last: int, now: float
) -> DeviceRequest:
    """Verify the signatures, and that the request is for this device, now, and new.

    Args:
        request: As it came.
        root: The director's trusted `root.json`.
        device: Who this is.
        last: The largest number that was followed.
        now: Seconds since 1970.

    Raises:
        VerificationError: If anything does not hold.
    """
    metadata: Any = require("tuf.api.metadata", extra="agent")
    trusted = metadata.Metadata.from_bytes(root).signed
    role = trusted.roles["targets"]
    data = request.signed.encode()
    good = set()
    for identifier, text in request.signatures:
        if identifier in role.keyids and identifier in trusted.keys:
            try:
                signature = metadata.Signature(identifier, text)
                trusted.keys[identifier].verify_signature(signature, data)
            except Exception:  # noqa: BLE001, S112 - whatever is wrong with it, it counts for nothing
                continue
            good.add(identifier)
    if len(good) < role.threshold:
        raise VerificationError("a request that is not signed by the director's keys")
    found = read_request(request.signed)
    if found.device != device:
        raise VerificationError(f"a request that is for {found.device}")
    if found.number <= last:
        raise VerificationError(
            f"an older request (number {found.number}) than the last one ({last}): a replay"
        )
    if found.expires <= now:
        raise VerificationError("a request that has expired")
    return found


def trusted_root(data: Path, initial: Path) -> bytes:
    """The director's newest root that this device trusts.

    Args:
        data: The agent's folder.
        initial: The root that it was made with.
    """
    history = data / "trusted" / "director" / "root_history"
    found = [
        (int(file.name.partition(".")[0]), file)
        for file in history.glob("*.root.json")
        if file.name.partition(".")[0].isdigit()
    ]
    return max(found)[1].read_bytes() if found else initial.read_bytes()
