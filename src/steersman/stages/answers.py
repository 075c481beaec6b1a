"""`raw_answers`, `ablation` and `aligned_answers`: what the models answer to the evaluation prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from steersman.cost.work import Counts, PeakSizes, Work, Workload, assumed_lengths, schedule, total
from steersman.evals import answers, scores
from steersman.evals.answers import AnswersConfig
from steersman.evals.conditions import ALIGNED, FEW_SHOT, RAW, Condition
from steersman.lm.language_model import LocalModel
from steersman.lm.sampling import SamplingConfig
from steersman.lm.transcript import RESUMABLE
from steersman.recipe import Recipe
from steersman.stage import Input, Inputs, Stage, folder, optional
from steersman.stages.inputs import BASE, EVALUATION, PERSONA, POLICY, SFT, TRAIN
from steersman.store import StageFolder, read_jsonl
from steersman.types import Message, Prompt, plain_text

POLICIES: tuple[Input[Path | None], ...] = (SFT, *(optional(folder(name)) for name in POLICY.names[1:]))


def run_raw(config: AnswersConfig, given: Inputs, out: StageFolder) -> None:
    """The base model's answers, bare and after a few-shot prompt."""
    preamble = answers.few_shot_preamble(given[PERSONA], given[TRAIN], config.few_shot_examples)
    every = (Condition(RAW, None), Condition(FEW_SHOT, preamble))
    conditions = [condition for condition in every if condition.name in config.baselines]
    if FEW_SHOT in config.baselines:
        out.emit(event="few_shot", examples=len(preamble) // 2)
    answers.run(config, LocalModel.load(given[BASE]), given[EVALUATION], conditions, out)


def run_aligned(config: AnswersConfig, given: Inputs, out: StageFolder) -> None:
    """The aligned model's answers."""
    model = LocalModel.load(given[BASE], given[POLICY])
    answers.run(config, model, given[EVALUATION], [Condition(ALIGNED, None)], out)


def aligned_refusals(
    sampling: SamplingConfig, prompts: Sequence[Prompt], given: Inputs, out: StageFolder
) -> list[tuple[Prompt, bool]]:
    """Each prompt with whether the aligned model refuses it; the stage declares BASE and POLICY."""
    model = LocalModel.load(given[BASE], given[POLICY])
    answers.run(AnswersConfig(sampling=sampling), model, prompts, [Condition(ALIGNED, None)], out)
    rows = read_jsonl(out.file(answers.ANSWERS))
    return [(prompts[row["index"]], bool(scores.refused(prompts[row["index"]], row["answer"]))) for row in rows]


def run_ablation(config: AnswersConfig, given: Inputs, out: StageFolder) -> None:
    """The answers of the policies before the last one, each in a folder named after its stage."""
    earlier = {given.names[policy]: folder for policy in POLICIES if (folder := given[policy]) != given[POLICY]}
    for stage, folder in earlier.items():
        if folder is None:
            continue
        part = StageFolder(out.path / stage, f"{out.stage} {stage}", out.emit)
        part.path.mkdir(exist_ok=True)
        if not part.file(answers.ANSWERS).exists():  # finished before a kill
            answers.run(config, LocalModel.load(given[BASE], folder), given[EVALUATION], [Condition(stage, None)], part)


def raw_config(recipe: Recipe) -> AnswersConfig | None:
    """None where no baseline is wanted; where nothing is trained, the raw model is what is measured."""
    if recipe.answers is None:
        return None
    wanted = {*recipe.answers.baselines, *([] if recipe.trains_a_policy else [RAW])}
    ordered = tuple(name for name in (RAW, FEW_SHOT) if name in wanted)
    return recipe.answers.model_copy(update={"baselines": ordered}) if ordered else None


def aligned_config(recipe: Recipe) -> AnswersConfig | None:
    """None where nothing is trained. Other baselines leave these answers as they are."""
    trained = recipe.answers is not None and recipe.trains_a_policy
    return recipe.answers.model_copy(update={"baselines": ()}) if recipe.answers and trained else None


def ablation_config(recipe: Recipe) -> AnswersConfig | None:
    """None unless there are several policies to compare."""
    return aligned_config(recipe) if recipe.ablation and earlier_policies(recipe) else None


def earlier_policies(recipe: Recipe) -> list[str]:
    """The stages that leave a policy, but for the last."""
    return [name for name in POLICY.names if getattr(recipe, name)][:-1]


# ── estimates ────────────────────────────────────────────────────────────────────────────────────────────────────────
def generation_work(
    sampling: SamplingConfig,
    workload: Workload,
    stage: str,
    asked: Sequence[Prompt],
    conditions: Mapping[str, tuple[Message, ...] | None],
) -> Work:
    """The work of answering prompts under some conditions, each a preamble or None."""
    chat = workload.chat
    rows = sorted(asked, key=lambda row: len(plain_text(row.prompt)))
    prompts = [min(len(chat.prompt_ids(row.prompt)), sampling.max_prompt_tokens) for row in rows]
    counts, cached = Counts(loads=1), 0
    for name, preamble in conditions.items():
        first = rows[0].prompt
        prefix = len(chat.prompt_ids(first, preamble)) - len(chat.prompt_ids(first)) if preamble else 0
        lengths = assumed_lengths(workload.answer_tokens(stage, name), sampling.max_new_tokens, len(rows))
        for i in range(0, len(rows), RESUMABLE):
            part = slice(i, i + RESUMABLE)
            batch, most = schedule(prompts[part], lengths[part], prefix, sampling.batch_size)
            counts, cached = total(counts, batch), max(cached, most)
    width = min(sampling.batch_size, len(rows))
    return Work(counts, PeakSizes(read_tokens=width * max(prompts), scored=width, cached_tokens=cached))


def estimate_raw(config: AnswersConfig, workload: Workload) -> Work:
    """One condition or two; the few-shot prompt is read once."""
    preamble = answers.few_shot_preamble(workload.constitution.persona, workload.train, config.few_shot_examples)
    before = {RAW: None, FEW_SHOT: preamble}
    conditions: dict[str, tuple[Message, ...] | None] = {
        name: own for name, own in before.items() if name in config.baselines
    }
    return generation_work(config.sampling, workload, "raw_answers", workload.evaluation, conditions)


def estimate_aligned(config: AnswersConfig, workload: Workload) -> Work:
    """One condition."""
    return generation_work(config.sampling, workload, "aligned_answers", workload.evaluation, {ALIGNED: None})


def estimate_ablation(config: AnswersConfig, workload: Workload) -> Work:
    """As many answers for each earlier policy as for the last one."""
    each = estimate_aligned(config, workload)
    return Work(total(*[each.counts] * len(earlier_policies(workload.recipe))), each.peak)


RAW_ANSWERS = Stage(
    "raw_answers",
    (answers,),
    raw_config,
    (BASE, PERSONA, TRAIN, EVALUATION),
    run_raw,
    recipe_key="answers",
    estimate=estimate_raw,
)
ABLATION = Stage(
    "ablation",
    (answers,),
    ablation_config,
    (BASE, *POLICIES, POLICY, EVALUATION),
    run_ablation,
    estimate=estimate_ablation,
)
ALIGNED_ANSWERS = Stage(
    "aligned_answers",
    (answers,),
    aligned_config,
    (BASE, POLICY, EVALUATION),
    run_aligned,
    recipe_key="answers",
    estimate=estimate_aligned,
)
