"""The shared arithmetic against values worked out by hand."""

from __future__ import annotations

import itertools
import math

import choix
import pytest
import torch

from steersman.functional import (
    aggregate,
    centred_advantages,
    clipped_surrogate,
    clipped_value_loss,
    davidson_nll,
    gather_scored,
    generalised_advantages,
    group_advantages,
    k1_nats,
    k2_nats,
    k3_nats,
    leave_one_out_advantages,
    plackett_luce_nll,
    preference_nll,
    ranking_nll,
    rao_kupper_nll,
    rater_margins,
    sampler_weights,
    scored_positions,
    sum_per_sequence,
    whiten,
)

# Two sequences: prompt of 2 and completion of 2; prompt of 1, completion of 2, one place of padding.
IDS = torch.tensor([[5, 6, 7, 8], [9, 3, 4, 0]])
COMPLETION = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 0]]).bool()


def test_a_position_is_scored_when_its_successor_belongs_to_the_completion() -> None:
    assert scored_positions(COMPLETION).tolist() == [[False, True, True, False], [True, True, False, False]]


def test_the_last_column_is_never_scored_even_if_the_first_token_is_a_completion_token() -> None:
    mask = torch.tensor([[True, True, True]])
    assert scored_positions(mask).tolist() == [[True, True, False]]
    _, targets = gather_scored(torch.zeros(1, 3, 1), torch.tensor([[7, 8, 9]]), mask)
    assert targets.tolist() == [8, 9]  # 7 has no predecessor, and 9 does not predict 7


def test_gather_pairs_each_hidden_state_with_the_token_after_it() -> None:
    hidden = torch.arange(8.0).reshape(2, 4, 1)  # row * 4 + position
    scored, targets = gather_scored(hidden, IDS, COMPLETION)
    assert scored[:, 0].tolist() == [1, 2, 4, 5]
    assert targets.tolist() == [7, 8, 3, 4]


def test_sums_stay_with_their_sequence() -> None:
    assert sum_per_sequence(torch.tensor([1.0, 2.0, 10.0, 20.0]), COMPLETION).tolist() == [3.0, 30.0]


def test_a_sequence_without_a_completion_sums_to_zero() -> None:
    mask = torch.tensor([[False, False], [False, True]])
    assert sum_per_sequence(torch.tensor([4.0]), mask).tolist() == [0.0, 4.0]


def test_sums_keep_the_precision_of_the_values() -> None:
    assert sum_per_sequence(torch.ones(4, dtype=torch.float64), COMPLETION).dtype == torch.float64


@pytest.mark.parametrize("extra", [1, 5])
def test_padding_on_the_right_changes_nothing(extra: int) -> None:
    hidden = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(hidden, (0, 0, 0, extra), value=9.0)
    ids, mask = torch.nn.functional.pad(IDS, (0, extra)), torch.nn.functional.pad(COMPLETION, (0, extra))
    for plain, wide in zip(gather_scored(hidden, IDS, COMPLETION), gather_scored(padded, ids, mask), strict=True):
        assert torch.equal(plain, wide)


def test_the_token_mean_does_not_depend_on_the_split_into_micro_batches() -> None:
    losses = [torch.tensor([1.0, 2.0, 3.0]), torch.tensor([10.0])]  # a mean of means would be 6, or 4 weighted by rows
    shares = [aggregate(part.sum(), 4) for part in losses]
    assert float(sum(shares)) == 4.0 == float(aggregate(torch.cat(losses).sum(), 4))


def test_a_step_without_scored_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one scored token"):
        aggregate(torch.tensor(0.0), 0)


# ── preferences and policy gradients ─────────────────────────────────────────────────────────────────────────────────
def test_a_preference_costs_what_bradley_and_terry_say() -> None:
    margins = torch.tensor([0.0, math.log(3.0), -200.0], dtype=torch.float64, requires_grad=True)
    losses = preference_nll(margins)
    assert losses.tolist() == pytest.approx([math.log(2.0), math.log(4 / 3), 200.0])
    losses.sum().backward()
    assert margins.grad is not None
    assert margins.grad.tolist() == pytest.approx([-0.5, -0.25, -1.0])


