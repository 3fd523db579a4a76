from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from edgekit_runtime.errors import UnsupportedModelError

node = helper.make_node
# Left, top, right, bottom: inside, over the borders, outside, turned round, of no size.
REGIONS = np.array(
    [
        [1, 2, 7.5, 8], [-4, -3, 5, 6], [3, 3, 40, 30], [20, 20, 25, 25], [6, 6, 2, 3],
        [4.5, 4.5, 4.5, 4.5], [0, 0, 11, 9], [-50, -50, 60, 70],
    ],
    dtype=np.float32,
)  # fmt: skip


def _inputs(batch: int) -> dict[str, Any]:
    rng = np.random.default_rng(4)
    numbers = np.arange(len(REGIONS)) % batch
    image = rng.normal(size=(batch, 3, 10, 12)).astype(np.float32)
    return {"x": image, "rois": REGIONS, "numbers": numbers.astype(np.int64)}


@pytest.mark.parametrize("samples", [0, 1, 3])
@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("coordinates", ["half_pixel", "output_half_pixel", ""])
@pytest.mark.parametrize(("opset", "scale", "batch"), [(10, 1.0, 1), (16, 0.5, 2), (16, 1.5, 3)])
def test_roi_align(
    agree: Any, mode: str, samples: int, coordinates: str, opset: int, scale: float, batch: int
) -> None:
    attributes: dict[str, Any] = {"output_height": 3, "output_width": 2, "spatial_scale": scale}
    if coordinates:
        attributes["coordinate_transformation_mode"] = coordinates
    if opset == 10:
        attributes.pop("coordinate_transformation_mode", None)
        opset = 13
    align = node(
        "RoiAlign", ["x", "rois", "numbers"], ["y"], mode=mode, sampling_ratio=samples, **attributes
    )
    arrays = _inputs(batch)
    free = {"rois": [0], "numbers": [0]} | ({"x": [0]} if batch > 1 else {})
    fewer = {**arrays, "rois": REGIONS[:3], "numbers": arrays["numbers"][:3]}
    if mode == "max" and samples == 0:
        with pytest.raises(UnsupportedModelError, match="depends on the regions"):
            agree(align, [arrays], opset=opset, free=free)
        return
    agree(align, [arrays, fewer], opset=opset, free=free, tolerance=1e-5)


def test_max_roi_pool_is_refused_with_the_reason(agree: Any) -> None:
    pool = node("MaxRoiPool", ["x", "rois"], ["y"], pooled_shape=[2, 2], name="old")
    rois = np.concatenate([np.zeros((8, 1), np.float32), REGIONS], axis=1)
    with pytest.raises(UnsupportedModelError, match=r"old \(MaxRoiPool\): the sizes"):
        agree(pool, {"x": _inputs(1)["x"], "rois": rois})
