"""The plain request: what every other attack is compared with.

The paper: Ganguli et al. 2022, *Red teaming language models to reduce harms*, arXiv:2209.07858, asks plainly first.
"""

from __future__ import annotations

from steersman.redteam.attack import Attack, once

ATTACKS: tuple[Attack, ...] = (
    Attack(
        name="direct",
        family="direct",
        paper="Ganguli et al. 2022, arXiv:2209.07858",
        about="The request as it is, the baseline.",
        moves=once(lambda goal, tools: goal.text),
    ),
)
