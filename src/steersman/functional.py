"""The arithmetic that the training methods share. Pure functions of tensors; no model, no disk.

Notation: B rows of a batch, S sequences in them (one a row, or several that share a prompt), P pairs of sequences, G
sequences of one prompt, K ranked answers, T positions, N scored positions of a whole batch, V tokens, H hidden units.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def scored_positions(completion_mask: Tensor) -> Tensor:
    """Which positions predict a completion token.

    Position t predicts token t + 1, so a position carries loss when its *successor* belongs to the completion.

    Args:
        completion_mask: [B, T] bool, true on the completion's tokens (the terminator is one of them).

    Returns:
        [B, T] bool, true where the hidden state is to be scored; the last column is always false.
    """
    shifted = torch.zeros_like(completion_mask)
    shifted[:, :-1] = completion_mask[:, 1:]
    return shifted


def gather_scored(hidden: Tensor, token_ids: Tensor, completion_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden states at the scored positions and the tokens that they should predict.

    Args:
        hidden: [B, T, H]; token_ids: [B, T]; completion_mask: [B, T] bool.

    Returns:
        ([N, H], [N]) in row-major order of the batch.
    """
    return hidden[scored_positions(completion_mask)], scored_targets(token_ids, completion_mask)


def scored_targets(token_ids: Tensor, completion_mask: Tensor) -> Tensor:
    """The tokens that the scored positions should predict, [N] in row-major order; arguments as `gather_scored`."""
    targets = token_ids.roll(-1, dims=1)  # the wrapped-around last column is never scored
    return targets[scored_positions(completion_mask)]


def sum_per_sequence(values: Tensor, completion_mask: Tensor) -> Tensor:
    """Sum values of the scored positions, [N], per sequence, giving [B]."""
    rows = scored_positions(completion_mask).nonzero()[:, 0]
    return values.new_zeros(completion_mask.shape[0]).index_add(0, rows, values)


def aggregate(loss_sum: Tensor, tokens_in_optimiser_step: float) -> Tensor:
    """Token mean over the whole optimiser step, however it is split into micro-batches.

    Averaging each micro-batch on its own weights a token by the length of its neighbours; dividing every sum by
    the step's *total* count makes the loss invariant to the split.
    """
    if tokens_in_optimiser_step <= 0:
        raise ValueError("an optimiser step needs at least one scored token")
    return loss_sum / tokens_in_optimiser_step


# ── preferences ──────────────────────────────────────────────────────────────────────────────────────────────────────
def preference_nll(margins: Tensor, labels: Tensor | None = None) -> Tensor:
    """Bradley-Terry negative log-likelihood in nats: -p log sigmoid(margin) - (1 - p) log sigmoid(-margin).

    Args:
        margins: [P], the first one's score minus the second one's (minus a target margin, if there is one).
        labels: [P] in [0, 1], P(the first one is better); 1 unless given. A tie is 1/2, as in FastChat.

    Returns:
        [P], to be weighted and averaged.
    """
    nll = -torch.nn.functional.logsigmoid(margins)
    return nll if labels is None else labels * nll - (1 - labels) * torch.nn.functional.logsigmoid(-margins)


def ranking_nll(scores: Tensor, ranks: Tensor) -> Tensor:
    """All pairs of a ranking of K answers, averaged so that each prompt counts once: InstructGPT (arXiv:2203.02155).

    Args:
        scores: [B, K]; ranks: [B, K] ints, 1 for the best; equal ranks are ties and 0 is padding: neither makes pairs.

    Returns:
        [B]; 0 for a row without any pair.
    """
    better = (ranks[:, :, None] < ranks[:, None, :]) & (ranks > 0)[:, :, None]
    losses = preference_nll(scores[:, :, None] - scores[:, None, :])
    return torch.where(better, losses, 0.0).sum((1, 2)) / better.sum((1, 2)).clamp(min=1)


