"""`steersman sweep`: variants of a recipe, each trained with several seeds, and one table with the spread of training.

One training says little: two that differ in their seed alone differ by as much as most changes of a recipe. An interval
here carries both, the luck of the seeds (Student's t over the seeds' rates) and that of the prompts (binomial),

    half width = sqrt( (t s / sqrt(k))^2 + (1.96 sqrt(p (1 - p) / n))^2 ),   k seeds with standard deviation s

and the difference from the first variant is that of the seeds' rates on the same prompts, with t over the seeds.
A sweep that was stopped goes on where it was; a variant that is added later costs only its own runs.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from pydantic import Field

from steersman import pipeline
from steersman.errors import RecipeError
from steersman.evals.conditions import subject
from steersman.recipe import Recipe, load_recipe
from steersman.report.blocks import Block, Cell, Difference, Number, Rate, Table, paragraph
from steersman.report.format import phrase
from steersman.stats import Estimate, student_t
from steersman.store import Run, read_json, write_json
from steersman.types import Record, Seed, Slug
from steersman.yaml_lines import load_yaml, validate

TABLE = "sweep.json"


class SweepConfig(Record):
    """Variants of a recipe, and the seeds to train each with."""

    name: Slug = Field(description="The sweep's name: it works in runs/NAME unless --out is given.")
    recipe: str = Field(default="laptop", description="A shipped recipe's name, or a YAML file.")
    seeds: tuple[Seed, ...] = Field(default=(0, 1, 2), min_length=1, description="Seeds of every stage that has one.")
    until: str | None = Field(default=None, description="The last stage to run; null for all.")
    settings: dict[str, Any] = Field(default={}, description="Recipe key -> value, for all variants.")
    variants: dict[Slug, dict[str, Any]] = Field(
        default={"recipe": {}}, min_length=1, description="Name -> recipe key -> value; the first is the baseline."
    )


class Figure(NamedTuple):
    """One measured rate of one run."""

    label: str
    value: float
    n: int


def load(path: Path) -> SweepConfig:
    """Read a sweep's file.

    Raises:
        RecipeError: no such file, or a wrong key or value (with its line).
    """
    if not path.exists():
        raise RecipeError("no such file", where=str(path), expected="a YAML file with variants of a recipe")
    data, line_of = load_yaml(path, RecipeError)
    config = validate(SweepConfig, data, path, line_of, RecipeError)
    if (path.parent / config.recipe).is_file():
        config = config.model_copy(update={"recipe": str(path.parent / config.recipe)})
    for variant in config.variants:
        try:
            recipe_of(config, variant, config.seeds[0])
        except RecipeError as error:
            where = f"{path}:{line_of(('variants', variant))}, variant {variant}: {error.where}"
            raise RecipeError(error.found, where=where, expected=error.expected, do=error.do) from error
    return config


def recipe_of(config: SweepConfig, variant: str, seed: int) -> Recipe:
    """The recipe of one run: settings of the sweep, of the variant, and the seed of every section that has one."""
    settings = [f"{key}={json.dumps(value)}" for key, value in {**config.settings, **config.variants[variant]}.items()]
    recipe = load_recipe(config.recipe, settings)
    seeded = [name for name in type(recipe).model_fields if hasattr(getattr(recipe, name), "seed")]
    return load_recipe(config.recipe, [*settings, *(f"{name}.seed={seed}" for name in seeded)])


def run(config: SweepConfig, out: Path | None = None, echo: Callable[[str], None] = print) -> dict[str, Any]:
    """Run what is not finished yet, and write ``sweep.json``; returns its content.

    Every variant is checked before the first training.

    Raises:
        UserError: a variant's recipe is wrong. RunError: a run could not finish; run the sweep again to go on.
    """
    folder = out or Path("runs") / config.name
    recipes = {
        (variant, seed): recipe_of(config, variant, seed) for variant in config.variants for seed in config.seeds
    }
    for variant in config.variants:
        pipeline.prepare(recipes[variant, config.seeds[0]], config.until)
    runs: dict[tuple[str, int], Run] = {}
    for (variant, seed), recipe in recipes.items():
        path = folder / f"{variant}-seed{seed}"
        if not path.exists() and runs:  # stages that are equal are reused; most, in a run of the same seed
            same = [run for (_, other), run in runs.items() if other == seed]
            _begin_with((same or list(runs.values()))[-1].path, path)
        echo(f"{variant}, seed {seed}: {path}")
        runs[variant, seed] = pipeline.align(recipe, path, until=config.until, echo=lambda line: echo(f"  {line}"))
    found = {variant: [list(figures(runs[variant, seed].path)) for seed in config.seeds] for variant in config.variants}
    table = {"seeds": list(config.seeds), "variants": _table(found)}
    write_json(folder / TABLE, table)
    return table


def _begin_with(earlier: Path, path: Path) -> None:
    """A copy of a finished run, whose stages are reused as far as they are the same."""
    partial = path.with_name(f"{path.name}.copying")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(earlier, partial, ignore=shutil.ignore_patterns("events.jsonl", "report", "*.lock"))
    partial.rename(path)


def figures(run: Path) -> Iterator[Figure]:
    """The rates that a run has measured, and the alignment tax."""
    for stage in ("forms", "public_prompts"):
        if (file := run / stage / "summary.json").exists():
            summary = read_json(file)
            for kind, measured in summary["kinds"].items():
                if measured["refused"]["n"]:
                    yield Figure(
                        f"{phrase(stage)}: {kind} refused", measured["refused"]["value"], measured["refused"]["n"]
                    )
                effect = measured.get("effect_of_form")
                if effect and effect["value"] is not None:
                    yield Figure(f"{phrase(stage)}: effect of form, {kind}", effect["value"], 0)
    if (file := run / "scores" / "summary.json").exists():
        summary = read_json(file)
        for row in summary["overall"]:
            if row["n"]:
                yield Figure(row["label"], row["rates"][subject(row["rates"])]["value"], row["n"])
        if summary["capability"]:
            knowledge, perplexity = summary["capability"]["knowledge"], summary["capability"]["perplexity"]
            own = knowledge[subject(knowledge)]
            yield Figure("general knowledge", own["value"], own["n"])
            if "ratio" in perplexity:
                yield Figure("perplexity, times the raw model's", perplexity["ratio"]["value"], 0)


def _table(found: Mapping[str, Sequence[Sequence[Figure]]]) -> dict[str, Any]:
    """By variant and label: mean over the seeds, its interval, the seeds' values, the difference from the first."""
    baseline = next(iter(found))
    table: dict[str, Any] = {}
    for variant, runs in found.items():
        table[variant] = {}
        for figure in runs[0]:
            values, first = _values(runs, figure.label), _values(found[baseline], figure.label)
            table[variant][figure.label] = {
                **over_seeds(values, figure.n).json(),
                "by_seed": values,
                "versus_first": over_seeds([a - b for a, b in zip(values, first, strict=True)]).json()
                if first
                else None,
            }
    return table


