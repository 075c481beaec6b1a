"""Real disagreement: do models of groups and of distributions predict people who were left out better than one model?

    .venv/bin/python benchmarks/values_disagreement.py --data FOLDER --cache FOLDER [--only NAME ...]

On POPQUORN (offensiveness 1 to 5 by 262 people with gender, race, age, occupation, education) and LeWiDi (SemEval-2023
task 11, English sets). Frozen features from values_features.py; where a set's hidden states are not complete, the mean
of its token embeddings (``features`` says which). Raters, or items, are left out in five parts. Log loss in nats, in
pairs by rater: the difference from the pooled model is that of each rater's mean, its interval a bootstrap over raters.

    comparisons   pairs of texts that a rater rated differently, by the objectives of train/: groups, hidden groups,
                  mean-variance and categorical. Severity cancels; taste alone is left.
    ratings       the ratings themselves, by values_rating_model.py: text, groups, severity and scale of raters, spread
    lewidi        soft labels of the development sets; cross-entropy as in the shared task

Results go to benchmarks/results/values_disagreement.json: figures alone, no text. Sections that were not run are kept.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import random
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from values_features import MOST, embeddings, sample, spelled, texts
from values_rating_model import Ratings, Spec, fit_ratings, known_raters, new_raters, nll_of

from steersman.functional import preference_nll, responsibilities
from steersman.lm.distributional_reward import explained, pair_nll, utilities
from steersman.lm.shared_prefix import Group
from steersman.stats import mean_estimate, wilson
from steersman.train import distributional_reward, group_reward
from steersman.train.distributional_reward import DistributionalConfig
from steersman.train.group_reward import GroupRewardConfig, summed
from steersman.train.reward_heads import fit_head
from steersman.train.reward_mixture import MixtureConfig, Votes, by_rater, choose, em, log_likelihoods, votes_of
from steersman.train.reward_model import Ranked

RESULTS = Path(__file__).resolve().parent / "results" / "values_disagreement.json"
ATTRIBUTES = ("gender", "race", "age", "occupation", "education")
FOLDS, DIMENSIONS, PAIRS_EACH, KNOWN = 5, 32, 20, 10
SMALLEST = 10  # raters of a level; smaller ones have no effect of their own
SPECS = {
    "pooled": Spec(),
    "groups": Spec(groups=True),
    "spread": Spec(spread=True),
    "raters": Spec(raters=True),
    "groups, raters and spread": Spec(True, True, True),
}
Figures = dict[str, Any]


# ── data ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
def features_of(data: Path, cache: Path, names: Sequence[str]) -> tuple[list[dict[str, int]], Tensor, str]:
    """Places of texts by set, their features [I, F] with variance 1, and what these are."""
    wanted = [texts(data, name) for name in names]
    files = [cache / f"{name}.npy" for name in names]
    found = [np.load(file) if file.exists() else np.full((1, 1), np.nan) for file in files]
    hidden = all(len(a) == len(w) and not np.isnan(a).any() for a, w in zip(found, wanted, strict=True))
    table = np.concatenate(found) if hidden else np.concatenate([embeddings(own) for own in wanted])
    table = (table - table.mean(0)) / (table.std(0) + 1e-6)
    left, size, _ = np.linalg.svd(table, full_matrices=False)
    kept = torch.tensor(left[:, :DIMENSIONS] * np.sqrt(len(table)), dtype=torch.float32)
    starts = np.cumsum([0, *map(len, wanted)])
    places = [{text: int(start) + i for i, text in enumerate(own)} for start, own in zip(starts, wanted, strict=False)]
    kind = "hidden states of layer 12 at the last token" if hidden else "mean token embeddings"
    share = float((size[:DIMENSIONS] ** 2).sum() / (size**2).sum())
    return places, kept, f"gemma-3-270m, {kind}; {DIMENSIONS} principal components ({100 * share:.0f} % of variance)"


def popquorn(data: Path, places: dict[str, int], features: Tensor) -> tuple[Ratings, dict[str, dict[int, str]]]:
    """The ratings, 0 to 4, and the raters' attributes."""
    rows = sample(data, "popquorn")
    raters = {name: i for i, name in enumerate(sorted({row["user_id"] for row in rows}))}
    people = {a: {raters[row["user_id"]]: row[a] for row in rows} for a in ATTRIBUTES}
    levels = []
    for of in people.values():
        values = list(of.values())
        large = [level for level in sorted(set(values)) if values.count(level) >= SMALLEST]
        levels += [[float(of[i] == level) for i in range(len(raters))] for level in large]
    columns = [[places[spelled(r["text"])], raters[r["user_id"]], int(float(r["offensiveness"])) - 1] for r in rows]
    item, rater, value = torch.tensor(columns).T
    return Ratings(item, rater, value, features, torch.tensor(levels).T, 4), people


