"""Bounds on what a request may bring, before anything reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES: Final = 1 << 20


class BodyLimit:
    """ASGI middleware: a body that is too long is answered with 413, and not kept in memory."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on while its body stays within the limit."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > MAX_BODY_BYTES:
            await _refuse(send)
            return
        seen = 0

        async def bounded() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            # A body without a stated length: the rest of it is not read.
            return message if seen <= MAX_BODY_BYTES else {"type": "http.disconnect"}

        async def answer(message: Message) -> None:
            if seen <= MAX_BODY_BYTES:
                await send(message)
            elif message["type"] == "http.response.start":
                await _refuse(send)

        await self._app(scope, bounded, answer)


async def _refuse(send: Send) -> None:
    body = b'{"error":"TooLarge","what":"the request is larger than 1 MiB","where":null,"fix":null}'
    await send(
        {
            "type": "http.response.start",
            "status": 413,
            "headers": [(b"content-type", b"application/json"), (b"connection", b"close")],
        }
    )
    await send({"type": "http.response.body", "body": body})
