"""The verifying process: proves one order, says what it found, ends.

Started by the supervisor as `python -m edgekit_agent.verify_worker PLAN`, with the two packed
metadata sets on standard input. What verifying needs (python-tuf, cryptography) is in memory only
meanwhile, and a set that hangs or crashes a parser harms nobody.
"""

from __future__ import annotations

import base64
import json
import os
import resource
import signal
import sys
from pathlib import Path

from edgekit_agent.lifeline import tie_to_parent
from edgekit_agent.plans import VerifyPlan, read_verify_plan
from edgekit_agent.verifier import Verifier
from edgekit_runtime.errors import EdgekitError
from edgekit_runtime.extras import require
from edgekit_runtime.protocol import unpack_metadata


def prove_order(plan: VerifyPlan, *, image: bytes, director: bytes) -> dict[str, object]:
    """Verify two packed metadata sets; the result, or the error, as a JSON object."""
    try:
        require("tuf.ngclient", extra="agent")
        verifier = Verifier(
            Path(plan.folder),
            device=plan.device,
            image_root=Path(plan.image_root).read_bytes(),
            director_root=Path(plan.director_root).read_bytes(),
        )
        order = verifier.verify(
            image=unpack_metadata(image, where="repo/metadata"),
            director=unpack_metadata(director, where="order"),
            now=plan.now,
        )
    except EdgekitError as error:
        return {"what": error.what, "where": error.where or "", "fix": error.fix or ""}
    except OSError as error:
        return {"what": f"it could not be verified: {error}", "where": "", "fix": ""}
    return {
        "order_version": order.order_version,
        "signed_time": order.signed_time,
        "targets": {target.bundle: target.to_json() for target in order.targets},
    }


def main() -> None:
    """Run as a process of its own."""
    plan = read_verify_plan(sys.argv[1])
    tie_to_parent(plan.life)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sets = json.load(sys.stdin)
    result = prove_order(
        plan,
        image=base64.b64decode(sets["image"]),
        director=base64.b64decode(sets["director"]),
    )
    sys.stdout.write(json.dumps(result))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
