"""`python -m edgekit_agent`: the same as the `edgekit-agent` command."""

from edgekit_agent.cli import main

main()
