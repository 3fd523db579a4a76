"""How an agent hears of orders and gets chunks: MQTT, HTTP(S), a folder; imports no verification.

`arrivals` is the interface that all of them have, `several` puts more than one behind it. None of
them believes anything: what comes is bounded in size, posted, and proven elsewhere.
"""
