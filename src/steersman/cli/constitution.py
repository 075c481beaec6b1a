"""Commands of constitutions: lint a document, measure a judge, and judge a run's answer pairs by principles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steersman.cli.options import Json, RunFolder, print_json
from steersman.errors import DataError, UserError
from steersman.store import read_json

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from steersman.constitution.judges import JudgeConfig
    from steersman.constitution.tensions import AnswerPair, Flip
    from steersman.runs import OpenRun
    from steersman.types import Comparison

PAIRS = ("feedback/comparisons.jsonl", "data/held_out_comparisons.jsonl", "data/comparisons.jsonl")

constitution_app = typer.Typer(help="Check constitutions, measure judges, compare versions.", no_args_is_help=True)

Kinds = Annotated[
    list[str] | None,
    typer.Option(
        "--kind",
        help="Judge: rules, reward, model or remote. Repeat it for several, used in order. Default: the run's.",
    ),
]
Pairs = Annotated[int, typer.Option(min=1, help="Number of the run's answer pairs to judge.")]
Document = Annotated[str, typer.Argument(help="YAML file, or the name of a shipped constitution.")]


@constitution_app.command()
def check(
    file: Document,
    data: Annotated[
        str | None, typer.Option(help="Data set to check it against. Default: the shipped one of the same name.")
    ] = None,
) -> None:
    """Validate and lint a constitution, alone or against a data set. Exits with 2 on an error."""
    from steersman.constitution import document
    from steersman.constitution.lint import lint
    from steersman.data import sources

    constitution = document.load(file)
    if data is None and file in sources.library():
        data = file
    rows = sources.load(data) if data else None
    findings = lint(
        constitution,
        demonstrations=rows.demonstrations if rows else None,
        comparisons=rows.comparisons if rows else None,
        prompts=rows.prompts if rows else None,
        evaluation=rows.evaluation if rows else None,
    )
    for finding in findings:
        typer.echo(f"{finding.severity}: {finding.principle or file}: {finding.message}\n  to do: {finding.do}")
    errors = sum(finding.severity == "error" for finding in findings)
    typer.echo(f"{file}: {len(constitution.principles)} principles, {len(findings)} finding(s), {errors} error(s)")
    raise typer.Exit(2 if errors else 0)


@constitution_app.command()
def draft(
    votes: Annotated[Path, typer.Argument(metavar="VOTES", help="Folder of a Polis export, or of our own export.")],
    to: Annotated[Path, typer.Option("--to", help="Constitution to write: a new .yaml file.")],
    title: Annotated[str, typer.Option(help="Title of the document.")] = "What people agreed on",
    publisher: Annotated[str, typer.Option(help="Who answers for the document.")] = "To be named",
    consensus: Annotated[
        float, typer.Option(min=0, max=1, help="Least group-aware consensus: geometric mean over the groups.")
    ] = 0.75,
    fewest: Annotated[int, typer.Option(min=1, help="Fewest votes of every group on a statement.")] = 5,
) -> None:
    """Draft a constitution from votes: what every opinion group agrees on, each principle with its support."""
    from steersman.cli.drafting import drafted

    for line in drafted(votes, to, title, publisher, consensus, fewest):
        typer.echo(line)


@constitution_app.command()
def judge(
    run: RunFolder,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure the judge now. Default: show the card that the run holds.")
    ] = False,
    kind: Kinds = None,
    model: Annotated[
        str | None, typer.Option(help="Model to use for --kind model (Hub id or folder). Default: the base model.")
    ] = None,
    chain_of_thought: Annotated[
        bool, typer.Option("--chain-of-thought", help="Let the model reason before it decides.")
    ] = False,
    comparisons: Annotated[
        Path | None, typer.Option(help="File of comparisons to measure on. Default: the run's held-out comparisons.")
    ] = None,
    questions: Annotated[int | None, typer.Option(min=1, help="Number of pairs to measure on. Default: all.")] = None,
    json: Json = False,
) -> None:
    """Show how good a judge is: accuracy, calibration and position bias, by principle and by source."""
    if measure:
        config = judge_config(run, kind, model=model, chain_of_thought=chain_of_thought, questions=questions)
        card = measured_card(run, config, comparisons)
    else:
        card = stored_card(run)
    _print(card, card_table(card), json)


@constitution_app.command()
def broken(
    run: RunFolder,
    prompt: Annotated[str, typer.Argument(help="The prompt.")],
    answer: Annotated[str, typer.Argument(help="The answer to score.")],
    json: Json = False,
) -> None:
    """Score an answer under each principle with the run's reward model. A hint, not a verdict: see docs/limits.md."""
    scores = principle_scores(run, prompt, answer)
    _print([{"principle": id, "nats": score} for id, score in scores], scores_table(scores), json)


