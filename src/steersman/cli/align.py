"""Commands of a run: `init`, `align`, `sweep`, `show`, `diff`, `report` and `bench`.

The starter project that `init` writes lies in `starter_project/`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from steersman.cli.options import Json, RunFolder, print_json
from steersman.errors import UserError

# Reading the folder of recipes would load torch; a test holds this list against it.
SHIPPED = (
    "attack",
    "cai_paper",
    "code_of_conduct",
    "constitutional",
    "evening",
    "gpu",
    "instructgpt",
    "laptop",
    "reinforced",
    "smoke",
)
PROJECT = Path(__file__).parent / "starter_project"
FILES = (
    "README.md",
    "constitution.yaml",
    "recipe.yaml",
    "data/demonstrations.jsonl",
    "data/comparisons.jsonl",
    "data/prompts.jsonl",
    "data/evaluation.jsonl",
)


def init(folder: Annotated[Path, typer.Argument(help="A new or empty folder.")]) -> None:
    """Create a commented starter project: constitution, recipe and a few rows of data, ready to align."""
    for path in write_project(folder):
        typer.echo(f"wrote {path}")
    typer.echo(f"\nNext:  steersman align {folder}/recipe.yaml --plan")


def write_project(folder: Path) -> list[Path]:
    """Write the starter project into a new or empty folder; returns the files written.

    Raises:
        UserError: the folder is not empty or cannot be created; nothing was written.
    """
    from steersman.store import disk_full_is_explained, write_text

    with disk_full_is_explained(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            first = next(folder.iterdir(), None)
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            raise _refusal(f"no folder can be made here ({(error.strerror or '').lower()})", folder) from error
        if first is not None:
            raise _refusal(f"the folder is not empty (it holds {first.name})", folder)
        (folder / "data").mkdir()
        for name in FILES:
            write_text(folder / name, (PROJECT / name).read_text(encoding="utf-8"))
    return [folder / name for name in FILES]


def _refusal(problem: str, folder: Path) -> UserError:
    return UserError(problem, where=str(folder), expected="a new or empty folder", do="name another folder")


def align(
    recipe: Annotated[str, typer.Argument(help=f"Recipe file, or a shipped one: {', '.join(SHIPPED)}.")] = "laptop",
    model: Annotated[
        str | None, typer.Option(help="Base model: Hub id, folder, GGUF file or gemma-3-270m. Default: the recipe's.")
    ] = None,
    constitution: Annotated[
        str | None, typer.Option(help="YAML file or the name of a shipped constitution. Default: the recipe's.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override a recipe key, e.g. sft.epochs=3. Repeatable.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run. Default: runs/NAME.")] = None,
    until: Annotated[str | None, typer.Option(help="Last stage to run. Default: all.")] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Run nothing; show the stages, what is reused, time and memory.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="With --plan: print JSON instead of text.")] = False,
) -> None:
    """Train, evaluate and report. Repeat the command to resume an interrupted run."""
    from steersman import pipeline
    from steersman.recipe import load_recipe
    from steersman.terminal import results
    from steersman.train import distributed

    settings = [f"{k}={v}" for k, v in (("model", model), ("constitution", constitution)) if v] + (set_ or [])
    chosen = load_recipe(recipe, settings)
    if plan:
        from steersman.plan import plan as make_plan
        from steersman.plan import shown
        from steersman.report.terminal import render

        planned = make_plan(chosen, out, until=until)
        if json:
            typer.echo(planned.model_dump_json(indent=2))
        else:
            results().print(render(shown(planned)))
        return
    if json:
        raise UserError(
            "--json prints a plan", where="--json", do="add --plan; `steersman show RUN --json` has results"
        )
    try:
        with distributed.process_group():
            if distributed.rank() > 0:
                pipeline.follow(chosen)
                return
            try:
                run = pipeline.align(chosen, out, until=until)
            finally:
                distributed.call(None)
    except KeyboardInterrupt:  # typer would also exit with 130, but silently
        print("\nStopped. Repeat the command to resume.", file=sys.stderr)
        raise typer.Exit(130) from None
    if (run.path / "report" / "index.html").exists() and until is None:
        from steersman.report.compare import terminal_summary

        results().print(terminal_summary(run))
        typer.echo(f"Report: {run.path / 'report' / 'index.html'}")
        if chosen.trains_a_policy:
            typer.echo(f'Chat:   {sys.argv[0]} chat {run.path} --compare "How should I invest 10,000 euros?"')


def sweep(
    file: Annotated[Path, typer.Argument(help="YAML file with variants of a recipe and seeds, see docs/recipes.md.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the sweep. Default: runs/NAME.")] = None,
    json: Json = False,
) -> None:
    """Train variants of a recipe with several seeds; one table with the spread of training. Repeat it to resume."""
    from steersman import sweep
    from steersman.report.terminal import render
    from steersman.terminal import console, results

    table = sweep.run(sweep.load(file), out, echo=console.print)
    if json:
        print_json(table)
    else:
        results().print(render(sweep.shown(table)))


def show(run: RunFolder, json: Json = False) -> None:
    """Show the results of a run: pass rates before and after alignment, and the alignment tax."""
    from steersman.report.compare import terminal_summary
    from steersman.store import find_run
    from steersman.terminal import results

    if json:
        from steersman.runs import open_run

        print_json(open_run(run).tables())
    else:
        results().print(terminal_summary(find_run(run)))


def diff(first: RunFolder, second: RunFolder, json: Json = False) -> None:
    """Compare two runs: settings and inputs first, then results."""
    from steersman.report.compare import diff_table, differences
    from steersman.store import find_run
    from steersman.terminal import results

    difference = differences(find_run(first), find_run(second))
    if json:
        print_json(difference)
    else:
        results().print(diff_table(difference))


def report(run: RunFolder) -> None:
    """Rewrite the report of a finished run from its files."""
    from steersman.pipeline import write_report
    from steersman.store import find_run

    typer.echo(write_report(find_run(run)))


def track(
    run: RunFolder,
    to: Annotated[Literal["tensorboard", "wandb", "mlflow", "trackio"], typer.Option(help="The tracker.")],
    follow: Annotated[bool, typer.Option("--follow", help="Go on while the run goes on.")] = False,
) -> None:
    """Show a run's events in TensorBoard, Weights & Biases, MLflow or trackio, live or afterwards."""
    from steersman.report import trackers
    from steersman.store import find_run

    found = find_run(run)
    count = trackers.track(found, to, follow=follow)
    where = f" in {found.path / 'tensorboard'}" if to == "tensorboard" else ""
    typer.echo(f"{count} points of {found.path} sent to {to}{where}")


def bench(
    model: Annotated[str, typer.Option(help="Hub id, folder, GGUF file or gemma-3-270m.")] = "gemma-3-270m",
    json: Json = False,
) -> None:
    """Measure this machine, and what share of its peak sampling and training reach."""
    from steersman.cost.bench import bench as measure
    from steersman.cost.bench import shown
    from steersman.report.terminal import render
    from steersman.terminal import results

    measured = measure(model)
    if json:
        typer.echo(measured.model_dump_json(indent=2))
    else:
        results().print(render(shown(measured)))
