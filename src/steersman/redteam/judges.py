"""The ladder of judges by name, and the cards that ship."""

from __future__ import annotations

from pathlib import Path

from steersman.errors import DataError, UserError, closest
from steersman.redteam.judge import Judge
from steersman.redteam.judge_card import JudgeCard, load_card
from steersman.redteam.judge_rules import RuleJudge
from steersman.redteam.judge_trained import TrainedJudge

CARD = "card.json"
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


def card_for(name: str, campaign: Path) -> JudgeCard | None:
    """The card that corrects a campaign: the one in its folder, from labels of its own replies, else the shipped one.

    Raises:
        DataError: the card in the folder is of another judge, or is no card.
    """
    file = campaign / CARD
    if not file.is_file():
        return shipped_card(name)
    card = load_card(file)
    if card.judge != name:
        raise DataError(
            f"the card is of the judge {card.judge!r}, and the campaign's judge is {name!r}",
            where=str(file),
            do="move it away, or make one of this judge with steersman redteam rate",
        )
    return card
