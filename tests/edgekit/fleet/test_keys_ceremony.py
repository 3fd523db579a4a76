"""docs/keys.md, followed by five people and an office, to the letter."""

from __future__ import annotations

import re
import shlex
import subprocess
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgekit.cli import edgekit
from edgekit.fleet.folder import Fleet
from edgekit.fleet.keyring import Repository, read_keyring
from edgekit.fleet.keys import director_root, image_root
from edgekit.fleet.repositories import open_director, open_images
from edgekit_agent.verifier import Verifier
from tests.simulators.carried_bundles import write_carried

PAGE = Path(__file__).resolve().parents[3] / "docs/keys.md"
_BLOCK = re.compile(r"^\*\*(\w+)\*\*\n\n```sh\n(.*?)```", re.MULTILINE | re.DOTALL)


def blocks() -> list[tuple[str, list[str]]]:
    text = PAGE.read_text()
    found = [(who.lower(), body.splitlines()) for who, body in _BLOCK.findall(text)]
    # Each block says whose it is.
    assert len(found) == text.count("```sh")
    return found


class Machine:
    """Where one person works: a folder of their own, a passphrase, and the stick."""

    def __init__(self, folder: Path, who: str, stick: Path) -> None:
        self.folder = folder / who
        self.environment = {"EDGEKIT_PASSPHRASE": f"of {who}"}
        if not self.folder.exists():
            self.folder.mkdir()
            (self.folder / "stick").symlink_to(stick)

    def run(self, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
        command, _, remark = line.partition("  # ")
        words = shlex.split(command)
        environment = dict(self.environment)
        while "=" in words[0]:
            name, _, environment[name] = words.pop(0).partition("=")
        if words[0] != "edgekit":
            subprocess.run(words, cwd=self.folder, check=True)
            return
        monkeypatch.chdir(self.folder)
        done = CliRunner().invoke(edgekit, words[1:], input="y\n", env=environment)
        refused = remark.startswith("refused")
        assert (done.exit_code != 0) is refused, f"{line}: {done.output} {done.exception}"


def test_the_ceremony_can_be_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stick = tmp_path / "stick"
    stick.mkdir()
    office = Machine(tmp_path, "office", stick)
    del office.environment["EDGEKIT_PASSPHRASE"]
    write_carried(office.folder, "1.0.0", model=b"model " * 10_000)
    fleet = None
    for who, lines in blocks():
        machine = office if who == "office" else Machine(tmp_path, who, stick)
        for line in lines:
            machine.run(line, monkeypatch)
        if fleet is None and (office.folder / "fleet/keys").exists():
            fleet = Fleet.open(office.folder / "fleet")
            asleep = device(tmp_path / "asleep", fleet)
    assert fleet is not None
    ring = read_keyring(fleet)
    holders = {key.name for key in ring.keys_of(Repository.DIRECTOR, "root")}
    assert holders == {"anna", "dora", "finn"}
    assert [key.name for key in ring.keys_of(Repository.IMAGE, "targets")] == ["ravi"]
    assert {key.name for key in ring.revoked} == {"ben", "rita"}
    # No offline key was left on the control plane, and none was ever on the stick.
    assert {path.stem for path in fleet.keys.glob("*.pem")} == {
        "image-online-2",
        "director-online-2",
    }
    assert not list(stick.glob("*.pem"))
    for verifier in (asleep, device(tmp_path / "new", fleet)):
        order = verifier.verify(
            image=open_images(fleet).published(),
            director=open_director(fleet).published("oven-001"),
            now=time.time(),
        )
        assert [(t.order.bundle, t.order.version) for t in order.targets] == [("digits", "1.0.0")]


def device(folder: Path, fleet: Fleet) -> Verifier:
    return Verifier(
        folder,
        device="oven-001",
        image_root=image_root(fleet).read_bytes(),
        director_root=director_root(fleet).read_bytes(),
    )
