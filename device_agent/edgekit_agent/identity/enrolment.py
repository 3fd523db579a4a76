"""Join a fleet: a one-time token and a signing request for a certificate and the roots of trust.

One POST over TLS to `<url>/v1/enrol`; the token proves that the owner wants this device, and the
request proves that it holds the key. What comes back is all that an agent needs.
"""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgekit_agent.config import FILE_NAME, TlsNames
from edgekit_agent.identity.keys import (
    MAX_PEM_BYTES,
    check_certificate,
    make_key,
    signing_request,
    write_pem,
)
from edgekit_agent.provision import create_agent
from edgekit_runtime.errors import EnvironmentLackError, UsageError, VerificationError
from edgekit_runtime.fields import FieldReader
from edgekit_runtime.protocol import ID_PATTERN, require_id

CA_NAME: Final = "identity/ca.pem"
CERTIFICATE_NAME: Final = "identity/device.pem"
KEY_NAME: Final = "identity/device-key.pem"
_PATH: Final = "/v1/enrol"
_SECONDS: Final = 30.0
_MAX_ANSWER_BYTES: Final = 2 << 20
_MAX_ROOT_BYTES: Final = 512_000


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentAnswer:
    """What a fleet gives a device that it takes in.

    Attributes:
        fleet: Its id.
        broker_host: Where its broker is.
        broker_port: TCP port of that.
        certificate: Of the device, in PEM.
        authorities: Those that may sign the broker's certificate, in PEM.
        image_root: The image repository's `root.json`.
        director_root: The director's.
    """

    fleet: str
    broker_host: str
    broker_port: int
    certificate: str
    authorities: str
    image_root: str
    director_root: str


def enrol(
    url: str, *, device: str, fleet: str, token: str, folder: Path, ca: Path | None, http_port: int
) -> Path:
    """Join a fleet, and write the agent's folder; may be tried again after any failure.

    Args:
        url: Of the fleet's control plane, https.
        device: The id that the token was made for.
        fleet: The fleet's id.
        token: To be used once.
        folder: Where the agent will live.
        ca: PEM file that proves the control plane; None for the system's authorities.
        http_port: Where the models will be served.

    Returns:
        The path of `agent.toml`.

    Raises:
        UsageError: If an id or the URL is invalid, or there is an agent already.
        VerificationError: If what comes back is not for this device's key.
        EnvironmentLackError: If the control plane cannot be reached, or refuses.
    """
    require_id(device, kind="device")
    require_id(fleet, kind="fleet")
    if not url.startswith("https://"):
        raise UsageError("a token travels over https only", where=url, fix="give https://…")
    if (folder / FILE_NAME).exists():
        raise UsageError(
            "there is an agent in this folder already",
            where=str(folder),
            fix="choose another folder; to get a new certificate, renew",
        )
    make_key(folder / KEY_NAME)
    document = {
        "device": device,
        "fleet": fleet,
        "token": token,
        "request": signing_request(folder / KEY_NAME, device=device, fleet=fleet),
    }
    answer = parse_answer(_post(url.rstrip("/") + _PATH, document, ca), where=url)
    if answer.fleet != fleet:
        raise VerificationError(f"this is the fleet {answer.fleet}, not {fleet}", where=url)
    check_certificate(answer.certificate, key=folder / KEY_NAME, device=device)
    write_pem(folder / CA_NAME, answer.authorities.encode(), secret=False)
    write_pem(folder / CERTIFICATE_NAME, answer.certificate.encode(), secret=False)
    roots = []
    for name, text in (("image", answer.image_root), ("director", answer.director_root)):
        path = folder / "identity" / f"{name}-root.json"
        write_pem(path, text.encode(), secret=False)
        roots.append(path)
    return create_agent(
        folder,
        device=device,
        fleet=fleet,
        broker_host=answer.broker_host,
        broker_port=answer.broker_port,
        image_root=roots[0],
        director_root=roots[1],
        http_port=http_port,
        tls=TlsNames(ca=CA_NAME, certificate=CERTIFICATE_NAME, key=KEY_NAME),
    )


def parse_answer(data: bytes, *, where: str) -> EnrolmentAnswer:
    """Read what a control plane answered.

    Raises:
        VerificationError: If it is invalid; every field is named.
    """
    try:
        reader = FieldReader(json.loads(data))
    except (ValueError, RecursionError) as error:
        raise VerificationError(f"the answer is no JSON: {error}", where=where) from error
    broker = reader.nested("broker")
    answer = EnrolmentAnswer(
        fleet=reader.text("fleet", pattern=ID_PATTERN),
        broker_host=broker.text("host", pattern=r"[^\s/\"\\]+"),
        broker_port=broker.integer("port", least=1, most=65_535),
        certificate=reader.text("certificate", most=MAX_PEM_BYTES),
        authorities=reader.text("authorities", most=MAX_PEM_BYTES),
        image_root=reader.text("image_root", most=_MAX_ROOT_BYTES),
        director_root=reader.text("director_root", most=_MAX_ROOT_BYTES),
    )
    if reader.faults:
        raise VerificationError("the answer is invalid: " + "; ".join(reader.faults), where=where)
    return answer


def _post(url: str, document: dict[str, str], ca: Path | None) -> bytes:
    try:
        context = ssl.create_default_context(cafile=str(ca) if ca else None)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"the CA file cannot be used: {error}",
            where=str(ca),
            fix="give the PEM file of the authority that signed the control plane's certificate",
        ) from error
    request = urllib.request.Request(  # noqa: S310 - https, as was checked
        url, json.dumps(document).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS, context=context) as answer:  # noqa: S310
            data: bytes = answer.read(_MAX_ANSWER_BYTES)
            return data
    except urllib.error.HTTPError as error:
        said = error.read(2000).decode(errors="replace")
        raise EnvironmentLackError(
            f"the control plane refused: {error.code} {said}",
            where=url,
            fix="ask for a new token: each can be used once, and for one device",
        ) from error
    except (OSError, ValueError) as error:
        raise EnvironmentLackError(
            f"the control plane cannot be reached: {error}", where=url, fix="check --url and --ca"
        ) from error
