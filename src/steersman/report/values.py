"""What `values.who_wins` found, as blocks: who wins, who loses, and what it costs whom."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from steersman.report.blocks import (
    Block,
    Bullets,
    Cell,
    Details,
    Difference,
    Label,
    Number,
    Rate,
    Table,
    paragraph,
)
from steersman.report.format import percent
from steersman.values.who_wins import BASELINE

TERMS: Mapping[str, str] = {
    "pooled": "what one reward model on all labels learns; every vote counts once",
    "majority": "the answer that beats most others, pair by pair, by all votes",
    "people": "groups weigh as many people as they have, however often these voted",
    "equal": "groups weigh the same, whatever their size",
    "max-min": "the group that likes an answer least decides",
    "nash": "the product of what the groups get: gains of those who have little count most",
    "jury": "one seat a group; the median juror decides",
}


def blocks(found: Mapping[str, Any]) -> tuple[Block, ...]:
    """Of a report by `who_wins`, for the page and the terminal."""
    return (
        paragraph(sentence(found), style="lead"),
        paragraph(_base(found)),
        _win_rates(found),
        _prices(found),
        _rules(found),
        Bullets(items=tuple(_notes(found))),
        *_intersections(found),
        *_disagreements(found),
    )


def sentence(found: Mapping[str, Any]) -> str:
    """The one sentence for those who read no table."""
    welfare = found["rules"]
    if not welfare:
        return "No group is large enough to say who wins or loses."
    if found["own_opinions"]["low"] <= 0:
        return (
            "Nobody is seen to lose by the pooled labels: knowing a rater's group does not predict held-out votes "
            "better than knowing everybody's."
        )
    group, lowest = welfare[BASELINE]["of"], welfare[BASELINE]["lowest"]
    rate = found["groups"][group]["rules"][BASELINE]["win_rate"]
    best = max(welfare, key=lambda name: welfare[name]["lowest"])
    text = f"Under the pooled labels, {group} gets the answer it prefers {percent(lowest)} of the time "
    text += f"[{percent(rate['low'])}, {percent(rate['high'])}]"
    text += ", less than by drawing one at random" if rate["high"] < 0.5 else ""
    if welfare[best]["lowest"] - lowest < 0.01:
        return f"{text}; no other rule does better by the group that is worst off."
    payer, price = min(
        ((name, own["rules"][best]["price"]["value"]) for name, own in _large(found)), key=lambda row: row[1]
    )
    return (
        f"{text}; by {best} the group worst off ({welfare[best]['of']}) gets it {percent(welfare[best]['lowest'])}, "
        f"and {payer} pays {100 * -price:.0f} points for it."
    )


def _large(found: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [(name, own) for name, own in found["groups"].items() if not own["too_small"]]


def _base(found: Mapping[str, Any]) -> str:
    text = (
        f"{found['comparisons']:,} comparisons by {found['raters']:,} people on {found['questions']:,} questions. "
        "Every vote is judged by choices that were made without its rater; 50 % is what an answer drawn at random gets."
    )
    if found["dropped"]:
        left = ", ".join(f"{count} ({why})" for why, count in found["dropped"].items())
        text += f" Rows left out: {left}."
    if found["rows_without_a_rater"]:
        count = found["rows_without_a_rater"]
        text += f" {count} rows name no rater: each counts as a person, and intervals are too narrow."
    if found["words_read"]:
        text += " Questions have few votes, so that the answers' words were read as well."
    return text


def _win_rates(found: Mapping[str, Any]) -> Table:
    """A row a group, with a chart of all rules."""
    rows: list[tuple[Cell, ...]] = []
    for name, own in [*found["groups"].items(), ("everybody", None)]:
        rules = own["rules"] if own else found["everybody"]
        note = f"{own['people']} people, {own['votes']} votes" if own else ""
        if own and own["too_small"]:
            rows.append((Label(text=name, note=note), f"too small: {own['too_small']}", *[None] * len(TERMS)))
            continue
        rates = {rule: Rate.of(rules[rule]["win_rate"]) for rule in TERMS}
        rows.append((Label(text=name, note=note), Rate.of(own["own"]) if own else None, *rates.values()))
    return Table(
        caption="Win rates: how often people of a group prefer the chosen answer to another one",
        columns=("Group", "Decided alone", *TERMS),
        rows=tuple(rows),
        headline=True,
    )


def _prices(found: Mapping[str, Any]) -> Table:
    others = [rule for rule in TERMS if rule != BASELINE]
    rows: list[tuple[Cell, ...]] = []
    for name, own in _large(found):
        regret = own["rules"][BASELINE]["regret"]
        cells = [Difference.of(own["rules"][rule]["price"]) for rule in others]
        rows.append((name, "-" if regret is None else f"{regret:.2f}", *cells))
    return Table(
        caption="What each group gains or pays, in points of its win rate under the pooled labels",
        columns=("Group", "Regret (pooled)", *others),
        rows=tuple(rows),
    )


def _rules(found: Mapping[str, Any]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for rule, about in TERMS.items():
        if rule not in found["rules"]:
            continue
        own, people = found["rules"][rule], found["people"][rule]
        changed = found["decisions"]["changed_by_rule"][rule]
        rows.append(
            (
                Label(text=rule, note=about),
                Rate(value=own["lowest"]),
                own["of"],
                Number(value=own["gini"], digits=2),
                Rate.of(people["better"]) if rule != BASELINE else None,
                Rate.of(people["worse"]) if rule != BASELINE else None,
                Rate.of(people["rather_by_chance"]),
                Rate(value=changed),
            )
        )
    return Table(
        caption="The rules: the group that is worst off, and how people fare",
        columns=(
            "Rule", "Lowest win rate", "Of", "Gini", "People better off than pooled", "Worse off",
            "Would rather draw at random", "Decisions changed",
        ),
        rows=tuple(rows),
    )  # fmt: skip


def _notes(found: Mapping[str, Any]) -> Iterator[str]:
    gain, agreement = found["own_opinions"], found["agreement"]
    yield (
        f"Held-out votes are {gain['value']:+.3f} nats likelier [{gain['low']:+.3f}, {gain['high']:+.3f}] under the "
        "opinion of their rater's groups than under everybody's: above 0, groups differ by more than noise."
    )
    if agreement["across"]["value"] is not None:
        within = ", ".join(
            f"{name} {percent(own['value'])}" for name, own in agreement["within"].items() if own["value"] is not None
        )
        yield (
            f"Two raters agree on a pair: of one group {within}; of two groups "
            f"{percent(agreement['across']['value'])}. Where both are alike, people disagree, and not groups."
        )
    disliked = {name: share for name, share in found["decisions"]["disliked"].items() if share}
    if disliked:
        said = ", ".join(f"{name} {percent(share)}" for name, share in disliked.items())
        yield f"Questions whose pooled choice more than two thirds of a group would rather not have: {said}."
    silent = ", ".join(f"{name} {percent(s)}" for name, s in found["decisions"]["changed_without_group"].items())
    yield f"Decisions that the pooled labels would change without a group's votes: {silent}."


def _intersections(found: Mapping[str, Any]) -> Iterator[Block]:
    rows: list[tuple[Cell, ...]] = []
    for name, own in found["in_two_groups"].items():
        rates = [Rate.of(own["rules"][rule]["win_rate"]) for rule in TERMS]
        rows.append((Label(text=name, note=f"{own['people']} people, {own['votes']} votes"), *rates))
    if rows:
        yield Table(caption="People who belong to two groups", columns=("Groups", *TERMS), rows=tuple(rows))


def _disagreements(found: Mapping[str, Any]) -> Iterator[Block]:
    rows = [
        (
            row["prompt"][:200],
            row["first"][:160],
            row["second"][:160],
            f"{row['groups'][0]} {percent(row['prefer_the_first'][0])}, {row['groups'][1]} "
            f"{percent(row['prefer_the_first'][1])}",
        )
        for row in found["disagreements"]
    ]
    if rows:
        columns = ("Question", "One answer", "Another", "Prefer the one")
        table = Table(caption="Estimated from the votes of both groups", columns=columns, rows=tuple(rows))
        yield Details(title="Where groups disagree most surely", blocks=(table,))
