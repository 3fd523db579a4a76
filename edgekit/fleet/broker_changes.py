"""Let the broker read its files again after they have changed: nobody has to think of it.

mosquitto reads certificates, the list of revoked ones and the access list when it starts, and at a
SIGHUP. Two ways lead there. `run.sh`, in the broker's folder, runs mosquitto, looks at the files
every two seconds, and sends the signal itself: for a broker that is started with that folder. For
any other, `fleet.toml` names a command that is run after each change:

    [broker_files]
    changed = ["systemctl", "start", "edgekit-broker.service"]
"""

from __future__ import annotations

import hashlib
import subprocess
from typing import TYPE_CHECKING, Final

from edgekit_runtime.durable import discard, write_bytes
from edgekit_runtime.errors import EnvironmentLackError

if TYPE_CHECKING:
    from pathlib import Path

    from edgekit.fleet.folder import Fleet

#: What mosquitto reads again, in the broker's folder.
READ_AGAIN: Final = ("ca.pem", "broker.pem", "crl.pem", "acl")
#: What runs mosquitto with that folder.
RUNNER: Final = "run.sh"
_MARK: Final = ".told"
_COMMAND_SECONDS: Final = 60.0
_SHOWN: Final = 300
RUNNER_TEXT: Final = """\
#!/bin/sh
# Runs mosquitto with the files of this folder, made by edgekit: sh run.sh. Certificates, the list
# of those that were taken back, and the access list are read again when they have changed.
set -u
PATH=$PATH:/usr/local/sbin:/usr/sbin
place=$(cd "$(dirname "$0")" && pwd) || exit 1

# A file that is missing for an instant counts as a change, and so does its return.
sum() { (cd "$place" && cat @FILES@ 2>/dev/null | cksum); }

known=$(sum)
mosquitto -c "$place/mosquitto.conf" "$@" &
broker=$!
trap 'kill -TERM "$broker" 2>/dev/null' TERM INT
trap 'kill -HUP "$broker" 2>/dev/null' HUP
while sleep 2 & wait $!; kill -0 "$broker" 2>/dev/null; do
    now=$(sum)
    if [ "$now" != "$known" ]; then
        known=$now
        kill -HUP "$broker"
    fi
done
wait "$broker"
""".replace("@FILES@", " ".join(READ_AGAIN))


def tell_broker(fleet: Fleet, folder: Path) -> bool:
    """Run the fleet's command if the broker's files have changed since it last succeeded.

    Args:
        fleet: Whose.
        folder: Of its broker.

    Returns:
        Whether it was run: not if there is none, or nothing has changed.

    Raises:
        EnvironmentLackError: If the command fails: the files are as they should be, and it is run
            again with the next change.
    """
    command = fleet.broker_command
    if not command or not folder.is_dir():
        return False
    mark, now = folder / _MARK, _digest(folder)
    if mark.is_file() and mark.read_text(encoding="ascii") == now:
        return False
    # Should it be killed between the two, it is run once more.
    discard(mark)
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_COMMAND_SECONDS,
            check=False,
            cwd=folder,
        )
        output = (done.stderr or done.stdout).decode(errors="replace").strip()
        reason = f"it ended with {done.returncode}: {output[-_SHOWN:]}" if done.returncode else ""
    except subprocess.TimeoutExpired:
        reason = f"it took more than {_COMMAND_SECONDS:.0f} s"
    except OSError as error:
        reason = str(error)
    if reason:
        raise EnvironmentLackError(
            f"the broker's files have changed, and the broker was not told: {reason}",
            where=" ".join(command),
            fix="mend [broker_files] changed in fleet.toml and do the same again, or have the "
            "broker read its files by hand",
        )
    write_bytes(mark, now.encode())
    return True


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in READ_AGAIN:
        path = folder / name
        content = path.read_bytes() if path.is_file() else b""
        digest.update(len(content).to_bytes(8) + content)
    return digest.hexdigest()
