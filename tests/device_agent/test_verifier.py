from __future__ import annotations

import zlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner

from edgekit_agent.verification import VerifierProcess
from edgekit_agent.verifier import VerifiedOrder, Verifier
from edgekit_runtime.errors import VerificationError
from edgekit_runtime.orders import ORDER_FIELD, Budget, BundleOrder, Gates
from edgekit_runtime.protocol import unpack_metadata
from tests.simulators.signed_fleet import SignedFleet, quick_order

NOW = datetime.now(UTC).timestamp()
ORDER = quick_order("m", "1.0.0")


@pytest.fixture
def fleet() -> SignedFleet:
    fleet = SignedFleet()
    fleet.release("m", "1.0.0", {"manifest.json": b"{}"})
    return fleet


@pytest.fixture
def verifier(tmp_path: Path, fleet: SignedFleet) -> Verifier:
    return make_verifier(tmp_path, fleet)


def make_verifier(folder: Path, fleet: SignedFleet, device: str = "d1") -> Verifier:
    return Verifier(
        folder / "trusted",
        device=device,
        image_root=fleet.image.first_root,
        director_root=fleet.director.first_root,
    )


def verify(verifier: Verifier, fleet: SignedFleet, order: bytes, now: float = NOW) -> VerifiedOrder:
    return verifier.verify(
        image=dict(fleet.image.files), director=unpack_metadata(order, where="t"), now=now
    )


def test_an_order_gives_targets_with_their_conditions(
    verifier: Verifier, fleet: SignedFleet
) -> None:
    order = BundleOrder(
        bundle="m",
        version="1.0.0",
        budget=Budget(latency_ms=5.0, trial_seconds=7.0),
        gates=Gates(min_requests=9, max_p90_ms=3.0),
    )
    verified = verify(verifier, fleet, fleet.order("d1", order, version=4))
    assert verified.order_version == 4
    (target,) = verified.targets
    released = fleet.released["m/1.0.0/index.json"]
    assert target.order == order
    assert (target.digest, target.length) == (released.hashes["sha256"], released.length)
    assert [name in fleet.chunks for name, _ in target.pieces] == [True]


def test_the_same_order_again_is_accepted_and_an_older_one_not(
    verifier: Verifier, fleet: SignedFleet
) -> None:
    old = fleet.order("d1", ORDER)
    new = fleet.order("d1", ORDER)
    verify(verifier, fleet, new)
    assert verify(verifier, fleet, new).order_version == 2
    with pytest.raises(VerificationError, match=r"older order \(version 1\).*\(2\): a replay"):
        verify(verifier, fleet, old)


def test_what_was_trusted_survives_a_restart(
    tmp_path: Path, verifier: Verifier, fleet: SignedFleet
) -> None:
    old = fleet.order("d1", ORDER)
    verify(verifier, fleet, fleet.order("d1", ORDER))
    with pytest.raises(VerificationError, match="a replay"):
        verify(make_verifier(tmp_path, fleet), fleet, old)


def test_an_older_image_set_is_a_replay_too(verifier: Verifier, fleet: SignedFleet) -> None:
    old = dict(fleet.image.files)
    fleet.release("m", "2.0.0", {"manifest.json": b"{ }"})
    order = unpack_metadata(fleet.order("d1", ORDER), where="t")
    verifier.verify(image=dict(fleet.image.files), director=order, now=NOW)
    with pytest.raises(VerificationError, match="a replay") as caught:
        verifier.verify(image=old, director=order, now=NOW)
    assert caught.value.where == "image metadata"


@pytest.mark.parametrize("role", ["targets", "snapshot", "timestamp"])
def test_a_role_signed_by_another_key_is_refused(
    verifier: Verifier, fleet: SignedFleet, role: str
) -> None:
    forged = fleet.order("d1", ORDER, signers={role: CryptoSigner.generate_ed25519()})
    with pytest.raises(VerificationError, match=f"a key that the root does not trust .{role}"):
        verify(verifier, fleet, forged)
    assert verify(verifier, fleet, fleet.order("d1", ORDER)).order_version == 2


def test_an_order_for_another_device_is_refused_and_leaves_no_trace(
    verifier: Verifier, fleet: SignedFleet
) -> None:
    with pytest.raises(VerificationError, match="is for 'd2', and this device is 'd1'"):
        verify(verifier, fleet, fleet.order("d2", ORDER, version=99))
    assert verify(verifier, fleet, fleet.order("d1", ORDER, version=1)).order_version == 1


@pytest.mark.parametrize("fields", [{}, {ORDER_FIELD: "d1"}, {ORDER_FIELD: {"device": 1}}])
def test_an_order_that_names_no_device_is_refused(
    verifier: Verifier, fleet: SignedFleet, fields: dict[str, object]
) -> None:
    with pytest.raises(VerificationError, match="does not say for which device"):
        verify(verifier, fleet, fleet.order("d1", ORDER, fields=fields))


def test_the_director_alone_cannot_install_anything(verifier: Verifier, fleet: SignedFleet) -> None:
    director_only = SignedFleet(director=fleet.director)
    director_only.release("m", "6.6.6", {"manifest.json": b"evil"})
    with pytest.raises(VerificationError, match="has not released"):
        verify(verifier, fleet, director_only.order("d1", quick_order("m", "6.6.6")))


