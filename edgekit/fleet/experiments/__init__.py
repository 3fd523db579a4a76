"""Experiments: which of two versions is better, by statistics that stand continuous looking.

`sequential` is the mathematics, `assignment` makes two comparable groups of devices, `ab` compares
two versions that serve side by side, `shadow` one that serves with one that only watches. All of
it is pure; orders are a rollout's affair. Imports neither tuf nor an MQTT client.
"""
