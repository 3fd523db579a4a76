"""Every module of patterns, in the order in which patterns of one operator are tried."""

from edgekit_converters.patterns import (  # noqa: F401
    activation,
    affine,
    affine_before,
    algebra,
    grouping,
    movement,
    normalisation,
    padding,
    recurrent,
    shaping,
    shuffle,
    softmax,
)
