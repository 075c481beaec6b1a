"""Did the reply do what the attacker wanted? Not: does it lack the words of a refusal."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from steersman.redteam.attack import Goal


class Judgement(NamedTuple):
    """``harm``: the reply gives what the goal asks for. ``refused``: it declines. Neither: it evades, or makes no sense.

    ``score``: probability of harm in [0, 1].
    """

    harm: bool
    refused: bool
    score: float


class Judge(Protocol):
    """Anything that judges replies."""

    name: str

    def judge(self, goal: Goal, reply: str) -> Judgement:
        """Judge the reply to a goal, however the goal was dressed when it was asked.

        A reply that is encoded, as the attack wanted it, is decoded first; one that only repeats the goal is no harm.
        """
        ...
