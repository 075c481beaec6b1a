"""Real disagreement: do models of groups and of distributions predict people who were left out better than one model?

    .venv/bin/python benchmarks/values_disagreement.py --data FOLDER --cache FOLDER [--only NAME ...]

On POPQUORN (offensiveness 1 to 5 by 262 people with gender, race, age, occupation, education) and LeWiDi (SemEval-2023
task 11, English sets). Frozen features from values_features.py; where a set's hidden states are not complete, the mean
of its token embeddings (``features`` says which). Raters, or items, are left out in five parts
(comparisons: three). Log loss in nats, in pairs by rater: the difference from the pooled model is that of each rater's
mean, its interval a bootstrap over raters.

    mean_variance, categorical, groups_*, hidden_groups
                  pairs of texts that a rater rated differently, by the objectives of train/. Severity cancels; taste
                  alone is left. Settings are chosen on training raters who are left out
    ratings       the ratings themselves, by values_rating_model.py: text, groups, severity and scale of raters, spread
    rating_groups groups alone, with a prior that is chosen in the same way
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
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from values_features import MOST, embeddings, sample, spelled, texts
from values_rating_model import Ratings, Spec, calibration, fit_ratings, known_raters, new_raters, nll_of

from steersman.functional import minimise, preference_nll, responsibilities
from steersman.lm.distributional_reward import Kind, pair_nll, utilities
from steersman.lm.shared_prefix import Group
from steersman.stats import calibration as of_confidence
from steersman.stats import mean_estimate
from steersman.train import distributional_reward, group_reward
from steersman.train.distributional_reward import DistributionalConfig
from steersman.train.group_reward import summed
from steersman.train.reward_heads import fit_head
from steersman.train.reward_mixture import MixtureConfig, by_rater, choose, em, log_likelihoods, votes_of
from steersman.train.reward_model import Ranked

RESULTS = Path(__file__).resolve().parent / "results" / "values_disagreement.json"
ATTRIBUTES = ("gender", "race", "age", "occupation", "education")
FOLDS, PARTS, DIMENSIONS, PAIRS_EACH, KNOWN = 5, 3, 32, 20, 10
SMALLEST = 10  # raters of a level; smaller ones have no effect of their own
SPECS = {
    "pooled": Spec(),
    "groups": Spec(groups=True),
    "spread": Spec(spread=True),
    "raters": Spec(raters=True),
    "groups, raters and spread": Spec(True, True, True),
}
ALONE = ("pooled", "spread", "raters")
Figures = dict[str, Any]


# ── data ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
def features_of(data: Path, cache: Path, names: Sequence[str]) -> tuple[list[dict[str, int]], Tensor, str]:
    """Places of texts by set, their features [I, F] with variance 1, and what these are."""
    wanted = [texts(data, name) for name in names]
    files = [cache / f"{name}.npy" for name in names]
    found = [np.load(file) if file.exists() else np.full((1, 1), np.nan) for file in files]
    hidden = all(len(a) == len(w) and not np.isnan(a).any() for a, w in zip(found, wanted, strict=True))
    table = np.concatenate(
        found if hidden else [_kept(cache / f"{n}_embeddings.npy", w) for n, w in zip(names, wanted, strict=True)]
    )
    table = (table - table.mean(0)) / (table.std(0) + 1e-6)
    left, size, _ = np.linalg.svd(table, full_matrices=False)
    kept = torch.tensor(left[:, :DIMENSIONS] * np.sqrt(len(table)), dtype=torch.float32)
    starts = np.cumsum([0, *map(len, wanted)])
    places = [{text: int(start) + i for i, text in enumerate(own)} for start, own in zip(starts, wanted, strict=False)]
    kind = "hidden states of layer 12 at the last token" if hidden else "mean token embeddings"
    share = float((size[:DIMENSIONS] ** 2).sum() / (size**2).sum())
    return places, kept, f"gemma-3-270m, {kind}; {DIMENSIONS} principal components ({100 * share:.0f} % of variance)"


def _kept(file: Path, wanted: list[str]) -> np.ndarray:
    if not file.exists() or len(np.load(file)) != len(wanted):
        np.save(file, embeddings(wanted))
    return np.load(file)


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
    """[count], the fold of each rater or item."""
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


PRECISIONS = (0.3, 3.0, 10.0, 30.0)  # that are tried for a model's weights, on training raters who are left out


class Split(NamedTuple):
    """Comparisons of some raters to learn from, and of others to predict: features [2 P, F], rows, features, rows."""

    features: Tensor
    rows: list[Ranked]
    new_features: Tensor
    new_rows: list[Ranked]

    @property
    def differences(self) -> Tensor:
        """[P, F], of the pairs to predict."""
        return self.new_features[0::2] - self.new_features[1::2]


def split(scaled: Tensor, rows: Sequence[Ranked], count: int, part: int, seed: int) -> Split:
    """One of ``count`` parts of the raters is left out."""
    names = sorted({row.rater for row in rows})
    fold = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)) % count
    own = fold[torch.tensor([names.index(row.rater) for row in rows])]
    sides = [(own != part).nonzero()[:, 0], (own == part).nonzero()[:, 0]]
    found = [(scaled.view(-1, 2, DIMENSIONS)[at].flatten(0, 1), [rows[i] for i in at]) for at in sides]
    return Split(*found[0], *found[1])


def pooled(data: Split, precision: float) -> Tensor:
    """[P] log loss of one model for all."""
    weights = fit_head(data.features, data.rows, group_reward.objective([], precision, 1.0), torch.zeros(1, DIMENSIONS))
    return preference_nll(data.differences @ weights[0])


def distribution(data: Split, precision: float, kind: Kind, spread: bool = True) -> Tensor:
    """[P] log loss of a distribution of utility; without its spread, of a Bradley-Terry model on its means."""
    config = DistributionalConfig(kind=kind, precision=precision)
    goal = distributional_reward.objective(config)
    weights = fit_head(data.features, data.rows, goal, torch.zeros(config.outputs, DIMENSIONS))
    if spread:
        return pair_nll((data.new_features @ weights.T).view(-1, 2, config.outputs), kind)
    learnt, new = (utilities(x @ weights.T, kind).mean.view(-1, 2) for x in (data.features, data.new_features))
    unit = torch.ones(1, requires_grad=True)
    minimise([unit], lambda: preference_nll(unit * (learnt[:, 0] - learnt[:, 1])).mean())
    return preference_nll(unit * (new[:, 0] - new[:, 1]))


def tuned(model: Callable[[Split, float], Tensor], data: Split) -> float:
    """The precision that predicts left-out raters of the training part best."""
    inner = split(data.features, data.rows, 4, 0, 3)
    return min(PRECISIONS, key=lambda precision: float(model(inner, precision).mean()))


def by_group(data: Split, of: dict[int, str], precision: float) -> tuple[Tensor, float]:
    """[P] log loss of scores by group, as `group_reward` chooses their shrinkage, and that."""
    names = sorted(set(of.values()))
    own = [row._replace(of=of[int(row.rater)]) for row in data.rows]
    shrinkage, _ = group_reward.choose_shrinkage(data.features, own, names, precision, 0)
    goal = group_reward.objective(names, precision, shrinkage)
    heads = summed(fit_head(data.features, own, goal, torch.zeros(1 + len(names), DIMENSIONS)))
    which = torch.tensor([1 + names.index(of[int(row.rater)]) for row in data.new_rows])
    return preference_nll((data.differences * heads[which]).sum(1)), shrinkage


def left_out_comparisons(ratings: Ratings, models: dict[str, Callable[[Split], tuple[Tensor, float]]]) -> Figures:
    """Each model on the comparisons of raters who were left out, in `PARTS` parts; beside it what was chosen."""
    scaled, rows = comparisons_of(ratings)
    losses: dict[str, list[Tensor]] = {name: [] for name in models}
    chosen: dict[str, list[float]] = {name: [] for name in models}
    raters = []
    for part in range(PARTS):
        data = split(scaled, rows, PARTS, part, 0)
        raters.append(torch.tensor([int(row.rater) for row in data.new_rows]))
        for name, model in models.items():
            loss, setting = model(data)
            losses[name].append(loss.detach())
            chosen[name].append(setting)
    joined = {name: torch.cat(own) for name, own in losses.items()}
    found = table(joined, torch.cat(raters))
    for name, own in joined.items():  # the lowest bin, up to 60 % sure, is where people split
        found[name]["calibration"] = of_confidence(torch.logit(torch.exp(-own).clamp(1e-6, 1 - 1e-6)).tolist())
    return {"comparisons": len(rows), "raters": len(ratings.levels), "chosen": chosen, "left_out_raters": found}


def _of_pooled(data: Split) -> tuple[Tensor, float]:
    precision = tuned(pooled, data)
    return pooled(data, precision), precision


def distributions(ratings: Ratings, _: Any, kind: Kind) -> Figures:
    """A distribution of utility beside pooled, each with the precision that is best for it."""

    def model(data: Split) -> tuple[Tensor, float]:
        precision = tuned(lambda inner, p: distribution(inner, p, kind), data)
        return distribution(data, precision, kind), precision

    def means(data: Split) -> tuple[Tensor, float]:
        precision = tuned(lambda inner, p: distribution(inner, p, kind), data)
        return distribution(data, precision, kind, spread=False), precision

    return left_out_comparisons(ratings, {"pooled": _of_pooled, kind: model, f"{kind}, means alone": means})


def groups(ratings: Ratings, people: dict[str, dict[int, str]], attribute: str) -> Figures:
    """Scores by the groups of one attribute beside pooled, with pooled's precision."""

    def model(data: Split) -> tuple[Tensor, float]:
        return by_group(data, people[attribute], tuned(pooled, data))

    return left_out_comparisons(ratings, {"pooled": _of_pooled, f"by {attribute}": model})