def plackett_luce_nll(scores: Tensor, ranks: Tensor) -> Tensor:
    """-log P(ranking), where answers are drawn one after another in proportion to exp(score), the best first.

    Luce 1959, Plackett 1975. Unlike `ranking_nll` it is the likelihood of one event, and K answers count K - 1 times.

    Args:
        scores: [B, K]; ranks: [B, K] ints, 1 for the best, all different; 0 is padding.

    Returns:
        [B].
    """
    present = ranks > 0
    order = torch.where(present, ranks, ranks.max() + 1).argsort(1)
    ordered = torch.where(present, scores, -torch.inf).gather(1, order)
    # log of the sum over the answers still to be drawn at each place. Padding comes last, with weight 0.
    left = ordered.flip(1).logcumsumexp(1).flip(1)
    return torch.where(present.gather(1, order), left - ordered, 0.0).sum(1)


def rao_kupper_nll(margins: Tensor, outcomes: Tensor, threshold: Tensor) -> Tensor:
    """Bradley-Terry with ties, Rao & Kupper 1967: a difference below a threshold t is not noticed.

        P(first) = sigmoid(m - t)    P(second) = sigmoid(-m - t)    P(tie) = (exp(2 t) - 1) P(first) P(second)

    Args:
        margins: [P]; outcomes: [P] ints: 1 the first one is better, -1 the second, 0 tie; threshold: scalar above 0.

    Returns:
        [P].
    """
    first, second = (torch.nn.functional.logsigmoid(m - threshold) for m in (margins, -margins))
    tie = torch.log(torch.expm1(2 * threshold)) + first + second
    return -torch.where(outcomes > 0, first, torch.where(outcomes < 0, second, tie))


def davidson_nll(margins: Tensor, outcomes: Tensor, log_nu: Tensor) -> Tensor:
    """Bradley-Terry with ties, Davidson 1970: the weight of a tie is nu times the geometric mean of the two.

        P(first) : P(tie) : P(second)  =  exp(m / 2) : nu : exp(-m / 2)

    Args:
        margins, outcomes: as in `rao_kupper_nll`; log_nu: scalar, the log of the tie parameter.

    Returns:
        [P].
    """
    weights = torch.stack([-margins / 2, log_nu.expand_as(margins), margins / 2], 1)
    return -torch.log_softmax(weights, 1).gather(1, outcomes.sign()[:, None].long() + 1)[:, 0]


def rater_margins(margins: Tensor, trust: Tensor, side: Tensor, bias: Tensor) -> Tensor:
    """A rater's logit of preferring the first answer: trust * margin + bias * side.

    A trust of 1 is the plain Bradley-Terry rater, 0 one who flips coins, below 0 one who says the opposite of what they
    see (TriTrust-PBRL, arXiv:2601.18751); the bias is towards the side on which an answer was shown. Scores and trusts
    may all change their sign together and explain the same votes: gold questions decide which sign is right.

    Args:
        margins: [P]; trust, bias: [P], of the rater of each vote; side: [P], 1 if the first answer was shown on the
            left, -1 on the right, 0 if there were no sides.

    Returns:
        [P], for `preference_nll`.
    """
    return trust * margins + bias * side


