"""The registry: every bundle version, where it came from, how it did, and where it ran.

`entries` is its data, `rows` reads it, `catalogue` takes versions in and changes what people say
of them, `search` finds them, `comparison` sets two side by side, `retirement` takes one out of
the world. Of rollouts it imports the query language alone.
"""
