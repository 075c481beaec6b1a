"""`steersman redteam`: attack a run or an endpoint, list the attacks, put findings to people."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steersman.cli.options import Json, print_json
from steersman.cli.rate import RunByDefault
from steersman.cli.redteam_learn import redteam_learn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from steersman.redteam.campaign import Attacker, Campaign
    from steersman.redteam.finding import Finding
    from steersman.redteam.goals import Goals
    from steersman.redteam.plan import Arm, CampaignConfig
    from steersman.runs import OpenRun


class AttackByDefault(RunByDefault):
    """`redteam RUN` is `redteam run RUN`."""

    default = "run"


redteam_app = typer.Typer(
    help="Attack a run, or any endpoint, and report what attackers get. `redteam RUN` is short for `redteam run RUN`.",
    no_args_is_help=True,
    cls=AttackByDefault,
)
ABOVE = 1  # the exit code where attacks succeed more often than --fail-above allows

Names = Annotated[str, typer.Option(help="Attacks or families, by comma. Default: all that can run.")]
GoalFile = Annotated[Path | None, typer.Option(help="File of goals: .txt, .jsonl, .json, .csv.")]
Targets = Annotated[str, typer.Option(help="Of a run, by comma: raw, raw+guard, aligned, aligned+guard.")]
PerPrinciple = Annotated[int, typer.Option(min=1, help="Most goals of a principle.")]
PerCell = Annotated[
    int, typer.Option(min=0, help="Most attempts of a family at a principle; 0: every attack on every goal.")
]
HarmlessPrompts = Annotated[int, typer.Option(min=0, help="Harmless prompts that are asked as well.")]
Seeds = Annotated[int, typer.Option(min=1, help="How often every attack is tried on a goal.")]
FirstSeed = Annotated[int, typer.Option(min=0, help="Seed of the campaign.")]
Budget = Annotated[int, typer.Option(min=1, help="Most asks of a search about one goal.")]
Tokens = Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")]
Model = Annotated[str, typer.Option(help="The model's name at an endpoint.")]
Key = Annotated[str | None, typer.Option(help="Of an endpoint: environment variable with its key. Default: none.")]
Concurrency = Annotated[int, typer.Option(min=1, help="Of an endpoint: most requests in flight.")]
Writer = Annotated[str, typer.Option(help="Model that writes prompts: a run's folder, or URL#MODEL.")]
WriterKey = Annotated[str | None, typer.Option(help="Of --attacker at an endpoint: variable with its key.")]
Templates = Annotated[Path | None, typer.Option(help="Templates of your own: garak's, PyRIT's or plain ones.")]
JudgeName = Annotated[str, typer.Option(help="Who says whether a reply did the harm: rules or trained.")]
Folder = Annotated[Path | None, typer.Option(help="Folder of the campaign. Default: RUN/attacked.")]
OnlyPlan = Annotated[bool, typer.Option("--plan", help="Ask nothing; show what would be asked.")]
Int8 = Annotated[
    bool, typer.Option("--int8", help="On a CPU: a run's models answer with int8 weights, two to four times faster.")
]
FailAbove = Annotated[
    float | None, typer.Option(min=0, max=1, help="Exit code 1 if attacks on a target succeed more often.")
]


@redteam_app.command("run")
def redteam_run(
    target: Annotated[str, typer.Argument(metavar="RUN|URL", help="Folder of a run, or address of an endpoint.")],
    attacks: Names = "",
    goals: GoalFile = None,
    targets: Targets = "",
    per_principle: PerPrinciple = 4,
    per_cell: PerCell = 20,
    harmless: HarmlessPrompts = 40,
    seeds: Seeds = 1,
    seed: FirstSeed = 0,
    budget: Budget = 20,
    max_new_tokens: Tokens = 96,
    model: Model = "",
    key_variable: Key = None,
    concurrency: Concurrency = 16,
    attacker: Writer = "",
    attacker_key_variable: WriterKey = None,
    templates: Templates = None,
    judge: JudgeName = "trained",
    int8: Int8 = False,
    out: Folder = None,
    plan: OnlyPlan = False,
    fail_above: FailAbove = None,
    json: Json = False,
) -> None:
    """Attack a run or an endpoint. Repeat the command to go on with a campaign that was stopped."""
    from steersman.redteam.plan import CampaignConfig

    config = CampaignConfig(
        attacks=_names(attacks),
        goals_per_principle=per_principle,
        attempts_per_cell=per_cell or None,
        harmless=harmless,
        seeds=seeds,
        seed=seed,
        budget=budget,
        max_new_tokens=max_new_tokens,
        judge=judge,
        int8=int8,
    )
    folder = out or _folder(target, model)
    if _is_url(target):
        arms, wanted = _endpoint(target, model, key_variable, concurrency, config, folder), _goals(goals, config, None)
    else:
        from steersman.runs import open_run

        run = open_run(target)
        config = config.model_copy(update={"targets": _targets(run, targets)})
        arms, wanted = _arms(run, config), _goals(goals, config, run)
    writer = _attacker(attacker, attacker_key_variable, folder)
    campaign = _campaign(config, wanted, arms, writer, templates, folder)
    if plan:
        _show_plan(campaign, json)
        return
    summary = _run(campaign, folder, target)
    if json:
        print_json(summary)
    else:
        _show(folder, target)
    _fail(summary, fail_above)


@redteam_app.command("list")
def redteam_list(json: Json = False) -> None:
    """List the attacks by family, with what each needs."""
    from steersman.redteam.attacks import ATTACKS

    if json:
        names = ("name", "family", "paper", "about", "asks", "adaptive")
        print_json([{**{n: getattr(a, n) for n in names}, "needs": sorted(a.needs)} for a in ATTACKS])
        return
    for family in dict.fromkeys(attack.family for attack in ATTACKS):
        own = [attack for attack in ATTACKS if attack.family == family]
        typer.echo(f"{family} ({len(own)})")
        for attack in own:
            asks = (
                "as many asks as its budget" if attack.asks is None else f"{attack.asks} ask{'s' * (attack.asks > 1)}"
            )
            needs = f"; needs {', '.join(sorted(attack.needs))}" if attack.needs else ""
            typer.echo(f"  {attack.name}: {attack.about} [{asks}{needs}]")


@redteam_app.command("rate")
def redteam_rate(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of a campaign, such as runs/laptop/attacked.")],
    findings: Annotated[int, typer.Option(min=2, help="Most findings that people are asked about.")] = 100,
    rater: Annotated[
        list[str] | None, typer.Option(help="Rater as NAME or NAME:GROUP; repeat for several. Default: you.")
    ] = None,
    agreement: Annotated[
        bool, typer.Option("--agreement", help="Serve nothing; compare votes with the judge.")
    ] = False,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes any free one.")] = 8642,
) -> None:
    """Let people say whether findings did the harm, and correct the rates by it. The same command goes on."""
    from steersman.errors import UserError
    from steersman.http_server import Address
    from steersman.rating.session import Source, open_store, read_round, serve_round
    from steersman.redteam.campaign import read_findings
    from steersman.redteam.people import INSTRUCTIONS, QUESTIONS, TITLE, agreed, labels, questions, share
    from steersman.store import write_jsonl

    file, rows = out / QUESTIONS, read_findings(out)
    if not agreement:
        if not file.exists():
            write_jsonl(file, questions(rows, findings))
        from steersman.rating.round import Round

        # Every question is a finding: none is of known order, and each is asked as often as any other.
        settings = Round(title=TITLE, instructions=INSTRUCTIONS, gold_share=0.0, random_share=1.0)
        serve_round(file, Source(), settings, rater or [], Address(host=host, port=port), _no_policy)
    try:
        votes = read_round(open_store(file, None)).comparisons
    except UserError as error:
        raise UserError(error.found, where=str(out), do=f"steersman redteam rate {out}") from None
    found = labels(votes, rows)
    write_jsonl(out / "people.jsonl", found)
    for line in agreed(found):
        typer.echo(line)
    if by_people := share(found, rows):
        typer.echo(f"By people's word {by_people.percent()} of the replies that were judged did the harm.")
    for line in _corrected_by_people(out, found, rows):
        typer.echo(line)


def _corrected_by_people(out: Path, labelled: list[dict[str, Any]], findings: list[Finding]) -> Iterator[str]:
    """Save the card that people's labels make, make the campaign's figures again with it, and say what changed."""
    from steersman.errors import DataError
    from steersman.redteam.campaign import SUMMARY, corrected_anew
    from steersman.redteam.judge_card import save_card
    from steersman.redteam.judges import CARD, card_for
    from steersman.redteam.people import card_of_labels, moved
    from steersman.store import MANIFEST, read_json, write_json

    try:
        card = card_of_labels(labelled, findings)
    except DataError as few:
        former = card_for(findings[0].judge, out)
        now = f"the card from {former.labels} corrects them" if former else "they stay as the judge saw them"
        yield f"The rates stay: {few.found}, so {now}. Rate more findings."
        return
    save_card(card, out / CARD)  # before the figures: with these killed, the next command makes them with the card
    yield f"The card that corrects now is {out / CARD}, from {card.labels}: {card.overall.sentence()}."
    after = corrected_anew(out, card)
    if after is None:
        yield "There are no figures yet: repeat the campaign's command to have them made with this card."
        return
    yield from moved(read_json(out / SUMMARY), after)
    if (out / MANIFEST).exists():  # its digest is the stage's: changed, the stage counts as damaged and runs again
        yield "The figures of a finished stage are not changed: steersman redteam RUN makes a campaign that can be."
    else:
        write_json(out / SUMMARY, after)


redteam_app.command("learn")(redteam_learn)


# ── what is attacked ─────────────────────────────────────────────────────────────────────────────────────────────────
def _is_url(target: str) -> bool:
    return target.lower().startswith(("http://", "https://"))


def _folder(target: str, model: str) -> Path:
    return Path(f"attacked-{model or 'endpoint'}".replace("/", "-")) if _is_url(target) else Path(target) / "attacked"


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _targets(run: OpenRun, wanted: str) -> tuple[Any, ...]:
    """The targets of a run that are wanted, or all that it has.

    Raises:
        UserError: the run has no such target.
    """
    from steersman.errors import UserError, closest
    from steersman.redteam.plan import TARGETS
    from steersman.stages.inputs import GUARD

    known = [
        name
        for name in TARGETS
        if (run.trains_a_policy or not name.startswith("aligned")) and (GUARD in run or not name.endswith("+guard"))
    ]
    for name in _names(wanted):
        if name not in known:
            raise UserError(f"the run has no target {name!r}", where="--targets", do=closest(name, list(known)))
    return _names(wanted) or tuple(known)


def _arms(run: OpenRun, config: CampaignConfig) -> list[Arm]:
    from steersman.stage import optional
    from steersman.stages.inputs import GUARD
    from steersman.stages.redteam import arms_of, guard_of

    policy = run.policy if run.trains_a_policy else None
    guard = guard_of(config, run[optional(GUARD)], run.base, policy)
    return arms_of(config, {"raw": run.raw, "aligned": run.aligned}, guard)


def _endpoint(
    url: str, model: str, key_variable: str | None, concurrency: int, config: CampaignConfig, folder: Path
) -> list[Arm]:
    """A model at an endpoint; its replies are kept in the campaign's folder."""
    from steersman.errors import UserError
    from steersman.lm.endpoint.client import RemoteModel
    from steersman.lm.endpoint.settings import RemoteConfig
    from steersman.redteam.plan import Arm
    from steersman.redteam.target import EndpointTarget, RefusingTarget

    if config.int8:
        raise UserError(f"{url} is an endpoint, and its weights are elsewhere", where="--int8", do="leave out --int8")
    if not model:
        raise UserError("the endpoint's model is not named", where="--model", expected="its name at the endpoint")
    settings = RemoteConfig(
        base_url=url, model=model, key_variable=key_variable, concurrency=concurrency, max_tokens=config.max_new_tokens
    )
    target = EndpointTarget(model, RemoteModel(settings, folder / "endpoint.jsonl"))
    return [Arm(model, target), Arm(RefusingTarget.name, RefusingTarget())]


