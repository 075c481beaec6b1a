"""The reward models: `reward_model` and its `reward_card`, `holdout_reward_model`, `cost_model`, `preference_model`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

from steersman.constitution import ai_feedback
from steersman.constitution.ai_feedback import FeedbackConfig
from steersman.cost.work import Counts, PeakSizes, Work, Workload, group_tokens, trainable_share
from steersman.data.by_principle import of_principles
from steersman.evals import reward_card
from steersman.lm.reward_model import BATCH, RewardModel, centring_groups, tokenised
from steersman.recipe import Recipe
from steersman.report.blocks import Block, Curve, LineChart, Number, Rate, Section, Table, paragraph
from steersman.report.cards import accuracy_table
from steersman.report.evidence import StageRecord, smoothed
from steersman.report.format import number, percent, phrase, rate
from steersman.stage import Input, Inputs, Sources, Stage
from steersman.stages.inputs import (
    AI_COMPARISONS,
    BASE,
    COMPARISONS,
    HELD_OUT_COMPARISONS,
    REWARD_MODEL,
    SFT,
    TEXTS,
    TRAIN,
)
from steersman.store import StageFolder
from steersman.train import loop, reward_model
from steersman.train.reward_model import CostConfig, RewardConfig
from steersman.types import Comparison, Record

KEPT_SHARE = 0.3  # of prompts with a pair that is kept, assumed
CODE: tuple[ModuleType, ...] = (reward_model,)


# ── trained on comparisons ───────────────────────────────────────────────────────────────────────────────────────────
def ranking(
    name: str,
    config: Callable[[Recipe], RewardConfig | None],
    comparisons: Input[list[Comparison]],
    counted: Callable[[Workload], Sequence[Comparison]],
    check: Callable[[RewardConfig, Sources], None] | None = None,
    recipe_key: str = "reward_model",
) -> Stage[RewardConfig]:
    """A stage that trains a reward model on a file of comparisons; ``counted`` are the same rows of a workload."""

    def run(own: RewardConfig, given: Inputs, out: StageFolder) -> None:
        """Train a reward model on comparisons."""
        texts = given[TEXTS]
        rows = own.rows(given[comparisons], texts or {})
        reward_model.run(own, given[BASE], given[SFT], rows, given[TRAIN], out)

    def estimate(own: RewardConfig, workload: Workload) -> Work:
        return ranking_work(own, workload, counted(workload))

    inputs = (BASE, TEXTS, SFT, comparisons, TRAIN)
    return Stage(name, CODE, config, inputs, run, True, recipe_key, check, estimate, training)


def check(config: RewardConfig, sources: Sources) -> None:
    """Refuse a reward model that could not be measured, or that has no adapter to start from."""
    recipe = sources.recipe
    if not recipe.examples.held_out_comparisons:
        raise recipe.conflict(
            "a reward_model is measured on held-out comparisons",
            "reward_model",
            "examples.held_out_comparisons",
            do="set examples.held_out_comparisons: 0.15",
        )
    if recipe.sft.method == "full":
        raise recipe.conflict("reward_model starts from the adapter of sft.method: lora", "reward_model", "sft.method")


def holdout_config(recipe: Recipe) -> RewardConfig | None:
    """One member like those that rl optimises, trained on other data: Gao et al.'s gold model, in small."""
    single = {"members": 1, "combine": "mean"}
    return recipe.reward_model.model_copy(update=single) if recipe.rl and recipe.reward_model else None


def cost_config(recipe: Recipe) -> CostConfig | None:
    """None unless a constraint of rl uses it."""
    constraint = recipe.rl.constraint if recipe.rl else None
    return recipe.cost_model if constraint and constraint.costs_below is not None else None


def check_cost_model(config: RewardConfig, sources: Sources) -> None:
    """Refuse principles that no comparison is about."""
    assert isinstance(config, CostConfig)
    of_principles(sources.data.comparisons, config.principles)


class MixedRewardConfig(Record):
    """A reward model, and how the judge's comparisons are mixed with people's."""

    reward_model: RewardConfig
    feedback: FeedbackConfig


