"""Bounds on everything that comes from outside, each with its unit and its reason."""

from __future__ import annotations

from typing import Final

# A broker may be configured for 64 KiB packets; topic and MQTT header need their share of it.
MAX_CHUNK_WIRE_BYTES: Final = 64 * 1024 - 1024
# One model file of a Raspberry-Pi-class device; a larger one is a mistake or an attack.
MAX_FILE_BYTES: Final = 1 << 30
MAX_BUNDLE_FILES: Final = 256
MAX_MANIFEST_BYTES: Final = 1 << 20
MAX_INDEX_BYTES: Final = 8 << 20
# The TUF metadata of a fleet, unpacked: root chain, targets, snapshot, timestamp.
MAX_METADATA_SET_BYTES: Final = 8 << 20
MAX_METADATA_FILES: Final = 300
