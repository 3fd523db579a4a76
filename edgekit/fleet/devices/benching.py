"""Measure a model on a device of the fleet, predict the same, and learn from the difference.

A device measures what it serves, or what runs beside that: the variant that it chose, with its
engine, its threads and the bundle's golden samples. Whatever it measured and is still kept
calibrates its profile.
"""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgekit.fleet.devices.inventory import Device
from edgekit.fleet.devices.requests import Asked, RequestBook
from edgekit.fleet.folder import Fleet
from edgekit_runtime.errors import EdgekitError, GateFailedError, UsageError
from edgekit_runtime.fields import FieldReader
from edgekit_runtime.files import sha256_of
from edgekit_runtime.reports import ShadowPhase
from edgekit_runtime.requests import RequestKind

if TYPE_CHECKING:
    from edgekit.fleet.store.database import Database
    from edgekit_benchmarks.anchor import Anchor
    from edgekit_benchmarks.bench import ModelBench
    from edgekit_benchmarks.predict import Prediction
    from edgekit_benchmarks.profile import Profile
    from edgekit_benchmarks.results import RecordedRun
    from edgekit_runtime.bundle.manifest import Manifest

_MOST_KEPT: Final = 200
_MAX_TEXT: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a device says that it measured.

    Attributes:
        device: Which.
        number: Of the request that it answered.
        bundle: What it serves, or runs beside that.
        version: Of that.
        variant: The one that it chose.
        runtime: The engine.
        runtime_version: Its version.
        threads: How many one inference used.
        board: What the device calls its board; empty where it does not know.
        median_ms: Over the golden samples, at most 200 runs or a second.
        peak_bytes: Of the measuring process, Python and engine included.
        at: When the answer came; seconds since 1970.
    """

    device: str
    number: int
    bundle: str
    version: str
    variant: str
    runtime: str
    runtime_version: str
    threads: int
    board: str
    median_ms: float
    peak_bytes: int
    at: float

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self) | {"kind": "measured on that device"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """A private profile that was made of a device.

    Attributes:
        path: Its file.
        profile: Its name, for `edgekit bench MODEL --profile`.
        base: The board whose prices it has, times what was measured.
        anchors: What the measurements said, by engine, dtype and threads.
    """

    path: Path
    profile: str
    base: str
    anchors: tuple[Anchor, ...]


def held_version(fleet: Fleet, device: Device, model: str) -> tuple[str, str]:
    """The bundle and version that a device holds and a model means.

    It holds what it serves, and what runs beside that without being served.

    Args:
        fleet: Whose releases say what is in a bundle.
        device: Which.
        model: The bundle's name, for the version that serves; NAME@VERSION; or a model or bundle
            file that it is made of.

    Raises:
        UsageError: If the device does not hold it; says what it holds, and how it would.
    """
    held = [
        (bundle, version)
        for bundle, state in sorted(device.bundles.items())
        for version in _versions(state)
    ]
    path = Path(model)
    if path.is_file():
        digest = sha256_of(path)
        for bundle, version in held:
            if digest in _digests(fleet, bundle, version):
                return bundle, version
        raise _not_held(device, held, f"nothing that it holds is made of the file {path.name}")
    name, _, wanted = model.partition("@")
    found = [(bundle, version) for bundle, version in held if bundle == name]
    if not found:
        raise _not_held(device, held, f"it holds no bundle {name!r}, and there is no such file")
    if not wanted:
        return found[0]
    if (name, wanted) not in found:
        raise _not_held(device, held, f"it does not hold {name} {wanted}")
    return name, wanted


def read_measured(asked: Asked, parts: Sequence[dict[str, Any]]) -> Measured:
    """What a device answered to a request to measure.

    Raises:
        GateFailedError: If it could not, or answered nonsense.
    """
    where = f"{asked.device}, request {asked.number}"
    part = parts[0] if parts else {}
    if not asked.ok:
        raise GateFailedError(
            f"{asked.device} did not measure it: {str(part.get('error', 'no reason given'))[:500]}",
            where=where,
        )
    reader = FieldReader(part)
    found = Measured(
        device=asked.device,
        number=asked.number,
        bundle=reader.text("bundle", most=_MAX_TEXT),
        version=reader.text("version", most=_MAX_TEXT),
        variant=reader.text("variant", most=_MAX_TEXT),
        runtime=reader.text("runtime", most=_MAX_TEXT),
        runtime_version=reader.text("runtime_version", default="", most=_MAX_TEXT),
        threads=reader.integer("threads", least=1, most=1024),
        board=reader.text("board", default="", most=_MAX_TEXT),
        median_ms=reader.number("median_ms", least=0.0),
        peak_bytes=reader.integer("peak_bytes", default=0),
        at=asked.answered or asked.created,
    )
    if asked.arguments.get("version", found.version) != found.version:
        reader.fault("version", f"is not {asked.arguments['version']}, which was asked for")
    if not found.median_ms:
        reader.fault("median_ms", "is nothing")
    if reader.faults:
        raise GateFailedError(
            f"{asked.device} answered nonsense: {'; '.join(reader.faults)}", where=where
        )
    return found


def measurements_of(database: Database, device: str) -> Iterator[Measured]:
    """Everything that a device measured and that is still kept, the newest first."""
    book = RequestBook(database, actor="cli")
    for asked in book.of(device, newest=_MOST_KEPT):
        if asked.kind is RequestKind.BENCH and asked.ok and asked.answered is not None:
            # What it cannot be blamed for now: an older agent's answer.
            with contextlib.suppress(GateFailedError):
                yield read_measured(asked, book.answer(device, asked.number))


def predict_measured(
    fleet: Fleet, measured: Measured, profiles: Sequence[str]
) -> tuple[ModelBench, tuple[Prediction, ...]]:
    """The model that a device measured, and what is predicted of it with the same settings.

    Args:
        fleet: Whose release holds the model.
        measured: What the device measured.
        profiles: Of boards; at least one.

    Raises:
        UsageError: If a profile is none, or nothing can be predicted with these settings.
        VerificationError: If the release is missing or damaged.
        EnvironmentLackError: If a package is missing that reads the model's format.
    """
    from edgekit_benchmarks.bench import run_bench
    from edgekit_benchmarks.plan import Plan

    name, data = _released_model(fleet, measured)
    with tempfile.TemporaryDirectory(prefix="edgekit-bench-") as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        plan = Plan(
            profiles=profiles,
            measure_here=False,
            threads=(measured.threads,),
            runtime=None if measured.runtime == "onnxruntime" else measured.runtime,
        )
        (model,) = run_bench([path], plan).models
    return model, model.predictions


def check_profiles(names: Sequence[str], *, calibrate: bool) -> None:
    """Go on only if these are profiles, and the first can be calibrated, before anything is asked.

    Raises:
        UsageError: If not.
    """
    from edgekit_benchmarks.anchor import require_board
    from edgekit_benchmarks.profile import load_profiles

    for name in names:
        load_profiles(name)
    if calibrate and names:
        require_board(names[0])


def board_profile(measured: Measured) -> Profile | None:
    """The profile of the board that a device says it is, or None."""
    from edgekit_benchmarks.anchor import guess_profile
    from edgekit_benchmarks.profile import list_profiles

    return guess_profile([_run(measured, sha256="0" * 64, counts=None)], list_profiles())


def calibrate_device(
    fleet: Fleet, measurements: Sequence[Measured], *, base: str, name: str | None = None
) -> Calibrated:
    """Write a private profile of a device from everything that it measured.

    Of a model that was measured several times the newest measurement counts; what is not released
    any more counts no more.

    Args:
        fleet: Whose releases hold the models.
        measurements: Of one device, the newest first.
        base: The board that the device is, or is most like; a profile that was calibrated from a
            device counts as its board's.
        name: The new profile's; None for the board's and the device's.

    Raises:
        UsageError: If nothing can be learned from the newest, or a name is none.
        EnvironmentLackError: If the file cannot be written.
    """
    from edgekit_benchmarks.anchor import calibrate_runs, require_board

    first = measurements[0]
    board = require_board(base).name
    runs: dict[tuple[str, str, str, int], RecordedRun] = {}
    for item in measurements:
        try:
            digest = _model_sha256(fleet, item)
            key = (digest, item.runtime, item.runtime_version, item.threads)
            if key not in runs:
                model, _ = predict_measured(fleet, item, [board])
                runs[key] = _run(item, sha256=digest, counts=model.counts)
        except EdgekitError:
            # Of what was measured weeks ago some is retired by now, and is learned from no more.
            if item is first:
                raise
    numbers = ", ".join(str(item.number) for item in measurements[:3])
    path, profile, anchors = calibrate_runs(
        list(runs.values()),
        source=f"measured on the device {first.device} of the fleet {fleet.id}, "
        f"{_day(first.at)}: request{'s' * (len(measurements) > 1)} {numbers}",
        base=board,
        name=name or profile_name(board, first.device),
    )
    return Calibrated(path=path, profile=profile.name, base=board, anchors=anchors)


def profile_name(board: str, device: str) -> str:
    """What a device's profile is called: "raspberrypi4-oven-001"; made anew, the same again."""
    plain = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    return f"{board.removesuffix(f'-{plain}')}-{plain}"