def test_soft_labels_share_the_likelihood() -> None:
    margins = torch.tensor([0.7, 0.7, 0.7, -1.2], dtype=torch.float64)
    labels = torch.tensor([1.0, 0.0, 0.5, 0.25], dtype=torch.float64)
    win, lose = -math.log(1 / (1 + math.exp(-0.7))), -math.log(1 / (1 + math.exp(0.7)))
    last = -0.25 * math.log(1 / (1 + math.exp(1.2))) - 0.75 * math.log(1 / (1 + math.exp(-1.2)))
    assert preference_nll(margins, labels).tolist() == pytest.approx([win, lose, (win + lose) / 2, last])


def test_a_ranking_is_the_mean_of_its_pairs() -> None:
    scores = torch.tensor([[2.0, 0.5, -1.0, 9.0], [0.0, 1.0, 2.0, 3.0], [1.0, 1.0, 1.0, 1.0]], dtype=torch.float64)
    ranks = torch.tensor([[2, 1, 3, 0], [1, 1, 2, 2], [1, 1, 0, 0]])  # 0: no such answer; equal: a tie
    pairs = [(0.5 - 2.0), (0.5 + 1.0), (2.0 + 1.0)], [-2.0, -3.0, -1.0, -2.0]
    wanted = [sum(math.log1p(math.exp(-m)) for m in row) / len(row) for row in pairs]
    assert ranking_nll(scores, ranks).tolist() == pytest.approx([*wanted, 0.0])


def test_a_ranking_of_two_is_a_preference() -> None:
    scores, ranks = torch.randn(5, 2, dtype=torch.float64), torch.tensor([[1, 2]] * 5)
    wanted = preference_nll(scores[:, 0] - scores[:, 1])
    for found in (ranking_nll(scores, ranks), plackett_luce_nll(scores, ranks)):
        torch.testing.assert_close(found, wanted)


def test_plackett_luce_is_the_probability_that_choix_gives() -> None:
    torch.manual_seed(0)
    scores = torch.randn(6, dtype=torch.float64)
    ranks = torch.tensor([[3, 1, 0, 2, 0, 4], [1, 2, 3, 4, 5, 6], [0, 0, 1, 0, 0, 0]])
    rankings = [[1, 3, 0, 5], [0, 1, 2, 3, 4, 5]]  # the items of the first two, the best first
    found = plackett_luce_nll(scores.expand(3, -1), ranks)
    assert found[:2].tolist() == pytest.approx([-choix.log_likelihood_rankings([r], scores.numpy()) for r in rankings])
    assert float(found[2]) == 0.0


def test_all_rankings_of_plackett_luce_add_up_to_one() -> None:
    scores = torch.tensor([0.3, -1.0, 2.0, 0.0], dtype=torch.float64)
    ranks = torch.tensor(list(itertools.permutations([1, 2, 3, 4])))
    assert float(torch.exp(-plackett_luce_nll(scores.expand(24, -1), ranks)).sum()) == pytest.approx(1.0)


def test_a_preference_is_what_choix_says() -> None:
    scores, votes = torch.tensor([0.4, -0.3, 1.1], dtype=torch.float64), [(0, 1), (2, 0), (1, 2), (2, 1)]
    margins = torch.stack([scores[winner] - scores[loser] for winner, loser in votes])
    assert float(preference_nll(margins).sum()) == pytest.approx(-choix.log_likelihood_pairwise(votes, scores.numpy()))


def test_ties_of_rao_and_kupper() -> None:
    pi, theta = (3.0, 2.0), 1.5  # strengths and exp(threshold), as in their paper
    first, second = pi[0] / (pi[0] + theta * pi[1]), pi[1] / (pi[1] + theta * pi[0])
    margins, outcomes = torch.full((3,), math.log(pi[0] / pi[1]), dtype=torch.float64), torch.tensor([1, 0, -1])
    found = rao_kupper_nll(margins, outcomes, torch.tensor(math.log(theta), dtype=torch.float64))
    assert torch.exp(-found).tolist() == pytest.approx([first, 1 - first - second, second])


def test_ties_of_davidson() -> None:
    pi, nu = (3.0, 2.0), 0.7
    total = pi[0] + pi[1] + nu * math.sqrt(pi[0] * pi[1])
    margins, outcomes = torch.full((3,), math.log(pi[0] / pi[1]), dtype=torch.float64), torch.tensor([1, 0, -1])
    found = davidson_nll(margins, outcomes, torch.tensor(math.log(nu), dtype=torch.float64))
    wanted = [pi[0] / total, nu * math.sqrt(pi[0] * pi[1]) / total, pi[1] / total]
    assert torch.exp(-found).tolist() == pytest.approx(wanted)