def lewidi(data: Path, name: str, places: Sequence[dict[str, int]], features: Tensor) -> tuple[Ratings, Ratings]:
    """The training and the development ratings, 0 or 1; raters are numbered over both."""
    rows = [sample(data, f"{name}_{split}") for split in ("train", "dev")]
    names = sorted({a for own in rows for row in own for a in row["annotators"].split(",")})
    raters = {rater: i for i, rater in enumerate(names)}
    first = {a: g for row in rows[0] for a, g in _groups(row)}
    kinds = sorted(set(first.values()))
    levels = torch.tensor([[float(first.get(rater) == kind) for kind in kinds] or [0.0] for rater in names])
    found = []
    for own, at in zip(rows, places, strict=True):
        columns = [
            [at[spelled(row["text"])], raters[rater], int(int(label) < 0) if name == "ConvAbuse" else int(label)]
            for row in own
            for rater, label in zip(row["annotators"].split(","), row["annotations"].split(","), strict=True)
        ]
        item, rater, value = torch.tensor(columns).T
        found.append(Ratings(item, rater, value, features, levels, 1))
    return found[0], found[1]


def _groups(row: dict[str, Any]) -> list[tuple[str, str]]:
    named = row["other_info"].get("annotators group", "")
    return list(zip(row["annotators"].split(","), named.split(","), strict=True)) if named else []


# ── in pairs by rater ────────────────────────────────────────────────────────────────────────────────────────────────
def table(losses: dict[str, Tensor], rater: Tensor) -> Figures:
    """Mean log loss of each model, and its difference from the pooled one by rater; below 0 is better."""
    found: Figures = {}
    for name, own in losses.items():
        by_person = [float((own - losses["pooled"])[rater == r].mean()) for r in rater.unique()]
        found[name] = {"log_loss_nats": float(own.mean()), "less_pooled": mean_estimate(by_person).json()}
        say(name, float(own.mean()), found[name]["less_pooled"])
    return found


def say(name: str, value: float, difference: dict[str, float | int | None]) -> None:
    """A line for people."""
    print(
        f"   {name:28s} {value:.4f}  {difference['value']:+.4f} [{difference['low']:+.4f}, {difference['high']:+.4f}]"
    )


