"""The agent as a service of this machine: user, folders, configuration, unit; imports no engine.

`layout` says what belongs where, `setup` puts it there and takes it away again. Both work below
any root folder, so that an image can be made without booting it.
"""
