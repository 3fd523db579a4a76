"""Who this device is: its own key, its certificate, and how it gets them.

The key is made here and never leaves the device. `keys` needs cryptography and runs in commands
and short processes only: the supervisor asks `worker`.
"""
