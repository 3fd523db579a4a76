"""What an installed wheel holds, and what it must not."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGES = {
    "edgekit",
    "edgekit_agent",
    "edgekit_benchmarks",
    "edgekit_converters",
    "edgekit_runtime",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
    )
    (file,) = folder.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        return set(archive.namelist())


def test_nothing_generic_is_importable(wheel: set[str]) -> None:
    top = {name.split("/")[0] for name in wheel}
    assert {name for name in top if not name.endswith(".dist-info")} == PACKAGES


@pytest.mark.parametrize(
    "name",
    [
        "edgekit/quickstart/assets/digits_v1.onnx",
        "edgekit/quickstart/assets/digits_v2.onnx",
        "edgekit/quickstart/assets/calibration.npz",
        "edgekit/quickstart/assets/test.npz",
        "edgekit/quickstart/assets/SOURCE.md",
        "edgekit/pages/templates/quickstart.html.j2",
        "edgekit_benchmarks/profiles/raspberrypi4.toml",
        "edgekit_runtime/bundle/schema/manifest-v1.schema.json",
        *(f"{package}/py.typed" for package in sorted(PACKAGES)),
    ],
)
def test_the_data_files_are_in_it(wheel: set[str], name: str) -> None:
    assert name in wheel


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_a_folder_says_what_it_is_for(package: str) -> None:
    import importlib

    module = importlib.import_module(package)
    assert module.__file__ is not None
    text = ast.get_docstring(ast.parse(Path(module.__file__).read_text(encoding="utf-8")))
    assert text
    assert "import" in text


def test_the_readme_names_only_commands_that_exist() -> None:
    import re

    from click import Context

    from edgekit.cli import edgekit

    context = Context(edgekit)
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"`edgekit ([a-z-]+)(?: ([a-z-]+))?", readme)
    assert len(named) > 8
    for name, child in named:
        command = edgekit.get_command(context, name)
        assert command is not None, name
        if hasattr(command, "list_commands"):
            assert child in command.list_commands(context), f"{name} {child}"
