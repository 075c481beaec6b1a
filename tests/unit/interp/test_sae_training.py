"""TopK and AuxK against naive loops and finite differences; a planted dictionary is found again."""

from __future__ import annotations

import pytest
import torch

from decoder_families import family
from steersman.errors import DataError
from steersman.interp.activations import read
from steersman.interp.sae import OUTLIER, random_dictionary, topk
from steersman.interp.sae_training import DictionaryConfig, Weights, batch_topk, collect, fit, losses_of, train

N, WIDTH, FEATURES = 6, 5, 9


def some(seed: int) -> tuple[torch.Tensor, Weights]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    weights = Weights(draw(WIDTH, FEATURES), draw(FEATURES), draw(FEATURES, WIDTH), draw(WIDTH))
    return draw(N, WIDTH), Weights(*(weight.requires_grad_() for weight in weights))


def test_topk_keeps_what_a_loop_keeps() -> None:
    before = torch.randn(7, 11, generator=torch.Generator().manual_seed(0)) - 0.5
    expected = torch.zeros_like(before)
    for row in range(7):
        for place in sorted(range(11), key=lambda place: -before[row, place])[:3]:
            expected[row, place] = max(0.0, float(before[row, place]))
    assert torch.equal(topk(before, 3), expected)
    assert bool((expected > 0).sum(1).lt(3).any()), "no row with fewer than k positive ones is tried"
    whole = torch.zeros_like(before)
    places = sorted(((row, place) for row in range(7) for place in range(11)), key=lambda at: -before[at])
    for at in places[:21]:
        whole[at] = max(0.0, float(before[at]))
    assert torch.equal(batch_topk(before, 3), whole)
    assert not torch.equal(whole, expected)


@pytest.mark.parametrize("selection", ["topk", "batchtopk"])
def test_losses_and_gradients_are_those_of_a_naive_reference(selection: str) -> None:
    config = DictionaryConfig(features=FEATURES, k=2, selection=selection, batch_tokens=N)
    x, weights = some(3)
    plain = [weight.detach() for weight in weights]
    dead = torch.tensor([0, 1, 0, 0, 1, 1, 0, 0, 0], dtype=torch.bool)
    unexplained, aux, values = losses_of(config, weights, x, dead)
    # By loops: AuxK takes d / 2 = 2 of the three dead features, whatever their sign, and is not scaled down.
    variance = sum(float(((row - x.mean(0)) ** 2).sum()) for row in x)
    errors, revived = [], 0.0
    for row, mine in zip(x, values.detach(), strict=True):
        made = plain[3] + sum(mine[i] * plain[2][i] for i in range(FEATURES))
        errors.append(float(((row - made) ** 2).sum()))
        before = [float((row - plain[3]) @ plain[0][:, i] + plain[1][i]) for i in (1, 4, 5)]
        first = sorted(zip(before, (1, 4, 5), strict=True), reverse=True)[:2]
        revived += float(((row - made - sum(value * plain[2][i] for value, i in first)) ** 2).sum())
    assert float(unexplained.detach()) == pytest.approx(sum(errors) / variance, rel=1e-9)
    assert float(aux.detach()) == pytest.approx(revived / variance, rel=1e-9)
    assert float(losses_of(config, Weights(*plain), x, dead & False)[1]) == 0
    one = torch.arange(FEATURES) == 4
    assert float(losses_of(config, Weights(*plain), x, one)[1]) < float(aux.detach()), (
        "few dead features count for little"
    )
    gradients = torch.autograd.grad(unexplained, weights, retain_graph=True)
    for number, gradient in enumerate(gradients):
        step = 1e-6 * torch.randn(gradient.shape, generator=torch.Generator().manual_seed(number), dtype=torch.float64)

        def at(sign: int, number: int = number, step: torch.Tensor = step) -> float:
            moved = [weight + sign * step if place == number else weight for place, weight in enumerate(plain)]
            return float(losses_of(config, Weights(*moved), x, dead)[0])

        assert float((gradient * step).sum()) == pytest.approx((at(1) - at(-1)) / 2, rel=1e-5, abs=1e-12)
    # AuxK's own gradient does not reach the live features: the error is held fixed.
    encoder = torch.autograd.grad(aux, weights.encoder)[0]
    assert bool((encoder[:, ~dead] == 0).all())
    assert bool((encoder[:, dead] != 0).any())


def planted(seed: int, tokens: int = 3000) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums of 3 of 40 directions in 24 dimensions, of different strengths, away from the origin."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(40, 24, generator=generator)
    directions /= directions.norm(dim=1, keepdim=True)
    chosen = torch.rand(tokens, 40, generator=generator).topk(3).indices
    strengths = 5 * (1 + torch.rand(tokens, 3, generator=generator))
    return directions, torch.zeros(tokens, 40).scatter(1, chosen, strengths) @ directions + 2


@pytest.mark.parametrize("selection", ["topk", "batchtopk"])
def test_a_planted_dictionary_is_found_again(selection: str) -> None:
    """Mean largest cosine with the planted directions: 0.98 with TopK, 0.93 with BatchTopK; at random 0.57."""
    directions, x = planted(1)
    config = DictionaryConfig(features=64, k=3, selection=selection, epochs=8, batch_tokens=128, learning_rate=1e-2)
    config = config.model_copy(update={"dead_after_tokens": 2000})
    found = fit(config, x, "hook_embed")
    sae = found.sae
    torch.testing.assert_close(sae.decoder.norm(dim=1), torch.ones(64))
    assert float((directions @ sae.decoder.T).max(1).values.mean()) > 0.85
    _, fresh = planted(1, 4000)
    values = sae.encode(fresh[3000:])
    left = (fresh[3000:] - sae.decode(values, fresh[3000:])).square().sum() / (fresh - fresh.mean(0))[
        3000:
    ].square().sum()
    assert float(left) < 0.25
    assert 2 <= float((values > 0).float().sum(1).mean()) <= 3.5
    chance = random_dictionary(x, 64, 3, "hook_embed")
    assert float((directions @ torch.nn.functional.normalize(chance.decoder).T).max(1).values.mean()) < 0.7
    assert found.losses[-1] < 0.3 * found.losses[0]


def test_random_directions_are_as_long_as_fits_best() -> None:
    _, x = planted(2, 500)
    sae = random_dictionary(x, 64, 3, "hook_embed")
    error = [
        float((x - sae.decoder_bias - s * (sae.encode(x) @ sae.decoder)).square().sum()) for s in (0.95, 1.0, 1.05)
    ]
    assert error[1] == min(error)


def test_the_first_token_and_outliers_are_left_out() -> None:
    model = family("Llama")
    rows = [[5, 9, 11, 3, 8], [7, 2, 30], [4, 6, 6, 6]]
    model.model.embed_tokens.weight.data[11] *= 1000
    found, left_out = collect(model, "hook_embed", rows)
    assert (len(found), left_out) == (8, 4)
    every = read(model, rows, ["hook_embed"]).sites["hook_embed"].norm(dim=-1)
    assert float(found.norm(dim=-1).max()) < OUTLIER * float(every.median())
    with pytest.raises(DataError, match="8 tokens"):
        train(DictionaryConfig(), model, "hook_embed", rows)
    heads = train(DictionaryConfig(features=8, k=2, epochs=1, batch_tokens=4), model, "blocks.1.attn.hook_z", rows)
    assert (heads.sae.d_in, heads.tokens + heads.left_out) == (32, 12)
