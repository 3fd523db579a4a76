"""Write `measurements/models.csv`: the counts of the models that published latencies are of.

Run: `python tools/count_published.py NCNN`, with a clone of Tencent/ncnn at `NCNN`.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from published_models.architectures import build_all
from published_models.ncnn_param import input_shapes, read_layers

from edgekit_benchmarks.features import FEATURES, Counting, count_features, count_macs
from edgekit_benchmarks.layers import Layer

PAGE = Path(__file__).resolve().parent.parent
TABLE = PAGE / "benchmarks" / "edgekit_benchmarks" / "measurements" / "models.csv"
FAMILIES = {
    "squeezenet_ssd": "squeezenet",
    "mobilenet": "mobilenet_v1",
    "mobilenet_ssd": "mobilenet_v1",
    "mobilenet_yolo": "mobilenet_v1",
    "mobilenetv2_yolov3": "mobilenet_v2",
    "resnet18": "resnet",
    "resnet50": "resnet",
    # Their backbones are shuffling ones.
    "shufflenet_v2": "shufflenet",
    "nanodet_m": "shufflenet",
    "yolo-fastestv2": "shufflenet",
    "FastestDet": "shufflenet",
    "efficientnet_b0": "efficientnet",
    "efficientnetv2_b0": "efficientnet",
    "yolov4-tiny": "yolo",
    "yolo-fastest-1.1": "yolo",
}
# Attention and plain matrix products run in kernels of their own, and there is this one model.
LEFT_OUT = {"vision_transformer"}


def main() -> int:
    """Write the table; returns the exit code."""
    bench = Path(sys.argv[1]) / "benchmark"
    models = build_all()
    for name, shape in input_shapes(bench / "benchncnn.cpp").items():
        path = bench / "models" / f"{name}.param"
        if not path.exists() or name in LEFT_OUT:
            continue
        plain = name.removesuffix("_int8")
        family = FAMILIES.get(plain, plain)
        models[f"ncnn:{name}"] = (family, read_layers(path, shape))
    # The same model in TensorFlow's table.
    models["mnasnet_1.0_224"] = models["ncnn:mnasnet"]
    rows = [
        _row(name, family, layers, counting)
        for name, (family, layers) in models.items()
        for counting in Counting
    ]
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["model", "family", "counting", "macs", *FEATURES])
        writer.writerows(sorted(rows))
    return 0


def _row(name: str, family: str, layers: list[Layer], counting: Counting) -> list[str]:
    counts = count_features(layers, counting)
    return [name, family, counting.value, str(count_macs(layers)), *(f"{n:.0f}" for n in counts)]


if __name__ == "__main__":
    sys.exit(main())
