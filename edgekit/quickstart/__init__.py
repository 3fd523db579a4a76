"""The main road in one command: a real model, from training's output to a proven update.

Every step calls the library functions that the other commands call; nothing here is a mock.
"""