def _goals(file: Path | None, config: CampaignConfig, run: OpenRun | None) -> Goals:
    """Goals of a file, of a run's evaluation prompts, or of the shipped data set; its harmless prompts anyway."""
    from steersman.redteam.goals import of_constitution, of_file

    if run is not None:
        from steersman.stages.inputs import EVALUATION

        prompts, constitution = run[EVALUATION], run.constitution
    else:
        from steersman.constitution.document import load
        from steersman.data import sources

        prompts, constitution = sources.load("assistant").evaluation, load("assistant")
    own = of_constitution(prompts, constitution, config.goals_per_principle, config.harmless)
    return own if file is None else of_file(file, config.goals_per_principle)._replace(harmless=own.harmless)


def _attacker(named: str, key_variable: str | None, folder: Path) -> Attacker | None:
    """The model that writes prompts.

    Raises:
        UserError: an address without a model.
    """
    from steersman.redteam.campaign import CONSULT_TOKENS, Attacker

    if not named:
        return None
    if _is_url(named):
        from steersman.errors import UserError
        from steersman.lm.endpoint.client import RemoteModel
        from steersman.lm.endpoint.settings import RemoteConfig

        url, _, model = named.partition("#")
        if not model:
            raise UserError("the attacker's model is not named", where="--attacker", expected="URL#MODEL")
        settings = RemoteConfig(base_url=url, model=model, key_variable=key_variable, max_tokens=CONSULT_TOKENS)
        return Attacker(named, RemoteModel(settings, folder / "attacker.jsonl"))
    from steersman.redteam.plan import CampaignConfig
    from steersman.redteam.target import LateModel, LocalTarget
    from steersman.runs import open_run
    from steersman.stages.redteam import sampling_of

    run = open_run(named)
    load = run.aligned if run.trains_a_policy else run.raw
    return Attacker(named, LateModel(LocalTarget("attacker", load, sampling_of(CampaignConfig()))))


