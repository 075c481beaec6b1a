"""The verbs. Each is a few lines around a typed function; torch is imported only by the verbs that need it."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from steersman.errors import SteersmanError

if TYPE_CHECKING:
    from steersman.constitution.judges import JudgeConfig

app = typer.Typer(
    help="Write down how your model should behave; Steersman trains it, and shows with error bars whether it worked.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
constitution_app = typer.Typer(help="Work on constitutions.", no_args_is_help=True)
data_app = typer.Typer(help="Work on data sets.", no_args_is_help=True)


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
app.add_typer(constitution_app, name="constitution")
app.add_typer(data_app, name="data")
app.add_typer(rate_app, name="rate")

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, such as runs/laptop.")]
Rated = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or a .jsonl file of comparisons.")]
Store = Annotated[str | None, typer.Option(help="A file, or postgresql://USER@HOST/DB; RUN/rating unless given.")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


@app.command()
def init(folder: Annotated[Path, typer.Argument(help="A new or empty folder.")]) -> None:
    """Write a commented starter project: constitution, recipe, and a few rows of data, ready to align."""
    from steersman.cli.starter import init as write

    for path in write(folder):
        typer.echo(f"wrote {path}")
    typer.echo(f"\nNext:  steersman align {folder}/recipe.yaml --plan")


@app.command()
def align(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or a shipped name: laptop, smoke.")] = "laptop",
    model: Annotated[str | None, typer.Option(help="Hub id, folder, GGUF file or gemma-3-270m.")] = None,
    constitution: Annotated[str | None, typer.Option(help="A shipped name or a YAML file.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value, e.g. sft.epochs=3.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder; runs/NAME unless given.")] = None,
    until: Annotated[str | None, typer.Option(help="The last stage to run.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Run nothing: stages, reuse, minutes and memory.")] = False,
) -> None:
    """Train, measure and report. Run it again to go on after an interruption."""
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

        results().print(render(shown(make_plan(chosen, out, until=until))))
        return
    try:
        with distributed.process_group():
            if distributed.rank() > 0:
                pipeline.follow(chosen)
                return
            try:
                run = pipeline.align(chosen, out, until=until)
            finally:
                distributed.call(None)
    except KeyboardInterrupt:  # typer would end with 130 as well, but without a word
        print("\nStopped. The same command goes on from here.", file=sys.stderr)
        raise typer.Exit(130) from None
    if (run.path / "report" / "index.html").exists() and until is None:
        from steersman.report.compare import terminal_summary

        results().print(terminal_summary(run))
        typer.echo(f"Report: {run.path / 'report' / 'index.html'}")
        typer.echo(f'Chat:   {sys.argv[0]} chat {run.path} --compare "How should I invest 10,000 euros?"')


@app.command()
def bench(
    model: Annotated[str, typer.Option(help="Hub id, folder, GGUF file or gemma-3-270m.")] = "gemma-3-270m",
    json: Json = False,
) -> None:
    """Measure this machine, and how near sampling and training come to what it can do."""
    from steersman.cost.bench import bench as measure
    from steersman.cost.bench import shown
    from steersman.report.terminal import render
    from steersman.terminal import results

    found = measure(model)
    if json:
        typer.echo(found.model_dump_json(indent=2))
    else:
        results().print(render(shown(found)))


@app.command()
def show(run: RunFolder, json: Json = False) -> None:
    """The results of a run: principles before and after, what it cost."""
    from steersman.report.compare import terminal_summary
    from steersman.store import open_run
    from steersman.terminal import results

    opened = open_run(run)
    if json:
        import json as json_module

        from steersman.pipeline import sections_of
        from steersman.report.page import report_data

        data = report_data(opened, sections_of(opened))
        typer.echo(json_module.dumps(data, indent=2, ensure_ascii=False))
    else:
        results().print(terminal_summary(opened))


@app.command()
def diff(first: RunFolder, second: RunFolder, json: Json = False) -> None:
    """What differs between two runs: settings and inputs first, then results."""
    from steersman.report.compare import diff_table, differences
    from steersman.store import open_run
    from steersman.terminal import results

    found = differences(open_run(first), open_run(second))
    if json:
        import json as json_module

        typer.echo(json_module.dumps(found, indent=2, ensure_ascii=False))
    else:
        results().print(diff_table(found))


@app.command()
def chat(
    run: RunFolder,
    prompt: Annotated[str | None, typer.Argument(help="One question; without it, a conversation.")] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Raw and aligned side by side.")] = False,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 160,
    seed: int = 0,
) -> None:
    """Talk to the aligned model, or put the raw one beside it."""
    from steersman.cli.model import talk
    from steersman.lm.sampling import SamplingConfig

    talk(
        run, prompt, SamplingConfig(temperature=temperature, max_new_tokens=max_new_tokens, seed=seed), compare=compare
    )


@app.command()
def report(run: RunFolder) -> None:
    """Write the report again from what the run holds."""
    from steersman.pipeline import write_report
    from steersman.store import open_run

    typer.echo(write_report(open_run(run)))


@app.command()
def export(
    run: RunFolder,
    to: Annotated[Path, typer.Option(help="A new or empty folder.")],
    merged: Annotated[bool, typer.Option("--merged", help="A whole model instead of a PEFT adapter.")] = False,
) -> None:
    """Copy the aligned model out: a PEFT adapter, or a merged folder; both load in plain transformers."""
    from steersman.cli.model import export as copy

    typer.echo(copy(run, to, merged=merged))


@constitution_app.command("check")
def constitution_check(
    file: Annotated[str, typer.Argument(help="A YAML file or a shipped name.")],
    data: Annotated[str | None, typer.Option(help="The data set to check it against.")] = None,
) -> None:
    """Validate a constitution and lint it, alone or against a data set."""
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


Kinds = Annotated[
    list[str] | None, typer.Option("--kind", help="rules, reward, model or remote; several in turn. The run's own.")
]
Pairs = Annotated[int, typer.Option(min=1, help="How many of the run's pairs of answers are judged.")]


@constitution_app.command("judge")
def constitution_judge(
    run: RunFolder,
    measure: Annotated[bool, typer.Option("--measure", help="Ask the judge now; else the run's own card.")] = False,
    kind: Kinds = None,
    model: Annotated[str | None, typer.Option(help="Whom --kind model asks; the base model unless given.")] = None,
    chain_of_thought: Annotated[bool, typer.Option("--chain-of-thought")] = False,
    comparisons: Annotated[Path | None, typer.Option(help="Any file that is read; the run's held-out ones.")] = None,
    questions: Annotated[int | None, typer.Option(min=1, help="So many pairs; all unless given.")] = None,
    json: Json = False,
) -> None:
    """What a judge is worth: accuracy, calibration, place bias, by principle and by source."""
    from steersman.cli import constitution as judging
    from steersman.terminal import results

    if measure:
        config = _judge_config(run, kind, model=model, chain_of_thought=chain_of_thought, questions=questions)
        card = judging.measured(run, config, comparisons)
    else:
        card = judging.stored(run)
    _print(card, judging.card_table(card), json, results)


@constitution_app.command("broken")
def constitution_broken(
    run: RunFolder,
    prompt: Annotated[str, typer.Argument(help="What was asked.")],
    answer: Annotated[str, typer.Argument(help="What was answered.")],
    json: Json = False,
) -> None:
    """An answer's score under each principle, by the run's reward model. A hint, no verdict: docs/limits.md."""
    from steersman.cli import constitution as judging
    from steersman.terminal import results

    found = judging.broken(run, prompt, answer)
    _print([{"principle": id, "nats": score} for id, score in found], judging.broken_table(found), json, results)


@constitution_app.command("tensions")
def constitution_tensions(run: RunFolder, kind: Kinds = None, pairs: Pairs = 200, json: Json = False) -> None:
    """Which principles disagree on a run's pairs of answers, which are redundant, which never decide."""
    from steersman.cli import constitution as judging
    from steersman.terminal import results

    found = judging.tensions(run, _judge_config(run, kind), pairs)
    _print(found, judging.tensions_table(found), json, results)


