"""Directions: means by brute force, ablation and addition at their sites and nowhere else, in ten families."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from decoder_families import FAMILIES, LAYERS, PARALLEL, family
from steersman.errors import DataError, ModelError
from steersman.interp.activations import read
from steersman.interp.anatomy import anatomy_of
from steersman.interp.directions import (
    Direction,
    ablating,
    adding,
    answers,
    cosines,
    differences,
    levelling,
    post_instruction,
    random_directions,
    split_directions,
    to_level,
    unit,
    weights_digest,
)
from steersman.lm.chat_format import chat_format

POSITIVE = [[1, 5, 9, 11, 60, 61], [1, 7, 60, 61], [1, 8, 8, 9, 60, 61]]
NEGATIVE = [[1, 22, 23, 60, 61], [1, 30, 60, 61]]
WRITES = [f"blocks.{n}.{site}" for n in range(LAYERS) for site in ("hook_attn_out", "hook_mlp_out")]
STREAM = [f"blocks.{n}.hook_resid_{end}" for n in range(LAYERS) for end in ("pre", "post")]


@pytest.fixture(scope="module", params=FAMILIES)
def named(request: pytest.FixtureRequest) -> tuple[str, Any]:
    return request.param, family(request.param)


def drawn(model: Any, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(anatomy_of(model).width, generator=torch.Generator().manual_seed(seed))


def test_means_are_those_of_hugging_faces_hidden_states(named: tuple[str, Any]) -> None:
    _, model = named
    found = differences(model, POSITIVE, NEGATIVE, positions=(-2, -1))

    def brute(rows: list[list[int]], layer: int, position: int) -> torch.Tensor:
        with torch.no_grad():
            states = [
                model(input_ids=torch.tensor([row]), output_hidden_states=True).hidden_states[layer] for row in rows
            ]
        return torch.stack([one[0, position].double() for one in states]).mean(0)

    for p, position in enumerate((-2, -1)):
        for layer in range(LAYERS):
            expected = brute(POSITIVE, layer, position) - brute(NEGATIVE, layer, position)
            torch.testing.assert_close(found.vectors[p, layer], expected, rtol=1e-4, atol=1e-4)
    one = found.direction("x", -1, 1)
    assert (one.layer, one.position, len(one.model), len(one.data)) == (1, -1, 64, 64)
    torch.testing.assert_close(one.difference.double(), found.vectors[1, 1], rtol=1e-5, atol=1e-5)


def test_nothing_holds_or_writes_what_is_ablated(named: tuple[str, Any]) -> None:
    name, model = named
    vector = drawn(model)
    middle = [] if name in PARALLEL else ["blocks.1.hook_resid_mid"]
    plain = read(model, POSITIVE, WRITES)
    with ablating(model, vector) as fired:
        seen = read(model, POSITIVE, [*WRITES, *STREAM, *middle])
    assert len(fired) == 3 * LAYERS
    for site, value in seen.sites.items():
        share = (value[seen.mask] @ unit(vector)).abs() / value[seen.mask].norm(dim=-1)
        assert float(share.max()) < 1e-5, site
    assert float((plain.sites[WRITES[0]] @ unit(vector)).abs().max()) > 1e-2
    assert torch.equal(read(model, POSITIVE, WRITES).sites[WRITES[-1]], plain.sites[WRITES[-1]])


def test_ablation_is_the_projection_that_it_says(named: tuple[str, Any]) -> None:
    """Of a first layer's input: x - r (r . x), whatever the length of the vector."""
    _, model = named
    vector, site = drawn(model), "blocks.0.hook_resid_pre"
    plain = read(model, POSITIVE, [site]).sites[site]
    with ablating(model, vector):
        found = read(model, POSITIVE, [site, *WRITES]).sites[site]
    r = vector / vector.norm()
    torch.testing.assert_close(found, plain - (plain @ r)[..., None] * r, rtol=1e-4, atol=1e-4)


def test_addition_acts_at_one_layers_input_alone(named: tuple[str, Any]) -> None:
    _, model = named
    vector = drawn(model)
    sites = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_pre", "blocks.2.hook_resid_pre"]
    plain = read(model, POSITIVE, sites).sites
    with adding(model, 1, vector, -0.5):
        found = read(model, POSITIVE, sites).sites
    assert torch.equal(found[sites[0]], plain[sites[0]])
    torch.testing.assert_close(found[sites[1]], plain[sites[1]] - 0.5 * vector)
    assert (found[sites[2]] - plain[sites[2]]).abs().max() > 1e-2


@pytest.mark.parametrize("name", ["Gemma3", "Llama", "GPT2"])
def test_both_act_at_every_token_under_generate(name: str) -> None:
    model = family(name)
    ids = torch.tensor([[1, 5, 9, 11]])
    said, other = model.get_input_embeddings().weight.detach()[[11, 30]]  # these models repeat what they read
    options: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    plain = model.generate(ids, **options)
    for steering in (lambda: ablating(model, said), lambda: adding(model, 1, other, 40.0)):
        with steering():
            made = model.generate(ids, **options)
            whole = model(input_ids=made[:, :-1], use_cache=False).logits[0, 3:].argmax(-1)
        assert torch.equal(made[0, 4:], whole)
        assert not torch.equal(made, plain)