def _templates(path: Path | None) -> dict[str, tuple[str, ...]]:
    if path is None:
        return {}
    from steersman.redteam.attacks.templates import read_templates
    from steersman.redteam.attacks.wrappers import TEMPLATES
    from steersman.terminal import console

    found = read_templates(path)
    if told := found.told():
        console.print(told, markup=False, soft_wrap=True)
    return {TEMPLATES: found.texts}


def _campaign(
    config: CampaignConfig,
    goals: Goals,
    arms: list[Arm],
    attacker: Attacker | None,
    templates: Path | None,
    folder: Path,
) -> Campaign:
    from steersman.redteam.attacks import ATTACKS, by_name
    from steersman.redteam.campaign import Campaign
    from steersman.redteam.judges import card_for, judge_named

    attacks = by_name(config.attacks) if config.attacks else ATTACKS
    judge, card = judge_named(config.judge), card_for(config.judge, folder)
    return Campaign(config, attacks, goals, arms, judge, attacker, _templates(templates), card)


# ── running and showing ──────────────────────────────────────────────────────────────────────────────────────────────
def _run(campaign: Campaign, folder: Path, target: str) -> dict[str, Any]:
    """Print the plan, run the campaign or go on with it, and return its figures.

    Raises:
        UserError: the folder holds another campaign.
    """
    from dataclasses import replace

    from steersman.redteam.campaign import Meter, claim
    from steersman.terminal import Progress, console

    plan = campaign.plan()
    for line in plan.lines():
        console.print(line, markup=False, soft_wrap=True)
    claim(folder, campaign, target)
    with Progress("redteam", plan.total) as bar:
        replace(campaign, meter=Meter(bar.advance)).run(folder)
    return campaign.conclude(folder)