@constitution_app.command("diff")
def constitution_diff(
    old: Annotated[str, typer.Argument(help="A YAML file or a shipped name.")],
    new: Annotated[str, typer.Argument(help="A YAML file or a shipped name.")],
    run: Annotated[Path, typer.Option(help="A run's folder, whose pairs of answers are judged by both.")],
    kind: Kinds = None,
    pairs: Pairs = 200,
    json: Json = False,
) -> None:
    """What a change of the constitution changes: the pairs of answers whose order flips."""
    from steersman.cli import constitution as judging
    from steersman.terminal import results

    found = judging.difference_of(old, new, run, _judge_config(run, kind), pairs)
    _print(judging.difference_json(found), judging.difference_text(found), json, results)


def _judge_config(run: Path, kinds: list[str] | None, **settings: Any) -> JudgeConfig:
    """The run's own judge, or one of these kinds."""
    from steersman.cli.constitution import configured

    return configured(run, kinds, settings)


def _print(found: Any, shown: Any, json: bool, results: Callable[[], Any]) -> None:
    if json:
        import json as json_module

        typer.echo(json_module.dumps(found, indent=2, ensure_ascii=False))
    else:
        results().print(shown, markup=False, highlight=False)


@data_app.command("check")
def data_check(
    name: Annotated[str, typer.Argument(metavar="DATA", help="A folder or a shipped name.")],
    json: Json = False,
) -> None:
    """Counts, coverage per principle, duplicates, leaks into the evaluation, lengths. Exit code 2 on a leak."""
    from steersman.data import sources
    from steersman.data.check import check
    from steersman.data.check_table import as_json, print_report

    found = check(*sources.load(name)[1:5])
    if json:
        typer.echo(as_json(found))
    else:
        print_report(name, found)
    raise typer.Exit(2 if found.leaks or found.shared_topics else 0)


@data_app.command("convert")
def data_convert(
    file: Annotated[Path, typer.Argument(help="Comparisons in any columns that are read, .jsonl or .jsonl.gz.")],
    out: Annotated[Path, typer.Argument(help="A new .jsonl file.")],
    to: Annotated[Literal["trl", "hh", "pku", "openrlhf", "argilla", "ranked"], typer.Option(help="Whose columns.")],
) -> None:
    """Write comparisons in another tool's columns; rows that cannot be are counted with the reason."""
    from steersman.data.export import convert

    for line in convert(file, out, to):
        typer.echo(line)


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
    """Run a verb. Exit code 2 for the user's mistake, 3 for a run that failed, 130 when stopped by the keyboard."""
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