def test_both_act_under_our_sampler(tokenizer: Any) -> None:
    for name in ("Gemma3", "Llama"):
        model = family(name, vocab_size=len(tokenizer), max_position_embeddings=256)
        chat, vector = chat_format(tokenizer), drawn(model, 2)
        prompts = ["How do I cook rice?", "Why?"]
        plain = answers(model, chat, prompts, max_new_tokens=8)
        for steering in (lambda m=model, v=vector: ablating(m, v), lambda m=model, v=vector: adding(m, 1, v, 4.0)):
            with steering() as fired:
                made = answers(model, chat, prompts, max_new_tokens=8)
                ids = chat.prompt_ids(prompts[0])
                first = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
            assert made != plain
            assert min(fired.values()) > 2
            assert first in chat.stop_ids or made[0].startswith(chat.decode([first]))
        assert answers(model, chat, prompts, max_new_tokens=8) == plain


def test_positions_behind_the_question_are_those_that_all_prompts_share(tokenizer: Any) -> None:
    chat = chat_format(tokenizer)
    positions = post_instruction(chat)
    ends = {tuple(chat.prompt_ids(text)[positions[0] :]) for text in ("Who are you?", "Say three words", "a b c.")}
    assert len(ends) == 1
    assert positions == tuple(range(-len(positions), 0))
    assert tokenizer.decode(next(iter(ends))).endswith("Assistant:")


def test_random_directions_have_the_norm_and_no_part_of_the_direction() -> None:
    one = Direction("refusal", torch.randn(640, generator=torch.Generator().manual_seed(3)), 9, -1, 7.5)
    nulls = random_directions(one, 20)
    assert {(n.norm, n.layer, n.position) for n in nulls} == {(7.5, 9, -1)}
    between = cosines([one, *nulls])
    assert float((between - torch.eye(21)).abs().max()) < 5 / 640**0.5
    torch.testing.assert_close(between.diag(), torch.ones(21))
    assert torch.equal(nulls[3].vector, random_directions(one, 20)[3].vector)


def test_halves_of_one_kind_differ_less_than_two_kinds() -> None:
    model = family("Llama")
    bad = [[1, a, b, 60, 61] for a in range(5, 9) for b in range(10, 14)]
    good = [[1, a, b, 60, 61] for a in range(35, 39) for b in range(40, 44)]
    one = differences(model, bad, good).direction("kind", -1, 2)
    splits = split_directions(model, good, one)
    assert max(split.norm for split in splits) < one.norm
    assert len({split.data for split in splits}) == 4
    with pytest.raises(DataError, match="four texts"):
        split_directions(model, good[:3], one)


def test_what_is_no_direction_of_this_model_is_refused() -> None:
    model = family("Llama")
    for vector in (torch.zeros(24), torch.full((24,), torch.nan), torch.randn(2, 24)):
        with pytest.raises(DataError, match="no direction"), ablating(model, vector):
            pass
    with pytest.raises(ModelError, match=r"640 numbers.*24"), ablating(model, torch.randn(640)):
        pass
    with pytest.raises(DataError, match="at least 5 tokens"):
        differences(model, POSITIVE, NEGATIVE, positions=(-5,))
    with pytest.raises(DataError, match="0 texts"):
        differences(model, [], NEGATIVE)


def test_the_digest_of_weights_follows_them() -> None:
    model = family("Llama")
    before = weights_digest(model)
    assert before == weights_digest(family("Llama"))
    next(model.parameters()).data[3, 3] += 1e-3
    assert weights_digest(model) != before


def test_levelling_moves_every_layer_to_its_level_and_no_token_too_far() -> None:
    model = family("Gemma3")
    r, levels = drawn(model), torch.tensor([0.5, -1.0, 2.0])
    row, u = [POSITIVE[0]], unit(r)
    with levelling(model, r, levels, torch.full((LAYERS,), 1e6)):
        seen = read(model, row, [f"blocks.{n}.hook_resid_pre" for n in range(LAYERS)])
    for n in range(LAYERS):
        along = seen.sites[f"blocks.{n}.hook_resid_pre"] @ u
        torch.testing.assert_close(along, torch.full_like(along, float(levels[n])), rtol=1e-4, atol=1e-4)
    x = torch.tensor([[3.0, 1.0], [0.2, 1.0], [-9.0, 1.0]])
    edited = to_level(torch.tensor([1.0, 0.0]), 0.5, 1.0)(x)
    assert torch.equal(edited, torch.tensor([[1.0, 1.0], [0.5, 1.0], [-7.0, 1.0]]))
