"""Packages for devices: one file, and a .deb, from wheels that were made here."""

from __future__ import annotations

import importlib.util
import json
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from edgekit.devices import wheels
from edgekit.devices.package import PackageForm, make_package
from edgekit.devices.targets import Target, parse_target
from edgekit.devices.wheels import requirements_of, unpack_wheels
from edgekit_runtime.errors import EnvironmentLackError, UsageError, VerificationError
from tests.simulators.signed_fleet import SignedFleet

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
BASE_PYTHON = Path(sys.base_prefix) / "bin" / f"python{HERE}"
LINUX = sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64")
pytestmark = pytest.mark.skipif(not LINUX, reason="made for 64-bit Linux devices")


def local_wheels(requirements: tuple[str, ...], target: Target, folder: Path) -> list[Path]:
    """What the command line needs, as wheels, out of this environment."""
    assert any(each.startswith("paho-mqtt") for each in requirements)
    (folder / "click-1-py3-none-any.whl").write_bytes(b"")
    spec = importlib.util.find_spec("click")
    assert spec
    assert spec.submodule_search_locations
    source = Path(spec.submodule_search_locations[0])
    with zipfile.ZipFile(folder / "click-1-py3-none-any.whl", "w") as archive:
        for file in source.rglob("*.py"):
            archive.write(file, Path("click") / file.relative_to(source))
        archive.writestr("click/tests/test_it.py", "")
        archive.writestr("click-1.data/purelib/moved.py", "")
        archive.writestr("click-1.data/scripts/tool", "")
    return sorted(folder.glob("*.whl"))


def run(*command: object, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "EDGEKIT_PYTHON": str(BASE_PYTHON), **env},
    )
    assert done.returncode == code, done
    return done


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    fleet = SignedFleet()
    (folder / "i.json").write_bytes(fleet.image.first_root)
    (folder / "d.json").write_bytes(fleet.director.first_root)
    run(
        *(sys.executable, "-m", "edgekit_agent", "init", "--device", "d1", "--fleet", "f1"),
        *("--broker", "127.0.0.1:1883", "--folder", folder / "agent"),
        *("--image-root", folder / "i.json", "--director-root", folder / "d.json"),
    )
    return folder / "agent"


