"""`steersman rate`: open a round, export its votes, train a reward model on them."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from steersman.lm.language_model import LanguageModel
    from steersman.rating.session import Votes
    from steersman.store import Run
    from steersman.values.opinion_groups import OpinionMap

REUSED = ("base", "data", "raw_answers", "raw_capability", "sft")  # stages of a run that its votes do not change


class RunByDefault(TyperGroup):
    """`rate RUN` is `rate open RUN`."""

    default = "open"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """A first word that is no command is a run."""
        is_run = bool(args) and args[0] not in self.commands and args[0] not in ctx.help_option_names
        return super().parse_args(ctx, [self.default, *args] if is_run else args)


rate_app = typer.Typer(
    help="Collect votes of human raters, and train on them. `rate RUN` is short for `rate open RUN`.",
    no_args_is_help=True,
    cls=RunByDefault,
)
RatedRun = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, or a .jsonl file of comparisons.")]
Store = Annotated[
    str | None, typer.Option(help="SQLite file or postgresql://USER@HOST/DB. Default: RUN/rating/store.sqlite.")
]


@rate_app.command("open")
def rate_open(
    run: RatedRun,
    compare: Annotated[str | None, typer.Option(help="Two models for a blind test, such as raw,aligned.")] = None,
    rater: Annotated[
        list[str] | None, typer.Option(help="Rater as NAME or NAME:GROUP; repeat for several. Default: you.")
    ] = None,
    answers: Annotated[int | None, typer.Option(help="Sampled answers per prompt, 2 to 9. Default: 4.")] = None,
    prompts: Annotated[
        int | None, typer.Option(help="Maximum number of prompts, evenly over the file. Default: all.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="Sampling temperature. Default: 1.")] = None,
    raters: Annotated[int | None, typer.Option(help="Different raters per question. Default: 1.")] = None,
    per_rater: Annotated[int | None, typer.Option(help="Maximum number of questions per rater. Default: none.")] = None,
    gold: Annotated[str | None, typer.Option(help="File of gold questions: comparisons of known order.")] = None,
    principles: Annotated[bool | None, typer.Option("--principles", help="Also ask by each principle.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of sampling, order and sides. Default: 0.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Setting as KEY=VALUE, such as title=... or gold_share=0.2; repeat for several."),
    ] = None,
    store: Store = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes any free one.")] = 8642,
    url: Annotated[
        str | None, typer.Option(help="Public URL with its path, if raters reach the server through a proxy.")
    ] = None,
    participants: Annotated[
        int,
        typer.Option(min=0, help="Most raters by one shared link with an id each, as for Prolific. 0: no such link."),
    ] = 0,
    completion: Annotated[
        str, typer.Option(help="URL or code that raters by the shared link get at the end. Default: none.")
    ] = "",
) -> None:
    """Serve a rating round. The same command continues it."""
    from steersman.http_server import Address
    from steersman.rating.participants import SharedLink
    from steersman.rating.round import Round
    from steersman.rating.session import Source, given, parse_settings, serve_round

    source = given(
        Source,
        compare=None if compare is None else tuple(name.strip() for name in compare.split(",")),
        answers=answers,
        prompts=prompts,
        temperature=temperature,
        raters=raters,
        gold=gold,
    )
    options = {"per_rater": per_rater, "ask_principles": principles, "seed": seed}
    settings = given(Round, **{**options, **parse_settings(set_ or [])})
    address, shared = (
        Address(host=host, port=port, url=url),
        SharedLink(participants=participants, completion=completion),
    )
    serve_round(run, source, settings, rater or [], address, load_policy, store, shared)


def load_policy(run: Path) -> LanguageModel:
    """The aligned model of a run, which samples the answers."""
    from steersman.runs import open_run

    return open_run(run).aligned()


@rate_app.command("export")
def rate_export(
    run: RatedRun,
    to: Annotated[
        Literal["votes", "ranked", "trl", "demonstrations"] | None,
        typer.Option(help="Write one file instead: raw votes, aggregated rows, TRL's pairs, or the best answers."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Output folder, or with --to a new .jsonl file. Default: RUN/rating or FILE.rating."),
    ] = None,
    store: Store = None,
) -> None:
    """Write the votes of a round. Training rows, the raters' card, and the win rate of a blind test, or one file."""
    from steersman.rating.session import export

    for line in export(run, out, store, to):
        typer.echo(line)


