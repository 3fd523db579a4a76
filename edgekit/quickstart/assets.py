"""Where the digits example lies: in an installed wheel, or in the checkout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgekit_runtime.errors import EnvironmentLackError


@dataclass(frozen=True, slots=True, kw_only=True)
class DigitsAssets:
    """The example's files.

    Attributes:
        model_v1: ONNX, the first version.
        model_v2: ONNX, the better one.
        calibration: `.npz` with `image` and `labels`.
        test: The same, held out from training and calibration.
    """

    model_v1: Path
    model_v2: Path
    calibration: Path
    test: Path


def digits_assets() -> DigitsAssets:
    """Find the example.

    Raises:
        EnvironmentLackError: If its files are not where the installation puts them.
    """
    here = Path(__file__).resolve().parent
    folders = [here / "assets", here.parents[1] / "examples" / "digits" / "assets"]
    for folder in folders:
        assets = DigitsAssets(
            model_v1=folder / "digits_v1.onnx",
            model_v2=folder / "digits_v2.onnx",
            calibration=folder / "calibration.npz",
            test=folder / "test.npz",
        )
        files = (assets.model_v1, assets.model_v2, assets.calibration, assets.test)
        if all(file.is_file() for file in files):
            return assets
    raise EnvironmentLackError(
        "the digits example is missing from this installation",
        where=str(folders[0]),
        fix="install edgekit again",
    )
