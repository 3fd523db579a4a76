"""Open a fleet's two repositories; says which package is missing where tuf is not installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.fleet.clock import Clock, utc_now
from edgekit.fleet.folder import Fleet
from edgekit.fleet.keyring import Keyring, Repository, read_keyring
from edgekit.fleet.order_store import OrderStore
from edgekit_runtime.extras import require

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from securesystemslib.signer import Signer

    from edgekit.fleet.director import Director
    from edgekit.fleet.image_repository import ImageRepository


def open_images(
    fleet: Fleet, *, passphrase: str | None = None, clock: Clock = utc_now
) -> ImageRepository:
    """The image repository of a fleet.

    Args:
        fleet: The fleet.
        passphrase: Of the offline keys, if they have one; needed only to sign with them.
        clock: The time of signing.

    Raises:
        UsageError: If the fleet has no keys yet.
        EnvironmentLackError: If tuf is not installed.
    """
    require("tuf", extra="fleet")
    require("cryptography", extra="fleet")
    from edgekit.fleet.image_repository import ImageRepository

    keyring = read_keyring(fleet)
    sign_with = _signers(keyring, Repository.IMAGE, passphrase)
    return ImageRepository(fleet, sign_with=sign_with, clock=clock)


def open_director(fleet: Fleet, *, clock: Clock = utc_now) -> Director:
    """The director of a fleet, with its keys and root of now.

    Raises:
        UsageError: If the fleet has no keys yet.
        EnvironmentLackError: If tuf is not installed.
    """
    require("tuf", extra="fleet")
    require("cryptography", extra="fleet")
    from edgekit.fleet.director import Director

    sign_with = _signers(read_keyring(fleet), Repository.DIRECTOR, None)
    return Director(fleet, sign_with=sign_with, clock=clock)


def ordered_devices(fleet: Fleet) -> tuple[str, ...]:
    """The ids of all devices that have an order."""
    return tuple(OrderStore(fleet).revisions())


def _signers(
    keyring: Keyring, repository: Repository, passphrase: str | None
) -> Callable[[str], Sequence[Signer]]:
    def sign_with(role: str) -> Sequence[Signer]:
        return keyring.signers(repository, role, passphrase=passphrase)

    return sign_with
