"""Tokens that are shown once: what is kept of one proves it, and does not give it away.

A token's text is PREFIX_ID_SECRET: the id names it, and is no secret.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass, field
from typing import Final

_SECRET_BYTES: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeToken:
    """A token that was made now.

    Attributes:
        id: Names it.
        text: All of it, for whoever is to use it.
        secret_sha256: What is kept.
    """

    id: str
    text: str = field(repr=False)
    secret_sha256: str


def make_token(prefix: str) -> MadeToken:
    """A new token, with 256 random bits."""
    identifier, secret = secrets.token_hex(8), secrets.token_urlsafe(_SECRET_BYTES)
    return MadeToken(
        id=identifier, text=f"{prefix}_{identifier}_{secret}", secret_sha256=_hash(secret)
    )


def token_id(prefix: str, text: str) -> str | None:
    """The id in a token's text; None if it is of another form."""
    parts = _parts(prefix, text)
    return parts[0] if parts else None


def is_genuine(prefix: str, text: str, secret_sha256: str | None) -> bool:
    """Whether a token's secret is the one that was kept; None where nothing is known of it.

    It takes the same time whether the token is known or not, so that the time tells nothing.
    """
    parts = _parts(prefix, text)
    shown, kept = _hash(parts[1] if parts else text), secret_sha256 or _hash("")
    right = secrets.compare_digest(shown, kept)
    return right and parts is not None and secret_sha256 is not None


def _parts(prefix: str, text: str) -> tuple[str, str] | None:
    form = rf"{re.escape(prefix)}_([0-9a-f]{{16}})_([A-Za-z0-9_-]{{43}})"
    match = re.fullmatch(form, text.strip())
    return (match[1], match[2]) if match else None


def _hash(secret: str) -> str:
    # 256 random bits cannot be guessed, so they need no slow hash as passwords do.
    return hashlib.sha256(secret.encode()).hexdigest()
