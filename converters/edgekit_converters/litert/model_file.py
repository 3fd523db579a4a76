"""A `.tflite` file as the object tree of LiteRT's schema, whatever wrote it."""

from __future__ import annotations

from typing import Any

import numpy as np


def read_model(schema: Any, content: bytes) -> Any:
    """The `ModelT` of a file whose bounds are checked.

    The data of its buffers are uint8 arrays or None, those that large files hold behind the
    tables included, so that `edgekit_converters.litert.emit.pack` writes all of it again.

    Args:
        schema: LiteRT's generated schema module.
        content: The bytes of the file.
    """
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    for buffer in model.buffers or []:
        if buffer.data is not None:
            buffer.data = np.asarray(buffer.data, dtype=np.uint8)
        elif buffer.offset > 1:
            # ai-edge-quantizer puts the weights there from a megabyte on.
            raw = content[buffer.offset : buffer.offset + buffer.size]
            buffer.data = np.frombuffer(raw, dtype=np.uint8)
            buffer.offset = buffer.size = 0
    return model


def text_of(name: Any) -> str:
    """A name of the schema, which is bytes or absent, as text."""
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name or "")
