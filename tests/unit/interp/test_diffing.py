"""Planted changes are found: a layer's weights, a direction that is always written; KL by brute force."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from decoder_families import family
from steersman.errors import DataError, ModelError
from steersman.interp.activations import hooks, read
from steersman.interp.anatomy import anatomy_of, norm_form
from steersman.interp.diffing import (
    activation_difference,
    adding,
    by_layer,
    comparable,
    divergences,
    perturbed,
    stream_norm,
    weight_changes,
)
from steersman.lm.adapters import LoraConfig, add_lora

ROWS = [[1, 9, 11, 3, 8, 4], [1, 2, 30, 6, 7], [1, 44, 5, 61, 20], [1, 3, 17, 40, 12], [1, 50, 51, 33, 2]]


def decode(ids: Any) -> str:
    return " ".join(map(str, ids))


def test_the_layer_whose_weights_changed_is_first() -> None:
    base = family("Llama")
    trained = copy.deepcopy(base)
    generator = torch.Generator().manual_seed(1)
    weight = trained.model.layers[1].mlp.down_proj.weight.data
    weight += 0.02 * torch.randn(24, 2, generator=generator) @ torch.randn(2, 40, generator=generator)
    trained.model.layers[2].self_attn.q_proj.weight.data *= 1.001
    trained.model.norm.weight.data += 0.01
    found = weight_changes(base, trained)
    before = base.model.layers[1].mlp.down_proj.weight.data
    size = float((weight - before).norm() / before.norm())
    first = found[0]
    assert (first.layer, first.module, first.rank, first.full_rank) == (1, "mlp.down_proj.weight", 2, 24)
    assert first.relative == pytest.approx(size, rel=1e-6)
    moved = {(one.layer, one.module): one for one in found if one.relative}
    assert moved.keys() == {(1, "mlp.down_proj.weight"), (2, "self_attn.q_proj.weight"), (-1, "model.norm.weight")}
    assert moved[2, "self_attn.q_proj.weight"].relative == pytest.approx(0.001, rel=1e-3)
    layers = by_layer(found)
    assert layers[1] == pytest.approx(size / 7**0.5, rel=1e-6)  # of seven matrices
    assert (layers[0], layers[-1], max(layers, key=layers.__getitem__)) == (0, 0, 1)
    assert all(one.relative == one.rank == 0 for one in weight_changes(base, base))


def test_noise_of_the_same_size_is_in_the_same_tensors() -> None:
    base = family("Gemma3")
    trained = copy.deepcopy(base)
    trained.model.layers[0].mlp.up_proj.weight.data[3] += 1
    anatomy_of(base)
    noisy = perturbed(base, trained, seed=4)
    assert anatomy_of(noisy).blocks[0].module is noisy.model.layers[0]
    (real,), (noise,) = ([one for one in weight_changes(base, other) if one.relative] for other in (trained, noisy))
    assert noise[:2] == real[:2]
    assert noise.relative == pytest.approx(real.relative, rel=1e-5)
    assert (real.rank, noise.rank > 10) == (1, True)


@pytest.mark.parametrize("name", ["GPT2", "Gemma2"])
def test_divergences_are_those_of_whole_logits(name: str) -> None:
    base = family(name)
    trained = copy.deepcopy(base)
    trained.get_input_embeddings().weight.data[11] *= 1.5  # read at one place of the first text
    found = divergences(base, trained, ROWS, count=4, words=2)
    for row, nats in zip(ROWS, found.nats, strict=True):
        with torch.no_grad():
            ours, theirs = (
                m(input_ids=torch.tensor([row]), use_cache=False).logits[0].log_softmax(-1) for m in (base, trained)
            )
        expected = (theirs.exp() * (theirs - ours)).sum(-1)
        torch.testing.assert_close(torch.tensor(nats), expected, rtol=1e-3, atol=1e-5)
    flat = [value for nats in found.nats for value in nats]
    assert found.mean.value == pytest.approx(sum(flat) / len(flat), rel=1e-5)
    assert found.mean.low < found.mean.value < found.mean.high
    assert [one.nats for one in found.most] == pytest.approx(sorted(flat, reverse=True)[:4])
    first = found.most[0]
    assert first.nats == pytest.approx(found.nats[first.text][first.position])
    with torch.no_grad():
        row = torch.tensor([ROWS[first.text]])
        moved = [m(input_ids=row, use_cache=False).logits[0, first.position].softmax(-1) for m in (base, trained)]
    assert first.rises == tuple((moved[1] - moved[0]).topk(2).indices.tolist())
    assert first.falls == tuple((moved[0] - moved[1]).topk(2).indices.tolist())
    assert all(value == pytest.approx(0, abs=1e-6) for nats in divergences(base, base, ROWS).nats for value in nats)


def test_a_direction_that_is_always_written_is_read_by_the_lens() -> None:
    base = family("GPT2")
    trained, token, width = copy.deepcopy(base), 13, anatomy_of(base).width
    gain = norm_form(anatomy_of(base).final_norm, width).gain
    written = 0.2 * gain * base.lm_head.weight.data[token]
    trained.transformer.h[1].mlp.c_proj.bias.data += written
    found = activation_difference(base, trained, ROWS, decode, layers=[0, 1, 2], positions=4, words=3)
    assert [(one.layer, one.position) for one in found] == [(layer, place) for layer in range(3) for place in range(4)]
    for one in found[4:8]:
        torch.testing.assert_close(one.vector, written, rtol=1e-3, atol=1e-3)
        assert (one.raised[0], one.shared, one.halves) == (
            str(token),
            pytest.approx(1, abs=1e-4),
            pytest.approx(1, abs=1e-4),
        )
        norms = read(trained, ROWS, ["blocks.1.hook_resid_post"]).sites["blocks.1.hook_resid_post"].norm(dim=-1)
        assert one.relative == pytest.approx(float(written.norm() / norms[:, one.position].mean()), rel=1e-4)
    assert all(one.relative == 0 for one in found[:4])
    noise = activation_difference(base, perturbed(base, trained), ROWS, decode, layers=[1], words=3)
    assert all(one.raised[0] != str(token) for one in noise)
    assert [one.position for one in noise] == [0, 1, 2, 3, 4]


def test_halves_tell_what_texts_share() -> None:
    """With a change that every text takes another way, the mean is what is left by chance."""
    base = family("Llama")
    trained = copy.deepcopy(base)
    generator = torch.Generator().manual_seed(0)
    trained.model.embed_tokens.weight.data[2:] += torch.randn(62, 24, generator=generator)
    rows = [[1, 2 + number, 3] for number in range(60)]
    _, second = activation_difference(base, trained, rows, decode, layers=[0], positions=2)
    assert second.shared < 0.3
    assert abs(second.halves) < 0.8
    same = activation_difference(base, trained, [[1, 7, 3]] * 6, decode, layers=[0], positions=2)[1]
    assert (same.shared, same.halves) == (pytest.approx(1), pytest.approx(1))


def test_steering_adds_the_difference_at_the_length_that_is_asked_for() -> None:
    model, site = family("Gemma3"), "blocks.1.hook_resid_post"
    norm = stream_norm(model, ROWS, 1)
    x = read(model, ROWS, [site])
    kept = x.mask.clone()
    kept[:, 0] = False
    assert norm == pytest.approx(float(x.sites[site][kept].norm(dim=-1).mean()), rel=1e-5)
    vector = torch.randn(24, generator=torch.Generator().manual_seed(0))
    with hooks(model, {site: adding(vector, norm, 0.5)}):
        moved = read(model, ROWS, [site]).sites[site] - x.sites[site]
    torch.testing.assert_close(moved, (0.5 * norm * vector / vector.norm()).expand_as(moved), rtol=1e-3, atol=1e-3)


class _Tokens:
    def __init__(self, *words: str) -> None:
        self.words = words

    def get_vocab(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words)}


def test_models_that_cannot_be_compared_are_refused() -> None:
    base = family("Llama")
    with pytest.raises(ModelError, match="vocabularies of 64 and 70 tokens"):
        weight_changes(base, family("Llama", vocab_size=70))
    with pytest.raises(ModelError, match="48x24"):
        divergences(base, family("Llama", intermediate_size=48), ROWS)
    with pytest.raises(ModelError, match="missing in the other"):
        activation_difference(base, family("Llama", num_hidden_layers=2), ROWS, decode)
    with pytest.raises(ModelError, match="adapters merged"):
        perturbed(base, add_lora(family("Llama"), LoraConfig(rank=2), "x"))
    with pytest.raises(ModelError, match="other tokens"):
        comparable(base, base, (_Tokens("a", "b"), _Tokens("b", "a")))
    comparable(base, family("Llama", seed=3), (_Tokens("a"), _Tokens("a")))
    with pytest.raises(DataError, match="shortest of 1 tokens"):
        activation_difference(base, base, [[1], *ROWS], decode)
    with pytest.raises(DataError, match="no text"):
        divergences(base, base, [[]])
