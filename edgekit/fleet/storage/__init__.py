"""Where a fleet's chunks and bundle files are: its folder, or a bucket that fsspec reaches.

`blobs` is what both give, `local` and `remote` are the two, `setting` says which one a fleet has
and moves everything to another. Imports nothing else of the fleet but its folder and chunk store.
"""