def _run(measured: Measured, *, sha256: str, counts: Any) -> RecordedRun:
    from edgekit_benchmarks.results import RecordedRun

    return RecordedRun(
        model=f"{measured.bundle} {measured.version} {measured.variant}",
        sha256=sha256,
        runtime=measured.runtime,
        runtime_version=measured.runtime_version,
        threads=measured.threads,
        reference_kernels=False,
        provider=None,
        # A device sends its median alone: of how many runs, and how they spread, is not known.
        runs=1,
        median_ms=measured.median_ms,
        median_low_ms=measured.median_ms,
        median_high_ms=measured.median_ms,
        p99_ms=measured.median_ms,
        peak_bytes=None,
        board=measured.board or None,
        measured_at=f"{_day(measured.at)}T00:00:00Z",
        counts=counts,
    )


def _day(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d}"


def _released_model(fleet: Fleet, measured: Measured) -> tuple[str, bytes]:
    """The model file of a variant: its name and its content."""
    manifest, read = _release(fleet, measured.bundle, measured.version)
    file = manifest.variant(measured.variant).file
    return Path(file).name, read(file)


def _model_sha256(fleet: Fleet, measured: Measured) -> str:
    manifest, _ = _release(fleet, measured.bundle, measured.version)
    return manifest.files[manifest.variant(measured.variant).file].sha256


