"""What goes through the guard, and what its rails say of it.

Part      one text of a conversation, with its place in the request
Exchange  what a rail judges: the conversation, and the answer so far
Verdict   what one rail says about one principle
Ruling    what the guard does, from the verdicts of all its rails
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from steersman.types import Record, Text, messages_of

if TYPE_CHECKING:
    from steersman.guard.normalise import Views

ANSWER = "answer"  # the path of the answer in views and evidence
Side = Literal["input", "output"]
# From the mildest to the strictest. `failed`: the rail could not judge, which is never `allow`.
Decision = Literal["allow", "escalate", "rewrite", "redact", "block", "failed"]
STRICTNESS: dict[Decision, int] = {
    "allow": 0,
    "escalate": 1,
    "redact": 2,
    "rewrite": 3,
    "block": 4,
    "failed": 5,
}


class Part(NamedTuple):
    """One text of a conversation. ``where`` is its path in the request, such as ``messages[2].content[0].text``."""

    where: str
    role: str  # system, developer, user, assistant, tool, function, or what the client wrote
    text: str


@dataclass(frozen=True)
class Exchange:
    """A conversation and the answer to it so far.

    Attributes:
        parts: every text of every role, tool calls and their results too, in order.
        answer: the answer so far; None before there is one (the input side).
        finished: whether the answer is complete.
        unscannable: paths of what no rail can read, such as an image.
        activation: what a probe on the model's own activations says of the answer so far; None where nothing read them.
    """

    parts: tuple[Part, ...]
    answer: str | None = None
    finished: bool = True
    unscannable: tuple[str, ...] = ()
    activation: float | None = None

    @classmethod
    def of(cls, prompt: Text, answer: str | None = None) -> Exchange:
        """An exchange from a prompt of ours."""
        messages = messages_of(prompt)
        parts = tuple(Part(f"messages[{i}].content", m.role, m.content) for i, m in enumerate(messages))
        return cls(parts, answer)

    @property
    def side(self) -> Side:
        """Which side is judged."""
        return "input" if self.answer is None else "output"

    @property
    def question(self) -> str:
        """The last text of the user; empty where there is none."""
        return next((part.text for part in reversed(self.parts) if part.role == "user"), "")


class Evidence(Record):
    """Where a rail found what it objects to.

    ``start`` and ``end`` count characters of the original text at ``where``; they enclose everything that the found
    text was decoded from. ``views``: what was done to the text before it was found, outermost first; empty for the
    text as it is. ``kind``: what it is, such as EMAIL; it stands in the place of what is redacted.
    """

    where: str
    start: int
    end: int
    views: tuple[str, ...] = ()
    kind: str = ""


class Verdict(Record):
    """What one rail says about one principle.

    ``score``: calibrated probability that the principle is broken, None where the rail has none (a literal match).
    """

    rail: str
    # A principle's id; for what is no principle "secrets", "personal-data" or "unscannable" (none can be told).
    principle: str
    decision: Decision
    score: float | None = None
    threshold: float | None = None
    evidence: tuple[Evidence, ...] = ()
    ms: float = 0.0
    note: str = ""  # why it failed, or what it could not read


@dataclass(frozen=True)
class Ruling:
    """What the guard does with one side of an exchange: the strictest decision of its enforcing rails.

    Attributes:
        decision: `failed` verdicts make it `block`.
        verdict: the one that decided; None if everything is allowed.
        verdicts: all of them, those of rails in shadow mode too.
        shadowed: names of the rails that only log.
        not_run: names of rails that were not asked, with the reason.
        settled: characters of an unfinished answer about which no enforcing rail can change its mind; None: not known.
    """

    decision: Decision
    verdict: Verdict | None
    verdicts: tuple[Verdict, ...] = ()
    shadowed: tuple[str, ...] = ()
    not_run: tuple[tuple[str, str], ...] = ()
    settled: int | None = None

    @property
    def stops(self) -> bool:
        """Whether the text may not pass as it is."""
        return STRICTNESS[self.decision] >= STRICTNESS["redact"]


class Rail(Protocol):
    """One kind of check.

    Attributes:
        name: as in verdicts, configuration and metrics.
        reach: characters of an answer, in its original text, before which the rail may still change its mind: what lies
            further back than this can be sent. None: only a finished answer is judged.

    A rail that can tell more from the answer itself has a method ``settled(answer, views)`` beside: how many characters
    from the answer's beginning it cannot change its mind about. One that only computes says ``waits = False``: it then
    shares a thread with others of its kind instead of taking turns with them.
    """

    name: str
    reach: int | None

    def check(self, exchange: Exchange, views: dict[str, Views]) -> Sequence[Verdict]:
        """Verdicts on one side of an exchange; principles about which nothing was found may be left out.

        Args:
            exchange: what is judged.
            views: of each part by its path, and of the answer under ``answer`` (`normalise.views`).

        A rail that cannot judge raises; the guard makes that a verdict of `failed`.
        """
        ...
