"""What the control plane does while nobody looks: hear the devices, drive rollouts, forget.

`hearing` writes down what devices say, `driving` brings rollouts of the database forward,
`leading` does both in that one of several replicas which holds the lease.
"""
