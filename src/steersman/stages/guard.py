"""`guard`: the classifier that enforces the constitution around a model, trained from the same rows, and its card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steersman.cost.work import Counts, PeakSizes, Work, Workload
from steersman.evals.detectors import behaviours
from steersman.evals.forms import KINDS
from steersman.guard import card, train
from steersman.guard.config import GuardConfig
from steersman.guard.exchanges import GuardRows
from steersman.report.blocks import Block, Bullets, Cell, Details, Label, Rate, Section, Table, paragraph
from steersman.report.evidence import StageRecord
from steersman.report.format import phrase
from steersman.stage import Inputs, Sources, Stage
from steersman.stages.inputs import BASE, CONSTITUTION, DATASET, POLICY, PUBLIC_PROMPTS
from steersman.store import StageFolder

CARD = "card.json"
PARTS = {"held_out": "topics held out", "unseen": "prompts that the model is evaluated on"}


def run(config: GuardConfig, given: Inputs, out: StageFolder) -> None:
    """The guard's classifier, trained from the constitution and the data set, and its card."""
    constitution = given[CONSTITUTION]
    rows = GuardRows.build(given[DATASET], constitution, config.seed, config.limit)
    rail = train.train(
        config,
        constitution,
        rows,
        out.path,
        base=given[BASE] if config.probe else None,
        policy=given[POLICY],
        run=_run_of(given[POLICY] or given[BASE]),
        public=given[PUBLIC_PROMPTS],
    )
    out.emit(event="latency", **card.latency(rail, rows))  # an event: it differs from one time to the next


def _run_of(model: Path) -> Path | None:
    """The run that a model belongs to; None for one from elsewhere."""
    return next((folder for folder in model.parents if (folder / "run.json").exists()), None)


def check(config: GuardConfig, sources: Sources) -> None:
    """Refuse data that no guard can be trained from."""
    GuardRows.build(sources.data, sources.constitution, config.seed, config.limit)


def estimate(config: GuardConfig, workload: Workload) -> Work | None:
    """With a probe, every row is read once; the linear models take a minute that no model counts."""
    if not config.probe:
        return Work(Counts(), PeakSizes())
    lengths = [workload.chat.length(row.prompt, [row.completion]) for row in workload.train]
    return Work(Counts(loads=1, read_tokens=sum(lengths)), PeakSizes(read_tokens=8 * max(lengths)))


# ── report ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def section(record: StageRecord) -> Section:
    """The guard's card: recall at the declared rate of false alarms, attack families, public sets, its limits."""
    found = record.read(CARD)
    blocks: list[Block] = [
        paragraph(
            "The guard's classifier was trained from the constitution's rows. Its thresholds are set at the rate of "
            "false alarms that each principle declares; the figures are of topics that it never saw."
        )
    ]
    for side, name in (("input", "Requests"), ("output", "Answers")):
        parts = [part for part in PARTS if any(part in own for own in found[side].values())]
        blocks += [_recall(f"{name}: {PARTS[part]}", found[side], part, record) for part in parts]
    points = found["operating_points"]
    blocks += [_operating_points(points, part) for part in PARTS if any(part in own for own in points)]
    blocks.append(_attacks(found["attacks"]))
    if found["public"]:
        blocks.append(_public(found["public"]))
    if found["seeds"]:
        blocks.append(Details(title="Spread over seeds", blocks=(_seeds(found["seeds"]),)))
    timed = record.rows("latency")
    if timed and timed[-1].get("input"):
        asked, answered = timed[-1]["input"], timed[-1]["output"]
        blocks.append(
            paragraph(
                f"A request of about 300 tokens takes {asked['p50']:.1f} ms of processor time in the median and "
                f"{asked['p95']:.1f} ms at the 95th percentile; an answer as long to it {answered['p50']:.1f} and "
                f"{answered['p95']:.1f} ms.",
                style="note",
            )
        )
    if found["notes"]:
        blocks.append(Bullets(items=tuple(found["notes"])))
    return Section(
        id=record.name,
        title="The guard’s card",
        blocks=tuple(blocks),
        limits=tuple(found["cannot_see"]),
        part="examination",
    )


def _recall(caption: str, principles: Mapping[str, Any], part: str, record: StageRecord) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for principle, own in principles.items():
        if part not in own:
            continue
        figures, declared = own[part], own["threshold"]["declared_false_positive_rate"]
        rows.append(
            (
                Label(text=record.title(principle), note=f"declared {_declared(declared)}"),
                Rate.of(figures["recall"], strong=True),
                Rate.of(figures["false_alarms"]),
                figures["recall"]["n"],
                figures["false_alarms"]["n"],
            )
        )
    columns = ("Principle", "Recall", "False alarms", "Breaking", "Harmless")
    return Table(caption=caption, columns=columns, rows=tuple(rows))


def _operating_points(points: Sequence[Mapping[str, Any]], part: str) -> Table:
    """What other declared rates would catch and cost."""
    rows: list[tuple[Cell, ...]] = []
    for own in points:
        found = own.get(part, {})
        rows.append((_declared(own["rate"]), *(Rate.of(found[kind]) if kind in found else "" for kind in KINDS)))
    caption = f"Requests, {PARTS[part]}: all harmful ones at other rates of false alarms"
    columns = ("Declared rate", "Stopped: harmful", "Stopped: look-alikes", "Stopped: ordinary")
    return Table(caption=caption, columns=columns, rows=tuple(rows))


def _declared(rate: float) -> str:
    """A declared rate, which may be below one per cent."""
    return f"{100 * rate:g} %"


def _attacks(families: Mapping[str, Any]) -> Table:
    rows = tuple(
        (phrase(name).capitalize(), Rate.of(own["recall"]), Rate.of(own["false_alarms"]))
        for name, own in families.items()
    )
    caption = "Harmful requests of held-out topics and look-alikes, dressed by attack families"
    return Table(caption=caption, columns=("Family", "Stopped: harmful", "Stopped: look-alikes"), rows=rows)


def _public(sets: Mapping[str, Any]) -> Table:
    rows = tuple(
        (name, phrase(own["kind"]), Rate.of(own["stopped"]), own["stopped"]["n"]) for name, own in sets.items()
    )
    return Table(caption="Public sets, stopped at the input", columns=("Set", "Kind", "Stopped", "n"), rows=rows)


def _seeds(seeds: Any) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for number, own in enumerate(seeds):
        cells = [Rate.of(own[side][name]) for side in ("input", "output") if side in own for name in _OF_A_SEED]
        rows.append((str(number), *cells))
    columns = ("Seed", *(f"{side}: {phrase(name)}" for side in ("Requests", "Answers") for name in _OF_A_SEED))
    return Table(caption="Each seed alone, harm principles, held-out topics", columns=columns, rows=tuple(rows))


_OF_A_SEED = ("recall", "false_alarms")

GUARD = Stage(
    "guard",
    (train, behaviours),
    lambda recipe: recipe.guard,
    (BASE, POLICY, CONSTITUTION, DATASET, PUBLIC_PROMPTS),
    run,
    check=check,
    estimate=estimate,
    section=section,
)