def minimise(parameters: Sequence[Tensor], loss: Callable[[], Tensor], steps: int = 200) -> None:
    """Minimise a smooth loss over a few parameters by L-BFGS; afterwards they require no gradient.

    For a loss that is not convex, the minimum is a local one.
    """
    optimiser = torch.optim.LBFGS(list(parameters), max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimiser.zero_grad()
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        return float(value.detach())

    if any(parameter.numel() for parameter in parameters):  # L-BFGS refuses an empty problem
        optimiser.step(closure)  # type: ignore[no-untyped-call]
    for parameter in parameters:
        parameter.requires_grad_(False)


# ── groups of raters, and distributions of utility ───────────────────────────────────────────────────────────────────
def mean_variance_nll(means: Tensor, variances: Tensor, labels: Tensor | None = None) -> Tensor:
    """-log Phi((m_i - m_j) / sqrt(v_i + v_j)): two normal utilities, drawn apart; Thurstone 1927, and the mean-variance
    model of Siththaranjan et al. 2023 (arXiv:2312.08358).

    Their code takes softplus(-z sqrt(2 pi)) for it, whose slope at z = 0 is 0.63 and not Phi's 0.40: spreads that it
    learns are about 1.6 times as wide as those of this, the probability that the paper writes.

    Args:
        means, variances: [P, 2], of the first and of the second answer; labels: as in `preference_nll`.

    Returns:
        [P] in nats.
    """
    z = (means[:, 0] - means[:, 1]) * torch.rsqrt(variances.sum(1))
    nll: Tensor = -torch.special.log_ndtr(z)
    return nll if labels is None else labels * nll - (1 - labels) * torch.special.log_ndtr(-z)


def categorical_nll(logits: Tensor, labels: Tensor | None = None) -> Tensor:
    """-log P(utility of the first > that of the second), ties counted half, for utilities on K ordered atoms.

        P = sum_a p(a) (sum_{b < a} q(b) + q(a) / 2)

    The categorical model of Siththaranjan et al. 2023 (arXiv:2312.08358).

    Args:
        logits: [P, 2, K] over the atoms, lowest first; labels: as in `preference_nll`.

    Returns:
        [P] in nats.
    """
    first, second = logits.softmax(-1).unbind(1)
    tiny = torch.finfo(logits.dtype).tiny

    def log_above(p: Tensor, q: Tensor) -> Tensor:
        return torch.log((p * (q.cumsum(-1) - q / 2)).sum(-1).clamp(min=tiny))

    nll = -log_above(first, second)
    return nll if labels is None else labels * nll - (1 - labels) * log_above(second, first)


def entropy_of_mean(logits: Tensor) -> Tensor:
    """Entropy in nats, a scalar, of the mean of N distributions over K atoms, [N, K] logits.

    High if a batch as a whole uses all atoms, however certain each distribution is.
    """
    entropy: Tensor = torch.special.entr(logits.softmax(-1).mean(0)).sum()
    return entropy


def responsibilities(log_likelihoods: Tensor, log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """The E step of a mixture over raters: P(group | a rater's answers), [R, K], and log P(these answers), [R].

    Args:
        log_likelihoods: [R, K], of all answers of a rater under each group, in nats; log_weights: [K] of the groups.
    """
    joint = log_likelihoods + log_weights
    return joint.softmax(1), joint.logsumexp(1)


# ── policy gradients ─────────────────────────────────────────────────────────────────────────────────────────────────
def group_advantages(rewards: Tensor, epsilon: float = 1e-4) -> Tensor:
    """(r - mean) / (standard deviation + epsilon) within each prompt's group: GRPO, Shao et al. (arXiv:2402.03300).

    Args:
        rewards: [prompts, G]; the deviation is the sample's (G - 1).

    Returns:
        [prompts, G].
    """
    return (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + epsilon)


def centred_advantages(rewards: Tensor) -> Tensor:
    """r - mean within each group, not divided by the deviation: Dr.GRPO, Liu et al. 2025 (arXiv:2503.20783).

    Division by the deviation gives prompts with nearly equal rewards the same weight as those with different ones.

    Args:
        rewards: [prompts, G].

    Returns:
        [prompts, G].
    """
    return rewards - rewards.mean(1, keepdim=True)


def leave_one_out_advantages(rewards: Tensor) -> Tensor:
    """r - mean of the *other* answers' rewards: RLOO, Ahmadian et al. 2024 (arXiv:2402.14740); G / (G - 1) x centred.

    Args:
        rewards: [prompts, G], G at least 2.

    Returns:
        [prompts, G].
    """
    answers = rewards.shape[1]
    if answers < 2:
        raise ValueError("leave-one-out needs at least two answers per prompt")
    return centred_advantages(rewards) * (answers / (answers - 1))


def generalised_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 0.95
) -> tuple[Tensor, Tensor]:
    """GAE, Schulman et al. 2016 (arXiv:1506.02438), over finished answers: beyond the last token the value is 0.

        delta_t = r_t + gamma V_{t+1} - V_t        A_t = delta_t + gamma lam A_{t+1}

    Args:
        rewards: [B, T], one for each generated token (the score of the answer on the last of them); values: [B, T] of
            the states that these tokens were drawn in; mask: [B, T] bool, true on generated tokens, without gaps.

    Returns:
        (advantages, returns = advantages + values), both [B, T] and 0 where the mask is false.
    """
    present = mask.to(values.dtype)
    rewards, values = rewards * present, values * present
    following = torch.cat([values[:, 1:], values.new_zeros(len(values), 1)], 1)
    deltas = (rewards + gamma * following - values) * present
    advantages = torch.zeros_like(values)
    running = values.new_zeros(len(values))
    for t in reversed(range(values.shape[1])):
        running = deltas[:, t] + gamma * lam * running * present[:, t]
        advantages[:, t] = running
    return advantages, advantages + values


def whiten(values: Tensor, mask: Tensor, epsilon: float = 1e-8, over: Tensor | None = None) -> Tensor:
    """Mean 0 and variance 1 over all masked entries of a batch; 0 elsewhere.

    Args:
        values: any shape; mask: of the same shape, bool, with at least two true entries.
        over: [N], the values of the whole batch, where ``values`` are a part of it.
    """
    chosen = values[mask] if over is None else over
    scaled = (values - chosen.mean()) * torch.rsqrt(chosen.var() + epsilon)
    return torch.where(mask, scaled, 0.0)


def clipped_value_loss(values: Tensor, old: Tensor, returns: Tensor, clip: float = 0.2) -> Tensor:
    """Half the squared error of the critic: the larger of the plain one and that of the step from ``old`` clipped.

    Args:
        values: [N]; old: [N] as predicted when the text was sampled; returns: [N].

    Returns:
        [N].
    """
    near = torch.clamp(values, old - clip, old + clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (near - returns) ** 2)


def clipped_surrogate(logprobs: Tensor, old: Tensor, advantages: Tensor, low: float = 0.2, high: float = 0.2) -> Tensor:
    """PPO's loss a token, Schulman et al. 2017 (arXiv:1707.06347): -min(ratio A, clip(ratio, 1 - low, 1 + high) A).

    Args:
        logprobs: [N] under the policy; old: [N] under the policy that sampled; advantages: [N].

    Returns:
        [N].
    """
    ratio = torch.exp(logprobs - old)
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)


