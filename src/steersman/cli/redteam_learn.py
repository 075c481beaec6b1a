"""`steersman redteam learn`: from a campaign's findings to rows and a recipe, and what training on them gained."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steersman.cli.options import Json, print_json

if TYPE_CHECKING:
    from steersman.redteam.learn import Lessons
    from steersman.runs import OpenRun

LEARN, RECIPE = "learn.json", "recipe.yaml"
CAMPAIGNS = ("attacked", "redteam")  # where a run's campaign lies: of the command, or of the stage
COPIED = ("forms.jsonl", "development.jsonl")  # of the run's data, what measures
# Sections of a recipe that say how a policy is trained and measured; the others are left out.
KEPT = (
    "hardware",
    "chat",
    "answers",
    "forms",
    "public_prompts",
    "capability",
    "sense",
    "guard",
    "suites",
    "redteam",
)


def redteam_learn(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run that was attacked.")],
    campaign: Annotated[
        Path | None, typer.Option(help="Folder of the campaign. Default: RUN/attacked, or RUN/redteam.")
    ] = None,
    hold_out: Annotated[str, typer.Option(help="Families that training never sees, by comma.")] = "",
    topics: Annotated[float, typer.Option(min=0, max=0.9, help="Share of topics that training never sees.")] = 0.5,
    per_family: Annotated[int, typer.Option(min=1, help="Most successes of a family that are learnt from.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Seed of what is drawn.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder to write. Default: RUN-learn beside the run.")] = None,
    evaluate: Annotated[
        Path | None, typer.Option(help="Folder of the run that learnt, attacked as well: report what was gained.")
    ] = None,
    json: Json = False,
) -> None:
    """Turn attacks that succeeded into rows and a recipe; with --evaluate, report what training on them gained."""
    folder = out or run.with_name(f"{run.name}-learn")
    if evaluate is not None:
        _evaluate(run, campaign, evaluate, folder, json)
        return
    from steersman.redteam.attacks import ATTACKS
    from steersman.redteam.campaign import read_findings
    from steersman.redteam.learn import LearnConfig, lessons
    from steersman.runs import open_run
    from steersman.stages.inputs import TRAIN

    opened = open_run(run)
    config = LearnConfig(
        hold_out=tuple(name.strip() for name in hold_out.split(",") if name.strip()),
        topics=topics,
        per_family=per_family,
        seed=seed,
    )
    found = lessons(config, read_findings(_campaign(run, campaign)), opened.constitution, opened[TRAIN], ATTACKS)
    write(found, opened, folder, config.model_dump(mode="json"))
    if json:
        print_json({"folder": str(folder), **found.counts})
        return
    learnt = ", ".join(f"{count} of {family}" for family, count in found.counts["learnt"].items())
    rows = f"{len(found.demonstrations)} demonstrations and {len(found.comparisons)} comparisons"
    typer.echo(f"{rows}, from successes of attacks: {learnt}")
    for reason, count in found.counts["left_out"].items():
        typer.echo(f"  left out: {count}, {reason}")
    typer.echo(
        f"Train:    steersman align {folder / RECIPE} --out {folder / 'run'}\n"
        f"Attack:   steersman redteam {folder / 'run'} --targets raw,aligned\n"
        f"Evaluate: steersman redteam learn {run} --evaluate {folder / 'run'}"
    )


def write(found: Lessons, run: OpenRun, folder: Path, config: Mapping[str, Any]) -> None:
    """Write the rows, the policy to start from as a whole model, the recipe, and what was held out."""
    import yaml

    from steersman.stages.inputs import EVALUATION
    from steersman.store import write_json, write_jsonl, write_text

    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    write_jsonl(data / "demonstrations.jsonl", [row.model_dump(mode="json") for row in found.demonstrations])
    if found.comparisons:
        write_jsonl(data / "comparisons.jsonl", [row.model_dump(mode="json") for row in found.comparisons])
    kept = [row.model_dump(mode="json") for row in run[EVALUATION] if row.topic not in found.topics]
    write_jsonl(data / "evaluation.jsonl", kept)
    for name in COPIED:
        if (run.path / "data" / name).is_file():
            shutil.copyfile(run.path / "data" / name, data / name)
    if not (folder / "model").exists():
        run.export(folder / "model", merged=True)
    recipe = recipe_of(run.recipe, compares=bool(found.comparisons))
    write_text(folder / RECIPE, yaml.safe_dump(recipe, sort_keys=False))
    write_json(folder / LEARN, {"config": dict(config), "from": str(run.path), **found.counts})


def recipe_of(recipe: Mapping[str, Any], *, compares: bool) -> dict[str, Any]:
    """The recipe that goes on from a run's policy: its own ways of training for one epoch, and of measuring.

    ``compares``: there are comparisons, so that DPO follows, with the run's own settings if it has them.
    """
    sft = {**(recipe.get("sft") or {}), "epochs": 1}
    sft["prefix"] = {**(sft.get("prefix") or {}), "upsample": {}}
    constitution = recipe.get("constitution")
    if constitution and Path(constitution).is_file():
        constitution = str(Path(constitution).resolve())
    return {
        "name": f"{recipe['name']}-learn",
        "model": "model",
        "data": "data",
        **{name: recipe[name] for name in KEPT if name in recipe},
        "constitution": constitution,
        "sft": sft,
        "dpo": (recipe.get("dpo") or {}) if compares else None,
    }


def _campaign(run: Path, named: Path | None) -> Path:
    """The folder of a run's campaign."""
    from steersman.redteam.campaign import FINDINGS

    places = [named] if named else [run / name for name in CAMPAIGNS]
    return next((place for place in places if (place / FINDINGS).is_file()), places[0])


def _evaluate(run: Path, campaign: Path | None, learnt: Path, folder: Path, json: bool) -> None:
    """Compare campaigns before and after; on the learnt run alone where it was asked both of its models."""
    from steersman.errors import UserError
    from steersman.redteam.campaign import HARMLESS, read_findings
    from steersman.redteam.learn import LearnConfig, evaluate, verdict
    from steersman.store import read_json, read_jsonl, write_json

    if not (folder / LEARN).is_file():
        raise UserError("nothing was learnt here", where=str(folder), do=f"run `steersman redteam learn {run}` first")
    config = LearnConfig.model_validate(read_json(folder / LEARN)["config"])

    def side(place: Path) -> tuple[Any, Any]:
        return read_findings(place), read_jsonl(place / HARMLESS) if (place / HARMLESS).is_file() else []

    after = side(_campaign(learnt, None))
    if any(row.target == "raw" for row in after[0]):
        figures = evaluate(config, after, after, ("raw", "aligned"))
    else:
        figures = evaluate(config, side(_campaign(run, campaign)), after)
    write_json(folder / "gain.json", figures)
    if json:
        print_json({**figures, "verdict": verdict(figures)})
        return
    for name, found in {"held out": figures["unseen"], **figures["families"]}.items():
        before, later = (found[side]["value"] for side in ("before", "after"))
        if found["before"]["n"]:
            typer.echo(f"  {name}: {100 * before:.0f} % -> {100 * later:.0f} %, n={found['before']['n']}")
    typer.echo(verdict(figures))
