"""Commands of data sets: `steersman data check` and `steersman data convert`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from steersman.cli.options import Json, print_json

Columns = Annotated[
    str, typer.Option(help="Columns of a file, e.g. prompt=question,first=output_1,second=output_2,better=label.")
]
data_app = typer.Typer(help="Check and convert data sets.", no_args_is_help=True)


@data_app.command()
def check(
    name: Annotated[str, typer.Argument(metavar="DATA", help="Folder, file, or the name of a shipped data set.")],
    columns: Columns = "",
    json: Json = False,
) -> None:
    """Report counts, coverage per principle, duplicates, leaks into the evaluation, lengths. Exits with 2 on a leak."""
    from steersman.data import sources
    from steersman.data.check import check, print_report
    from steersman.evals.detectors.behaviours import detect
    from steersman.terminal import working

    if sources.is_one_table(name):
        _check_table(Path(name), columns, json)
        return
    with working("checking the data"):
        data = sources.load(name)
        files = data.demonstrations, data.comparisons, data.prompts, data.evaluation, data.forms, data.development
        report = check(*files, refuses=partial(detect, "refuses"))
    if json:
        print_json(report.json())
    else:
        print_report(name, report)
    raise typer.Exit(2 if report.leaks or report.shared_topics else 0)


def _check_table(path: Path, columns: str, json: bool) -> None:
    """One file, or one data set of `datasets`, as a stream: it may have any length."""
    from steersman.data import large, sources
    from steersman.terminal import results, working

    with working("checking the data"):
        report = large.check_stream(path, sources.kind_of(path, columns), columns)
    if json:
        print_json(report.json())
    else:
        for line in large.shown(str(path), report):
            results().print(line, markup=False, soft_wrap=True)
    raise typer.Exit(0 if report.rows else 2)


@data_app.command()
def convert(
    file: Annotated[Path, typer.Argument(help="Comparisons in any supported format, .jsonl or .jsonl.gz.")],
    out: Annotated[Path, typer.Argument(help="A new .jsonl file.")],
    to: Annotated[Literal["trl", "hh", "pku", "openrlhf", "argilla", "ranked"], typer.Option(help="Format to write.")],
    columns: Columns = "",
) -> None:
    """Write comparisons in another tool's format. Rows that it cannot hold are counted with the reason."""
    from steersman.data.export import convert
    from steersman.terminal import working

    with working("converting"):
        lines = list(convert(file, out, to, columns))
    for line in lines:
        typer.echo(line)