def _digests(fleet: Fleet, bundle: str, version: str) -> set[str]:
    """SHA-256 of a released bundle, of all its files, and of what they were made of."""
    from edgekit.fleet.release import list_releases

    try:
        manifest, _ = _release(fleet, bundle, version)
    except UsageError:
        # The device serves what this fleet has not released: it came from elsewhere.
        return set()
    files = {
        release.file_sha256
        for release in list_releases(fleet)
        if (release.bundle, release.version) == (bundle, version)
    }
    # The model that the variants were made of stands in the lineage.
    origins = re.findall(r"\b[0-9a-f]{64}\b", json.dumps(manifest.lineage))
    return files | {entry.sha256 for entry in manifest.files.values()} | set(origins)


def _release(fleet: Fleet, bundle: str, version: str) -> tuple[Manifest, Any]:
    from edgekit.fleet.repositories import open_images
    from edgekit_runtime.bundle.manifest import MANIFEST_NAME, parse_manifest
    from edgekit_runtime.orders import target_path

    images = open_images(fleet)
    path = target_path(bundle, version)
    target = images.published_targets().targets.get(path)
    if target is None:
        raise UsageError(
            f"{bundle} {version} is not released by this fleet",
            where=str(fleet.path),
            fix="release the bundle: edgekit release add",
        )
    entries = {entry.path: entry for entry in images.index_of(target).files}
    manifest = parse_manifest(images.read(entries[MANIFEST_NAME]), where=path)
    return manifest, lambda name: images.read(entries[name])


def _versions(state: Mapping[str, Any]) -> list[str]:
    """What a device can measure of a bundle: what serves first, then what runs beside it."""
    versions = [str(state.get("active") or "")]
    match state.get("shadow"):
        case {"version": str(beside), "phase": ShadowPhase.WATCHING.value}:
            versions.append(beside)
    return [version for version in versions if version]


def _not_held(device: Device, held: Sequence[tuple[str, str]], why: str) -> UsageError:
    there = ", ".join(f"{bundle} {version}" for bundle, version in held)
    return UsageError(
        f"{device.id} cannot measure that: {why}",
        where=f"it holds {there or 'nothing yet'}",
        fix="make a bundle of the model (edgekit bundle create), release it (edgekit release add), "
        "and have the device run it: beside what serves (edgekit fleet shadow start), or in its "
        f"place (edgekit fleet order {device.id} NAME@VERSION; edgekit fleet publish)",
    )
