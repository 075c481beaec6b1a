"""The ladder of judges by name, and the cards that ship."""

from __future__ import annotations

from pathlib import Path

from steersman.errors import UserError, closest
from steersman.redteam.judge import Judge
from steersman.redteam.judge_card import JudgeCard, load_card
from steersman.redteam.judge_rules import RuleJudge
from steersman.redteam.judge_trained import TrainedJudge

DEFAULT = "rules"
JUDGES: dict[str, type[RuleJudge] | type[TrainedJudge]] = {"rules": RuleJudge, "trained": TrainedJudge}


def judge_named(name: str = DEFAULT) -> Judge:
    """A judge that needs no model.

    Raises:
        UserError: there is none of that name.
    """
    if name not in JUDGES:
        raise UserError(f"no judge of attacks {name!r}", do=closest(name, sorted(JUDGES)))
    return JUDGES[name]()


def shipped_card_path(name: str) -> Path:
    """Where the card of a judge lies that ships with Steersman."""
    return Path(__file__).parent / f"card_of_{name}.json"


def shipped_card(name: str) -> JudgeCard | None:
    """The card from our own rows, None for a judge that has none, such as an endpoint.

    It says how the judge does on exchanges that we wrote. On a target's own replies it does differently: a card from
    labels of your own findings is better in every way.
    """
    path = shipped_card_path(name)
    return load_card(path) if path.is_file() else None
