"""Step 8: what protects the device, by trying it.

Whoever owns the broker can publish anything anywhere: that is what the attacks here do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgekit.bundling.create import BundleRequest, create_bundle
from edgekit.fleet.connection import connected_to
from edgekit.fleet.folder import Fleet
from edgekit.fleet.keys import init_keys
from edgekit.fleet.ordering import order_device
from edgekit.fleet.publisher import packed_order, publish, publish_metadata, publish_order
from edgekit.fleet.release import release_bundle
from edgekit.fleet.repositories import open_images
from edgekit.quickstart.faults import brittle_model, dim_images, wrong_model_bundle
from edgekit.quickstart.figures import ProtectionFigures
from edgekit_runtime.errors import GateFailedError
from edgekit_runtime.orders import BundleOrder, Gates
from edgekit_runtime.protocol import Topics
from edgekit_runtime.reports import DeviceEvent

if TYPE_CHECKING:
    from edgekit.fleet.folder import BrokerAddress
    from edgekit.fleet.watch import FleetWatcher

_WAIT_SECONDS: Final = 30.0
_REFUSED: Final = "security.refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Where the attacks happen.

    Attributes:
        fleet: The owner's fleet.
        broker: Which the attacker controls.
        watcher: Hears the device.
        device: Its id.
        gates: For orders: short, because this is a demonstration.
        folder: For files.
        serving: Tells which version answers a request now.
    """

    fleet: Fleet
    broker: BrokerAddress
    watcher: FleetWatcher
    device: str
    gates: Gates
    folder: Path
    serving: Callable[[], str]

    def order(self, version: str) -> None:
        """Order a version, as the owner."""
        order = BundleOrder(bundle="digits", version=version, gates=self.gates)
        order_device(self.fleet, self.device, [order])

    def publish(self) -> None:
        """Publish everything, as the owner."""
        publish(self.fleet, self.broker)

    def expect(
        self,
        kind: str,
        *,
        since: int,
        version: str | None = None,
        saying: str = "",
        timeout_s: float = _WAIT_SECONDS,
    ) -> DeviceEvent:
        """Wait for an event of the device, with this word in its reason."""
        return self.watcher.wait_for_event(
            lambda event: (
                event.kind == kind and version in (None, event.version) and saying in event.detail
            ),
            timeout_s=timeout_s,
            since=since,
        )


def tampered_chunk(stage: Stage, bundle: Path, *, version: str) -> ProtectionFigures:
    """A chunk is changed on the broker, by one bit; then it is put right."""
    before = set(open_images(stage.fleet).chunk_names())
    release_bundle(stage.fleet, bundle)
    images = open_images(stage.fleet)
    topics = Topics(stage.fleet.id)
    new = [name for name in images.chunk_names() if name not in before]
    messages = []
    for name in new:
        data = bytearray(images.chunks.get(name))
        data[len(data) // 2] ^= 1
        messages.append((topics.chunk(name), bytes(data)))
    stage.order(version)
    mark = stage.watcher.event_count
    with connected_to(stage.broker) as connection:
        connection.publish(messages)
        publish_metadata(stage.fleet, connection)
        publish_order(stage.fleet, connection, stage.device)
    refused = stage.expect(_REFUSED, since=mark, saying="signed hash")
    serving = stage.serving()
    _require(serving != version, "a tampered chunk was installed")
    stage.publish()
    stage.expect("update.active", since=mark, version=version)
    return ProtectionFigures(
        threat="one bit of each new chunk is flipped on the broker",
        outcome="refused",
        reason=refused.detail,
        still_serving=serving,
    )


def wrong_key(stage: Stage, bundle: Path, *, version: str) -> ProtectionFigures:
    """An order that is signed in perfect form, by somebody else's keys."""
    impostor = Fleet.create(stage.folder / "impostor", stage.fleet.id)
    init_keys(impostor)
    release_bundle(impostor, bundle)
    order_device(impostor, stage.device, [BundleOrder(bundle="digits", version=version)])
    return _forged_order(
        stage,
        packed_order(impostor, stage.device),
        "an order is signed with another fleet's key",
        saying="key",
    )


def replayed_order(stage: Stage, recorded: bytes) -> ProtectionFigures:
    """The first order, recorded on the broker, is sent again: a way back to an old version."""
    return _forged_order(
        stage, recorded, "the first order, for version 1, is replayed", saying="replay"
    )


def wrong_golden(stage: Stage, bundle: Path, model_of: Path, *, version: str) -> ProtectionFigures:
    """A release, signed in good faith, whose models are not the ones that were tested."""
    wrong = stage.folder / f"digits-{version}.ekb"
    wrong_model_bundle(bundle, model_of, version=version, output=wrong)
    release_bundle(stage.fleet, wrong)
    stage.order(version)
    mark = stage.watcher.event_count
    stage.publish()
    event = stage.expect(
        "update.variant_failed", since=mark, version=version, saying="golden samples do not match"
    )
    stage.expect("update.rejected", since=mark, version=version)
    return ProtectionFigures(
        threat="a signed release holds other weights than the tested ones",
        outcome="refused",
        reason=event.detail,
        still_serving=_require_other(stage.serving(), version),
    )


def broken_in_use(stage: Stage, model: Path, test: Path, *, version: str) -> ProtectionFigures:
    """A release that is right on its golden samples and answers NaN in live use."""
    import numpy as np

    brittle = stage.folder / "brittle.onnx"
    brittle_model(model, brittle)
    with np.load(test) as arrays:
        dim = dim_images(arrays["image"], arrays["labels"])
    data = stage.folder / "dim.npz"
    np.savez(data, image=dim["image"], labels=dim["labels"])
    bundle = stage.folder / f"digits-{version}.ekb"
    create_bundle(
        BundleRequest(
            name="digits",
            version=version,
            models=(brittle,),
            data=data,
            output=bundle,
            licences=("Apache-2.0",),
        )
    )
    release_bundle(stage.fleet, bundle)
    stage.order(version)
    mark = stage.watcher.event_count
    stage.publish()
    event = stage.expect("update.rolled_back", since=mark, version=version, saying="NaN")
    return ProtectionFigures(
        threat="a signed release passes its golden samples and answers NaN in live use",
        outcome="rolled back",
        reason=event.detail,
        still_serving=_require_other(stage.serving(), version),
    )


def _forged_order(stage: Stage, message: bytes, threat: str, *, saying: str) -> ProtectionFigures:
    topic = Topics(stage.fleet.id).order(stage.device)
    before = stage.serving()
    mark = stage.watcher.event_count
    with connected_to(stage.broker) as connection:
        connection.publish([(topic, message)])
        event = stage.expect(_REFUSED, since=mark, saying=saying)
        after = stage.serving()
        # The owner's own order takes the forged one's place on the broker.
        publish_order(stage.fleet, connection, stage.device)
    _require(before == after, "a forged order was followed")
    return ProtectionFigures(
        threat=threat, outcome="refused", reason=event.detail, still_serving=after
    )


def _require_other(serving: str, refused: str) -> str:
    _require(serving != refused, f"version {refused} serves although it was refused")
    return serving


def _require(condition: bool, what: str) -> None:  # noqa: FBT001 - reads as an assertion
    if not condition:
        raise GateFailedError(
            what, where="quickstart", fix="report this: it is a defect of edgekit"
        )
