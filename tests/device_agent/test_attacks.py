"""The attacks of TUF's specification and the Uptane standard, each against the agent's own code."""

from __future__ import annotations

import random
import zlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, TargetFile

from edgekit_agent.transports.arrivals import ChunkCame, MetadataCame, OrderCame
from edgekit_agent.verifier import VerifiedOrder, Verifier
from edgekit_runtime.errors import VerificationError
from edgekit_runtime.limits import MAX_CHUNK_WIRE_BYTES
from edgekit_runtime.orders import parse_time
from edgekit_runtime.protocol import pack_metadata, unpack_metadata
from tests.simulators.local_agent import RunningAgent
from tests.simulators.signed_fleet import SignedFleet, SignedRepository, quick_order
from tests.simulators.tiny_bundles import affine_bundle

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
ORDER = quick_order("m", "1.0.0")


class Device:
    """A verifier that keeps what it trusts in a folder, and a clock that may be wrong."""

    def __init__(self, folder: Path, fleet: SignedFleet) -> None:
        self.fleet = fleet
        self.clock = NOW
        self.floor = 0.0
        self.verifier = Verifier(
            folder / "trusted",
            device="d1",
            image_root=fleet.image.first_root,
            director_root=fleet.director.first_root,
        )

    def see(self, order: bytes, image: dict[str, bytes] | None = None) -> VerifiedOrder:
        """What the supervisor does with a metadata set and an order."""
        verified = self.verifier.verify(
            image=dict(self.fleet.image.files) if image is None else image,
            director=unpack_metadata(order, where="test"),
            now=max(self.clock.timestamp(), self.floor),
        )
        self.floor = max(self.floor, verified.signed_time)
        return verified


@pytest.fixture
def fleet() -> SignedFleet:
    fleet = SignedFleet()
    fleet.release("m", "1.0.0", {"manifest.json": b"{}"})
    return fleet


@pytest.fixture
def device(tmp_path: Path, fleet: SignedFleet) -> Device:
    return Device(tmp_path, fleet)


def release(fleet: SignedFleet, *, version: int, **options: object) -> dict[str, bytes]:
    return fleet.image.publish(fleet.released, version=version, **options)  # type: ignore[arg-type]


def test_arbitrary_software_needs_the_offline_key(device: Device, fleet: SignedFleet) -> None:
    """Every online key is stolen: timestamp and snapshot, and the whole director."""
    evil = SignedFleet(director=fleet.director)
    evil.image.root = fleet.image.root
    evil.image.signers = {
        **fleet.image.signers,
        "targets": CryptoSigner.generate_ed25519(),
        "root": CryptoSigner.generate_ed25519(),
    }
    evil.image.files = {"1.root.json": fleet.image.first_root}
    evil.release("m", "6.6.6", {"manifest.json": b"evil"})
    order = evil.order("d1", quick_order("m", "6.6.6"))
    with pytest.raises(VerificationError, match=r"does not trust .targets"):
        device.see(order, image=dict(evil.image.files))


def test_rollback_of_the_image_repository(device: Device, fleet: SignedFleet) -> None:
    old = dict(fleet.image.files)
    fleet.release("m", "2.0.0", {"manifest.json": b"{ }"})
    order = fleet.order("d1", ORDER)
    device.see(order)
    with pytest.raises(VerificationError, match="a replay"):
        device.see(order, image=old)


def test_rollback_through_another_devices_higher_numbers(
    device: Device, fleet: SignedFleet
) -> None:
    """All devices share the director's keys: another one's set must not move this one on."""
    device.see(fleet.order("d1", ORDER, version=1))
    other = fleet.order("d2", ORDER, version=900)
    torn = unpack_metadata(other, where="test")
    del torn["900.targets.json"]
    for offered in (other, pack_metadata(torn)):
        with pytest.raises(VerificationError):
            device.see(offered)
    assert device.see(fleet.order("d1", ORDER, version=2)).order_version == 2


def test_indefinite_freeze_ends_with_the_expiry(device: Device, fleet: SignedFleet) -> None:
    frozen = fleet.order("d1", ORDER, expires=NOW + 2 * DAY)
    device.see(frozen)
    device.clock += DAY
    device.see(frozen)
    device.clock += DAY
    with pytest.raises(VerificationError, match="the order expired"):
        device.see(frozen)


def test_indefinite_freeze_of_the_image_repository(device: Device, fleet: SignedFleet) -> None:
    release(fleet, version=2, expires=NOW + DAY)
    order = fleet.order("d1", ORDER, expires=NOW + 9 * DAY)
    device.see(order)
    device.clock += 2 * DAY
    with pytest.raises(VerificationError, match="image repository's metadata expired"):
        device.see(order)


