"""Python in process: the model that a device runs, or one out of a bundle file, in this process."""

from __future__ import annotations

import mimetypes
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from edgekit_agent.config import load_config
from edgekit_agent.hardware import choose_runtime, choose_variant, detect_hardware
from edgekit_agent.hosted import HostedModel
from edgekit_agent.journal import load_journal
from edgekit_agent.live_stats import LiveStats
from edgekit_agent.plain_bodies import is_media, read_media
from edgekit_agent.plans import ModelPlan
from edgekit_agent.slots import SlotStore
from edgekit_agent.state import Slot
from edgekit_agent.telemetry.spool import write_counted
from edgekit_runtime.arrays import read_arrays
from edgekit_runtime.bundle.archive import BundleArchive
from edgekit_runtime.bundle.manifest import MANIFEST_NAME, Manifest
from edgekit_runtime.errors import UsageError
from edgekit_runtime.files import require_file
from edgekit_runtime.sealing.vault import Encryption, open_vault

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

BUNDLE_SUFFIX: Final = ".ekb"
ARRAY_SUFFIXES: Final = (".npy", ".npz")
_TELL_SECONDS: Final = 30.0
_MEDIA_TYPES: Final = {".wav": "audio/wav", ".webp": "image/webp"}


class LocalModel:
    """A model in this process, with the pre- and postprocessing of its bundle.

    Use it in a `with` statement, or call `close`. Safe for use by several threads; one request is
    computed at a time.
    """

    def __init__(
        self,
        hosted: HostedModel,
        folder: tempfile.TemporaryDirectory[str] | None = None,
        *,
        data: Path | None = None,
    ) -> None:
        """Wrap a hosted model.

        Args:
            hosted: The model.
            folder: Goes when the model is closed.
            data: Of the agent that is told what it did; None for none.
        """
        self._hosted = hosted
        self._folder = folder
        self._data = data
        self._told = LiveStats()
        self._telling = threading.Lock()
        self._next_telling = time.monotonic() + _TELL_SECONDS

    def __enter__(self) -> LocalModel:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def manifest(self) -> Manifest:
        """Of its bundle: inputs, outputs, labels."""
        return self._hosted.manifest

    @property
    def variant(self) -> str:
        """The id of the variant that fits this device."""
        return self._hosted.variant.id

    @property
    def stats(self) -> LiveStats:
        """Counters and latencies since it was loaded."""
        return self._hosted.stats

    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.generic]]:
        """Answer one request.

        Args:
            inputs: An array for each of the bundle's inputs, with its batch axis.

        Raises:
            UsageError: If the inputs do not fit.
            InsaneAnswerError: If the answer holds NaN or infinity.
            EdgekitError: If the model fails on them.
        """
        try:
            return self._hosted.infer(inputs)
        finally:
            if self._data and time.monotonic() >= self._next_telling:
                self._tell()

    def read_file(self, path: Path) -> Iterator[dict[str, NDArray[np.generic]]]:
        """The requests that a file holds.

        Args:
            path: A picture or a sound, which is one request; or an `.npz` or `.npy`, whose arrays
                hold one request for each entry of their first axis.

        Raises:
            UsageError: If it cannot be read, or does not fit the model's inputs.
        """
        if path.suffix.lower() in ARRAY_SUFFIXES:
            yield from self._read_arrays(path)
            return
        content_type = media_type(path)
        if not is_media(content_type):
            raise UsageError(
                "this is neither a picture nor a sound nor an array",
                where=str(path),
                fix="give .png, .jpg, .wav, .npy or .npz",
            )
        require_file(path, kind="a picture or a sound")
        try:
            yield read_media(self._hosted, content_type, path.read_bytes())
        except UsageError as error:
            raise UsageError(error.what, where=str(path), fix=error.fix) from error

    def close(self) -> None:
        """Let go of the model, and leave what it did to the agent's report."""
        self._hosted.close()
        self._tell()
        if self._folder:
            self._folder.cleanup()

    def _tell(self) -> None:
        with self._telling:
            self._next_telling = time.monotonic() + _TELL_SECONDS
            total = self._hosted.stats.ended()
            done = total.since(self._told)
            if self._data and done.requests and write_counted(self._data, self._hosted.plan, done):
                self._told = total

    def _read_arrays(self, path: Path) -> Iterator[dict[str, NDArray[np.generic]]]:
        arrays = read_arrays(path, kind="inputs")
        if set(arrays) == {""}:
            arrays = {self._hosted.only_input.name: arrays[""]}
        missing = [item.name for item in self.manifest.inputs if item.name not in arrays]
        if missing:
            raise UsageError(
                f"there is no array for {', '.join(missing)}",
                where=str(path),
                fix="save them with numpy.savez(path, INPUT_NAME=array)",
            )
        wanted = {item.name: arrays[item.name] for item in self.manifest.inputs}
        counts = {len(array) if array.ndim else -1 for array in wanted.values()}
        if len(counts) != 1 or counts == {-1}:
            raise UsageError("the arrays differ in how many samples they hold", where=str(path))
        for position in range(counts.pop()):
            yield {
                item.name: wanted[item.name][position : position + 1].astype(
                    item.dtype, casting="same_kind"
                )
                for item in self.manifest.inputs
            }


