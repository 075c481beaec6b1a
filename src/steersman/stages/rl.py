"""`rl`: PPO, RLOO or GRPO on a reward model's score, evaluated by what nothing optimises."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from steersman.cost.work import (
    Counts,
    PeakSizes,
    Work,
    Workload,
    as_rollouts,
    assumed_lengths,
    group_tokens,
    schedule,
    total,
    trainable_share,
)
from steersman.data.sources import spread
from steersman.evals import scores
from steersman.evals.detectors import behaviours
from steersman.lm import vllm_engine
from steersman.lm.device import Hardware
from steersman.lm.reward_model import BATCH
from steersman.lm.shared_prefix import Group
from steersman.report.blocks import Answer, Block, Curve, Details, Exchange, LineChart, Number, Rate, Section, Table
from steersman.report.evidence import Points, StageRecord
from steersman.report.format import finite, percent, signed
from steersman.stage import Inputs, Sources, Stage, optional
from steersman.stages.inputs import (
    BASE,
    COST_MODEL,
    HELD_OUT_PROMPTS,
    HOLDOUT_REWARD_MODEL,
    OFFLINE_POLICY,
    PREFERENCE_MODEL,
    PROMPTS,
    REWARD_FUNCTION,
    TRAIN,
)
from steersman.stages.reward_model import cost_config
from steersman.store import StageFolder
from steersman.train.rl import grpo, loop, ppo, rloo
from steersman.train.rl.actor import KL_POSITIONS
from steersman.train.rl.evaluation import EVAL_ANSWERS, People
from steersman.train.rl.grpo import GrpoConfig
from steersman.train.rl.ppo import PpoConfig
from steersman.train.rl.reward_function import reward_function
from steersman.train.rl.rloo import RlooConfig
from steersman.types import Prompt

LABELS = "labels.jsonl"  # in a run: what people said of answers; it outlives the stage
SCORE_MODEL, HOLDOUT_MODEL = optional(PREFERENCE_MODEL), optional(HOLDOUT_REWARD_MODEL)
AnyRlConfig = RlooConfig | GrpoConfig | PpoConfig


def run(config: AnyRlConfig, given: Inputs, out: StageFolder) -> None:
    """Maximise the reward model's score; the checkpoint is selected by labels that nothing optimises."""
    watched = given[HELD_OUT_PROMPTS]
    data = loop.RlData(given[PROMPTS], [row for row in watched if row.expect] or watched, given[TRAIN])
    monitors = _monitors(config, data, given, out)
    start, reward = given[OFFLINE_POLICY], given[SCORE_MODEL]
    loop.run(config, algorithm(config), given[BASE], start, reward, data, out, monitors)


def algorithm(config: AnyRlConfig) -> loop.Algorithm:
    """The algorithm of a configuration."""
    match config:
        case RlooConfig():
            return rloo.algorithm(config)
        case GrpoConfig():
            return grpo.algorithm(config)
        case PpoConfig():
            return ppo.algorithm(config)


def _monitors(config: AnyRlConfig, data: loop.RlData, given: Inputs, out: StageFolder) -> loop.Monitors:
    constrained = config.constraint.behaviours if config.constraint else ()
    # Whether an answer shows what its prompt expects is never optimised; it selects the checkpoint.
    passes = scores.passes if any(row.expect for row in data.held_out) else None
    return loop.Monitors(
        gold=People(out.path.parent / LABELS) if config.evaluation.gold == "people" else passes,
        cost=functools.partial(scores.violates, constrained) if constrained else None,
        metrics={"refused": scores.refused},
        holdout_reward_model=given[HOLDOUT_MODEL],
        cost_model=given[COST_MODEL],
    )


