"""Contested principles: how they load, what they leave unchanged, and what lint says of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from tests.unit.constitution.conftest import principle

from steersman.constitution.document import Constitution, CritiqueExample, Principle, load
from steersman.constitution.lint import lint
from steersman.data.positions import Position
from steersman.errors import ConstitutionError

SHIPPED = {  # digests from before there were contested principles
    "assistant": "3258f21ee6ff39e5316c8e0b2bbc64bb9791af5443435b3dce0bbc449abf6dc1",
    "code-of-conduct": "754b19072690b9b0cf616198c5773690a0abe2eb90ecc1c892d871a0340c4294",
}
SPARE = Position(id="spare", holders="Those who spare animals", holds="Animals feel pain.", points=("animal pain",))
EAT = Position(id="eat", holders="Those who keep the feast", holds="The feast needs a lamb.", points=("feast lamb",))


def contested(**changes: Any) -> Principle:
    """A contested principle with nothing to remark on."""
    example = CritiqueExample(
        prompt="May I serve lamb?",
        answer="Yes.",
        critique="One side alone.",
        revision="People disagree. Some say that animals feel pain; others want lamb at the feast.",
    )
    own: dict[str, Any] = {
        "statement": "Says that people disagree about lamb, and what each side holds",
        "behaviours": ("names_disagreement",),
        "contested": True,
        "positions": (SPARE, EAT),
        "examples": (example,),
    }
    return principle("lamb").model_copy(update={**own, **changes})


def found(*principles: Principle) -> list[str]:
    document = Constitution(name="c", title="C", publisher="C", version="1", persona="C.", principles=principles)
    rules = ("contested", "open-to-override")
    return [f"{finding.severity}: {finding.message}" for finding in lint(document) if finding.rule in rules]


@pytest.mark.parametrize("name", SHIPPED)
def test_constitutions_without_contested_principles_have_the_digests_that_they_had(name: str) -> None:
    shipped = load(name)
    assert shipped.digest == SHIPPED[name]
    assert {(p.contested, p.positions, p.overridden_by, p.precedence) for p in shipped.principles} == {
        (False, (), "nobody", "publisher")
    }


@pytest.mark.parametrize(
    "change",
    [{"contested": True}, {"positions": (SPARE,)}, {"override": "nobody"}, {"override": "user", "precedence": "user"}],
)
def test_what_is_said_is_in_the_digest(constitution: Constitution, change: dict[str, Any]) -> None:
    changed = constitution.principles[0].model_copy(update=change)
    other = constitution.model_copy(update={"principles": (changed, *constitution.principles[1:])})
    assert other.digest != constitution.digest
    assert Constitution.model_validate(other.model_dump(mode="json")) == other


def test_who_may_override_follows_from_what_is_contested_unless_it_is_said() -> None:
    assert contested().overridden_by == "publisher"
    assert contested(override="nobody").overridden_by == "nobody"
    assert principle("pears").overridden_by == "nobody"


def test_a_good_contested_principle_has_no_finding() -> None:
    assert found(contested()) == []


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ({"positions": ()}, "error: lamb is contested and names none"),
        ({"positions": (SPARE,)}, "error: lamb is contested and names 1 position"),
        ({"contested": False}, "error: lamb has positions and is not said to be contested"),
        (
            {"positions": (SPARE, EAT.model_copy(update={"holds": "Pain, animals feel."}))},
            "error: lamb has two positions that say the same: spare and eat",
        ),
        ({"positions": (SPARE, EAT.model_copy(update={"holds": "Good."}))}, "warning: lamb has a position without"),
        ({"positions": (SPARE, EAT.model_copy(update={"points": ()}))}, "warning: lamb has no key points for the"),
        ({"behaviours": ("complies",)}, "error: lamb is contested, and no behaviour expects"),
        ({"statement": "Answers about lamb in one sentence"}, "error: lamb is contested, and its statement does not"),
        ({"override": "user", "behaviours": ("names_disagreement", "refuses")}, "warning: lamb refuses harm, and the"),
    ],
)
def test_lint_says_what_a_contested_principle_lacks(change: dict[str, Any], finding: str) -> None:
    assert [text[: len(finding)] for text in found(contested(**change))] == [finding]


@pytest.mark.parametrize(
    ("revision", "findings"),
    [
        ("Animals feel pain, so do without it.", ["names no disagreement", "lacks eat"]),
        ("People disagree: some say that animals feel pain, others do not mind.", ["lacks eat"]),
        ("Animals feel pain, and there is lamb at the feast.", ["names no disagreement"]),
    ],
)
def test_an_expected_answer_says_that_people_disagree_and_how(revision: str, findings: list[str]) -> None:
    example = contested().examples[0].model_copy(update={"revision": revision})
    said = found(contested(examples=(example,)))
    assert [any(text.endswith(end) for text in said) for end in findings] == [True] * len(findings)
    assert len(said) == len(findings)


def yaml_of(lines: str) -> str:
    return f"""\
name: feast
title: Feast
publisher: Us
version: "1"
persona: Plain.
principles:
  - id: lamb
    title: Lamb
    statement: Says that people disagree about lamb.
    rationale: They do.
    severity: low
    critique_request: Where?
    revision_request: Rewrite.
    behaviours: [names_disagreement]
    contested: true
{lines}"""


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            "    positions:\n      - {id: a, holders: A, holds: B}\n      - {id: a, holders: C, holds: D}\n",
            ':18: .*"a" a second',
        ),
        (
            "    positions:\n      - {id: explain, holders: A, holds: B}\n",
            ":17: .*a choice of its own; expected another id",
        ),
        (
            '    positions:\n      - {id: a, holders: A, holds: "  "}\n',
            ":17: principles, item 1, positions, item 1, holds",
        ),
        ("    precedence: user\n", r":16: .*the user may not override this principle; expected `override: user`"),
        ("    override: everyone\n", r':16: .*found "everyone"; expected publisher, user or nobody'),
    ],
)
def test_a_wrong_one_is_refused_with_its_line(tmp_path: Path, lines: str, message: str) -> None:
    file = tmp_path / "feast.yaml"
    file.write_text(yaml_of(lines), encoding="utf-8")
    with pytest.raises(ConstitutionError) as caught:
        load(file)
    assert re.search(message, str(caught.value)), str(caught.value)
