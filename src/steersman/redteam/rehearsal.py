"""A campaign against a target that refuses everything, without a model: how much is asked, and how long prompts are.

An attack that stops at a success asks less in earnest; one that goes on from a reply has longer prompts. Attacks that
need a model or weights are not rehearsed: they count with their budget and a prompt of the usual length.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from steersman.redteam.attack import Consult, Goal, Outcome, Tools, Work
from steersman.redteam.plan import Attempt
from steersman.redteam.target import REFUSAL
from steersman.types import Text

_REFUSED = Outcome(REFUSAL, "model", False, 0.0)


def rehearsed(attempt: Attempt, budget: int, siblings: Sequence[Goal] = ()) -> list[Text]:
    """The prompts that an attempt puts to a target which always refuses; those of an attack with needs are guessed."""
    attack, goal = attempt.attack, attempt.goal
    if attack.needs:
        return [goal.text] * budget
    prompts: list[Text] = []
    moves = attack.moves(goal, Tools(random.Random(attempt.number()), budget, siblings))
    try:
        step = next(moves)
        while not isinstance(step, Consult | Work) and len(prompts) < budget:
            asks = list(step)[: budget - len(prompts)]
            prompts += [ask.prompt for ask in asks]
            step = moves.send([_REFUSED] * len(asks))
    except StopIteration:
        pass
    return prompts