def check(config: AnyRlConfig, sources: Sources) -> None:
    """Refuse rl without held-out prompts, a constraint without its model, int8 off the CPU, and a missing engine."""
    recipe = sources.recipe
    if config.reward:
        reward_function(config.reward)
        if config.algorithm == "ppo" and not recipe.reward_model:
            raise recipe.conflict(
                "ppo's critic starts as a reward model", "rl.algorithm", "rl.reward", do="use grpo or rloo, or add one"
            )
    elif not recipe.reward_model:
        raise recipe.conflict(
            "rl needs reward_model, or rl.reward", "rl", do="add reward_model: {}, or name a function"
        )
    if not recipe.examples.held_out_prompts:
        raise recipe.conflict(
            "rl is evaluated on held-out prompts",
            "rl",
            "examples.held_out_prompts",
            do="set examples.held_out_prompts: 0.2",
        )
    if config.constraint and config.constraint.costs_below is not None and not recipe.cost_model:
        raise recipe.conflict(
            "rl.constraint.costs_below needs a cost_model",
            "rl.constraint.costs_below",
            "cost_model",
            do="add cost_model: {principles: [...]}",
        )
    if config.rollouts.int8 and recipe.hardware != Hardware():
        raise recipe.conflict(
            "rl.rollouts.int8 quantises float32 weights on a CPU",
            "rl.rollouts.int8",
            "hardware",
            do="set rl.rollouts.int8: false",
        )
    approximate = {
        "rl.vocabulary": config.vocabulary == "compact",
        "rl.rollouts.int8": config.rollouts.int8,
        "rl.rollouts.engine": config.rollouts.engine == "vllm",
    }
    for key in (key for key, wanted in approximate.items() if wanted and recipe.trains_whole_modules):
        raise recipe.conflict(
            f"{key} samples with a copy of frozen weights, and lora.modules_to_save trains some",
            key,
            "sft.lora.modules_to_save",
            do="take one of them out",
        )
    if config.rollouts.engine == "vllm":
        if recipe.hardware.weights != "full":
            raise recipe.conflict(
                "vLLM would sample from the original weights, and the policy has 4-bit ones",
                "rl.rollouts.engine",
                "hardware.weights",
                do="set rl.rollouts.engine: steersman",
            )
        vllm_engine.check()


# ── estimate ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def estimate(config: AnyRlConfig, workload: Workload) -> Work | None:
    """Rollouts, scoring and updates of every step, and the evaluations between them; None with vLLM's own process."""
    if config.rollouts.engine == "vllm":
        return None
    limits, is_ppo = config.rollouts, config.algorithm == "ppo"
    mean = workload.like_demonstrations(limits.max_new_tokens)
    turns = loop.turns_of(config, workload.prompts)
    rollouts = [_rollout(config, workload, [workload.prompts[i] for i in turn], limits.answers, mean) for turn in turns]
    watched = spread(workload.held_out_prompts, config.evaluation.prompts)
    count = math.ceil(config.steps / config.evaluation.every_steps) + 1
    evaluations = [_rollout(config, workload, watched, 1, mean)] * count
    size = config.micro_batch_size

    trained = [
        groups[: config.top_prompts_by_reward_std] for groups, _ in rollouts
    ]  # which prompts these are depends on rewards
    train_tokens = sum(n for groups in trained for n in group_tokens(groups, size))
    read_once = sum(n for groups, _ in (*rollouts, *evaluations) for n in group_tokens(groups, size))
    evaluated = sum(n for groups, _ in evaluations for n in group_tokens(groups, size))
    positions = sum(len(ids) for groups in trained for group in groups for ids in group.completions)
    kl_positions = sum(
        min(KL_POSITIONS, sum(len(ids) for g in groups for ids in g.completions)) for groups, _ in evaluations
    )
    examples = workload.train_examples
    ptx_tokens = 0.0
    if config.ptx_coef:
        mean_row = sum(len(e.token_ids) for e in examples) / len(examples)
        ptx_tokens = config.steps * config.updates * mean_row * limits.prompts

    share, sampled = trainable_share(workload), total(*(counts for _, counts in (*rollouts, *evaluations)))
    critic = 2 if is_ppo else 0  # passes of PPO's critic before it learns, as the policy's
    counts = sampled._replace(
        loads=1,
        train_tokens=config.updates * (2 if is_ppo else 1) * train_tokens + ptx_tokens,
        lower_tokens=read_once + ptx_tokens if share < 1 else 0,
        # The reference, and PPO before it learns, take one of the three products of a learning step.
        train_scored=positions * (config.updates + (1 + critic / 2) / 3),
        checkpoints=config.steps // config.checkpoint_every_steps,
        read_tokens=sampled.read_tokens
        + share * (_scored_tokens(workload, rollouts, evaluations) + (1 + critic) * train_tokens + 2 * evaluated),
        scored_tokens=3 * kl_positions,  # over the whole vocabulary: the KL of two models, and an entropy
    )
    widest = max(n for groups in trained for n in group_tokens(groups, size))
    longest = max(sum(map(len, group.completions)) for groups, _ in rollouts for group in groups)
    prompt = max(len(group.prompt) for groups, _ in rollouts for group in groups)
    cached = limits.prompts * limits.answers * (limits.max_new_tokens + prompt)
    return Work(counts, PeakSizes(widest, size * longest, widest, size * longest, cached))


