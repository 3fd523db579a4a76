"""Where the fleet's broker is, and how it and the control plane prove who they are.

Written as one text, so that every command and the fleet's settings say it in the same way:

    127.0.0.1:1883                                a broker that lets everybody in, on this machine
    mqtts://broker.example.com:8883               TLS, with what `edgekit fleet init` made
    mqtts://broker.example.com:8883?login=FILE    TLS, and USER:PASSWORD from a file
    mqtts://…?ca=FILE&certificate=FILE&key=FILE   TLS, with files of one's own

`ca=system` trusts the authorities that this machine trusts.
"""

from __future__ import annotations

import json
import os
import re
import ssl
import urllib.parse
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgekit_runtime.errors import EnvironmentLackError, UsageError
from edgekit_runtime.extras import require

if TYPE_CHECKING:
    from paho.mqtt.client import Client

    from edgekit_runtime.fields import FieldReader

HOST_PATTERN: Final = r"[A-Za-z0-9_.:%-]{1,253}"
MAX_PORT: Final = 65_535
SYSTEM_CA: Final = "system"
_PLAIN_PORT: Final = 1883
_TLS_PORT: Final = 8883
_MAX_LOGIN_BYTES: Final = 4096
_HOW: Final = "write it as HOST:PORT, or mqtts://HOST:PORT"


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerSecurity:
    """What a client has for TLS.

    Attributes:
        ca: Those that may sign the broker's certificate, PEM; None for those of the system.
        certificate: The client's own, PEM; None for none.
        key: Of that certificate, PEM; None if it stands in the same file.
        login: A file with USER:PASSWORD on one line; None for none.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    login: Path | None = None


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where an MQTT broker listens; without `security` the line is plain and nobody is asked."""

    host: str
    port: int
    security: BrokerSecurity | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host and self.security else self.host
        return f"{'mqtts://' if self.security else ''}{host}:{self.port}"


class _Line(ssl.SSLSocket):
    """Closed at once when the handshake fails: paho leaves that to the garbage collector."""

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - as ssl's
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


def connection_folder(fleet: Path) -> Path:
    """Where a fleet keeps what its control plane shows to the broker."""
    return fleet / "connection"


def own_certificate(fleet: Path) -> Path:
    """The certificate, with its key, that `edgekit fleet init` makes for the control plane."""
    return connection_folder(fleet) / "control-plane.pem"


def parse_broker(text: str, *, fleet: Path) -> BrokerAddress:
    """Read an address as a person gives it.

    Args:
        text: As above.
        fleet: The fleet's folder, for what is not named.

    Raises:
        UsageError: If it is none; everything that is wrong is named.
    """
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "mqtt", text
    query = urllib.parse.urlsplit(f"//{rest}").query
    place = rest.split("?", 1)[0].rstrip("/")
    host, _, port_text = place.rpartition(":") if re.search(r":\d+$", place) else (place, "", "")
    host = host.strip("[]")
    port = int(port_text or (_TLS_PORT if scheme == "mqtts" else _PLAIN_PORT))
    named = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
    faults = []
    if scheme not in ("mqtt", "mqtts"):
        faults.append(f"{scheme}:// is neither mqtt:// nor mqtts://")
    if not re.fullmatch(HOST_PATTERN, host) or (not separator and not port_text):
        faults.append("it names no host and port")
    if not 0 < port <= MAX_PORT:
        faults.append(f"{port} is no port")
    known = [item.name for item in fields(BrokerSecurity)]
    faults += [f"{name} is unknown" for name in sorted(set(named) - set(known))]
    if named and scheme == "mqtt":
        faults.append("without mqtts:// passwords and certificates would be of no use")
    if "key" in named and "certificate" not in named:
        faults.append("a key is of no use without its certificate")
    if faults:
        raise UsageError(f"{text!r} is no broker address: " + "; ".join(faults), fix=_HOW)
    if scheme == "mqtt":
        return BrokerAddress(host, port)
    paths = {name: Path(os.path.abspath(value)) for name, value in named.items()}  # noqa: PTH100
    return BrokerAddress(host, port, _completed(paths, named.get("ca"), fleet))


def read_security(reader: FieldReader, fleet: Path) -> BrokerSecurity | None:
    """What the fleet's settings say; paths are relative to the fleet's folder."""
    names = [item.name for item in fields(BrokerSecurity)]
    found = {
        name: fleet / reader.text(name)
        for name in names
        if name in reader.names() and (name, reader.raw(name)) != ("ca", SYSTEM_CA)
    }
    if not any(name in reader.names() for name in names):
        return None
    return BrokerSecurity(**found)


