"""The constitution document: load it and validate it.

A constitution is one YAML file that a person in a compliance department can read and edit: its publisher, the model's
persona, and its principles. Each principle holds what the methods need: a statement for people and judges, requests for
a critique and a revision (constitutional AI, Bai et al. 2022, arXiv:2212.08073), and the behaviours that the evaluation
detects. As in the paper, examples show a raw model, which follows no instructions, what a critique and a revision are.
Where two principles collide, ``priorities`` say which wins. They form a partial order: "a over b" and "b over c" also
settle a against c.

A principle may be ``contested``, with the positions that people hold on it, and say who may decide otherwise than the
constitution: the publisher of a deployment, its users, or nobody (`constitution/layers.py`).

``load`` refuses an invalid document; `constitution/lint.py` advises on a valid one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    ModelWrapValidatorHandler,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from steersman.data.positions import Position
from steersman.errors import ConstitutionError, closest
from steersman.types import Behaviour, Record, Slug
from steersman.yaml_lines import load_yaml, validate

LIBRARY = Path(__file__).parent / "library"

Prose = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]

# A model that reads "Here is the revised answer:" in its examples will write it in every revision.
_ABOUT_ITSELF = re.compile(
    r"""(?:(?:sure|certainly|okay|of\ course)\b[,.!:]?\s+)?
        (?: here(?:'s|\ is|\ are)\s+(?:\w+\s+){0,3}?(?:answer|reply|response|revision|rewrite|version)\b
          | (?:(?:the|my)\s+)?(?:(?:revised|rewritten|improved|new)\s+)?(?:answer|reply|response|revision|rewrite)\s*:
          | i(?:'ve|\ have)\s+(?:revised|rewritten|reworded|improved)\b )""",
    re.IGNORECASE | re.VERBOSE,
)


def _the_reply_alone(revision: str) -> str:
    if match := _ABOUT_ITSELF.match(revision):
        raise ValueError(f'found "{match[0]}" at its beginning; expected the reply alone, as the person would read it')
    return revision


class CritiqueExample(Record):
    """An answer, its critique by one principle, and its revision: the same text if nothing is wrong."""

    prompt: Prose
    answer: Prose
    critique: Prose
    revision: Annotated[Prose, AfterValidator(_the_reply_alone)]


class GuardRule(Record):
    """How the guard enforces one principle; what is not set follows from the principle (`Principle.enforced`)."""

    input: Literal["allow", "escalate", "block"] | None = None  # a request that asks to break the principle
    output: Literal["allow", "escalate", "rewrite", "block"] | None = None  # an answer that breaks it
    false_positive_rate: Annotated[float, Field(gt=0, le=0.2)] | None = None  # of ordinary requests, and of answers
    refusal: Prose | dict[str, Prose] | None = None  # what is said instead: one text, or one for each language (en, de)
    words: tuple[Prose, ...] = ()  # words and phrases that break it wherever they stand, in any case
    patterns: tuple[Prose, ...] = ()  # regular expressions that do


class Enforced(NamedTuple):
    """A principle's rule with everything filled in."""

    input: Literal["allow", "escalate", "block"]
    output: Literal["allow", "escalate", "rewrite", "block"]
    false_positive_rate: float

    @property
    def anywhere(self) -> bool:
        """Whether the guard does anything for the principle."""
        return (self.input, self.output) != ("allow", "allow")


Handling = Literal["allow", "redact", "block"]


class BySide(Record):
    """What is done with what a person sends, and with what the model answers."""

    input: Handling
    output: Handling


class GuardSettings(Record):
    """What the guard does about text that breaks no principle but that it should not pass on, or cannot read."""

    secrets: Handling | BySide = "redact"  # keys, tokens, passwords
    # Card numbers, account numbers, addresses. People give their own, to have a letter written with it: requests pass,
    # and an answer may hold what the person wrote. What the model brings up itself is redacted.
    personal_data: Handling | BySide = BySide(input="allow", output="redact")
    unscannable: Literal["allow", "block"] = "block"  # pictures, sound and files: no rail reads them
    allowed: tuple[Prose, ...] = ()  # words and phrases that no rail may object to, such as a product's name

    def handling(self, what: Literal["secrets", "personal_data"], side: Literal["input", "output"]) -> Handling:
        """What is done with secrets or personal data on one side; one word in the file is for both."""
        own: Handling | BySide = getattr(self, what)
        return own if isinstance(own, str) else own.input if side == "input" else own.output


class GroupSupport(Record):
    """How one opinion group voted on a statement; votes are agreement, disagreement and passes."""

    group: Prose
    votes: Annotated[int, Field(ge=0)]
    agree: Annotated[int, Field(ge=0)]
    disagree: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if self.agree + self.disagree > self.votes:
            raise ValueError(f"{self.agree} agree and {self.disagree} disagree, of {self.votes} votes")
        return self


class Support(Record):
    """Who stands behind a principle: the votes on the statement that it comes from."""

    statement: Prose  # as it was voted on
    consensus: Annotated[float, Field(ge=0, le=1)]  # geometric mean over groups of (1 + agree) / (2 + votes)
    groups: Annotated[tuple[GroupSupport, ...], Field(min_length=1)]


Deciding = Literal["publisher", "user"]  # whose choice counts where both made one
Overriding = Literal["publisher", "user", "nobody"]  # who may override a principle; `user` includes the publisher
EXPLAIN, KEEP, SET_ASIDE = RESERVED = ("explain", "keep", "set-aside")  # choices that are no position's id


class Principle(Record):
    """One rule: what the model does, why, and how it is detected."""

    id: Slug
    title: Prose
    statement: Prose  # what the model does, so that an observer can say whether it did
    rationale: Prose  # why, in one or two sentences
    severity: Literal["low", "medium", "high", "critical"]  # how bad it is when the principle is broken
    critique_request: Prose  # asks a model to find where a reply breaks the principle
    revision_request: Prose  # asks a model to rewrite the reply so that it keeps the principle
    behaviours: tuple[Behaviour, ...]  # what the evaluation looks for in replies
    collides_with: tuple[Slug, ...] = ()  # ids; naming the collision on one of the two sides is enough
    examples: tuple[CritiqueExample, ...] = ()  # for models that learn from examples and follow no request
    # Left out of the digest where it says nothing, as all that came later.
    guard: GuardRule = Field(default=GuardRule(), exclude_if=lambda rule: rule == GuardRule())
    support: Support | None = Field(
        default=None, exclude_if=lambda own: own is None
    )  # of a principle that was voted on
    # On what it says reasonable people disagree: the answer expected says so and how, unless a layer follows one side.
    contested: bool = Field(default=False, exclude_if=lambda contested: not contested)
    positions: tuple[Position, ...] = Field(default=(), exclude_if=lambda positions: not positions)
    override: Overriding | None = Field(default=None, exclude_if=lambda override: override is None)
    precedence: Deciding = Field(default="publisher", exclude_if=lambda layer: layer == "publisher")

    @property
    def overridden_by(self) -> Overriding:
        """Who may decide otherwise than the constitution: of what is contested the publisher, else nobody."""
        return self.override or ("publisher" if self.contested else "nobody")

    @property
    def enforced(self) -> Enforced:
        """What the guard does: principles of refusal are blocked on both sides, others of weight in the answer.

        A principle with words or patterns has weight whatever its severity: they break it wherever they stand.
        """
        harm = "refuses" in self.behaviours
        weighty = self.severity in ("high", "critical") or bool(self.guard.words or self.guard.patterns)
        rate = {"low": 0.001, "medium": 0.002, "high": 0.005, "critical": 0.01}[self.severity]
        return Enforced(
            self.guard.input or ("block" if harm else "allow"),
            self.guard.output or ("block" if harm else "rewrite" if weighty else "allow"),
            self.guard.false_positive_rate or rate,
        )

    @property
    def text(self) -> str:
        """The principle as a judge reads it."""
        return f"{self.title}. {self.statement}"


class Priority(Record):
    """When both principles apply to a request, ``over`` wins."""

    over: Slug
    under: Slug
    reason: Prose


class Constitution(Record):
    """The whole document. Its principles have unique ids, and its priorities no cycle."""

    name: Slug
    title: Prose
    publisher: Prose
    version: Prose
    persona: Prose  # who the model is and how it speaks
    principles: Annotated[tuple[Principle, ...], Field(min_length=1)]
    priorities: tuple[Priority, ...] = ()
    guard: GuardSettings = Field(default=GuardSettings(), exclude_if=lambda own: own == GuardSettings())

    @model_validator(mode="wrap")
    @classmethod
    def _check_references(cls, data: Any, build: ModelWrapValidatorHandler[Self]) -> Self:
        """Report wrong references together with wrong fields, so that one pass shows all mistakes."""
        wrong = _wrong_references(data)
        try:
            constitution = build(data)
        except ValidationError as error:
            if not wrong:
                raise
            fields = [
                InitErrorDetails(
                    type=detail["type"], loc=detail["loc"], input=detail["input"], ctx=detail.get("ctx", {})
                )
                for detail in error.errors(include_url=False)
            ]
            raise ValidationError.from_exception_data(cls.__name__, [*fields, *wrong]) from None
        if wrong:
            raise ValidationError.from_exception_data(cls.__name__, wrong)
        return constitution

    @property
    def digest(self) -> str:
        """Sha256 (hex) of the content, independent of comments, layout and the order of keys."""
        content = json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(content.encode("utf-8")).hexdigest()

    @property
    def texts(self) -> dict[str, str]:
        """The principles as judges read them, by id."""
        return {principle.id: principle.text for principle in self.principles}

    def pool(self, principles: Literal["own", "any"], ids: Sequence[str]) -> list[Principle]:
        """The principles that a method draws from: those with these ids, a prompt's ``own``, or ``any``."""
        return [principle for principle in self.principles if principles == "any" or principle.id in ids]

    def principle(self, id: str) -> Principle:
        """The principle with this id.

        Raises:
            ConstitutionError: there is none; the message names the closest ids.
        """
        for principle in self.principles:
            if principle.id == id:
                return principle
        known = [principle.id for principle in self.principles]
        raise ConstitutionError(
            f'no principle has the id "{id}"', where=f"constitution {self.name}", do=closest(id, known)
        )

    def winner(self, first: str, second: str) -> str | None:
        """The principle that wins when both apply, by one priority or a chain of them; None if unsettled."""
        for over, under in ((first, second), (second, first)):
            if _chain([(priority.over, priority.under) for priority in self.priorities], over, under):
                return over
        return None


def library() -> list[str]:
    """The names of the constitutions that Steersman ships."""
    return sorted(path.stem for path in LIBRARY.glob("*.yaml"))


def load(path_or_name: str | Path) -> Constitution:
    """Read and validate a constitution.

    Args:
        path_or_name: a file, or the name of a shipped constitution: a string without folder or ending.

    Raises:
        ConstitutionError: the name is unknown, or the file is wrong. Every problem has a line of its own in the
            message: ``FILE:LINE: where: found ...; expected ...``.
    """
    path = Path(path_or_name)
    if isinstance(path_or_name, str) and not re.search(r"[/\\.]", path_or_name):
        if path_or_name not in library():
            raise ConstitutionError(
                f'there is no shipped constitution named "{path_or_name}"',
                expected="a shipped name, or a file with its ending, such as rules.yaml",
                do=closest(path_or_name, library()),
            )
        path = LIBRARY / f"{path_or_name}.yaml"
    data, line_of = load_yaml(path, ConstitutionError)
    return validate(Constitution, data, path, line_of, ConstitutionError)


# ------------------------------------------------------------------------------------------------------- references

_Wrong = Iterator[tuple[tuple[str | int, ...], str]]  # location in the document, and the problem


def _wrong_references(data: object) -> list[InitErrorDetails]:
    """Duplicate ids, unknown ids and cyclic priorities, in data that may have other mistakes."""
    principles = _entries(data, "principles")
    ids = [value if isinstance(value := principle.get("id"), str) else "" for principle in principles]
    wrong = [
        *_wrong_ids(ids),
        *_wrong_collisions(principles, ids),
        *_wrong_positions(principles),
        *_wrong_priorities(_entries(data, "priorities"), ids),
    ]
    return [
        InitErrorDetails(type=PydanticCustomError("reference", "{text}", {"text": text}), loc=loc, input=None)
        for loc, text in wrong
    ]


def _wrong_ids(ids: list[str]) -> _Wrong:
    for position, id in enumerate(ids):
        if id and id in ids[:position]:
            first = ids.index(id) + 1
            yield (
                ("principles", position, "id"),
                f'found "{id}" a second time (also item {first}); expected an id of its own',
            )


def _wrong_collisions(principles: list[dict[str, Any]], ids: list[str]) -> _Wrong:
    for position, principle in enumerate(principles):
        others = principle.get("collides_with")
        for place, other in enumerate(others if isinstance(others, list | tuple) else ()):
            loc = ("principles", position, "collides_with", place)
            if other == ids[position]:
                yield loc, f'found the principle\'s own id "{other}"; expected the id of another principle'
            elif isinstance(other, str) and other not in ids:
                yield loc, _unknown(other, ids)


def _wrong_positions(principles: list[dict[str, Any]]) -> _Wrong:
    """Positions that a deployment could not name, and a precedence that nothing can come of."""
    for place, principle in enumerate(principles):
        seen = set[str]()
        for number, position in enumerate(_entries(principle, "positions")):
            id, loc = position.get("id"), ("principles", place, "positions", number, "id")
            if id in RESERVED:
                yield loc, f'found "{id}", which is a choice of its own; expected another id'
            elif isinstance(id, str) and id in seen:
                yield loc, f'found "{id}" a second time; expected an id of its own'
            elif isinstance(id, str):
                seen.add(id)
        if principle.get("precedence") == "user" and principle.get("override") != "user":
            yield (
                ("principles", place, "precedence"),
                'found "user", and the user may not override this principle; expected `override: user` beside it',
            )


def _wrong_priorities(priorities: list[dict[str, Any]], ids: list[str]) -> _Wrong:
    edges: list[tuple[str, str]] = []
    for position, priority in enumerate(priorities):
        for side in ("over", "under"):
            id = priority.get(side)
            if isinstance(id, str) and id not in ids:
                yield ("priorities", position, side), _unknown(id, ids)
        over, under = priority.get("over"), priority.get("under")
        if not (isinstance(over, str) and isinstance(under, str)):
            continue  # reported as a wrong or missing field
        circle = _chain(edges, under, over)
        if circle:
            text = " over ".join((over, *circle))
            yield ("priorities", position), f"found a circle ({text}); expected that no principle wins over itself"
        else:
            edges.append((over, under))


def _unknown(id: str, ids: list[str]) -> str:
    return f'found "{id}", which is no principle\'s id; {closest(id, sorted({known for known in ids if known}))}'


def _entries(data: object, key: str) -> list[dict[str, Any]]:
    """The mappings of a list, whatever else is wrong; an entry of another kind counts as empty."""
    items = dict(data).get(key) if isinstance(data, Mapping | BaseModel) else None
    if not isinstance(items, list | tuple):
        return []
    return [dict(item) if isinstance(item, Mapping | BaseModel) else {} for item in items]


def _chain(edges: Sequence[tuple[str, str]], start: str, goal: str) -> tuple[str, ...]:
    """The principles from ``start`` to ``goal``, each with priority over the next; empty if there is no such chain."""
    chains: list[tuple[str, ...]] = [(start,)]
    seen = {start}
    for chain in chains:  # grows while it is read: breadth first
        if chain[-1] == goal:
            return chain
        for over, under in edges:
            if over == chain[-1] and under not in seen:
                seen.add(under)
                chains.append((*chain, under))
    return ()


# ------------------------------------------------------------------------------------------------ no constitution

NONE = Constitution(
    name="none",
    title="No constitution",
    publisher="Nobody",
    version="0",
    persona="You are a helpful assistant.",
    principles=(
        Principle(
            id="helpful",
            title="Help",
            statement="Follows the instruction.",
            rationale="Nothing else was written down.",
            severity="low",
            critique_request="Say whether the answer does what was asked.",
            revision_request="Rewrite the answer so that it does what was asked.",
            behaviours=("complies",),
        ),
    ),
)  # of a recipe that names none
