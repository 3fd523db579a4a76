"""The page as people see it: in a headless browser, on a desk and on a phone."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from edgekit.fleet.access import Role, create_token
from edgekit.fleet.api.control_plane import ControlPlane
from edgekit.fleet.api.serving import PageServer
from edgekit.fleet.authority import FleetAuthority
from edgekit.fleet.devices.certificates import add_certificate, retire_certificates
from edgekit.fleet.devices.inventory import Inventory
from edgekit.fleet.devices.requests import RequestBook
from edgekit.fleet.store.database import Database
from edgekit_agent.identity.keys import make_key, signing_request
from edgekit_runtime.requests import DeviceReply, RequestKind
from simulators import demo_fleet

PATHS = (
    "/",
    "/devices",
    "/devices?query=site%3Dberlin",
    "/devices/oven-004",
    "/rollouts",
    "/rollouts/digits-1.5",
    "/rollouts/bells-0.9.1",
    "/health-of-models",
    "/experiments",
    "/versions",
    "/versions/digits/1.4.0",
    "/audit",
)
PICTURES = {
    "fleet": "/",
    "devices": "/devices?query=site",
    "rollout": "/rollouts/digits-1.5",
    "models": "/health-of-models",
    "experiments": "/experiments",
    "shadow": "/experiments#shadow",
    "audit": "/audit",
}
DOCS = Path(__file__).resolve().parents[4] / "docs" / "pictures"
DESK = {"width": 1100, "height": 800}
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    program = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
    with playwright.sync_playwright() as running:
        try:
            opened = running.chromium.launch(executable_path=program, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no Chromium is installed here: {str(error).splitlines()[0]}")
        yield opened
        opened.close()


@pytest.fixture
def demo(database: Database, fleet, make_bundle) -> Iterator[tuple[ControlPlane, str]]:
    plane = ControlPlane(fleet=fleet, database=database, clock=demo_fleet.clock)
    bundles = [make_bundle(v) for v in ("1.3.2", "1.4.0", "1.5.0")]
    demo_fleet.populate(plane, [*bundles, make_bundle("0.9.1", name="bells")])
    server = PageServer(plane, host="127.0.0.1", port=0)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield plane, f"http://{server.address}"
    finally:
        server.stop()
        thread.join()


def token(plane: ControlPlane, role: Role) -> str:
    made = create_token(
        plane.database, name="alice", role=role, days=1, actor="test", clock=demo_fleet.clock
    )
    return made[1]


def open_page(browser: Any, url: str, secret: str, viewport: dict[str, int]) -> Any:
    """Sign in as people do; every request elsewhere and every complaint of the browser is kept."""
    context = browser.new_context(viewport=viewport, locale="en-GB", device_scale_factor=1)
    page = context.new_page()
    page.elsewhere, page.complaints = [], []
    page.on(
        "request",
        lambda request: request.url.startswith(url) or page.elsewhere.append(request.url),
    )
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.goto(f"{url}/login")
    page.fill("input[name=token]", secret)
    page.click("button")
    page.wait_for_url(f"{url}/")
    return page


def test_every_page_is_whole_on_a_desk_and_on_a_phone(browser, demo) -> None:
    plane, url = demo
    secret = token(plane, Role.RELEASE_MANAGER)
    for viewport in (DESK, PHONE):
        page = open_page(browser, url, secret, viewport)
        for path in PATHS:
            answer = page.goto(url + path)
            assert answer.status == 200, path
            assert page.locator("h1").count() == 1, path
            wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert wide <= 0, f"{path} is {wide} pixels wider than {viewport['width']}"
            small = page.evaluate(
                "[...document.querySelectorAll('button, nav a')].filter("
                "e => e.getBoundingClientRect().height < 32).length"
            )
            assert small == 0, f"{path}: too small to be touched"
            written = page.evaluate(
                "[...document.querySelectorAll('svg text')].map("
                "e => e.getBoundingClientRect().height)"
            )
            assert min(written, default=10) >= 10, f"{path}: too small to be read"
        assert page.elsewhere == []
        assert page.complaints == []
        page.context.close()


def test_the_pages_say_what_happened(browser, demo) -> None:
    plane, url = demo
    page = open_page(browser, url, token(plane, Role.OPERATOR), DESK)
    assert page.locator(".tile").first.inner_text().split() == ["240", "devices"]
    assert page.inner_text("main").count("stage canary") == 1
    page.goto(f"{url}/rollouts/digits-1.5")
    text = page.inner_text("main")
    assert "rolled back" in text
    assert "input:brightness (1.32)" in text
    # It is over: those whose turn had not come wait for nothing.
    assert "untouched" in text
    assert "waiting" not in text
    page.goto(f"{url}/rollouts/bells-0.9.1")
    assert "waiting" in page.inner_text("main")
    assert "golden sample 3 differs" in page.inner_text("main")
    page.goto(f"{url}/health-of-models")
    assert page.locator("svg[aria-label*='Drift of the features of digits 1.4.0']").count() == 1
    assert "▲" in page.inner_html("main")
    assert "brightness has drifted; input:brightness: 0.31" in page.inner_text("main")
    assert "text:" not in page.inner_text("main")
    assert "NaN or infinity: 0.4 % of the values of input:contrast" in page.inner_text("main")
    page.goto(f"{url}/experiments")
    text = page.inner_text("main")
    assert text.count("b is better") == 1
    assert "agrees: both say the same on 98" in text
    assert "differs: both say the same on" in text
    assert page.locator("svg[aria-label*='it differs']").count() == 1
    page.goto(f"{url}/audit")
    text = page.inner_text("main")
    assert "Unbroken" in text
    assert "decision: begin stage tenth\n" in text
    page.goto(f"{url}/devices")
    page.fill("input[name=query]", "site=berlin and ram>=")
    page.click("main button")
    assert "the query cannot be read" in page.inner_text("main")
    page.context.close()


def test_a_devices_page_shows_what_it_holds_and_owes(browser, demo, tmp_path: Path) -> None:
    plane, url = demo
    (name, *_) = (device.id for device in Inventory(plane.database, actor="test").all())
    authority = FleetAuthority.create(plane.fleet, clock=demo_fleet.clock)
    make_key(tmp_path / "key")
    request = signing_request(tmp_path / "key", device=name, fleet=plane.fleet.id)
    issued = authority.sign_request(request, device=name, days=30, clock=demo_fleet.clock)
    book = RequestBook(plane.database, actor="alice", clock=demo_fleet.clock)
    with plane.database.write() as session:
        add_certificate(session, name, issued)
    asked = book.ask(name, RequestKind.BENCH, {"bundle": "digits"})
    figures = {
        "bundle": "digits",
        "version": "1.4.0",
        "variant": "litert-int8",
        "runtime": "litert",
        "runtime_version": "2.3.0",
        "threads": 4,
        "median_ms": 3.217,
    }
    book.take([DeviceReply(device=name, number=asked.number, ok=True, result=figures)])
    book.ask(name, RequestKind.LOGS, hours=48)
    for role, viewport, person in (
        (Role.OPERATOR, DESK, "alice"),
        (Role.VIEWER, PHONE, "\N{EN DASH}"),
    ):
        page = open_page(browser, url, token(plane, role), viewport)
        page.goto(f"{url}/devices/{Inventory(plane.database, actor='x').get(name).pseudonym}")
        text = page.inner_text("main")
        assert "Certificate valid, until 2026-12-25 12:00" in text
        assert "digits 1.4.0, litert-int8, takes 3.22 ms with litert 2.3.0, 4 threads" in text
        (row,) = page.locator("h2:has-text('Open requests') + div tr:has(td)").all_inner_texts()
        assert row.split() == [
            "2026-11-25", "12:00:00", "logs", "waiting", person, "2026-11-27", "12:00:00"
        ]  # fmt: skip
        assert page.locator("main button").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        page.screenshot(path=tmp_path / f"device-{role.value}.png")
        page.context.close()
    with plane.database.write() as session:
        retire_certificates(session, name, demo_fleet.NOW.timestamp())
    page = open_page(browser, url, token(plane, Role.OPERATOR), DESK)
    page.goto(f"{url}/devices/{name}")
    assert "Certificate revoked" in page.inner_text("main")
    page.context.close()


def test_a_button_stops_a_rollout_and_the_page_follows_by_itself(browser, demo) -> None:
    plane, url = demo
    watching = open_page(browser, url, token(plane, Role.VIEWER), PHONE)
    watching.goto(f"{url}/rollouts/bells-0.9.1")
    assert watching.locator("button.stop").count() == 0
    acting = open_page(browser, url, token(plane, Role.OPERATOR), PHONE)
    acting.goto(f"{url}/rollouts/bells-0.9.1")
    acting.click("text=Pause")
    assert "paused by alice" in acting.inner_text("main")
    acting.click("text=Emergency stop")
    assert "rolling back" in acting.inner_text("main")
    watching.locator("main", has_text="rolling back").wait_for(timeout=30_000)
    assert "oven-" not in watching.inner_text("main")
    for page in (watching, acting):
        assert page.complaints == []
        page.context.close()


def test_markup_in_what_devices_say_stays_text(browser, demo) -> None:
    from edgekit.fleet.devices.inventory import Inventory
    from edgekit_runtime.reports import BundleState, DeviceState, Phase

    plane, url = demo
    attack = "<img src=x onerror=document.title='owned'><script>document.title='owned'</script>"
    state = DeviceState(
        device="oven-666",
        online=True,
        agent=attack,
        hardware={"architecture": attack},
        bundles={"digits": BundleState(phase=Phase.REJECTED, active=attack, reason=attack)},
    )
    Inventory(plane.database, actor="test").hear([state])
    page = open_page(browser, url, token(plane, Role.OPERATOR), DESK)
    for path in ("/", "/devices?query=id%3Doven-666", "/devices/oven-666"):
        page.goto(url + path)
        assert "onerror" in page.inner_html("main")
        assert page.locator("main img, main script").count() == 0
        assert page.title() != "owned"
    page.context.close()


def test_pictures_for_the_documentation(browser, demo, tmp_path: Path) -> None:
    """With EDGEKIT_PICTURES set they go into docs/pictures, where people look at them."""
    plane, url = demo
    folder = DOCS if os.environ.get("EDGEKIT_PICTURES") else tmp_path
    folder.mkdir(exist_ok=True)
    page = open_page(browser, url, token(plane, Role.OPERATOR), DESK)
    for name, path in PICTURES.items():
        page.goto(url + path)
        page.screenshot(path=folder / f"fleet-{name}.png")
    page.context.close()
    page = open_page(browser, url, token(plane, Role.OPERATOR), PHONE)
    for name in ("fleet", "rollout"):
        page.goto(url + PICTURES[name])
        page.screenshot(path=folder / f"fleet-{name}-phone.png")
    page.context.close()
    assert sorted(path.name for path in folder.glob("fleet-*.png")) == sorted(
        [f"fleet-{name}.png" for name in PICTURES]
        + ["fleet-fleet-phone.png", "fleet-rollout-phone.png"]
    )
    for path in folder.glob("fleet-*.png"):
        # An empty page compresses to a few kilobytes.
        assert 10_000 < path.stat().st_size < 300_000, path.name


def test_without_a_token_there_is_nothing_but_the_way_in(demo) -> None:
    _, url = demo
    for path in PATHS:
        answer = httpx.get(url + path)
        assert (answer.status_code, answer.headers["location"]) == (303, "/login"), path
    wrong = httpx.post(f"{url}/login", data={"token": "guess"}, headers={"Origin": url})
    assert wrong.status_code == 401
    assert "not known" in wrong.text
    assert "set-cookie" not in wrong.headers


def test_another_sites_page_can_change_nothing(demo) -> None:
    plane, url = demo
    cookies = {"edgekit_token": token(plane, Role.ADMIN)}
    for headers in ({}, {"Origin": "https://evil.example"}):
        for path, form in (
            ("/rollouts/bells-0.9.1/actions", {"action": "stop"}),
            ("/login", {"token": "x"}),
            ("/logout", {}),
        ):
            answer = httpx.post(url + path, data=form, headers=headers, cookies=cookies)
            assert answer.status_code == 403, path
        answer = httpx.put(
            f"{url}/api/v1/groups/g", json={"query": "a"}, headers=headers, cookies=cookies
        )
        assert answer.status_code == 403
    own = httpx.put(
        f"{url}/api/v1/groups/g", json={"query": "a"}, headers={"Origin": url}, cookies=cookies
    )
    assert own.status_code == 200


def test_a_viewer_stops_nothing_and_nobody_resumes_by_a_button(demo) -> None:
    plane, url = demo
    before = plane.rollouts.load("bells-0.9.1")
    for role, action, status in (
        (Role.VIEWER, "stop", 403),
        (Role.VIEWER, "pause", 403),
        (Role.ADMIN, "resume", 422),
    ):
        answer = httpx.post(
            f"{url}/rollouts/bells-0.9.1/actions",
            data={"action": action},
            headers={"Origin": url},
            cookies={"edgekit_token": token(plane, role)},
        )
        assert answer.status_code == status, (role, action)
    assert plane.rollouts.load("bells-0.9.1") == before


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(demo) -> None:
    plane, url = demo
    answer = httpx.post(
        f"{url}/login", data={"token": token(plane, Role.VIEWER)}, headers={"Origin": url}
    )
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    page = httpx.get(f"{url}/login")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]


@pytest.mark.slow
def test_pages_answer_soon_with_ten_thousand_devices(
    database: Database, fleet, make_bundle
) -> None:
    """No clock decides: the work is counted in statements, and rows that are read."""
    from sqlalchemy import event

    plane = ControlPlane(fleet=fleet, database=database, clock=demo_fleet.clock)
    bundles = [make_bundle(v) for v in ("1.3.2", "1.4.0", "1.5.0")]
    demo_fleet.populate(plane, [*bundles, make_bundle("0.9.1", name="bells")], devices=10_000)
    server = PageServer(plane, host="127.0.0.1", port=0)
    thread = threading.Thread(target=server.run)
    thread.start()
    statements: list[str] = []
    event.listen(
        database.engine,
        "before_cursor_execute",
        lambda _c, _cu, statement, *_: statements.append(statement),
    )
    try:
        client = httpx.Client(
            base_url=f"http://{server.address}",
            cookies={"edgekit_token": token(plane, Role.OPERATOR)},
            timeout=60,
        )
        with client:
            for path in ("/", "/devices", "/rollouts"):
                statements.clear()
                began = time.perf_counter()
                answer = client.get(path)
                print(f"{path}: {(time.perf_counter() - began) * 1000:.0f} ms")  # noqa: T201
                assert answer.status_code == 200
                assert len(answer.content) < 200_000
                assert len(statements) < 20
    finally:
        server.stop()
        thread.join()
