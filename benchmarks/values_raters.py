"""Raters who lie, collude, drift and tire: what it gains them, how far each rule moves, and whether they are found.

    python benchmarks/values_raters.py [--only NAME ...]

All raters are simulated, so that the truth is known. Results go to benchmarks/results/values_raters.json; sections that
were not run are kept. Seconds are of processor time.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from steersman.data import toy_world as world
from steersman.data.toy_world import ToyQuestion, ToyRater
from steersman.rating.raters import Fit, fit, fit_qualities
from steersman.stats import Estimate, mean_estimate, wilson
from steersman.types import Comparison
from steersman.values.aggregate import Choice, Ratings, group_utilities
from steersman.values.bridging import bridging
from steersman.values.brigading import co_agreement
from steersman.values.collusion import shift, votes_to_move
from steersman.values.consensus import group_aware_consensus
from steersman.values.drift import Observed, drift, fatigue, observed, order_effects
from steersman.values.elections import borda, copeland, kemeny, maximal_lottery, schulze
from steersman.values.influence import fit_head, nll, on_held_out, pairs_of, traces, without
from steersman.values.jury import jury
from steersman.values.simulated_rounds import Attack, RoundShape, rates, simulated_round
from steersman.values.strategy import Rule, by_pairs, strategy, two_camps
from steersman.values.welfare import approval, max_min, mean_utility, nash_welfare

RESULTS = Path(__file__).resolve().parent / "results" / "values_raters.json"
Figures = dict[str, Any]


# ── rules ────────────────────────────────────────────────────────────────────────────────────────────────────────────
def _votes(ratings: Ratings) -> Ratings:
    """Ratings as votes: the upper third agrees, the lower disagrees."""
    return ratings._replace(values=np.where(ratings.values >= 2 / 3, 1.0, np.where(ratings.values <= 1 / 3, -1.0, 0.0)))


def _nash(ratings: Ratings) -> Choice:
    utilities = group_utilities(ratings)
    return nash_welfare(utilities, dict.fromkeys(utilities.groups, 0.0))


PAIRS: dict[str, Rule] = {
    "pooled Bradley-Terry (Borda)": by_pairs(borda),
    "Copeland": by_pairs(copeland),
    "Schulze": by_pairs(schulze),
    "Kemeny": by_pairs(kemeny),
    "maximal lottery": by_pairs(maximal_lottery),
}
RULES: dict[str, Rule] = {
    **PAIRS,
    "approval, at least 1/2": lambda ratings: approval(ratings, 0.5),
    "mean of ratings": lambda ratings: mean_utility(group_utilities(ratings), standardise=False),
    "mean of standardised groups": lambda ratings: mean_utility(group_utilities(ratings)),
    "max-min of standardised groups": lambda ratings: max_min(group_utilities(ratings)),
    "Nash welfare": _nash,
    "jury, 9 and 3 seats": lambda ratings: jury(ratings, {"majority": 9, "minority": 3}, juries=100),
    "group-aware consensus": lambda ratings: group_aware_consensus(_votes(ratings)),
}
FEW = {"maximal lottery": 5, "jury, 9 and 3 seats": 3, "Kemeny": 2}  # as many times fewer populations: they are slow


def _plain(value: Any) -> Any:
    """Estimates and other tuples with names as JSON values."""
    if isinstance(value, Estimate):
        return value.json()
    if hasattr(value, "_asdict"):
        return {name: _plain(own) for name, own in value._asdict().items()}
    return {name: _plain(own) for name, own in value.items()} if isinstance(value, dict) else value


# ── sections ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def gains() -> Figures:
    """What the best misreport gains: 60 people in two camps of 90 to 10 (correlation -0.6), 5 options."""
    who: dict[str, Callable[[Ratings], Sequence[int]]] = {
        "one of the majority": lambda truth: [0],
        "the minority together": lambda truth: np.flatnonzero(truth.group == 1).tolist(),
        "a third of the majority together": lambda truth: range(18),
    }
    found: Figures = {}
    for name, rule in RULES.items():
        found[name] = {
            members: _plain(strategy(name, rule, two_camps(60, 5), chosen, populations=60 // FEW.get(name, 1)))
            for members, chosen in who.items()
        }
    return found


def collusion() -> Figures:
    """95 honest people (90 to 10) and 5 colluders, 5 options: what they do for the runner-up and for the last option,
    and how many it would take for either to win. 20 populations; ``votes`` are quantiles over them, null if 95 more
    votes than people are not enough."""
    found: Figures = {}
    for name, rule in RULES.items():
        groups = [-1] if name in PAIRS or name in ("approval, at least 1/2", "mean of ratings") else None
        if name == "mean of ratings":
            groups = [0]  # of any group: all weigh the same
        found[name] = {}
        for which, place in (("runner-up", 1), ("last", -1)):
            shifts, needed = [], []
            for seed in range(20 // FEW.get(name, 1)):
                people = two_camps(95, 5)(np.random.default_rng([5, seed]))
                target = int(np.argsort(-rule(people).scores, kind="stable")[place])
                shifts.append(shift(rule, people, target, 5, groups))
                votes = votes_to_move(rule, people, target, 95, groups).votes
                needed.append(math.inf if votes is None else votes)
            low, middle, high = np.quantile(needed, [0.1, 0.5, 0.9], method="higher")
            found[name][which] = {
                "chance_to_win": _plain(mean_estimate([s.chance_after - s.chance_before for s in shifts])),
                "places_gained": _plain(mean_estimate([float(s.place_before - s.place_after) for s in shifts])),
                "score_moved_sd": _plain(mean_estimate([s.moved for s in shifts if math.isfinite(s.moved)])),
                "honest_people_lose": _plain(mean_estimate([s.loss for s in shifts])),
                "votes_p10": _finite(low),
                "votes_median": _finite(middle),
                "votes_p90": _finite(high),
                "populations": len(shifts),
            }
    return found


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def principles() -> Figures:
    """95 honest people (90 to 10) vote on 20 statements: how far 5 colluders lift the statement in the middle, and how
    many it takes to put it among the best 5."""
    rules: dict[str, Rule] = {
        "share who agree": lambda ratings: approval(_votes(ratings), 1.0),
        "group-aware consensus": lambda ratings: group_aware_consensus(_votes(ratings)),
        "bridging": lambda ratings: bridging(ratings._replace(values=0.5 + 0.5 * _votes(ratings).values)).choice,
    }
    found: Figures = {}
    for name, rule in rules.items():
        needed, gained, groups = [], [], None if name == "group-aware consensus" else [-1]
        for seed in range(2 if name == "bridging" else 10):
            people = two_camps(95, 20)(np.random.default_rng([6, seed]))
            target = int(np.argsort(-rule(people).scores, kind="stable")[9])
            own = shift(rule, people, target, 5, groups)
            gained.append(float(own.place_before - own.place_after))
            votes = votes_to_move(rule, people, target, 95, groups, top=5).votes
            needed.append(math.inf if votes is None else float(votes))
        low, middle, high = np.quantile(needed, [0.1, 0.5, 0.9], method="higher")
        found[name] = {
            "places_gained_by_5": _plain(mean_estimate(gained)),
            "votes_p10": _finite(low),
            "votes_median": _finite(middle),
            "votes_p90": _finite(high),
            "populations": len(needed),
        }
    return found


def _targeted(rows: Sequence[Comparison], names: set[str], worst: dict[str, str]) -> list[Comparison]:
    """The rows, in which these raters prefer each prompt's worst answer to any other."""
    return [
        row.model_copy(update={"ranking": tuple(1 if t == worst[row.prompt] else 2 for t in row.options)})
        if row.rater in names and worst.get(str(row.prompt)) in row.options
        else row
        for row in rows
    ]


