"""What a `tls` table of `agent.toml` means for a connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit_runtime.errors import UsageError
from edgekit_runtime.files import require_file

if TYPE_CHECKING:
    import ssl

    from edgekit_agent.settings import Tls


def tls_context(tls: Tls) -> ssl.SSLContext:
    """Proves the server by the authorities, and this device by its certificate if it has one.

    Raises:
        UsageError: If one of the files is missing, or no such file.
    """
    # Here, because it brings OpenSSL, which an agent without TLS has no use for.
    import ssl

    files = [path for path in (tls.ca, tls.certificate, tls.key) if path is not None]
    for path in files:
        require_file(path, kind="a PEM file")
    try:
        context = ssl.create_default_context(cafile=str(tls.ca))
        if tls.certificate:
            context.load_cert_chain(str(tls.certificate), str(tls.key) if tls.key else None)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"TLS cannot be spoken with these files: {error}",
            where=", ".join(map(str, files)),
            fix="give PEM files: the authorities, and a certificate with its own key",
        ) from error
    return context
