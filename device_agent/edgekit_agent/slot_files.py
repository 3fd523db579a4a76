"""The files of an installed version, for a process that was told what to load: plain or encrypted.

An encrypted model is handed to its engine as a file in anonymous memory; see `Vault.plain_file`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgekit_runtime.bundle.manifest import MANIFEST_NAME, Manifest, Variant, parse_manifest
from edgekit_runtime.errors import EdgekitError
from edgekit_runtime.sealing.vault import open_vault

if TYPE_CHECKING:
    from edgekit_agent.plans import ModelPlan
    from edgekit_runtime.session import EngineSession


class SlotFiles:
    """Reads what a `ModelPlan` names."""

    def __init__(self, plan: ModelPlan) -> None:
        """Read nothing yet."""
        self._plan = plan
        self._folder = Path(plan.folder)
        self._vault = open_vault(plan.data or plan.folder, plan.encryption)

    def read(self, name: str, *, most: int | None = None) -> bytes:
        """A file's content, or its first `most` bytes.

        Args:
            name: Its path in the bundle.
            most: How much is enough; None for all.

        Raises:
            OSError: If it cannot be read.
            EdgekitError: If it is encrypted, and damaged or its key is not here.
        """
        return self._vault.read(self._folder / name, most=most)

    def manifest(self) -> Manifest:
        """The bundle's manifest; errors as `read`, and `InvalidBundleError` for a broken one."""
        return parse_manifest(self.read(MANIFEST_NAME), where=str(self._folder / MANIFEST_NAME))

    def most_memory_file_bytes(self) -> int:
        """The largest file that `open_session` may write into memory; 0 where it writes none."""
        if not self._plan.encryption:
            return 0
        files = [path for path in self._folder.rglob("*") if path.is_file()]
        return max((path.stat().st_size for path in files), default=0)

    def open_session(self, variant: Variant) -> EngineSession:
        """Load a variant's model; errors as `read` and `edgekit_runtime.session.open_session`."""
        from edgekit_runtime.session import open_session

        path = self._folder / variant.file
        with self._vault.plain_file(path) as model:
            try:
                return open_session(model, threads=self._plan.threads, runtime=self._plan.runtime)
            except EdgekitError as error:
                if model == path:
                    raise
                # Its place in memory says nothing to a reader.
                raise type(error)(error.what, where=str(path), fix=error.fix) from error
