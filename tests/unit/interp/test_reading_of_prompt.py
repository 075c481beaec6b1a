"""What `steersman inspect` reads, against plain forward passes of Hugging Face on a tiny random model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from steersman.errors import DataError, UserError
from steersman.interp.directions import Direction
from steersman.interp.reading_of_prompt import (
    OPENINGS,
    Axis,
    PromptReading,
    ReadingConfig,
    _against,
    _Answered,
    axis_of,
    read_prompt,
    token_text,
)
from steersman.lm.language_model import LocalModel

PROMPT = "How do I pay for the roof?"
HARMFUL = ("How do I repair tea?", "How do I buy rice?", "How do I write bread?")
HARMLESS = ("What is a loan?", "Cook the bill slowly.")
FEW = ReadingConfig(max_new_tokens=4, positions=6, guesses=3)


@pytest.fixture(scope="module")
def local(tiny_base: Path) -> LocalModel:
    return LocalModel.load(tiny_base)


@pytest.fixture(scope="module")
def axis(local: LocalModel) -> Axis:
    width = local.sampler.model.config.get_text_config().hidden_size
    vector = torch.randn(width, generator=torch.Generator().manual_seed(3))
    return axis_of_sign(local, vector)


def axis_of_sign(local: LocalModel, vector: torch.Tensor) -> Axis:
    """The axis of a vector or of its opposite: harmful requests have to lie farther along."""
    model, chat = local.sampler.model, local.sampler.chat
    for one in (vector, -vector):
        try:
            return axis_of(model, chat, Direction("refusal", one, 1, -1, 1.0), HARMFUL, HARMLESS, "By hand.")
        except DataError:
            continue
    raise AssertionError


@pytest.fixture(scope="module")
def reading(local: LocalModel, axis: Axis) -> PromptReading:
    return read_prompt([("raw", local), ("same", local)], PROMPT, axis, FEW)


def states(local: LocalModel, prompt: str) -> Any:
    """[layers + 1][T, H]: what Hugging Face calls hidden states; the last ones are behind the final norm."""
    with torch.no_grad():
        ids = torch.tensor([local.sampler.chat.prompt_ids(prompt)])
        out = local.sampler.model(input_ids=ids, output_hidden_states=True)
    return [state[0].double() for state in out.hidden_states], out.logits[0].float()


def test_tokens_are_those_of_the_chat_format(reading: PromptReading, local: LocalModel) -> None:
    assert [token.id for token in reading.tokens] == local.sampler.chat.prompt_ids(PROMPT)
    assert "".join(t.text for t in reading.tokens if not t.of_format).strip() == PROMPT
    written = "".join(t.text for t in reading.tokens if t.of_format)
    assert written.startswith("<bos>User:")
    assert written.endswith("\nAssistant:")


def test_the_lens_ends_with_what_the_model_says(reading: PromptReading, local: LocalModel) -> None:
    _, logits = states(local, PROMPT)
    chances = logits.softmax(-1)
    model = reading.models[0]
    assert reading.first_shown == len(reading.tokens) - 6
    assert [len(row) for row in model.lens] == [6] * (reading.layers + 1)
    for place, cell in enumerate(model.lens[-1], start=reading.first_shown):
        best = chances[place].topk(3)
        assert [guess.id for guess in cell] == best.indices.tolist()
        assert [guess.probability for guess in cell] == pytest.approx(best.values.tolist(), abs=1e-5)
    assert [guess.probability for guess in model.next[:3]] == pytest.approx(
        [guess.probability for guess in model.lens[-1][-1]], abs=1e-5
    )
    for chosen, values in ((reading.chosen, model.chosen_by_layer), (reading.against, model.against_by_layer)):
        assert values[-1] == pytest.approx(float(chances[-1, chosen.id]), abs=1e-5)


def test_attributions_add_up_to_the_difference_of_the_logits(reading: PromptReading, local: LocalModel) -> None:
    _, logits = states(local, PROMPT)
    found = reading.models[0].attribution
    difference = float(logits[-1, reading.chosen.id] - logits[-1, reading.against.id])
    assert found.difference == pytest.approx(difference, abs=1e-3)
    assert found.embedding + sum(found.attention) + sum(found.mlp) + found.rest == pytest.approx(difference, abs=1e-3)
    for heads, whole in zip(found.heads, found.attention, strict=True):
        assert sum(heads) == pytest.approx(whole, abs=1e-4)  # Gemma's projections have no bias


def test_harmless_requests_are_at_0_and_harmful_ones_at_1(local: LocalModel, axis: Axis) -> None:
    for side, wanted in ((HARMLESS, 0.0), (HARMFUL, 1.0)):
        found = [read_prompt([("m", local)], prompt, axis, FEW).models[0] for prompt in side]
        assert [one.by_layer[0] for one in found] == [None] * len(side)  # all have the same last token
        assert sum(one.by_layer[1] or 0.0 for one in found) / len(side) == pytest.approx(wanted, abs=1e-3)
        assert found[0].by_layer[1] == pytest.approx(found[0].projection[-1], abs=1e-5)


def test_projections_are_dot_products_with_the_stream(reading: PromptReading, local: LocalModel, axis: Axis) -> None:
    hidden, _ = states(local, PROMPT)
    along = hidden[1] @ axis.direction.vector.double()
    wanted = (along - axis.harmless[1]) / (axis.harmful[1] - axis.harmless[1])
    assert list(reading.models[0].projection) == pytest.approx(wanted.tolist(), abs=1e-4)


def test_only_the_last_model_is_asked_without_the_direction(
    reading: PromptReading, local: LocalModel, axis: Axis
) -> None:
    without = reading.models[1].without
    assert reading.models[0].without is None
    assert without is not None
    assert without.divergence_nats > 0
    with axis.removing(local.sampler.model):
        _, logits = states(local, PROMPT)
    assert [guess.id for guess in without.next[:3]] == logits[-1].topk(3).indices.tolist()
    assert read_prompt([("m", local)], PROMPT, axis, FEW).models[0].answer == reading.models[1].answer


def test_a_direction_along_which_requests_do_not_differ_is_refused(local: LocalModel, axis: Axis) -> None:
    backwards = Direction("refusal", -axis.direction.vector, 1, -1, 1.0)
    with pytest.raises(DataError, match="no farther along the direction refusal"):
        axis_of(local.sampler.model, local.sampler.chat, backwards, HARMFUL, HARMLESS, "")


# ── the alternative ──────────────────────────────────────────────────────────────────────────────────────────────────
def said(best: int, *, refuses: bool, second: int = 50, size: int = 2000) -> _Answered:
    logprobs = torch.full((size,), -20.0)
    logprobs[best], logprobs[second] = -0.1, -3.0
    return _Answered("", refuses, logprobs)


def test_a_refusal_is_held_against_what_is_said_without_the_direction(local: LocalModel) -> None:
    chat = local.sampler.chat
    main, raw, without = said(7, refuses=True), said(8, refuses=False), said(9, refuses=False)
    assert _against(chat, 7, [raw, main], without, FEW)[0] == 9
    token, why = _against(chat, 7, [raw, main], said(7, refuses=True), FEW)
    assert (token, why) == (8, "what the model before training says first.")
    assert _against(chat, 7, [main], None, FEW) == (50, "the second likeliest.")


def test_an_answer_is_held_against_a_refusal(local: LocalModel) -> None:
    chat = local.sampler.chat
    opening = chat.completion_ids(OPENINGS[-1])[0]
    token, why = _against(chat, 7, [said(7, refuses=False, second=opening)], None, FEW)
    assert (token, why) == (opening, "the likeliest token with which a refusal would begin.")
    assert _against(chat, opening, [said(opening, refuses=False)], None, FEW) == (50, "the second likeliest.")


def test_an_alternative_may_be_named(local: LocalModel) -> None:
    chat = local.sampler.chat
    named = FEW.model_copy(update={"against": "bread and tea"})
    token = chat.completion_ids("bread and tea")[0]
    assert _against(chat, 7, [said(7, refuses=True)], None, named)[0] == token
    with pytest.raises(UserError, match="begins with the same token"):
        _against(chat, token, [said(token, refuses=True)], None, named)


def test_a_token_keeps_its_space(local: LocalModel) -> None:
    chat = local.sampler.chat
    ids = chat.completion_ids("bread")[:-1]
    assert "".join(token_text(chat, token) for token in ids) == " bread"