def _accuracy_and_wins(model: Fit, pool: Sequence[ToyQuestion], worst: dict[str, str]) -> tuple[float, float]:
    """Of pairs without a target, the share in the true order; of the others, the share that the target wins."""
    right, wins = [], []
    for q in pool:
        margin = model.margin(q.prompt, *q.options)[0]
        true = world.true_reward(q.prompt, q.options[0]) - world.true_reward(q.prompt, q.options[1])
        if worst[q.prompt] in q.options:
            wins.append(float((margin > 0) == (q.options[0] == worst[q.prompt])))
        elif true:
            right.append(float((margin > 0) == (true > 0)))
    return float(np.mean(right)), float(np.mean(wins))


def signed_trust() -> Figures:
    """2 of 40 raters collude."""
    return _trust(2, 8)


def signed_trust_of_many() -> Figures:
    """18 of 40 raters collude."""
    return _trust(18, 4)


def _trust(colluders: int, seeds: int) -> Figures:
    """40 raters, 30 votes each on 60 questions of 4 prompts; some of them collude for each prompt's worst answer.

    ``accuracy``: of pairs without a target, in the true order; ``lift``: how much more often the target beats the other
    answers, of all its pairs, than without colluders, whose places honest raters take there. Liars also say the
    opposite on all other questions; targeted colluders are honest there, and on the gold questions, 3 each.
    """
    pool = world.pool(6, prompts=world.PROMPTS[::9])
    worst: dict[str, str] = {}
    for q in pool:
        worst[q.prompt] = min((*q.options, worst.get(q.prompt, q.options[0])), key=partial(world.true_reward, q.prompt))
    kinds = {"honest": "honest", "liars, gold wrong": "liar", "liars, gold right": "liar", "targeted": "honest"}
    found: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    believed: dict[tuple[str, str], list[float]] = defaultdict(list)
    names = {f"r{i:02}" for i in range(colluders)}
    for seed in range(seeds):
        asked = world.gold_questions(3, seed)
        for name, kind in kinds.items():
            people = [ToyRater(name=f"r{i:02}", kind=kind if i < colluders else "honest") for i in range(40)]  # type: ignore[arg-type]
            rows = [vote.comparison() for vote in world.votes(people, pool, 30, seed)]
            rows = rows if name == "honest" else _targeted(rows, names, worst)
            on_gold = [p.model_copy(update={"kind": "honest"}) if name == "liars, gold right" else p for p in people]
            gold = [q.key() for q in asked] + [v.comparison() for v in world.votes(on_gold, asked, 3, seed)]
            plain = Fit(fit_qualities([row.model_copy(update={"rater": ""}) for row in rows], {}), {})
            for method, model in (
                ("pooled", plain),
                ("signed", fit(rows)),
                ("signed, 3 gold questions", fit([*rows, *gold])),
            ):
                found[name][method].append(_accuracy_and_wins(model, pool, worst))
                believed[name, method].append(float(np.mean([model.reliability(c) for c in sorted(names)])))
    return {
        name: {
            method: {
                "accuracy": _plain(mean_estimate([a for a, _ in own])),
                "lift": _plain(
                    mean_estimate([t - h for (_, t), (_, h) in zip(own, found["honest"][method], strict=True)])
                ),
                "colluders_reliability": _plain(mean_estimate(believed[name, method])),
            }
            for method, own in methods.items()
        }
        for name, methods in found.items()
    }


