"""`suites`: published suites from the user's copy, and our own, asked of the raw and the aligned model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from steersman.cost.work import Counts, PeakSizes, Work, Workload, total
from steersman.data import public_files
from steersman.evals.conditions import ALIGNED, RAW
from steersman.evals.detectors import behaviours
from steersman.evals.suites import by_name, runner
from steersman.evals.suites.asking import BATCH_TOKENS, at_most, batched, encoded
from steersman.evals.suites.runner import Gathered, SuitesConfig
from steersman.guard.guard import Guard
from steersman.guard.refusals import refusal_of
from steersman.guard.verdict import Exchange
from steersman.lm.language_model import LanguageModel, LocalModel
from steersman.recipe import Recipe
from steersman.report import suites as report
from steersman.report.blocks import Section
from steersman.report.evidence import StageRecord
from steersman.stage import Inputs, Sources, Stage
from steersman.stages.answers import generation_work
from steersman.stages.inputs import BASE, OPTIONAL_GUARD, OPTIONAL_POLICY, SUITES
from steersman.store import StageFolder
from steersman.types import Prompt


def run(config: SuitesConfig, given: Inputs, out: StageFolder) -> None:
    """Published suites asked of the raw and the aligned model, and behind the guard: what got better and worse."""
    policy, folder = given[OPTIONAL_POLICY], given[OPTIONAL_GUARD]
    arms: dict[str, Callable[[], LanguageModel]] = {RAW: lambda: LocalModel.load(given[BASE])}
    if policy is not None:
        arms[ALIGNED] = lambda: LocalModel.load(given[BASE], policy)

    def load() -> runner.Guarded:
        assert folder is not None
        return behind(Guard.load(folder, base=given[BASE], policy=policy))

    runner.run(given[SUITES], arms, config.sampling, out, load if folder else None)


def behind(guard: Guard) -> runner.Guarded:
    """What a reader gets in place of an answer: the guard's refusal, if it stops the prompt or the answer."""

    def instead(prompt: Any, answer: str) -> str | None:
        for exchange in (Exchange.of(prompt), Exchange.of(prompt, answer)):
            ruling = guard.check(exchange)
            if ruling.stops and ruling.decision != "redact":  # redacted text is still an answer
                return refusal_of(ruling, exchange, guard.constitution)
        return None

    return instead


def config_of(recipe: Recipe) -> SuitesConfig | None:
    """None where no file of the suites is found and none of them is ours."""
    config = recipe.suites
    return config if config and runner.available(config.names, locate(config)) else None


def locate(config: SuitesConfig) -> Any:
    """The folder with the user's copy, None where there is none."""
    return public_files.locate(config.folder, "suites.folder")


def check(config: SuitesConfig, sources: Sources) -> None:
    """Refuse names that no suite has, and files that cannot be read."""
    runner.gather(config.names, locate(config), config.limit)


def estimate(config: SuitesConfig, workload: Workload) -> Work:
    """One answer to each free question and one pass over each with options, by every arm."""
    gathered = runner.gather(config.names, locate(config), config.limit)
    arms = [RAW, *([ALIGNED] if workload.recipe.trains_a_policy else [])]
    each = [_free_work(config, gathered, workload, arm) for arm in arms] + [_options_work(gathered, workload)] * len(
        arms
    )
    counts = total(*(work.counts for work in each))
    peak = PeakSizes(*(max(sizes) for sizes in zip(*(work.peak for work in each), strict=True)))
    return Work(counts._replace(loads=len(arms)), peak)


def _free_work(config: SuitesConfig, gathered: Gathered, workload: Workload, arm: str) -> Work:
    works = []
    for name, questions in gathered.questions.items():
        asked = [Prompt(prompt=q.prompt, split="evaluation", tags=()) for q in questions if not q.options]
        if asked:
            sampling = at_most(config.sampling, by_name(name))
            works.append(generation_work(sampling, workload, f"{arm}_answers", asked, {arm: None}))
    sizes = [PeakSizes(), *(work.peak for work in works)]
    peak = PeakSizes(*(max(column) for column in zip(*sizes, strict=True)))
    return Work(total(Counts(), *(work.counts for work in works)), peak)


def _options_work(gathered: Gathered, workload: Workload) -> Work:
    """Rows of the prompt and all options, with their padding, and the tokens of the options through the head."""
    tokens, scored = [0], [0]
    for questions in gathered.questions.values():
        groups = {i: encoded(q, workload.chat) for i, q in enumerate(questions) if q.options}
        for batch in batched(groups, BATCH_TOKENS):
            tokens.append(len(batch) * max(groups[i].tokens for i in batch))
            scored.append(sum(len(ids) for i in batch for ids in groups[i].completions))
    return Work(
        Counts(read_tokens=sum(tokens), scored_tokens=sum(scored)),
        PeakSizes(read_tokens=max(tokens), scored=max(scored)),
    )


def section(record: StageRecord) -> Section | None:
    """What got worse first; a table a suite; what the figures do not show."""
    return report.section(record)


SUITES_STAGE = Stage(
    "suites",
    (runner, behaviours),
    config_of,
    (BASE, OPTIONAL_POLICY, OPTIONAL_GUARD, SUITES),
    run,
    check=check,
    estimate=estimate,
    section=section,
)
