from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import pytest

from edgekit.fleet.audit import read_audit
from edgekit.fleet.registry.catalogue import Registry
from edgekit.fleet.registry.remote_file import send_file
from edgekit.fleet.registry.sources import _without_secrets, export_bundle, import_bundle
from edgekit.fleet.storage.local import FolderStorage
from edgekit_runtime.errors import EnvironmentLackError, InvalidBundleError, UsageError
from tests.simulators.s3_server import BUCKET, s3_server

pytest.importorskip("fsspec")


def test_a_bundle_comes_from_a_url_and_goes_to_one(registry, make_version, tmp_path) -> None:
    bundle = make_version()
    url = bundle.as_uri()
    entry = import_bundle(registry, url, tags={"team": "vision"}, note="from afar")
    assert (entry.source, entry.tags, entry.note) == (url, {"team": "vision"}, "from afar")
    with registry.database.read() as session:
        (record,) = read_audit(session)
    assert record.detail["source"] == url
    there = tmp_path / "there"
    there.mkdir()
    target = export_bundle(registry, "digits", "1.0.0", there.as_uri() + "/")
    assert target.endswith("/there/digits-1.0.0.ekb")
    assert (there / "digits-1.0.0.ekb").read_bytes() == bundle.read_bytes()


def test_a_bundle_goes_to_another_store_and_back(registry, make_version) -> None:
    first = registry.add(make_version())
    target = export_bundle(registry, "digits", "1.0.0", "memory://shelf/")
    assert import_bundle(registry, target) == first


def test_a_bundle_comes_from_s3_with_what_tells_which_one(registry, make_version) -> None:
    bundle = make_version()
    digest = hashlib.md5(bundle.read_bytes(), usedforsecurity=False).hexdigest()
    with pytest.MonkeyPatch.context() as patch, s3_server(patch) as endpoint:
        patch.setenv("AWS_ENDPOINT_URL", endpoint)
        first = registry.add(bundle)
        target = export_bundle(registry, "digits", "1.0.0", f"s3://{BUCKET}/shelf/")
        other = Registry(registry.database, FolderStorage(bundle.parent / "b"), actor="bob")
        assert import_bundle(other, target).file_sha256 == first.file_sha256
        second = make_version("2.0.0")
        send_file(second, f"s3://{BUCKET}/two.ekb")
        entry = import_bundle(registry, f"s3://{BUCKET}/two.ekb")
        assert entry.tags["origin/etag"] not in ("", digest)
        with pytest.raises(UsageError, match="no such file"):
            import_bundle(registry, f"s3://{BUCKET}/three.ekb")
        with pytest.raises(UsageError, match="no such file"):
            import_bundle(registry, "s3://nobodys/three.ekb")
    assert len(registry.all()) == 2


def test_a_download_tells_how_far_it_is_and_leaves_nothing_when_it_is_ended(
    registry, make_version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_version(model=b"model " * 400_000)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    seen: list[tuple[int, int]] = []

    def interrupted(done: int, total: int) -> None:
        seen.append((done, total))
        if done > 1 << 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_bundle(registry, bundle.as_uri(), progress=interrupted)
    size = bundle.stat().st_size
    assert seen == [(1 << 20, size), (2 << 20, size)]
    assert not list((tmp_path / "temporary").iterdir())
    assert not (tmp_path / "bundles").exists()
    assert registry.all() == ()


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("https://me:secret@x.org/a.ekb?sig=1", "https://x.org/a.ekb"),
        ("s3://bucket/a@b.ekb", "s3://bucket/a@b.ekb"),
        ("/somewhere/a.ekb", "/somewhere/a.ekb"),
        ("dvc:https://me:secret@x.org/m.git#a@v1", "dvc:https://x.org/m.git#a@v1"),
    ],
)
def test_no_secret_of_a_source_is_kept(source: str, shown: str) -> None:
    assert _without_secrets(source) == shown


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("file:///nowhere/x.ekb", UsageError, "no such file"),
        ("eggs://x/y.ekb", UsageError, "no URL that fsspec knows"),
        ("memory://empty/none.ekb", UsageError, "no such file"),
        ("http://127.0.0.1:1/x.ekb", EnvironmentLackError, "needs a package|cannot be reached"),
    ],
)
def test_what_is_not_there_is_said(registry, url: str, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        import_bundle(registry, url)
    assert registry.all() == ()


def test_a_missing_package_is_named_with_the_command(registry, monkeypatch) -> None:
    import fsspec

    def missing(*_: object, **__: object) -> object:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "open", missing)
    with pytest.raises(EnvironmentLackError) as caught:
        import_bundle(registry, "s3://bucket/x.ekb")
    assert caught.value.fix == "pip install s3fs"


def test_what_is_no_bundle_is_not_registered(registry, tmp_path: Path) -> None:
    (tmp_path / "x.ekb").write_bytes(b"no bundle")
    with pytest.raises(InvalidBundleError):
        import_bundle(registry, (tmp_path / "x.ekb").as_uri())
    assert registry.all() == ()


@pytest.fixture
def tracking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed: edgekit[mlflow]")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    mlflow.set_registry_uri(f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_a_version_goes_to_mlflow_and_comes_back(
    registry, make_version, tracking, tmp_path
) -> None:
    from mlflow import MlflowClient

    first = registry.add(make_version(top1=0.95), tags={"team": "vision"})
    place = export_bundle(registry, "digits", "1.0.0", "mlflow:fleet")
    assert place == "models:/digits/1"
    client = MlflowClient()
    run = client.get_run(client.get_model_version("digits", "1").run_id)
    assert run.data.metrics == {"onnx-float/top1": 0.95}
    assert run.data.tags["edgekit.revision"] == "abc"
    assert run.data.tags["team"] == "vision"
    client.log_metric(run.info.run_id, "loss", 0.25)
    again = import_bundle(registry, place)
    assert again.file_sha256 == first.file_sha256
    assert {m.name: m.value for m in again.metrics}["mlflow/loss"] == 0.25
    assert again.tags == {"team": "vision"}
    other = Registry(registry.database, FolderStorage(tmp_path / "other"), actor="bob")
    client.log_artifact(run.info.run_id, str(make_version("2.0.0")))
    newer = import_bundle(other, f"runs:/{run.info.run_id}/digits-2.0.0.ekb")
    assert newer.tags["origin/run"] == run.info.run_id
    by_run = import_bundle(registry, f"runs:/{run.info.run_id}/digits-1.0.0.ekb")
    assert by_run.file_sha256 == first.file_sha256
    for wrong in ("models:/digits", "models:/none/1", "runs:/none/x"):
        with pytest.raises(UsageError):
            import_bundle(registry, wrong)


def test_without_mlflow_the_command_that_installs_it_is_said(registry, monkeypatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(EnvironmentLackError) as caught:
        import_bundle(registry, "models:/digits/1")
    assert caught.value.fix == 'pip install "edgekit[mlflow]"'
