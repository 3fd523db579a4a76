"""The workstation and the control plane: commands, Python API, fleet.

It may import every room but the agent, which runs elsewhere.
"""
