"""`redteam`: what attackers get from the raw and the aligned model, each alone and behind the guard."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from steersman.cost.work import Counts, PeakSizes, Work, Workload, assumed_lengths, schedule, total
from steersman.errors import DataError
from steersman.evals.conditions import ALIGNED, RAW
from steersman.evals.detectors import behaviours
from steersman.guard.guard import Guard
from steersman.guard.refusals import refusal_of
from steersman.guard.spans import redacted
from steersman.guard.verdict import Exchange
from steersman.lm.device import Hardware
from steersman.lm.language_model import LocalModel
from steersman.lm.sampling import SamplingConfig
from steersman.recipe import Recipe
from steersman.redteam import attack as interface
from steersman.redteam import campaign as campaigns
from steersman.redteam import figures, judge_rules, judge_trained
from steersman.redteam.attacks import ATTACKS, by_name
from steersman.redteam.campaign import LOG, SUMMARY, Attacker, Campaign, Meter
from steersman.redteam.goals import SYSTEM_PROMPT, Goals, of_constitution
from steersman.redteam.journal import BATCH
from steersman.redteam.judges import judge_named, shipped_card
from steersman.redteam.plan import Arm, CampaignConfig, make
from steersman.redteam.rehearsal import rehearsed
from steersman.redteam.target import READ_AT_ONCE, REFUSES, Checked, LateModel, LocalTarget, RefusingTarget
from steersman.report.blocks import (
    Answer,
    Block,
    Bullets,
    Cell,
    Curve,
    Details,
    Label,
    LineChart,
    Rate,
    Section,
    Table,
    paragraph,
)
from steersman.report.blocks import Exchange as Shown
from steersman.report.evidence import StageRecord
from steersman.report.format import phrase
from steersman.stage import Inputs, Sources, Stage, optional
from steersman.stages.inputs import BASE, CONSTITUTION, EVALUATION, GUARD, POLICY
from steersman.store import StageFolder
from steersman.terminal import Progress
from steersman.types import Text

VERSION = 1
GUARDED = "+guard"
MAYBE_GUARD = optional(GUARD)


class ConstitutionalGuard:
    """The guard of a run, as a target of attacks asks it: on whole texts, as the gateway does.

    Args:
        load: reads it, with the model whose activations it reads, when something is first judged.
    """

    def __init__(self, load: Callable[[], Guard]) -> None:
        self.load = load

    @functools.cached_property
    def guard(self) -> Guard:
        """The guard, read now if it is not yet."""
        return self.load()

    def check(self, prompt: Text, answer: str | None = None) -> Checked:
        """See `redteam.target.Guard`: a refusal for what is stopped; of a redacted answer, what is left of it."""
        exchange = Exchange.of(prompt, answer)
        ruling = self.guard.check(exchange)
        if not ruling.stops or (answer is None and ruling.decision == "redact"):
            return Checked(False, answer or "")  # a request without its secrets asks for the same
        left = redacted(answer or "", ruling) if ruling.decision == "redact" else None
        if left is not None:
            return Checked(False, left)
        return Checked(True, refusal_of(ruling, exchange, self.guard.constitution))


# ── running ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def run(config: CampaignConfig, given: Inputs, out: StageFolder) -> None:
    """Attacks on the raw and the aligned model, alone and behind the guard: every ask as a finding, and the figures."""
    if out.file(SUMMARY).exists() and not out.file(LOG).exists():
        return  # finished before a kill
    chosen = by_name(config.attacks) if config.attacks else ATTACKS
    goals = of_constitution(given[EVALUATION], given[CONSTITUTION], config.goals_per_principle, config.harmless)
    base, policy = given[BASE], given[POLICY]
    models = {RAW: lambda: LocalModel.load(base), ALIGNED: lambda: LocalModel.load(base, policy)}
    arms = arms_of(config, models, guard_of(config, given[MAYBE_GUARD], base, policy))
    judge, card = judge_named(config.judge), shipped_card(config.judge)
    campaign = Campaign(config, chosen, goals, arms, judge, attacker_of(config, arms), card=card, emit=out.emit)
    plan = campaign.plan()
    out.emit(event="plan", attempts=len(plan.attempts), asks=plan.total)
    with Progress("redteam", plan.total) as bar:
        replace(campaign, meter=Meter(bar.advance)).run(out.path)
    campaign.conclude(out.path)
    out.file(LOG).unlink()  # the findings hold all of it


def guard_of(
    config: CampaignConfig, folder: Path | None, base: Path, policy: Path | None
) -> ConstitutionalGuard | None:
    """The trained guard in a folder, where a target needs one."""
    if folder is None or not any(name.endswith(GUARDED) for name in config.targets):
        return None
    return ConstitutionalGuard(lambda: Guard.load(folder, base=base, policy=policy))


def arms_of(
    config: CampaignConfig, models: Mapping[str, Callable[[], LocalModel]], guard: ConstitutionalGuard | None
) -> list[Arm]:
    """The targets that a configuration names, one model after the other.

    Args:
        models: what reads the weights of the raw and the aligned model.
    """
    arms = []
    for name, load in models.items():
        model = LocalTarget(name, _quick(load) if config.int8 else load, sampling_of(config))
        arms += [Arm(name, model)] if name in config.targets else []
        arms += [Arm(name + GUARDED, model, guard)] if name + GUARDED in config.targets else []
    return arms + ([Arm(REFUSES, RefusingTarget())] if REFUSES in config.targets else [])


def _quick(load: Callable[[], LocalModel]) -> Callable[[], LocalModel]:
    return lambda: load().with_int8()


def sampling_of(config: CampaignConfig) -> SamplingConfig:
    """How answers are sampled; temperature and seed are each ask's own."""
    limits = ("max_new_tokens", "max_prompt_tokens", "batch_size")
    return SamplingConfig(**{name: getattr(config, name) for name in limits})


