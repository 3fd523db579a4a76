"""Logs on standard error, one JSON object a line."""

from __future__ import annotations

import json
import logging
import sys
from collections import deque
from typing import Final

_MAX_LINE: Final = 4000
_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime"}


class JsonFormatter(logging.Formatter):
    """Writes a record, with everything given as `extra`, as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, object] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in record.__dict__.items() if name not in _STANDARD}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class RecentLines(logging.Handler):
    """Keeps the last lines in memory, for whoever asks for them."""

    def __init__(self, most: int) -> None:
        """Keep that many."""
        super().__init__()
        self.setFormatter(JsonFormatter())
        self._lines: deque[str] = deque(maxlen=most)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        self._lines.append(self.format(record)[:_MAX_LINE])

    def last(self, count: int) -> list[str]:
        """The last lines, oldest first."""
        return list(self._lines)[-count:] if count else []


def set_up_logs(level: str) -> None:
    """Send this process's logs to standard error; for a process's main function only."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("edgekit_agent")
    logger.handlers = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False
