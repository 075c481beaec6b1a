"""Completions that share their prompt's row against the same completions in rows of their own."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch

from steersman.lm.adapters import LoraConfig, add_lora, trainable
from steersman.lm.frozen_trunk import FrozenTrunk
from steersman.lm.head import head_of, token_logprobs, trunk
from steersman.lm.shared_prefix import Group, compute_frozen_states, shared_prefix_batch, shared_prefix_hidden

FAMILIES = ["Gemma3", "Gemma2", "Llama", "Qwen2", "Qwen3", "Mistral", "GPT2", "GPTNeoX", "Phi", "Granite", "Cohere"]
# Longer than the sliding window of eight tokens, of different lengths, one completion of a single token.
GROUPS = [
    Group(list(range(3, 15)), [list(range(20, 31)), [40, 41, 1], [1]]),
    Group([2, 9], [list(range(50, 63)), list(range(50, 70))]),
]


def separately(model: Any, groups: list[Group]) -> torch.Tensor:
    """The same [N, H] hidden states from one row a completion."""
    found = []
    for prompt, completions in groups:
        for completion in completions:
            ids = torch.tensor([[*prompt, *completion]])
            found.append(trunk(model)(input_ids=ids, use_cache=False).last_hidden_state[0, len(prompt) - 1 : -1])
    return torch.cat(found)


def test_the_layout_of_a_row() -> None:
    found = shared_prefix_batch([Group([5, 6], [[7, 8], [9]]), Group([5], [[6]])], pad_id=0)
    assert found.token_ids.tolist() == [[5, 6, 7, 8, 9], [5, 6, 0, 0, 0]]
    assert found.position_ids.tolist() == [[0, 1, 2, 3, 2], [0, 1, 0, 0, 0]]
    assert found.targets.tolist() == [7, 8, 9, 6]
    assert found.source.tolist() == [1, 2, 1, 5]
    assert found.sequence.tolist() == [0, 0, 1, 2]
    assert found.last.tolist() == [3, 4, 6]
    assert found.sum_per_sequence(torch.tensor([1.0, 2.0, 10.0, 5.0])).tolist() == [3.0, 10.0, 5.0]
    assert found.visible[0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],
    ]


@pytest.mark.parametrize("name", FAMILIES)
def test_log_probs_and_gradients_are_those_of_separate_rows(name: str, family: Callable[[str], Any]) -> None:
    torch.manual_seed(0)
    policy = add_lora(deepcopy(family(name)), LoraConfig(rank=4), "x")
    with torch.no_grad():
        for parameter in trainable(policy).values():
            parameter.copy_(torch.randn_like(parameter) * 0.1)
    model = policy.get_base_model()
    head, batch = head_of(model), shared_prefix_batch(GROUPS, pad_id=0)
    weights = torch.linspace(-1, 1, len(batch.targets))  # a group's tokens pull in different directions
    found = []
    for hidden in (shared_prefix_hidden(model, batch, batch.source), separately(model, GROUPS)):
        logprobs = token_logprobs(hidden, batch.targets, head)
        (logprobs @ weights).backward()
        found.append((logprobs.detach(), torch.cat([p.grad.flatten() for p in trainable(policy).values()])))
        policy.zero_grad()
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-5, rtol=0)
    assert (found[0][1] - found[1][1]).norm() / found[1][1].norm() < 1e-4


@pytest.mark.parametrize("name", ["Gemma3", "Llama", "Mistral"])
def test_a_frozen_lower_trunk_goes_on_with_the_same_row(name: str, family: Callable[[str], Any]) -> None:
    model, batch = family(name), shared_prefix_batch(GROUPS, pad_id=0)
    lower = FrozenTrunk(model, 1)
    states = torch.zeros(*batch.token_ids.shape, model.config.hidden_size)
    for row, (prompt, completions) in enumerate(GROUPS):
        column = len(prompt)
        for completion in completions:
            ids = torch.tensor([[*prompt, *completion]])
            read = lower.read(input_ids=ids, attention_mask=torch.ones_like(ids))[0]
            states[row, : len(prompt)] = read[: len(prompt)]
            states[row, column : column + len(completion)] = read[len(prompt) :]
            column += len(completion)
    with torch.no_grad():
        read_once = compute_frozen_states(model, batch, lower)
        real = states.any(-1)  # the others are padding
        torch.testing.assert_close(read_once.states[real], states[real], atol=1e-5, rtol=1e-5)
        found = shared_prefix_hidden(model, batch, batch.source, read_once)
        torch.testing.assert_close(found, shared_prefix_hidden(model, batch, batch.source), atol=1e-5, rtol=1e-5)
