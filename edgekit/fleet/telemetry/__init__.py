"""What devices report of their models: taken in, added up, watched; never imports the agent.

`report` is what a batch holds, `ledger` takes batches in from devices that may lie, `sketches`
and `drift` are what is added up, `alarms` says when somebody must know, `notices` tells them.
"""
