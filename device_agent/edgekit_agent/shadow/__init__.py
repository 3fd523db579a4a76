"""Shadow: a version that answers live requests beside the one that serves, and is never served.

`machine` decides (pure), `watchers` is the supervisor's hold on its process, `worker` that
process, `tap` the server's end: it hands over what chance has chosen, and never waits. `counting`
compares two answers, `frames` is how arrays travel between the two processes, and `place` where
they meet. Imports nothing that serves; `machine` and `watchers` import no numpy, and are loaded
only where there is something to run beside.
"""
