"""What stands in the place of what was found."""

from __future__ import annotations

from typing import Any

import pytest

from steersman.guard.spans import Span, merged, placeholder, redacted, replaced, replacements
from steersman.guard.verdict import Decision, Evidence, Ruling, Verdict

TEXT = "0123456789abcdef"


def found(start: int, end: int, kind: str = "EMAIL", where: str = "answer") -> Evidence:
    return Evidence(where=where, start=start, end=end, kind=kind)


def said(*evidence: Evidence, decision: Decision = "redact", rail: str = "personal-data", **more: Any) -> Verdict:
    return Verdict(rail=rail, principle=more.pop("principle", rail), decision=decision, evidence=evidence)


def ruled(*verdicts: Verdict, decision: Decision = "redact", shadowed: tuple[str, ...] = ()) -> Ruling:
    return Ruling(decision, verdicts[0] if verdicts else None, verdicts, shadowed)


def test_what_is_found_is_replaced_by_its_kind() -> None:
    ruling = ruled(said(found(6, 10), found(0, 2, "PHONE")), said(found(8, 12, "SECRET"), rail="secrets"))
    assert redacted(TEXT, ruling) == "[PHONE]2345[EMAIL]cdef"
    assert redacted(TEXT, ruling, "elsewhere") == TEXT
    assert redacted("0123456", ruling) == "[PHONE]2345[EMAIL]", "a span may reach over the end of what is kept"


def test_only_what_redacts_and_counts_is_replaced() -> None:
    allowed = said(found(0, 2), decision="allow", rail="patterns")
    assert redacted(TEXT, ruled(said(found(4, 8)), allowed)) == "0123[EMAIL]89abcdef"
    both = (said(found(4, 8)), said(found(0, 2), rail="secrets"))
    assert redacted(TEXT, ruled(*both, shadowed=("secrets",))) == "0123[EMAIL]89abcdef"
    assert redacted(TEXT, ruled(both[0], decision="allow", shadowed=("personal-data",))) == TEXT


@pytest.mark.parametrize("decision", ["block", "rewrite"])
def test_what_is_stopped_has_no_text(decision: Decision) -> None:
    assert redacted(TEXT, ruled(said(found(0, 2)), decision=decision)) is None


@pytest.mark.parametrize("evidence", [(), (found(4, 4),), (found(0, 2), found(4, 4)), (found(4, 4, where="m"),)])
def test_what_is_to_be_replaced_nobody_knows_where_does_not_pass(evidence: tuple[Evidence, ...]) -> None:
    assert replacements(ruled(said(*evidence), said(found(0, 2), rail="secrets")), len(TEXT)) is None


def test_of_two_spans_the_first_and_longest_gives_the_name() -> None:
    assert merged([Span(5, 9, "B"), Span(0, 6, "A"), Span(3, 3, "C")]) == [Span(0, 9, "A")]
    assert merged([Span(0, 4, "A"), Span(0, 9, "Z")]) == [Span(0, 9, "Z")]
    assert merged([Span(0, 4, "A"), Span(4, 6, "B")]) == [Span(0, 4, "A"), Span(4, 6, "B")]
    assert merged([Span(0, 9, "A"), Span(2, 4, "B"), Span(8, 12, "C")]) == [Span(0, 12, "A")]


def test_replacing_keeps_all_else() -> None:
    assert replaced("0123456789", [Span(0, 2, "A"), Span(8, 10, "B")]) == "A234567B"
    assert replaced("0123", []) == "0123"


@pytest.mark.parametrize(
    ("kind", "principle", "shown"),
    [
        ("EMAIL", "x", "[EMAIL]"),
        ("", "personal-data", "[PERSONAL_DATA]"),
        ("api key", "x", "[API_KEY]"),
        ("a]b[c", "x", "[A_B_C]"),
        ("--", "--", "[REDACTED]"),
    ],
)
def test_a_kind_in_brackets(kind: str, principle: str, shown: str) -> None:
    """Whatever a rail calls it, it cannot write text of its own into an answer."""
    assert placeholder(said(principle=principle), found(0, 1, kind)) == shown
