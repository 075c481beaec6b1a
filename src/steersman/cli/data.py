"""Commands of data sets: `steersman data check` and `steersman data convert`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from steersman.cli.options import Json, print_json

if TYPE_CHECKING:
    from steersman.data.check import LengthLimit

Columns = Annotated[
    str, typer.Option(help="Columns of a file, e.g. prompt=question,first=output_1,second=output_2,better=label.")
]
data_app = typer.Typer(help="Check and convert data sets.", no_args_is_help=True)


@data_app.command()
def check(
    name: Annotated[str, typer.Argument(metavar="DATA", help="Folder, file, or the name of a shipped data set.")],
    columns: Columns = "",
    model: Annotated[str, typer.Option(help="Count rows over the limit with this model's tokenizer.")] = "",
    max_length: Annotated[
        int, typer.Option(min=0, help="Count rows of more tokens; 0: 512 if there is a model. Without one, estimated.")
    ] = 0,
    json: Json = False,
) -> None:
    """Report counts, coverage per principle, duplicates, leaks into the evaluation, lengths. Exits with 2 on a leak."""
    from steersman.data import sources
    from steersman.data.check import check, print_report
    from steersman.evals.detectors.behaviours import detect
    from steersman.terminal import working

    limit = _limit(model, max_length)
    if sources.is_one_table(name):
        _check_table(Path(name), columns, limit, json)
        return
    with working("checking the data"):
        data = sources.load(name)
        files = data.demonstrations, data.comparisons, data.prompts, data.evaluation, data.forms, data.development
        report = check(*files, refuses=partial(detect, "refuses"), limit=limit)
    if json:
        print_json(report.json())
    else:
        print_report(name, report, limit)
    raise typer.Exit(2 if report.leaks or report.shared_topics else 0)


def _limit(model: str, max_length: int) -> LengthLimit | None:
    """The limit of length that was asked for, by a model's tokenizer or by words."""
    if not (model or max_length):
        return None
    from steersman.cost.work import WordCount
    from steersman.data.check import LengthLimit
    from steersman.lm import pretrained
    from steersman.lm.chat_format import chat_format
    from steersman.train.sft import SftConfig

    tokenizer = pretrained.load_tokenizer(pretrained.resolve(model)) if model else WordCount(1)
    measure = "the model's tokenizer" if model else "an estimate from their words"
    return LengthLimit(max_length or SftConfig().max_length, chat_format(tokenizer).length, measure)


def _check_table(path: Path, columns: str, limit: LengthLimit | None, json: bool) -> None:
    """One file, or one data set of `datasets`, as a stream: it may have any length."""
    from steersman.data import large, sources
    from steersman.terminal import results, working

    with working("checking the data"):
        report = large.check_stream(path, sources.kind_of(path, columns), columns, limit)
    if json:
        print_json(report.json())
    else:
        for line in large.shown(str(path), report, limit):
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
