"""What the network says should run, on its way to being believed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgekit_agent.jobs import JobThread
from edgekit_agent.verification import VerifierProcess
from edgekit_agent.verifier import VerifiedOrder
from edgekit_runtime.errors import EdgekitError


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyDone:
    """An order was verified, or refused."""

    result: VerifiedOrder | EdgekitError


class Inbox:
    """Holds the newest metadata set and order of each source, and has them verified together.

    A set from a stick says nothing about an order from a broker: only what one source gave is
    put together. Whatever comes while a verification runs waits for it, and only the newest of it
    is looked at: a flood of messages costs one verification at a time.
    """

    def __init__(
        self,
        *,
        verifier: VerifierProcess,
        jobs: JobThread,
        clock: Callable[[], float],
        post: Callable[[VerifyDone], None],
    ) -> None:
        """Work with these.

        Args:
            verifier: Decides.
            jobs: Where it does so.
            clock: Seconds since 1970, by which expiry is judged.
            post: Takes the results; they come back through `handle`.
        """
        self._verifier = verifier
        self._jobs = jobs
        self._clock = clock
        self._post = post
        self._images: dict[str, bytes] = {}
        self._orders: dict[str, bytes] = {}
        self._busy = False
        # The sources whose sets changed while a verification ran, in order.
        self._again: dict[str, None] = {}

    def clear(self, source: str) -> None:
        """Forget both of a source: after a new connection both come anew, in any order."""
        self._images.pop(source, None)
        self._orders.pop(source, None)

    def on_metadata(self, data: bytes, source: str) -> None:
        """Take the image repository's set in."""
        self._images[source] = data
        self._verify(source)

    def on_order(self, data: bytes, source: str) -> None:
        """Take the director's set for this device in."""
        self._orders[source] = data
        self._verify(source)

    def handle(self, message: VerifyDone) -> VerifiedOrder | EdgekitError:
        """Go on after a verification; its result."""
        self._busy = False
        while self._again and not self._busy:
            source = next(iter(self._again))
            del self._again[source]
            self._verify(source)
        return message.result

    def _verify(self, source: str) -> None:
        image, order = self._images.get(source), self._orders.get(source)
        if image is None or order is None:
            return
        if self._busy:
            self._again[source] = None
            return
        self._busy = True
        now = self._clock()

        def job() -> None:
            result: VerifiedOrder | EdgekitError
            try:
                result = self._verifier.verify(image=image, director=order, now=now)
            except EdgekitError as error:
                result = error
            self._post(VerifyDone(result=result))

        self._jobs.submit(job)