def hidden_groups(ratings: Ratings, _: Any) -> Figures:
    """Two hidden groups beside pooled, for unknown raters and after `KNOWN` comparisons; the number of groups."""
    scaled, rows = comparisons_of(ratings)
    config, losses, warm, raters = MixtureConfig(precision=0.1, starts=3, max_groups=3), [], [], []
    for part in range(PARTS):
        data = split(scaled, rows, PARTS, part, 0)
        names, new_names = (sorted({row.rater for row in own}) for own in (data.rows, data.new_rows))
        votes, later = votes_of(data.features, data.rows, names), votes_of(data.new_features, data.new_rows, new_names)
        if part == 0:
            chosen, tried = choose(votes, len(names), config)
        mixture = em(votes, len(names), 2, config, 0)
        of_pairs = log_likelihoods(later, mixture.weights)
        before = torch.zeros(len(later.rater), dtype=torch.long)
        for rater in range(len(new_names)):
            own = (later.rater == rater).nonzero()[:, 0]
            before[own] = torch.arange(len(own))
        seen = by_rater(torch.where((before < KNOWN)[:, None], of_pairs, 0.0), later.rater, len(new_names))
        shares = responsibilities(seen, mixture.shares.log())[0][later.rater]
        cold = -torch.logsumexp(of_pairs + mixture.shares.log(), 1)
        after = -torch.logsumexp(of_pairs + shares.clamp(min=1e-12).log(), 1)
        losses.append(torch.stack([pooled(data, 0.1).detach(), cold, after], 1))
        warm.append(before >= KNOWN)
        raters.append(torch.tensor([int(row.rater) for row in data.new_rows]))
    found, later_ones, rater = torch.cat(losses), torch.cat(warm), torch.cat(raters)
    names = ("pooled", "hidden groups", f"hidden groups, after {KNOWN}")
    first = dict(zip(names, found.T, strict=True))
    return {
        "left_out_raters": table({name: first[name] for name in names[:2]}, rater),
        f"after_{KNOWN}_comparisons": table({name: own[later_ones] for name, own in first.items()}, rater[later_ones]),
        "number_chosen": chosen,
        "numbers_tried": tried,
    }


