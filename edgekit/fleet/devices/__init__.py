"""The devices of a fleet: what they are, what they say, what is kept of them, and for how long.

`inventory` takes in what was heard and answers what there is, `facts` is what queries can ask
for, `groups` are queries with names, `privacy` gives out and deletes what is held on a device,
`retention` what is too old. It imports nothing of rollouts but their query language.
"""
