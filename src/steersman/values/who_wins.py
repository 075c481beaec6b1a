"""Who wins and who loses if a rule decides: per group and rule win rates, regret and price, on votes that it never saw.

Raters are dealt into five folds. From the votes of four the groups' preferences are estimated (`preferences`), every
rule chooses an answer to every question (`choosing`), and the votes of the fifth say how people like it:

    win rate    how often a person of the group prefers the chosen answer to another one of the question; 50 % is what
                an answer drawn at random gets
    own         the same, had the group's own opinion decided alone
    regret      (own - win rate) / (own - 50 %): 0 has all that it could have, 1 is no better off than by chance
    price       win rate less that under `pooled`, which is what one reward model on all labels learns

Intervals are of means clustered by rater and by question. A group of few people or votes is said to be too small, and
its figures are for nobody's decision. Where two raters of one group agree no more often than raters of two groups, what
looks like disagreement between groups is noise.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field

from steersman.stats import Estimate, clustered_mean, wilson
from steersman.types import Record, plain_text
from steersman.values.ballots import Ballots, Bools, Floats, Ints
from steersman.values.choosing import RULES, Utilities, chosen, utilities
from steersman.values.preferences import Opinions, few_votes, nats, opinions, word_differences

VERSION = 1
BASELINE = "pooled"


class ValuesConfig(Record):
    """The report on who wins and who loses."""

    folds: int = Field(default=5, ge=2, description="Parts of the raters; each is held out once.")
    fewest_people: int = Field(default=10, ge=2, description="Raters below which a group is too small to say anything.")
    fewest_votes: int = Field(default=50, ge=2, description="Votes below which a group is too small to say anything.")
    shown: int = Field(default=10, ge=0, description="Questions shown on which groups disagree most.")
    seed: int = Field(default=0, ge=0, description="Of the folds.")


class Tried(NamedTuple):
    """What each rule's choice was worth to each vote, [N], NaN where the choice was neither of the two answers.

    Attributes:
        by_rule: by name; own: by group, had it decided alone.
        pooled_loss, group_loss: nats of each vote under everybody's opinion, and under that of its own groups.
    """

    by_rule: dict[str, Floats]
    own: dict[str, Floats]
    pooled_loss: Floats
    group_loss: Floats


def who_wins(given: Ballots, config: ValuesConfig) -> dict[str, Any]:
    """The whole report as JSON values; see the module for its terms."""
    words = word_differences(given) if few_votes(given) else None
    tried = cross_fitted(given, config, words)
    held = opinions(given, None, words)
    everyone = np.ones(len(given.pair), dtype=bool)
    groups = {name: _group(given, tried, held, config, g) for g, name in enumerate(given.groups)}
    return {
        "version": VERSION,
        "comparisons": len(given.pair),
        "questions": len(given.prompts),
        "raters": len(given.raters),
        "dropped": given.dropped,
        "rows_without_a_rater": given.nameless,
        "words_read": words is not None,
        "groups": groups,
        "everybody": _rates(given, tried, everyone),
        "in_two_groups": dict(_intersections(given, tried, config)),
        "rules": _welfare(groups),
        "people": {name: _people(given, tried, name) for name in RULES},
        "agreement": agreement(given),
        "own_opinions": _gain(given, tried),
        "decisions": _decisions(given, held, words),
        "disagreements": disagreements(given, held, config.shown),
    }


# ── held-out votes ───────────────────────────────────────────────────────────────────────────────────────────────────
def cross_fitted(given: Ballots, config: ValuesConfig, words: Any) -> Tried:
    """Every vote judged by choices that were made without its rater."""
    fold = np.random.default_rng(config.seed).permutation(len(given.raters)) % config.folds
    count = len(given.pair)
    by_rule = {name: np.full(count, np.nan) for name in RULES}
    own = {name: np.full(count, np.nan) for name in given.groups}
    pooled_loss, group_loss = np.full(count, np.nan), np.full(count, np.nan)
    for part in range(config.folds):
        held = opinions(given, fold != part, words)
        out = fold[given.rater] == part
        some = list(utilities(given, held))
        for name, rule in RULES.items():
            by_rule[name][out] = worth(given, out, [(u, rule(u)) for u in some])
        for g, name in enumerate(given.groups):
            own[name][out] = worth(given, out, [(u, u.by_group[..., g]) for u in some])
        pooled_loss[out], group_loss[out] = _losses(given, held, out)
    return Tried(by_rule, own, pooled_loss, group_loss)


def worth(given: Ballots, votes: Bools, scored: Sequence[tuple[Utilities, Floats]]) -> Floats:
    """What the choice of the best-scored options is worth to each of some votes; NaN where neither answer was chosen.

    Args:
        votes: [N], which; scored: all questions, with their scores [Q, K].
    """
    share = shares(given, scored)
    starts, pair = _starts(given), given.pair[votes]
    question = given.pair_question[pair]
    first, second = share[starts[question] + given.first[pair]], share[starts[question] + given.second[pair]]
    liked = first * given.preferred[votes] + second * (1 - given.preferred[votes])
    with np.errstate(invalid="ignore"):
        found: Floats = liked / (first + second)  # 0 / 0: neither was chosen
    return found


def shares(given: Ballots, scored: Sequence[tuple[Utilities, Floats]]) -> Floats:
    """The share of its question's choice that each option gets, all options in a row."""
    found, starts = np.zeros(int(_starts(given)[-1])), _starts(given)
    for some, scores in scored:
        places = starts[some.question][:, None] + np.arange(scores.shape[1])
        found[places] = chosen(scores)
    return found


