"""The shared arithmetic against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from steersman.functional import (
    aggregate,
    clipped_surrogate,
    gather_scored,
    group_advantages,
    k3_nats,
    preference_nll,
    sampler_weights,
    scored_positions,
    sum_per_sequence,
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


def test_advantages_are_standardised_within_a_group() -> None:
    rewards = torch.tensor([[1.0, 3.0], [5.0, 5.0]])
    root = 2**0.5  # the sample's standard deviation of 1 and 3
    found = group_advantages(rewards, epsilon=0.5)
    assert found.flatten().tolist() == pytest.approx([-1 / (root + 0.5), 1 / (root + 0.5), 0.0, 0.0])


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
