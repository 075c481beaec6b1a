"""The toy world has what facts about alignment need: a policy to improve, a proxy to over-optimise, raters to doubt.

Nothing here is trained by reinforcement learning; best-of-n stands for it. What depends on votes is asserted over
several draws of them. The policy is one training: what the rest needs of it is asserted first. Margins are wide, and
measured numbers are in the docstrings.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from steersman.data import toy_world as world
from steersman.data.toy_world import ToyQuestion as Question
from steersman.data.toy_world import ToyRater as Rater
from steersman.data.toy_world import ToyVote as Vote
from steersman.functional import preference_nll, rater_margins
from steersman.lm.language_model import LocalModel
from steersman.lm.sampling import Request, SamplingConfig

pytestmark = pytest.mark.slow

EACH = 384  # answers to each prompt


def minimise(parameters: Sequence[Tensor], loss: Callable[[], Tensor]) -> None:
    """L-BFGS on a smooth loss."""
    optimiser = torch.optim.LBFGS(parameters, max_iter=500, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(closure)


# ── the policy ───────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture(scope="module")
def policy(fine_tuned: Path) -> LocalModel:
    return LocalModel.load(fine_tuned / "base", fine_tuned / "sft")


class Sampled(NamedTuple):
    """``texts`` of one prompt after the other; ``features``: [prompts, EACH, F]; ``true``: [prompts, EACH]."""

    prompts: list[str]
    texts: list[str]
    features: Tensor
    true: Tensor


@pytest.fixture(scope="module")
def sampled(policy: LocalModel) -> Sampled:
    prompts = [prompt for prompt in world.PROMPTS[::3] for _ in range(EACH)]
    config = SamplingConfig(max_new_tokens=24, temperature=1.0, batch_size=512)
    completions = sorted(policy.answers(Request(prompts, config)), key=lambda completion: completion.index)
    texts = [completion.text for completion in completions]
    rows = list(zip(prompts, texts, strict=True))
    numbers = torch.tensor([features(*row) for row in rows], dtype=torch.float64)
    true = torch.tensor([world.true_reward(*row) for row in rows], dtype=torch.float64)
    return Sampled(prompts, texts, numbers.view(-1, EACH, numbers.shape[1]), true.view(-1, EACH))


def features(prompt: str, answer: str) -> list[float]:
    """What a linear reward model sees. It cannot see that a length may be too much."""
    said = world.content(prompt, answer)
    return [float(x) for x in (said.facts, said.wrong, said.yields, said.ended, *world.style(answer))]


def test_words_are_tokens(policy: LocalModel) -> None:
    answer = "- purr ! ☺ well nice ."
    ids = policy.sampler.chat.completion_ids(answer)
    assert len(ids) == 8
    assert policy.sampler.chat.decode(ids) == answer
    assert policy.sampler.chat.tokenizer.unk_token_id not in ids + policy.sampler.chat.prompt_ids("i think cats bark")
    assert policy.sampler.chat.tokenizer.unk_token_id in policy.sampler.chat.completion_ids("a dog")


def test_the_policy_has_room_to_improve(sampled: Sampled) -> None:
    """Measured: true reward 0.1 on average with a standard deviation of 1.4, the best of 384 near 2.8."""
    assert -0.6 < float(sampled.true.mean()) < 0.8
    assert float(sampled.true.std()) > 1
    assert float(sampled.true.amax(1).mean()) > 2.4
    texts = set(sampled.texts)
    assert len(texts) > 0.6 * len(sampled.texts), "the policy repeats itself"
    relevant = statistics.mean(
        world.content(prompt, text).facts for prompt, text in zip(sampled.prompts, sampled.texts, strict=True)
    )
    assert relevant > 1, "the policy has not learnt which facts belong to which topic"


# ── best of n ────────────────────────────────────────────────────────────────────────────────────────────────────────
NS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)


def best_of(n: int, proxy: Tensor, reward: Tensor) -> float:
    """The expected reward of the answer that the proxy likes best among n, without bias from all N that were sampled.

    sum over i = n .. N of  C(i - 1, n - 1) / C(N, n)  reward of the i-th worst by the proxy
    """
    count = proxy.shape[1]
    total = math.comb(count, n)
    weights = torch.tensor([math.comb(i, n - 1) / total for i in range(count)], dtype=torch.float64)
    return float((reward.gather(1, proxy.argsort(1)) * weights).sum(1).mean())


def root_kl(n: int) -> float:
    """The square root of KL(best of n || policy) in nats, log n - (n - 1) / n."""
    return math.sqrt(math.log(n) - (n - 1) / n)


def gao_fit(rewards: Sequence[float]) -> float:
    """R^2 of R(d) = d (a - b d), best-of-n's form in Gao et al. 2022 (arXiv:2210.10760), R counted from n = 1."""
    d = torch.tensor([root_kl(n) for n in NS], dtype=torch.float64)
    gained = torch.tensor(rewards, dtype=torch.float64) - rewards[0]
    terms = torch.stack([d, -d * d], 1)
    fitted = terms @ torch.linalg.lstsq(terms, gained[:, None]).solution[:, 0]
    return 1 - float(((gained - fitted) ** 2).sum() / ((gained - gained.mean()) ** 2).sum())


