"""The server's end: hands requests that chance has chosen to what runs beside, and never waits.

A request costs one random number; a chosen one a copy of its arrays as well. What cannot be taken
at once is dropped and counted: no answer of the version that serves is ever late for it.
"""

from __future__ import annotations

import json
import logging
import queue
import random
import select
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgekit_agent.shadow.frames import Frame, can_travel, send_frame
from edgekit_agent.shadow.place import find_place, shadow_folder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgekit_agent.hosted import HostedModel

_log = logging.getLogger(__name__)

# Inputs that wait while one is computed.
_QUEUE: Final = 4
# Of a process that says nothing, or reads nothing, the supervisor makes an end before.
_PATIENCE_SECONDS: Final = 120.0
_LOOK_SECONDS: Final = 1.0
_MAX_HELLO: Final = 4096


class Tap:
    """One model's connection to what runs beside it."""

    def __init__(
        self, model: HostedModel, channel: socket.socket, *, chance: random.Random | None = None
    ) -> None:
        """Start the thread that sends.

        Args:
            model: Whose requests.
            channel: As `find_place` gives it.
            chance: Of the choice; another one in tests.
        """
        self._model = model
        self._channel = channel
        self._chance = chance or random.Random()  # noqa: S311 - no secret depends on it
        self._queue: queue.Queue[Frame] = queue.Queue(_QUEUE)
        self._rate = 0.0
        self._pause = 0.0
        self._not_before = 0.0
        self._dropped = 0
        self.ended = False
        threading.Thread(target=self._run, name="shadow", daemon=True).start()

    def offer(
        self,
        inputs: Mapping[str, NDArray[np.generic]],
        outputs: Mapping[str, NDArray[np.generic]],
        latency_ms: float,
    ) -> None:
        """Hand a request and its answer over, if chance will have it and there is room."""
        if self._chance.random() >= self._rate:
            return
        now = time.monotonic()
        arrays = {f"input:{name}": array for name, array in inputs.items()}
        arrays |= {f"output:{name}": array for name, array in outputs.items()}
        if now < self._not_before or self._queue.full() or not can_travel(arrays):
            self._dropped += 1
            return
        self._not_before = now + self._pause
        head: dict[str, Any] = {"latency_ms": latency_ms, "dropped": self._dropped}
        self._dropped = 0
        # Copies: the arrays may lie in memory that the next request is read into. One request is
        # computed at a time, so that nobody else can have filled the queue meanwhile.
        try:
            copies = {name: array.copy() for name, array in arrays.items()}
        except MemoryError:
            # The answer was computed, and is given all the same.
            self._dropped = head["dropped"] + 1
            return
        self._queue.put_nowait(Frame(head, copies))

    def _run(self) -> None:
        try:
            with self._channel:
                self._channel.settimeout(_PATIENCE_SECONDS)
                self._introduce()
                while True:
                    try:
                        frame = self._queue.get(timeout=_LOOK_SECONDS)
                    except queue.Empty:
                        if _is_closed(self._channel):
                            return
                        continue
                    send_frame(self._channel, frame)
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.info("no more requests are compared: %s", error)
        finally:
            self._rate = 0.0
            self.ended = True

    def _introduce(self) -> None:
        with self._channel.makefile("rb") as file:
            hello = json.loads(file.readline(_MAX_HELLO))
        if hello["active"] != self._model.plan.digest:
            raise ValueError("it runs beside another version")
        manifest = self._model.manifest
        labels = {output.name: list(output.labels) for output in manifest.outputs}
        send_frame(self._channel, Frame({"task": manifest.task, "labels": labels}, {}))
        self._pause = 1.0 / float(hello["max_per_second"])
        self._rate = float(hello["rate"])


class Taps:
    """Finds what runs beside a server's models, and lets go of what has ended."""

    def __init__(self, data: Path) -> None:
        """Look in the agent's folder."""
        self._folder = shadow_folder(data)

    def look(self, models: Mapping[str, HostedModel]) -> None:
        """Look once more; takes no time to speak of."""
        for bundle, model in models.items():
            if model.tap is not None and model.tap.ended:
                model.tap = None
            if model.tap is None:
                channel = find_place(self._folder, bundle)
                if channel is not None:
                    try:
                        model.tap = Tap(model, channel)
                    except RuntimeError as error:
                        # No thread can be had just now: what serves goes on, and this waits.
                        _log.warning("what runs beside %s is not given requests: %s", bundle, error)
                        channel.close()


def _is_closed(channel: socket.socket) -> bool:
    readable, _, _ = select.select([channel], [], [], 0.0)
    return bool(readable) and not channel.recv(1, socket.MSG_PEEK)
