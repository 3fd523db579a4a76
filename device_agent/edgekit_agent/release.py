"""Which version of the agent this is."""

from __future__ import annotations

from typing import Final

from edgekit_runtime.installed import installed_version

# Unknown where it is run from a plain copy of the sources.
AGENT_VERSION: Final = installed_version("edgekit") or "0+unknown"
