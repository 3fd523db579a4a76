"""The supervisor's side of requests: have them proven, carry them out, answer.

The broker is not trusted with any of it: who may publish here can do nothing without the
director's keys, and nothing twice. A number is written down before its request is carried out.
"""

from __future__ import annotations

import base64
import json
import logging
import random
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgekit_agent.config import AgentConfig
from edgekit_agent.jobs import JobThread
from edgekit_agent.requests.worker import WorkerPlan
from edgekit_agent.resending import Resending
from edgekit_agent.workers import run_worker
from edgekit_runtime.durable import write_bytes
from edgekit_runtime.errors import EdgekitError, VerificationError
from edgekit_runtime.requests import MAX_REPLY_BYTES, DeviceReply, RequestKind
from edgekit_runtime.sealing.vault import open_vault

_log = logging.getLogger(__name__)

_WORKER_SECONDS: Final = 120.0
_NUMBER_FILE: Final = "requests.json"
_MAX_REPLIES: Final = 200
_MAX_WAITING: Final = 4
_MAX_SAMPLE_BYTES: Final = 4 << 20
# What base64 and the envelope leave of a reply.
_PART_BYTES: Final = 40_000
_LOG_PART_BYTES: Final = 50_000
# After an attempt to renew, or to read the certificate, that failed.
_RETRY_SECONDS: Final = 3600.0
_MAX_RETRY_SECONDS: Final = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestProven:
    """A request was verified, or refused.

    Attributes:
        number: Of the request; 0 if it was refused.
        kind: What is asked for.
        arguments: By kind.
        refusal: Why it was refused; empty if it was not.
    """

    number: int = 0
    kind: RequestKind | None = None
    arguments: dict[str, Any]
    refusal: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalKnown:
    """When the certificate is to be renewed, in seconds since 1970, or what is wrong with it."""

    time: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyReady:
    """A request was carried out, or could not be."""

    number: int
    ok: bool
    parts: tuple[dict[str, Any], ...]


DeskMessage = RequestProven | RenewalKnown | ReplyReady
Bench = Callable[[str, str], dict[str, Any]]


