"""Which devices a rollout is for: queries over labels, such as `site=berlin and ram>=1GB`.

    query      = conjunction {"or" conjunction}
    conjunction = negation {"and" negation}
    negation   = "not" negation | "(" query ")" | test
    test       = name                          the label exists
               | name ("=" | "!=" | "<" | "<=" | ">" | ">=") value
               | name "in" "(" value {"," value} ")"

A value is a word, a quoted text, or a number with a unit of bytes (kB, MB, GB, TB: powers of
1000; KiB, MiB, GiB, TiB: of 1024). Two numbers are compared as numbers, `1.10.0` and `1.9.0` as
versions, everything else as text. As in Kubernetes, a device without the label fails every test
of it but `!=`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from edgekit_runtime.errors import UsageError

Label = str | float
Labels = Mapping[str, Label]
_Test = Callable[[Labels], bool]

MAX_QUERY_LENGTH: Final = 1_000
_MAX_DEPTH: Final = 32
_NAME: Final = r"[A-Za-z_][A-Za-z0-9_./-]*"
_TOKEN: Final = re.compile(
    r"""\s*(?:
        (?P<sign>!=|<=|>=|=|<|>|\(|\)|,)
      | "(?P<double>[^"]*)" | '(?P<single>[^']*)'
      | (?P<word>[^\s()!=<>,"']+)
    )""",
    re.VERBOSE,
)
_NUMBER: Final = re.compile(r"([+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*([kKMGT]i?B|B)?")
_UNITS: Final[dict[str, float]] = {
    "B": 1.0,
    **{f"{p}B": 1000.0**n for n, p in enumerate("kMGT", 1)},
    **{f"{p}iB": 1024.0**n for n, p in enumerate("KMGT", 1)},
}
_COMPARISONS: Final[dict[str, Callable[[int], bool]]] = {
    "=": lambda order: order == 0,
    "!=": lambda order: order != 0,
    "<": lambda order: order < 0,
    "<=": lambda order: order <= 0,
    ">": lambda order: order > 0,
    ">=": lambda order: order >= 0,
}


@dataclass(frozen=True, slots=True)
class LabelQuery:
    """A query, ready to be asked of many devices.

    Attributes:
        text: As it was written.
        labels: The labels that it asks for.
    """

    text: str
    labels: frozenset[str]
    _test: _Test

    def matches(self, labels: Labels) -> bool:
        """Whether a device with these labels is meant."""
        return self._test(labels)


def parse_query(text: str) -> LabelQuery:
    """Read a query; an empty one means every device.

    Raises:
        UsageError: If it breaks the grammar; says where.
    """
    if len(text) > MAX_QUERY_LENGTH:
        raise UsageError(f"the query is longer than {MAX_QUERY_LENGTH} characters")
    if not text.strip():
        return LabelQuery(text="", labels=frozenset(), _test=lambda _labels: True)
    parser = _Parser(text)
    test = parser.parse()
    return LabelQuery(text=text.strip(), labels=frozenset(parser.labels), _test=test)


def as_number(value: Label) -> float | None:
    """The number that a label or value stands for, with its unit; None if it is none."""
    if isinstance(value, int | float):
        return float(value)
    match = _NUMBER.fullmatch(value.strip())
    if match is None:
        return None
    unit = (match[2] or "B").replace("KB", "kB")
    return float(match[1]) * _UNITS[unit]


class _Parser:
    def __init__(self, text: str) -> None:
        self.labels: set[str] = set()
        self._text = text
        self._tokens: list[tuple[str, str, int]] = []
        position = 0
        while text[position:].strip():
            match = _TOKEN.match(text, position)
            if match is None:
                raise self._fault("a quote is not closed", position)
            kind = match.lastgroup or ""
            self._tokens.append(("sign" if kind == "sign" else kind, match[kind], match.end()))
            position = match.end()
        self._next = 0
        self._depth = 0

    def parse(self) -> _Test:
        test = self._either()
        if self._next < len(self._tokens):
            raise self._fault(f"{self._tokens[self._next][1]!r} is not expected here")
        return test

    def _either(self) -> _Test:
        tests = [self._both()]
        while self._accept("or"):
            tests.append(self._both())
        return tests[0] if len(tests) == 1 else lambda labels: any(t(labels) for t in tests)

    def _both(self) -> _Test:
        tests = [self._one()]
        while self._accept("and"):
            tests.append(self._one())
        return tests[0] if len(tests) == 1 else lambda labels: all(t(labels) for t in tests)

    def _one(self) -> _Test:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise self._fault(f"it is nested deeper than {_MAX_DEPTH}")
        try:
            if self._accept("not"):
                inner = self._one()
                return lambda labels: not inner(labels)
            if self._accept("("):
                inner = self._either()
                self._expect(")")
                return inner
            return self._comparison()
        finally:
            self._depth -= 1

    def _comparison(self) -> _Test:
        kind, name, _ = self._take("the name of a label")
        if kind != "word" or not re.fullmatch(_NAME, name) or name in ("and", "or", "in"):
            raise self._fault(f"{name!r} is no name of a label", back=True)
        self.labels.add(name)
        if self._accept("in"):
            self._expect("(")
            values = [self._value()]
            while self._accept(","):
                values.append(self._value())
            self._expect(")")
            return lambda labels: (
                name in labels and any(_compare(labels[name], value) == 0 for value in values)
            )
        for sign, holds in _COMPARISONS.items():
            if self._accept(sign):
                value = self._value()
                if sign == "!=":
                    return lambda labels: name not in labels or _compare(labels[name], value) != 0
                return _comparing(name, value, holds)
        return lambda labels: name in labels

    def _value(self) -> str:
        kind, value, _ = self._take("a value")
        if kind == "sign":
            raise self._fault(f"{value!r} is no value", back=True)
        return value

    def _take(self, wanted: str) -> tuple[str, str, int]:
        if self._next >= len(self._tokens):
            raise self._fault(f"it ends where {wanted} is expected")
        self._next += 1
        return self._tokens[self._next - 1]

    def _accept(self, text: str) -> bool:
        if self._next < len(self._tokens):
            kind, value, _ = self._tokens[self._next]
            if value == text and kind in ("sign", "word"):
                self._next += 1
                return True
        return False

    def _expect(self, text: str) -> None:
        if not self._accept(text):
            raise self._fault(f"{text!r} is expected")

    def _fault(self, what: str, position: int | None = None, *, back: bool = False) -> UsageError:
        if position is None:
            last = self._next - (2 if back else 1)
            position = self._tokens[last][2] if 0 <= last < len(self._tokens) else 0
        before = self._text[:position].strip()
        return UsageError(
            f"the query cannot be read: {what}" + (f", after {before[-60:]!r}" if before else ""),
            where=self._text[:200],
            fix="write it like: site=berlin and ram>=1GB and not (arch=armv7l or canary)",
        )


def _comparing(name: str, value: str, holds: Callable[[int], bool]) -> _Test:
    return lambda labels: name in labels and holds(_compare(labels[name], value))


def _compare(label: Label, value: str) -> int:
    number, wanted = as_number(label), as_number(value)
    if number is not None and wanted is not None:
        return (number > wanted) - (number < wanted)
    text = str(label)
    left, right = _version(text), _version(value)
    if left is not None and right is not None:
        return (left > right) - (left < right)
    return (text > value) - (text < value)


def _version(text: str) -> tuple[int, ...] | None:
    parts = text.split(".")
    if len(parts) > 1 and all(part.isdecimal() and len(part) < 10 for part in parts):  # noqa: PLR2004
        return tuple(map(int, parts))
    return None
