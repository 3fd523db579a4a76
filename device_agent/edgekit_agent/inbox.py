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
    """Holds the newest metadata set and order, and has them verified together.

    Whatever comes while a verification runs waits for it, and only the newest of it is looked
    at: a flood of messages costs one verification at a time.
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
        self._image: bytes | None = None
        self._order: bytes | None = None
        self._busy = False
        self._again = False

    def clear(self) -> None:
        """Forget both: after a new connection both come anew, in any order."""
        self._image = self._order = None

    def on_metadata(self, data: bytes) -> None:
        """Take the image repository's set in."""
        self._image = data
        self._verify()

    def on_order(self, data: bytes) -> None:
        """Take the director's set for this device in."""
        self._order = data
        self._verify()

    def handle(self, message: VerifyDone) -> VerifiedOrder | EdgekitError:
        """Go on after a verification; its result."""
        self._busy = False
        if self._again:
            self._verify()
        return message.result

    def _verify(self) -> None:
        image, order = self._image, self._order
        if image is None or order is None:
            return
        if self._busy:
            self._again = True
            return
        self._busy, self._again = True, False
        now = self._clock()

        def job() -> None:
            result: VerifiedOrder | EdgekitError
            try:
                result = self._verifier.verify(image=image, director=order, now=now)
            except EdgekitError as error:
                result = error
            self._post(VerifyDone(result=result))

        self._jobs.submit(job)
