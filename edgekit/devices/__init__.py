"""Software for devices, made on the workstation: one file that installs without the internet.

`wheels` gets what the agent needs for another machine, `single_file` and `debian` pack it; the
agent's own code is copied, never imported.
"""