def _values(runs: Sequence[Sequence[Figure]], label: str) -> list[float]:
    """A figure of every run; none where the runs lack it."""
    return [figure.value for run in runs for figure in run if figure.label == label]


def over_seeds(values: Sequence[float], n: int = 0) -> Estimate:
    """The mean over seeds with the interval of the module's docstring; without ``n``, that of the seeds alone."""
    mean, count = fmean(values), len(values)
    seeds = student_t(count - 1) * stdev(values) / math.sqrt(count) if count > 1 else math.nan
    prompts = 1.96 * math.sqrt(max(0.0, mean * (1 - mean)) / n) if n else 0.0
    half = math.hypot(seeds, prompts)
    return Estimate(mean, mean - half, mean + half, count)


def shown(table: Mapping[str, Any]) -> tuple[Block, ...]:
    """The table as blocks: a row for each rate, a column for each variant."""
    variants = table["variants"]
    baseline, *others = variants
    rows: list[tuple[Cell, ...]] = []
    for label in dict.fromkeys(label for figures in variants.values() for label in figures):
        is_rate = "perplexity" not in label
        cells: list[Cell] = []
        for name in variants:
            cell = variants[name].get(label)
            if cell is None:
                cells.append(None)
            elif not is_rate:
                cells.append(Number.of(cell, digits=3))
            else:
                change = Difference.of(cell["versus_first"]) if name != baseline and cell["versus_first"] else None
                cells.append(Rate.of(cell, change=change))
        rows.append((label, *cells))
    seeds = ", ".join(map(str, table["seeds"]))
    return (
        Table(caption=f"Mean over seeds {seeds}", columns=("", baseline, *others), rows=tuple(rows)),
        paragraph(
            "Brackets are 95 % intervals over seeds and prompts; below, the change since the first variant over seeds."
        ),
    )