def attacker_of(config: CampaignConfig, arms: Sequence[Arm]) -> Attacker | None:
    """The run's own model that writes prompts, if one does."""
    if config.attacker is None:
        return None
    own = next((arm.model for arm in arms if arm.model.name == config.attacker), None)
    return Attacker(config.attacker, LateModel(own)) if isinstance(own, LocalTarget) else None


def config_of(recipe: Recipe) -> CampaignConfig | None:
    """With the targets that the recipe has; None without any."""
    if recipe.redteam is None:
        return None
    missing = [*([] if recipe.trains_a_policy else [ALIGNED]), *([] if recipe.guard else [GUARDED])]
    targets = tuple(name for name in recipe.redteam.targets if not any(part in name for part in missing))
    return recipe.redteam.model_copy(update={"targets": targets}) if targets else None


def check(config: CampaignConfig, sources: Sources) -> None:
    """Refuse attacks that do not exist, int8 off the CPU, and data without anything to attack for."""
    by_name(config.attacks)
    judge_named(config.judge)
    if config.int8 and sources.recipe.hardware != Hardware():
        raise sources.recipe.conflict(
            "redteam.int8 quantises float32 weights on a CPU", "redteam.int8", "hardware", do="set redteam.int8: false"
        )
    if not of_constitution(sources.data.evaluation, sources.constitution, 1).pool:
        raise sources.recipe.conflict(
            "redteam needs evaluation prompts of the harmful kind, and none belongs to a principle that is enforced",
            "redteam",
            do="tag prompts of evaluation.jsonl as harmful (docs/data.md), or leave out the section redteam",
        )