def test_director_and_image_repository_must_agree_on_the_content(
    verifier: Verifier, fleet: SignedFleet
) -> None:
    other = SignedFleet(director=fleet.director)
    other.release("m", "1.0.0", {"manifest.json": b"other content"})
    with pytest.raises(VerificationError, match="disagree about the content"):
        verify(verifier, fleet, other.order("d1", ORDER))


def test_expiry_is_judged_by_the_given_time(verifier: Verifier, fleet: SignedFleet) -> None:
    expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    order = fleet.order("d1", ORDER, expires=expires)
    later = NOW + 2 * 86_400
    with pytest.raises(VerificationError, match=f"the order expired on {expires:%Y-%m-%d}"):
        verify(verifier, fleet, order, now=later)
    assert verify(verifier, fleet, order).order_version == 1


def test_mixed_sets_are_refused(verifier: Verifier, fleet: SignedFleet) -> None:
    first = unpack_metadata(fleet.order("d1", ORDER), where="t")
    second = unpack_metadata(fleet.order("d1", ORDER), where="t")
    mixed = {**second, "2.targets.json": first["1.targets.json"]}
    with pytest.raises(VerificationError):
        verifier.verify(image=dict(fleet.image.files), director=mixed, now=NOW)


@pytest.mark.parametrize("missing", ["1.targets.json", "1.snapshot.json", "timestamp.json"])
def test_a_missing_file_is_named(verifier: Verifier, fleet: SignedFleet, missing: str) -> None:
    order = unpack_metadata(fleet.order("d1", ORDER), where="t")
    del order[missing]
    with pytest.raises(VerificationError, match=f"no {missing}"):
        verifier.verify(image=dict(fleet.image.files), director=order, now=NOW)


def test_the_root_may_be_rotated_and_revoked_keys_are_out(
    verifier: Verifier, fleet: SignedFleet
) -> None:
    verify(verifier, fleet, fleet.order("d1", ORDER))
    director = fleet.director
    stolen = director.signers["targets"]
    root = director.root.signed
    root.revoke_key(stolen.public_key.keyid, "targets")
    director.signers["targets"] = CryptoSigner.generate_ed25519()
    root.add_key(director.signers["targets"].public_key, "targets")
    root.version = 2
    director.publish_root()
    assert verify(verifier, fleet, fleet.order("d1", ORDER)).order_version == 2
    with pytest.raises(VerificationError, match="does not trust"):
        verify(verifier, fleet, fleet.order("d1", ORDER, signers={"targets": stolen}))


def test_garbage_is_refused(verifier: Verifier, fleet: SignedFleet) -> None:
    order = unpack_metadata(fleet.order("d1", ORDER), where="t")
    for name in ("timestamp.json", "1.snapshot.json", "1.targets.json"):
        for garbage in (b"", b"{}", b"[]", b'{"signed": 1, "signatures": []}', b"\xff"):
            with pytest.raises(VerificationError):
                verifier.verify(
                    image=dict(fleet.image.files),
                    director={**order, name: garbage},
                    now=NOW,
                )
    assert verifier.verify(image=dict(fleet.image.files), director=order, now=NOW)


def test_what_a_killed_verification_left_is_cleared_away(
    tmp_path: Path, fleet: SignedFleet
) -> None:
    stray = tmp_path / "trusted" / ".verify-abc" / "image"
    stray.mkdir(parents=True)
    make_verifier(tmp_path, fleet)
    assert list((tmp_path / "trusted").iterdir()) == []


def process_for(folder: Path, fleet: SignedFleet) -> VerifierProcess:
    (folder / "i.json").write_bytes(fleet.image.first_root)
    (folder / "d.json").write_bytes(fleet.director.first_root)
    return VerifierProcess(
        folder / "trusted",
        device="d1",
        image_root=folder / "i.json",
        director_root=folder / "d.json",
    )


def test_a_process_of_its_own_gives_the_same_order_and_the_same_errors(
    tmp_path: Path, fleet: SignedFleet
) -> None:
    process, image = process_for(tmp_path, fleet), fleet.image_message()
    order = BundleOrder(bundle="m", version="1.0.0", gates=Gates(min_requests=9))
    message = fleet.order("d1", order)
    there = process.verify(image=image, director=message, now=NOW)
    assert there == verify(make_verifier(tmp_path, fleet), fleet, message)
    with pytest.raises(VerificationError, match="is for 'd2'") as caught:
        process.verify(image=image, director=fleet.order("d2", order), now=NOW)
    assert caught.value.where == "director metadata"
    assert caught.value.fix


@pytest.mark.parametrize("message", [b"", b"junk", zlib.compress(b"[]")])
def test_what_is_no_metadata_set_is_refused(
    tmp_path: Path, fleet: SignedFleet, message: bytes
) -> None:
    process = process_for(tmp_path, fleet)
    with pytest.raises(VerificationError, match="metadata set"):
        process.verify(image=fleet.image_message(), director=message, now=NOW)
