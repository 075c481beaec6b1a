"""JSON as text that rails can read: reading it strictly, all its strings as one text, and replacing spans of that.

What is scanned must be exactly what is passed on. So a body with one key twice is refused, not read in one of two
ways; numbers that JSON lacks, half characters and a depth that no request has are refused too; and a body is passed
on as it was parsed, never as the bytes that came.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from steersman.guard.spans import Span, replaced

MOST_NAME = 256  # characters of a name: of a model, a function's call, an answer
MOST_KEY = 64  # characters of a field's name that is shown
MOST_LEVELS = 100  # of brackets; schemas of tools have twenty
SEPARATOR = "\n"  # between two strings of one text


class NotStrict(ValueError):
    """JSON that two readers could read in two ways, or none can; the message says what was found, and where."""


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def parse_strict(raw: bytes | str) -> Any:
    """The value of a JSON text.

    Raises:
        NotStrict: it is none, has a key twice, NaN, infinity, half characters, or more than `MOST_LEVELS` levels.
    """
    try:
        text = raw.decode("utf-8") if isinstance(raw, bytes) else raw
    except UnicodeDecodeError as error:
        raise NotStrict(f"the body is not UTF-8 (byte {error.start + 1})") from None
    if text.startswith("\ufeff"):
        raise NotStrict("the body begins with a byte-order mark, which JSON must not have")
    try:
        value = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant, parse_float=_finite)
    except NotStrict:
        raise
    except json.JSONDecodeError as error:
        raise NotStrict(f"the body is not JSON: {error.msg} (line {error.lineno}, column {error.colno})") from None
    except RecursionError:
        raise NotStrict(f"the body is nested deeper than {MOST_LEVELS} levels") from None
    except ValueError:  # an integer of more digits than Python reads
        raise NotStrict("the body has a number that is too long") from None
    if _levels(value) > MOST_LEVELS:
        raise NotStrict(f"the body is nested deeper than {MOST_LEVELS} levels")
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise NotStrict("the body escapes one half of a surrogate pair, which is no character") from None
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise NotStrict(f"the key {json.dumps(twice[:40])} appears twice in one object")
    return found


def _no_constant(name: str) -> Any:
    raise NotStrict(f"the body has {name}, which is no JSON number")


def _finite(digits: str) -> float:
    if not math.isfinite(number := float(digits)):
        raise NotStrict(f"the body has the number {digits[:20]}, which is too large")
    return number


def _levels(value: Any) -> int:
    levels, layer = 0, [value]
    while layer := [item for item in layer if isinstance(item, dict | list)]:
        levels += 1
        if levels > MOST_LEVELS:
            break
        layer = [inner for item in layer for inner in (item.values() if isinstance(item, dict) else item)]
    return levels


def dumped(value: Any) -> bytes:
    """A value as the body of a request or an answer."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8", "replace")


def key_path(path: str, key: str | int) -> str:
    """The path of an item. Keys that are no names are hashed: paths are shown and logged, and hold no text."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    if key.isidentifier() and len(key) <= MOST_KEY:
        return f"{path}.{key}"
    return f"{path}[sha256:{hashlib.sha256(key.encode()).hexdigest()[:16]}]"


def is_name(value: Any) -> bool:
    """Whether a value is a number, null, or a word of the length that names have: nothing that a rail should read."""
    return not isinstance(value, dict | list) and (not isinstance(value, str) or _is_word(value))


def _is_word(text: str) -> bool:
    return len(text) <= MOST_NAME and not any(character.isspace() for character in text)


# ── as text ──────────────────────────────────────────────────────────────────────────────────────────────────────────
class JsonText:
    """All strings, numbers and keys of a JSON value as one text, in order, a line for each.

    Strings under the key ``arguments``, where they are JSON themselves (of a tool's call), are taken apart too: the
    model's words must be found however they are escaped.

    Args:
        skip: keys whose values are left out, where they are names (`is_name`).
    """

    def __init__(self, value: Any, *, skip: frozenset[str] = frozenset()) -> None:
        self.value, self._skip = value, skip
        self._leaves = list(self._walk(value))
        self.text = SEPARATOR.join(self._leaves)

    def _walk(self, value: Any) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        elif isinstance(value, bool) or value is None:
            return
        elif isinstance(value, int | float):
            yield json.dumps(value)
        elif isinstance(value, _Pairs):
            for key, inner in value:
                yield key
                yield from self._walk(inner)
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                if not self._left_out(key, inner):
                    yield key
                    yield from self._walk(_unpacked(key, inner))
        elif isinstance(value, Sequence):
            for inner in value:
                yield from self._walk(inner)

    def _left_out(self, key: str, value: Any) -> bool:
        return key in self._skip and is_name(value)

    def replaced(self, spans: Sequence[Span]) -> Any:
        """The value with spans of `text` replaced; what a span touches of a number makes it a string."""
        start, leaves = 0, list[str]()
        for leaf in self._leaves:
            end = start + len(leaf)
            own = [Span(max(s.start, start) - start, min(s.end, end) - start, s.by) for s in spans]
            leaves.append(replaced(leaf, [span for span in own if span.start < span.end]))
            start = end + len(SEPARATOR)
        return self._rebuilt(self.value, iter(zip(self._leaves, leaves, strict=True)))

    def _rebuilt(self, value: Any, leaves: Iterator[tuple[str, str]]) -> Any:
        if isinstance(value, str):
            return next(leaves)[1]
        if isinstance(value, bool) or value is None:
            return value
        if isinstance(value, int | float):
            old, new = next(leaves)
            return value if new == old else new
        if isinstance(value, _Pairs):
            return {next(leaves)[1]: self._rebuilt(inner, leaves) for _, inner in value}
        if isinstance(value, Mapping):
            return dict(self._rebuilt_item(key, inner, leaves) for key, inner in value.items())
        return [self._rebuilt(inner, leaves) for inner in value]

    def _rebuilt_item(self, key: str, value: Any, leaves: Iterator[tuple[str, str]]) -> tuple[str, Any]:
        if self._left_out(key, value):
            return key, value
        new = next(leaves)[1]
        inner = _unpacked(key, value)
        rebuilt = self._rebuilt(inner, leaves)
        return new, rebuilt if inner is value else json.dumps(rebuilt, ensure_ascii=False)


class _Pairs(list[tuple[str, Any]]):
    """An object whose keys may repeat: every value of each is read."""


def _unpacked(key: str, value: Any) -> Any:
    """The value of a JSON string of arguments; any other value as it is."""
    if key != "arguments" or not isinstance(value, str):
        return value
    try:
        inner = json.loads(value, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError):
        return value
    return inner if isinstance(inner, list) and _levels(inner) <= MOST_LEVELS else value
