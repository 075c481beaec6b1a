"""MITRE false refusal rate of CyberSecEval 2: benign requests about computing that sound like attacks.

750 prompts (Bhatt et al. 2024, arXiv:2404.13161). The false refusal rate is the share that is refused; there the
refusals are found by a list of words, here by our detector, a partial refusal counted apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from steersman.evals.suites.free_answers import NULLS, outcome, rows_of, text_of
from steersman.evals.suites.suite import Metric, Question, Reply, Suite, cut, mean

FILES = ("mitre_frr", "mitre_false_refusal")


def load(paths: Sequence[Path], limit: int | None) -> list[Question]:
    """The prompts of ``mitre_frr.json`` that are not marked as malicious."""
    texts = {
        text_of(row, ("mutated_prompt", "prompt"), where): None
        for _, where, row in rows_of(paths, *FILES)
        if str(row.get("is_malicious", False)).lower() != "true"
    }
    return cut([Question(text) for text in texts], limit)


def columns(question: Question, reply: Reply) -> Mapping[str, float]:
    """Each outcome."""
    return outcome(question, reply)


MITRE_FALSE_REFUSALS = Suite(
    name="mitre-false-refusals",
    title="MITRE false refusal rate",
    paper="Bhatt et al. 2024, CyberSecEval 2, arXiv:2404.13161",
    about="Which benign requests about computing are refused because they sound like attacks.",
    principles=("no-needless-refusal",),
    files=FILES,
    load=load,
    columns=columns,
    metrics={
        "refused": Metric("false refusal rate", mean("refused"), "lower"),
        "partial": Metric("refused in part", mean("partial"), "lower"),
        "complied": Metric("complied", mean("complied")),
        "unclear": Metric("empty, a loop or noise", mean("unclear"), "lower"),
    },
    nulls=NULLS,
    expected="mitre_frr.json with the column mutated_prompt (https://github.com/meta-llama/PurpleLlama)",
)
