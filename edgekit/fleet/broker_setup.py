"""What mosquitto needs to serve a fleet: TLS on both ends, and to each device its own topics.

`edgekit fleet init` writes a folder that the broker is started with as it is, or that is carried
to the machine where the broker runs; and, in the fleet's own folder, what the control plane shows
to that broker.
"""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from edgekit.fleet.authority import FleetAuthority, IssuedCertificate, folder_of
from edgekit.fleet.broker_address import (
    HOST_PATTERN,
    MAX_PORT,
    BrokerAddress,
    connection_folder,
    own_certificate,
)
from edgekit.fleet.broker_changes import RUNNER, RUNNER_TEXT, tell_broker
from edgekit.fleet.certificates import names_served, read_authority, read_chain
from edgekit.fleet.clock import Clock, utc_now
from edgekit.fleet.folder import Fleet
from edgekit.fleet.secret_files import replace_secret, write_secret
from edgekit_runtime.durable import unwritable, write_bytes
from edgekit_runtime.errors import UsageError
from edgekit_runtime.extras import require
from edgekit_runtime.protocol import Topics, require_id

# No device can be called so: an id begins with a letter or a digit.
CONTROL_PLANE: Final = "@control-plane"
TLS_PORT: Final = 8883
CONFIG: Final = "mosquitto.conf"
_CONFIG: Final = """\
# The broker of fleet {fleet}, made by edgekit: nobody gets in without a certificate of the
# fleet's authority, and the access list gives each device its own topics.
listener {port}
cafile {place}/ca.pem
certfile {place}/broker.pem
keyfile {place}/broker.pem
# Certificates that were taken back. mosquitto reads them again at a SIGHUP; run.sh sends it.
crlfile {place}/crl.pem
tls_version tlsv1.2
require_certificate true
# The common name of its certificate is whom the access list takes a client for.
use_identity_as_username true
allow_anonymous false
acl_file {place}/acl

# Chunks, metadata, orders and states are retained messages: they survive a restart.
persistence true
persistence_location {memory}/
autosave_interval 60
# A chunk is at most 64 KiB on the wire; a batch of measurements 60 KiB.
max_packet_size 131072
# Nagle's algorithm costs 40 ms for each exchange.
set_tcp_nodelay true
# A window of chunks at a time for each device.
max_inflight_messages 64
# What waits for one client; what exceeds it is dropped silently. The control plane's session
# holds what all devices say while it is away, and their retained states when it comes back: ten
# messages each of 10,000 devices.
max_queued_messages 100000
max_queued_bytes 1073741824
# Sessions of devices that never come back are forgotten.
persistent_client_expiration 30d
log_dest stderr
log_type error
log_type warning
log_type notice
"""
_ACCESS: Final = """\
# Who may do what, by the common name of the certificate.
# The control plane; no device can have this name.
user {control}
topic readwrite {base}/#

# A device; %u is its id. It reads what may be installed, and has its own topics: nobody else's.
pattern read {base}/repo/#
pattern read {base}/devices/%u/order
pattern read {base}/devices/%u/requests
pattern readwrite {base}/devices/%u/state
pattern write {base}/devices/%u/events
pattern write {base}/devices/%u/telemetry
pattern write {base}/devices/%u/replies
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerSetup:
    """A broker's folder that was made.

    Attributes:
        folder: With configuration, access list, certificates, and the broker's memory.
        host: A name of the broker that its certificate holds.
        port: Where it listens.
        expires: When its certificate and the control plane's end.
    """

    folder: Path
    host: str
    port: int
    expires: datetime

    @property
    def config(self) -> Path:
        """What mosquitto is started with."""
        return self.folder / CONFIG

    def to_json(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "config": str(self.config),
            "url": self.url,
            "certificates_end": self.expires.isoformat(),
        }

    @property
    def url(self) -> str:
        """What to give to --broker."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"mqtts://{host}:{self.port}"


def broker_folder(fleet: Fleet) -> Path:
    """Where a fleet keeps what its broker is started with."""
    return fleet.path / "mosquitto"


