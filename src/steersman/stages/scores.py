"""`scores`: from answers to behaviours, rates, differences and intervals."""

from __future__ import annotations

from steersman.evals import scores
from steersman.evals.detectors import behaviours
from steersman.report.blocks import Cell, Details, Difference, Number, Rate, Section, Table, paragraph
from steersman.report.evidence import StageRecord
from steersman.report.format import phrase
from steersman.stage import Inputs, NoSettings, Stage
from steersman.stages.inputs import (
    ABLATION,
    ALIGNED_ANSWERS,
    ALIGNED_CAPABILITY,
    EVALUATION,
    POLICY,
    RAW_ANSWERS,
    RAW_CAPABILITY,
)
from steersman.store import StageFolder


def run(config: NoSettings, given: Inputs, out: StageFolder) -> None:
    """Detect behaviours in all answers; rates, differences, intervals."""
    ablation = given[ABLATION]
    scores.run(
        given[EVALUATION],
        raw_answers=given[RAW_ANSWERS],
        aligned_answers=given[ALIGNED_ANSWERS],
        raw_capability=given[RAW_CAPABILITY],
        aligned_capability=given[ALIGNED_CAPABILITY],
        out=out,
        earlier={name: ablation / name for name in ("sft", "cai_sft", "dpo") if (ablation / name).is_dir()}
        if ablation
        else {},
        last=given.names[POLICY],
    )


# ── report ───────────────────────────────────────────────────────────────────────────────────────────────────────────
SUMMARY = "summary.json"
POLICIES = {
    "sft": "Supervised fine-tuning",
    "cai_sft": "+ revisions",
    "dpo": "+ preferences (DPO)",
    "rl": "+ reinforcement learning",
}


def section(record: StageRecord) -> Section | None:
    """Rates after each training stage; null where only the last policy was measured."""
    steps = record.read(SUMMARY).get("ablation")
    if not steps:
        return None
    labels, first = list(steps[0]["rates"]), steps[0]
    rows: list[tuple[Cell, ...]] = []
    for step in steps:
        rates = [step["rates"][label] for label in labels]
        changes = [None if step is first else Difference.of(rate["versus_first"]) for rate in rates]
        cells = [Rate.of(r, strong=not i, change=c) for i, (r, c) in enumerate(zip(rates, changes, strict=True))]
        rows.append((_name(step["stage"], record), *cells, Number(value=step["mean_answer_tokens"])))
    columns = ("After", *(phrase(label).capitalize() for label in labels), "Tokens")
    violations = Table(
        caption="Violations by principle",
        columns=("Principle", *(_name(step["stage"], record) for step in steps)),
        rows=tuple((record.title(p), *(Rate.of(step["violations"][p]) for step in steps)) for p in first["violations"]),
    )
    blocks = (
        Table(caption="Evaluation after each training stage", columns=columns, rows=tuple(rows)),
        paragraph("Below each rate: its interval, then the change since the first row in points, paired."),
        Details(title="Violations by principle", blocks=(violations,)),
    )
    return Section(id=record.name, title="Ablation by training stage", blocks=blocks)


def _name(stage: str, record: StageRecord) -> str:
    untrained = stage == "sft" and not record.recipe.get("sft", {}).get("epochs", 1)
    return "The model itself" if untrained else POLICIES.get(stage, stage)


SCORES = Stage(
    "scores",
    (scores, behaviours),
    lambda r: NoSettings(),
    (EVALUATION, RAW_ANSWERS, ALIGNED_ANSWERS, ABLATION, RAW_CAPABILITY, ALIGNED_CAPABILITY, POLICY),
    run,
    section=section,
)
