"""The bundle: one model version for a whole fleet, with the proof that it works.

`manifest` says what is inside, `archive` reads and writes the `.ekb` file, `index` cuts it into
content-addressed chunks for the way to a device, `golden` compares what a device computes with
what the workstation computed. Only `golden` needs numpy.
"""
