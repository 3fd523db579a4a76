"""`edgekit device`: software for devices."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click


@click.group()
def device() -> None:
    """Make what a device needs."""


@device.command()
@click.option(
    "--arch", required=True, help="The device's architecture: aarch64 (arm64), x86_64 (amd64)."
)
@click.option("--python", required=True, help="Its Python: 3.11 (Bookworm), 3.12, 3.13 (Trixie).")
@click.option(
    "--engine",
    "engines",
    multiple=True,
    type=click.Choice(["tflite", "onnx"]),
    default=("tflite",),
    show_default=True,
    help="Inference engine to bring; may be given twice.",
)
@click.option("--pictures", is_flag=True, help="Bring Pillow: pictures are requests then.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["pyz", "deb"]),
    default="pyz",
    show_default=True,
    help="One file that Python runs, or a Debian package.",
)
@click.option(
    "--agent",
    type=click.Path(path_type=Path, file_okay=False),
    help="An agent's folder, with its roots of trust, to put beside it.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("device-package"),
    show_default=True,
    help="The folder that it goes into.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def package(
    *,
    arch: str,
    python: str,
    engines: tuple[str, ...],
    pictures: bool,
    form: str,
    agent: Path | None,
    output: Path,
    as_json: bool,
) -> None:
    """Make one file that installs the agent on a device without the internet.

    The wheels are fetched here, for the device. There: `sudo python3 FILE install --agent FOLDER`,
    or `sudo apt install ./FILE.deb`.
    """
    from edgekit.devices.package import PackageForm, make_package
    from edgekit.devices.targets import parse_target

    made = make_package(
        parse_target(arch, python),
        output,
        form=PackageForm(form),
        engines=engines,
        pictures=pictures,
        agent=agent,
        progress=lambda text: click.echo(text, err=True),
    )
    if as_json:
        click.echo(json.dumps(asdict(made), indent=1, default=str))
        return
    click.echo(f"wrote {made.path} ({made.size_bytes / 1e6:.1f} MB, {len(made.packages)} wheels)")
    if made.agent:
        click.echo(f"beside it: {made.agent}")
