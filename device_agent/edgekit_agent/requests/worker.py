"""A short process for what needs cryptography: prove a request, renew a certificate.

Started by the supervisor as `python -m edgekit_agent.requests.worker PLAN`; the request is on
standard input, the answer on standard output.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgekit_agent.lifeline import tie_to_parent
from edgekit_agent.settings import Tls
from edgekit_runtime.errors import EdgekitError
from edgekit_runtime.requests import open_request


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPlan:
    """What the process is to do.

    Attributes:
        task: "prove", "renewal-time", "signing-request" or "install-certificate".
        device: Who this is.
        fleet: Whose.
        data: The agent's folder.
        director_root: The root that it was made with.
        ca: Of `[broker.tls]`; empty for none.
        certificate: Likewise.
        key: Likewise.
        last: The largest number of a request that was followed.
        now: Seconds since 1970.
        life: A pipe, inherited, whose other end only the supervisor holds.
    """

    task: str
    device: str
    fleet: str
    data: str
    director_root: str
    ca: str
    certificate: str
    key: str
    last: int
    now: float
    life: int

    def to_json(self) -> str:
        """The plan as an argument."""
        return json.dumps(asdict(self), separators=(",", ":"))


def work(plan: WorkerPlan, given: bytes) -> dict[str, Any]:
    """Do it; the result, or the error under `error`, as a JSON object."""
    try:
        return _work(plan, given)
    except EdgekitError as error:
        return {"error": error.what}
    except OSError as error:
        return {"error": f"a file cannot be used: {error}"}


def _work(plan: WorkerPlan, given: bytes) -> dict[str, Any]:
    if plan.task == "prove":
        from edgekit_agent.requests.proving import prove_request, trusted_root

        request = prove_request(
            open_request(given),
            root=trusted_root(Path(plan.data), Path(plan.director_root)),
            device=plan.device,
            last=plan.last,
            now=plan.now,
        )
        return {
            "number": request.number,
            "kind": request.kind.value,
            "arguments": request.arguments,
            "expires": request.expires,
        }
    from edgekit_agent.identity import keys

    tls = Tls(ca=Path(plan.ca), certificate=Path(plan.certificate), key=Path(plan.key))
    if plan.task == "renewal-time":
        return {"renewal_time": keys.renewal_time(Path(plan.certificate))}
    if plan.task == "signing-request":
        request_pem = keys.signing_request(Path(plan.key), device=plan.device, fleet=plan.fleet)
        return {"request": request_pem}
    document = json.loads(given)
    keys.install_certificate(
        tls, str(document["certificate"]), str(document["authorities"]), device=plan.device
    )
    return {"renewal_time": keys.renewal_time(Path(plan.certificate))}


def main() -> None:
    """Run as a process of its own."""
    plan = WorkerPlan(**json.loads(sys.argv[1]))
    tie_to_parent(plan.life)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.stdout.write(json.dumps(work(plan, sys.stdin.buffer.read())))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