def test_a_rater_can_be_right_random_lying_or_lean_to_a_side() -> None:
    margin = torch.full((4,), 2.0)
    found = rater_margins(
        margin,
        trust=torch.tensor([1.0, 0.0, -1.0, 1.0]),
        side=torch.tensor([1.0, 0.0, 1.0, -1.0]),
        bias=torch.tensor([0.0, 5.0, 0.0, 0.5]),
    )
    assert found.tolist() == [2.0, 0.0, -2.0, 1.5]


def test_gradients_of_the_likelihoods_by_finite_differences() -> None:
    torch.manual_seed(1)
    scores, margins = (torch.randn(*shape, dtype=torch.double, requires_grad=True) for shape in ((3, 4), (3,)))
    ranks, outcomes = torch.tensor([[2, 1, 3, 0], [1, 2, 4, 3], [1, 0, 0, 2]]), torch.tensor([1, 0, -1])
    parameter = torch.tensor(0.4, dtype=torch.double, requires_grad=True)
    labels = torch.tensor([0.2, 0.9, 0.5], dtype=torch.double)
    assert torch.autograd.gradcheck(lambda s: ranking_nll(s, ranks), (scores,))
    assert torch.autograd.gradcheck(lambda s: plackett_luce_nll(s, ranks), (scores,))
    assert torch.autograd.gradcheck(lambda m: preference_nll(m, labels), (margins,))
    for likelihood in (rao_kupper_nll, davidson_nll):
        assert torch.autograd.gradcheck(lambda m, t, f=likelihood: f(m, outcomes, t), (margins, parameter))


def test_advantages_are_standardised_within_a_group() -> None:
    rewards = torch.tensor([[1.0, 3.0], [5.0, 5.0]])
    root = 2**0.5  # the sample's standard deviation of 1 and 3
    found = group_advantages(rewards, epsilon=0.5)
    assert found.flatten().tolist() == pytest.approx([-1 / (root + 0.5), 1 / (root + 0.5), 0.0, 0.0])


def test_advantages_against_the_mean_of_all_and_of_the_others() -> None:
    rewards = torch.tensor([[1.0, 2.0, 6.0]])
    assert centred_advantages(rewards).tolist() == [[-2.0, -1.0, 3.0]]
    assert leave_one_out_advantages(rewards).tolist() == [[1 - 4.0, 2 - 3.5, 6 - 1.5]]
    with pytest.raises(ValueError, match="at least two answers"):
        leave_one_out_advantages(rewards[:, :1])


def test_generalised_advantages_by_hand() -> None:
    rewards, values = torch.tensor([[0.0, 0.0, 1.0, 9.0]]), torch.tensor([[0.5, 0.2, 0.4, 9.0]])
    mask = torch.tensor([[True, True, True, False]])  # what lies behind the end must not count
    advantages, returns = generalised_advantages(rewards, values, mask, gamma=0.9, lam=0.5)
    third = 1.0 - 0.4
    second = 0.9 * 0.4 - 0.2 + 0.45 * third
    first = 0.9 * 0.2 - 0.5 + 0.45 * second
    assert advantages[0].tolist() == pytest.approx([first, second, third, 0.0])
    assert returns[0].tolist() == pytest.approx([first + 0.5, second + 0.2, 1.0, 0.0])


def test_generalised_advantages_at_their_two_ends() -> None:
    torch.manual_seed(0)
    rewards, values = torch.randn(3, 6, dtype=torch.double), torch.randn(3, 6, dtype=torch.double)
    mask = torch.arange(6) < torch.tensor([[6], [3], [1]])
    _, monte_carlo = generalised_advantages(rewards, values, mask, gamma=1.0, lam=1.0)
    assert monte_carlo[:, 0].tolist() == pytest.approx((rewards * mask).sum(1).tolist())  # whatever the values
    one_step, _ = generalised_advantages(rewards, values, mask, gamma=0.7, lam=0.0)
    assert float(one_step[1, 1]) == pytest.approx(float(rewards[1, 1] + 0.7 * values[1, 2] - values[1, 1]))
    assert float(one_step[1, 2]) == pytest.approx(float(rewards[1, 2] - values[1, 2]))