def parts(count: int, seed: int) -> Tensor:
    """[count] the fold of each of so many raters or items."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)) % FOLDS


# ── comparisons ──────────────────────────────────────────────────────────────────────────────────────────────────────
def comparisons_of(ratings: Ratings) -> tuple[Tensor, list[Ranked]]:
    """Features [2 P, F] and rows: of each rater up to `PAIRS_EACH` pairs of texts that they rated differently."""
    features, rows = [], []
    draw, values = random.Random("values comparisons"), ratings.value.tolist()
    for rater in ratings.rater.unique().tolist():
        own = (ratings.rater == rater).nonzero()[:, 0].tolist()
        pairs = [(i, j) for i, j in itertools.permutations(own, 2) if values[i] > values[j]]
        for i, j in draw.sample(pairs, min(PAIRS_EACH, len(pairs))):
            features += [ratings.item[i], ratings.item[j]]
            rows.append(Ranked(Group([], [[], []]), (1, 2), [], number=len(rows), rater=str(rater)))
    scaled = ratings.features[torch.stack(features)] / DIMENSIONS**0.5
    return scaled, rows


def _pooled(scaled: Tensor, rows: Sequence[Ranked], test: Tensor, precision: float) -> Tensor:
    goal = group_reward.objective(GroupRewardConfig(precision=precision), [])
    weights = fit_head(scaled, rows, goal, torch.zeros(1, DIMENSIONS))
    return preference_nll((test[0::2] - test[1::2]) @ weights[0])


def _by_group(
    scaled: Tensor, rows: Sequence[Ranked], test: Tensor, held: Sequence[Ranked], of: dict[int, str]
) -> Tensor:
    names = sorted(set(of.values()))
    own = [row._replace(of=of[int(row.rater)]) for row in rows]
    goal = group_reward.objective(GroupRewardConfig(precision=PRECISION, shrinkage=4 * PRECISION), names)
    heads = summed(fit_head(scaled, own, goal, torch.zeros(1 + len(names), DIMENSIONS)))
    which = torch.tensor([1 + names.index(of[int(row.rater)]) for row in held])
    return preference_nll(((test[0::2] - test[1::2]) * heads[which]).sum(1))


def _distribution(scaled: Tensor, rows: Sequence[Ranked], test: Tensor, kind: Any) -> tuple[Tensor, float]:
    config = DistributionalConfig(kind=kind, precision=PRECISION)
    goal = distributional_reward.objective(config)
    weights = fit_head(scaled, rows, goal, torch.zeros(config.outputs, DIMENSIONS))
    outputs = test @ weights.T
    own = utilities(outputs, kind)
    return pair_nll(outputs.view(-1, 2, config.outputs), kind), explained(own.mean, own.variance)


def _mixture(votes: Votes, test: Votes, raters: int, groups: int, known: Tensor) -> dict[str, Tensor]:
    """Log loss of new raters by a mixture, without and with the first comparisons of each."""
    config = MixtureConfig(precision=PRECISION, starts=3)
    mixture = em(votes, raters, groups, config, 0)
    of_pairs = log_likelihoods(test, mixture.weights)
    seen = by_rater(torch.where(known[:, None], of_pairs, 0.0), test.rater, int(test.rater.max()) + 1)
    warm = responsibilities(seen, mixture.shares.log())[0][test.rater]
    return {
        "cold": -torch.logsumexp(of_pairs + mixture.shares.log(), 1),
        "warm": -torch.logsumexp(of_pairs + warm.clamp(min=1e-12).log(), 1),
    }


PRECISION = 0.1


def comparisons(ratings: Ratings, people: dict[str, dict[int, str]]) -> Figures:
    """Left-out raters' comparisons, by the objectives of train/."""
    scaled, rows = comparisons_of(ratings)
    fold = parts(len(ratings.levels), 0)[torch.tensor([int(row.rater) for row in rows])]
    losses: dict[str, list[Tensor]] = {}
    raters, place, r2 = [], torch.tensor([int(row.rater) for row in rows]), []
    chosen, tried = 0, []
    for part in range(FOLDS):
        train, test = (fold != part).nonzero()[:, 0], (fold == part).nonzero()[:, 0]
        own, held = [rows[i] for i in train], [rows[i] for i in test]
        some, new = (scaled.view(-1, 2, DIMENSIONS)[index].flatten(0, 1) for index in (train, test))
        found = {"pooled": _pooled(some, own, new, PRECISION)}
        for attribute in ATTRIBUTES:
            found[f"groups by {attribute}"] = _by_group(some, own, new, held, people[attribute])
        for kind in ("mean_variance", "categorical"):
            found[kind], value = _distribution(some, own, new, kind)
            r2.append((kind, value))
        names, new_names = (sorted({row.rater for row in some_rows}) for some_rows in (own, held))
        votes, later = votes_of(some, own, names), votes_of(new, held, new_names)
        if not chosen:
            config = MixtureConfig(precision=PRECISION, starts=2, max_groups=3)
            chosen, tried = choose(votes, len(names), config)
        order = torch.tensor([i - run.start for _, run in _by_key(later.rater.tolist()) for i in run])
        known = order < KNOWN
        of_mixture = _mixture(votes, later, len(names), 2, known)
        found["hidden groups, 2"] = of_mixture["cold"]
        found[f"hidden groups, 2, after {KNOWN}"] = of_mixture["warm"]
        raters.append(torch.stack([place[test], (~known).long()]))
        for name, values in found.items():
            losses.setdefault(name, []).append(values.detach())
    rater, later_ones = torch.cat(raters, 1)
    joined = {name: torch.cat(values) for name, values in losses.items()}
    print("  comparisons of left-out raters")
    cold = table({name: own for name, own in joined.items() if "after" not in name}, rater)
    after = later_ones.bool()
    warm = table({name: joined[name][after] for name in joined if "hidden" in name or name == "pooled"}, rater[after])
    spread = {kind: float(np.mean([value for name, value in r2 if name == kind])) for kind, _ in r2}
    counts = {"comparisons": len(rows), "raters": len(ratings.levels)}
    return {**counts, "left_out_raters": cold, f"after_{KNOWN}_comparisons": warm, "explained_variance": spread,
            "hidden_groups_chosen": chosen, "hidden_groups_tried": tried}  # fmt: skip


