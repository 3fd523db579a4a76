"""`edgekit fleet storage`: where chunks and bundle files are."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit.cli.fleet_options import database_option, fleet_option, json_option, log_change
from edgekit.cli.render import emit_json, say, size
from edgekit.wording import plural


@click.command()
@click.argument("url", required=False)
@click.option(
    "--endpoint", default="", metavar="URL", help="Of a server with S3's API that is not Amazon's."
)
@click.option(
    "--key-file",
    type=click.Path(path_type=Path),
    help="Encrypt with the first key of this file, made by `edgekit-agent storage-key`; what is "
    "there is written anew.",
)
@click.option("--plain", is_flag=True, help="Write everything plain again.")
@fleet_option
@database_option
@json_option
def storage(
    url: str | None,
    endpoint: str,
    key_file: Path | None,
    plain: bool,
    folder: Path,
    database: str | None,
    as_json: bool,
) -> None:
    """Show where chunks and bundle files are, or move them to URL: s3://BUCKET/PREFIX.

    Needs the package of the protocol: pip install "edgekit[s3]" for s3://, gcsfs for gs://, adlfs
    for az://. Credentials come from the environment, as each of them documents. "folder" moves
    everything back into the fleet's folder. Nothing is deleted where it was; keys, metadata and
    orders stay in the folder.

    Encryption hides what lies there, in the folder or the bucket; brokers and devices get the same
    as before. Keep a copy of the key elsewhere, and start `edgekit fleet serve` again afterwards.
    """
    from dataclasses import asdict

    from edgekit.fleet.folder import Fleet
    from edgekit.fleet.folder_changes import FolderChange
    from edgekit.fleet.storage.setting import (
        LOCAL,
        StorageSetting,
        encrypt_storage,
        move_storage,
        read_storage,
    )

    fleet = Fleet.open(folder)

    def log(**more: int) -> None:
        detail = {"storage": str(read_storage(fleet)), **more}
        subject = f"storage of fleet {fleet.id}"
        log_change(
            fleet, database, FolderChange(action="storage.changed", subject=subject, detail=detail)
        )

    if key_file or plain:
        if url or (key_file and plain):
            raise click.UsageError("--key-file, --plain and URL are one at a time.")
        converted = encrypt_storage(fleet, key_file)
        log(written_anew=converted)
        if as_json:
            emit_json(asdict(read_storage(fleet)) | {"converted": converted})
        else:
            click.echo(
                f"{read_storage(fleet)}: {plural(converted, 'blob was', 'blobs were')} written anew"
            )
        return
    if url is None:
        known = read_storage(fleet)
        if as_json:
            emit_json(asdict(known))
        else:
            click.echo(str(known))
        return
    setting = StorageSetting(url="" if url == LOCAL else url, endpoint=endpoint)
    shown = 0

    def progress(done: int, total: int) -> None:
        nonlocal shown
        if done * 10 // total > shown:
            shown = done * 10 // total
            say(f"{done} of {total} are there")

    moved = move_storage(fleet, setting, progress=progress)
    log(copied=moved.copied)
    if as_json:
        emit_json(asdict(setting) | asdict(moved))
        return
    click.echo(
        f"{setting}: {moved.blobs} chunks and bundle files ({size(moved.blob_bytes)}), "
        f"{moved.copied} of them copied"
    )