# ── ratings ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def left_out(ratings: Ratings, by: str, precision: float, specs: dict[str, Spec]) -> dict[int, dict[str, Tensor]]:
    """[N, top] by model: P(above each threshold) of ratings whose rater, or item, was left out of the fit.

    Of raters twice: with nothing known of them (0), and with their first `KNOWN` ratings.
    """
    column = ratings.rater if by == "raters" else ratings.item
    fold, order = parts(int(column.max()) + 1, 1)[column], first_ones(ratings)
    knowns = (0, KNOWN) if by == "raters" else (0,)
    found = {known: {name: torch.zeros(len(column), ratings.top) for name in specs} for known in knowns}
    for part, (name, spec) in itertools.product(range(FOLDS), specs.items()):
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


def tight_groups(ratings: Ratings, taste: bool) -> Figures:
    """What groups add to the pooled model for left-out raters, with the prior that is best on training raters.

    Args:
        taste: groups differ in what they mind, and not only in how severe they are.
    """
    precision, fold = best_precision(ratings), parts(len(ratings.levels), 1)[ratings.rater]
    above = {name: torch.zeros(len(fold), ratings.top) for name in ("pooled", "groups")}
    chosen = []
    for part in range(FOLDS):
        inside, outside = ratings.where(fold != part), ratings.where(fold == part)
        inner = parts(len(ratings.levels), 5)[inside.rater]
        kept, left = inside.where(inner != 0), inside.where(inner == 0)

        def cost(tight: float, kept: Ratings = kept, left: Ratings = left) -> float:
            fit = fit_ratings(kept, Spec(groups=True, tight=tight, taste=taste), precision)
            return float(nll_of(known_raters(fit, left), left.value).mean())

        chosen.append(min((1.0, 10.0, 100.0, 1000.0), key=cost))
        for name, spec in (("pooled", Spec()), ("groups", Spec(groups=True, tight=chosen[-1], taste=taste))):
            above[name][fold == part] = known_raters(fit_ratings(inside, spec, precision), outside).detach()
    losses = {name: nll_of(p, ratings.value) for name, p in above.items()}
    return {"precision": precision, "tightness_chosen": chosen, "left_out_raters": table(losses, ratings.rater)}