def _by_key(values: Sequence[int]) -> list[tuple[int, range]]:
    """Runs of equal values as (value, their places)."""
    found, start = [], 0
    for value, run in itertools.groupby(values):
        length = len(list(run))
        found.append((value, range(start, start + length)))
        start += length
    return found


# ── ratings ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def left_out(ratings: Ratings, by: str, precision: float) -> dict[int, dict[str, Tensor]]:
    """[N, top] by model: P(above each threshold) of ratings whose rater, or item, was left out of the fit.

    Of raters twice: with nothing known of them (0), and with their first `KNOWN` ratings.
    """
    column = ratings.rater if by == "raters" else ratings.item
    fold, order = parts(int(column.max()) + 1, 1)[column], first_ones(ratings)
    knowns = (0, KNOWN) if by == "raters" else (0,)
    found = {known: {name: torch.zeros(len(column), ratings.top) for name in SPECS} for known in knowns}
    for part, (name, spec) in itertools.product(range(FOLDS), SPECS.items()):
        inside, outside, at = ratings.where(fold != part), ratings.where(fold == part), fold == part
        fit = fit_ratings(inside, spec, precision)
        for known in knowns:
            if by == "raters":
                p = new_raters(fit, outside, order[at] < known, inside.rater.unique())
            else:
                p = known_raters(fit, outside)
            found[known][name][at] = p.detach()
    return found


def first_ones(ratings: Ratings) -> Tensor:
    """[N] how many ratings of the same rater precede each."""
    order = torch.zeros(len(ratings.rater), dtype=torch.long)
    for rater in ratings.rater.unique():
        own = (ratings.rater == rater).nonzero()[:, 0]
        order[own] = torch.arange(len(own))
    return order


def best_precision(ratings: Ratings) -> float:
    """The prior of the text's weights that is best for the pooled model: the others take it over."""
    fold = parts(int(ratings.item.max()) + 1, 7)[ratings.item]
    inside, outside = ratings.where(fold != 0), ratings.where(fold == 0)
    scores = {}
    for precision in (1.0, 10.0, 100.0):
        fit = fit_ratings(inside, Spec(), precision)
        scores[precision] = float(nll_of(known_raters(fit, outside), outside.value).mean())
    return min(scores, key=scores.__getitem__)


def calibration(above: Tensor, ratings: Ratings) -> Figures:
    """Predicted and observed shares of ratings above the first threshold, in five bins; those near one half apart."""
    p, rated = above[:, 0], ratings.value > 0
    bins, gap = [], 0.0
    for low in (0.0, 0.2, 0.4, 0.6, 0.8):
        own = (p >= low) & (p < low + 0.2 + 1e-6 * (low == 0.8))
        if own.any():
            observed = wilson(int(rated[own].sum()), int(own.sum()))
            bins.append({"predicted": float(p[own].mean()), "observed": observed.json()})
            gap += observed.n / len(p) * abs(observed.value - float(p[own].mean()))
    split = (p > 0.35) & (p < 0.65)
    observed = wilson(int(rated[split].sum()), int(split.sum()))
    near_half = {"predicted": float(p[split].mean()), "observed": observed.json()}
    return {"bins": bins, "expected_error": gap, "where_people_split": near_half}