Rollout = tuple[list[Group], Counts]


def _rollout(config: AnyRlConfig, workload: Workload, prompts: Sequence[Prompt], answers: int, mean: float) -> Rollout:
    """Prompts with answers of about the mean length, and the work of sampling them; a prompt is read once."""
    limits, chat = config.rollouts, workload.chat
    starts = [chat.prompt_within(row.prompt, limits.max_prompt_tokens) for row in prompts]
    lengths = assumed_lengths(mean, limits.max_new_tokens, len(prompts) * answers)
    counts, _ = schedule([max(map(len, starts))] * len(lengths), lengths, 0, len(lengths))
    groups = [
        Group(start, [[0] * n for n in lengths[i * answers : (i + 1) * answers]]) for i, start in enumerate(starts)
    ]
    return groups, as_rollouts(counts, answers)


def _scored_tokens(workload: Workload, rollouts: Sequence[Rollout], evaluations: Sequence[Rollout]) -> int:
    """Tokens that the reward model, the cost model and, at evaluations, the holdout reward model read."""
    reward, cost = workload.recipe.reward_model, cost_config(workload.recipe)
    members = (reward.members if reward else 0) + (cost.members if cost else 0)
    trained = [members * n for groups, _ in rollouts for n in group_tokens(groups, BATCH)]
    evaluated = [(members + 1) * n for groups, _ in evaluations for n in group_tokens(groups, BATCH)]
    return sum(trained) + sum(evaluated)


# ── report ───────────────────────────────────────────────────────────────────────────────────────────────────────────
EVAL_EVENT, SELECTED_EVENT = "evaluation", "selected"  # events
KL, REWARD, HOLDOUT, GOLD, GOLD_WORSE = "kl_nats_per_answer", "score", "holdout_score", "gold", "gold_worse"
EVAL_PROMPTS = "held_out_prompts"  # of the setup: prompts that every checkpoint answers
PROMPTS_SHOWN = 4  # with their answers at several checkpoints
KL_AXIS = "KL to the reference model, nats per answer"
LIMIT = (
    "One seed of reinforcement learning. Another seed takes another path, and the checkpoint was selected on the same "
    "held-out prompts whose gold labels are shown."
)

Row = Mapping[str, Any]


def section(record: StageRecord) -> Section | None:
    """The evaluations of the checkpoints; null where there were none."""
    rows = record.rows(EVAL_EVENT)
    if not rows:
        return None
    selected = next(iter(record.rows(SELECTED_EVENT)), {})
    blocks: list[Block] = [_rewards(rows, record)]
    if rows[0].get(GOLD) is not None:
        blocks.append(_gold(rows, selected))
    blocks.append(Details(title="Every checkpoint as a table", blocks=(_table(rows),)))
    blocks.append(Details(title="Sampled answers by checkpoint", blocks=tuple(_samples(rows, selected, record))))
    return Section(id=record.name, title="Reinforcement learning", blocks=tuple(blocks), limits=(LIMIT,))


def _against_kl(rows: Sequence[Row], column: str) -> Points:
    pairs = ((finite(row[KL]), finite(row.get(column))) for row in rows)
    return tuple((kl, value) for kl, value in pairs if kl is not None and value is not None)