def linear_proxy(found: Sequence[Vote]) -> Tensor:
    """Weights of the features that explain some votes best, [F]."""
    differences = torch.tensor(
        [
            [
                a - b
                for a, b in zip(*(features(vote.question.prompt, text) for text in vote.question.options), strict=True)
            ]
            for vote in found
        ],
        dtype=torch.float64,
    )
    labels = torch.tensor([1.0 - vote.choice for vote in found], dtype=torch.float64)
    weights = torch.zeros(differences.shape[1], dtype=torch.float64, requires_grad=True)
    minimise([weights], lambda: preference_nll(differences @ weights, labels).mean() + 1e-3 * (weights**2).sum())
    return weights.detach()


def test_best_of_n_by_the_true_reward_raises_it(sampled: Sampled) -> None:
    rewards = [best_of(n, sampled.true, sampled.true) for n in NS]
    assert rewards == sorted(rewards)
    assert rewards[0] == pytest.approx(float(sampled.true.mean()))
    assert rewards[NS.index(16)] > rewards[0] + 1.5


@pytest.mark.parametrize("seed", range(3))
def test_best_of_n_by_a_biased_proxy_raises_and_then_lowers_it(seed: int, sampled: Sampled) -> None:
    """Raters who like length and flattery: the true reward peaks near n = 12 and falls again. Honest ones: it does not.

    Measured over the draws of votes: 0.15 on average, 1.16 to 1.23 at the peak, 0.52 to 0.66 at n = 256, and 2.61 with
    honest raters; R^2 of Gao's form 0.993 and more.
    """
    asked = world.questions(3000, seed)
    curves = {}
    for name, bias in {"honest": 0.0, "biased": 0.3}.items():
        rater = Rater(name=name, length_bias=bias, flattery_bias=bias)
        proxy = sampled.features @ linear_proxy(world.votes(world.population(20, rater), asked, each=100, seed=seed))
        curves[name] = [best_of(n, proxy, sampled.true) for n in NS]
        by_itself = [best_of(n, proxy, proxy) for n in NS]
        assert by_itself == sorted(by_itself)
    biased, honest = curves["biased"], curves["honest"]
    assert max(biased) > biased[0] + 0.5
    assert biased[-1] < max(biased) - 0.2
    assert 4 <= NS[biased.index(max(biased))] <= 64
    assert gao_fit(biased) >= 0.9
    assert honest[-1] > max(honest) - 0.05
    assert honest[-1] > max(biased) + 0.5


# ── raters ───────────────────────────────────────────────────────────────────────────────────────────────────────────
ANSWERS = 40
PAIRS_EACH = 60


class Case(NamedTuple):
    """Answers to one prompt with their true rewards, [ANSWERS], and a question for every pair of them."""

    answers: list[str]
    true: Tensor
    asked: list[Question]


@pytest.fixture(scope="module")
def case() -> Case:
    prompt, generator = "describe cats", random.Random(0)
    answers: list[str] = []
    while len(answers) < ANSWERS:
        answer = world.sample_answer(prompt, generator)
        answers += [answer] * (answer not in answers)
    true = torch.tensor([world.true_reward(prompt, answer) for answer in answers], dtype=torch.float64)
    asked = [
        Question(prompt=prompt, options=(first, second)) for i, first in enumerate(answers) for second in answers[:i]
    ]
    return Case(answers, true, asked)


class Fit(NamedTuple):
    scores: Tensor
    trust: Tensor
    bias: Tensor