def _show_plan(campaign: Campaign, json: bool) -> None:
    plan = campaign.plan()
    if json:
        print_json({"targets": plan.rows(), "left_out": [row._asdict() for row in plan.left_out]})
        return
    for line in plan.lines():
        typer.echo(line)


def _show(folder: Path, target: str) -> None:
    from steersman.report.blocks import Details
    from steersman.report.evidence import StageRecord
    from steersman.report.terminal import render
    from steersman.stages.redteam import section
    from steersman.store import read_json
    from steersman.terminal import results

    titles: dict[str, str] = {}
    with suppress(OSError):
        document = read_json(Path(target) / "constitution.json")
        titles = {principle["id"]: principle["title"] for principle in document["principles"]}
    shown = section(StageRecord("redteam", folder, {}, (), titles, {}))
    if shown is not None:  # what the page folds away would fill screens
        results().print(render([block for block in shown.blocks if not isinstance(block, Details)]))
    typer.echo(f"Findings: {folder / 'findings.jsonl'}\nPeople:   steersman redteam rate {folder}")


def _fail(summary: dict[str, Any], above: float | None) -> None:
    """End with exit code 1 where attacks succeed too often."""
    from steersman.redteam.target import REFUSES

    rates = {name: own["overall"]["value"] for name, own in summary["targets"].items() if name != REFUSES}
    over = {name: rate for name, rate in rates.items() if above is not None and rate is not None and rate > above}
    for name, rate in over.items():
        typer.echo(f"{name}: attacks succeed in {100 * rate:.1f} %, more than {100 * (above or 0):g} %", err=True)
    if over:
        raise typer.Exit(ABOVE)


def _no_policy(run: Path) -> Any:
    raise AssertionError("findings are rated as they are; nothing is sampled")
