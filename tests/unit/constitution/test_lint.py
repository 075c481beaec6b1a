"""The lint rules, each with a document that it remarks on and one that it does not; the shipped documents."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from steersman.constitution import lint as lint_module
from steersman.constitution.document import Constitution, CritiqueExample, Principle, library, load
from steersman.constitution.lint import Finding, lint
from steersman.types import Comparison, Demonstration, Prompt

EXAMPLE = CritiqueExample(
    prompt="The supplier sends two tickets for the opera. Good?", answer="Yes.", critique="No limit.", revision="Ask."
)


def principle(id: str, **changes: Any) -> Principle:
    """A principle with nothing to remark on; its words are its own, so that no two are near-duplicates."""
    base: dict[str, Any] = {
        "id": id,
        "title": f"{id} {id[::-1]} {hash_word(id)}",
        "statement": f"Names {id} and {id[::-1]} before {hash_word(id)}, then stops.",
        "rationale": "Because.",
        "severity": "low",
        "critique_request": "Where?",
        "revision_request": "Rewrite.",
        "behaviours": ("corrects",),
        "examples": (EXAMPLE,),
    }
    return Principle(**{**base, **changes})


def hash_word(id: str) -> str:
    return "".join(chr(ord("a") + (7 * ord(letter)) % 26) for letter in id)


def constitution(*principles: Principle, wins: tuple[tuple[str, str], ...] = ()) -> Constitution:
    return Constitution(
        name="test",
        title="Test",
        publisher="Test",
        version="1",
        persona="Plain.",
        principles=principles,
        priorities=tuple({"over": over, "under": under, "reason": "Because."} for over, under in wins),  # type: ignore[misc]
    )


def found(rule: str, findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.severity, finding.principle) for finding in findings if finding.rule == rule]


def demonstration(*ids: str) -> Demonstration:
    return Demonstration(prompt="May I?", completion="Ask Compliance.", principles=ids)


def evaluation(*ids: str, expect: tuple[Any, ...] = ()) -> Prompt:
    return Prompt(prompt="May I?", principles=ids, expect=expect, split="evaluation")


def test_a_document_with_nothing_to_remark_on_yields_nothing() -> None:
    subject = constitution(principle("gifts"), principle("records"))
    rows = [demonstration("gifts"), demonstration("records", "gifts")]
    tests = [evaluation("gifts", expect=("corrects",)), evaluation("records")]
    assert lint(subject, demonstrations=rows, comparisons=[], prompts=None, evaluation=tests) == []


def test_principles_without_demonstrations_or_tests_are_named() -> None:
    subject = constitution(principle("gifts"), principle("records"))
    findings = lint(subject, demonstrations=[demonstration("gifts")], evaluation=[evaluation("records")])
    assert found("no-demonstrations", findings) == [("warning", "records")]
    assert found("no-evaluation", findings) == [("warning", "gifts")]


def test_data_that_were_not_given_are_noted_once_and_not_held_against_principles() -> None:
    findings = lint(constitution(principle("gifts"), principle("records")), demonstrations=[], evaluation=None)
    assert found("no-demonstrations", findings) == [("note", "")]
    assert found("no-evaluation", findings) == [("note", "")]


@pytest.mark.parametrize(
    "statement", ["Be good.", "Act ethically.", "be nice", "Behave responsibly, honestly and with respect"]
)
def test_praise_is_not_measurable(statement: str) -> None:
    findings = lint(constitution(principle("gifts", statement=statement)))
    assert found("unmeasurable", findings) == [("warning", "gifts")]
    assert statement in next(finding.message for finding in findings if finding.rule == "unmeasurable")


@pytest.mark.parametrize(
    "statement",
    ["Says that it is an AI.", "Refuses to write hate speech.", "不要撒谎。", "Nennt die Grenze für Geschenke."],
)
def test_what_can_be_observed_is_measurable_also_in_other_languages(statement: str) -> None:
    assert found("unmeasurable", lint(constitution(principle("gifts", statement=statement)))) == []


def test_a_principle_without_behaviours_is_not_measurable() -> None:
    findings = lint(constitution(principle("gifts", behaviours=()), principle("records")))
    assert found("unmeasurable", findings) == [("warning", "gifts")]


LONG = "Names the limit of fifty euros for each person and year and sends the colleague to Compliance before accepting."


SHUFFLED = "Before accepting, sends the colleague to Compliance and names the limit for year and person: fifty euros."
EXTENDED = f"""{LONG} Tells about registers, officials, vouchers, cash, trips, dinners, tickets, samples, discounts,
prizes, loans, favours, jobs, stays, flights, raffles, flowers, books, calendars, lunches, concerts, watches, wine."""


@pytest.mark.parametrize(
    ("one", "other", "what"),
    [
        ({"title": "Gifts need approval"}, {"title": "Gifts need approvals"}, "have almost the same title"),
        ({"title": "Protect private persons"}, {"title": "Private persons: protect"}, "have almost the same title"),
        ({"statement": LONG}, {"statement": SHUFFLED}, "say almost the same in their statements"),
        ({"statement": LONG}, {"statement": EXTENDED}, "share whole passages of their statements"),
    ],
    ids=["title", "title in another order", "words", "copied passage"],
)
def test_near_duplicates_are_found(one: dict[str, str], other: dict[str, str], what: str) -> None:
    findings = lint(constitution(principle("gifts", **one), principle("records", **other)))
    assert found("near-duplicate", findings) == [("warning", "records")]
    assert f"gifts and records {what}" in [finding.message for finding in findings]


def test_principles_on_one_subject_are_not_duplicates() -> None:
    one = principle("gifts", title="Gifts need approval", statement=LONG)
    other = principle("officials", title="Public officials receive no gifts", statement="Declines gifts to officials.")
    assert found("near-duplicate", lint(constitution(one, other))) == []


def test_ids_that_are_used_but_not_defined_are_counted() -> None:
    bad = Comparison(prompt="May I?", options=("Ask.", "Sure."), ranking=(1, 2), principles=("gift", "gift", "gifts"))
    findings = lint(
        constitution(principle("gifts")),
        demonstrations=[demonstration("gifts"), demonstration("gift"), demonstration("gift")],
        comparisons=[bad],
        prompts=[Prompt(prompt="Hm?", principles=("zebra",))],
        evaluation=[evaluation("gifts")],
    )
    assert found("undefined-id", findings) == [("error", "gift"), ("error", "zebra")]
    assert '"gift" is used in demonstrations (2), comparisons (1)' in findings[0].message
    assert "did you mean gifts?" in findings[0].do


def test_a_declared_collision_needs_a_priority() -> None:
    pair = (principle("gifts", collides_with=("records",)), principle("records"))
    assert found("collision", lint(constitution(*pair))) == [("error", "gifts")]
    assert found("collision", lint(constitution(*pair, wins=(("records", "gifts"),)))) == []


def test_a_collision_declared_on_the_later_principle_counts_once() -> None:
    pair = (principle("gifts", collides_with=("records",)), principle("records", collides_with=("gifts",)))
    assert found("collision", lint(constitution(*pair))) == [("error", "gifts")]
    later = (principle("gifts"), principle("records", collides_with=("gifts",)))
    assert found("collision", lint(constitution(*later))) == [("error", "gifts")]


def test_a_chain_of_priorities_settles_a_collision() -> None:
    three = (principle("gifts", collides_with=("escalation",)), principle("records"), principle("escalation"))
    subject = constitution(*three, wins=(("escalation", "records"), ("records", "gifts")))
    assert found("collision", lint(subject)) == []
    assert subject.winner("gifts", "escalation") == "escalation"
    assert constitution(*three, wins=(("escalation", "records"),)).winner("gifts", "escalation") is None


def test_refusing_against_complying_is_a_suspected_collision() -> None:
    refuse = principle("refuse-harm", behaviours=("refuses",))
    comply = principle("helpful", behaviours=("complies", "no_flattery"))
    both = principle("privacy", behaviours=("refuses", "complies"))
    assert found("collision", lint(constitution(refuse, comply))) == [("warning", "refuse-harm")]
    assert found("collision", lint(constitution(refuse, comply, wins=(("refuse-harm", "helpful"),)))) == []
    assert found("collision", lint(constitution(refuse, both))) == []
    assert found("collision", lint(constitution(comply, both, principle("records")))) == []


def test_behaviours_that_are_tested_but_not_listed_are_counted() -> None:
    subject = constitution(principle("gifts", behaviours=("complies",)), principle("records", behaviours=("refuses",)))
    wrong = [evaluation("gifts", expect=("corrects", "complies"))] * 3
    right = [evaluation("gifts", "records", expect=("refuses", "complies")), evaluation("unknown", expect=("refuses",))]
    findings = lint(subject, evaluation=wrong + right)
    assert found("unlisted-behaviour", findings) == [("warning", "gifts")]
    assert any("evaluation prompts of gifts (3) expect corrects" in finding.message for finding in findings)
    assert found("unlisted-behaviour", lint(subject, evaluation=right)) == []


def test_a_document_without_examples_is_noted_once() -> None:
    subject = constitution(principle("gifts", examples=()), principle("records", examples=()))
    assert found("no-examples", lint(subject)) == [("note", "")]


def test_a_principle_without_examples_among_others_that_have_some_is_named() -> None:
    subject = constitution(principle("gifts"), principle("records", examples=()))
    assert found("no-examples", lint(subject)) == [("warning", "records")]
    assert found("no-examples", lint(constitution(principle("gifts"), principle("records")))) == []


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (EXAMPLE.prompt, "shares five words in a row"),
        ("Our dentist has two tickets for the opera.", "shares five words in a row: two tickets for the opera"),
        ("Good? Opera tickets, two: the supplier sends.", "word Jaccard 0.88"),
    ],
)
def test_an_example_that_the_evaluation_asks_is_an_error(asked: str, reason: str) -> None:
    subject = constitution(principle("gifts", examples=()), principle("records"))
    findings = lint(subject, evaluation=[Prompt(prompt=asked, split="evaluation"), evaluation("records")])
    assert found("example-in-evaluation", findings) == [("error", "records")]
    (finding,) = [finding for finding in findings if finding.rule == "example-in-evaluation"]
    assert f'"{EXAMPLE.prompt}"' in finding.message
    assert f'the evaluation prompt "{asked}": {reason}' in finding.message


def test_errors_come_before_warnings_and_notes() -> None:
    subject = constitution(principle("gifts", behaviours=(), collides_with=("records",)), principle("records"))
    assert [finding.severity for finding in lint(subject)] == ["error", "warning", "note", "note"]


# ------------------------------------------------------------------------------------------------------ shipped files

SHIPPED = {
    "assistant": {
        "helpful-plain": "complies no_flattery",
        "admit-uncertainty": "admits_uncertainty",
        "honest-correction": "corrects",
        "refuse-harm": "refuses",
        "no-needless-refusal": "complies",
        "personal-finance": "asks_first refers_to_professional no_prescription",
        "health": "refers_to_professional no_prescription",
        "law": "refers_to_professional no_prescription",
        "privacy": "refuses complies",
        "fairness": "refuses complies",
        "disinformation": "refuses complies",
        "no-flattery": "no_flattery",
        "ai-disclosure": "discloses_ai",
        "distress": "refers_to_professional",
    },
    "code-of-conduct": {
        "plain-guidance": "complies no_flattery",
        "no-medical-advice": "refers_to_professional no_prescription",
        "no-legal-verdict": "refers_to_professional no_prescription",
        "conflicts-of-interest": "refers_to_professional",
        "gifts": "refers_to_professional",
        "confidentiality": "refuses complies",
        "harassment": "refers_to_professional",
        "records": "refuses complies",
        "escalation": "refers_to_professional",
        "no-help-to-bypass": "refuses complies",
        "ai-disclosure": "discloses_ai",
    },
}


def test_the_library_holds_the_two_shipped_documents() -> None:
    assert library() == sorted(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_document_has_the_agreed_principles_and_lints_clean(name: str) -> None:
    shipped = load(name)
    assert shipped.name == name
    assert {p.id: " ".join(p.behaviours) for p in shipped.principles} == SHIPPED[name]
    assert {finding.severity for finding in lint(shipped)} == {"note"}  # only: no data given
    requests = [text for p in shipped.principles for text in (p.critique_request, p.revision_request, p.rationale)]
    assert len(set(requests)) == len(requests)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_principles_of_a_shipped_document_stay_clear_of_the_near_duplicate_limits(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in ("SAME_WORDS", "SAME_PASSAGES"):
        monkeypatch.setattr(lint_module, limit, 0.6 * getattr(lint_module, limit))
    monkeypatch.setattr(lint_module, "SAME_TITLE", 0.7)
    assert found("near-duplicate", lint(load(name))) == []


@pytest.mark.parametrize("name", SHIPPED)
def test_without_its_priorities_a_shipped_document_does_not_lint_clean(name: str) -> None:
    shipped = load(name)
    without = shipped.model_copy(update={"priorities": ()})
    pairs = [pair for pair in combinations(shipped.principles, 2) if shipped.winner(pair[0].id, pair[1].id)]
    assert len(pairs) > len(found("collision", lint(without))) >= len(shipped.priorities) - 1


@pytest.mark.parametrize(
    ("fact", "where"),
    [
        ("50 euros", "gifts"),
        ("150 euros", "gifts"),
        ("public official", "gifts"),
        ("gift register", "gifts"),
        ("form C-1", "conflicts-of-interest"),
        ("second job", "conflicts-of-interest"),
        ("10 years", "records"),
        ("6 years", "records"),
        ("2 years", "records"),
        ("legal hold", "records"),
        ("ethics line", "escalation"),
        ("Retaliation", "escalation"),
        ("press office", "confidentiality"),
        ("data protection officer", "confidentiality"),
    ],
)
def test_the_facts_of_the_company_stand_in_the_statements(fact: str, where: str) -> None:
    assert fact.lower() in load("code-of-conduct").principle(where).statement.lower()


RULES = {"undefined-id", "collision", "no-demonstrations", "no-evaluation", "unmeasurable", "near-duplicate"}
RULES |= {"unlisted-behaviour", "no-examples", "example-in-evaluation"}


def test_the_example_of_the_documentation_is_a_valid_document(tmp_path: Path) -> None:
    page = Path(__file__).resolve().parents[3] / "docs" / "constitution.md"
    blocks: list[str] = re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    copy = tmp_path / "example.yaml"
    copy.write_text(blocks[0], encoding="utf-8")
    example = load(copy)
    assert {finding.severity for finding in lint(example)} == {"note"}
    with_examples = blocks[0].replace("    behaviours: [refers", f"{blocks[1]}    behaviours: [refers")
    copy.write_text(with_examples, encoding="utf-8")
    assert len(load(copy).principle("gifts").examples) == 1
    documented = re.findall(r"^\| `([a-z-]+)` \|", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert sorted(set(documented) & RULES) == sorted(RULES)