HONEST_ROUNDS: dict[str, RoundShape] = {
    "one taste, even arrival": RoundShape(raters=60),
    "a minority of one mind, in three waves": RoundShape(raters=60, camps="minority", arrival="waves"),
    "two camps, in three waves": RoundShape(raters=60, camps="two", arrival="waves"),
    "a minority of one mind, all in one wave": RoundShape(raters=60, camps="minority", arrival="community"),
}
ATTACKS: dict[str, Attack] = {
    "one list": Attack(colluders=3),
    "one list, 10 % slips": Attack(colluders=3, slips=0.1),
    "one list on half of the questions": Attack(colluders=3, obeys=0.5),
    "one list, 10 % slips, 6 within ten minutes": Attack(colluders=6, slips=0.1, together=True),
    "one list on half, 6 within ten minutes": Attack(colluders=6, obeys=0.5, together=True),
    "3 run one script": Attack(colluders=3, script=True),
}


def false_alarms() -> Figures:
    """Honest rounds of 60 raters with 50 votes each on 80 questions, in which anybody is suspected."""
    return {
        name: {detector: _plain(own.false_alarms) for detector, own in rates(shape, rounds=200, seed=11).items()}
        for name, shape in HONEST_ROUNDS.items()
    }


def hits() -> Figures:
    """Attacked rounds of the same size in which half of the colluders or more are suspected; 3 are 5 % of 60."""
    return {
        name: {detector: _plain(own) for detector, own in rates(RoundShape(raters=60), attack, 40, seed=12).items()}
        for name, attack in ATTACKS.items()
    }