class Desk:
    """Takes requests in, and answers them."""

    def __init__(
        self,
        config: AgentConfig,
        *,
        wall_clock: Callable[[], float],
        post: Callable[[DeskMessage], None],
        send: Callable[[int, bytes], None],
        logs: Callable[[int], list[str]],
    ) -> None:
        """Read which request was the last.

        Args:
            config: Of the agent.
            wall_clock: Seconds since 1970, as well as is known.
            post: Takes messages from other threads; they come back through `handle`.
            send: Publishes a reply under a key.
            logs: The last lines of the log, as many as asked for.
        """
        self._config = config
        self._wall_clock = wall_clock
        self._post = post
        self._send = send
        self._logs = logs
        self._jobs = JobThread("requests")
        self._number_file = config.data / _NUMBER_FILE
        self._last = _read_number(self._number_file)
        self._waiting = 0
        self._replies: OrderedDict[int, bytes] = OrderedDict()
        self._keys = 0
        self._unheard = Resending[int]()
        self._renew_at: float | None = None
        self._retry_seconds = _RETRY_SECONDS

    def start(self) -> None:
        """Find out when the certificate is to be renewed, if there is one."""
        if self._has_certificate:
            self._jobs.submit(self._read_renewal_time)

    def on_request(self, data: bytes) -> None:
        """Have a request proven; one too many is left to be sent again."""
        if self._waiting >= _MAX_WAITING:
            return
        self._waiting += 1
        last, now = self._last, self._wall_clock()
        self._jobs.submit(lambda: self._prove(data, last, now))

    def on_connected(self) -> None:
        """Send every reply that has not arrived."""
        self._unheard.clear()
        for key, message in self._replies.items():
            self._send(key, message)

    def on_taken(self, key: int) -> None:
        """Forget a reply that has arrived."""
        self._unheard.on_heard()
        self._replies.pop(key, None)

    def on_unheard(self, key: int) -> None:
        """Keep a reply that nobody hears: whoever asked may be away, and come back."""
        self._unheard.note(key)

    def accept(self, proven: RequestProven) -> bool:
        """Write the number of a proven request down; whether it is to be carried out.

        Raises:
            EnvironmentLackError: If it cannot be written: then it must not be carried out.
        """
        self._waiting -= 1
        if proven.refusal or proven.number <= self._last:
            return False
        write_bytes(self._number_file, json.dumps({"last": proven.number}).encode())
        self._last = proven.number
        return True

    def carry_out(self, proven: RequestProven, *, bench: Bench) -> None:
        """Do what takes time in a thread of its own; the answer comes as `ReplyReady`.

        Args:
            proven: bench, logs, samples, renew or certificate.
            bench: Measures a bundle by its name and its version, empty for the one that serves;
                called in that thread.
        """
        number, arguments = proven.number, proven.arguments
        match proven.kind:
            case RequestKind.BENCH:
                work: Callable[[], Iterable[dict[str, Any]]] = lambda: [  # noqa: E731
                    bench(str(arguments.get("bundle", "")), str(arguments.get("version", "")))
                ]
            case RequestKind.LOGS:
                work = lambda: _log_parts(self._logs(_count(arguments, "lines", 200)))  # noqa: E731
            case RequestKind.SAMPLES:
                work = lambda: self._sample_parts(_count(arguments, "most", 10))  # noqa: E731
            case RequestKind.RENEW:
                work = lambda: [self._worker("signing-request")]  # noqa: E731
            case RequestKind.CERTIFICATE:
                work = lambda: [self._install_certificate(arguments)]  # noqa: E731
            case _:
                return
        self._jobs.submit(lambda: self._answer(number, work))

    def reply(self, answer: ReplyReady) -> None:
        """Send an answer, now or when connected."""
        for part, result in enumerate(answer.parts):
            self._keys += 1
            message = DeviceReply(
                device=self._config.device,
                number=answer.number,
                ok=answer.ok,
                part=part,
                parts=len(answer.parts),
                result=result,
            ).to_json()
            if len(message) > MAX_REPLY_BYTES:
                _log.warning("a reply is too large and left out: %d bytes", len(message))
                continue
            self._replies[self._keys] = message
            self._send(self._keys, message)
        while len(self._replies) > _MAX_REPLIES:
            self._replies.popitem(last=False)

    def on_renewal_known(self, known: RenewalKnown) -> None:
        """Note when to renew, or when to look again."""
        if known.error:
            _log.warning("the certificate cannot be read: %s", known.error)
            self._renew_at = self._wall_clock() + _RETRY_SECONDS
        else:
            self._renew_at = known.time
            self._retry_seconds = _RETRY_SECONDS

    def tick(self, *, connected: bool, now: float) -> None:
        """Send again what nobody heard, and ask for a new certificate when it is time.

        Args:
            connected: Whether there is a broker.
            now: Seconds on a clock that never goes back.
        """
        if connected:
            for key in self._unheard.due(now):
                if key in self._replies:
                    self._send(key, self._replies[key])
        self._renew(connected=connected)

    def _renew(self, *, connected: bool) -> None:
        """Ask for a new certificate when it is time, and again if none comes."""
        now = self._wall_clock()
        if not connected or self._renew_at is None or now < self._renew_at:
            return
        # Not all at once, should the control plane have been away.
        spread = random.uniform(0.5, 1.5)  # noqa: S311 - no secret depends on it
        self._renew_at = now + self._retry_seconds * spread
        self._retry_seconds = min(2 * self._retry_seconds, _MAX_RETRY_SECONDS)
        # Number 0 is what no request has: the device asks by itself.
        self._jobs.submit(lambda: self._answer(0, lambda: [self._worker("signing-request")]))

    def close(self, *, seconds: float) -> None:
        """End the thread."""
        self._jobs.close(seconds=seconds)

    @property
    def _has_certificate(self) -> bool:
        return self._config.tls is not None and self._config.tls.certificate is not None

    def _prove(self, data: bytes, last: int, now: float) -> None:
        found = self._worker("prove", data, last=last, now=now)
        try:
            proven = RequestProven(
                number=int(found["number"]),
                kind=RequestKind(found["kind"]),
                arguments=dict(found["arguments"]),
            )
        except (KeyError, TypeError, ValueError):
            # Whatever became of it: it does not wait any more.
            refusal = str(found.get("error", "the worker said nothing"))
            proven = RequestProven(refusal=refusal, arguments={})
        self._post(proven)

    def _answer(self, number: int, work: Callable[[], Iterable[dict[str, Any]]]) -> None:
        try:
            parts = tuple(work())
            ok = not any("error" in part for part in parts)
        except (EdgekitError, OSError) as error:
            ok, parts = False, ({"error": str(error)},)
        self._post(ReplyReady(number=number, ok=ok, parts=parts))

    def _install_certificate(self, arguments: dict[str, Any]) -> dict[str, Any]:
        document = {
            "certificate": str(arguments.get("certificate", "")),
            "authorities": str(arguments.get("authorities", "")),
        }
        found = self._worker("install-certificate", json.dumps(document).encode())
        if "error" not in found:
            self._post(RenewalKnown(time=float(found["renewal_time"])))
        return found

    def _read_renewal_time(self) -> None:
        found = self._worker("renewal-time")
        self._post(
            RenewalKnown(
                time=float(found.get("renewal_time", 0.0)), error=str(found.get("error", ""))
            )
        )

    def _worker(
        self, task: str, given: bytes = b"", *, last: int = 0, now: float = 0.0
    ) -> dict[str, Any]:
        """Have the worker do something; `error` says what went wrong."""
        tls = self._config.tls
        if task != "prove" and not self._has_certificate:
            return {"error": "this device has no certificate of its own: [broker.tls]"}

        def plan(life: int) -> str:
            return WorkerPlan(
                task=task,
                device=self._config.device,
                fleet=self._config.fleet,
                data=str(self._config.data),
                director_root=str(self._config.director_root),
                ca=str(tls.ca) if tls else "",
                certificate=str(tls.certificate or "") if tls else "",
                key=str(tls.key or "") if tls else "",
                last=last,
                now=now,
                life=life,
            ).to_json()

        try:
            output = run_worker(
                "edgekit_agent.requests.worker",
                plan,
                stdin=given,
                seconds=_WORKER_SECONDS,
                task="proving the request" if task == "prove" else "using the certificate",
            )
            found = json.loads(output)
        except (VerificationError, ValueError, OSError) as error:
            return {"error": str(error)}
        return found if isinstance(found, dict) else {"error": "the worker said nothing"}

    def _sample_parts(self, most: int) -> Iterable[dict[str, Any]]:
        if not self._config.samples.allow:
            return [{"error": "the owner of this device does not allow samples: [samples] allow"}]
        from edgekit_agent.samples import SampleRing
        from edgekit_agent.settings import samples_folder

        data = self._config.data
        ring = SampleRing(
            samples_folder(data),
            most_bytes=self._config.samples.ring_bytes,
            vault=open_vault(str(data), self._config.encryption.to_text()),
        )
        parts: list[dict[str, Any]] = []
        size = 0
        for file in reversed(ring.files()[-most:] if most else []):
            try:
                content = ring.read(file)
            except (OSError, EdgekitError) as error:
                return [{"error": f"{file.name}: {error}"}]
            size += len(content)
            if size > _MAX_SAMPLE_BYTES:
                break
            pieces = range(0, len(content), _PART_BYTES)
            parts += [
                {
                    "sample": file.name,
                    "piece": position,
                    "pieces": len(pieces),
                    "data": base64.b64encode(content[start : start + _PART_BYTES]).decode(),
                }
                for position, start in enumerate(pieces)
            ]
        return parts or [{"samples": 0}]


def _log_parts(lines: list[str]) -> Iterable[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    held: list[str] = []
    size = 0
    for line in lines:
        length = len(json.dumps(line)) + 1
        if held and size + length > _LOG_PART_BYTES:
            parts.append({"lines": held})
            held, size = [], 0
        held.append(line)
        size += length
    return [*parts, {"lines": held}]


def _count(arguments: dict[str, Any], name: str, default: int) -> int:
    value = arguments.get(name, default)
    return min(max(value, 0), 1000) if isinstance(value, int) else default


def _read_number(path: Path) -> int:
    try:
        document = json.loads(path.read_bytes())
        number = document["last"]
    except (OSError, ValueError, KeyError, TypeError):
        # Lost with the data: old requests have expired by the clock's floor.
        return 0
    return number if isinstance(number, int) else 0
