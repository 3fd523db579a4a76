"""What runs on a device: proven updates, offline inference; imports edgekit_runtime only.

`machine` decides, as a pure function of what happened; `supervisor` carries out, and holds the
adapters together: `mqtt` (the network), `verification` (signatures), `chunks` and `slots` (files),
`trial` and `doors` (processes). `server` is the process that holds the models; only it and
`trial_worker` load an inference engine, and only `verify_worker` python-tuf.
"""
