"""Devices come in with a token that works once, and go out when somebody says so."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from edgekit.fleet.audit import read_audit, verify_audit
from edgekit.fleet.authority import FleetAuthority
from edgekit.fleet.broker_setup import install_revocations
from edgekit.fleet.devices.certificates import (
    certificates_of,
    revoke_device,
    spread_revocations,
)
from edgekit.fleet.devices.enrolment import (
    Application,
    RefusedTokenError,
    create_enrolment_token,
    list_enrolment_tokens,
    revoke_enrolment_token,
    take_in,
)
from edgekit.fleet.devices.inventory import Inventory
from edgekit.fleet.devices.privacy import erase_device, export_device
from edgekit.fleet.folder import Fleet
from edgekit.fleet.store.database import Database
from edgekit.fleet.store.errors import NotFoundError
from edgekit_agent.identity.keys import make_key, signing_request
from edgekit_runtime.errors import UsageError


@pytest.fixture
def authority(fleet: Fleet) -> FleetAuthority:
    return FleetAuthority.create(fleet)


class Door:
    """Where devices come in; each name is a key of its own."""

    def __init__(self, database: Database, fleet: Fleet, folder: Path, clock: Any) -> None:
        self.database, self.fleet, self.folder, self.clock = database, fleet, folder, clock

    def token(self, **options: Any) -> str:
        return create_enrolment_token(self.database, actor="alice", clock=self.clock, **options)[1]

    def come(self, token: str, device: str = "cam-1", *, key: str = "k1", **changes: str) -> str:
        make_key(self.folder / key)
        fleet = changes.pop("fleet", self.fleet.id)
        request = signing_request(self.folder / key, device=device, fleet=self.fleet.id)
        application = Application(
            device=device, fleet=fleet, token=token, request=changes.pop("request", request)
        )
        return take_in(self.database, self.fleet, application, clock=self.clock)

    def valid(self, device: str = "cam-1") -> list[str]:
        return [c.serial for c in certificates_of(self.database, device) if c.revoked is None]


@pytest.fixture
def door(
    database: Database, fleet: Fleet, authority: FleetAuthority, tmp_path: Path, watch: Any
) -> Door:
    return Door(database, fleet, tmp_path, watch)


def test_a_token_gives_one_device_its_certificate_and_labels(
    door: Door, authority: FleetAuthority
) -> None:
    pem = door.come(door.token(labels={"site": "berlin"}))
    made = x509.load_pem_x509_certificate(pem.encode())
    made.verify_directly_issued_by(authority.certificate)
    inventory = Inventory(door.database, actor="test")
    assert inventory.get("cam-1").labels == {"site": "berlin"}
    assert door.valid() == [f"{made.serial_number:x}"]
    (token,) = list_enrolment_tokens(door.database)
    assert (token.device, token.standing(door.clock().timestamp())) == ("cam-1", "used")
    with door.database.read() as session:
        actions = [entry.action for entry in read_audit(session)]
    assert actions == ["device.enrolled", "enrolment.token_created"]
    verify_audit(door.database)


def test_a_token_is_kept_nowhere_and_is_worth_nothing_with_another_secret(door: Door) -> None:
    text = door.token()
    secret = text.split("_", 2)[2]
    assert secret not in str(list_enrolment_tokens(door.database))
    for wrong in (text[:-1] + ("A" if text[-1] != "A" else "B"), "eke_", "", "ekt" + text[3:]):
        with pytest.raises(RefusedTokenError, match="not known"):
            door.come(wrong)
    door.come(text)


def test_a_used_token_refuses_every_other_key(door: Door) -> None:
    token = door.token()
    first = door.come(token)
    with pytest.raises(RefusedTokenError, match="it is used"):
        door.come(token, key="k2")
    with pytest.raises(RefusedTokenError, match="it is used"):
        door.come(token, "cam-2")
    # An answer that was lost on its way is given again: it is worth something to this key alone.
    assert door.come(token) == first
    assert len(door.valid()) == 1


def test_of_many_who_come_at_once_with_one_token_one_is_let_in(door: Door) -> None:
    token = door.token()
    names = [f"cam-{number}" for number in range(6)]
    for name in names:
        make_key(door.folder / name)
    together = threading.Barrier(len(names))

    def come(name: str) -> str:
        together.wait(30)
        try:
            return door.come(token, name, key=name)
        except RefusedTokenError as error:
            return error.reason

    with ThreadPoolExecutor(len(names)) as pool:
        said = list(pool.map(come, names))
    assert sorted(answer[:27] for answer in said)[:1] == ["-----BEGIN CERTIFICATE-----"]
    assert said.count("it is used") == len(names) - 1
    known = [device.id for device in Inventory(door.database, actor="test").all()]
    assert len(known) == 1
    assert len(door.valid(known[0])) == 1


def test_of_many_who_come_at_once_as_one_device_one_is_let_in(door: Door) -> None:
    # Each with a token and a key of its own: none of them may take the device from another.
    keys = [f"key-{number}" for number in range(6)]
    tokens = [door.token() for _ in keys]
    for name in keys:
        make_key(door.folder / name)
    together = threading.Barrier(len(keys))

    def come(token: str, key: str) -> str:
        together.wait(30)
        try:
            return door.come(token, key=key)
        except RefusedTokenError as error:
            return error.reason

    with ThreadPoolExecutor(len(keys)) as pool:
        said = list(pool.map(come, tokens, keys))
    assert len([answer for answer in said if answer.startswith("-----BEGIN")]) == 1, said
    assert len([a for a in said if "a device of this id has a certificate" in a]) == len(keys) - 1
    assert len(certificates_of(door.database, "cam-1")) == 1


def test_all_that_are_shut_out_at_once_are_on_the_brokers_list(
    door: Door, fleet: Fleet, authority: FleetAuthority
) -> None:
    broker = fleet.path / "mosquitto"
    broker.mkdir()
    install_revocations(authority)
    names = [f"cam-{number}" for number in range(6)]
    for name in names:
        door.come(door.token(), name, key=name)
    together = threading.Barrier(len(names))

    def shut_out(name: str) -> int:
        together.wait(30)
        return revoke_device(door.database, fleet, name, actor="alice", clock=door.clock)

    with ThreadPoolExecutor(len(names)) as pool:
        assert list(pool.map(shut_out, names)) == [1] * len(names)
    assert len(authority.revoked()) == len(names)
    assert (broker / "crl.pem").read_bytes() == authority.revocations.read_bytes()


def test_expired_revoked_and_foreign_tokens_are_refused_with_the_reason(door: Door) -> None:
    short, revoked = door.token(hours=1), door.token()
    bound, own = door.token(device="cam-9"), door.token()
    revoke_enrolment_token(door.database, revoked.split("_")[1], actor="alice")
    door.clock.goes_on(hours=2)
    for token, changes, reason in (
        (short, {}, "it is expired"),
        (revoked, {}, "it is revoked"),
        (bound, {}, "made for another device"),
        (own, {"fleet": "elsewhere"}, "for the fleet plant-7, not for elsewhere"),
    ):
        with pytest.raises(RefusedTokenError, match=reason):
            door.come(token, **changes)
    with pytest.raises(NotFoundError):
        Inventory(door.database, actor="test").get("cam-1")
    door.come(bound, "cam-9")


def test_a_bad_signing_request_uses_no_token_up(door: Door) -> None:
    token = door.token()
    make_key(door.folder / "k1")
    other = signing_request(door.folder / "k1", device="cam-2", fleet="plant-7")
    for request in ("", "no request", other):
        with pytest.raises(UsageError):
            door.come(token, request=request)
    door.come(token)


def test_a_token_for_any_device_takes_nobodys_place(door: Door) -> None:
    door.come(door.token())
    with pytest.raises(RefusedTokenError, match="by name replaces"):
        door.come(door.token(), key="stranger")
    assert len(door.valid()) == 1


def test_a_token_by_name_gives_a_device_another_key_and_ends_the_former(
    door: Door, authority: FleetAuthority
) -> None:
    door.come(door.token())
    (former,) = door.valid()
    door.come(door.token(device="cam-1"), key="k2")
    (new,) = door.valid()
    assert new != former
    assert spread_revocations(door.database, door.fleet) == 1
    assert set(authority.revoked()) == {int(former, 16)}
    assert spread_revocations(door.database, door.fleet) == 0


def test_a_device_that_is_shut_out_stays_known_and_may_come_again(
    door: Door, authority: FleetAuthority
) -> None:
    door.come(door.token())
    (serial,) = door.valid()
    assert revoke_device(door.database, door.fleet, "cam-1", actor="alice") == 1
    assert set(authority.revoked()) == {int(serial, 16)}
    assert door.valid() == []
    assert revoke_device(door.database, door.fleet, "cam-1", actor="alice") == 0
    door.come(door.token(), key="k2")
    document = export_device(door.database, door.fleet, "cam-1")
    assert len(document["certificates"]) == 2
    assert len(document["enrolment_tokens"]) == 2


def test_a_device_that_is_deleted_is_shut_out_too(door: Door, authority: FleetAuthority) -> None:
    door.come(door.token())
    (serial,) = door.valid()
    erase_device(door.database, door.fleet, "cam-1", broker=None, actor="alice")
    assert set(authority.revoked()) == {int(serial, 16)}
    assert list_enrolment_tokens(door.database) == ()


def test_what_cannot_be_shut_out_is_said(door: Door) -> None:
    with pytest.raises(NotFoundError):
        revoke_device(door.database, door.fleet, "nobody", actor="alice")
    Inventory(door.database, actor="alice").add("cam-5")
    with pytest.raises(UsageError, match="no certificate of this fleet"):
        revoke_device(door.database, door.fleet, "cam-5", actor="alice")


@pytest.mark.parametrize(
    "options",
    [{"hours": 0}, {"hours": 9_000}, {"device": "../x"}, {"labels": {"arch": "x"}}],
)
def test_a_token_that_makes_no_sense_is_not_made(door: Door, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        door.token(**options)
    assert list_enrolment_tokens(door.database) == ()
