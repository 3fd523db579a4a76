from __future__ import annotations

import os
import pty
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from edgekit.fleet.api.control_plane import ControlPlane
from edgekit.fleet.api.serving import PageServer
from edgekit.fleet.folder import Fleet
from edgekit_runtime.errors import EnvironmentLackError, UsageError
from simulators.databases import sqlite_database


@pytest.fixture
def plane(fleet: Fleet, tmp_path: Path):
    with sqlite_database(tmp_path / "database") as database:
        yield ControlPlane(fleet=fleet, database=database)


def self_signed(folder: Path) -> tuple[Path, Path]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(certificate.public_bytes(pem))
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "cert.pem", folder / "key.pem"


def test_the_page_is_served_over_tls(plane: ControlPlane, tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    server = PageServer(plane, host="127.0.0.1", port=0, certificate=certificate, key=key)
    thread = threading.Thread(target=server.run)
    thread.start()
    url = "https://localhost:" + server.address.rsplit(":", 1)[1]
    trusting = ssl.create_default_context(cafile=str(certificate))
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                assert httpx.get(f"{url}/health", verify=trusting).json() == {"healthy": True}
                break
            except httpx.ConnectError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        answer = httpx.post(
            f"{url}/login", data={"token": "x"}, headers={"Origin": url}, verify=trusting
        )
        assert answer.status_code == 401
    finally:
        server.stop()
        thread.join()


def test_what_cannot_be_served_is_said(plane: ControlPlane, tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    with pytest.raises(UsageError, match="both a certificate and its key"):
        PageServer(plane, host="127.0.0.1", port=0, certificate=certificate)
    key.write_text("no key")
    with pytest.raises(UsageError, match="certificate or key cannot be used"):
        PageServer(plane, host="127.0.0.1", port=0, certificate=certificate, key=key)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EnvironmentLackError, match=f"port {port} cannot be used"):
            PageServer(plane, host="127.0.0.1", port=port)


def read_until(descriptor: int, pattern: str) -> str:
    text = ""
    deadline = time.monotonic() + 60
    while not re.search(pattern, text):
        assert time.monotonic() < deadline, text
        text += os.read(descriptor, 4096).decode()
    return text


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_told_to_end(fleet: Fleet, end: signal.Signals) -> None:
    """And at a terminal it gives the first admin a token."""
    command = [sys.executable, "-m", "edgekit", "fleet", "serve", "--page-only", "--port", "0"]
    ours, theirs = pty.openpty()
    process = subprocess.Popen([*command, "--fleet", str(fleet.path)], stdout=theirs, stderr=theirs)
    os.close(theirs)
    text = read_until(ours, r"ekt_\w{16}_[\w-]{43}")
    url, token = re.findall(r"http://\S+:\d+", text)[0], re.findall(r"ekt_[\w-]+", text)[0]
    headers = {"Authorization": f"Bearer {token}"}
    # It prints where it is before it answers there.
    transport = httpx.HTTPTransport(retries=5)
    with httpx.Client(transport=transport) as client:
        status = client.get(f"{url}/api/v1/status", headers=headers).json()
    assert status["you"]["role"] == "admin"
    process.send_signal(end)
    assert "Stopped." in read_until(ours, "Stopped")
    assert process.wait(30) == 0
    os.close(ours)


def test_the_command_ends_when_nobody_works_for_the_fleet_any_more(fleet: Fleet) -> None:
    """Whoever started it can start it again; a page alone would look as if all were well."""
    (fleet.path / "notices.toml").write_text("[[webhook]]\nurl = 'ftp://example.com'\n")
    command = [sys.executable, "-m", "edgekit", "fleet", "serve", "--broker", "127.0.0.1:1"]
    done = subprocess.run(
        [*command, "--port", "0", "--fleet", str(fleet.path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "url: must begin with https:// or http://" in done.stderr
    assert "notices.toml" in done.stderr