@constitution_app.command()
def tensions(run: RunFolder, kind: Kinds = None, pairs: Pairs = 200, json: Json = False) -> None:
    """Show which principles disagree on a run's answer pairs, which are redundant, and which never decide."""
    result = tensions_of(run, judge_config(run, kind), pairs)
    _print(result, tensions_table(result), json)


@constitution_app.command()
def diff(
    old: Document,
    new: Document,
    run: Annotated[Path, typer.Option(help="Folder of a run, whose answer pairs are judged by both.")],
    kind: Kinds = None,
    pairs: Pairs = 200,
    json: Json = False,
) -> None:
    """Show what a change of the constitution changes: the answer pairs whose order flips."""
    result = difference_of(old, new, run, judge_config(run, kind), pairs)
    _print(difference_json(result), difference_text(result), json)


def _print(value: Any, text: RenderableType, json: bool) -> None:
    from steersman.terminal import results

    if json:
        print_json(value)
    else:
        results().print(text, markup=False, highlight=False)


# ── a judge over a run ───────────────────────────────────────────────────────────────────────────────────────────────
def judge_config(folder: Path, kinds: Sequence[str] | None, **settings: Any) -> JudgeConfig:
    """The judge of a run's recipe, or one of these kinds; ``settings`` that are None or False change nothing.

    Raises:
        UserError: an unknown kind.
    """
    return override(_open(folder).recipe.get("judge") or {}, kinds, settings)


def _open(folder: Path) -> OpenRun:
    from steersman.runs import open_run

    return open_run(folder)


def override(section: Mapping[str, Any], kinds: Sequence[str] | None, settings: Mapping[str, Any]) -> JudgeConfig:
    """The judge of a recipe's section with these kinds and settings, see `judge_config`."""
    from pydantic import ValidationError

    from steersman.constitution.judges import JudgeConfig

    values = {**section, **{key: value for key, value in settings.items() if value}}
    if kinds:
        values["kinds"] = list(kinds)
        if "remote" not in kinds:
            values["remote"] = None
    try:
        return JudgeConfig.model_validate(values)
    except ValidationError as error:
        raise UserError(
            error.errors()[0]["msg"],
            where="--kind",
            expected="rules, reward, model, or remote if the run's recipe names an endpoint",
        ) from error


def comparisons_of(run: OpenRun, file: Path | None) -> list[Comparison]:
    """Comparisons of a file in any supported format, or the run's held-out ones.

    Raises:
        DataError: no row can be used.
    """
    from steersman.data.formats import sort_out
    from steersman.types import Comparison

    path = file or run.path / "data" / "held_out_comparisons.jsonl"
    if not path.exists():
        raise DataError("there is no such file", where=str(path), do="give one with --comparisons")
    rows, faults, _ = sort_out(path, Comparison)
    if not rows:
        raise DataError(f"none of {len(faults)} rows can be used", where=str(path), do=str(faults[0]) if faults else "")
    return rows


def measured_card(folder: Path, config: JudgeConfig, file: Path | None) -> dict[str, Any]:
    """The card of a judge on human comparisons, see `judge_card.card`."""
    from steersman.constitution import judge_card

    run = _open(folder)
    pairs = judge_card.questions_of(comparisons_of(run, file), run.constitution, config.questions, config.seed)
    return judge_card.card(run.judge(config), pairs)


def stored_card(folder: Path) -> dict[str, Any]:
    """The card of its judge that a run holds.

    Raises:
        UserError: it has none.
    """
    from steersman.constitution.judge_card import CARD

    path = folder / "judge_card" / CARD
    if not path.exists():  # a refused judge's card stays in the unfinished stage
        path = folder / "judge_card.partial" / CARD
    if not path.exists():
        raise UserError("this run has measured no judge", where=str(folder), do="add --measure, with --kind")
    card: dict[str, Any] = read_json(path)
    return card


def principle_scores(folder: Path, prompt: str, answer: str) -> list[tuple[str, float]]:
    """The reward model's score of an answer under each principle, in nats, lowest first.

    The first principle is the one that the answer most likely breaks; benchmarks/judges.py measures how often it is.

    Raises:
        UserError: the run has no reward model that reads principles.
    """
    from steersman.constitution.judges import JudgeConfig, ScoringJudge, likely_violations

    run = _open(folder)
    judge = run.judge(JudgeConfig(kinds=("reward",)))
    assert isinstance(judge, ScoringJudge)
    return [(p.id, score) for p, score in likely_violations(judge.scorer, prompt, answer, run.constitution.principles)]


def pairs_of(run: OpenRun, limit: int) -> list[AnswerPair]:
    """Answer pairs that a run holds, the policy's own first, spread evenly over each file."""
    from steersman.constitution.tensions import AnswerPair
    from steersman.data.formats import sort_out
    from steersman.data.sources import spread
    from steersman.types import Comparison

    pairs: dict[AnswerPair, None] = {}
    for name in PAIRS:
        if (run.path / name).exists() and len(pairs) < limit:
            rows = [row for row in sort_out(run.path / name, Comparison).rows if len(row.options) > 1]
            pairs |= dict.fromkeys(AnswerPair(row.prompt, *row.options[:2]) for row in spread(rows, limit - len(pairs)))
    if not pairs:
        raise DataError("this run holds no pairs of answers", where=str(run.path), do="align with comparisons")
    return list(pairs)