def sampler_weights(logprobs: Tensor, sampler: Tensor, cap: float = 2.0) -> Tensor:
    """min(policy / sampler, cap) a token: importance weights of a loss on text of another distribution, [N].

    For text sampled with int8 weights or from a compact vocabulary. Truncated importance sampling: Ionides 2008; for
    rollouts, Yao et al. 2025 ("Your efficient RL framework secretly brings you off-policy RL training").

    Args:
        logprobs: [N] under the policy as it was when the text was sampled, no gradients; sampler: [N] of the sampler.
    """
    return torch.exp(logprobs - sampler).clamp(max=cap)


def k1_nats(logprobs: Tensor, reference: Tensor) -> Tensor:
    """log-prob - reference a token: an unbiased estimate of KL(policy || reference) in nats, often negative, [N].

    To be subtracted from the reward (its expected gradient as a *loss* is zero): then the policy gradient of the sum
    is that of the reverse KL, Schulman 2020 ("Approximating KL divergence"), arXiv:2512.21852.
    """
    return logprobs - reference


def k2_nats(logprobs: Tensor, reference: Tensor) -> Tensor:
    """Half of k1 squared a token, [N]. Biased in value; as a loss on the policy's own text its expected gradient is
    exactly that of KL(policy || reference)."""
    return (logprobs - reference) ** 2 / 2


def k3_nats(logprobs: Tensor, reference: Tensor) -> Tensor:
    """Schulman's estimate of KL(policy || reference) a token: exp(-k1) - 1 + k1 with k1 = log-prob - reference, [N].

    Its value is unbiased and never negative; its gradient as a loss is not the reverse KL's (arXiv:2512.21852).
    """
    k1 = logprobs - reference
    return torch.exp(-k1) - 1 + k1