def security_settings(security: BrokerSecurity, fleet: Path) -> str:
    """Lines of TOML that `read_security` reads."""
    lines = [f"ca = {json.dumps(SYSTEM_CA)}\n"] if security.ca is None else []
    inside = fleet.absolute()
    for item in fields(security):
        path = getattr(security, item.name)
        if path is not None:
            path = path.absolute()
            shown = path.relative_to(inside) if path.is_relative_to(inside) else path
            # A JSON string is a TOML string too.
            lines.append(f"{item.name} = {json.dumps(shown.as_posix())}\n")
    return "".join(lines)


def tls_context(security: BrokerSecurity, *, where: str) -> ssl.SSLContext:
    """TLS as a client of the broker, which must prove its name.

    Raises:
        EnvironmentLackError: If a file is missing or cannot be used, or our certificate has ended.
    """
    used: Path | None = security.ca
    try:
        context = ssl.create_default_context(cafile=str(used) if used else None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.sslsocket_class = _Line
        if security.certificate is not None:
            used = security.certificate
            # Without the callback OpenSSL would ask at the terminal for a key's passphrase.
            context.load_cert_chain(security.certificate, security.key, password=_no_passphrase)
            _require_time(security.certificate)
    except (OSError, ValueError) as error:
        raise EnvironmentLackError(
            f"TLS to the broker at {where} cannot be prepared: {error}",
            where=str(used),
            fix="`edgekit fleet init` makes these files; or name yours: "
            "--broker mqtts://HOST:PORT?ca=…&certificate=…&key=…",
        ) from error
    return context


def secure(client: Client, address: BrokerAddress) -> None:
    """Have a client that is not connected yet use the address's TLS and login.

    Raises:
        EnvironmentLackError: If a file is missing or cannot be used.
    """
    if address.security is None:
        return
    client.tls_set_context(tls_context(address.security, where=str(address)))
    if address.security.login is not None:
        client.username_pw_set(*read_login(address.security.login))


def read_login(path: Path) -> tuple[str, str]:
    """User and password from a file.

    Raises:
        EnvironmentLackError: If it cannot be read.
        UsageError: If it is no such file.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_LOGIN_BYTES).decode(errors="replace").strip("\r\n")
    except OSError as error:
        raise EnvironmentLackError(
            f"the broker's login cannot be read: {error.strerror or error}", where=str(path)
        ) from error
    user, colon, password = text.partition(":")
    if not (user and colon) or "\n" in text:
        raise UsageError(
            "this is no login for the broker", where=str(path), fix="one line: USER:PASSWORD"
        )
    return user, password


def why_unreachable(error: OSError, address: BrokerAddress) -> EnvironmentLackError:
    """The error to raise when a connection to a broker fails."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return EnvironmentLackError(
            f"the broker's certificate is not to be trusted: {error.verify_message}",
            where=str(address),
            fix="use a name that its certificate holds, and the authority that has signed it; "
            "`edgekit fleet authority renew` makes a new one",
        )
    if isinstance(error, ssl.SSLError):
        return EnvironmentLackError(
            f"the broker speaks no TLS with us: {error.reason or error}",
            where=str(address),
            fix="check that this is its port for TLS, and our certificate",
        )
    return EnvironmentLackError(
        f"no broker answers: {error.strerror or error}",
        where=str(address),
        fix="start one: edgekit fleet broker; or give the address of yours",
    )


def _completed(named: dict[str, Path], ca: str | None, fleet: Path) -> BrokerSecurity:
    own = connection_folder(fleet.absolute()) / "ca.pem"
    if ca == SYSTEM_CA:
        del named["ca"]
    elif ca is None and own.exists():
        named["ca"] = own
    certificate = own_certificate(fleet.absolute())
    if "certificate" not in named and "login" not in named and certificate.exists():
        named["certificate"] = certificate
    return BrokerSecurity(**named)


def _require_time(certificate: Path) -> None:
    """A broker that is shown an old certificate hangs up, and does not say why."""
    require("cryptography", extra="fleet")
    from cryptography import x509

    ends = x509.load_pem_x509_certificates(certificate.read_bytes())[0].not_valid_after_utc
    if ends <= datetime.now(UTC):
        raise EnvironmentLackError(
            f"our certificate for the broker has ended at {ends:%Y-%m-%d %H:%M} UTC",
            where=str(certificate),
            fix="make a new one: edgekit fleet authority renew; or check this machine's clock",
        )


def _no_passphrase() -> str:
    raise ValueError("the key is encrypted: the control plane signs in without a person")