def load_model(model: str | Path, *, config: Path, threads: int | None = None) -> LocalModel:
    """Load a model into this process.

    Args:
        model: The name of a bundle that the agent of `config` serves, or the path of an `.ekb`.
        config: The agent's `agent.toml`; not read for an `.ekb`.
        threads: How many threads one inference may use; by default what the agent's own may, or 1.

    Raises:
        UsageError: If there is no such bundle.
        EdgekitError: If it does not fit this device, or cannot be loaded.
    """
    if str(model).endswith(BUNDLE_SUFFIX):
        return _load_file(Path(model), threads=threads or 1)
    if Path(model).is_file():
        raise UsageError(
            "this is no bundle file",
            where=str(model),
            fix=f"give a {BUNDLE_SUFFIX} file, which `edgekit bundle create` makes of a model, or "
            "the name of a bundle that the agent serves",
        )
    settings = load_config(config)
    records = load_journal(settings.data / "journal.json").bundles
    slot = records[str(model)].serving if str(model) in records else None
    if slot is None:
        known = ", ".join(sorted(name for name, record in records.items() if record.serving))
        raise UsageError(
            f"this agent serves no bundle {str(model)!r}",
            where=str(settings.data),
            fix=f"there are: {known or 'none'}; or give the path of an .ekb file",
        )
    return LocalModel(
        HostedModel(
            _plan(
                settings.data,
                str(model),
                slot,
                threads=threads or settings.limits.inference_threads,
                encryption=settings.encryption,
            )
        ),
        data=settings.data,
    )


def media_type(path: Path) -> str:
    """The content type of a file by its name; empty if unknown."""
    suffix = path.suffix.lower()
    return _MEDIA_TYPES.get(suffix) or mimetypes.guess_type(path.name)[0] or ""


def _plan(
    data: Path, bundle: str, slot: Slot, *, threads: int, encryption: Encryption
) -> ModelPlan:
    text = encryption.to_text()
    slots = SlotStore(data / "slots", open_vault(str(data), text))
    manifest = slots.manifest(bundle, slot.digest)
    return ModelPlan(
        bundle=bundle,
        version=slot.version,
        digest=slot.digest,
        folder=str(slots.path(bundle, slot.digest)),
        variant=slot.variant,
        runtime=choose_runtime(manifest.variant(slot.variant), detect_hardware()),
        threads=threads,
        data=str(data),
        encryption=text,
    )


def _load_file(path: Path, *, threads: int) -> LocalModel:
    hardware = detect_hardware()
    folder = tempfile.TemporaryDirectory(prefix="edgekit-model-", ignore_cleanup_errors=True)
    try:
        with BundleArchive(path) as archive:
            manifest = archive.manifest
            variant = choose_variant(manifest, hardware)
            for name in (MANIFEST_NAME, *manifest.files_for(variant)):
                target = Path(folder.name) / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(name))
        plan = ModelPlan(
            bundle=manifest.name,
            version=manifest.version,
            digest="",
            folder=folder.name,
            variant=variant.id,
            runtime=choose_runtime(variant, hardware),
            threads=threads,
        )
        return LocalModel(HostedModel(plan), folder)
    except BaseException:
        folder.cleanup()
        raise
