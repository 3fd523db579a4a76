"""Keys are exchanged and revoked, and devices follow: those that hear all, and those that slept."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata

from edgekit.fleet import key_applying
from edgekit.fleet.folder import Fleet
from edgekit.fleet.key_applying import pending_change, resume_change
from edgekit.fleet.key_change import KeyChange, lacking, read_change
from edgekit.fleet.key_exchange import (
    add_key,
    remove_key,
    renew_roots,
    revoke_key,
    rotate_key,
    set_thresholds,
)
from edgekit.fleet.key_files import OwnKey, make_own_key, read_own_key
from edgekit.fleet.key_planning import current_root
from edgekit.fleet.key_signing import Signing, apply_files, sign_file
from edgekit.fleet.keyring import KEYS_FILE, Repository, read_keyring
from edgekit.fleet.keys import begin_keys, director_root, image_root, init_keys
from edgekit.fleet.order_store import OrderStore
from edgekit.fleet.ordering import device_order, order_bundle, order_device, refresh
from edgekit.fleet.publisher import packed_order, packed_orders
from edgekit.fleet.release import release_bundle
from edgekit.fleet.repositories import open_director, open_images
from edgekit.fleet.rollouts.order_book import OrderBook
from edgekit_agent.verifier import VerifiedOrder, Verifier
from edgekit_runtime import durable
from edgekit_runtime.errors import EnvironmentLackError, UsageError, VerificationError
from edgekit_runtime.orders import BundleOrder

DEVICE = "dev-1"
NAMES = ("image-root", "image-targets", "image-online", "director-root", "director-online")
ROOT = ((Repository.IMAGE, "root"), (Repository.DIRECTOR, "root"))
Open = Callable[[str], "Device"]


class Device:
    """The agent's verifier, with what it trusts on disk."""

    def __init__(self, folder: Path, fleet: Fleet) -> None:
        self._fleet = fleet
        self._verifier = Verifier(
            folder,
            device=DEVICE,
            image_root=image_root(fleet).read_bytes(),
            director_root=director_root(fleet).read_bytes(),
        )

    def verify(
        self, *, director: dict[str, bytes] | None = None, now: datetime | None = None
    ) -> VerifiedOrder:
        return self._verifier.verify(
            image=open_images(self._fleet).published(),
            director=director or open_director(self._fleet).published(DEVICE),
            now=now.timestamp() if now else time.time(),
        )


@pytest.fixture
def busy(fleet: Fleet, make_bundle) -> Fleet:
    """A fleet with a release, and a device that is told to run it."""
    release_bundle(fleet, make_bundle())
    order_bundle(fleet, DEVICE, BundleOrder(bundle="digits", version="1.0.0"))
    return fleet


@pytest.fixture
def device(tmp_path: Path, busy: Fleet) -> Open:
    return lambda name: Device(tmp_path / name, busy)


def person(folder: Path, name: str) -> OwnKey:
    return read_own_key(make_own_key(name, folder / name, passphrase=f"of {name}"))


def sign_as(file: Path, folder: Path, *names: str) -> None:
    for name in names:
        sign_file(file, str(folder / name / f"{name}.pem"), passphrase=f"of {name}")


def keyids(fleet: Fleet, name: str) -> set[str]:
    return {key.keyid for key in read_keyring(fleet).keys if key.name == name}