def fit(case: Case, found: Sequence[Vote], raters: Sequence[Rater], prior: Tensor | None = None) -> Fit:
    """Bradley-Terry scores of the answers; given a prior trust of the raters, [raters], with trusts and side biases.

    Priors: scores N(0, 10), trusts N(prior, 2), biases N(0, 1).
    """
    place = {answer: i for i, answer in enumerate(case.answers)}
    number = {rater.name: i for i, rater in enumerate(raters)}
    first, second = (torch.tensor([place[vote.question.options[i]] for vote in found]) for i in (0, 1))
    who = torch.tensor([number[vote.rater] for vote in found])
    side = torch.tensor([1.0 - 2 * vote.left for vote in found], dtype=torch.float64)
    labels = torch.tensor([1.0 - vote.choice for vote in found], dtype=torch.float64)
    centre = torch.ones(len(raters), dtype=torch.float64) if prior is None else prior
    scores = torch.zeros(len(case.answers), dtype=torch.float64, requires_grad=True)
    trust, bias = centre.clone().requires_grad_(prior is not None), torch.zeros_like(centre).requires_grad_()

    def loss() -> Tensor:
        margins = scores[first] - scores[second]
        if prior is not None:
            margins = rater_margins(margins, trust[who], side, bias[who])
        penalty = (scores**2).sum() / 20 + ((trust - centre) ** 2).sum() / 4 + (bias**2).sum() / 2
        return preference_nll(margins, labels).sum() + penalty

    minimise([scores] if prior is None else [scores, trust, bias], loss)
    return Fit(scores.detach(), trust.detach(), bias.detach())


def trust_by_gold(raters: Sequence[Rater], seed: int) -> Tensor:
    """What three questions with known answers say of each rater: half the logit of their smoothed share, [raters]."""
    gold = world.votes(raters, world.gold_questions(3, seed), each=3, seed=seed)
    right = {rater.name: sum(v.choice == v.question.right for v in gold if v.rater == rater.name) for rater in raters}
    share = torch.tensor([(right[rater.name] + 1) / 5 for rater in raters], dtype=torch.float64)
    return 0.5 * torch.logit(share)


def pair_accuracy(case: Case, scores: Tensor) -> float:
    """The share of pairs with different true rewards that the scores order rightly."""
    i, j = torch.triu_indices(ANSWERS, ANSWERS, 1)
    difference = case.true[i] - case.true[j]
    right = (scores[i] > scores[j]) == (difference > 0)
    return float(right[difference.abs() > 1e-9].double().mean())


def test_liars_ruin_pooled_scores_and_signed_trust_saves_them(case: Case) -> None:
    """30 % liars and 20 % coin-flippers among 20 raters.

    Measured: honest raters 97 to 99 %, the mixed ones pooled 20 to 25 points less, with signed trust 1 point less on
    average and 3.3 at the most. Hence the mean over the seeds.
    """
    honest = world.population(20, Rater(name="rater"))
    mixed = world.population(20, Rater(name="rater"), liars=0.3, coins=0.2)
    accuracies = []
    for seed in range(4):
        by_honest = fit(case, world.votes(honest, case.asked, PAIRS_EACH, seed), honest)
        found = world.votes(mixed, case.asked, PAIRS_EACH, seed)
        pooled, signed = fit(case, found, mixed), fit(case, found, mixed, trust_by_gold(mixed, seed))
        accuracies.append([pair_accuracy(case, one.scores) for one in (by_honest, pooled, signed)])
        for rater, trust in zip(mixed, signed.trust.tolist(), strict=True):
            assert {"honest": trust > 0.3, "liar": trust < -0.3, "coin": abs(trust) < 0.3}[rater.kind], (rater, trust)
    of_honest, of_pooled, of_signed = map(statistics.mean, zip(*accuracies, strict=True))
    assert of_honest >= 0.95
    assert of_pooled <= of_honest - 0.15
    assert of_signed >= of_honest - 0.03


def test_gold_questions_tell_which_sign_is_right(case: Case) -> None:
    """With half the raters lying and a fifth tossing coins, the votes alone say the opposite of the truth."""
    raters = world.population(20, Rater(name="rater"), liars=0.5, coins=0.2)
    found = world.votes(raters, case.asked, PAIRS_EACH)
    without = pair_accuracy(case, fit(case, found, raters, torch.ones(20, dtype=torch.float64)).scores)
    with_gold = pair_accuracy(case, fit(case, found, raters, trust_by_gold(raters, 0)).scores)
    assert without < 0.5
    assert with_gold > 0.9


def test_a_side_bias_is_recovered(case: Case) -> None:
    """Within 0.1 on average over 20 raters after 200 votes each. They vary by 0.17, as they must: after so many votes
    not even a coin's bias is known better than to 0.14."""
    raters = world.population(20, Rater(name="rater", temperature=2.0, side_bias=0.6))
    found = world.votes(raters, case.asked, 200)
    bias = fit(case, found, raters, trust_by_gold(raters, 0)).bias
    assert float(bias.mean()) == pytest.approx(0.6, abs=0.1)
    assert float(bias.std()) < 0.3