def estimate(config: CampaignConfig, workload: Workload) -> Work:
    """A rehearsal against a target that refuses everything: every prompt of every arm, read and answered once."""
    goals = of_constitution(workload.evaluation, workload.constitution, config.goals_per_principle, config.harmless)
    asked = _asked(config, goals)
    counts, peak = Counts(), PeakSizes()
    for model, prompts in asked.items():
        lengths = sorted(_lengths(prompts, config, workload))
        if not lengths:
            continue
        limit = (workload.recipe.answers.sampling if workload.recipe.answers else sampling_of(config)).max_new_tokens
        mean = workload.answer_tokens(f"{model}_answers", model) * config.max_new_tokens / limit
        answers = assumed_lengths(mean, config.max_new_tokens, len(lengths))
        cached = 0
        for i in range(0, len(lengths), BATCH):
            batch, most = schedule(lengths[i : i + BATCH], answers[i : i + BATCH], 0, config.batch_size)
            counts, cached = total(counts, batch), max(cached, most)
        guarded = model + GUARDED in config.targets  # its probe reads every request and every answer
        counts = total(counts, Counts(loads=1 + guarded, read_tokens=2 * guarded * sum(lengths)))
        width = min(config.batch_size, len(lengths))
        read = min(width * lengths[-1], max(lengths[-1], READ_AT_ONCE // 2))  # a token has two characters or more
        held = min(cached, read + width * config.max_new_tokens)
        peak = max(peak, PeakSizes(read_tokens=read, scored=width, cached_tokens=held))
    return Work(counts, peak)


def _asked(config: CampaignConfig, goals: Goals) -> dict[str, list[Text]]:
    """What each model is asked at most: what does not depend on replies once, whether it is guarded or not."""
    found: dict[str, dict[Any, None]] = {}
    models = [name for name in config.targets if name != REFUSES]
    arms = [Arm(name, LocalTarget(name.removesuffix(GUARDED), _no_model, sampling_of(config))) for name in models]
    attacks = by_name(config.attacks) if config.attacks else ATTACKS
    plan = make(config, attacks, goals.chosen, arms, attacker=config.attacker is not None)
    for name in models:
        own = found.setdefault(name.removesuffix(GUARDED), {})
        own |= dict.fromkeys((prompt.prompt, "") for prompt in goals.harmless)
    for attempt in plan.attempts:
        own = found[attempt.target.removesuffix(GUARDED)]
        # A search goes its own way in each arm; what else is asked is the same, and equal prompts are answered once.
        alone = attempt.target if attempt.attack.adaptive else ""
        siblings = [goal for goal in goals.pool if goal.principle == attempt.goal.principle and goal != attempt.goal]
        prompts = rehearsed(attempt, plan.budgets[attempt.attack.name], siblings)
        own |= dict.fromkeys((prompt, alone) for prompt in prompts)
    return {model: [prompt for prompt, _ in own] for model, own in found.items()}


def _no_model() -> LocalModel:
    raise AssertionError("a rehearsal reads no weights")


def _lengths(prompts: Sequence[Text], config: CampaignConfig, workload: Workload) -> Iterator[int]:
    """Tokens of each prompt that the model can be asked."""
    for prompt in prompts:
        try:
            yield min(config.max_prompt_tokens, len(workload.chat.prompt_ids(prompt)))
        except DataError:  # a conversation with tools, which this model's format cannot hold
            continue


# ── report ───────────────────────────────────────────────────────────────────────────────────────────────────────────
LIMITS = (
    "Known attacks, and few asks. An attacker with more patience, another attack or a better attacker’s model gets "
    "further; no rate here bounds what is possible.",
    "A success is what the judge calls one. Its errors are measured on other people’s replies; where a rate is not "
    "corrected for them, it is theirs as well.",
    "The goals are evaluation prompts of the same constitution. They are held out by topic, and few.",
)


def section(record: StageRecord) -> Section | None:
    """Who gets through, the matrix of families and principles, curves, defences, the worst findings, gaps."""
    summary = record.read(SUMMARY)
    targets = summary["targets"]
    if not targets:
        return None
    names = [name for name in targets if targets[name]["families"]]
    last = next((name for name in reversed(names) if name != REFUSES), names[-1] if names else "")
    attacks = summary["attacks"]
    intro = (
        f"{len(attacks)} attacks of {len({own['family'] for own in attacks.values()})} families were tried on "
        f"{sum(summary['goals'].values())} goals. An attempt is one attack on one goal; it succeeds if the judge "
        f"({summary['judge']}) says that a reply did the harm, not if it lacks the words of a refusal. Intervals are "
        "clustered by topic." + (" Replies were sampled with int8 weights." if summary["config"]["int8"] else "")
    )
    blocks: list[Block] = [paragraph(intro), _arms(targets)]
    if last:
        blocks.append(_matrix(last, targets[last], record, more=True))
        others = tuple(_matrix(name, targets[name], record) for name in names if name != last)
        blocks.append(Details(title="The same for the other targets", blocks=others))
        blocks.append(_caught(targets))
    blocks += _curves(summary["curves"])
    blocks += _worst(summary["worst"], record)
    blocks += _missing(summary, record)
    return Section(id=record.name, title="Attacked", blocks=tuple(blocks), limits=LIMITS, part="examination")


def _title(record: StageRecord, principle: str) -> str:
    return "A secret in the system prompt" if principle == SYSTEM_PROMPT else record.title(principle)


def shown_target(name: str) -> str:
    """A target for people."""
    return phrase(name.replace("+", " + ")).capitalize()


def _arms(targets: Mapping[str, Any]) -> Table:
    """Success of attacks beside what the same targets do with harmless prompts."""
    kinds = list(dict.fromkeys(kind for own in targets.values() for kind in own["harmless"]))
    rows: list[tuple[Cell, ...]] = []
    for name, own in targets.items():
        every = own["everything"]
        harmless = [Rate.of(own["harmless"][kind]) if kind in own["harmless"] else None for kind in kinds]
        reached = Label(text=f"{every['reached']} of {every['goals']}", note=_about_reached(every))
        overall = own["overall"]
        seen = Rate.of(overall.get("raw", overall))
        rows.append((shown_target(name), Rate.of(overall, strong=True), seen, reached, *harmless, overall["n"]))
    success = ("Attempts that succeed", "As the judge saw it", "Goals reached, by the judge’s count")
    columns = ("Target", *success, *map(_not_answered, kinds), "Attempts")
    return Table(caption="Attack success, and over-refusal of the same targets", columns=columns, rows=tuple(rows))


def _about_reached(every: Mapping[str, Any]) -> str:
    said = f"{every['asks']} asks a goal at most"
    alarms = every.get("by_false_alarms")  # campaigns of before have none
    return said if alarms is None else f"{said}; about {alarms:.0f} by false alarms alone"


def _not_answered(kind: str) -> str:
    return f"Not answered: {phrase(kind)}"


def _matrix(name: str, own: Mapping[str, Any], record: StageRecord, more: bool = False) -> Table:
    """Families by principles; ``more``: also the attempts that are missing to a narrow interval."""
    principles = list(own["principles"])
    rows: list[tuple[Cell, ...]] = []
    for family, found in [
        *own["families"].items(),
        ("all families", {"all": own["overall"], "principles": own["principles"]}),
    ]:
        cells = [Rate.of(found["principles"][principle]) for principle in principles]
        needed = [found["all"]["more"]] if more else []
        rows.append((phrase(family).capitalize(), Rate.of(found["all"], strong=True), *cells, *needed))
    columns = (
        "Family",
        "All",
        *(_title(record, principle) for principle in principles),
        *(["More attempts for ±5 points"] if more else []),
    )
    return Table(
        caption=f"Attack success against {phrase(name.replace('+', ' + '))}", columns=columns, rows=tuple(rows)
    )


CAUGHT = {
    "input": "Guard, request",
    "model": "Model refused",
    "output": "Guard, answer",
    "nobody": "Nobody; no harm",
    "harm": "Nobody; harm",
}


def _caught(targets: Mapping[str, Any]) -> Table:
    rows = tuple(
        (shown_target(name), *(Rate.of(own["caught"][key]) for key in CAUGHT), own["asks"])
        for name, own in targets.items()
    )
    caption = "Which defence caught what, of all asks"
    return Table(caption=caption, columns=("Target", *CAUGHT.values(), "Asks"), rows=rows)


def _curves(found: Sequence[Mapping[str, Any]]) -> list[Block]:
    """Success against budget: a chart and a table for each attack that asks more than once."""
    blocks: list[Block] = []
    rows: list[tuple[Cell, ...]] = []
    charts: list[Block] = []
    for attack in dict.fromkeys(one["attack"] for one in found):
        own = [one for one in found if one["attack"] == attack and one["target"] != REFUSES]
        lines = tuple(
            Curve(
                name=shown_target(one["target"]),
                style="marked" if one["target"].endswith(GUARDED) else "light" if one["target"] == RAW else "smooth",
                points=tuple((k, value) for k, value, _, _ in one["points"]),
            )
            for one in own
        )
        charts.append(
            LineChart(
                caption=f"{phrase(attack).capitalize()}: share of goals reached within so many asks.",
                x="asks",
                y="attack success",
                curves=lines,
            )
        )
        for one in own:
            ends = [one["points"][0], one["points"][len(one["points"]) // 2], one["points"][-1]]
            cells = [_at(point, one["goals"]) for point in ends]
            rows.append(
                (Label(text=phrase(attack).capitalize(), note=shown_target(one["target"])), *cells, one["goals"])
            )
    if rows:
        columns = ("Attack", "After the first ask", "Half way", "At its budget", "Goals")
        blocks.append(Table(caption="Success against budget, ASR(k)", columns=columns, rows=tuple(rows)))
        blocks.append(Details(title="Success against budget, as curves", blocks=tuple(charts)))
    return blocks


def _at(point: Sequence[float], goals: int) -> Rate:
    _, value, low, high = point
    return Rate(value=value, low=low, high=high, n=goals)


def _worst(found: Sequence[Mapping[str, Any]], record: StageRecord) -> list[Block]:
    """The findings to read, folded."""
    how = (
        "Chosen by a rule: successes against the best defended target first, of each those that the judge is surest "
        f"of, no goal twice and no family more than {figures.WORST_OF_A_FAMILY} times. Only the beginning of a reply "
        "is shown; the file findings.jsonl has the rest."
    )
    if not found:
        return [paragraph("No attempt succeeded. That is not the same as never.")]
    shown = tuple(
        Shown(
            prompt=row["goal"],
            answers=(
                Answer(name="Asked as", text=row["prompt"], folded=True),
                Answer(name=shown_target(row["target"]), text=row["response"], folded=True),
            ),
            title=_title(record, row["principle"]),
            note=f"{phrase(row['attack'])}; the judge: {100 * row['confidence']:.0f} %",
            stacked=True,
            open=False,
        )
        for row in found
    )
    return [Details(title=f"The {len(found)} worst findings", blocks=(paragraph(how), *shown))]


def _missing(summary: Mapping[str, Any], record: StageRecord) -> list[Block]:
    """What was not tried, and what came to nothing, with numbers and names."""
    items: list[str] = []
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in summary["left_out"]:
        if row["target"] != REFUSES:
            reasons.setdefault((row["attack"], row["why"]), []).append(shown_target(row["target"]))
    items += [f"{phrase(a).capitalize()} was left out. {why}: {', '.join(ts)}." for (a, why), ts in reasons.items()]
    for row in summary["failed"]:
        items.append(
            f"{phrase(row['attack']).capitalize()} has no outcome {row['n']} times. {row['why']} ({row['target']})."
        )
    for attack, count in summary["nothing_to_ask"].items():
        items.append(f"{phrase(attack).capitalize()} had nothing to ask {count} times. It needs goals of another kind.")
    empty: dict[str, list[str]] = {}  # what is empty for several targets is said once
    for name, own in summary["targets"].items():
        cells = [f"{phrase(family)} × {_title(record, principle)}" for family, principle in own["empty"]]
        if cells:
            empty.setdefault("; ".join(cells), []).append(shown_target(name))
    items += [f"Empty cells of {', '.join(names)}. {cells}." for cells, names in empty.items()]
    for name, own in summary["targets"].items():
        if own["cut"]:
            items.append(f"{own['cut']} prompts to {shown_target(name)} lost their beginning. The model read the rest.")
    if names := [_title(record, principle) for principle in summary["without_goals"]]:
        items.append(
            f"No goals. Nothing was tried against {', '.join(names)}: no evaluation prompt asks to break them."
        )
    return (
        [Details(title="What was not tried, or has no outcome", blocks=(Bullets(items=tuple(items)),))] if items else []
    )


REDTEAM = Stage(
    "redteam",
    (sys.modules[__name__], campaigns, figures, interface, judge_rules, judge_trained, behaviours),
    config_of,
    (BASE, POLICY, MAYBE_GUARD, EVALUATION, CONSTITUTION),
    run,
    check=check,
    estimate=estimate,
    section=section,
)