@rate_app.command("statements")
def rate_statements(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Statements, one a line, or Polis' comments.csv.")],
    to: Annotated[Path, typer.Option("--to", help="Folder of the conversation: its statements, votes and exports.")],
    rater: Annotated[
        list[str] | None, typer.Option(help="Participant as NAME; repeat for several. Default: you.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Setting as KEY=VALUE, such as title=... or proposals=0; repeat for several."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes any free one.")] = 8642,
    url: Annotated[
        str | None, typer.Option(help="Public URL with its path, if participants reach the server through a proxy.")
    ] = None,
    participants: Annotated[
        int, typer.Option(min=0, help="Most participants by one shared link with an id each. 0: no such link.")
    ] = 0,
    completion: Annotated[str, typer.Option(help="URL or code that they get at the end. Default: none.")] = "",
) -> None:
    """Let people vote on statements, and add some; opinion groups are found. The same command continues it."""
    from steersman.http_server import Address
    from steersman.rating.participants import SharedLink
    from steersman.rating.session import given, parse_settings
    from steersman.rating.statement_round import StatementRound
    from steersman.rating.statement_session import serve_conversation

    changed = given(StatementRound, **parse_settings(set_ or [], StatementRound)).model_dump(exclude_unset=True)
    address = Address(host=host, port=port, url=url)
    shared = SharedLink(participants=participants, completion=completion)
    serve_conversation(file, to, changed, rater or [], address, analyse, shared)


def analyse(votes: Any, min_votes: int, seed: int) -> OpinionMap:
    """What votes on statements say, for the rating application, which does not know how it is found."""
    from steersman.values.opinion_groups import opinion_map

    return opinion_map(votes, min_votes=min_votes, seed=seed)


@rate_app.command("export-statements")
def rate_export_statements(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of a conversation on statements.")],
    out: Annotated[Path | None, typer.Option(help="Output folder. Default: FOLDER/votes.")] = None,
) -> None:
    """Write the votes on statements in the form of a Polis export, with the opinion groups found."""
    from steersman.rating.statement_session import export_conversation

    for line in export_conversation(folder, out, analyse):
        typer.echo(line)


@rate_app.command("train")
def rate_train(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, such as runs/laptop.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Recipe key as KEY=VALUE, such as reward_model.epochs=2; repeat for several."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the new run. Default: RUN-votes.")] = None,
    votes: Annotated[
        Path | None,
        typer.Option(help="Votes from a file (Argilla, Label Studio, LMArena, ...) instead of the run's round."),
    ] = None,
    store: Store = None,
) -> None:
    """Train a reward model on votes. The run's own comparisons are kept; the model is evaluated."""
    from steersman.store import read_json

    done = train(run, set_ or [], out, store, votes=votes)
    accuracy = read_json(done.path / "reward_card" / "card.json")["accuracy"]
    typer.echo(f"Reward model: {done.path / 'reward_model'}, right about {accuracy['value']:.0%} of held-out pairs")


def train(
    where: Path,
    settings: Sequence[str] = (),
    out: Path | None = None,
    store: str | None = None,
    until: Literal["reward_model", "reward_card"] = "reward_card",
    votes: Path | None = None,
) -> Run:
    """Train the reward model of a run's recipe on its own comparisons and the votes, and write its card.

    A new run, ``RUN-votes``; stages that the votes do not change are copied from the old one. Votes are aggregated
    before, unless the reward model learns the raters' parameters itself (``trust_raters``).

    Args:
        votes: a file of another tool, instead of the run's round.

    Raises:
        UserError: there are no votes, or the round put evaluation prompts to the raters.
    """
    import yaml

    from steersman import pipeline
    from steersman.rating.session import COMPARISONS, training_votes, write_rows
    from steersman.recipe import load_recipe
    from steersman.store import find_run, write_text

    run = find_run(where)
    rows = _imported(votes) if votes else training_votes(run, store)
    folder = out or run.path.with_name(f"{run.path.name}-votes")
    folder.mkdir(parents=True, exist_ok=True)
    recipe = yaml.safe_load((run.path / "recipe.yaml").read_text(encoding="utf-8"))
    recipe |= {"name": f"{recipe['name']}-votes", "votes": str((folder / COMPARISONS).absolute())}
    recipe["reward_model"] = recipe["reward_model"] or {}
    recipe["examples"]["held_out_comparisons"] = recipe["examples"]["held_out_comparisons"] or 0.15
    # None of them changes a reward model, and all would be trained again on the votes before it.
    recipe |= {"dpo": None, "rl": None, "cost_model": None}
    write_text(folder / "recipe.yaml", yaml.safe_dump(recipe, sort_keys=False))
    chosen = load_recipe(folder / "recipe.yaml", settings)
    learns_raters = chosen.reward_model is not None and chosen.reward_model.rater_reliability
    write_rows(rows, folder, aggregated=not learns_raters)
    for stage in REUSED:
        if (run.path / stage).is_dir() and not (folder / stage).exists():
            shutil.copytree(run.path / stage, folder / stage)
    return pipeline.align(chosen, folder, until=until)


def _imported(file: Path) -> Votes:
    """Another tool's votes; messages about its rows go to stderr."""
    from steersman.rating.exchange import import_votes
    from steersman.rating.session import Votes

    imported = import_votes(file)
    for line in imported.messages:
        print(line, file=sys.stderr)
    return Votes(imported.votes, [])