def ratings_figures(ratings: Ratings) -> Figures:
    """Left-out raters, cold and after some of their ratings, and left-out items."""
    precision = best_precision(ratings)
    found: Figures = {"precision": precision, "ratings": len(ratings.value), "raters": len(ratings.levels)}
    base, order = _base_rates(ratings), first_ones(ratings)
    for by in ("raters", "items"):
        for known, above in left_out(ratings, by, precision).items():
            name, counted = f"left_out_{by}" + f"_after_{known}" * bool(known), order >= known
            losses = {n: nll_of(a, ratings.value)[counted] for n, a in {**above, "base rates": base}.items()}
            print(f"  {name}")
            found[name] = table(losses, ratings.rater[counted])
            for spec in ("pooled", "raters", "groups, raters and spread"):
                found[name][spec]["calibration"] = calibration(above[spec][counted], ratings.where(counted))
    return found


def _base_rates(ratings: Ratings) -> Tensor:
    shares = torch.stack([(ratings.value > c).float().mean() for c in range(ratings.top)])
    return shares.expand(len(ratings.value), -1)


# ── soft labels ──────────────────────────────────────────────────────────────────────────────────────────────────────
def soft_labels(train: Ratings, dev: Ratings) -> Figures:
    """Cross-entropy in nats of the development set's soft labels, the mean over its items."""
    precision, seen = best_precision(train), train.rater.unique()
    known = torch.isin(dev.rater, seen)
    items, at = dev.item.unique(return_inverse=True)
    counts = torch.zeros(len(items)).index_add(0, at, torch.ones(len(at)))
    soft = torch.zeros(len(items)).index_add(0, at, dev.value.float()) / counts

    def entropy(p: Tensor) -> Tensor:
        p = p.clamp(1e-12, 1 - 1e-7)
        return -(soft * p.log() + (1 - soft) * torch.log1p(-p))

    majority = float(train.value.float().mean() > 0.5)
    predictions = {
        "majority class": torch.full((len(items),), majority),
        "share of the training labels": train.value.float().mean().expand(len(items)),
    }
    for name, spec in SPECS.items():
        fit = fit_ratings(train, spec, precision)
        above = torch.where(known[:, None], known_raters(fit, dev), new_raters(fit, dev, torch.zeros_like(known), seen))
        predictions[name] = torch.zeros(len(items)).index_add(0, at, above[:, 0].detach()) / counts
    floor = torch.special.entr(soft) + torch.special.entr(1 - soft)
    found: Figures = {"items": len(items), "raters": len(seen), "floor_nats": float(floor.mean()), "models": {}}
    for name, p in predictions.items():
        gap = mean_estimate((entropy(p) - entropy(predictions["pooled"])).tolist()).json()
        found["models"][name] = {"cross_entropy_nats": float(entropy(p).mean()), "less_pooled_by_item": gap}
        say(name, float(entropy(p).mean()), gap)
    return found


# ── all ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
def sections(data: Path, cache: Path) -> dict[str, Callable[[], Figures]]:
    """By name."""

    def of_popquorn(figures: Callable[..., Figures], whole: bool) -> Figures:
        places, features, kind = features_of(data, cache, ["popquorn"])
        ratings, people = popquorn(data, places[0], features)
        return {"features": kind, **(figures(ratings, people) if whole else figures(ratings))}

    def of_lewidi(name: str) -> Figures:
        places, features, kind = features_of(data, cache, [f"{name}_train", f"{name}_dev"])
        train, dev = lewidi(data, name, places, features)
        found = {"features": kind, "development": soft_labels(train, dev)}
        if name == "MD-Agreement":  # the other two have 6 and 8 raters: too few to leave some out
            found["ratings"] = ratings_figures(train)
        return found

    return {
        "popquorn_comparisons": lambda: of_popquorn(comparisons, True),
        "popquorn_ratings": lambda: of_popquorn(ratings_figures, False),
        **{f"lewidi_{name}": lambda name=name: of_lewidi(name) for name in MOST},
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--only", nargs="*")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name, measure in sections(arguments.data, arguments.cache).items():
        if not arguments.only or name in arguments.only:
            start = time.process_time()
            print(name, flush=True)
            own = {**measure(), "processor_seconds": round(time.process_time() - start, 1)}
            found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
            found["machine"] = f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}"
            found["versions"] = {package: version(package) for package in ("torch", "numpy")}
            RESULTS.write_text(json.dumps({**found, name: own}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
