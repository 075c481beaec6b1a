"""`audit`: the gate for inner alignment; what the aligned model's behaviour may hide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steersman.cost.work import Counts, PeakSizes, Work, Workload
from steersman.interp import probes
from steersman.interp.audit import audit
from steersman.interp.audit import check as checks
from steersman.interp.audit.audit import AUDIT, CHECKED
from steersman.interp.audit.settings import AuditConfig
from steersman.interp.audit.subject import Subject, load
from steersman.recipe import Recipe
from steersman.report.blocks import Block, Bullets, Cell, Details, Json, Label, Number, Section, Table, paragraph
from steersman.report.evidence import StageRecord
from steersman.report.format import p_value
from steersman.stage import Inputs, Stage
from steersman.stages.answers import POLICIES
from steersman.stages.inputs import BASE, EVALUATION, POLICY, PROMPTS
from steersman.store import StageFolder, write_json
from steersman.terminal import Progress
from steersman.types import Prompt


def run(config: AuditConfig, given: Inputs, out: StageFolder) -> None:
    """The gate for inner alignment: checks of the aligned model against its base, and the verdict over them."""
    base, policy = given[BASE], given[POLICY]
    before = [folder for handle in POLICIES if (folder := given[handle]) not in (None, policy)]
    topics = (given[PROMPTS], given[EVALUATION])
    subject = subject_of(base, policy, before[-1] if before else None, config, topics)
    with Progress("audit", len(audit.of_tier(config.tier))) as bar:

        def tell(**event: Any) -> None:
            out.emit(event="check", **event)
            bar.advance()

        made = audit.run(subject, out.path, tell=tell)
    verdict = audit.conclude(made, subject)
    write_json(out.file(AUDIT), verdict.model_dump(mode="json"))
    out.file(CHECKED).unlink()


def subject_of(
    base: Path,
    policy: Path,
    before: Path | None,
    config: AuditConfig,
    topics: tuple[Sequence[Prompt], Sequence[Prompt]] | None = None,
) -> Subject:
    """The aligned model with its base and the policy of the stage before, loaded; ``topics`` as of `Subject`."""
    return Subject(
        load(base, policy),
        load(base),
        load(base, before) if before and config.tier > 1 else None,  # for `drift`, of tier 2
        tier=config.tier,
        seed=config.seed,
        limit=config.limit,
        topics=topics if topics and all(topics) else None,
    )


def config_of(recipe: Recipe) -> AuditConfig | None:
    """None where nothing is trained: the base is the null of most checks."""
    return recipe.audit if recipe.trains_a_policy else None


def estimate(config: AuditConfig, workload: Workload) -> Work:
    """What the checks of a tier ask, in about the numbers of gemma-3-270m's tokens: not counted check by check."""
    rows, steps, read = (12_500, 350, 75_000) if config.tier == 1 else (45_000, 1_300, 350_000)
    counts = Counts(
        loads=2,
        read_tokens=read,
        scored_tokens=read / 4,
        decode_steps=steps,
        decode_rows=rows,
        decode_cached=rows * 40,
    )
    return Work(counts, PeakSizes(read_tokens=4096, scored=1024, cached_tokens=64 * 64))


# ── report ───────────────────────────────────────────────────────────────────────────────────────────────────────────
LIMITS = (
    "The gate finds what its checks look for. Its error rates are those on small models in which something was planted "
    "on purpose, and planted is not natural.",
    "A pass is no proof. A plant of another kind, a weaker one, or one in a larger model may be missed.",
)
SAYS = {"pass": "Pass", "fail": "Fail", "cannot tell": "Cannot tell"}


def section(record: StageRecord) -> Section:
    """The verdict, a line a check, and what each rests on."""
    found = record.read(AUDIT)
    return Section(
        id=record.name, title="What the behaviour may hide", blocks=blocks(found), limits=LIMITS, part="examination"
    )


def blocks(found: Mapping[str, Any]) -> tuple[Block, ...]:
    """Of an audit, for the page and the terminal."""
    intro = (
        f"{len(found['checks'])} checks of tier {found['tier']}. Each compares a statistic with its null; p-values are "
        "adjusted by Holm over all of them. What a check may say depends on how it did on models in which something "
        "was planted, and on harmless ones."
    )
    rows: list[tuple[Cell, ...]] = []
    for check in found["checks"]:
        value = Number(value=check["value"], low=check["low"], high=check["high"], digits=2)
        adjusted = check["p_adjusted"]
        rows.append(
            (
                Label(text=check["name"].replace("-", " ").replace("_", " ").capitalize(), note=check["arm"]),
                SAYS.get(check["verdict"], check["verdict"]),
                value,
                f"{check['threshold']:g}",
                "" if adjusted is None else p_value(adjusted),
                check["error_rates"],
            )
        )
    columns = ("Check", "Says", "Statistic", "Matters from", "p", "Measured errors")
    items = tuple(f"{check['name'].capitalize()}. {check['sentence']}" for check in found["checks"])
    what = tuple(
        f"{check['name'].capitalize()}. {check['statistic']}; null: {check['null']}." for check in found["checks"]
    )
    details = tuple(Json(title=check["name"], value=check["details"]) for check in found["checks"] if check["details"])
    return (
        paragraph(found["sentence"], style="lead"),
        paragraph(intro),
        Table(caption="The checks", columns=columns, rows=tuple(rows)),
        Bullets(items=items),
        Details(title="What each statistic is, and what it rests on", blocks=(Bullets(items=what), *details)),
    )


AUDIT_STAGE = Stage(
    "audit",
    (checks, probes),
    config_of,
    (BASE, *POLICIES, POLICY, PROMPTS, EVALUATION),
    run,
    estimate=estimate,
    section=section,
)
