from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from edgekit.fleet import key_applying
from edgekit.fleet.folder import Fleet
from edgekit.fleet.keyring import KEYS_FILE, Repository, read_keyring
from edgekit.fleet.keys import director_root, image_root, init_keys
from edgekit.fleet.ordering import order_device, refresh
from edgekit.fleet.release import release_bundle
from edgekit.fleet.repositories import open_images, ordered_devices
from edgekit_runtime.errors import EnvironmentLackError, UsageError, VerificationError

OFFLINE = {"image-root", "image-targets", "director-root"}


def test_offline_and_online_keys_are_apart(fleet: Fleet) -> None:
    ring = read_keyring(fleet)
    assert {key.name for key in ring.keys if key.offline} == OFFLINE
    assert len({key.keyid for key in ring.keys}) == len(ring.keys) == 5
    for key in ring.keys:
        for role in key.roles:
            signer = ring.signer(key.repository, role)
            assert signer.public_key.keyid == key.keyid
            assert signer.public_key.keytype == "ed25519"


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
def test_only_the_owner_may_read_the_keys(fleet: Fleet) -> None:
    assert stat.S_IMODE(fleet.keys.stat().st_mode) == 0o700
    files = list(fleet.keys.iterdir())
    assert len(files) == 6
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_keys_are_never_overwritten(fleet: Fleet) -> None:
    before = {path.name: path.read_bytes() for path in fleet.keys.iterdir()}
    with pytest.raises(UsageError, match="never overwritten"):
        init_keys(fleet)
    assert {path.name: path.read_bytes() for path in fleet.keys.iterdir()} == before


def test_the_roots_of_a_new_fleet_verify(fleet: Fleet, updater) -> None:
    client = updater(open_images(fleet).published(), image_root(fleet))
    client.refresh()
    assert client.get_targetinfo("digits/1.0.0/index.json") is None
    assert director_root(fleet).read_bytes() != image_root(fleet).read_bytes()


def test_making_keys_again_after_a_crash_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_bundle
) -> None:
    fleet = Fleet.create(tmp_path / "f", "plant-7")

    def power_cut(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(key_applying, "_publish_first", power_cut)
        with pytest.raises(KeyboardInterrupt):
            init_keys(fleet)
    assert not fleet.keys.exists()
    with pytest.raises(UsageError, match="no keys"):
        open_images(fleet)
    init_keys(fleet)
    assert release_bundle(fleet, make_bundle()).version == "1.0.0"


def test_a_passphrase_protects_exactly_the_offline_keys(tmp_path: Path, make_bundle) -> None:
    fleet = Fleet.create(tmp_path / "f", "plant-7")
    ring = init_keys(fleet, passphrase="correct horse")
    for key in ring.keys:
        assert (b"ENCRYPTED" in ring.file_of(key).read_bytes()) is key.encrypted is key.offline
    bundle = make_bundle()
    with pytest.raises(UsageError, match="no passphrase was given"):
        release_bundle(fleet, bundle)
    with pytest.raises(UsageError, match="passphrase does not open"):
        release_bundle(fleet, bundle, passphrase="battery staple")
    assert not list(fleet.chunks.iterdir()), "a refused release leaves nothing behind"
    release_bundle(fleet, bundle, passphrase="correct horse")
    order_device(fleet, "dev-1", [])
    refresh(fleet)


def test_an_empty_passphrase_is_refused(tmp_path: Path) -> None:
    fleet = Fleet.create(tmp_path / "f", "plant-7")
    with pytest.raises(UsageError, match="empty"):
        init_keys(fleet, passphrase=" ")
    assert not fleet.keys.exists()


def test_online_work_goes_on_while_the_offline_keys_are_away(fleet: Fleet, make_bundle) -> None:
    release_bundle(fleet, make_bundle("1.0.0"))
    for name in OFFLINE:
        (fleet.keys / f"{name}.pem").unlink()
    assert order_device(fleet, "dev-1", []) == 1
    refresh(fleet)
    with pytest.raises(EnvironmentLackError, match="image-targets") as caught:
        release_bundle(fleet, make_bundle("1.1.0"))
    assert "medium" in str(caught.value.fix)


def test_a_damaged_key_is_named(fleet: Fleet) -> None:
    path = fleet.keys / "director-online.pem"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(VerificationError, match="director-online is damaged"):
        order_device(fleet, "dev-1", [])


def test_another_key_in_the_place_of_one_is_refused(fleet: Fleet) -> None:
    (fleet.keys / "director-online.pem").write_bytes((fleet.keys / "image-online.pem").read_bytes())
    with pytest.raises(VerificationError, match="does not hold the key director-online"):
        order_device(fleet, "dev-1", [])


def test_a_key_that_the_root_does_not_trust_signs_nothing(fleet: Fleet) -> None:
    """Somebody puts a key of their own in place, and the list of keys agrees with it."""
    other = next(key for key in read_keyring(fleet).keys if key.name == "image-online")
    (fleet.keys / "director-online.pem").write_bytes((fleet.keys / "image-online.pem").read_bytes())
    document = json.loads((fleet.keys / KEYS_FILE).read_bytes())
    for key in document["keys"]:
        if key["name"] == "director-online":
            key["keyid"] = other.keyid
            del key["public"]
    (fleet.keys / KEYS_FILE).write_text(json.dumps(document))
    with pytest.raises(VerificationError, match="not signed by a key that the root trusts"):
        order_device(fleet, "dev-1", [])
    assert ordered_devices(fleet) == ()


@pytest.mark.parametrize(
    "text", ["", "[]", '{"format": "edgekit-keys", "format_version": 1, "keys": []}']
)
def test_a_damaged_list_of_keys_is_refused(fleet: Fleet, text: str) -> None:
    (fleet.keys / KEYS_FILE).write_text(text)
    with pytest.raises(VerificationError, match="list of keys is damaged"):
        read_keyring(fleet)


def test_every_role_has_a_key(fleet: Fleet) -> None:
    ring = read_keyring(fleet)
    for repository in Repository:
        for role in ("root", "targets", "snapshot", "timestamp"):
            assert ring.signer(repository, role)
