"""How it goes: what is counted of models and device, stored first and sent once; loads no engine.

`references` says which bins values are counted in, `counting` counts them in the server (with
numpy), `recorder` makes windows of counters in the supervisor, `store` keeps them, `forwarder`
sends them, `watching` says when values have drifted.
"""
