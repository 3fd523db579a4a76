"""What the audit log keeps of a change of keys. Imports tuf."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.fleet.audit import record
from edgekit.fleet.clock import Clock, utc_now
from edgekit.fleet.key_change import KeyChange, owners

if TYPE_CHECKING:
    from edgekit.fleet.store.database import Database


def record_change(
    database: Database, change: KeyChange, *, actor: str, clock: Clock = utc_now
) -> None:
    """Append an entry: which keys came and went, which roots are trusted, and who signed them."""
    with database.write() as session:
        record(
            session,
            actor=actor,
            action=change.action,
            subject=f"keys of fleet {change.fleet}",
            detail=change_detail(change),
            clock=clock,
        )


def change_detail(change: KeyChange) -> dict[str, object]:
    """What came and went, in plain data."""
    known = {
        keyid
        for part in change.repositories.values()
        if part.base is not None
        for keyid in part.base.signed.keys
    }
    names = owners(change)
    gone = {key.keyid for key in change.retired}
    reasons = {k.keyid: k.reason for k in change.ring.revoked if k.keyid in gone}
    return {
        "what": change.what,
        "added": {k.name: k.keyid for k in change.ring.keys if k.keyid not in known},
        "removed": {k.name: k.keyid for k in change.retired},
        "reason": "; ".join(dict.fromkeys(reasons.values())),
        "roots": {
            repository.value: [root.signed.version for root in part.roots]
            for repository, part in change.repositories.items()
            if part.roots
        },
        "signed_by": sorted(
            {
                names.get(keyid, keyid)
                for part in change.repositories.values()
                for root in part.roots
                for keyid in root.signatures
            }
        ),
    }
