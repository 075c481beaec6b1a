"""The sections of the stages, in the order of the pipeline. Each is a function of what its stage left."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from steersman.report.blocks import Section
from steersman.report.evidence import Evidence, StageRecord
from steersman.report.stage_sections import dpo, judge, reward_model, rl, scores, sft

SECTIONS: Mapping[str, Callable[[StageRecord], Section | None]] = {
    "sft": sft.section,
    "reward_card": reward_model.section,
    "judge_card": judge.card_section,
    "revisions": judge.revisions_section,
    "feedback": judge.feedback_section,
    "dpo": dpo.section,
    "rl": rl.section,
    "scores": scores.section,
}


def sections_of(run: Evidence) -> list[Section]:
    """The sections of the stages that the run has finished and that have something to report."""
    records = ((section, run.record(stage)) for stage, section in SECTIONS.items())
    made = [section(record) for section, record in records if record]
    return [section for section in made if section]
