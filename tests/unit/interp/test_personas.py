"""Persona vectors: means over answers by brute force, shifts that were put in, and what the texts must be."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from decoder_families import LAYERS, family
from steersman.errors import DataError
from steersman.interp.baking import bake_addition
from steersman.interp.directions import Direction
from steersman.interp.persona_texts import TRAITS, Trait
from steersman.interp.personas import _left_out, persona_vector, projections, shift
from steersman.lm.chat_format import ChatFormat, chat_format
from steersman.types import Message

SMALL = Trait("small", "", TRAITS[0].instructions[:2], TRAITS[0].exchanges[:4])


@pytest.fixture(scope="module")
def chat(tokenizer: Any) -> ChatFormat:
    return chat_format(tokenizer)


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> Any:
    return family("GPT2", vocab_size=len(tokenizer), n_positions=512)


def states(model: Any, chat: ChatFormat, prompt: Any, answer: str, layer: int) -> torch.Tensor:
    """Of the answer's tokens, the terminator left out, from Hugging Face's hidden states."""
    start, said = chat.prompt_ids(prompt), chat.completion_ids(answer)[:-1]
    with torch.no_grad():
        found = model(input_ids=torch.tensor([start + said]), output_hidden_states=True).hidden_states[layer]
    return found[0, len(start) :].double().mean(0)


def test_a_vector_is_the_difference_of_means_over_answers(model: Any, chat: ChatFormat) -> None:
    found = persona_vector(model, chat, SMALL)
    layer, sides = found.direction.layer, []
    assert len(found.by_layer) == LAYERS - 1
    assert layer == 1 + max(range(LAYERS - 1), key=lambda i: found.by_layer[i])
    for side in (0, 1):
        prompts = [
            ((Message(role="system", content=pair[side]), Message(role="user", content=each.question)), each[1 + side])
            for each in SMALL.exchanges
            for pair in SMALL.instructions
        ]
        sides.append(torch.stack([states(model, chat, prompt, answer, layer) for prompt, answer in prompts]).mean(0))
    expected = sides[0] - sides[1]
    assert found.direction.norm == pytest.approx(float(expected.norm()), rel=1e-4)
    torch.testing.assert_close(found.direction.vector.double(), expected / expected.norm(), rtol=1e-3, atol=1e-5)
    assert found.direction.position is None


def test_projections_are_of_answers_or_of_the_last_token(model: Any, chat: ChatFormat) -> None:
    one = Direction("x", torch.randn(32, generator=torch.Generator().manual_seed(0)), 2, None, 2.0)
    prompts, said = ["Why?", "How do I cook rice?"], ["Because it is so.", "In water."]
    found = projections(model, chat, one, prompts, said)
    for number in range(2):
        by_hand = states(model, chat, prompts[number], said[number], 2) @ one.vector.double()
        assert float(found[number]) == pytest.approx(float(by_hand), rel=1e-4, abs=1e-4)
    with torch.no_grad():
        ids = torch.tensor([chat.prompt_ids("Why?")])
        last = model(input_ids=ids, output_hidden_states=True).hidden_states[2][0, -1].double()
    assert float(projections(model, chat, one, ["Why?"])[0]) == pytest.approx(
        float(last @ one.vector.double()), rel=1e-4, abs=1e-4
    )


def test_a_shift_that_was_put_in_is_measured(model: Any, chat: ChatFormat) -> None:
    persona, moved = persona_vector(model, chat, SMALL), copy.deepcopy(model)
    bake_addition(moved, persona.direction.layer, persona.direction.vector, 3.0)
    prompts = [each.question for each in SMALL.exchanges]
    for answers in (None, [each.lacks for each in SMALL.exchanges]):
        found = shift(model, moved, chat, persona, prompts, answers)
        assert found.mean.value == pytest.approx(3.0, rel=1e-3)
        assert found.gaps == pytest.approx(3.0 / persona.gap, rel=1e-3)
        assert found.percentile == 1.0
        assert max(map(abs, found.random)) < 3.0
    nothing = shift(model, model, chat, persona, prompts)
    assert nothing.mean.value == 0
    with pytest.raises(DataError, match="4 prompts with 1 answers"):
        shift(model, moved, chat, persona, prompts, ["one"])


def test_a_left_out_question_has_no_part_in_the_vector_that_it_is_measured_with() -> None:
    seen = torch.zeros(2, 3, 1, 2, dtype=torch.float64)
    seen[0, :, 0] = torch.tensor([[9.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    found = _left_out(seen, seen)
    assert found[:, 0].tolist() == pytest.approx([0.0, 1 / 82**0.5, 1 / 82**0.5])


def test_the_texts_are_pairs_of_like_length_without_repeats() -> None:
    asked = [each.question for trait in TRAITS for each in trait.exchanges]
    assert len(set(asked)) == len(asked) == 30
    for trait in TRAITS:
        assert len(trait.instructions) == 5
        lengths = [(len(each.shows), len(each.lacks)) for each in trait.exchanges]
        assert 0.75 < sum(a for a, _ in lengths) / sum(b for _, b in lengths) < 1.33
        assert all(0.5 < a / b < 2 for a, b in lengths)