def _rewards(rows: Sequence[Row], record: StageRecord) -> LineChart:
    first, last = rows[0], rows[-1]
    caption = (
        f"{record.recipe['rl']['algorithm'].upper()}, {last['step']} steps: the mean reward of answers "
        f"to {record.setup(EVAL_PROMPTS)} held-out prompts went from {signed(first[REWARD])} to "
        f"{signed(last[REWARD])} nats"
    )
    curves = [Curve(name="reward that is optimised", style="smooth", points=_against_kl(rows, REWARD))]
    if first.get(HOLDOUT) is not None:
        caption += f", that of the held-out reward model from {signed(first[HOLDOUT])} to {signed(last[HOLDOUT])}"
        points = _against_kl(rows, HOLDOUT)
        curves.append(Curve(name="reward model trained on other data", style="light", points=points))
    return LineChart(caption=f"{caption}.", x=KL_AXIS, y="reward, nats", curves=tuple(curves))


def _gold(rows: Sequence[Row], selected: Row) -> LineChart:
    caption = (
        f"Gold labels, which nothing optimises: {percent(rows[0][GOLD])} before, {percent(rows[-1][GOLD])} at the end. "
        f"The policy of step {selected.get('step')} was selected, the highest by all labels "
        f"({percent(selected.get(GOLD))}). The probability that the last policy is worse is "
        f"{percent(selected.get(GOLD_WORSE))}."
    )
    curve = Curve(name="gold", style="marked", points=_against_kl(rows, GOLD))
    return LineChart(caption=caption, x=KL_AXIS, y="mean gold label", curves=(curve,))


def _table(rows: Sequence[Row]) -> Table:
    columns = ("Step", "KL per answer", "Reward", "Gold", "Refused", "Terminated", "Tokens", "Repeats", "Entropy")

    def cells(row: Row) -> tuple[int | str | Number | Rate, ...]:
        def figure(column: str, digits: int = 2) -> Number:
            return Number(value=finite(row.get(column)), digits=digits)

        gold = row.get(GOLD)
        return (
            row["step"],
            figure(KL),
            figure(REWARD),
            "–" if gold is None else Rate(value=gold),
            Rate(value=finite(row.get("refused"))),
            Rate(value=finite(row.get("terminated"))),
            figure("mean_answer_tokens", 0),
            Rate(value=finite(row.get("repeated_trigrams"))),
            figure("entropy_nats_per_token"),
        )

    return Table(caption="Checkpoints on held-out prompts", columns=columns, rows=tuple(map(cells, rows)))


def _samples(rows: Sequence[Row], selected: Row, record: StageRecord) -> list[Exchange]:
    """Some prompts with their answers at the first, middle, selected and last checkpoint."""
    steps, answers = [row["step"] for row in rows], record.read(EVAL_ANSWERS)
    shown = {0, selected.get("step", 0), steps[len(steps) // 2], steps[-1]}
    count = 1 + max((row["index"] for row in answers), default=-1)
    exchanges = []
    for index in list(range(0, count, max(1, count // PROMPTS_SHOWN)))[:PROMPTS_SHOWN]:
        own = [row for row in answers if row["index"] == index and row["step"] in shown]
        sampled = tuple(
            Answer(
                name=f"Step {row['step']}",
                text=row["answer"],
                note=f"reward {signed(row[REWARD])}",
                strong=row["step"] == selected.get("step"),
            )
            for row in own
        )
        exchanges.append(Exchange(prompt=own[0]["prompt"], answers=sampled))
    return exchanges


RL: Stage[AnyRlConfig] = Stage(
    "rl",
    (loop, grpo, ppo, rloo, scores, behaviours),
    lambda r: r.rl,
    (BASE, OFFLINE_POLICY, SCORE_MODEL, HOLDOUT_MODEL, REWARD_FUNCTION, COST_MODEL, PROMPTS, HELD_OUT_PROMPTS, TRAIN),
    run,
    trains=True,
    check=check,
    estimate=estimate,
    section=section,
)