def test_fast_forward_is_undone_by_new_keys(device: Device, fleet: SignedFleet) -> None:
    """Stolen online keys sign the highest version; with new keys the fleet counts on as before."""
    order = fleet.order("d1", ORDER)
    release(fleet, version=2**31)
    device.see(order)
    fleet.image.rotate("timestamp", "snapshot", "targets")
    after = release(fleet, version=3)
    assert device.see(order, image=after).order_version == 1
    fleet.order("d1", ORDER, version=2**31)
    device.see(pack_metadata(fleet.director.files))
    fleet.director.rotate("timestamp", "snapshot", "targets")
    assert device.see(fleet.order("d1", ORDER, version=2)).order_version == 2


@pytest.mark.parametrize("role", ["targets", "snapshot"])
def test_mix_and_match(device: Device, fleet: SignedFleet, role: str) -> None:
    first = dict(fleet.image.files)
    fleet.release("n", "1.0.0", {"manifest.json": b"{}"})
    second = dict(fleet.image.files)
    second[f"2.{role}.json"] = first[f"1.{role}.json"]
    with pytest.raises(VerificationError):
        device.see(fleet.order("d1", ORDER), image=second)


def test_mix_and_match_of_releases(device: Device, fleet: SignedFleet) -> None:
    """The director cannot put one bundle's name on another's content."""
    fleet.release("n", "1.0.0", {"manifest.json": b"other content"})
    path, wrong = "m/1.0.0/index.json", fleet.released["n/1.0.0/index.json"]
    honest = fleet.released[path]
    fleet.released[path] = TargetFile(
        length=wrong.length,
        hashes=dict(wrong.hashes),
        path=path,
        unrecognized_fields=dict(wrong.unrecognized_fields),
    )
    order = fleet.order("d1", ORDER)
    fleet.released[path] = honest
    with pytest.raises(VerificationError, match="disagree about the content"):
        device.see(order)


@pytest.mark.parametrize("role", ["root", "targets"])
def test_a_stolen_key_below_the_threshold_is_worth_nothing(tmp_path: Path, role: str) -> None:
    keys = [CryptoSigner.generate_ed25519() for _ in range(3)]
    image = SignedRepository()
    image.root.signed.revoke_key(image.signers[role].public_key.keyid, role)
    for key in keys:
        image.root.signed.add_key(key.public_key, role)
    image.root.signed.roles[role].threshold = 2
    honest_root = keys[:2] if role == "root" else [image.signers["root"]]
    image.files.clear()
    image.publish_root(*honest_root)
    fleet = SignedFleet(image=image)
    image.signers[role] = keys[0]
    fleet.release("m", "1.0.0", {"manifest.json": b"{}"})
    device = Device(tmp_path, fleet)
    order = fleet.order("d1", ORDER)
    if role == "targets":
        with pytest.raises(VerificationError, match=r"does not trust .targets"):
            device.see(order)
        targets: Metadata = Metadata.from_bytes(image.files["1.targets.json"])
        targets.sign(keys[1], append=True)
        image.files["1.targets.json"] = targets.to_bytes()
    else:
        device.see(order)
        image.root.signed.version = 2
        image.publish_root(keys[0])
        with pytest.raises(VerificationError, match=r"does not trust .root"):
            device.see(order)
        image.publish_root(keys[0], keys[2])
    assert device.see(order).order_version == 1


def test_keys_may_be_rotated_many_times_while_a_device_is_away(
    device: Device, fleet: SignedFleet
) -> None:
    device.see(fleet.order("d1", ORDER))
    for _ in range(20):
        fleet.image.rotate("root", "timestamp")
    release(fleet, version=2)
    stolen = fleet.image.rotate("targets", "root")
    assert device.see(fleet.order("d1", ORDER), image=release(fleet, version=3)).order_version == 2
    with pytest.raises(VerificationError, match=r"does not trust .targets"):
        device.see(
            fleet.order("d1", ORDER),
            image=release(fleet, version=4, signers={"targets": stolen["targets"]}),
        )


def test_a_chain_of_roots_with_a_gap_or_a_fork_is_refused(
    device: Device, fleet: SignedFleet
) -> None:
    order = fleet.order("d1", ORDER)
    fleet.image.rotate("root")
    fleet.image.rotate("root")
    files = dict(release(fleet, version=2))
    forged = SignedRepository()
    forged.root.signed.version = 2
    forged.publish_root()
    with pytest.raises(VerificationError):
        device.see(order, image={**files, "2.root.json": forged.files["2.root.json"]})
    assert device.see(order, image=files).order_version == 1


def test_a_new_root_is_kept_even_when_the_order_with_it_is_refused(
    device: Device, fleet: SignedFleet
) -> None:
    old = fleet.order("d1", ORDER)
    stolen = fleet.director.rotate("timestamp")
    with pytest.raises(VerificationError):
        device.see(fleet.order("d1", ORDER, signers=stolen))
    # The attacker hides the new root again: too late.
    with pytest.raises(VerificationError, match=r"does not trust .timestamp"):
        device.see(old)


