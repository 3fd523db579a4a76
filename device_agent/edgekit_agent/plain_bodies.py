"""Requests without a protocol: a picture, a sound or the bytes of a tensor as the whole body."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgekit_runtime.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgekit_agent.hosted import HostedModel

_SOUND_TYPES: Final = ("audio/wav", "audio/x-wav", "audio/wave", "audio/vnd.wave")


def is_media(content_type: str) -> bool:
    """Whether a body of that type is a picture or a sound."""
    return content_type.startswith(("image/", "audio/"))


def read_media(
    model: HostedModel, content_type: str, body: bytes | bytearray | memoryview
) -> dict[str, NDArray[np.generic]]:
    """The inputs of a model that takes one, from a picture or a sound.

    Pixels from 0 to 255, or samples from -1 to 1, in the input's element type; then the bundle's
    preprocessing does what it does with every input.

    Raises:
        UsageError: If it cannot be read, or the bundle does not say what it would mean.
        EnvironmentLackError: If what decodes it is not installed.
    """
    contract = model.only_input
    steps = [step for step in model.manifest.preprocessing if step.tensor == contract.name]
    kind = "image" if content_type.startswith("image/") else "sound"
    said = next((step.parameters for step in steps if step.op == kind), None)
    if kind == "image":
        if said is None and not steps and contract.dtype != "uint8":
            raise UsageError(
                "the bundle does not say how a picture becomes its input",
                where=contract.name,
                fix="add a step `image` to its preprocessing, or send a tensor",
            )
        from edgekit_runtime.media.image import decode_picture, picture_layout

        layout = picture_layout(contract.shape, said or {}, where=contract.name)
        decoded: NDArray[np.generic] = decode_picture(body, layout)
    else:
        if said is None:
            raise UsageError(
                "the bundle does not say how a sound becomes its input",
                where=contract.name,
                fix="add a step `sound` to its preprocessing, or send a tensor",
            )
        if content_type not in _SOUND_TYPES:
            raise UsageError(f"{content_type} is not read", fix="send audio/wav")
        from edgekit_runtime.media.sound import decode_sound

        decoded = decode_sound(body, contract.shape, said, where=contract.name)
    return {contract.name: decoded.astype(contract.dtype, copy=False)}


def read_raw(
    model: HostedModel, body: bytes | bytearray | memoryview
) -> dict[str, NDArray[np.generic]]:
    """The input of a model that takes one, from its bytes alone, little-endian.

    Raises:
        UsageError: If their number does not fit the input's shape.
    """
    import numpy as np

    contract = model.only_input
    dtype = np.dtype(contract.dtype)
    known = dtype.itemsize
    for size in contract.shape:
        known *= size or 1
    free = sum(size is None for size in contract.shape)
    if not known or len(body) % known or (not free and len(body) != known) or not len(body):
        raise UsageError(
            f"{len(body)} bytes do not make the input {contract.name!r}",
            where=model.plan.bundle,
            fix=f"send {known} bytes" + (", or a multiple of that" if free else ""),
        )
    if free > 1 and len(body) != known:
        raise UsageError(
            f"the input {contract.name!r} leaves several sizes free",
            where=model.plan.bundle,
            fix="send an inference request with a shape",
        )
    shape = [len(body) // known if size is None else size for size in contract.shape]
    array = np.frombuffer(body, dtype=dtype.newbyteorder("<")).reshape(shape)
    return {contract.name: array.astype(dtype, copy=not array.flags.aligned)}