def check_hosts(hosts: Sequence[str]) -> None:
    """Go on only if all are names that a broker's certificate can hold.

    Raises:
        UsageError: If one is none, or there is none at all.
    """
    wrong = [host for host in hosts if not re.fullmatch(HOST_PATTERN, host)]
    if wrong or not hosts:
        raise UsageError(
            f"no name of a host: {', '.join(map(repr, wrong)) or 'none given'}",
            fix="give the names and addresses by which devices reach the broker",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerPlan:
    """What a broker is to be.

    Attributes:
        hosts: Names and addresses of it, beside those of this machine.
        port: Where it listens.
        place: Where it will find its folder; None for where that is made.
        data: Where it keeps what it remembers; None for within its folder.
        authority: PEM of an authority that exists; None to make one.
        authority_key: Of that.
        authority_passphrase: Of that key, if it has one.
    """

    hosts: tuple[str, ...] = ()
    port: int = TLS_PORT
    place: str | None = None
    data: str | None = None
    authority: Path | None = None
    authority_key: Path | None = None
    authority_passphrase: str | None = None

    @property
    def all_hosts(self) -> tuple[str, ...]:
        """The names for the broker's certificate: as given, then this machine's own."""
        own = (socket.gethostname(), "localhost", "127.0.0.1")
        names = [*self.hosts, *(name for name in own if re.fullmatch(HOST_PATTERN, name))]
        return tuple(dict.fromkeys(names if self.hosts else ["localhost", *names]))


def new_fleet(
    folder: Path, fleet_id: str, plan: BrokerPlan, *, clock: Clock = utc_now
) -> BrokerSetup:
    """Make a fleet's folder, its authority, and what its broker needs.

    Raises:
        UsageError: If there is a fleet already, or something of the plan cannot be; nothing is
            made then.
        EnvironmentLackError: If the folder cannot be written, or cryptography is missing.
    """
    require("cryptography", extra="fleet")
    _check_plan(plan, clock)
    return add_broker(Fleet.create(folder, fleet_id, clock=clock), plan, clock=clock)


def add_broker(fleet: Fleet, plan: BrokerPlan, *, clock: Clock = utc_now) -> BrokerSetup:
    """Make what a fleet's broker needs, and its authority if it has none yet.

    Raises:
        UsageError: If something of the plan cannot be, or an authority is to be taken where there
            is one.
        EnvironmentLackError: If the folder cannot be written, or cryptography is missing.
    """
    _check_plan(plan, clock)
    if plan.authority is not None and plan.authority_key is not None:
        authority = FleetAuthority.adopt(
            fleet,
            plan.authority,
            plan.authority_key,
            passphrase=plan.authority_passphrase,
            clock=clock,
        )
    elif folder_of(fleet).exists():
        authority = FleetAuthority.load(fleet)
    else:
        authority = FleetAuthority.create(fleet, clock=clock)
    return _set_up(authority, plan, clock)


def _set_up(authority: FleetAuthority, plan: BrokerPlan, clock: Clock) -> BrokerSetup:
    # What the broker remembers stays; everything else is made anew.
    fleet = authority.fleet
    folder = broker_folder(fleet)
    where = plan.place or folder.absolute().as_posix()
    config = mosquitto_config(fleet.id, place=where, data=plan.data, port=plan.port)
    if plan.place is None and sys.platform != "win32" and os.getuid() == 0:
        # Started by root it would become another user, who may not read this folder.
        config += "# Made by root, in a folder of root's.\nuser root\n"
    client_folder = connection_folder(fleet.path)
    trusted = authority.authorities_pem.encode()
    try:
        for made in (folder, folder / "data", client_folder):
            made.mkdir(mode=0o700, exist_ok=True)
        write_bytes(client_folder / "ca.pem", trusted)
        write_bytes(folder / "ca.pem", trusted)
        write_bytes(folder / "acl", access_list(fleet.id).encode())
        write_bytes(folder / RUNNER, RUNNER_TEXT.encode())
        _copy_revocations(authority)
        expires = _make_certificates(authority, plan.all_hosts, clock)
        # Last: with it the broker can be started.
        write_bytes(folder / CONFIG, config.encode())
    except OSError as error:
        raise unwritable(folder, error) from error
    tell_broker(fleet, folder)
    if plan.hosts:
        # What devices that enrol are told.
        Fleet.open(fleet.path).with_public_broker(BrokerAddress(plan.hosts[0], plan.port))
    return BrokerSetup(folder=folder, host=plan.all_hosts[0], port=plan.port, expires=expires)


def renew_certificates(
    authority: FleetAuthority, *, hosts: Sequence[str] = (), clock: Clock = utc_now
) -> datetime:
    """Make the broker's and the control plane's certificates anew; nothing else changes.

    Args:
        authority: Signs.
        hosts: The broker's names and addresses; none for those that it has.
        clock: The time of signing.

    Returns:
        When they end.

    Raises:
        UsageError: If a name is none, or none is given and there is no broker's certificate yet.
        EnvironmentLackError: If the fleet's folder cannot be written, or the broker is not told.
    """
    hosts = hosts or _present_hosts(authority.fleet)
    check_hosts(hosts)
    expires = _make_certificates(authority, hosts, clock)
    tell_broker(authority.fleet, broker_folder(authority.fleet))
    return expires


def _make_certificates(authority: FleetAuthority, hosts: Sequence[str], clock: Clock) -> datetime:
    server, server_key = authority.issue("broker", hosts=tuple(hosts), clock=clock)
    client, client_key = authority.issue(CONTROL_PLANE, clock=clock)
    above = authority.authorities_pem.encode()
    # Key and certificate in one file, so that they are replaced together.
    files = {
        broker_folder(authority.fleet) / "broker.pem": server_key + server.pem.encode() + above,
        own_certificate(authority.fleet.path): client_key + client.pem.encode(),
    }
    for path, content in files.items():
        replace_secret(path, content)
    return min(server.expires, client.expires)


def _present_hosts(fleet: Fleet) -> tuple[str, ...]:
    path = broker_folder(fleet) / "broker.pem"
    try:
        return names_served(read_chain(path.read_bytes(), str(path))[0])
    except OSError:
        return ()


def _check_plan(plan: BrokerPlan, clock: Clock) -> None:
    check_hosts(plan.all_hosts)
    if not 0 < plan.port <= MAX_PORT:
        raise UsageError(f"{plan.port} is no port", fix="give a number from 1 to 65535")
    for path in (plan.place, plan.data):
        if path is not None and not re.fullmatch(r"[^\x00-\x1f]+", path):
            raise UsageError("a path stands on one line", where=repr(path))
    if (plan.authority is None) != (plan.authority_key is None):
        raise UsageError("an authority's certificate and its key go together")
    if plan.authority is not None and plan.authority_key is not None:
        read_authority(
            plan.authority, plan.authority_key, passphrase=plan.authority_passphrase, now=clock()
        )


def install_revocations(authority: FleetAuthority) -> Path:
    """Give the broker's folder the newest list of revoked certificates, and tell the broker.

    Returns:
        The file: mosquitto reads it when it gets a SIGHUP.

    Raises:
        EnvironmentLackError: If the folder cannot be written, or the broker is not told.
    """
    path = _copy_revocations(authority)
    tell_broker(authority.fleet, path.parent)
    return path


def _copy_revocations(authority: FleetAuthority) -> Path:
    path = broker_folder(authority.fleet) / "crl.pem"
    # Or an older list would take the place of one that somebody has made meanwhile.
    with authority.held():
        write_bytes(path, authority.revocations.read_bytes())
    return path


def issue_to_folder(
    authority: FleetAuthority,
    device: str,
    folder: Path,
    *,
    request: Path | None,
    days: float,
    hosts: tuple[str, ...] = (),
    clock: Clock = utc_now,
) -> IssuedCertificate:
    """Sign a device's or a server's certificate into a folder, with those that it must trust.

    Args:
        authority: Signs.
        device: Its id, or what the server is called.
        folder: For `device.pem`, `ca.pem` and, where it was made here, `device-key.pem`; a
            server's begin with `server`.
        request: The device's signing request; None to make a key for it.
        hosts: Names and addresses of a server; none for a device.
        days: How long it holds.
        clock: The time of signing.

    Raises:
        UsageError: If the id, a host or the request is invalid, or there is a key in the folder
            already.
        EnvironmentLackError: If the folder cannot be written.
    """
    require_id(device, kind="device")
    stem, key = "server" if hosts else "device", None
    if hosts:
        check_hosts(hosts)
    if hosts and request is not None:
        raise UsageError("a request is for a device, and its key stays there")
    if request is None:
        issued, key = authority.issue(device, hosts=hosts, days=days, clock=clock)
    else:
        try:
            text = request.read_text(encoding="ascii", errors="replace")
        except OSError as error:
            raise UsageError(
                f"the request cannot be read: {error.strerror or error}", where=str(request)
            ) from error
        issued = authority.sign_request(text, device=device, days=days, clock=clock)
    # What stands between the server and the topmost authority.
    chain = authority.authorities_pem if hosts else ""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if key is not None:
            write_secret(folder / f"{stem}-key.pem", key)
    except FileExistsError as error:
        raise UsageError(
            "there is a key already, and keys are never overwritten",
            where=str(error.filename),
            fix="choose another folder: --out",
        ) from error
    except OSError as error:
        raise unwritable(folder, error) from error
    write_bytes(folder / f"{stem}.pem", (issued.pem + chain).encode())
    write_bytes(folder / "ca.pem", authority.authorities_pem.encode())
    return issued


def mosquitto_config(
    fleet: str, *, place: str, data: str | None = None, port: int = TLS_PORT
) -> str:
    """The configuration of a fleet's broker whose files are in `place`."""
    return _CONFIG.format(fleet=fleet, place=place, port=port, memory=data or f"{place}/data")


def access_list(fleet: str) -> str:
    """The access list of a fleet's broker."""
    return _ACCESS.format(control=CONTROL_PLANE, base=Topics(fleet).base)
