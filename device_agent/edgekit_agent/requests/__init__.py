"""What the fleet asks of this device: proven in a process of its own, then carried out.

`worker` needs python-tuf and cryptography and is a process; `desk` is the supervisor's side.
"""
