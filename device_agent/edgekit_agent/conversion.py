"""What is stored, written anew in the form that is configured now: encrypted, plain, or a new key.

Each file is replaced at once, and read in either form meanwhile: models serve on, and a power cut
leaves some files converted and the others to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgekit_agent.chunks import ChunkStore
from edgekit_agent.samples import SampleRing
from edgekit_agent.settings import samples_folder
from edgekit_agent.slots import SlotStore
from edgekit_runtime.errors import EdgekitError


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageConverted:
    """Conversion has ended.

    Attributes:
        files: How many files were written anew.
        trouble: What went wrong with others; empty for nothing.
    """

    files: int
    trouble: str

    def to_text(self) -> str:
        """For people."""
        text = f"{self.files} files were written anew, as [encryption] asks"
        return f"{text}; others were not: {self.trouble}" if self.trouble else text


def stored_files(data: Path) -> Iterator[Path]:
    """Every file below an agent's folder that is encrypted if that is configured."""
    slots = data / "slots"
    if slots.is_dir():
        for content, place in SlotStore(slots).holdings():
            yield from (place / name for name in content.files if (place / name).is_file())
    yield from SampleRing(samples_folder(data), most_bytes=0).files()


def convert_storage(
    *, slots: SlotStore, chunks: ChunkStore, samples: SampleRing
) -> StorageConverted:
    """Convert slots and samples; chunks in another form are deleted, and fetched again."""
    files = 0
    try:
        files, trouble = slots.convert()
        files += samples.convert()
        chunks.drop_outdated()
    except (OSError, EdgekitError) as error:
        trouble = str(error)
    return StorageConverted(files=files, trouble=trouble)