def test_whitening_looks_at_the_mask_alone() -> None:
    values, mask = torch.tensor([[1.0, 3.0, 100.0]]), torch.tensor([[True, True, False]])
    root = 2**0.5  # the deviation of 1 and 3
    assert whiten(values, mask).flatten().tolist() == pytest.approx([-1 / root, 1 / root, 0.0])


def test_a_critic_gains_nothing_by_a_step_that_is_too_long() -> None:
    values = torch.tensor([1.1, 2.0, -1.0], requires_grad=True)
    losses = clipped_value_loss(values, old=torch.tensor([1.0, 1.0, 1.0]), returns=torch.tensor([2.0, 2.0, 2.0]))
    assert losses.tolist() == pytest.approx([0.5 * 0.9**2, 0.5 * 0.8**2, 0.5 * 9.0])
    losses.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == pytest.approx([-0.9, 0.0, -3.0])


@pytest.mark.parametrize(("kind", "right"), [("reward", True), ("k2", True), ("k3", False), ("k1", False)])
def test_gradients_of_the_divergence(kind: str, right: bool) -> None:
    """Expected over the policy's own tokens, all of a vocabulary of five, against the exact reverse KL's gradient."""
    torch.manual_seed(2)
    logits = torch.randn(5, dtype=torch.double, requires_grad=True)
    reference = torch.log_softmax(torch.randn(5, dtype=torch.double), 0)
    policy = torch.log_softmax(logits, 0)
    (exact,) = torch.autograd.grad((policy.exp() * (policy - reference)).sum(), logits, retain_graph=True)
    drawn = policy.exp().detach()
    losses = {
        "reward": k1_nats(policy, reference).detach() * policy,  # the policy gradient of a penalty in the reward
        "k1": k1_nats(policy, reference),
        "k2": k2_nats(policy, reference),
        "k3": k3_nats(policy, reference),
    }
    (found,) = torch.autograd.grad((drawn * losses[kind]).sum(), logits)
    assert torch.allclose(found, exact, atol=1e-12) == right
    if kind == "k1":
        torch.testing.assert_close(found, torch.zeros_like(found), atol=1e-12, rtol=0)


def test_the_surrogate_is_clipped_where_the_step_would_go_too_far() -> None:
    old = torch.zeros(6)
    logprobs = torch.tensor([0.0, 0.5, 0.5, -0.5, -0.5, 0.1], requires_grad=True)
    advantages = torch.tensor([2.0, 1.0, -1.0, 1.0, -1.0, 1.0])
    losses = clipped_surrogate(logprobs, old, advantages, low=0.2, high=0.3)
    up, down, small = math.exp(0.5), math.exp(-0.5), math.exp(0.1)
    assert losses.tolist() == pytest.approx([-2.0, -1.3, up, -down, 0.8, -small])
    losses.sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([-2.0, 0.0, up, -down, 0.0, -small])


def test_what_another_distribution_sampled_counts_as_the_policy_would_have_it() -> None:
    policy, sampler = torch.tensor([0.2, 0.5, 0.3]).log(), torch.tensor([0.6, 0.3, 0.1]).log()
    assert (sampler.exp() * sampler_weights(policy, sampler, cap=10)).tolist() == pytest.approx([0.2, 0.5, 0.3])
    assert sampler_weights(policy, sampler).tolist() == pytest.approx([1 / 3, 5 / 3, 2.0])


def test_k3_is_zero_where_policies_agree_and_never_negative() -> None:
    logprobs = torch.tensor([-1.0, -1.0, -3.0], dtype=torch.float64)
    reference = torch.tensor([-1.0, -2.0, -1.0], dtype=torch.float64)
    assert k3_nats(logprobs, reference).tolist() == pytest.approx([0.0, math.exp(-1), math.exp(2) - 3])


def test_k3_estimates_the_divergence() -> None:
    policy, reference = torch.tensor([0.2, 0.5, 0.3]).log(), torch.tensor([0.6, 0.3, 0.1]).log()
    assert float((policy.exp() * k3_nats(policy, reference)).sum()) == pytest.approx(
        float((policy.exp() * (policy - reference)).sum())
    )
