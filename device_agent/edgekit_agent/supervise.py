"""The supervisor as a program of its own: `edgekit-agent run` becomes it, by exec.

What reads command lines is not in memory any more then. Without docstrings (`-OO`) it would take
one megabyte less; but then Python compiles everything anew at each start, where it may not write.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

from edgekit_runtime.errors import EdgekitError


def become_supervisor(config: Path, *, debug: bool) -> NoReturn:
    """Replace this process by the supervisor; its process id stays."""
    arguments = [sys.executable, "-m", "edgekit_agent.supervise", str(config)]
    if debug:
        arguments.append("--debug")
    os.execv(sys.executable, arguments)  # noqa: S606 - our own program, and no shell is wanted


def main() -> None:
    """Run until told to stop; errors are told as the command line tells them."""
    from edgekit_agent.config import load_config
    from edgekit_agent.logs import set_up_logs
    from edgekit_agent.supervisor import Supervisor
    from edgekit_agent.transports.configured import configured_transport

    try:
        config = load_config(Path(sys.argv[1]))
        set_up_logs(config.log_level)
        supervisor = Supervisor(config, transport=configured_transport)
        supervisor.install_signal_handlers()
        supervisor.run()
    except EdgekitError as error:
        if "--debug" in sys.argv[2:]:
            raise
        from edgekit_runtime.console import show_error

        show_error(error, as_json=False)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
