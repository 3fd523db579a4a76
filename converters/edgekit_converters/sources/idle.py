"""A large source whose engine holds it only while it is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from edgekit_converters.sources.imported import Arrays
from edgekit_runtime.session import Session

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class IdleSession:
    """A session that is opened when it is needed, and again after it was let go."""

    def __init__(self, open_session: Callable[[], Session]) -> None:
        """Open it once: then it is known that the engine takes the model, and what it says of it.

        Args:
            open_session: Loads the model; its errors are raised here.
        """
        session = open_session()
        self.inputs, self.outputs = session.inputs, session.outputs
        self.runtime = session.runtime
        session.close()
        self._open = open_session
        self._session: Session | None = None

    def wake(self) -> Session:
        """Load the model if that is to be done."""
        if self._session is None:
            self._session = self._open()
        return self._session

    def rest(self) -> None:
        """Let go of the model until it is asked again."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> Arrays:
        """Run one inference; see `Session.run`."""
        return self.wake().run(inputs)

    def close(self) -> None:
        """Let go of the model."""
        self.rest()
