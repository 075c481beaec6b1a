"""The command line. A command is a few lines around a typed function; torch is imported only by those that need it."""

from __future__ import annotations

import sys
import warnings
from typing import Annotated

import typer

from steersman.cli import align, demo, evals, harden, inside, model, serve
from steersman.cli.audit import audit
from steersman.cli.constitution import constitution_app
from steersman.cli.data import data_app
from steersman.cli.guard import guard_app
from steersman.cli.interp import interp_app
from steersman.cli.organism import organism_app
from steersman.cli.rate import rate_app
from steersman.cli.redteam import redteam_app
from steersman.cli.values import values
from steersman.errors import SteersmanError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def options(version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False) -> None:
    """Write down how your model should behave; Steersman trains it, and shows with error bars whether it worked."""
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"steersman {installed('steersman')}")
        raise typer.Exit


RUNS = (align.align, align.sweep, align.show, align.diff, model.chat, align.report, model.export, align.track)
for command in (demo.demo, align.init, *RUNS, serve.serve, align.bench):
    app.command()(command)
app.command("eval")(evals.evaluate)
app.command()(harden.harden)
app.command()(audit)
app.command()(values)
app.command()(inside.inspect)
app.add_typer(constitution_app, name="constitution")
app.add_typer(data_app, name="data")
app.add_typer(rate_app, name="rate")
app.add_typer(guard_app, name="guard")
app.add_typer(redteam_app, name="redteam")
app.add_typer(organism_app, name="organism")
app.add_typer(interp_app, name="interp")


def main() -> None:
    """Run a command. Exit codes: 2 for a user error, 3 for a failed run, 130 for an interrupt from the keyboard."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a locale that cannot write a character gets "?" and no traceback
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # peft calls an older name
    try:
        app()
    except SteersmanError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:  # a path that cannot be read or written
        print(
            f"error: {str(error.filename)[:200]}: {error.strerror}" if error.filename else f"error: {error}",
            file=sys.stderr,
        )
        sys.exit(2)
