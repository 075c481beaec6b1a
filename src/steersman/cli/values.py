"""`steersman values`: who wins and who loses if a rule decides on people's comparisons."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steersman.cli.options import Json, print_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from steersman.types import Comparison


def values(
    source: Annotated[
        Path, typer.Argument(metavar="RUN|FILE", help="Folder of a run, or a file of comparisons with raters' groups.")
    ],
    columns: Annotated[str, typer.Option(help="Other names of a file's columns, such as group=region.")] = "",
    shown: Annotated[int, typer.Option(min=0, help="Questions shown on which groups disagree.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Of the folds of raters.")] = 0,
    json: Json = False,
) -> None:
    """Say who wins and who loses under each rule, and the price that each group pays."""
    from steersman.report.terminal import render
    from steersman.report.values import blocks
    from steersman.terminal import results
    from steersman.values.ballots import ballots
    from steersman.values.who_wins import ValuesConfig, who_wins

    config = ValuesConfig.model_validate({"shown": shown, "seed": seed})
    found = who_wins(ballots(_comparisons(source, columns)), config)
    if json:
        print_json(found)
    else:
        results().print(render(blocks(found)))


def _comparisons(source: Path, columns: str) -> Sequence[Comparison]:
    """A run's comparisons, or a file's.

    Raises:
        UserError: the file holds none.
    """
    from steersman.data.sources import load_file
    from steersman.errors import UserError

    if source.is_dir():
        from steersman.runs import open_run
        from steersman.stages.inputs import COMPARISONS

        return open_run(source)[COMPARISONS]
    found = load_file(source, columns).comparisons
    if not found:
        raise UserError("no comparisons here", where=str(source), do="give a file of votes with raters and groups")
    return found
