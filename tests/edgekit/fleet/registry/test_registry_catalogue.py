from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgekit.fleet.audit import read_audit, verify_audit
from edgekit.fleet.registry.catalogue import Registry
from edgekit.fleet.registry.entries import Stage, parse_name
from edgekit.fleet.store.tables import DeploymentRow, DeviceRow
from edgekit_runtime.bundle.archive import BundleArchive
from edgekit_runtime.errors import (
    EdgekitError,
    GateFailedError,
    UsageError,
    VerificationError,
)


def actions(registry: Registry) -> list[tuple[str, str, str]]:
    verify_audit(registry.database)
    with registry.database.read() as session:
        return [(e.actor, e.action, e.subject) for e in reversed(read_audit(session))]


def test_a_version_is_kept_with_all_that_it_says_of_itself(registry, make_version) -> None:
    bundle = make_version(top1=0.97)
    entry = registry.add(bundle, tags={"team": "vision"}, note="first")
    assert registry.get("digits", "1.0.0") == entry
    assert registry.all() == (entry,)
    with BundleArchive(bundle) as archive:
        assert entry.manifest == archive.manifest
    (metric,) = entry.metrics
    assert (metric.variant, metric.name, metric.value) == ("onnx-float", "top1", 0.97)
    assert metric.origin == "500 samples of dddddddddddd"
    assert entry.to_json()["manifest"]["lineage"]["revision"] == "abc"
    assert (entry.tags, entry.note, entry.stage) == ({"team": "vision"}, "first", "development")
    with registry.opened(entry) as file:
        assert file.read_bytes() == bundle.read_bytes()
    assert actions(registry) == [("alice", "version.registered", "digits@1.0.0")]


def test_the_same_again_changes_nothing(registry, make_version) -> None:
    first = registry.add(make_version(), note="first")
    assert registry.add(make_version(), note="again") == first
    assert len(actions(registry)) == 1


@pytest.mark.parametrize("retired", [False, True])
def test_the_same_version_with_other_content_is_refused(registry, make_version, retired) -> None:
    first = registry.add(make_version())
    if retired:
        first = registry.mark_retired("digits", "1.0.0", {})
    with pytest.raises(GateFailedError, match="other content"):
        registry.add(make_version(model=b"another model"))
    assert registry.all() == (first,)


def test_a_damaged_bundle_is_not_registered(registry, make_version, tmp_path: Path) -> None:
    bundle = make_version(model=b"model " * 100)
    bundle.write_bytes(bundle.read_bytes().replace(b"model model", b"wrong model", 1))
    with pytest.raises(EdgekitError):
        registry.add(bundle)
    assert registry.all() == ()
    assert not (tmp_path / "bundles").exists()


def test_a_damaged_file_is_told_and_healed_by_the_same_bundle(registry, make_version) -> None:
    bundle = make_version()
    entry = registry.add(bundle)
    with registry.opened(entry) as file:
        file.write_bytes(b"gone wrong")
    with pytest.raises(VerificationError, match="missing or damaged"), registry.opened(entry):
        pass
    registry.add(bundle)
    with registry.opened(entry) as file:
        assert file.read_bytes() == bundle.read_bytes()


def test_versions_stand_in_the_order_of_versions(registry, make_version) -> None:
    for version in ("1.9.0", "1.10.0-rc.1", "1.10.0"):
        registry.add(make_version(version))
    registry.add(make_version("0.1.0", name="bells"))
    assert [entry.name for entry in registry.all()] == [
        "bells@0.1.0",
        "digits@1.10.0",
        "digits@1.10.0-rc.1",
        "digits@1.9.0",
    ]


def test_one_version_of_a_bundle_is_in_production(registry, make_version) -> None:
    for version in ("1.0.0", "2.0.0"):
        registry.add(make_version(version))
    registry.add(make_version("1.0.0", name="bells"))
    registry.promote("bells", "1.0.0", Stage.PRODUCTION)
    registry.promote("digits", "1.0.0", Stage.PRODUCTION)
    registry.promote("digits", "2.0.0", Stage.PRODUCTION)
    registry.promote("digits", "2.0.0", Stage.PRODUCTION)
    assert {entry.name: entry.stage.value for entry in registry.all()} == {
        "bells@1.0.0": "production",
        "digits@1.0.0": "archived",
        "digits@2.0.0": "production",
    }
    assert [a for _, a, _ in actions(registry)].count("version.promoted") == 3
    with registry.database.read() as session:
        newest = read_audit(session)[0]
    assert newest.detail == {"from": "development", "to": "production", "archived": ["1.0.0"]}


def test_what_is_retired_stays_so(registry, make_version) -> None:
    registry.add(make_version())
    registry.mark_retired("digits", "1.0.0", {})
    registry.mark_retired("digits", "1.0.0", {})
    with pytest.raises(GateFailedError, match="is retired"):
        registry.promote("digits", "1.0.0", Stage.STAGING)
    with pytest.raises(UsageError, match="not promoted into retirement"):
        registry.promote("digits", "1.0.0", Stage.RETIRED)
    assert [a for _, a, _ in actions(registry)].count("version.retired") == 1


