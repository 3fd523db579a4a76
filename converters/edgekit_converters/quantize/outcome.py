"""What a quantizer must have done to be believed: a silent no-op is a failure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from edgekit_runtime.errors import UnsupportedModelError

# Below this, names and per-operator tables weigh more than what quantization saves.
_WEIGHTS_DOMINATE_BYTES: Final = 64 * 1024
_SHARE: Final = 0.5
_SHOWN: Final = 5
_NOTHING: Final = "it has no weights that are worth it, and no operator that can be quantized"


def refuse_quantized(evidence: Sequence[str], *, where: str, what: str = "quantized") -> None:
    """Raise an `UnsupportedModelError` if anything shows that a model is quantized already."""
    if evidence:
        raise UnsupportedModelError(
            f"the model is {what} already: {', '.join(evidence[:_SHOWN])}"
            + (f" and {len(evidence) - _SHOWN} more" if len(evidence) > _SHOWN else ""),
            where=where,
            fix="give the float model that it was made from",
        )


def check_outcome(
    *,
    where: str,
    changed: int,
    replaced_bytes: int,
    bytes_before: int,
    bytes_after: int,
    scheme: str = "int8",
    left: Sequence[str] = (),
) -> None:
    """Check that operators were quantized and that the file shrank.

    Args:
        where: The source's path, for errors.
        changed: How many operators of the result are quantized.
        replaced_bytes: Float weights of the source that the result does not have.
        bytes_before: Size of the source's file.
        bytes_after: Size of the result's file.
        scheme: What the model was quantized to.
        left: Sentences on what stayed as it was, for errors.

    Raises:
        UnsupportedModelError: If nothing changed, or the file did not shrink although weights
            are most of it.
    """
    if not changed:
        raise UnsupportedModelError(
            f"{scheme} changed nothing: " + ("; ".join(left[:_SHOWN]) or _NOTHING),
            where=where,
            fix="convert in float32",
        )
    dominate = replaced_bytes >= max(_WEIGHTS_DOMINATE_BYTES, _SHARE * bytes_before)
    if dominate and bytes_after >= bytes_before:
        raise UnsupportedModelError(
            f"{scheme} did not shrink the model: {bytes_before} bytes before, {bytes_after} after",
            where=where,
            fix="its weights were not quantized; convert in float32, or report the model",
        )
