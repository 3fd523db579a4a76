"""A certificate authority, and a control plane that takes devices in."""

from __future__ import annotations

import datetime as dt
import http.server
import ipaddress
import json
import ssl
import threading
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.simulators.signed_fleet import SignedFleet


class Authority:
    """Signs certificates with a key of its own."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        self.certificate = self._build(self.name, self.key.public_key(), days=30, ca=True, names=())

    @property
    def pem(self) -> str:
        return _pem(self.certificate)

    def sign(self, request: str, *, days: float = 10, passed: float = 0) -> str:
        """A certificate for a signing request."""
        csr = x509.load_pem_x509_csr(request.encode())
        assert csr.is_signature_valid
        return _pem(self._build(csr.subject, csr.public_key(), days=days, passed=passed))

    def server(self, folder: Path) -> tuple[Path, Path]:
        """A certificate for 127.0.0.1, and its key, as files."""
        certificate, secret = folder / "server.pem", folder / "server-key.pem"
        self.issue("127.0.0.1", certificate, secret, names=("127.0.0.1",))
        return certificate, secret

    def issue(
        self, common: str, certificate: Path, secret: Path, *, names: tuple[str, ...] = ()
    ) -> x509.Certificate:
        """A certificate for a new key, written beside it."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
        made = self._build(subject, key.public_key(), days=10, names=names)
        certificate.write_text(_pem(made))
        secret.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return made

    def revocation_list(self, revoked: x509.Certificate) -> str:
        """A list that takes one certificate back."""
        now = dt.datetime.now(dt.UTC)
        entry = (
            x509.RevokedCertificateBuilder()
            .serial_number(revoked.serial_number)
            .revocation_date(now - dt.timedelta(hours=1))
            .build()
        )
        made = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.name)
            .last_update(now - dt.timedelta(hours=1))
            .next_update(now + dt.timedelta(days=1))
            .add_revoked_certificate(entry)
            .sign(self.key, hashes.SHA256())
        )
        return made.public_bytes(serialization.Encoding.PEM).decode()

    def _build(
        self,
        subject: x509.Name,
        key: Any,
        *,
        days: float,
        passed: float = 0,
        ca: bool = False,
        names: tuple[str, ...] = (),
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=1)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=passed))
            .not_valid_after(now + dt.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
                critical=False,
            )
            .add_extension(
                x509.KeyUsage(
                    digital_signature=True,
                    content_commitment=False,
                    key_encipherment=False,
                    data_encipherment=False,
                    key_agreement=False,
                    key_cert_sign=ca,
                    crl_sign=ca,
                    encipher_only=False,
                    decipher_only=False,
                ),
                critical=True,
            )
        )
        if names:
            found = [_general_name(name) for name in names]
            builder = builder.add_extension(x509.SubjectAlternativeName(found), critical=False)
        return builder.sign(self.key, hashes.SHA256())


class EnrolmentServer:
    """Takes a device in once for each token; use it in a `with` statement."""

    def __init__(self, folder: Path, *, fleet: SignedFleet, tokens: dict[str, str]) -> None:
        self.authority = Authority()
        self.fleet = fleet
        self.tokens = dict(tokens)
        self.broker: dict[str, object] = {"host": "127.0.0.1", "port": 8883}
        self.changes: dict[str, object] = {}
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                status, document = server.answer(self.path, json.loads(self.rfile.read(length)))
                body = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        self._server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.authority.server(folder))
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self._server.server_address[1]}"
        self.ca = folder / "authority.pem"
        self.ca.write_text(self.authority.pem)
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> EnrolmentServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, path: str, asked: dict[str, str]) -> tuple[int, dict[str, object]]:
        if path != "/v1/enrol" or self.tokens.get(asked["token"]) != asked["device"]:
            return 403, {"error": "this token is not valid"}
        del self.tokens[asked["token"]]
        return 200, {
            "fleet": asked["fleet"],
            "broker": self.broker,
            "certificate": self.authority.sign(asked["request"]),
            "authorities": self.authority.pem,
            "image_root": self.fleet.image.first_root.decode(),
            "director_root": self.fleet.director.first_root.decode(),
            **self.changes,
        }


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
