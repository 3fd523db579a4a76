"""Files that nobody reads who has only the disk: encryption at rest, with a key kept elsewhere.

Imports nothing of ours but errors, files and durable writes; `cryptography` is loaded by the first
file that is sealed or opened, because it takes 8 MB of memory.
"""