def test_a_clock_in_1970_does_not_bring_back_what_has_expired(
    device: Device, fleet: SignedFleet
) -> None:
    old = fleet.order("d1", ORDER, expires=NOW - 10 * DAY)
    device.clock = datetime(1970, 1, 1, tzinfo=UTC)
    # A device that has never seen anything signed cannot know better.
    device.see(old)
    device.see(fleet.order("d1", ORDER, expires=NOW + 10 * DAY, signed_at=NOW))
    assert device.floor == NOW.timestamp()
    expired = fleet.order("d1", ORDER, expires=NOW - DAY)
    with pytest.raises(VerificationError, match="expired"):
        device.see(expired)


def test_a_clock_in_2040_refuses_and_recovers(device: Device, fleet: SignedFleet) -> None:
    order = fleet.order("d1", ORDER, expires=NOW + 10 * DAY, signed_at=NOW)
    device.clock = datetime(2040, 1, 1, tzinfo=UTC)
    with pytest.raises(VerificationError, match=r"here it is 2040-01-01, if this device's clock"):
        device.see(order)
    device.clock = NOW
    assert device.see(order).order_version == 1
    assert device.floor == NOW.timestamp()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(-60 * 365, 60 * 365), max_size=5))
def test_a_jumping_clock_never_moves_the_floor(
    tmp_path_factory: pytest.TempPathFactory, jumps: list[int]
) -> None:
    fleet = SignedFleet()
    fleet.release("m", "1.0.0", {"manifest.json": b"{}"})
    device = Device(tmp_path_factory.mktemp("jumping"), fleet)
    order = fleet.order("d1", ORDER, signed_at=NOW)
    for days in jumps:
        device.clock = max(NOW + days * DAY, datetime(1970, 1, 1, tzinfo=UTC))
        if device.clock < NOW + 7 * DAY:
            device.see(order)
        else:
            with pytest.raises(VerificationError, match="expired"):
                device.see(order)
    device.clock = NOW
    assert device.see(order).order_version == 1
    assert device.floor == NOW.timestamp()


def test_a_stolen_online_key_cannot_move_the_floor_past_what_offline_keys_signed(
    device: Device, fleet: SignedFleet
) -> None:
    far = NOW + 3650 * DAY
    order = fleet.order("d1", ORDER, expires=far + DAY, signed_at=far)
    assert device.see(order).signed_time == 0.0
    assert device.floor == 0.0


@pytest.mark.parametrize("value", [None, 7, "", "2026", "2026-13-01T00:00:00Z", "now", [1]])
def test_what_is_no_time_is_none(value: object) -> None:
    assert parse_time(value) is None


def test_endless_metadata_is_cut_off() -> None:
    bomb = zlib.compress(b'{"1.root.json": "' + b" " * (64 << 20) + b'"}')
    with pytest.raises(VerificationError, match="cut off, or larger"):
        unpack_metadata(bomb, where="test")


def test_a_hostile_broker_may_publish_anything_anywhere(agent: RunningAgent) -> None:
    agent.install("1.0.0", 2.0)
    assert agent.supervisor
    post = agent.supervisor._post_arrival
    rng = random.Random(7)  # noqa: S311 - it only makes noise
    evil = SignedFleet()
    evil.release("double", "6.6.6", affine_bundle("double", "6.6.6", 6.0))
    sets = [evil.image_message(), agent.fleet.image_message(), b"", b"\x00" * 9]
    orders = [evil.order("device-1", quick_order("double", "6.6.6")), b"x", zlib.compress(b"{}")]
    known = list(agent.fleet.chunks.items())
    for _ in range(30):
        name, data = rng.choice(known)
        noise = rng.randbytes(rng.randrange(200))
        post(rng.choice([
            MetadataCame(data=rng.choice([*sets, noise])),
            OrderCame(data=rng.choice([*orders, noise])),
            ChunkCame(sha256=name, data=data[:-1]),
            ChunkCame(sha256="0" * 64, data=bytes(MAX_CHUNK_WIRE_BYTES)),
            ChunkCame(sha256=rng.choice(["..", "", "x" * 300]), data=noise),
        ]))  # fmt: skip
    assert agent.answer() == [2.0, 4.0, 6.0, 8.0]
    agent.broker.publish_metadata(agent.fleet.image_message())
    agent.install("2.0.0", 3.0)
    assert agent.answer() == [3.0, 6.0, 9.0, 12.0]
    assert "security.refused" in agent.kinds()
    chunks = agent.config.data / "chunks"
    assert {path.name for path in chunks.iterdir()} <= set(agent.fleet.chunks)