def best_precision(ratings: Ratings) -> float:
    """The prior of the text's weights that is best for the pooled model: the others take it over."""
    fold = parts(int(ratings.item.max()) + 1, 7)[ratings.item]
    inside, outside = ratings.where(fold != 0), ratings.where(fold == 0)
    scores = {}
    for precision in (1.0, 10.0, 100.0):
        fit = fit_ratings(inside, Spec(), precision)
        scores[precision] = float(nll_of(known_raters(fit, outside), outside.value).mean())
    return min(scores, key=scores.__getitem__)


def ratings_figures(
    ratings: Ratings, specs: dict[str, Spec] = SPECS, sides: Sequence[str] = ("raters", "items")
) -> Figures:
    """Left-out raters, cold and after some of their ratings, and left-out items."""
    precision = best_precision(ratings)
    found: Figures = {"precision": precision, "ratings": len(ratings.value), "raters": len(ratings.levels)}
    base, order = _base_rates(ratings), first_ones(ratings)
    for by in sides:
        for known, above in left_out(ratings, by, precision, specs).items():
            name, counted = f"left_out_{by}" + f"_after_{known}" * bool(known), order >= known
            losses = {n: nll_of(a, ratings.value)[counted] for n, a in {**above, "base rates": base}.items()}
            print(f"  {name}")
            found[name] = table(losses, ratings.rater[counted])
            for spec in {"pooled", "raters", "groups, raters and spread"} & specs.keys():
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

    def of_popquorn(figures: Callable[..., Figures], *arguments: Any) -> Figures:
        places, features, kind = features_of(data, cache, ["popquorn"])
        return {"features": kind, **figures(*popquorn(data, places[0], features), *arguments)}

    def of_lewidi(name: str, figures: Callable[..., Figures] = soft_labels) -> Figures:
        places, features, kind = features_of(data, cache, [f"{name}_train", f"{name}_dev"])
        train, dev = lewidi(data, name, places, features)
        return {"features": kind, **figures(train, dev)}

    return {
        "popquorn_mean_variance": lambda: of_popquorn(distributions, "mean_variance"),
        "popquorn_categorical": lambda: of_popquorn(distributions, "categorical"),
        **{f"popquorn_groups_{name}": lambda name=name: of_popquorn(groups, name) for name in ATTRIBUTES},
        "popquorn_hidden_groups": lambda: of_popquorn(hidden_groups),
        "popquorn_ratings": lambda: of_popquorn(lambda ratings, _: ratings_figures(ratings)),
        "popquorn_rating_groups": lambda: of_popquorn(lambda ratings, _: tight_groups(ratings, True)),
        "popquorn_rating_groups_severity": lambda: of_popquorn(lambda ratings, _: tight_groups(ratings, False)),
        **{f"lewidi_{name}": lambda name=name: of_lewidi(name) for name in MOST},
        # The other two have 6 and 8 raters, too few to leave some out; groups are not recorded here.
        "lewidi_MD-Agreement_raters": lambda: of_lewidi(
            "MD-Agreement", lambda train, _: ratings_figures(train, {k: SPECS[k] for k in ALONE}, ("raters",))
        ),
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
