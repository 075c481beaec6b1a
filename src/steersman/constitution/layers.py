"""Who decides what: the constitution's default, the publisher of a deployment, and its user.

For every principle the constitution says who may override it (`override`): nobody, the publisher, or the user
too. Where publisher and user have both decided, the publisher's choice counts, unless the principle says
``precedence: user``; where neither has, the default does. A choice is a word:

    explain     (contested principles) say that people disagree and how: the default
    ID          (contested principles) follow the position of this id
    keep        (other principles) the principle stands as written: the default
    set-aside   (other principles) the principle does not hold here

`resolve` is a function of the constitution and the two settings and of nothing else. It returns the principles in
force, the text that a model is given, who decided what, and of every setting that may not be made one sentence that
says why: such a setting changes nothing. A name that does not exist is a mistake, and an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field

from steersman.constitution.document import EXPLAIN, KEEP, SET_ASIDE, Constitution, Deciding, Principle, Prose
from steersman.data.positions import to_follow, to_present
from steersman.errors import ConstitutionError, closest
from steersman.types import Record, Slug
from steersman.yaml_lines import load_yaml, validate

Layer = Literal["publisher", "user", "default"]
Choices = Mapping[str, str]  # of principles, by id
THE_USER = "the person that you talk to"


class Deployment(Record):
    """What a publisher has decided for one deployment of a constitution."""

    publisher: Prose  # who answers for the deployment
    constitution: Slug  # the name of the constitution that the choices are about
    choices: dict[Slug, Slug] = Field(default={})  # principle: explain, keep, set-aside, or the id of a position


class Decision(NamedTuple):
    """What holds of one principle, who decided it, and whose other choice it goes before."""

    principle: Principle
    choice: str
    layer: Layer
    overruled: Deciding | None

    @property
    def in_force(self) -> bool:
        """Whether the principle holds at all."""
        return self.choice != SET_ASIDE


class Refusal(NamedTuple):
    """A setting that may not be made: whose it is, of which principle, and why, in one sentence."""

    layer: Deciding
    principle: str
    sentence: str


@dataclass(frozen=True)
class Effective:
    """A constitution as it holds in one deployment, for one user."""

    constitution: Constitution
    publisher: str
    decisions: tuple[Decision, ...]
    refused: tuple[Refusal, ...]

    @property
    def principles(self) -> tuple[Principle, ...]:
        """The principles in force."""
        return tuple(decision.principle for decision in self.decisions if decision.in_force)

    def system_text(self, *, trained: bool) -> str:
        """What a model is told before the conversation.

        Args:
            trained: the model was trained on this constitution, so that only what is contested, and what was set
                aside, has to be said; any other model is told every principle.
        """
        lines = [self.constitution.persona]
        for principle, choice, layer, _ in self.decisions:
            if principle.contested and choice == EXPLAIN:
                lines.append(to_present(principle.title, principle.positions))
            elif principle.contested:
                who = THE_USER if layer == "user" else self.publisher
                lines.append(to_follow(principle.title, principle.positions, choice, who))
            elif choice == SET_ASIDE and trained:
                lines.append(f"This rule does not hold here: {principle.title}.")
            elif choice == KEEP and not trained:
                lines.append(principle.text)
        return "\n".join(lines)

    def account(self) -> list[dict[str, Any]]:
        """Which layer decided what, as JSON values: a row for each principle, then one for each refused setting."""
        decided = [
            {"principle": row.principle.id, "choice": row.choice, "layer": row.layer, "overruled": row.overruled}
            for row in self.decisions
        ]
        return [*decided, *({"principle": r.principle, "layer": r.layer, "refused": r.sentence} for r in self.refused)]


def load_deployment(path: Path, constitution: Constitution) -> Deployment:
    """Read a deployment file.

    Raises:
        ConstitutionError: it is wrong, or made for a constitution of another name.
    """
    data, line_of = load_yaml(path, ConstitutionError)
    deployment = validate(Deployment, data, path, line_of, ConstitutionError)
    if deployment.constitution != constitution.name:
        raise ConstitutionError(
            f'the deployment is made for the constitution "{deployment.constitution}", and this is '
            f'"{constitution.name}"',
            where=f"{path}:{line_of(('constitution',))}",
            do="name this constitution, and see whether the choices fit it",
        )
    return deployment


def resolve(constitution: Constitution, deployment: Deployment | None, user: Choices) -> Effective:
    """The principles in force, who decided each, and which settings are refused.

    Args:
        user: the user's choices, by principle.

    Raises:
        ConstitutionError: a setting names a principle or a choice that does not exist.
    """
    publisher = deployment.publisher if deployment else constitution.publisher
    settings: dict[Deciding, Choices] = {"publisher": deployment.choices if deployment else {}, "user": user}
    for layer, choices in settings.items():
        for id, choice in choices.items():
            _known(constitution, id, choice, layer)
    decisions, refused = [], list[Refusal]()
    for principle in constitution.principles:
        wishes = {layer: choices[principle.id] for layer, choices in settings.items() if principle.id in choices}
        decision = _decided(principle, {w: choice for w, choice in wishes.items() if not _forbidden(principle, w)})
        decisions.append(decision)
        for layer, wish in wishes.items():
            why = _forbidden(principle, layer)
            if layer == "user" == decision.overruled:
                why = f'{publisher} has decided it ("{decision.choice}"), and here the publisher goes before the user.'
            if why and wish != decision.choice:  # a wish for what holds anyway is granted
                refused.append(Refusal(layer, principle.id, f'"{principle.title}": {why}'))
    return Effective(constitution, publisher, tuple(decisions), tuple(refused))


def _default(principle: Principle) -> str:
    return EXPLAIN if principle.contested else KEEP


def _decided(principle: Principle, allowed: Mapping[Deciding, str]) -> Decision:
    """The first in the order of precedence that has decided; the other is overruled if it wanted something else."""
    order: tuple[Deciding, ...] = ("user", "publisher") if principle.precedence == "user" else ("publisher", "user")
    deciding = [layer for layer in order if layer in allowed]
    if not deciding:
        return Decision(principle, _default(principle), "default", None)
    choice = allowed[deciding[0]]
    overruled = [layer for layer in deciding[1:] if allowed[layer] != choice]
    return Decision(principle, choice, deciding[0], overruled[0] if overruled else None)


def _forbidden(principle: Principle, layer: Deciding) -> str:
    """Why this layer may not override the principle; empty if it may."""
    if principle.overridden_by == "nobody":
        return "the constitution lets nobody decide otherwise."
    if principle.overridden_by == "publisher" and layer == "user":
        return "the constitution leaves this to the publisher, not to the user."
    return ""


def _known(constitution: Constitution, id: str, choice: str, layer: Layer) -> None:
    """Refuse names that do not exist."""
    principle = constitution.principle(id)
    positions = [position.id for position in principle.positions]
    known = [EXPLAIN, *positions] if principle.contested else [KEEP, SET_ASIDE]
    if choice not in known:
        raise ConstitutionError(
            f'"{choice}" is no choice that the principle "{id}" has',
            where=f"{layer}'s choices",
            expected=", ".join(known),
            do=closest(choice, known),
        )