def mixed_config(recipe: Recipe) -> MixedRewardConfig | None:
    """The preference model's; without ``feedback``, its required input says what is missing."""
    if recipe.preference_model is None:
        return None
    return MixedRewardConfig(reward_model=recipe.preference_model, feedback=recipe.feedback or FeedbackConfig())


def run_mixed(config: MixedRewardConfig, given: Inputs, out: StageFolder) -> None:
    """Train a reward model on people's and the judge's comparisons."""
    mixed = ai_feedback.mix(config.feedback, given[COMPARISONS], given[AI_COMPARISONS])
    texts = given[TEXTS]
    rows = config.reward_model.rows(mixed, texts or {})
    reward_model.run(config.reward_model, given[BASE], given[SFT], rows, given[TRAIN], out)


# ── the card ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def measure(config: RewardConfig, given: Inputs, out: StageFolder) -> None:
    """Accuracy, calibration and biases of the reward model on comparisons that it was not trained on."""
    score = RewardModel.load(given[BASE], given[REWARD_MODEL]).score
    reward_card.run(score, given[HELD_OUT_COMPARISONS], given[TRAIN], out)


# ── estimates ────────────────────────────────────────────────────────────────────────────────────────────────────────
def ranking_work(config: RewardConfig, workload: Workload, comparisons: Sequence[Comparison]) -> Work:
    """All members' epochs over the comparisons, and the demonstrations that set the level of the scores."""
    rows = config.rows(comparisons, workload.constitution.texts)
    found, too_long = reward_model.ranked(rows, workload.chat, config)
    fates = loop.too_long("the reward model", too_long, len(found), config.truncation)
    groups = [row.group for row in found]
    steps = loop.plan_batches([group.tokens for group in groups], config.batch_size, 1, config.seed)
    tokens = [n for step in steps for n in group_tokens([groups[i] for i in step], config.micro_batch_size)]
    passes, frozen = config.members * config.epochs, trainable_share(workload) < 1
    states = 4 * workload.config.get_text_config().hidden_size * sum(tokens)
    level = centring_groups(workload.train, workload.chat, config.max_length)
    counts = Counts(
        loads=1,
        train_tokens=passes * sum(tokens),
        lower_tokens=sum(tokens) if frozen else 0,
        checkpoints=config.members * ((len(steps) * config.epochs - 1) // config.checkpoint_every_steps),
        read_tokens=config.members * sum(group_tokens(level, BATCH)),
    )
    kept_mb = min(states // 2**20, config.trunk_cache_mb) if frozen else 0
    return Work(counts, PeakSizes(max(tokens), read_tokens=max(tokens), lower_mb=kept_mb), fates)


def estimate_mixed(config: MixedRewardConfig, workload: Workload) -> Work:
    """People's comparisons, and as many more as prompts are assumed to have a pair that is kept."""
    people = [] if config.feedback.people == "none" else workload.comparisons
    prompts = ai_feedback.select_prompts(config.feedback, workload.constitution, workload.prompts)
    count = round(KEPT_SHARE * len(prompts) * config.feedback.keep)
    judged = [workload.comparisons[i % len(workload.comparisons)] for i in range(count)] if workload.comparisons else []
    return ranking_work(config.reward_model, workload, [*people, *judged])


def estimate_card(config: RewardConfig, workload: Workload) -> Work:
    """Held-out pairs and changed demonstrations, one prompt at a time."""
    scored = [(row.prompt, row.options) for row in workload.held_out if row.pairs()]
    restyled = reward_card.restyled(workload.train)
    scored += [(row.prompt, (row.completion, *changed.values())) for row, changed in restyled]
    groups = [tokenised(prompt, answers, workload.chat, config.max_length) for prompt, answers in scored]
    tokens = group_tokens(groups, 1)
    return Work(Counts(loads=1, read_tokens=config.members * sum(tokens)), PeakSizes(read_tokens=max(tokens)))


# ── report ───────────────────────────────────────────────────────────────────────────────────────────────────────────
KINDS = {"principle": "principle", "failure": "flaw of the worse answer", "group": "group of raters"}
LIMIT = (
    "A reward model is measured on its own kind of data. The held-out comparisons come from the same data set as those "
    "that it was trained on; its accuracy on other people’s preferences, or far from the answers in them, is unknown."
)


def training(record: StageRecord) -> Section | None:
    """The loss by step; null if no step was recorded. Of several members, the last one's."""
    loss = record.curve("train", "nll_nats_per_prompt")
    if not loss:
        return None
    window = max(3, len(loss) // 10) | 1
    smooth = smoothed(loss, window)
    caption = (
        f"On {number(record.setup('comparisons'), 0)} comparisons, training loss went from {smooth[0][1]:.3f} to "
        f"{smooth[-1][1]:.3f} nats per prompt; log 2 = 0.693 is chance for two answers. Of several members, the last."
    )
    curves = (
        Curve(name="each step", style="light", points=loss),
        Curve(name=f"mean of {window} steps", style="smooth", points=smooth),
    )
    chart = LineChart(caption=caption, x="step", y="loss, nats per prompt", curves=curves)
    too_long = str(loop.TooLong(*(record.setup(name) or 0 for name in loop.TooLong._fields)))
    blocks: tuple[Block, ...] = (chart, *([paragraph(f"Comparisons: {too_long}.")] if too_long else []))
    return Section(id=record.name, title=f"Training: {phrase(record.name)}", blocks=blocks)


def section(record: StageRecord) -> Section:
    """The card that `reward_card` wrote."""
    card = record.read(reward_card.CARD)
    best, ceiling, error = card["best_of_4"], card["ceiling"], card["calibration"]["expected_error"]
    notes = [
        f"Best of four answers found: {rate(best)}." if best["n"] else "",
        f"Inter-rater agreement, the ceiling of accuracy: {rate(ceiling)}." if ceiling["n"] else "",
        f"Expected calibration error: {percent(error)}." if error is not None else "",
        "None of the changes below makes an answer better: a preference for them is a bias."
        if any(bias["preferred"]["n"] for bias in card["biases"].values())
        else "Without demonstrations, biases were not measured.",
    ]
    blocks: tuple[Block, ...] = (
        accuracy_table("Held-out accuracy of the reward model", card, KINDS, record),
        paragraph(" ".join(filter(None, notes))),
        *_biases(card["biases"]),
    )
    return Section(id=record.name, title="Reward model", blocks=blocks, limits=(LIMIT,))


def _biases(biases: Mapping[str, Any]) -> tuple[Table, ...]:
    rows = tuple(
        (phrase(name), Rate.of(bias["preferred"]), Number.of(bias["shift_nats"], digits=2), bias["preferred"]["n"])
        for name, bias in biases.items()
        if bias["preferred"]["n"]
    )
    columns = ("The same answer", "Preferred to the original", "Shift of the reward, nats", "n")
    return (Table(caption="Biases of the reward model", columns=columns, rows=rows),) if rows else ()


REWARD = ranking("reward_model", lambda r: r.reward_model, COMPARISONS, lambda w: w.comparisons, check)
REWARD_CARD = Stage(
    "reward_card",
    (reward_card,),
    lambda r: r.reward_model,
    (BASE, REWARD_MODEL, HELD_OUT_COMPARISONS, TRAIN),
    measure,
    recipe_key="reward_model",
    estimate=estimate_card,
    section=section,
)
HOLDOUT = ranking("holdout_reward_model", holdout_config, HELD_OUT_COMPARISONS, lambda w: w.held_out, recipe_key="rl")
COST = ranking("cost_model", cost_config, COMPARISONS, lambda w: w.comparisons, check_cost_model, "cost_model")
PREFERENCE = Stage(
    "preference_model",
    CODE,
    mixed_config,
    (BASE, TEXTS, SFT, COMPARISONS, AI_COMPARISONS, TRAIN),
    run_mixed,
    trains=True,
    estimate=estimate_mixed,
    section=training,
)