def tensions_of(folder: Path, config: JudgeConfig, limit: int) -> dict[str, Any]:
    """How the principles of a run's constitution interact, see `constitution.tensions.tensions`."""
    from steersman.constitution.tensions import tensions

    run = _open(folder)
    return tensions(run.judge(config), pairs_of(run, limit), run.constitution)


def difference_of(old: str, new: str, folder: Path, config: JudgeConfig, limit: int) -> dict[str, Any]:
    """What a change of the constitution changes on a run's pairs, see `constitution.tensions.changed`."""
    from steersman.constitution import document
    from steersman.constitution.tensions import changed

    run = _open(folder)
    return changed(run.judge(config), pairs_of(run, limit), document.load(old), document.load(new))


# ── terminal output ──────────────────────────────────────────────────────────────────────────────────────────────────
def _table(*heads: str) -> Table:
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column, name in enumerate(heads):
        grid.add_column(name, justify="left" if column == 0 else "right", overflow="fold")
    return grid


def card_table(card: Mapping[str, Any]) -> RenderableType:
    """A judge's card for a terminal."""
    from rich.console import Group
    from rich.text import Text

    from steersman.lm.endpoint.replies import reasons_text
    from steersman.report.format import difference, rate

    why = reasons_text(card["unanswered_by_reason"])
    grid = _table("held-out pairs", "accuracy", "n")
    grid.add_row("all", rate(card["accuracy"]), str(card["accuracy"]["n"]))
    for kind in ("principle", "source"):
        for key, accuracy in card["by"][kind].items():
            grid.add_row(f"  {kind}: {key}", rate(accuracy), str(accuracy["n"]))
    error = card["calibration"]["expected_error"]
    notes = [
        f"Position bias: {difference(card['place_bias'])} points for the answer shown first.",
        "Expected calibration error: " + ("no decided pairs." if error is None else f"{100 * error:.0f} points."),
        f"Undecided: {card['undecided']}; no answer: {card['unanswered']}{f' ({why})' if why else ''}.",
    ]
    return Group(grid, Text(), Text("\n".join(notes)))


def scores_table(scores: Sequence[tuple[str, float]]) -> RenderableType:
    """An answer's scores by principle."""
    grid = _table("principle, most likely broken first", "score, nats")
    for id, score in scores:
        grid.add_row(id, f"{score:+.2f}")
    return grid


def tensions_table(result: Mapping[str, Any]) -> RenderableType:
    """Which principles decide, which disagree, which look redundant."""
    from rich.console import Group
    from rich.text import Text

    from steersman.report.format import rate

    decided = _table("principle", f"decides, of {result['pairs']} pairs")
    for id, share in result["decided"].items():
        decided.add_row(id, rate(share) + ("  (never)" if id in result["idle"] else ""))
    against = _table("disagree most", "pairs", "agreement", "priority")
    for row in result["between"][:12]:
        if row["pairs_in_opposite_order"]:
            names = " / ".join(row["principles"])
            against.add_row(
                names, str(len(row["pairs_in_opposite_order"])), rate(row["agree"]), row["settled"] or "unsettled"
            )
    redundant = [" / ".join(row["principles"]) for row in result["between"] if row["redundant"]]
    note = "Redundant to this judge: " + (", ".join(redundant) or "none") + "."
    return Group(decided, Text(), against, Text(), Text(note))


def difference_json(result: Mapping[str, Any]) -> dict[str, Any]:
    """The result of `difference_of` as JSON values."""
    flips = [
        {**pair._asdict(), "principle": principle, "before": before, "after": after}
        for pair, principle, before, after in result["flips"]
    ]
    return {**result, "flips": flips}


def difference_text(result: Mapping[str, Any]) -> str:
    """The principles that differ, and the pairs whose order flips."""
    from steersman.types import plain_text

    lines = [f"{name}: {', '.join(ids) or 'none'}" for name, ids in result["differences"].items()]
    flips: Sequence[Flip] = result["flips"]
    lines.append(f"{len(flips)} order(s) flip over {result['pairs']} pairs, under one principle or under all together.")
    for flip in flips:
        better, worse = (flip.pair.second, flip.pair.first) if flip.after < 0 else (flip.pair.first, flip.pair.second)
        lines += [
            "",
            f"{flip.principle or 'all together'}: {plain_text(flip.pair.prompt)}",
            f"  now better:  {better}",
            f"  was better:  {worse}",
        ]
    return "\n".join(lines)