@pytest.fixture(scope="module")
def package(agent: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("package")
    made = make_package(
        parse_target(platform.machine(), HERE), output, agent=agent, fetch=local_wheels
    )
    assert made.path.name.startswith("edgekit-agent-")
    assert (output / "agent" / "agent.toml").exists()
    return made.path


def test_one_file_installs_below_a_root_and_goes_again(
    package: Path, agent: Path, tmp_path: Path
) -> None:
    root = tmp_path / "image"
    done = run(BASE_PYTHON, package, "install", "--agent", agent, "--root", root)
    assert "enabled edgekit-agent.service" in done.stdout
    link = root / "usr/local/bin/edgekit-agent"
    assert link.readlink() == Path("/opt/edgekit/bin/edgekit-agent")
    unit = (root / "etc/systemd/system/edgekit-agent.service").read_text()
    assert "ExecStart=/opt/edgekit/bin/edgekit-agent run --config /etc/edgekit/agent.toml" in unit
    command = root / "opt/edgekit/bin/edgekit-agent"
    assert "edgekit-agent, version" in run(command, "--version").stdout
    site = root / "opt/edgekit/site"
    assert (site / "moved.py").exists()
    compiled = {path.name.partition(".")[2] for path in (site / "click").rglob("core.*.pyc")}
    tag = sys.implementation.cache_tag
    assert compiled == {f"{tag}.pyc", f"{tag}.opt-2.pyc"}
    assert not (site / "click" / "tests").exists()
    assert not (site / "edgekit").exists()
    # An older version is replaced whole.
    (site / "stale.py").write_text("")
    run(BASE_PYTHON, package, "install", "--agent", agent, "--root", root)
    assert not (site / "stale.py").exists()
    run(command, "uninstall", "--root", root)
    assert [path for path in root.rglob("*") if not path.is_dir()] == []


def test_it_runs_wherever_it_is_unpacked(package: Path, agent: Path, tmp_path: Path) -> None:
    run(BASE_PYTHON, package, "extract", tmp_path / "any place")
    command = tmp_path / "any place" / "bin" / "edgekit-agent"
    done = run(command, "check", "--json", "--config", agent / "agent.toml", code=1)
    findings = {finding["name"]: finding for finding in json.loads(done.stdout)}
    assert findings["configuration"]["ok"]
    # No engine is in this package, and it says so.
    assert not findings["runtimes"]["ok"]


def test_another_machine_is_refused_in_one_sentence(agent: Path, tmp_path: Path) -> None:
    other = "aarch64" if platform.machine() == "x86_64" else "x86_64"
    made = make_package(parse_target(other, HERE), tmp_path, fetch=local_wheels)
    done = run(BASE_PYTHON, made.path, "extract", tmp_path / "x", code=4)
    assert f"for {other}, and this is {platform.machine()}" in done.stderr
    assert not (tmp_path / "x").exists()
    older = "3.13" if HERE != "3.13" else "3.12"
    made = make_package(parse_target(platform.machine(), older), tmp_path, fetch=local_wheels)
    done = run(BASE_PYTHON, made.path, "extract", tmp_path / "x", code=4)
    assert f"for Python {older}, and this is {HERE}" in done.stderr


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed")
def test_dpkg_reads_the_debian_package(tmp_path: Path) -> None:
    made = make_package(
        parse_target("aarch64", "3.11"), tmp_path, form=PackageForm.DEBIAN, fetch=local_wheels
    )
    assert made.path.name.endswith("_arm64.deb")
    fields = run("dpkg-deb", "--field", made.path).stdout
    assert "Architecture: arm64\n" in fields
    assert "Depends: python3 (>= 3.11), python3 (<< 3.12)\n" in fields
    run("dpkg-deb", "--raw-extract", made.path, tmp_path / "deb")
    for script in ("postinst", "prerm", "postrm"):
        path = tmp_path / "deb" / "DEBIAN" / script
        assert path.stat().st_mode & 0o111
        run("sh", "-n", path)
    command = tmp_path / "deb" / "opt/edgekit/bin/edgekit-agent"
    assert command.stat().st_mode & 0o111
    unit = tmp_path / "deb" / "usr/lib/systemd/system/edgekit-agent.service"
    assert "ExecStart=/usr/bin/edgekit-agent run" in unit.read_text()
    assert "@EXECUTABLE@" not in unit.read_text()


@pytest.mark.parametrize(
    ("arch", "python", "text", "fix"),
    [
        ("armv7l", "3.11", "no such wheels on PyPI", "edgekit[agent,tflite-runtime]"),
        ("armhf", "3.13", "the only engine with such wheels", "Bookworm, which has Python 3.11"),
        ("armv6l", "3.11", "armv6l is not supported", "ARMv7 or newer"),
        ("riscv64", "3.11", "'riscv64' is not supported", "aarch64 (arm64), x86_64 (amd64)"),
        ("mips", "3.11", "'mips' is not supported", "aarch64 (arm64), x86_64 (amd64)"),
        ("aarch64", "3.10", "Python 3.10 is not supported", "3.11, 3.12, 3.13"),
    ],
)
def test_what_cannot_be_packed_is_said(arch: str, python: str, text: str, fix: str) -> None:
    with pytest.raises(UsageError, match=text) as caught:
        parse_target(arch, python)
    assert fix in str(caught.value.fix)


@pytest.mark.parametrize(("debian", "ours"), [("arm64", "aarch64"), ("amd64", "x86_64")])
def test_an_architecture_may_be_named_as_debian_does(debian: str, ours: str) -> None:
    assert parse_target(debian, "3.11") == parse_target(ours, "3.11")


def test_every_older_tag_is_named() -> None:
    platforms = parse_target("aarch64", "3.11").platforms
    assert {"manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64"} <= set(
        platforms
    )


def test_requirements_are_those_of_the_extras() -> None:
    names = " ".join(requirements_of("agent", "tflite"))
    assert "ai-edge-litert" in names
    assert "numpy" in names
    assert "onnxruntime" not in names
    assert "edgekit" not in names


def test_what_decodes_pictures_comes_if_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    lines = ["click>=8", "paho-mqtt>=2.1; extra == 'agent'", "litert; extra == 'tflite'"]
    images = "pillow>=10.1; extra == 'images'"
    monkeypatch.setattr(wheels.metadata, "requires", lambda _: [*lines, images])

    def fetch(requirements: tuple[str, ...], target: Target, folder: Path) -> list[Path]:
        asked.extend(requirements)
        return local_wheels(requirements, target, folder)

    target = parse_target("aarch64", "3.11")
    make_package(target, tmp_path, pictures=True, fetch=fetch)
    assert any(each.startswith("pillow") for each in asked)
    asked.clear()
    make_package(target, tmp_path, fetch=fetch)
    assert asked == ["click>=8", "paho-mqtt>=2.1", "litert"]
    # An installation from before there was such an extra.
    monkeypatch.setattr(wheels.metadata, "requires", lambda _: lines)
    with pytest.raises(EnvironmentLackError, match="does not know what images needs"):
        make_package(target, tmp_path, pictures=True, fetch=fetch)


def test_a_wheel_may_not_reach_outside(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bad.whl", "w") as archive:
        archive.writestr("../outside.py", "")
    with pytest.raises(VerificationError, match="a place outside"):
        unpack_wheels([tmp_path / "bad.whl"], tmp_path / "site")
    assert not (tmp_path / "outside.py").exists()