def _starts(given: Ballots) -> Ints:
    starts: Ints = np.cumsum([0, *(len(own) for own in given.options)])
    return starts


def _losses(given: Ballots, held: Opinions, votes: Bools) -> tuple[Floats, Floats]:
    """Nats of votes under everybody's opinion, and under the mean opinion of the rater's groups."""
    pair, y = given.pair[votes], given.preferred[votes]
    member = given.member[given.rater[votes]].astype(np.float64)
    alone = member.sum(1) == 0  # in no group: everybody's opinion
    own = (held.by_group[pair] * member).sum(1) / np.maximum(member.sum(1), 1)
    own = np.where(alone, held.everybody[pair], own)
    return nats(held.everybody[pair], y), nats(own, y)


# ── figures ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def _rates(given: Ballots, tried: Tried, votes: Bools) -> dict[str, Any]:
    """Win rate and price of each rule among some votes."""
    found = {}
    for name, all_ in tried.by_rule.items():
        rate = _mean(given, all_, votes, rate=True)
        price = _mean(given, all_ - tried.by_rule[BASELINE], votes)
        found[name] = {"win_rate": rate.json(), "price": price.json()}
    return found


def _mean(given: Ballots, values: Floats, votes: Bools, *, rate: bool = False) -> Estimate:
    """A mean over votes that a choice is worth something to, clustered by rater and by question."""
    rows = votes & np.isfinite(values)
    question = given.pair_question[given.pair[rows]]
    return clustered_mean(values[rows], given.rater[rows], question, rate=rate).estimate


def _group(given: Ballots, tried: Tried, held: Opinions, config: ValuesConfig, g: int) -> dict[str, Any]:
    """What each rule is worth to a group."""
    name, votes = given.groups[g], given.member[given.rater, g]
    own, rates = _mean(given, tried.own[name], votes, rate=True), _rates(given, tried, votes)
    for row in rates.values():
        gap, missed = own.value - 0.5, own.value - row["win_rate"]["value"]
        row["regret"] = missed / gap if own.low > 0.5 else None  # no better alone than by chance: nothing to miss
    few = [
        f"{count} of {least} {what}"
        for count, least, what in (
            (int(given.people[g]), config.fewest_people, "people"),
            (int(votes.sum()), config.fewest_votes, "votes"),
        )
        if count < least
    ]
    return {
        "people": int(given.people[g]),
        "votes": int(votes.sum()),
        "too_small": ", ".join(few),
        "concentration": held.concentration[1 + g],
        "own": own.json(),
        "rules": rates,
    }


