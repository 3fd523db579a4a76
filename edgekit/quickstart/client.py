"""An application on the device: asks the agent over HTTP, and notes the answers."""

from __future__ import annotations

import http.client
import json
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import NDArray

_TIMEOUT_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back for one image.

    Attributes:
        at: Seconds since 1970 when the answer was there.
        latency_ms: From sending to having the answer, as the application sees it.
        status: Of HTTP; 0 where there was no answer at all.
        version: Of the model that answered; empty if none did.
        label: The class with the highest score; -1 if there was no answer.
        error: What was said instead.
    """

    at: float
    latency_ms: float
    status: int
    version: str = ""
    label: int = -1
    error: str = ""

    @property
    def ok(self) -> bool:
        """Whether the request was served."""
        return self.status == http.HTTPStatus.OK


class DigitsClient:
    """One application with one connection, kept open as long as the server keeps it."""

    def __init__(self, host: str, port: int, *, model: str) -> None:
        """Connect lazily, at the first request."""
        self._connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_SECONDS)
        self._path = f"/v2/models/{model}/infer"

    def __enter__(self) -> DigitsClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; the next request would connect again."""
        self._connection.close()

    def classify(self, image: NDArray[np.float32]) -> Answer:
        """Send one image of shape [1, 8, 8] and read the answer; a failure is an answer too."""
        body = json.dumps(
            {
                "inputs": [
                    {
                        "name": "image",
                        "shape": [1, *image.shape],
                        "datatype": "FP32",
                        "data": image.reshape(-1).tolist(),
                    }
                ]
            }
        )
        started = time.perf_counter()
        try:
            self._connection.request("POST", self._path, body, {"Content-Type": "application/json"})
            response = self._connection.getresponse()
            payload = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            return Answer(
                at=time.time(),
                latency_ms=(time.perf_counter() - started) * 1000,
                status=0,
                error=f"{type(error).__name__}: {error}",
            )
        latency_ms = (time.perf_counter() - started) * 1000
        return _read(response.status, payload, latency_ms)


@dataclass(slots=True, kw_only=True)
class Traffic:
    """Applications that keep asking, in the background, until they are stopped.

    Attributes:
        answers: Everything that came back, in order of arrival.
    """

    host: str
    port: int
    images: NDArray[np.float32]
    model: str = "digits"
    clients: int = 2
    pause_seconds: float = 0.004
    answers: list[Answer] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Traffic:
        for number in range(self.clients):
            thread = threading.Thread(target=self._ask, args=(number,), daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def refused(self) -> list[Answer]:
        """The requests that were not served."""
        return [answer for answer in self.answers if not answer.ok]

    def _ask(self, number: int) -> None:
        # Every other application opens a new connection for each request: both habits exist.
        keeps_open = number % 2 == 0
        position = number
        client = DigitsClient(self.host, self.port, model=self.model)
        while not self._stop.is_set():
            if not keeps_open:
                client = DigitsClient(self.host, self.port, model=self.model)
            self.answers.append(client.classify(self.images[position % len(self.images)]))
            if not keeps_open:
                client.close()
            position += self.clients
            self._stop.wait(self.pause_seconds)
        client.close()


def _read(status: int, payload: bytes, latency_ms: float) -> Answer:
    at = time.time()
    try:
        document: dict[str, Any] = json.loads(payload)
    except ValueError:
        return Answer(at=at, latency_ms=latency_ms, status=status, error=repr(payload[:100]))
    if status != http.HTTPStatus.OK:
        return Answer(
            at=at, latency_ms=latency_ms, status=status, error=str(document.get("error", ""))
        )
    return Answer(
        at=at,
        latency_ms=latency_ms,
        status=status,
        version=str(document.get("model_version", "")),
        label=int(np.argmax(document["outputs"][0]["data"])),
    )