def overlap() -> Figures:
    """What `co_agreement` needs: colluders of 60 who slip on 10 % of their list, by their number and by
    each rater's votes on 80 questions; 30 rounds each. ``honest``: rounds in which an honest rater is suspected."""
    found: Figures = {}
    for colluders, each in ((3, 80), (6, 50), (6, 80)):
        hit, honest, attack = 0, 0, Attack(colluders=colluders, slips=0.1)
        for seed in range(30):
            drawn = simulated_round(RoundShape(raters=60, each=each), np.random.default_rng([15, seed]), attack)
            suspects = {suspect.rater for suspect in co_agreement(drawn.votes).suspects}
            hit += 2 * len(suspects & drawn.colluders) >= colluders
            honest += bool(suspects - drawn.colluders)
        found[f"{colluders} colluders, {each} votes each"] = {
            "hits": _plain(wilson(hit, 30)),
            "honest": _plain(wilson(honest, 30)),
        }
    return found


def _session(
    generator: np.random.Generator, change: str, raters: int = 12, each: int = 80, *, hard_last: bool = False
) -> Observed:
    """Votes of several raters, one of which changes; margins are the log-odds of 9 other votes, as counted."""
    columns = []
    for rater in range(raters):
        true = 1.5 * generator.standard_normal(each)
        true = true[np.argsort(-np.abs(true))] if hard_last else true
        others = generator.binomial(9, 1 / (1 + np.exp(-true)))
        margin, side = np.log((others + 0.5) / (9.5 - others)), generator.choice([-1.0, 1.0], each)
        late = (np.arange(each) >= each / 2) * (rater == 0)
        reliability = np.where(late & (change == "stops looking"), 0.0, np.where(late & (change == "turns"), -1.0, 1.0))
        bias = 0.2 + np.where(late & (change == "leans to one side"), 1.5, 0.0)
        label = (generator.random(each) < 1 / (1 + np.exp(-(reliability * true + bias * side)))).astype(float)
        rows = np.arange(each) + rater * each
        columns.append((rows, np.full(each, f"r{rater}"), np.arange(each), margin, side, label, np.ones(each)))
    return Observed(*(np.concatenate(parts) for parts in zip(*columns, strict=True)))


def drifting() -> Figures:
    """12 raters with 80 votes each; one changes at half time. Any alarm in a round without change is false."""
    found: Figures = {}
    cases = {
        "no change": 200,
        "no change, hard questions last": 200,
        "stops looking": 40,
        "turns": 40,
        "leans to one side": 40,
    }
    for case, rounds in cases.items():
        changed = others = 0
        for seed in range(rounds):
            votes = _session(np.random.default_rng([13, seed]), case, hard_last="hard" in case)
            alarms = {
                r.rater
                for r in drift(votes, draws=199, seed=seed).raters
                if min(r.reliability_p, 1.0 if r.side_p is None else r.side_p) <= 0.05
            }
            changed += "r0" in alarms
            others += bool(alarms - {"r0"}) if "no change" not in case else bool(alarms)
        found[case] = {
            "found": _plain(wilson(changed, rounds)) if "no change" not in case else None,
            "false_alarms": _plain(wilson(others, rounds)),
        }
    return found


def tiring() -> Figures:
    """8 raters with 40 votes each on 60 shared questions: rates of p <= 5 %, with and without an effect."""
    found: Figures = {}
    for case, rounds in {
        "no effect": 200,
        "agreement falls by 20 points, times halve, 58 % for the first shown": 30,
    }.items():
        alarms, effect = {"agreement": 0, "seconds": 0, "side": 0}, case != "no effect"
        for seed in range(rounds):
            generator, rows, true = random.Random(f"{case} {seed}"), [], np.random.default_rng(seed).normal(0, 1.5, 60)
            for rater in range(8):
                for at, q in enumerate(generator.sample(range(60), 40)):
                    first = generator.random() < 0.5
                    p = 1 / (1 + math.exp(-true[q] - (0.4 if effect else 0.0) * (1 if first else -1)))
                    p = p + (0.5 - p) * (0.6 * at / 39 if effect else 0.0)
                    seconds = math.exp(3 + 0.4 * generator.gauss(0, 1) - (0.7 * at / 39 if effect else 0.0))
                    rows.append(
                        Comparison.model_construct(
                            prompt=f"q{q}",
                            options=("x", "y"),
                            ranking=(1, 2) if generator.random() < p else (2, 1),
                            rater=f"r{rater}",
                            order_shown=(0, 1) if first else (1, 0),
                            seconds=seconds,
                        )
                    )
            tired, order = fatigue(rows, observed(rows)), order_effects(rows)
            assert tired.log_seconds is not None
            alarms["agreement"] += tired.agreement.p <= 0.05
            alarms["seconds"] += tired.log_seconds.p <= 0.05
            alarms["side"] += order.first_wins_p <= 0.05
        found[case] = {name: _plain(wilson(count, rounds)) for name, count in alarms.items()}
    return found


