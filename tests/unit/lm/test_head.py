"""Log-probabilities from hidden states, against plain log-softmax and autograd, and the estimator's statistics."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from steersman.errors import ModelError
from steersman.lm import head as head_module
from steersman.lm.compact_vocabulary import CompactConfig, CompactVocabulary, compact_vocabulary
from steersman.lm.head import Head, completion_nll, divergence, entropies, head_of, token_logprobs, trunk
from steersman.lm.limits import positions

N, H, V = 37, 16, 101
FAMILIES = ["Gemma3", "Gemma2", "Llama", "Qwen2", "Qwen3", "Mistral", "GPT2", "GPTNeoX", "Phi", "Granite", "Cohere"]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


HIDDEN, WEIGHT = normal(N, H), normal(V, H, seed=1)
TARGETS = torch.randint(V, (N,), generator=torch.Generator().manual_seed(2))
HEADS = {
    "plain": Head(WEIGHT),
    "biased": Head(WEIGHT, bias=normal(V, seed=3)),
    "softcapped": Head(WEIGHT, softcap=3.0),
    "scaled": Head(WEIGHT, scale=0.25),
    "tempered": Head(WEIGHT, temperature=0.7),
    "everything": Head(WEIGHT, normal(V, seed=3), softcap=5.0, scale=0.5, temperature=1.3),
}


def plain_logprobs(hidden: Tensor, weight: Tensor, head: Head) -> Tensor:
    """The definition, in fp64, written without the code under test."""
    logits = hidden @ weight.T
    if head.bias is not None:
        logits = logits + head.bias.to(hidden.dtype)
    logits = logits * head.scale
    if head.softcap:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    return torch.log_softmax(logits / head.temperature, -1)[torch.arange(len(hidden)), TARGETS[: len(hidden)]]


@pytest.mark.parametrize("blocks", [True, False])
def test_the_product_of_few_rows_is_the_product(blocks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """101 rows in blocks of 16; where gradients are recorded, they flow."""
    monkeypatch.setattr(head_module, "_blocks_pay", lambda: blocks)
    monkeypatch.setattr(head_module, "BLOCK_ROWS", 16)
    for name in ("plain", "biased"):
        head = HEADS[name]
        bias = 0.0 if head.bias is None else head.bias.double()
        wanted = (HIDDEN.double() @ WEIGHT.double().T + bias).float()
        with torch.no_grad():
            for rows in (1, 2, N):
                torch.testing.assert_close(head.product(HIDDEN[:rows]), wanted[:rows], atol=1e-5, rtol=1e-5)
        learnt = HIDDEN.clone().requires_grad_()
        head.product(learnt).sum().backward()
        torch.testing.assert_close(learnt.grad, WEIGHT.sum(0).expand_as(HIDDEN), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("name", HEADS)
def test_token_logprobs_are_those_of_log_softmax(name: str) -> None:
    expected = plain_logprobs(HIDDEN.double(), WEIGHT.double(), HEADS[name])
    torch.testing.assert_close(token_logprobs(HIDDEN, TARGETS, HEADS[name]).double(), expected, atol=2e-5, rtol=1e-6)


@pytest.mark.parametrize("weights", [None, torch.linspace(0, 4, len(TARGETS))], ids=["", "weighted"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", HEADS)
def test_completion_nll_and_its_gradient_are_those_of_autograd(
    name: str, dtype: torch.dtype, weights: Tensor | None
) -> None:
    bias = HEADS[name].bias
    head = replace(HEADS[name], weight=WEIGHT.to(dtype), bias=None if bias is None else bias.to(dtype))
    ours, theirs = HIDDEN.to(dtype, copy=True).requires_grad_(), HIDDEN.double().requires_grad_()
    counted = 1.0 if weights is None else weights.double()
    expected = -(plain_logprobs(theirs, WEIGHT.double(), HEADS[name]) * counted).sum()
    loss = completion_nll(ours, TARGETS, head, weights)
    (3.0 * loss).backward()
    (3.0 * expected).backward()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=2e-6)
    assert ours.grad is not None
    assert theirs.grad is not None
    torch.testing.assert_close(ours.grad.double(), theirs.grad, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", HEADS)
def test_any_loss_of_token_logprobs_can_be_trained(name: str) -> None:
    """Rows that pull in different directions, through something that is not linear."""
    ours, theirs = HIDDEN.clone().requires_grad_(), HIDDEN.double().requires_grad_()
    pull = torch.linspace(-2, 2, N)
    (token_logprobs(ours, TARGETS, HEADS[name]) * pull).sigmoid().sum().backward()
    (plain_logprobs(theirs, WEIGHT.double(), double(HEADS[name])) * pull).sigmoid().sum().backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    torch.testing.assert_close(ours.grad.double(), theirs.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("tile_mb", [256, 0], ids=["", "tiles"])
def test_entropies_are_those_of_the_softmax(tile_mb: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_module, "TILE_MB", tile_mb)
    for head in HEADS.values():
        expected = torch.distributions.Categorical(logits=double(head).logits(HIDDEN.double())).entropy()
        torch.testing.assert_close(entropies(HIDDEN, head).double(), expected, atol=1e-5, rtol=1e-5)


def plain_divergence(hidden: Tensor, reference: Tensor, head: Head, reference_head: Head) -> Tensor:
    """KL(reference || policy) summed over positions, written out."""
    policy, wanted = (torch.log_softmax(h.logits(x), -1) for h, x in ((head, hidden), (reference_head, reference)))
    return (wanted.exp() * (wanted - policy)).sum()


def double(head: Head) -> Head:
    return replace(head, weight=head.weight.double(), bias=None if head.bias is None else head.bias.double())


REFERENCE = torch.randn(HIDDEN.shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("other", [False, True], ids=["", "the reference has a head of its own"])
@pytest.mark.parametrize("tile_mb", [256, 0], ids=["", "tiles"])
@pytest.mark.parametrize("name", HEADS)
def test_divergence_and_its_gradient_are_those_of_autograd(
    name: str, tile_mb: int, other: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_module, "TILE_MB", tile_mb)
    head = HEADS[name]
    reference_head = replace(head, weight=head.weight * 0.5) if other else head
    ours, theirs = HIDDEN.clone().requires_grad_(), HIDDEN.double().requires_grad_()
    found = divergence(ours, REFERENCE, head, reference_head if other else None)
    expected = plain_divergence(theirs, REFERENCE.double(), double(head), double(reference_head))
    (3.0 * found + 3.0 * expected).backward()
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=2e-6)
    assert ours.grad is not None
    assert theirs.grad is not None
    torch.testing.assert_close(ours.grad.double(), theirs.grad, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", HEADS)
def test_a_policy_that_is_its_reference_has_no_divergence_and_no_gradient(name: str) -> None:
    hidden = HIDDEN.clone().requires_grad_()
    found = divergence(hidden, HIDDEN, HEADS[name])
    found.backward()
    assert hidden.grad is not None
    assert float(found.detach()) == pytest.approx(0.0, abs=1e-5)
    assert float(hidden.grad.abs().max()) < 1e-5
    assert float(divergence(hidden[:0], HIDDEN[:0], HEADS[name]).detach()) == 0.0


def estimates(loss: Callable[[Tensor], Tensor], choices: int) -> tuple[Tensor, Tensor]:
    """Values, [choices], and gradients, [choices, N, H], of a loss that draws at random, at `SMALL`."""
    values, gradients = [], []
    for _ in range(choices):
        hidden = SMALL.clone().requires_grad_()
        estimate = loss(hidden)
        estimate.backward()
        assert hidden.grad is not None
        values.append(estimate.detach().double())
        gradients.append(hidden.grad.double())
    return torch.stack(values), torch.stack(gradients)


@pytest.mark.slow
def test_the_estimate_of_the_divergence_is_unbiased() -> None:
    vocabulary, draws, choices = compact(), generator(7), 4000
    exact, wanted = SMALL.clone().requires_grad_(), REFERENCE[: len(SMALL)]
    loss = divergence(exact, wanted, HEADS["plain"])
    loss.backward()
    value, gradient = estimates(lambda hidden: vocabulary.divergence(hidden, wanted, HEADS["plain"], draws), choices)
    error = float(value.std()) / math.sqrt(choices)
    assert exact.grad is not None
    assert abs(float(value.mean()) - float(loss.detach())) < 4 * error
    assert ((gradient.mean(0) - exact.grad.double()).abs() < 5 * gradient.std(0) / math.sqrt(choices) + 1e-6).all()
    biased = float(divergence(SMALL, wanted, vocabulary.head))
    assert abs(float(loss.detach()) - biased) > 10 * error


def test_a_learning_head_gets_its_gradient() -> None:
    weight, reference = WEIGHT.clone().requires_grad_(), WEIGHT.double().requires_grad_()
    hidden, plain = HIDDEN.clone().requires_grad_(), HIDDEN.double().requires_grad_()
    completion_nll(hidden, TARGETS, Head(weight)).backward()
    (-plain_logprobs(plain, reference, Head(WEIGHT)).sum()).backward()
    assert weight.grad is not None
    assert hidden.grad is not None
    assert reference.grad is not None
    assert plain.grad is not None
    torch.testing.assert_close(weight.grad.double(), reference.grad, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(hidden.grad.double(), plain.grad, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["plain", "softcapped", "biased"])
def test_the_gradient_agrees_with_finite_differences(name: str) -> None:
    hidden = HIDDEN[:5].clone().requires_grad_()
    completion_nll(hidden, TARGETS[:5], HEADS[name]).backward()
    assert hidden.grad is not None
    step = 1e-5
    for row, unit in ((0, 0), (2, 7), (4, 15)):
        moved = HIDDEN[:5].double()
        values = []
        for sign in (1, -1):
            moved[row, unit] += sign * step
            values.append(-float(plain_logprobs(moved, WEIGHT.double(), HEADS[name]).sum()))
            moved[row, unit] -= sign * step
        assert float(hidden.grad[row, unit]) == pytest.approx((values[0] - values[1]) / (2 * step), abs=5e-5)


@pytest.mark.parametrize("name", ["plain", "everything"])
def test_tiles_change_neither_value_nor_gradient(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def both() -> tuple[Tensor, Tensor, Tensor]:
        hidden = HIDDEN.clone().requires_grad_()
        loss = completion_nll(hidden, TARGETS, HEADS[name])
        loss.backward()
        assert hidden.grad is not None
        return loss.detach(), hidden.grad, token_logprobs(HIDDEN, TARGETS, HEADS[name])

    whole = both()
    monkeypatch.setattr(head_module, "TILE_MB", 0)  # the smallest tile, 8 positions: 37 is no multiple
    for in_tiles, at_once in zip(both(), whole, strict=True):
        torch.testing.assert_close(in_tiles, at_once, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("name", ["plain", "softcapped"])
def test_no_scored_positions_give_zero_and_a_gradient(name: str) -> None:
    hidden = torch.zeros(0, H, requires_grad=True)
    loss = completion_nll(hidden, TARGETS[:0], HEADS[name])
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert hidden.grad is not None
    assert token_logprobs(hidden, TARGETS[:0], HEADS[name]).shape == (0,)


def test_large_logits_do_not_overflow() -> None:
    loss = completion_nll(HIDDEN * 1e4, TARGETS, Head(WEIGHT))
    assert math.isfinite(float(loss))


# ── heads of real architectures ──────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("name", FAMILIES)
def test_the_head_of_every_family_gives_the_models_own_logits(name: str, family: Callable[[str], Any]) -> None:
    model = family(name)
    ids = torch.tensor([[2, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110]])
    head = head_of(model)
    with torch.no_grad():
        ours = head.logits(trunk(model)(input_ids=ids).last_hidden_state[0])
        theirs = model(input_ids=ids).logits[0]
    assert theirs.std() > 0.1  # nothing is hidden by logits that are all alike
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_a_model_that_alters_its_logits_is_refused(family: Callable[[str], Any]) -> None:
    model = family("Llama")
    handle = model.lm_head.register_forward_hook(lambda _module, _inputs, output: output * 1.5)
    try:
        with pytest.raises(ModelError, match="LlamaForCausalLM changes its logits"):
            head_of(model)
    finally:
        handle.remove()


# ── compact vocabulary ───────────────────────────────────────────────────────────────────────────────────────────────
SMALL = HIDDEN * 0.3  # a spread-out distribution, so that the rows left out weigh something


def compact(extra: int = 10, share: float = 0.25, full: Head = HEADS["plain"]) -> CompactVocabulary:
    return compact_vocabulary(TARGETS, SMALL, full, CompactConfig(extra_rows=extra, full_share=share))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_datas_tokens_are_exact_rows_and_can_be_looked_up() -> None:
    vocabulary = compact()
    assert len(vocabulary.exact) == len(set(TARGETS.tolist())) + 10
    assert torch.equal(vocabulary.exact[vocabulary.position[TARGETS]], TARGETS)
    assert torch.equal(vocabulary.head.weight, WEIGHT[vocabulary.exact])
    absent = sorted(set(range(V)) - set(vocabulary.exact.tolist()))
    assert absent
    assert (vocabulary.position[absent] == -1).all()


def test_the_extra_rows_are_those_with_the_most_mass() -> None:
    mass = torch.softmax(SMALL @ WEIGHT.T, -1).mean(0)
    mass[TARGETS] = -1.0
    assert set(compact().exact.tolist()) == set(mass.topk(10).indices.tolist()) | set(TARGETS.tolist())


@pytest.mark.parametrize(("name", "choices"), [("plain", 4000), ("softcapped", 600)])
@pytest.mark.slow
def test_the_estimate_of_the_loss_and_its_gradient_are_unbiased(name: str, choices: int) -> None:
    """Over thousands of choices of positions, within four standard errors; without the correction it is far off."""
    head = HEADS[name]
    vocabulary, draws, weights = compact(full=head), generator(7), torch.linspace(1, 2, len(TARGETS))
    exact = SMALL.clone().requires_grad_()
    loss = completion_nll(exact, TARGETS, head, weights)
    loss.backward()
    value, gradient = estimates(lambda hidden: vocabulary.nll(hidden, TARGETS, head, draws, weights), choices)
    error = float(value.std()) / math.sqrt(choices)
    assert exact.grad is not None
    assert 0 < error < 0.01 * float(loss.detach())
    assert abs(float(value.mean()) - float(loss.detach())) < 4 * error
    # 592 gradients at once: 4 standard errors each would still be exceeded by chance in 3 % of the seeds.
    errors = gradient.std(0) / math.sqrt(choices)
    assert ((gradient.mean(0) - exact.grad.double()).abs() < 5 * errors + 1e-6).all()
    biased = float(completion_nll(SMALL, vocabulary.position[TARGETS], vocabulary.head, weights))
    assert float(loss.detach()) - biased > 10 * error


@pytest.mark.parametrize(("extra", "share"), [(V, 0.25), (10, 1.0)], ids=["no row left out", "every position in full"])
def test_the_estimate_is_exact_when_nothing_is_left_to_chance(extra: int, share: float) -> None:
    vocabulary = compact(extra, share)
    ours, theirs = SMALL.clone().requires_grad_(), SMALL.clone().requires_grad_()
    estimate, loss = (
        vocabulary.nll(ours, TARGETS, HEADS["plain"], generator()),
        completion_nll(theirs, TARGETS, HEADS["plain"]),
    )
    (estimate + loss).backward()
    assert float(estimate.detach()) == pytest.approx(float(loss.detach()), rel=1e-6)
    assert ours.grad is not None
    assert theirs.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-5)


def test_the_estimate_is_fixed_by_its_generator() -> None:
    vocabulary = compact()
    first, same, *others = (
        float(vocabulary.nll(SMALL, TARGETS, HEADS["plain"], generator(s))) for s in (0, 0, 1, 2, 3)
    )
    assert first == same
    assert len({first, *others}) == 4


def test_outside_mass_is_what_the_full_softmax_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_module, "TILE_MB", 0)
    vocabulary = compact()
    inside = torch.softmax(SMALL @ WEIGHT.T, -1)[:, vocabulary.exact].sum(-1).mean()
    assert 0.05 < float(inside) < 0.95
    assert vocabulary.outside_mass(SMALL, HEADS["plain"]) == pytest.approx(1 - float(inside), abs=1e-6)
    assert compact(extra=V).outside_mass(SMALL, HEADS["plain"]) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("name", HEADS)
def test_a_temperature_divides_the_logits(name: str) -> None:
    head = HEADS[name]
    hot = replace(head, temperature=2 * head.temperature)
    torch.testing.assert_close(hot.logits(HIDDEN), head.logits(HIDDEN) / 2)


def test_a_model_that_padding_disturbs_or_that_cannot_run_is_refused(tokenizer: Any) -> None:
    import transformers

    config = transformers.CpmAntConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_attention_heads=4, dim_head=8, dim_ff=48, num_hidden_layers=2
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.CpmAntForCausalLM(config).eval()
    with pytest.raises(ModelError, match="changes when the text is padded on the right"):
        head_of(model)


def test_a_model_that_reads_ahead_is_refused(tokenizer: Any) -> None:
    """XLNet's attention goes both ways, heeds the mask, and its head is a plain one."""
    import transformers

    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.XLNetConfig(vocab_size=len(tokenizer), d_model=32, n_layer=2, n_head=4, d_inner=48)
        model = transformers.XLNetLMHeadModel(config).eval()
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=0.2)
    assert positions(model.config) is None
    with pytest.raises(ModelError, match="beginning depends on how the text goes on"):
        head_of(model)


def test_a_model_that_cannot_read_a_text_is_refused_in_words(family: Callable[[str], Any]) -> None:
    model = deepcopy(family("Llama"))
    model.model.layers[0].mlp.down_proj.weight = torch.nn.Parameter(torch.zeros(3, 3))
    with pytest.raises(ModelError, match=r"LlamaForCausalLM cannot read a text of four tokens \(RuntimeError"):
        head_of(model)
