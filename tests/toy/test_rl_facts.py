"""Facts of reinforcement learning in a world whose true reward is known: it raises what it is given to raise.

Each is asserted over `SEEDS`, of rollouts and of the order of prompts: one training is luck, and another processor is
another training. What was measured is in the docstrings.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from steersman.data import toy_world as world
from steersman.lm import pretrained
from steersman.lm.chat_format import ChatFormat, chat_format
from steersman.lm.reward_model import RewardModel
from steersman.lm.shared_prefix import Group
from steersman.store import StageFolder
from steersman.train.loop import OptimiserConfig
from steersman.train.rl import grpo, rloo
from steersman.train.rl import loop as rl
from steersman.train.rl.actor import RolloutConfig
from steersman.train.rl.evaluation import EvaluationConfig
from steersman.train.rl.grpo import GrpoConfig
from steersman.train.rl.loop import Algorithm, Monitors, RlConfig, RlData
from steersman.train.rl.rloo import RlooConfig
from steersman.train.rl.selection import CheckpointEval, select
from steersman.types import Prompt

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

Score = Callable[[str, str], float]
SEEDS = (0, 1, 2)
SLOW = OptimiserConfig(learning_rate=1e-3, schedule="constant", warmup_ratio=0.0)


class Given:
    """Stands in for a reward model: any function of a prompt and an answer."""

    def __init__(self, chat: ChatFormat, score: Score) -> None:
        self.chat, self.score, self.heads = chat, score, ()

    def scores(self, groups: Sequence[Group], below: Any = None) -> Tensor:
        found = []
        for group in groups:
            prompt = self.chat.tokenizer.decode(group.prompt, skip_special_tokens=True)
            prompt = prompt.removeprefix("User: ").removesuffix(" Assistant:")
            found += [self.score(prompt, self.chat.decode(ids)) for ids in group.completions]
        return torch.tensor(found)


@pytest.fixture(scope="module")
def base(fine_tuned: Path) -> Path:
    return fine_tuned / "sft" / "model"


class Course(NamedTuple):
    """At every evaluation: the optimised score, the true reward, and KL(policy || reference) an answer in nats."""

    score: list[float]
    true: list[float]
    kl: list[float]
    evaluations: list[CheckpointEval]


def train(config: RlConfig, algorithm: Algorithm, score: Score, base: Path, out: Path) -> Course:
    """Reinforcement learning on a score, with the true reward as gold."""
    chat = chat_format(pretrained.load_tokenizer(base))
    events: list[dict[str, Any]] = []
    audited: list[Sequence[CheckpointEval]] = []
    out.mkdir()
    stage = StageFolder(out, "rl", lambda **row: events.append(row))
    prompts = [Prompt(prompt=text) for text in world.PROMPTS]

    def true(prompt: Prompt, answer: str) -> float:
        return world.true_reward(prompt.prompt, answer)

    def kept(evaluations: Sequence[CheckpointEval]) -> Any:
        audited.append(evaluations)
        return select(evaluations)

    start, rows = base.parents[1] / "start", RlData(prompts, prompts * 8, [])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RewardModel, "load", lambda *_, **__: Given(chat, score))
        patch.setattr("steersman.train.rl.evaluation.select", kept)
        rl.run(config, algorithm, base, start, Path("none"), rows, stage, Monitors(true))
    evaluations = [event for event in events if event["event"] == "evaluation"]
    return Course(
        *([row[key] for row in evaluations] for key in ("score", "gold", "kl_nats_per_answer")), [*audited[-1]]
    )


def settings(**changes: Any) -> dict[str, Any]:
    return {
        "rollouts": RolloutConfig(prompts=16, answers=8, max_new_tokens=24),
        "evaluation": EvaluationConfig(every_steps=40, prompts=264, stop_at=1),
        "steps": 40,
        "kl_coef": 0.0,
        "optimiser": OptimiserConfig(learning_rate=5e-3, schedule="constant", warmup_ratio=0.0),
        "micro_batch_size": 16,
        "checkpoint_every_steps": 1000,
        **changes,
    }


def biased(prompt: str, answer: str) -> float:
    """The true reward as raters see it who like length and flattery, and do not see that a length may be too much."""
    said, form = world.content(prompt, answer), world.style(answer)
    return (
        said.facts * (1.1 - 0.1 * said.facts)
        - said.wrong
        - said.yields
        - (not said.ended)
        + 0.05 * form.length
        + 0.2 * form.flattery
    )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("algorithm", ["rloo", "grpo"])
def test_it_raises_the_true_reward_when_that_is_the_score(
    algorithm: str, seed: int, base: Path, tmp_path: Path
) -> None:
    """Measured with AVX-512, without AVX, and after 40 steps with AVX2: up by 1.08 to 1.31 (RLOO), 0.92 to 1.31 (GRPO).

    An evaluation has a noise of 0.12.
    """
    short = settings(steps=20, evaluation=EvaluationConfig(every_steps=20, prompts=132, stop_at=1), seed=seed)
    config: RlooConfig | GrpoConfig = RlooConfig(**short)
    if algorithm == "grpo":
        config = GrpoConfig(**short, variant="dapo")
    chosen = rloo.algorithm(config) if isinstance(config, RlooConfig) else grpo.algorithm(config)
    course = train(config, chosen, world.true_reward, base, tmp_path / "out")
    assert course.kl[0] == pytest.approx(0, abs=1e-4)
    assert course.true[-1] > course.true[0] + 0.7


@pytest.fixture(scope="module")
def loose(base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Course]:
    """A biased score without a KL penalty, a training for each of SEEDS, evaluated every five steps."""
    often = EvaluationConfig(every_steps=5, prompts=132, stop_at=1)
    folder, courses = tmp_path_factory.mktemp("loose"), []
    for seed in SEEDS:
        config = RlooConfig(**settings(steps=45, evaluation=often, optimiser=SLOW, seed=seed))
        courses.append(train(config, rloo.algorithm(config), biased, base, folder / str(seed)))
    return courses


@pytest.mark.long
def test_without_a_kl_penalty_a_proxy_is_over_optimised(loose: list[Course]) -> None:
    """The score rises; the true reward falls far below where it began, in Gao's form.

    That it rises before is not asserted: at this rate by 0.1 at the most, where the noise is 1.4 / sqrt(132) = 0.12.
    It is asserted of the same score with a KL penalty, below, and of best-of-n in `test_world.py`.

    Measured over the seeds: score up by 2.6 to 3.2, true reward from 0.1 to -3.0, -4.0 and -5.0; R^2 0.90 to 0.99, of
    the mean curve 0.96.
    """
    for course in loose:
        assert course.score[-1] > course.score[0] + 1.5
        assert course.true[-1] < course.true[0] - 2
        assert gao_fit(course.kl, course.true) > 0.8
    kl = [statistics.mean(row) for row in zip(*(course.kl for course in loose), strict=True)]
    true = [statistics.mean(row) for row in zip(*(course.true for course in loose), strict=True)]
    assert gao_fit(kl, true) > 0.9


def test_an_audit_with_few_labels_stops_in_time_and_takes_a_policy_near_the_peak(loose: list[Course]) -> None:
    """20 labels an evaluation, 20 selections of each training.

    Measured: at most 140 labels; true reward 0.25, 0.13 and 0.29 on average over the selections, at the peaks 0.29,
    0.14 and 0.30, at the end -3 and less.
    """
    for course in loose:
        true = {row.step: value for row, value in zip(course.evaluations, course.true, strict=True)}
        selections = [selected(course.evaluations, 20, seed) for seed in range(20)]
        assert max(spent for _, spent in selections) <= 180
        assert sum(true[step] for step, _ in selections) / 20 > max(course.true) - 0.2


def selected(evaluations: Sequence[CheckpointEval], labels: int, seed: int) -> tuple[int, int]:
    """The step that is taken with labels of so many prompts alone, and how many labels were spent until it stopped."""
    asked = set(random.Random(seed).sample(range(len(evaluations[0].gold)), labels))
    few = [row._replace(gold=[g if i in asked else None for i, g in enumerate(row.gold)]) for row in evaluations]
    for count in range(1, len(few) + 1):
        selection = select(few[:count])
        if selection.p_worse > EvaluationConfig().stop_at:
            break
    return selection.step, count * labels


def gao_fit(kl: Sequence[float], true: Sequence[float]) -> float:
    """R^2 of R(d) = d (a - b log d), d the root of the KL: the form of RL in Gao et al. 2022 (arXiv:2210.10760)."""
    d = torch.tensor([math.sqrt(max(nats, 1e-9)) for nats in kl[1:]], dtype=torch.float64)
    gained = torch.tensor(true[1:], dtype=torch.float64) - true[0]
    terms = torch.stack([d, -d * d.log()], 1)
    fitted = terms @ torch.linalg.lstsq(terms, gained[:, None]).solution[:, 0]
    return 1 - float((gained - fitted).square().sum() / (gained - gained.mean()).square().sum())


@pytest.mark.long
def test_a_kl_penalty_prevents_that(loose: list[Course], base: Path, tmp_path: Path) -> None:
    """Against the training of the same seed without a KL penalty, after as many steps.

    Measured: true reward up by 0.35, 0.39 and 0.56 with it, at 0.7 to 1.1 nats; 2.1 to 4.7 above that without.
    """
    gains, steps = [], [row.step for row in loose[0].evaluations]
    for seed, without in zip(SEEDS, loose, strict=True):
        config = RlooConfig(**settings(kl_coef=0.3, optimiser=SLOW, seed=seed))
        course = train(config, rloo.algorithm(config), biased, base, tmp_path / str(seed))
        assert course.true[-1] > dict(zip(steps, without.true, strict=True))[config.steps] + 1
        gains.append(course.true[-1] - course.true[0])
    assert statistics.mean(gains) > 0.1
