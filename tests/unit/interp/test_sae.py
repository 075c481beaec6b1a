"""Autoencoders at a site: features by formula, interventions, the loss of a model that runs on reconstructions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from decoder_families import HEADS, family
from steersman.errors import DataError, ModelError
from steersman.interp.activations import hooks, read
from steersman.interp.anatomy import anatomy_of
from steersman.interp.sae import (
    SparseAutoencoder,
    ablating,
    describe,
    direction_words,
    edits,
    features,
    measure,
    steering,
)
from steersman.lm.head import trunk

ROWS = [[5, 9, 11, 3, 8], [7, 2, 30]]
SITE = "blocks.1.hook_resid_post"


def random_sae(width: int, site: str = SITE, d_sae: int = 12, **settings: Any) -> SparseAutoencoder:
    generator = torch.Generator().manual_seed(4)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    wide = settings.pop("d_out", width)
    return SparseAutoencoder(site, draw(width, d_sae), draw(d_sae), draw(d_sae, wide), draw(wide), **settings)


def whole(width: int, site: str = SITE) -> SparseAutoencoder:
    """One that reconstructs everything: a feature for each direction of each axis."""
    axes = torch.cat([torch.eye(width), -torch.eye(width)])
    return SparseAutoencoder(site, axes.T, torch.zeros(2 * width), axes, torch.ones(width))


@pytest.mark.parametrize("name", ["Gemma3", "GPT2"])
def test_features_and_interventions_at_a_site(name: str) -> None:
    model = family(name)
    sae = random_sae(anatomy_of(model).width, activation="topk", k=4)
    x = read(model, ROWS, [SITE]).sites[SITE]
    found = features(model, sae, ROWS)
    torch.testing.assert_close(found.values, sae.encode(x))
    assert found.mask.sum().item() == 8

    def after(change: Any, error: bool) -> torch.Tensor:
        with hooks(model, edits(model, sae, change, error=error)):
            return read(model, ROWS, [SITE]).sites[SITE]

    torch.testing.assert_close(after(None, True), x, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(after(None, False), sae.decode(found.values, x))
    one = int(found.values.sum((0, 1)).argmax())
    without = x - found.values[..., one : one + 1] * sae.decoder[one]
    torch.testing.assert_close(after(ablating(one), True), without, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(after(steering(one, 2.5), True), x + 2.5 * sae.decoder[one], rtol=1e-4, atol=1e-3)


def test_sites_of_heads_and_transcoders() -> None:
    model = family("Gemma3")
    width, head_dim = anatomy_of(model).width, anatomy_of(model).head_dim
    site, after = "blocks.0.attn.hook_z", "blocks.0.hook_attn_out"
    z = read(model, ROWS, [site]).sites[site]
    sae = whole(HEADS * head_dim, site)
    with hooks(model, edits(model, sae, error=False)):
        torch.testing.assert_close(read(model, ROWS, [site]).sites[site], z, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(features(model, sae, ROWS).values, sae.encode(z.flatten(-2)))
    norm, out = "model.layers.1.pre_feedforward_layernorm", "blocks.1.hook_mlp_out"
    through = random_sae(width, norm, output_site=out, subtract_bias=False, skip=torch.ones(width, width) / 9)
    found = read(model, ROWS, [norm, out]).sites
    values = (found[norm] @ through.encoder + through.encoder_bias).relu()
    expected = values @ through.decoder + through.decoder_bias + found[norm] @ torch.ones(width, width) / 9
    with hooks(model, edits(model, through, error=False)):
        torch.testing.assert_close(read(model, ROWS, [out]).sites[out], expected, rtol=1e-4, atol=1e-3)
    with pytest.raises(ModelError, match="32 columns"):
        features(model, whole(width, site), ROWS)
    with pytest.raises(ModelError, match="no site"):
        features(model, replace(sae, site="blocks.7.hook_z"), ROWS)
    # sparsify's names begin below the trunk.
    below = replace(whole(width), site="layers.1.mlp")
    raw = read(model, ROWS, ["model.layers.1.mlp"]).sites["model.layers.1.mlp"]
    torch.testing.assert_close(features(model, below, ROWS).values, below.encode(raw))
    assert after in read(model, ROWS, [after]).sites


def test_measures_are_those_of_a_loop() -> None:
    model = family("Llama")
    width = anatomy_of(model).width
    sae = random_sae(width, activation="topk", k=3)
    sae = replace(sae, decoder=0.3 * sae.decoder)
    found = measure(model, sae, ROWS)
    xs, losses = [], torch.zeros(3, dtype=torch.float64)
    for row in ROWS:
        x = read(model, [row], [SITE]).sites[SITE][0]
        xs.append(x[1:])
        made = sae.decode(sae.encode(x), x)
        for number, new in enumerate((x, torch.zeros_like(x), made)):
            with hooks(model, {SITE: lambda old, new=new: torch.cat([old[:, :1], new[None, 1:]], 1)}), torch.no_grad():
                logits = model(input_ids=torch.tensor([row]), use_cache=False).logits[0, :-1].log_softmax(-1)
            losses[number] -= logits[range(len(row) - 1), row[1:]].sum().double()
    every = torch.cat(xs)
    values = sae.encode(every)
    error = (every - sae.decode(values, every)).square().sum() / (every - every.mean(0)).square().sum()
    assert found.unexplained == pytest.approx(float(error), rel=1e-4)
    assert found.active == pytest.approx(float((values > 0).float().sum(1).mean()))
    assert found.dead == pytest.approx(float((values == 0).all(0).float().mean()))
    assert [found.loss, found.loss_without, found.loss_replaced] == pytest.approx((losses / 6).tolist(), rel=1e-4)
    assert (found.tokens, found.left_out) == (6, 2)
    first = measure(model, sae, [*ROWS[1:], *ROWS[:1]], scored=1)
    only = measure(model, sae, ROWS[1:])
    assert (first.unexplained, first.loss_replaced) == pytest.approx((found.unexplained, only.loss_replaced), rel=1e-4)
    perfect = measure(model, whole(width), ROWS)
    assert (perfect.unexplained, perfect.loss_replaced) == pytest.approx((0, perfect.loss), abs=1e-4)
    assert found._replace(loss=2, loss_without=10, loss_replaced=4).recovered == 0.75
    assert found._replace(loss=2, loss_without=2).recovered != found.recovered, "NaN where zeros cost nothing"
    with pytest.raises(DataError, match="two tokens"):
        measure(model, sae, [[3], []])


def test_a_feature_is_described_by_where_it_is_active_and_what_it_writes() -> None:
    model = family("Gemma3")
    width = anatomy_of(model).width
    table = read(model, [list(range(64))], ["hook_embed"]).sites["hook_embed"][0]
    token = torch.nn.functional.normalize(table[11], dim=0)
    encoder = torch.stack([token, token, -token], 1)
    bias = torch.tensor([-0.5 * float(token @ table[11]), -1e6, 0.0])
    sae = SparseAutoencoder("hook_embed", encoder, bias, encoder.T.contiguous(), torch.zeros(width))
    rows = [[5, 9, 11, 3], [11, 2, 4], [7, 8, 11]]  # the first position does not count

    def decode(ids: Any) -> str:
        return " ".join(map(str, ids))

    found, never, _ = describe(model, sae, rows, decode, [0, 1, 2], context=2, words=3)
    assert {(one.before, one.token, one.after) for one in found.examples} == {("5 9", "11", "3"), ("7 8", "11", "")}
    assert found.share == pytest.approx(2 / 7)
    assert (never.examples, never.share) == ((), 0)
    # Its direction, put alone in the place of the stream, has these logits but for their scale.
    last = f"blocks.{anatomy_of(model).layers - 1}.hook_resid_post"
    with hooks(model, {last: lambda x: token.expand_as(x)}), torch.no_grad():
        logits = model.lm_head(trunk(model)(input_ids=torch.tensor([[3]])).last_hidden_state[0, 0])
    assert found.promoted == tuple(map(str, logits.topk(3).indices.tolist()))
    assert found.suppressed == tuple(map(str, (-logits).topk(3).indices.tolist()))
    assert direction_words(model, token[None], decode, 3) == [(found.promoted, found.suppressed)]
