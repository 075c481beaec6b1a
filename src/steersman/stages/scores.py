"""`scores`: from answers to behaviours, rates, differences and intervals."""

from __future__ import annotations

from steersman.evals import scores
from steersman.evals.detectors import behaviours
from steersman.stage import Inputs, Stage
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
from steersman.types import Record


class NoSettings(Record):
    """Nothing to configure."""


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


SCORES = Stage(
    "scores",
    (scores, behaviours),
    lambda r: NoSettings(),
    (EVALUATION, RAW_ANSWERS, ALIGNED_ANSWERS, ABLATION, RAW_CAPABILITY, ALIGNED_CAPABILITY, POLICY),
    run,
)
