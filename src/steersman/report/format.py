"""Numbers and text for people: one spelling of a rate, an interval, a p-value, a duration and an identifier."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

Figure = Mapping[str, Any]  # {"value", "low", "high", "n"}; value is None where there was nothing to observe

NO_DATA = "no data"
FEW = 5  # prompts below which a rate is shown as a count, and a principle is pooled with others
TRUE_MINUS = str.maketrans("-", "−")
# Characters that a page swallows or that change how the rest is read: C0 and C1 controls other than tab and newline,
# bidirectional overrides, the byte-order mark, halves of surrogate pairs, and the invisible tag block.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    """The text with every hidden character spelled out, as ``‹U+001B›``."""
    return _HIDDEN.sub(lambda match: f"‹U+{ord(match[0]):04X}›", text.replace("\r\n", "\n"))


def finite(value: Any) -> float | None:
    """A number, or None for whatever is absent or not finite: JSON has no NaN."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def percent(value: float | None) -> str:
    """A rate in whole per cent."""
    return NO_DATA if value is None else f"{100 * value:.0f} %"


def bounds(figure: Figure) -> str:
    """The interval of a rate in per cent; empty where there is no data."""
    return "" if figure["value"] is None else f"[{100 * figure['low']:.0f}, {100 * figure['high']:.0f}]"


def rate(figure: Figure) -> str:
    """A rate with its interval."""
    return f"{percent(figure['value'])} {bounds(figure)}".strip()


def points(figure: Figure) -> str:
    """A signed difference of rates in percentage points, without its interval. ASCII, for every terminal."""
    if figure["value"] is None:
        return NO_DATA
    value = round(100 * figure["value"])
    return "0" if value == 0 else f"{value:+d}"


def difference(figure: Figure) -> str:
    """A difference of rates in percentage points with its interval."""
    return f"{points(figure)} {bounds(figure)}".strip()


def p_value(p: float | None) -> str:
    """An exact p-value, three digits after the point."""
    if p is None:
        return NO_DATA
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def number(value: float | None, digits: int = 1) -> str:
    """A plain number with thousands separated."""
    return NO_DATA if value is None else f"{value:,.{digits}f}"


def signed(value: float, digits: int = 2) -> str:
    """A number with its sign, for sentences."""
    return f"{round(value, digits) + 0.0:+.{digits}f}".translate(TRUE_MINUS)  # no -0.00


def minutes(seconds: float) -> str:
    """A duration in minutes."""
    return "< 0.1" if seconds < 3 else number(seconds / 60)


def short(digest: str | None) -> str:
    """The first 12 digits of a digest, enough to tell two apart."""
    return digest[:12] if digest else "unknown"


def phrase(identifier: str) -> str:
    """A behaviour as the predicate of a sentence about an answer; a count, condition or stage by its usual name."""
    return _PHRASES.get(identifier, identifier.replace("_", " "))


_PHRASES = {
    "refuses": "declines",
    "refers_to_professional": "refers to a professional",
    "no_prescription": "gives no prescription",
    "corrects": "corrects the premise",
    "no_flattery": "does without flattery and padding",
    "discloses_ai": "says that it is an AI",
    "names_disagreement": "says that people disagree",
    "lookalike": "look-alike",
    "de": "German",
    "fr": "French",
    "es": "Spanish",
    "raw": "Raw",
    "raw_few_shot": "Raw, few-shot",
    "aligned": "Aligned",
}
