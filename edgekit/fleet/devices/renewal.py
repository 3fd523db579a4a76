"""Give a device a new certificate for the key that it has, before the old one ends.

Whoever holds the key is the device: its signing request may come over a broker that nobody trusts,
and a certificate for that key is worth nothing to anybody else. A device that was shut out gets
none, nor one whose key this fleet never let in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edgekit.fleet.clock import Clock, utc_now
from edgekit.fleet.devices.certificates import add_certificate, certificates_of, key_digest
from edgekit.fleet.devices.requests import RequestBook
from edgekit.fleet.folder import Fleet
from edgekit_runtime.errors import EdgekitError, UsageError
from edgekit_runtime.requests import RequestKind

if TYPE_CHECKING:
    from edgekit.fleet.store.database import Database

# A device that asks again and again gets the same answer for so long.
_REST_SECONDS: Final = 3_600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewals:
    """Answers signing requests of devices that are in the fleet.

    Attributes:
        database: Where devices and certificates are.
        fleet: Whose authority signs.
        clock: The time.
    """

    database: Database
    fleet: Fleet
    clock: Clock = utc_now

    def renew(self, device: str, request: str, *, asked_for: bool = False) -> bool:
        """Sign a new certificate, and have it sent; whether there was need of one.

        Args:
            device: The device's id, proven by the topic that it wrote to.
            request: A certificate signing request, PEM.
            asked_for: Whether a person asked the device to renew; else it did so by itself.

        Raises:
            UsageError: If the device is not known, its key was never let in, it was shut out, or
                the fleet's authority cannot be used.
            EnvironmentLackError: If the database cannot be used.
        """
        from edgekit.fleet.authority import FleetAuthority

        now = self.clock().timestamp()
        digest = key_digest(request, fleet=self.fleet.id, device=device)
        same = [c for c in certificates_of(self.database, device) if c.key == digest]
        if not same or same[0].revoked is not None:
            raise UsageError(
                f"{device} asks for a certificate, and "
                + ("was shut out" if same else "its key was never let in"),
                where=f"device {device}",
                fix="let it come in anew: edgekit fleet enrolment create --device",
            )
        book = RequestBook(self.database, actor="renewal", clock=self.clock)
        on_its_way = any(
            asked.kind is RequestKind.CERTIFICATE and asked.standing(now) in ("waiting", "sent")
            for asked in book.of(device)
        )
        if on_its_way or (not asked_for and now - same[0].begins < _REST_SECONDS):
            return False
        try:
            authority = FleetAuthority.load(self.fleet)
        except EdgekitError as error:
            # What is the matter here is no fault of the database: the next device may be heard.
            raise UsageError(error.what, where=error.where, fix=error.fix) from error
        issued = authority.sign_request(request, device=device, clock=self.clock)
        with self.database.write() as session:
            add_certificate(session, device, issued)
            book.add_certificate(session, device, issued.pem, authority.authorities_pem)
        return True
