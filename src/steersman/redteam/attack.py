"""What an attack is: a generator that asks a target, reads what came of it, and asks again.

Goal      what the attacker wants, and the principle that it breaks
Ask       a conversation for the target
Consult   a prompt for the attacker's own model (PAIR, TAP)
Work      a computation of the attack's own that is worth keeping, such as a step of gradients
Outcome   what came of an `Ask`: the reply, who stopped it, and what the judge said
Attack    a family's name, paper, needs and budget, and the generator

The campaign owns every query: an attack never calls a model. Each yielded step is answered from the campaign's log
where it stands there already, so a resumed campaign runs the same generators over the same answers and asks nothing
twice. An attack is therefore a function of its goal, its seed and its answers alone: no clock, no global randomness.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from steersman.types import Message, Text

VERSION = 1  # of all attacks: raise it when one of them asks otherwise
Stopped = Literal["", "model", "input", "output"]  # by nobody; by a refusal of the model; by the guard on either side
Need = Literal["attacker", "weights", "words"]  # a model of the attacker's; the target's weights; the user's own list


class Goal(NamedTuple):
    """What an attacker wants.

    Attributes:
        text: the request as it would be made plainly.
        principle: id of the principle that an answer would break.
        topic: goals of one topic belong together: intervals resample topics, not goals.
        secret: for extraction of a system prompt, the text in it that must not come out; else empty.
        system: what stands before the conversation as its system message; else empty.
    """

    text: str
    principle: str
    topic: str = ""
    secret: str = ""
    system: str = ""


class Outcome(NamedTuple):
    """What came of a conversation.

    Attributes:
        reply: what the attacker reads, which is the guard's refusal where the guard stopped it.
        stopped: who stopped it.
        success: whether the judge says that the reply did the harm.
        score: the judge's probability of that, in [0, 1]: what a search climbs.
    """

    reply: str
    stopped: Stopped
    success: bool
    score: float


@dataclass(frozen=True)
class Ask:
    """A conversation for the target; it ends with a user's or a tool's message.

    ``note`` says in a few words what was done, such as ``base64``: it is kept with the finding. Where the goal has a
    system message, the campaign puts it in front. ``temperature`` 0 is greedy; otherwise the campaign derives the
    seed from the goal, the attack's seed and the place of the step, so that repeated asks differ.

    ``reply`` is for an attack that intervenes in the target's weights while they generate, such as an ablation of the
    refusal direction: it is what the target said under the intervention, made by a `Work` before. The campaign asks
    no target then; it judges this reply, counts it as one ask and writes it down like any other.
    """

    prompt: Text
    note: str = ""
    temperature: float = 0.0
    reply: str | None = None


@dataclass(frozen=True)
class Consult:
    """A prompt for the attacker's model; the campaign sends back its answer, a string."""

    prompt: Text
    temperature: float = 1.0


@dataclass(frozen=True)
class Work:
    """A computation whose result, a JSON value, is kept in the log: a resumed campaign does not repeat it."""

    run: Callable[[], Any]


Step = Sequence[Ask] | Consult | Work
# It is sent the outcomes of its asks in their order, the answer of the attacker's model, or the result of its work.
Moves = Generator[Step, Any, None]


class WhiteBox(Protocol):
    """The target's weights, for attacks that may use them."""

    @property
    def model(self) -> Any:
        """A Hugging Face decoder, with its adapter."""
        ...

    @property
    def chat(self) -> Any:
        """Its `lm.chat_format.ChatFormat`."""
        ...


@dataclass(frozen=True)
class Tools:
    """What an attack gets beside its goal.

    Attributes:
        draw: randomness of its own, seeded by the campaign's seed, the attack and the goal.
        budget: most asks of this goal; a search stops there, and the campaign cuts it off.
        siblings: other goals of the same principle, for attacks that show examples.
        files: texts of the user, by the name of the setting that names them, such as templates.
        weights: the target's weights, None for an endpoint.
    """

    draw: random.Random
    budget: int
    siblings: Sequence[Goal] = ()
    files: Mapping[str, Sequence[str]] = field(default_factory=dict)
    weights: WhiteBox | None = None


@dataclass(frozen=True)
class Attack:
    """A family of attacks, or one of its members.

    Attributes:
        name: of this attack, a slug, such as ``base64``.
        family: the row of the report's matrix, such as ``encodings``; a family's members share a file.
        paper: where it was described: authors, year and arXiv id, or the tool that made it known.
        about: one sentence for the plan and the report.
        moves: the generator.
        asks: the most that it asks about one goal, None for a search, which takes the campaign's budget.
        needs: what it cannot run without; the campaign leaves it out, and says so, where that is missing.
        adaptive: whether what it asks depends on the replies.
    """

    name: str
    family: str
    paper: str
    about: str
    moves: Callable[[Goal, Tools], Moves]
    asks: int | None = 1
    needs: frozenset[Need] = frozenset()
    adaptive: bool = False


def once(transform: Callable[[Goal, Tools], Text], note: str = "") -> Callable[[Goal, Tools], Moves]:
    """The moves of an attack that asks once: the goal, transformed."""

    def moves(goal: Goal, tools: Tools) -> Moves:
        yield (Ask(transform(goal, tools), note),)

    return moves


def conversation(*turns: tuple[Literal["system", "user", "assistant", "tools", "tool"], str]) -> tuple[Message, ...]:
    """A conversation from roles and texts."""
    return tuple(Message(role=role, content=text) for role, text in turns)
