"""Write the three splits of the handwritten digits: train, calibration and test.

Run by hand, once, with scikit-learn installed; what it writes is shipped in `assets/`:

    python examples/digits/make_data.py --output examples/digits/assets
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

SEED = 20261104
TEST_SAMPLES = 540
CALIBRATION_SAMPLES = 257
# Each pixel of the source counts the dark dots in a block of 4x4 dots.
DARKEST = 16


def split_indices(labels: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """Divide the samples so that every split holds the ten classes in equal proportion.

    Args:
        labels: The class of every sample, shape [N].

    Returns:
        For each split the positions of its samples, shuffled: a split is never sorted by
        class, so that its first samples are as good a choice as any.
    """
    everything = np.arange(len(labels), dtype=np.int64)
    rest, test = train_test_split(
        everything, test_size=TEST_SAMPLES, stratify=labels, random_state=SEED
    )
    train, calibration = train_test_split(
        rest, test_size=CALIBRATION_SAMPLES, stratify=labels[rest], random_state=SEED
    )
    return {"train": train, "calibration": calibration, "test": test}


def write_splits(output: Path) -> None:
    """Write `train.npz`, `calibration.npz` and `test.npz` into a folder.

    Each holds `image` (float32 [N, 1, 8, 8], 0 white to 1 dark) and `labels` (int64 [N]).
    """
    digits = load_digits()
    image = (digits.images[:, np.newaxis] / DARKEST).astype(np.float32)
    labels = digits.target.astype(np.int64)
    output.mkdir(parents=True, exist_ok=True)
    for name, chosen in split_indices(labels).items():
        path = output / f"{name}.npz"
        # numpy dates every member 1980, so the same arrays give the same bytes.
        np.savez_compressed(path, image=image[chosen], labels=labels[chosen])
        print(f"{path}: {len(chosen)} digits, {path.stat().st_size / 1e3:.1f} kB")


def main() -> None:
    """Parse the command line and write the splits."""
    parser = argparse.ArgumentParser(description="Write the splits of the handwritten digits.")
    parser.add_argument("--output", type=Path, required=True, help="the folder to write into")
    write_splits(parser.parse_args().output)


if __name__ == "__main__":
    main()