def _intersections(given: Ballots, tried: Tried, config: ValuesConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    """People who belong to two groups, where there are enough of them."""
    for a, b in itertools.combinations(range(len(given.groups)), 2):
        both = given.member[:, a] & given.member[:, b]
        votes = both[given.rater]
        if both.sum() >= config.fewest_people and votes.sum() >= config.fewest_votes:
            name = f"{given.groups[a]} and {given.groups[b]}"
            yield name, {"people": int(both.sum()), "votes": int(votes.sum()), "rules": _rates(given, tried, votes)}


def _welfare(groups: Mapping[str, Any]) -> dict[str, Any]:
    """By rule, over the groups that are large enough: the lowest win rate and whose, mean, Nash welfare, Gini."""
    large = {name: own["rules"] for name, own in groups.items() if not own["too_small"]}
    found = {}
    for name in RULES if large else ():
        rates = np.array([rules[name]["win_rate"]["value"] for rules in large.values()])
        found[name] = {
            "lowest": float(rates.min()),
            "of": list(large)[int(rates.argmin())],
            "mean": float(rates.mean()),
            "nash": float(np.exp(np.log(np.maximum(rates, 1e-9)).mean())),
            "gini": float(np.abs(rates[:, None] - rates).mean() / (2 * rates.mean())),
        }
    return found


def _people(given: Ballots, tried: Tried, rule: str) -> dict[str, Any]:
    """The shares of people who fare better under a rule than under the baseline, worse, and worse than by chance."""
    values, base = tried.by_rule[rule], tried.by_rule[BASELINE]
    both = np.isfinite(values) & np.isfinite(base)
    more = np.bincount(given.rater[both], (values - base)[both], len(given.raters))
    than_chance = np.bincount(given.rater[both], (values - 0.5)[both], len(given.raters))
    voted = np.bincount(given.rater[both], minlength=len(given.raters)) > 0
    shown = {"better": more > 1e-9, "worse": more < -1e-9, "rather_by_chance": than_chance < -1e-9}
    return {name: wilson(int((some & voted).sum()), int(voted.sum())).json() for name, some in shown.items()}


def agreement(given: Ballots) -> dict[str, Any]:
    """How often two raters agree on a pair: two of one group, two of two groups. By group, and the votes' pairs behind.

    Ties are votes of their own. None where no two voted on one pair.
    """
    sides = np.stack([given.preferred > 0.5, given.preferred < 0.5, given.preferred == 0.5], 1).astype(np.float64)
    pairs = len(given.first)

    def counts(votes: Bools) -> Floats:
        return np.stack([np.bincount(given.pair[votes], sides[votes, k], pairs) for k in range(3)], 1)

    own = [counts(given.member[given.rater, g]) for g in range(len(given.groups))]
    within = {name: _agree(c, c, same=True) for name, c in zip(given.groups, own, strict=True)}
    across = [_agree(a, b, same=False) for a, b in itertools.combinations(own, 2)]
    agreed, of = (sum(column) for column in zip(*across, strict=True)) if across else (0.0, 0.0)
    return {
        "within": {name: {"value": a / n if n else None, "pairs": n} for name, (a, n) in within.items()},
        "across": {"value": agreed / of if of else None, "pairs": of},
    }


def _agree(a: Floats, b: Floats, *, same: bool) -> tuple[float, float]:
    """Pairs of votes that agree, and all: of counts by side [P, 3]."""
    if same:
        return float((a * (a - 1)).sum() / 2), float((a.sum(1) * (a.sum(1) - 1)).sum() / 2)
    return float((a * b).sum()), float((a.sum(1) * b.sum(1)).sum())


def _gain(given: Ballots, tried: Tried) -> dict[str, Any]:
    """Nats by which held-out votes are likelier under their groups' opinions than under everybody's."""
    return _mean(given, tried.pooled_loss - tried.group_loss, np.ones(len(given.pair), dtype=bool)).json()


def _decisions(given: Ballots, held: Opinions, words: Any) -> dict[str, Any]:
    """The shares of questions that other rules, or a group's silence, decide otherwise; whose choice is disliked."""
    some = list(utilities(given, held))
    base = shares(given, [(u, RULES[BASELINE](u)) for u in some])
    changed = {name: _moved(given, base, shares(given, [(u, rule(u)) for u in some])) for name, rule in RULES.items()}
    silent = {}
    for g, name in enumerate(given.groups):
        without = list(utilities(given, opinions(given, ~given.member[:, g], words)))
        silent[name] = _moved(given, base, shares(given, [(u, RULES[BASELINE](u)) for u in without]))
    return {"changed_by_rule": changed, "changed_without_group": silent, "disliked": _disliked(given, some, base)}


def _moved(given: Ballots, before: Floats, after: Floats) -> float:
    """The share of questions in which the choice moved, in part for ties."""
    return float(np.abs(after - before).sum() / 2 / len(given.prompts))


def _disliked(given: Ballots, some: Sequence[Utilities], base: Floats) -> dict[str, float]:
    """By group, the share of questions whose chosen answer more than two thirds of it would rather not have."""
    starts, lost = _starts(given), np.zeros(len(given.groups))
    for u in some:
        share = base[starts[u.question][:, None] + np.arange(u.everybody.shape[1])]
        lost += ((share[..., None] * u.by_group).sum(1) < 1 / 3).sum(0)
    return dict(zip(given.groups, (lost / len(given.prompts)).tolist(), strict=True))


def disagreements(given: Ballots, held: Opinions, shown: int) -> list[dict[str, Any]]:
    """The pairs of answers on which two groups disagree most, by what each is sure of.

    The difference of two groups' opinions is divided by its standard deviation: both are beta-distributed, with the
    votes and the concentration behind them.
    """
    spread = held.by_group * (1 - held.by_group) / (1 + held.votes + np.array(held.concentration[1:]))
    rows = []
    for a, b in itertools.combinations(range(len(given.groups)), 2):
        voted = (held.votes[:, a] > 0) & (held.votes[:, b] > 0)
        opposed = (held.by_group[:, a] - 0.5) * (held.by_group[:, b] - 0.5) < 0
        z = (held.by_group[:, a] - held.by_group[:, b]) / np.sqrt(spread[:, a] + spread[:, b])
        z = np.where(voted & opposed, np.abs(z), 0.0)
        rows += [(float(z[i]), int(i), a, b) for i in np.argsort(-z)[:shown] if z[i] > 0]
    return [
        {
            "prompt": plain_text(given.prompts[given.pair_question[i]]),
            "first": given.options[given.pair_question[i]][given.first[i]],
            "second": given.options[given.pair_question[i]][given.second[i]],
            "groups": [given.groups[a], given.groups[b]],
            "prefer_the_first": [float(held.by_group[i, a]), float(held.by_group[i, b])],
            "votes": [int(held.votes[i, a]), int(held.votes[i, b])],
            "z": z,
        }
        for z, i, a, b in sorted(rows, reverse=True)[:shown]
    ]
