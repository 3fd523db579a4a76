"""Read fields out of parsed JSON, collecting every fault instead of stopping at the first."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from edgekit_runtime.errors import EdgekitError

T = TypeVar("T")

_MISSING = object()


class FieldReader:
    """One JSON object with its place in the document; faults gather in a list shared by all.

    Every getter returns a usable value of the right type even where the document has a fault,
    so that reading goes on: ask `faults` afterwards, and use no value if there are any.
    """

    def __init__(self, data: object, *, path: str = "", faults: list[str] | None = None) -> None:
        self.faults: list[str] = [] if faults is None else faults
        self.path = path
        self._data: Mapping[str, object] = {}
        if isinstance(data, dict):
            self._data = data
        else:
            self.fault("", "must be an object")

    def fault(self, field: str, text: str) -> None:
        """Note a fault of one field."""
        place = ".".join(part for part in (self.path, field) if part)
        self.faults.append(f"{place or 'document'}: {text}")

    def names(self) -> list[str]:
        """The keys of the object."""
        return list(self._data)

    def raw(self, field: str) -> object:
        """The value as parsed, or None."""
        return self._data.get(field)

    def text(
        self,
        field: str,
        *,
        pattern: str | None = None,
        default: str | None = None,
        most: int = 4096,
    ) -> str:
        """A string; with `pattern`, one that matches it whole."""
        value = self._data.get(field, default if default is not None else _MISSING)
        if not isinstance(value, str):
            self._wrong(field, value, "a string")
            return ""
        if len(value) > most:
            self.fault(field, f"is longer than {most} characters")
        elif not value.isascii() and _is_broken(value):
            self.fault(field, "holds half a character, which no file can")
        elif pattern is not None and not re.fullmatch(pattern, value):
            self.fault(field, f"{value[:80]!r} does not match {pattern}")
        return value

    def integer(
        self, field: str, *, least: int = 0, most: int = 2**53, default: int | None = None
    ) -> int:
        """A whole number within bounds."""
        value = self._data.get(field, default if default is not None else _MISSING)
        if not isinstance(value, int) or isinstance(value, bool):
            self._wrong(field, value, "a whole number")
            return least
        if not least <= value <= most:
            self.fault(field, f"{value} is not between {least} and {most}")
        return value

    def number(
        self, field: str, *, least: float = float("-inf"), default: float | None = None
    ) -> float:
        """A finite number."""
        value = self._data.get(field, default if default is not None else _MISSING)
        if not isinstance(value, int | float) or isinstance(value, bool):
            self._wrong(field, value, "a number")
            return 0.0
        if not abs(value) < float("inf"):
            self.fault(field, "must be finite")
        elif value < least:
            self.fault(field, f"{value} is below {least}")
        return float(value)

    def boolean(self, field: str, *, default: bool | None = None) -> bool:
        """True or false."""
        value = self._data.get(field, default if default is not None else _MISSING)
        if not isinstance(value, bool):
            self._wrong(field, value, "true or false")
            return False
        return value

    def nested(self, field: str, *, optional: bool = False) -> FieldReader:
        """A nested object; an absent optional one reads as empty."""
        value = self._data.get(field, {} if optional else _MISSING)
        if value is _MISSING:
            self.fault(field, "is missing")
            value = {}
        return FieldReader(value, path=self._at(field), faults=self.faults)

    def items(
        self,
        field: str,
        read: Callable[[FieldReader], T],
        *,
        optional: bool = False,
        most: int = 4096,
    ) -> tuple[T, ...]:
        """A list of objects, each read by `read`."""
        return tuple(
            read(FieldReader(item, path=f"{self._at(field)}[{position}]", faults=self.faults))
            for position, item in enumerate(self.sequence(field, optional=optional, most=most))
        )

    def sequence(self, field: str, *, optional: bool = False, most: int = 4096) -> list[object]:
        """A list, its items unchecked."""
        value = self._data.get(field, [] if optional else _MISSING)
        if not isinstance(value, list):
            self._wrong(field, value, "a list")
            return []
        if len(value) > most:
            self.fault(field, f"has more than {most} items")
            return []
        return value

    def texts(self, field: str, *, optional: bool = False, most: int = 4096) -> tuple[str, ...]:
        """A list of strings."""
        values = self.sequence(field, optional=optional, most=most)
        if not all(isinstance(value, str) for value in values):
            self.fault(field, "must be a list of strings")
        return tuple(value for value in values if isinstance(value, str))

    def _at(self, field: str) -> str:
        return f"{self.path}.{field}" if self.path else field

    def _wrong(self, field: str, value: object, wanted: str) -> None:
        self.fault(field, "is missing" if value is _MISSING else f"must be {wanted}")


def _is_broken(text: str) -> bool:
    """Whether a text of JSON holds what only makes a character together with another one."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def open_document(
    data: bytes,
    *,
    name: str,
    form: tuple[str, int],
    most_bytes: int,
    error: type[EdgekitError],
    where: str,
    fix: str,
) -> FieldReader:
    """Begin to read a versioned JSON document that may hold anything.

    Args:
        data: The document.
        name: What it is, for errors: "manifest".
        form: What `format` and `format_version` must say.
        most_bytes: Its largest length.
        error: What to raise.
        where: The file or topic, for errors.
        fix: What to do about another version.

    Raises:
        EdgekitError: Of the given class, if it is too long, no JSON, or of another format.
    """
    if len(data) > most_bytes:
        raise error(f"the {name} is larger than {most_bytes} bytes", where=where)
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as cause:
        raise error(f"the {name} is no JSON: {cause}", where=where) from cause
    reader = FieldReader(document)
    version = reader.raw("format_version")
    # Not `==` alone: true equals 1.
    if (reader.raw("format"), version) != form or isinstance(version, bool):
        raise error(f"this is no {form[0]} of version {form[1]}", where=where, fix=fix)
    return reader