def influences() -> Figures:
    """12 raters, 60 votes each, 8 features of which one is quality and one is length; held out: 300 pairs of the truth.

    One rater (or two) prefers the longer answer. Leave-one-out refits of 100 pairs; 30 seeds, 120 without such a rater.
    """

    def drawn(seed: int, planted: int) -> tuple[Any, Any]:
        generator = np.random.default_rng([14, seed])
        features = generator.standard_normal((720, 2, 8))
        rater = np.repeat(np.arange(12), 60)
        seen = np.where((rater < planted)[:, None], 4 * features[:, :, 1], 2 * features[:, :, 0])
        first = generator.random(720) < 1 / (1 + np.exp(seen[:, 1] - seen[:, 0]))
        rows = [_row(f"q{i}", bool(f), f"r{r:02}") for i, (f, r) in enumerate(zip(first, rater, strict=True))]
        truth = generator.standard_normal((300, 2, 8))
        held = [_row(f"h{i}", bool(t[0, 0] > t[1, 0]), "") for i, t in enumerate(truth)]
        return pairs_of(rows, list(features)), pairs_of(held, list(truth))

    pairs, test = drawn(0, 1)
    head, found = fit_head(pairs), {}
    some = np.random.default_rng(0).choice(len(pairs.label), 100, replace=False)
    before = nll(head.weights, test).mean()
    keep = [np.arange(len(pairs.label)) != i for i in some]
    actual = np.array([nll(fit_head(pairs.kept(k), 1.0, head.weights).weights, test).mean() - before for k in keep])
    for name, corrected in (("with its own curvature", True), ("Koh and Liang", False)):
        predicted = on_held_out(head, pairs, test, corrected=corrected)[some]
        found[f"leave one out: {name}"] = {
            "correlation": float(np.corrcoef(predicted, actual)[0, 1]),
            "largest_error_over_largest_effect": float(np.abs(predicted - actual).max() / np.abs(actual).max()),
        }
    for planted in (0, 1, 2):
        first = flagged = 0
        false, gained = 0, []
        rounds = 30 if planted else 120
        for seed in range(rounds):
            pairs, test = drawn(seed, planted)
            head, names = fit_head(pairs), {f"r{i:02}" for i in range(planted)}
            told = traces(head, pairs, test)
            outliers = {trace.name for trace in told if trace.outlier}
            first += planted > 0 and {trace.name for trace in told[:planted]} == names
            flagged += len(outliers & names)
            false += bool(outliers - names)
            if planted:
                gained.append(without(head, pairs, test, [t.name for t in told[:planted]]).difference.value)
        found[f"{planted} planted"] = {
            "most_harmful_are_planted": _plain(wilson(first, 30)) if planted else None,
            "planted_are_outliers": _plain(wilson(flagged, 30 * planted)),
            "rounds_with_an_honest_outlier": _plain(wilson(false, rounds)),
            "accuracy_gained_by_removal": _plain(mean_estimate(gained)),
        }
    return found


def _row(prompt: str, first: bool, rater: str) -> Comparison:
    ranking = (1, 2) if first else (2, 1)
    return Comparison.model_construct(prompt=prompt, options=("one", "other"), ranking=ranking, rater=rater)


SECTIONS: dict[str, Callable[[], Figures]] = {
    "hits": hits,
    "false_alarms": false_alarms,
    "collusion": collusion,
    "gains": gains,
    "influences": influences,
    "overlap": overlap,
    "drifting": drifting,
    "signed_trust": signed_trust,
    "signed_trust_of_many": signed_trust_of_many,
    "principles": principles,
    "tiring": tiring,
}


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=[*SECTIONS], default=[*SECTIONS])
    for name in parser.parse_args().only:
        start = time.process_time()
        result = SECTIONS[name]()
        found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
        found["machine"] = f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}"
        found["versions"] = {package: version(package) for package in ("numpy", "scipy")}
        found[name] = {"seconds": round(time.process_time() - start, 1), **result}
        RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(name, found[name]["seconds"], flush=True)


if __name__ == "__main__":
    main()
