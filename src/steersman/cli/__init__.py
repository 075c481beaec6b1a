"""The command line. A command is a few lines around a typed function; torch is imported only by those that need it."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from steersman.cli import align, model
from steersman.cli.constitution import constitution_app
from steersman.cli.data import data_app
from steersman.cli.options import RunFolder
from steersman.errors import SteersmanError

app = typer.Typer(
    help="Write down how your model should behave; Steersman trains it, and shows with error bars whether it worked.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class RunByDefault(TyperGroup):
    """`rate RUN` is `rate open RUN`."""

    default = "open"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """A first word that is no verb is a run."""
        own = bool(args) and args[0] not in self.commands and args[0] not in ctx.help_option_names
        return super().parse_args(ctx, [self.default, *args] if own else args)


rate_app = typer.Typer(
    help="Put answers to human raters, and use what they say. `rate RUN` is short for `rate open RUN`.",
    no_args_is_help=True,
    cls=RunByDefault,
)
for command in (align.init, align.align, align.bench, align.show, align.diff, model.chat, align.report, model.export):
    app.command()(command)
app.add_typer(constitution_app, name="constitution")
app.add_typer(data_app, name="data")
app.add_typer(rate_app, name="rate")

Rated = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or a .jsonl file of comparisons.")]
Store = Annotated[str | None, typer.Option(help="A file, or postgresql://USER@HOST/DB; RUN/rating unless given.")]


@rate_app.command("open")
def rate_open(
    run: Rated,
    compare: Annotated[str | None, typer.Option(help="A blind test of two, such as raw,aligned.")] = None,
    rater: Annotated[list[str] | None, typer.Option(help="NAME or NAME:GROUP, once for each; you, if none.")] = None,
    answers: Annotated[int | None, typer.Option(help="Sampled for each prompt, 2 to 9; 4.")] = None,
    prompts: Annotated[int | None, typer.Option(help="At most so many, evenly over the file; all.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Of the sampled answers; 1.")] = None,
    raters: Annotated[int | None, typer.Option(help="Different people for each question; 1.")] = None,
    per_rater: Annotated[int | None, typer.Option(help="At most so many questions for each; no limit.")] = None,
    gold: Annotated[str | None, typer.Option(help="Comparisons with a known answer, a .jsonl file.")] = None,
    principles: Annotated[bool | None, typer.Option("--principles", help="Ask by each principle too.")] = None,
    seed: int | None = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Another setting of the round: title, consent, gold_share, ...")
    ] = None,
    store: Store = None,
    host: Annotated[str, typer.Option(help="Only this machine unless given.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free.")] = 8642,
    url: Annotated[str | None, typer.Option(help="How raters reach the server, if not by host and port.")] = None,
) -> None:
    """Open the rating application over a run; a second call goes on."""
    from steersman.cli.rate import rate, settings_of
    from steersman.rating.server import Address

    source = {"answers": answers, "prompts": prompts, "temperature": temperature, "raters": raters, "gold": gold}
    told = {"per_rater": per_rater, "ask_principles": principles, "seed": seed, **settings_of(set_ or [])}
    pair = None if compare is None else tuple(part.strip() for part in compare.split(","))
    address = Address(host=host, port=port, url=url)
    rate(run, {**source, **told, "compare": pair}, rater or [], address, store)


@rate_app.command("export")
def rate_export(
    run: Rated,
    to: Annotated[
        Literal["votes", "ranked", "trl", "demonstrations"] | None,
        typer.Option(help="One file: the raw votes, weighed rows, TRL's pairs, or the best answers."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="RUN/rating or FILE.rating if none; a new .jsonl with --to.")] = None,
    store: Store = None,
) -> None:
    """Write what raters said, weighed by how far each is believed; agreement; the win rate of a blind test."""
    from steersman.cli.rate import export as write

    for line in write(run, out, store, to):
        typer.echo(line)


@rate_app.command("train")
def rate_train(
    run: RunFolder,
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value, e.g. reward_model.epochs=2.")] = None,
    out: Annotated[Path | None, typer.Option(help="The new run's folder; RUN-votes unless given.")] = None,
    votes: Annotated[
        Path | None, typer.Option(help="Argilla's, Label Studio's, LMArena's or another file, instead of the round's.")
    ] = None,
    store: Store = None,
) -> None:
    """Train the reward model on the run's comparisons and the raters' votes, and say what it is worth."""
    from steersman.cli.rate import train
    from steersman.store import read_json

    done = train(run, set_ or [], out, store, votes=votes)
    accuracy = read_json(done.path / "reward_card" / "card.json")["accuracy"]
    typer.echo(f"Reward model: {done.path / 'reward_model'}, right about {accuracy['value']:.0%} of held-out pairs")


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
