"""The control plane: keys, releases, orders and the way to the devices; never imports the agent.

A fleet is a folder (`folder`). `keys` makes its signing keys, `release` signs a bundle into the
image repository, `ordering` tells a device what to run, `publisher` puts all of it on a broker,
`watch` hears what the devices say, `status` puts both together. tuf and paho-mqtt are imported
only by the functions that use them.
"""