def test_tags_are_set_changed_and_taken_away(registry, make_version) -> None:
    registry.add(make_version(), tags={"team": "vision"})
    registry.tag("digits", "1.0.0", {"team": "sound", "reviewed": ""})
    assert registry.get("digits", "1.0.0").tags == {"reviewed": "", "team": "sound"}
    entry = registry.tag("digits", "1.0.0", {"team": None, "never-there": None})
    assert entry.tags == {"reviewed": ""}


@pytest.mark.parametrize("tags", [{"": "x"}, {"a b": "x"}, {"a": "x" * 257}, {"a": "x\ny"}])
def test_what_is_no_tag_is_refused(registry, make_version, tags) -> None:
    with pytest.raises(UsageError, match="tag"):
        registry.add(make_version(), tags=tags)
    assert registry.all() == ()


def test_figures_are_added_and_measured_ones_stay(registry, make_version) -> None:
    registry.add(make_version(top1=0.95))
    registry.add_metric("digits", "1.0.0", "f1", 0.5)
    entry = registry.add_metric("digits", "1.0.0", "f1", 0.9)
    assert {(m.variant, m.name): m.value for m in entry.metrics} == {
        ("", "f1"): 0.9,
        ("onnx-float", "top1"): 0.95,
    }
    with pytest.raises(GateFailedError, match="was measured when the bundle was made"):
        registry.add_metric("digits", "1.0.0", "top1", 1.0, variant="onnx-float")
    with pytest.raises(UsageError, match="no variant 'gpu'") as caught:
        registry.add_metric("digits", "1.0.0", "f1", 1.0, variant="gpu")
    assert caught.value.fix == "it has: onnx-float"
    for name, value in (("f 1", 1.0), ("f1", float("nan"))):
        with pytest.raises(UsageError, match="is no metric"):
            registry.add_metric("digits", "1.0.0", name, value)


def bench_results(path: Path, model_sha256: str) -> Path:
    path.write_text(
        json.dumps(
            {
                "format": "edgekit-bench",
                "format_version": 2,
                "models": [
                    {
                        "measurements": [
                            {
                                "model": "model.onnx",
                                "sha256": model_sha256,
                                "runtime": "onnxruntime",
                                "runtime_version": "1.32.0",
                                "threads": 2,
                                "reference_kernels": False,
                                "latency": {
                                    "runs": 100,
                                    "median_ms": 1.5,
                                    "median_low_ms": 1.4,
                                    "median_high_ms": 1.6,
                                    "p99_ms": 2.5,
                                },
                                "memory": {"peak_bytes": 4096},
                                "machine": {"board": "Raspberry Pi 4 (2 GB)"},
                                "measured_at": "2026-11-24T10:00:00Z",
                            }
                        ]
                    }
                ],
            }
        )
    )
    return path


def test_a_benchmark_of_the_versions_own_files_becomes_figures(
    registry, make_version, tmp_path: Path
) -> None:
    entry = registry.add(make_version())
    digest = entry.manifest.files["model.onnx"].sha256
    entry = registry.add_benchmark(
        "digits", "1.0.0", bench_results(tmp_path / "bench.json", digest)
    )
    figures = {m.name: m.value for m in entry.metrics if m.variant == "onnx-float"}
    assert figures["median_ms/onnxruntime-2t/Raspberry-Pi-4-2-GB"] == 1.5
    assert figures["peak_bytes/onnxruntime-2t/Raspberry-Pi-4-2-GB"] == 4096
    with pytest.raises(UsageError, match="nothing in it was measured"):
        registry.add_benchmark("digits", "1.0.0", bench_results(tmp_path / "other.json", "0" * 64))


def test_where_a_version_ran_is_remembered(registry, make_version) -> None:
    registry.add(make_version())
    with registry.database.write() as session:
        session.add(
            DeviceRow(
                id="d1",
                pseudonym="p",
                first_seen=0.0,
                online=True,
                agent="",
                order_version=0,
                labels={},
                hardware={},
                state={},
            )
        )
        session.flush()
        for at, outcome in ((1.0, "active"), (2.0, "rolled_back")):
            session.add(
                DeploymentRow(
                    device_id="d1",
                    bundle="digits",
                    version="1.0.0",
                    at=at,
                    outcome=outcome,
                    reason="",
                )
            )
    assert [(d.at, d.outcome) for d in registry.deployments("digits", "1.0.0")] == [
        (2.0, "rolled_back"),
        (1.0, "active"),
    ]
    assert registry.deployments("digits", "2.0.0") == ()


def test_a_version_that_is_not_there_is_told_with_those_that_are(registry, make_version) -> None:
    registry.add(make_version("1.2.3"))
    with pytest.raises(UsageError, match="not in the registry") as caught:
        registry.get("digits", "9.9.9")
    assert caught.value.fix == "there is: 1.2.3"
    assert parse_name("digits@1.2.3") == ("digits", "1.2.3")
    for text in ("digits", "digits@", "digits@one", "@1.0.0", "Di gits@1.0.0"):
        with pytest.raises(UsageError):
            parse_name(text)
