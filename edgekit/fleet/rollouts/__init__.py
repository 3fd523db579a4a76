"""Rollouts in stages that watch how the model behaves; imports nothing of the device agent.

`engine` is a pure function of (plan, state, observations, now). `plan` and `state` are its data,
`labels` and `selection` say which devices come when, `judging` says how a stage does. Around the
pure core: `store` keeps plans and states, `orders` is the way to the director, `runner` drives all
of it against a broker.
"""