def everything(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("name", NAMES)
def test_a_key_is_exchanged_and_devices_follow(busy: Fleet, device: Open, name: str) -> None:
    online, asleep = device("online"), device("asleep")
    before = online.verify()
    old = keyids(busy, name)
    done = rotate_key(busy, name, Signing())
    assert done.file is None
    assert not keyids(busy, name)
    assert keyids(busy, f"{name}-2").isdisjoint(old)
    assert not (busy.keys / f"{name}.pem").exists()
    for repository in Repository:
        root = current_root(busy, repository).signed
        assert not old & set(root.keys)
    # Neither a device that slept nor a new one takes it for a new order.
    for one in (online, asleep, device("new")):
        assert one.verify().order_version == before.order_version
    assert device_order(busy, DEVICE).version == before.order_version


def test_a_device_that_slept_walks_the_whole_chain(busy: Fleet, device: Open, make_bundle) -> None:
    asleep = device("asleep")
    asleep.verify()
    for _ in range(2):
        for name in NAMES:
            current = max(k.name for k in read_keyring(busy).keys if k.name.startswith(name))
            rotate_key(busy, current, Signing())
    assert {key.name for key in read_keyring(busy).keys} == {f"{name}-3" for name in NAMES}
    assert current_root(busy, Repository.IMAGE).signed.version > 5
    release_bundle(busy, make_bundle("1.1.0", model=b"other " * 9_000))
    order_bundle(busy, DEVICE, BundleOrder(bundle="digits", version="1.1.0"))
    refresh(busy)
    assert [t.order.version for t in asleep.verify().targets] == ["1.1.0"]


def test_what_a_stolen_key_signs_counts_no_more(busy: Fleet, device: Open, tmp_path: Path) -> None:
    online = device("online")
    online.verify()
    stolen = read_keyring(busy).signers(Repository.DIRECTOR, "targets")
    done = revoke_key(busy, "director-online", Signing(), reason="stolen")
    assert done.file is None
    # The thief orders something, with the roots of today and versions far ahead.
    published = open_director(busy).published(DEVICE)
    forged = dict(published)
    for role in ("targets", "snapshot", "timestamp"):
        (name,) = (name for name in published if name.endswith(f"{role}.json"))
        md = Metadata.from_bytes(published[name])
        name = "timestamp.json" if role == "timestamp" else f"{md.signed.version + 5}.{role}.json"
        md.signed.version += 5
        if role == "snapshot":
            md.signed.meta["targets.json"].version += 5
        if role == "timestamp":
            md.signed.snapshot_meta.version += 5
        md.signatures.clear()
        for signer in stolen:
            md.sign(signer, append=True)
        forged[name] = md.to_bytes()
    with pytest.raises(VerificationError):
        online.verify(director=forged)
    with pytest.raises(VerificationError):
        device("new").verify(director=forged)
    assert online.verify().order_version == 1


@pytest.mark.parametrize("reason", ["", "  ", "x" * 1025])
def test_a_reason_that_cannot_be_kept_changes_nothing(busy: Fleet, reason: str) -> None:
    before = everything(busy.path)
    with pytest.raises(UsageError, match="reason"):
        revoke_key(busy, "image-online", Signing(), reason=reason)
    assert everything(busy.path) == before
    revoke_key(busy, "image-online", Signing(), reason="x" * 1024)
    assert pending_change(busy) is None
    assert [key.name for key in read_keyring(busy).revoked] == ["image-online"]


def test_more_keys_than_a_list_may_hold_change_nothing(
    busy: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekit.fleet.keyring._MOST_KEYS", len(read_keyring(busy).keys))
    eva = person(tmp_path, "eva")
    before = everything(busy.path)
    with pytest.raises(UsageError, match="keys"):
        add_key(busy, eva, [(Repository.IMAGE, "targets")], Signing())
    assert everything(busy.path) == before


def test_a_revoked_key_never_comes_back(busy: Fleet, tmp_path: Path) -> None:
    eva, ben = person(tmp_path, "eva"), person(tmp_path, "ben")
    for key in (eva, ben):
        add_key(busy, key, [(Repository.IMAGE, "targets")], Signing())
    done = revoke_key(busy, "eva", Signing(), reason="her bag was stolen")
    assert done.file is None
    (revoked,) = read_keyring(busy).revoked
    assert (revoked.name, revoked.keyid) == ("eva", eva.public.keyid)
    with pytest.raises(UsageError, match=r"eva was revoked at .* must never sign again"):
        add_key(busy, eva, [(Repository.IMAGE, "targets")], Signing())
    with pytest.raises(UsageError, match=r"was revoked at .* her bag was stolen"):
        rotate_key(busy, "eva", Signing())
    with pytest.raises(UsageError, match="eva was revoked"):
        rotate_key(busy, "ben", Signing(), replacement=eva)
    file = tmp_path / "change.json"
    set_thresholds(busy, {(Repository.IMAGE, "targets"): 2}, Signing(out=file))
    with pytest.raises(UsageError, match="this key was revoked at"):
        sign_as(file, tmp_path, "eva")


def test_releases_may_take_two_of_three(busy: Fleet, device: Open, tmp_path: Path, make_bundle):
    targets = (Repository.IMAGE, "targets")
    for name in ("anna", "ben"):
        key = read_own_key(make_own_key(name, busy.keys, passphrase="pw"))
        add_key(busy, key, [targets], Signing())
    set_thresholds(busy, {targets: 2}, Signing(passphrase="pw"))
    bundle = make_bundle("1.1.0")
    before = everything(busy.path)
    with pytest.raises(UsageError, match=r"takes signatures by 2 of 3 keys, and 1 can sign here"):
        release_bundle(busy, bundle)
    assert everything(busy.path) == before
    release_bundle(busy, bundle, passphrase="pw")
    order_bundle(busy, DEVICE, BundleOrder(bundle="digits", version="1.1.0"))
    assert device("new").verify().targets[0].order.version == "1.1.0"
    # A key that has signed is lost: the list is signed again by two that stay.
    revoke_key(busy, "image-targets", Signing(passphrase="pw"), reason="lost")
    assert device("newer").verify().targets[0].order.version == "1.1.0"
    with pytest.raises(UsageError, match="ben is still in use: the image targets takes 2 keys"):
        remove_key(busy, "ben", Signing(passphrase="pw"))


@pytest.fixture
def ceremony(tmp_path: Path) -> tuple[Fleet, Path]:
    """A fleet whose roots take two of three people; none of their keys is on its machine."""
    fleet = Fleet.create(tmp_path / "fleet-3", "plant-7")
    people = [person(tmp_path, name) for name in ("anna", "ben", "eva")]
    file = tmp_path / "first.json"
    done = begin_keys(fleet, Signing(out=file), roots=people, root_threshold=2)
    assert done.file == file
    sign_as(file, tmp_path, "anna")
    with pytest.raises(UsageError, match=r"threshold is not reached: .* may still sign: "):
        apply_files(fleet, [file], Signing())
    assert not fleet.keys.exists()
    sign_as(file, tmp_path, "eva")
    apply_files(fleet, [file], Signing())
    return fleet, tmp_path


def test_a_ceremony_begins_and_changes_a_fleet(ceremony, make_bundle) -> None:
    fleet, folder = ceremony
    release_bundle(fleet, make_bundle())
    order_bundle(fleet, DEVICE, BundleOrder(bundle="digits", version="1.0.0"))
    asleep = Device(folder / "asleep", fleet)
    assert asleep.verify().order_version == 1
    # Ben's key is lost: Dora's comes, and Anna and Eva sign it, each a copy of the file.
    before = everything(fleet.path)
    dora = person(folder, "dora")
    with pytest.raises(UsageError, match="threshold is not reached"):
        revoke_key(fleet, "ben", Signing(), reason="lost", replacement=dora)
    assert everything(fleet.path) == before
    file, copy = folder / "lost.json", folder / "copy.json"
    done = revoke_key(fleet, "ben", Signing(out=file), reason="lost", replacement=dora)
    assert len(done.lacking) == 4, "of two roots, by the keys until now and by the new ones"
    assert everything(fleet.path) == before
    copy.write_bytes(file.read_bytes())
    sign_as(file, folder, "anna")
    sign_as(copy, folder, "eva")
    with pytest.raises(UsageError, match="1 of 2 signatures"):
        apply_files(fleet, [copy], Signing())
    assert everything(fleet.path) == before
    apply_files(fleet, [file, copy], Signing())
    assert keyids(fleet, "ben") == set()
    assert Device(folder / "new", fleet).verify().order_version == 1
    assert asleep.verify().order_version == 1
    # Dora and Anna are as good as anybody.
    again = folder / "again.json"
    rotate_key(fleet, "director-online", Signing(out=again))
    sign_as(again, folder, "dora", "anna")
    apply_files(fleet, [again], Signing())
    assert asleep.verify().order_version == 1


def test_too_few_people_change_nothing(ceremony) -> None:
    fleet, folder = ceremony
    file = folder / "change.json"
    rotate_key(fleet, "image-online", Signing(out=file))
    sign_as(file, folder, "anna")
    before = everything(fleet.path)
    with pytest.raises(UsageError, match="1 of 2 signatures"):
        apply_files(fleet, [file], Signing())
    # A signature that is none, or of somebody else, counts for nothing.
    document = json.loads(file.read_bytes())
    for part in document["repositories"].values():
        for root in part["roots"]:
            root["signatures"].append(
                {"keyid": read_own_key(folder / "ben/ben.pub.json").public.keyid, "sig": "00" * 64}
            )
    file.write_text(json.dumps(document))
    with pytest.raises(UsageError, match="1 of 2 signatures"):
        apply_files(fleet, [file], Signing())
    person(folder, "mallory")
    with pytest.raises(UsageError, match="no part in this change"):
        sign_as(file, folder, "mallory")
    with pytest.raises(UsageError, match="exists already"):
        rotate_key(fleet, "image-online", Signing(out=file))
    assert everything(fleet.path) == before


@pytest.mark.parametrize("name", ["image-targets", "image-online", "director-online", "all"])
def test_killed_at_any_instant_everything_stays_valid(
    busy: Fleet, device: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Every write of a change is the last one before the power goes, once."""
    asleep = device("asleep")
    asleep.verify()
    order_device(busy, "dev-2", [])

    def change() -> None:
        if name == "all":
            renew_roots(busy, Signing())
        else:
            current = max(k.name for k in read_keyring(busy).keys if k.name.startswith(name))
            rotate_key(busy, current, Signing())

    kills = 0
    for step in range(1, 100):
        with monkeypatch.context() as patch:
            if not killed_at(step, patch, change):
                break
        kills += 1
        for one in (asleep, device(f"new-{step}")):
            assert one.verify().order_version == 1
        refresh(busy)
        if pending_change(busy):
            if name != "director-online":
                with pytest.raises(UsageError, match="not finished"):
                    read_keyring(busy).signers(Repository.IMAGE, "targets")
            noted: list[KeyChange] = []
            assert resume_change(busy, record=noted.append) is not None
            assert len(noted) == 1
        assert pending_change(busy) is None
        assert asleep.verify().order_version == 1
        assert resume_change(busy, record=lambda _: None) is None
    assert kills >= 6
    # Nothing that nobody trusts lies about, but for keys of attempts that were killed.
    assert {key.name for key in read_keyring(busy).keys} <= {
        path.stem for path in busy.keys.glob("*.pem")
    }


def killed_at(step: int, patch: pytest.MonkeyPatch, change: Callable[[], None]) -> bool:
    """Do a change, and be killed before the write of this number; False if there were fewer."""
    left = [step]

    def counted(function: Callable[..., object]) -> Callable[..., object]:
        def count(*args: object, **more: object) -> object:
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt
            return function(*args, **more)

        return count

    patch.setattr(durable, "replacing", counted(durable.replacing))
    patch.setattr(OrderStore, "put", counted(OrderStore.put))
    patch.setattr("edgekit.fleet.director._AT_ONCE", 1)
    patch.setattr(key_applying, "_remove_retired", counted(key_applying._remove_retired))
    try:
        change()
    except KeyboardInterrupt:
        return True
    return False


def test_another_change_waits_for_the_one_that_has_begun(
    busy: Fleet, monkeypatch: pytest.MonkeyPatch, make_bundle
) -> None:
    with monkeypatch.context() as patch:
        assert killed_at(4, patch, lambda: rotate_key(busy, "image-targets", Signing()))
    assert pending_change(busy)
    with pytest.raises(UsageError, match=r"not finished") as caught:
        release_bundle(busy, make_bundle("1.1.0"))
    assert "keys resume" in str(caught.value.fix)
    with pytest.raises(UsageError, match="not finished"):
        rotate_key(busy, "director-online", Signing())
    resume_change(busy, record=lambda _: None)
    release_bundle(busy, make_bundle("1.1.0"))


def test_a_wrong_passphrase_changes_nothing(tmp_path: Path) -> None:
    fleet = Fleet.create(tmp_path / "f", "plant-7")
    init_keys(fleet, passphrase="correct horse")
    before = everything(fleet.path)
    for name in NAMES:
        with pytest.raises(UsageError, match=r"threshold is not reached.*passphrase does not open"):
            rotate_key(fleet, name, Signing(passphrase="battery staple"))
        assert everything(fleet.path) == before
    with pytest.raises(UsageError, match="no passphrase was given"):
        rotate_key(fleet, "image-online", Signing())
    with pytest.raises(UsageError, match="encrypted, and so will be"):
        rotate_key(fleet, "image-root", Signing())
    with pytest.raises(UsageError, match="no key 'moon'"):
        rotate_key(fleet, "moon", Signing())
    assert everything(fleet.path) == before
    rotate_key(fleet, "image-root", Signing(passphrase="correct horse"))
    assert b"ENCRYPTED" in (fleet.keys / "image-root-2.pem").read_bytes()


def test_a_lost_root_key_cannot_be_exchanged_by_nobody(busy: Fleet) -> None:
    (busy.keys / "image-root.pem").unlink()
    before = everything(busy.path)
    with pytest.raises(
        UsageError, match=r"image-root cannot be read.* image root 2: 0 of 1 signatures"
    ):
        rotate_key(busy, "image-root", Signing())
    assert everything(busy.path) == before


def test_a_change_that_does_not_fit_any_more_is_refused(busy: Fleet, tmp_path: Path, make_bundle):
    for name in ("image-root", "director-root"):
        (busy.keys / f"{name}.pem").rename(tmp_path / f"{name}.pem")
    file = tmp_path / "change.json"
    rotate_key(busy, "image-targets", Signing(out=file))
    sign_file(file, str(tmp_path / "image-root.pem"))
    release_bundle(busy, make_bundle("1.1.0"))
    with pytest.raises(UsageError, match="changed since this was made: list of releases"):
        apply_files(busy, [file], Signing())
    other = tmp_path / "other.json"
    rotate_key(busy, "image-targets", Signing(out=other))
    sign_file(other, str(tmp_path / "image-root.pem"))
    late = Signing(clock=lambda: datetime.now(UTC) + timedelta(days=4_000))
    with pytest.raises(UsageError, match="what was signed has expired"):
        apply_files(busy, [other], late)
    apply_files(busy, [other], Signing())
    with pytest.raises(UsageError, match="changed since this was made: image root"):
        apply_files(busy, [other], Signing())
    strange = Fleet.create(tmp_path / "strange", "plant-8")
    init_keys(strange)
    with pytest.raises(UsageError, match="of the fleet 'plant-7', not 'plant-8'"):
        apply_files(strange, [other], Signing())
    with pytest.raises(UsageError, match="not two copies of one change"):
        apply_files(busy, [other, file], Signing())


def test_an_online_key_is_needed_where_a_change_is_applied(ceremony) -> None:
    fleet, folder = ceremony
    file = folder / "change.json"
    rotate_key(fleet, "director-online", Signing(out=file))
    sign_as(file, folder, "anna", "ben")
    (fleet.keys / "director-online-2.pem").rename(folder / "kept.pem")
    before = everything(fleet.path)
    with pytest.raises(UsageError, match="online keys are not here: director-online-2"):
        apply_files(fleet, [file], Signing())
    assert everything(fleet.path) == before
    (folder / "kept.pem").rename(fleet.keys / "director-online-2.pem")
    apply_files(fleet, [file], Signing())


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "edgekit-key-change"}'])
def test_a_damaged_change_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "change.json"
    file.write_text(text)
    with pytest.raises(VerificationError, match="no change of keys, or it is damaged"):
        read_change(file)


def test_a_change_that_somebody_has_edited_is_refused(ceremony) -> None:
    fleet, folder = ceremony
    file = folder / "change.json"
    rotate_key(fleet, "image-online", Signing(out=file))
    sign_as(file, folder, "anna", "ben")
    good = json.loads(file.read_bytes())
    evil = json.loads(file.read_bytes())
    evil["repositories"]["image"]["roots"][0]["signed"]["roles"]["root"]["threshold"] = 1
    file.write_text(json.dumps(evil))
    with pytest.raises(UsageError, match="threshold is not reached"):
        apply_files(fleet, [file], Signing())
    keyring = {**good["keyring"], "thresholds": {}}
    file.write_text(json.dumps({**good, "keyring": keyring}))
    with pytest.raises(VerificationError, match="not what the image root says"):
        apply_files(fleet, [file], Signing())
    for broken in (
        {**good, "repositories": {}},
        {**good, "repositories": {**good["repositories"], "image": {"roots": [1]}}},
        {**good, "repositories": {"image": good["repositories"]["image"]}},
        {**good, "keyring": {}},
        {**good, "fleet": 7},
    ):
        file.write_text(json.dumps(broken))
        with pytest.raises(VerificationError, match="or it is damaged"):
            apply_files(fleet, [file], Signing())
    with pytest.raises(UsageError, match="cannot be read"):
        apply_files(fleet, [folder / "none.json"], Signing())


def test_keys_of_people_are_checked(fleet: Fleet, tmp_path: Path) -> None:
    anna = person(tmp_path, "anna")
    with pytest.raises(UsageError, match="name already"):
        person(tmp_path, "anna")
    with pytest.raises(UsageError, match="no name for a key"):
        make_own_key("An na", tmp_path)
    with pytest.raises(UsageError, match="passphrase is empty"):
        make_own_key("x", tmp_path, passphrase=" ")
    add_key(fleet, anna, ROOT, Signing())
    with pytest.raises(UsageError, match="anna is in this fleet already"):
        add_key(fleet, anna, ROOT, Signing())
    other = replace(person(tmp_path / "2", "ben"), name="anna")
    with pytest.raises(UsageError, match="another key is called anna"):
        add_key(fleet, other, [(Repository.IMAGE, "targets")], Signing())
    with pytest.raises(UsageError, match="made by its owner"):
        rotate_key(fleet, "anna", Signing())
    path = tmp_path / "anna" / "anna.pub.json"
    document = json.loads(path.read_bytes())
    for change, why in (
        ({"public": {**document["public"], "keyid": "0" * 64}}, "id is not its own"),
        ({"public": {}}, "public.keyid"),
        ({"name": "A"}, "does not match"),
        ({"format": "x"}, "is not edgekit-public-key"),
    ):
        path.write_text(json.dumps({**document, **change}))
        with pytest.raises(VerificationError, match=why):
            read_own_key(path)
    path.unlink()
    with pytest.raises(UsageError, match="cannot be read") as caught:
        read_own_key(path)
    assert "keys new" in str(caught.value.fix)


def test_the_ceremony_that_was_prepared_last_counts(tmp_path: Path) -> None:
    fleet = Fleet.create(tmp_path / "f", "plant-7")
    anna, ben = person(tmp_path, "anna"), person(tmp_path, "ben")
    for name in ("first", "second"):
        file = tmp_path / f"{name}.json"
        begin_keys(fleet, Signing(out=file), roots=[anna, ben], root_threshold=2)
        sign_as(file, tmp_path, "anna", "ben")
    with pytest.raises(UsageError, match="online keys are not here: image-online, director-online"):
        apply_files(fleet, [tmp_path / "first.json"], Signing())
    assert not fleet.keys.exists()
    apply_files(fleet, [tmp_path / "second.json"], Signing())
    assert not list(fleet.path.glob(".keys*"))
    with pytest.raises(UsageError, match="never overwritten"):
        apply_files(fleet, [tmp_path / "second.json"], Signing())


def test_two_keys_of_one_name_do_not_begin_a_fleet(tmp_path: Path) -> None:
    fleet = Fleet.create(tmp_path / "f", "plant-7")
    anna = person(tmp_path, "anna")
    with pytest.raises(UsageError, match="two keys have one name: anna"):
        begin_keys(fleet, Signing(), roots=[anna], targets=[anna])
    with pytest.raises(UsageError, match="root takes 2 keys, and 1 would be left"):
        begin_keys(fleet, Signing(), roots=[anna], root_threshold=2)
    assert not fleet.keys.exists()
    assert not list(fleet.path.glob(".keys*"))


def test_roots_are_renewed(busy: Fleet, device: Open) -> None:
    asleep = device("asleep")
    asleep.verify()
    later = datetime.now(UTC) + timedelta(days=300)
    renew_roots(busy, Signing(clock=lambda: later))
    expiries = {item.role: item.expires for item in open_images(busy).expiries()}
    assert expiries["root"] > later + timedelta(days=1_000)
    assert expiries["targets"] > later + timedelta(days=300)
    assert asleep.verify().order_version == 1
    assert current_root(busy, Repository.DIRECTOR).signed.version == 2


def test_expired_roots_are_refused_until_they_are_renewed(busy: Fleet, device: Open) -> None:
    """Nobody came for four years: neither with the offline keys nor with the online ones."""
    asleep = device("asleep")
    asleep.verify()
    later = datetime.now(UTC) + timedelta(days=4 * 365)

    def clock() -> datetime:
        return later

    warned = refresh(busy, clock=clock).needs_offline_keys
    assert set(warned) == {"image root", "image targets", "director root"}
    for one in (asleep, device("new")):
        with pytest.raises(VerificationError, match="expired"):
            one.verify(now=later)
    renew_roots(busy, Signing(clock=clock))
    assert refresh(busy, clock=clock).needs_offline_keys == ()
    for one in (asleep, device("newer")):
        assert [t.order.version for t in one.verify(now=later).targets] == ["1.0.0"]


def test_monitoring_sees_when_signatures_end(busy: Fleet, tmp_path: Path) -> None:
    pytest.importorskip("prometheus_client", reason="writes the figures")
    from prometheus_client.parser import text_string_to_metric_families

    from edgekit.fleet.api.control_plane import ControlPlane
    from edgekit.fleet.api.figures import prometheus_text
    from tests.simulators.databases import sqlite_database

    with sqlite_database(tmp_path / "database") as database:
        text = prometheus_text(ControlPlane(fleet=busy, database=database)).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    days = {
        (sample.labels["repository"], sample.labels["role"]): round(
            (sample.value - time.time()) / 86_400
        )
        for sample in families["edgekit_signature_ends"].samples
    }
    assert days == {
        ("image", "root"): 1095,
        ("image", "targets"): 365,
        ("image", "snapshot"): 30,
        ("image", "timestamp"): 7,
        ("director", "root"): 1095,
    }


def test_nothing_to_change_is_said(busy: Fleet) -> None:
    with pytest.raises(UsageError, match="changes nothing"):
        set_thresholds(busy, {(Repository.IMAGE, "targets"): 1}, Signing())


def test_a_rollout_goes_on_over_a_change_of_keys(busy: Fleet) -> None:
    """Another process exchanges the keys while this one has the director's root in memory."""
    book = OrderBook(busy)
    assert book.entry(DEVICE).version == 1
    rotate_key(busy, "director-online", Signing())
    book.look()
    assert book.entry(DEVICE).version == 1
    order_bundle(busy, DEVICE, BundleOrder(bundle="digits", version="1.0.0"))
    book.look()
    assert book.entry(DEVICE).version == 2


def test_a_list_of_keys_from_before_public_halves_is_read(busy: Fleet, device: Open) -> None:
    path = busy.keys / KEYS_FILE
    document = json.loads(path.read_bytes())
    for key in document["keys"]:
        del key["public"]
    del document["thresholds"], document["revoked"]
    path.write_text(json.dumps(document))
    rotate_key(busy, "director-online", Signing())
    assert all(key.public is not None for key in read_keyring(busy).keys)
    assert device("new").verify().order_version == 1


def test_a_missing_online_key_says_where_it_belongs(busy: Fleet) -> None:
    (busy.keys / "image-online.pem").unlink()
    with pytest.raises(EnvironmentLackError, match="the key image-online cannot be read"):
        refresh(busy)
    # It is lost: another comes, by the root's signature alone.
    revoke_key(busy, "image-online", Signing(), reason="the disk broke")
    refresh(busy)


def test_lacking_counts_what_is_there(ceremony) -> None:
    fleet, folder = ceremony
    file = folder / "change.json"
    rotate_key(fleet, "image-online", Signing(out=file))
    first = lacking(read_change(file))
    # Both roots of the way, by the keys of before and of after, which are the same here.
    assert {(item.document, item.old) for item in first} == {
        ("root 2", True), ("root 2", False), ("root 3", True), ("root 3", False),
    }  # fmt: skip
    sign_as(file, folder, "eva")
    assert {len(item.signed) for item in lacking(read_change(file))} == {1}


def test_a_damaged_order_does_not_keep_a_key_from_being_exchanged(
    busy: Fleet, device: Open, caplog: pytest.LogCaptureFixture
) -> None:
    """Or whoever has stolen the key could keep it in force by damaging an order."""
    order_bundle(busy, "dev-0", BundleOrder(bundle="digits", version="1.0.0"))
    store = OrderStore(busy)
    kept = store.get("dev-0")
    assert kept is not None
    store.put({"dev-0": replace(kept[1], targets=b"{}")})
    old = keyids(busy, "director-online")
    revoke_key(busy, "director-online", Signing(), reason="stolen")
    assert pending_change(busy) is None
    assert keyids(busy, "director-online-2").isdisjoint(old)
    assert device("online").verify().order_version == 1
    assert "orders are damaged and were not signed again: dev-0" in caplog.text


def test_keys_that_are_exchanged_while_orders_are_published_stop_nothing(busy: Fleet) -> None:
    order_bundle(busy, "dev-2", BundleOrder(bundle="digits", version="1.0.0"))
    messages = packed_orders(busy, [DEVICE, "dev-2"])
    next(messages)
    rotate_key(busy, "director-online", Signing())
    assert next(messages)[1] == packed_order(busy, "dev-2")


def test_orders_from_a_backup_are_refused_until_they_have_caught_up(
    busy: Fleet, device: Open
) -> None:
    """As `deploy/README.md` says what to do."""
    wanted = BundleOrder(bundle="digits", version="1.0.0")
    online, backup = device("online"), busy.orders.read_bytes()
    order_bundle(busy, DEVICE, wanted)
    refresh(busy)
    order_bundle(busy, DEVICE, wanted)
    assert online.verify().order_version == 3
    busy.orders.write_bytes(backup)
    with pytest.raises(VerificationError):
        online.verify()
    while order_bundle(busy, DEVICE, wanted) <= 3:
        pass
    refresh(busy)
    assert online.verify().order_version == 4
