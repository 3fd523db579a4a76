"""Devices that are not there: the real protocol and the real state machine, without inference.

For trying a rollout's plan before it meets the world, and for loading a control plane. `device`
is a device as a function of what it is told, `wire` and `client` speak MQTT 3.1.1 for ten
thousand of them in one process, `crowd` runs them, `trial` runs a whole rollout with a fleet and
a broker of its own. `counting`, `beside` and `answering` make up what devices report. Of the agent
it imports the pure modules `machine`, `state`, `gates`, `live_stats` and `requests.proving`, and
nothing else (docs/adr/0009).
"""
