"""Facts of reinforcement learning in a world whose true reward is known: it raises what it is given to raise.

Measured numbers are in the docstrings; margins are wide, seeds fixed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from steersman.data import toy_world as world
from steersman.lm import pretrained
from steersman.lm.chat_format import ChatFormat, chat_format
from steersman.lm.shared_prefix import Group
from steersman.store import StageFolder
from steersman.train.loop import OptimiserConfig
from steersman.train.reward_model import RewardModel
from steersman.train.rl import loop as rl
from steersman.train.rl.actor import RolloutConfig
from steersman.train.rl.evaluation import WatchConfig
from steersman.train.rl.grpo import Grpo, GrpoConfig
from steersman.train.rl.loop import Algorithm, Judges, RlConfig, Rows
from steersman.train.rl.rloo import Rloo, RlooConfig
from steersman.train.rl.selection import Look, audit
from steersman.types import Prompt

pytestmark = pytest.mark.slow

Score = Callable[[str, str], float]


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
    """At every look: the score that is optimised, the true reward, and KL(policy || reference) an answer in nats."""

    score: list[float]
    true: list[float]
    kl: list[float]
    looks: list[Look]


def train(
    config: RlConfig, algorithm: Algorithm, score: Score, base: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> Course:
    """Reinforcement learning on a score, watched by the true reward."""
    chat = chat_format(pretrained.load_tokenizer(base))
    monkeypatch.setattr(RewardModel, "load", lambda *_, **__: Given(chat, score))
    events: list[dict[str, Any]] = []
    audited: list[Sequence[Look]] = []
    monkeypatch.setattr("steersman.train.rl.evaluation.audit", lambda looks: (audited.append(looks), audit(looks))[1])
    out.mkdir()
    stage = StageFolder(out, "rl", lambda **row: events.append(row))
    prompts = [Prompt(prompt=text) for text in world.PROMPTS]

    def true(prompt: Prompt, answer: str) -> float:
        return world.true_reward(prompt.prompt, answer)

    start, rows = base.parents[1] / "start", Rows(prompts, prompts * 8, [])
    rl.run(config, algorithm, base, start, Path("none"), rows, stage, Judges(true))
    looks = [event for event in events if event["event"] == "watch"]
    return Course(*([look[key] for look in looks] for key in ("score", "gold", "kl_nats_per_answer")), [*audited[-1]])


def settings(**changes: Any) -> dict[str, Any]:
    return {
        "rollouts": RolloutConfig(prompts=16, answers=8, max_new_tokens=24),
        "watch": WatchConfig(every_steps=40, prompts=264, stop_at=1),
        "steps": 40,
        "kl_coefficient": 0.0,
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


@pytest.mark.parametrize("algorithm", ["rloo", "grpo"])
def test_it_raises_the_true_reward_when_that_is_the_score(
    algorithm: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config: RlooConfig | GrpoConfig = RlooConfig(**settings())
    if algorithm == "grpo":
        config = GrpoConfig(**settings(), variant="dapo")
    chosen = Rloo(config) if isinstance(config, RlooConfig) else Grpo(config)
    course = train(config, chosen, world.true_reward, base, tmp_path / "out", monkeypatch)
    assert course.kl[0] == pytest.approx(0, abs=1e-4)
    assert course.true[-1] > course.true[0] + 1


def test_without_a_leash_a_proxy_is_over_optimised(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The score rises; the true reward rises, then falls below where it began, in Gao's form.

    Measured: score 0.8 -> 4.2; true reward 0.05 -> 0.28 -> -5; R^2 0.993. An audit with 20 labels a look stops
    after 70 of them (at most 140) and takes a policy with 97 % of the peak's true reward: three trainings, 25 audits
    each.
    """
    slow = OptimiserConfig(learning_rate=1e-3, schedule="constant", warmup_ratio=0.0)
    watch = WatchConfig(every_steps=4, prompts=264, stop_at=1)
    config = RlooConfig(**settings(steps=60, watch=watch, optimiser=slow))
    loose = train(config, Rloo(config), biased, base, tmp_path / "loose", monkeypatch)
    assert loose.score[-1] > loose.score[0] + 2
    assert max(loose.true) > loose.true[0] + 0.1
    assert loose.true[-1] < loose.true[0] - 2
    assert gao_fit(loose) > 0.9
    true = {look.step: value for look, value in zip(loose.looks, loose.true, strict=True)}
    audits = [audited(loose.looks, 20, seed) for seed in range(20)]
    assert max(spent for _, spent in audits) <= 200
    assert sum(true[step] for step, _ in audits) / 20 > 0.95 * max(loose.true)


def audited(looks: Sequence[Look], labels: int, seed: int) -> tuple[int, int]:
    """The step that is taken with labels of so many prompts alone, and how many labels were spent until it stopped."""
    asked = set(random.Random(seed).sample(range(len(looks[0].gold)), labels))
    few = [look._replace(gold=[g if i in asked else None for i, g in enumerate(look.gold)]) for look in looks]
    for count in range(1, len(few) + 1):
        verdict = audit(few[:count])
        if verdict.worse > WatchConfig().stop_at:
            break
    return verdict.step, count * labels


def gao_fit(course: Course) -> float:
    """R^2 of R(d) = d (a - b log d), d the root of the KL: the form of RL in Gao et al. 2022 (arXiv:2210.10760)."""
    d = torch.tensor([math.sqrt(max(kl, 1e-9)) for kl in course.kl[1:]], dtype=torch.float64)
    gained = torch.tensor(course.true[1:], dtype=torch.float64) - course.true[0]
    terms = torch.stack([d, -d * d.log()], 1)
    fitted = terms @ torch.linalg.lstsq(terms, gained[:, None]).solution[:, 0]
    return 1 - float((gained - fitted).square().sum() / (gained - gained.mean()).square().sum())


def test_a_leash_keeps_it_from_that(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = OptimiserConfig(learning_rate=1e-3, schedule="constant", warmup_ratio=0.0)
    config = RlooConfig(**settings(kl_coefficient=0.3, optimiser=slow))
    course = train(config, Rloo(config), biased, base, tmp_path / "leashed", monkeypatch)
    assert course.true[-1] > course.true[0] + 0.15  # 0.5, and not the same on every machine
