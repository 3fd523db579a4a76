"""Sign a change of keys with the keys that are here, or ask others for their signatures."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgekit.fleet.clock import Clock, utc_now
from edgekit.fleet.folder import Fleet
from edgekit.fleet.keyring import Keyring
from edgekit.fleet.signing_keys import (
    Secrets,
    key_at,
    key_in_file,
    public_half,
    secret_from_environment,
)
from edgekit_runtime.errors import EdgekitError, UsageError
from edgekit_runtime.extras import require

if TYPE_CHECKING:
    from securesystemslib.signer import Signer

    from edgekit.fleet.key_change import KeyChange, Lacking

# What a ceremony has made on this machine, until the first roots are signed.
FIRST: Final = ".keys-first"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a change.

    Attributes:
        change: The change.
        file: Where it waits for signatures; None if it is in force.
        lacking: What it waits for.
    """

    change: KeyChange
    file: Path | None
    lacking: tuple[Lacking, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Signing:
    """What is needed to sign and to bring a change into force.

    Attributes:
        passphrase: Of the offline keys' files.
        secrets: Gives the PIN of a token.
        out: Where a change is written that others have to sign too; None to refuse it then.
        record: For the audit log.
        clock: The time of signing.
    """

    passphrase: str | None = None
    secrets: Secrets = secret_from_environment
    out: Path | None = None
    record: Callable[[KeyChange], None] = lambda _: None
    clock: Clock = utc_now


def sign_file(
    path: Path,
    source: str,
    *,
    passphrase: str | None = None,
    secrets: Secrets = secret_from_environment,
) -> Outcome:
    """Sign a change with one's own key; no fleet is needed.

    Args:
        path: Of the change; the signature is added to it.
        source: A PEM file, or the URI of a key in a token or a cloud.
        passphrase: Of that file.
        secrets: Gives the PIN of a token.

    Raises:
        UsageError: If the passphrase is missing or wrong, or this key has no part in the change.
        EnvironmentLackError: If the key is not there, or the file cannot be written.
        VerificationError: If a file is damaged.
    """
    require_tuf()
    from edgekit.fleet.key_change import lacking, read_change, sign_change, write_change

    change = read_change(path)
    signer = _signer_of(source, change, passphrase, secrets)
    if not sign_change(change, [signer]):
        keyid = signer.public_key.keyid
        revoked = {key.keyid: key for key in change.ring.revoked}
        raise UsageError(
            f"this key was revoked at {revoked[keyid].revoked}"
            if keyid in revoked
            else "this key has no part in this change",
            where=source,
            fix="see who may sign: edgekit keys inspect FILE",
        )
    write_change(change, path)
    return Outcome(change=change, file=path, lacking=lacking(change))


def apply_files(fleet: Fleet, paths: Iterable[Path], signing: Signing) -> KeyChange:
    """Bring a change into force with the signatures of all its copies.

    Raises:
        UsageError: If too few have signed, it does not fit the fleet any more, or the files are of
            different changes; nothing is changed then.
        VerificationError: If a file is damaged.
    """
    require_tuf()
    from edgekit.fleet.key_applying import apply_change, apply_first
    from edgekit.fleet.key_change import add_signatures, read_change

    first, *others = [read_change(path) for path in paths]
    for other in others:
        add_signatures(first, other)
    if not first.is_first:
        apply_change(fleet, first, record=signing.record, clock=signing.clock)
        return first
    staging = fleet.path / FIRST
    if first.fleet != fleet.id:
        raise UsageError(f"these are keys for the fleet {first.fleet!r}, not {fleet.id!r}")
    if not staging.is_dir() and not fleet.keys.exists():
        raise UsageError(
            "the online keys of this fleet are not here",
            where=str(staging),
            fix="apply the file where `edgekit keys init` made it",
        )
    apply_first(fleet, first, staging, record=signing.record, clock=signing.clock)
    return first


def require_tuf() -> None:
    """Go on only where metadata can be signed.

    Raises:
        EnvironmentLackError: If a package is not installed.
    """
    require("tuf", extra="fleet")
    require("cryptography", extra="fleet")


def sign_here(
    change: KeyChange,
    rings: Iterable[Keyring],
    signing: Signing,
    failures: list[str] | None = None,
) -> tuple[Lacking, ...]:
    """Sign with the keys that are here, no more of them than are needed; what lacks then.

    Args:
        change: What is to be signed.
        rings: Whose keys are tried.
        signing: How to sign.
        failures: Why a key could not sign is added here.
    """
    from edgekit.fleet.key_change import lacking, sign_change

    lacks = lacking(change)
    tried: set[str] = set()
    for ring in rings:
        for key in ring.keys:
            wanted = {keyid for item in lacks for keyid in item.able}
            if key.keyid in tried or key.keyid not in wanted:
                continue
            tried.add(key.keyid)
            try:
                signer = ring.open(key, passphrase=signing.passphrase, secrets=signing.secrets)
                sign_change(change, [signer])
            except EdgekitError as error:
                if failures is not None:
                    failures.append(f"{key.name}: {error.what}")
            lacks = lacking(change)
    return lacks


def require_file(
    change: KeyChange, lacks: tuple[Lacking, ...], failures: Iterable[str], out: Path | None
) -> Path:
    """The file that others are to sign.

    Raises:
        UsageError: If none is named, or it exists.
    """
    from edgekit.fleet.key_applying import explain

    if out is None:
        raise UsageError(
            "the threshold is not reached: " + ". ".join([*failures, *explain(change, lacks)]),
            fix="bring the keys and their passphrases; or give --out FILE, and have it signed by "
            "those who hold them",
        )
    if out.exists():
        raise UsageError("this file exists already", where=str(out), fix="choose another")
    return out


def _signer_of(source: str, change: KeyChange, passphrase: str | None, secrets: Secrets) -> Signer:
    path = Path(source)
    if path.suffix == ".pem" or path.exists():
        return key_in_file(path, name=path.stem, passphrase=passphrase)
    for key in (*change.ring.keys, *change.retired):
        if key.uri == source and key.public is not None:
            return key_at(source, key.public, secrets=secrets)
    uri, public = public_half(source, secrets=secrets)
    return key_at(uri, public, secrets=secrets)
