"""Whether devices can get a version at all: it is released, and their broker has it.

A slip of the pen, or a forgotten `edgekit fleet publish`, would else be noticed only when devices
have refused their orders, or by a deadline. Imports tuf and paho only when something is asked.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from edgekit.fleet.connection import BrokerConnection
from edgekit.fleet.folder import BrokerAddress, Fleet
from edgekit.fleet.repositories import open_images
from edgekit_runtime.errors import UsageError, VerificationError
from edgekit_runtime.orders import parse_index_pieces, target_path
from edgekit_runtime.protocol import Topics, unpack_metadata

if TYPE_CHECKING:
    from tuf.api.metadata import TargetFile

# A broker sends what it keeps right after the subscription; nothing says that it keeps nothing.
_WAIT_SECONDS: Final = 5.0


def require_installable(
    fleet: Fleet, bundle: str, versions: Collection[str], *, broker: BrokerAddress | None = None
) -> None:
    """Go on only if devices can get these versions now.

    What the broker says is not proven: devices do that themselves. It may also lose afterwards what
    it has now, and whoever waits for devices goes on waiting then.

    Args:
        fleet: Whose devices.
        bundle: Its name.
        versions: All that are to be run.
        broker: Where the devices are; by default the one that was published to last.

    Raises:
        UsageError: If some are not released, or not on the broker; all of them are named.
        EnvironmentLackError: If no broker answers.
        VerificationError: If the fleet's metadata is damaged.
    """
    released = _require_released(fleet, bundle, versions)
    # Read anew: it may have been published since this program was started.
    address = broker or Fleet.open(fleet.path).broker
    kept = _kept_by(address, Topics(fleet.id), released.values()) if address else ()
    missing = sorted(version for version, target in released.items() if target.path not in kept)
    if missing:
        raise UsageError(
            f"{_named(bundle, missing)} released, but not published: devices could not fetch that",
            where=str(address or fleet.path),
            fix="run: edgekit fleet publish" + ("" if address else " --broker HOST:PORT"),
        )


def _require_released(
    fleet: Fleet, bundle: str, versions: Collection[str]
) -> Mapping[str, TargetFile]:
    targets = open_images(fleet).published_targets().targets
    paths = {version: target_path(bundle, version) for version in versions}
    missing = sorted(version for version, path in paths.items() if path not in targets)
    if missing:
        known = sorted({path.rpartition("/")[0].replace("/", "@") for path in targets})
        raise UsageError(
            f"{_named(bundle, missing)} not released",
            fix=f"release it: edgekit release add; released are: {', '.join(known) or 'none'}",
        )
    return {version: targets[path] for version, path in paths.items()}


def _named(bundle: str, versions: Sequence[str]) -> str:
    return f"{bundle} {' and '.join(versions)} {'is' if len(versions) == 1 else 'are'}"


def _kept_by(
    broker: BrokerAddress, topics: Topics, targets: Collection[TargetFile]
) -> frozenset[str]:
    """The paths of the targets that a broker's metadata lists, and whose indexes it keeps."""
    indexes = {
        target.path: {
            topics.chunk(digest)
            for digest, _ in parse_index_pieces(target.path, target.custom, length=target.length)
        }
        for target in targets
    }
    where = f"{broker}: {topics.metadata}"
    heard: dict[str, bytes] = {}
    changed = threading.Condition()

    def listed() -> list[str]:
        digests = _digests(heard.get(topics.metadata, b""), where=where)
        return [t.path for t in targets if digests.get(t.path) == t.hashes["sha256"]]

    def is_known() -> bool:
        # What is not listed was never published: there is no index to wait for.
        return topics.metadata in heard and all(indexes[p] <= heard.keys() for p in listed())

    def hear(topic: str, payload: bytes) -> None:
        with changed:
            heard[topic] = payload
            changed.notify_all()

    wanted = {topics.metadata}.union(*indexes.values())
    connection = BrokerConnection(broker, topics=sorted(wanted), on_message=hear)
    try:
        with changed:
            changed.wait_for(is_known, _WAIT_SECONDS)
            return frozenset(path for path in listed() if indexes[path] <= heard.keys())
    finally:
        connection.close()


def _digests(message: bytes, *, where: str) -> dict[str, str]:
    """The SHA-256 of every target that a metadata set lists; none where it is no such set."""
    try:
        files = unpack_metadata(message, where=where)
        name = next(name for name in files if re.fullmatch(r"\d+\.targets\.json", name))
        targets = json.loads(files[name])["signed"]["targets"]
        return {path: target["hashes"]["sha256"] for path, target in targets.items()}
    except (VerificationError, StopIteration, ValueError, LookupError, TypeError, AttributeError):
        # Somebody else's message, or a damaged one: publishing mends it.
        return {}
