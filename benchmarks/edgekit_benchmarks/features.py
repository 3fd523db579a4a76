"""What a latency is made of: the seven counts of a model that a board has a price for."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from edgekit_runtime.graph.workload import Workload

# In the order of every coefficient vector. Products of any other kind than convolutions are
# matrix products, as pointwise convolutions are; their weights are priced once more as memory.
FEATURES: Final = (
    "conv3x3_stride1_macs",
    "conv_other_macs",
    "matrix_macs",
    "depthwise_macs",
    "activation_elements",
    "weight_elements",
    "operators",
)
MAC_FEATURES: Final = FEATURES[:4]


class Counting(StrEnum):
    """How the layers that are no products were counted for a set of measurements.

    A prediction must count the user's model in the same way.
    """

    OPERATORS = "operators"
    LAYERS = "layers"


def features_of(workload: Workload, counting: Counting) -> tuple[float, ...]:
    """The counts of a model, in the order of `FEATURES`."""
    if counting is Counting.LAYERS:
        other, operators = workload.traffic_elements, workload.layer_count
    else:
        other, operators = workload.elementwise_elements, workload.op_count
    return (
        float(workload.conv3x3_stride1_macs),
        float(workload.conv_other_macs),
        float(
            workload.pointwise_macs
            + workload.fc_macs
            + workload.matmul_macs
            + workload.recurrent_macs
        ),
        float(workload.depthwise_macs),
        float(workload.conv_activation_elements + other),
        float(workload.weight_elements),
        float(operators),
    )


def macs_of(features: Sequence[float]) -> float:
    """All multiply-accumulates among the features."""
    return sum(features[: len(MAC_FEATURES)])
