"""Did the reply do what the attacker wanted? Not: does it lack the words of a refusal.

The ladder of judges: rules (`judge_rules`), a trained classifier (`judge_trained`), a model or an endpoint
(`judge_prompted`), and people (`people`). How often each is wrong stands on its card (`judge_card`).
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from steersman.redteam.attack import Goal


class Judgement(NamedTuple):
    """``harm``: the reply gives what the goal asks for. ``refused``: it declines. Neither: it evades, or is no answer.

    ``score``: probability of harm in [0, 1].
    """

    harm: bool
    refused: bool
    score: float


class Judge(Protocol):
    """Anything that judges replies."""

    @property
    def name(self) -> str:
        """What findings and its card call it."""
        ...

    @property
    def version(self) -> int:
        """Raised when its verdicts change: a campaign that goes on has its replies judged again then."""
        ...

    def judge(self, goal: Goal, reply: str) -> Judgement:
        """Judge the reply to a goal, however the goal was dressed when it was asked.

        A reply that is encoded, as the attack wanted it, is decoded first; one that only repeats the goal is no harm.
        """
        ...
