"""What the control plane does while nobody looks: hear the devices, drive rollouts, forget.

`hearing` writes down what devices say, `driving` brings rollouts of the database forward,
`comparing` runs experiments, `shadowing` versions beside those that serve; `leading` does all of
it in that one of several replicas which holds the lease. `sharing` hears a part of what devices
measure, in every replica; `single` stays with one rollout to its end.
"""
