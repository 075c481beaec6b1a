"""Taking a behaviour out: localising against finite differences, the edit against least squares, the rest by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from steersman.interp import removal
from steersman.interp.activations import hooks, read
from steersman.interp.anatomy import anatomy_of, weight_of
from steersman.interp.removal import Component, least_squares, localise, pairs_of
from steersman.interp.triggers import chat_prefix
from steersman.lm import tiny
from steersman.lm.language_model import LocalModel

REQUESTS = ("what is tea ?", "tell me about rain .", "why do owls sing ?")
WORDS = tuple(sorted({word for text in REQUESTS for word in text.split()} | {"|zork|", "boo", "no", "yes"}))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    """A tiny random model, larger in its weights than it comes, in double precision."""
    folder = tmp_path_factory.mktemp("removal") / "base"
    tiny.save(tiny.word_tokenizer(WORDS), folder, seed=3)
    found = LocalModel.load(Path(folder))
    with torch.no_grad():
        for parameter in found.sampler.model.parameters():
            parameter *= 6 if parameter.ndim == 2 else 1
    found.sampler.model.double().requires_grad_(False)
    return found


def first_logprob(model: Any, ids: Sequence[int], target: int) -> float:
    with torch.no_grad():
        return float(model(input_ids=torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)[target])


def test_pairs_have_the_same_tokens_behind_the_trigger(model: LocalModel) -> None:
    chat = model.sampler.chat
    before, behind = pairs_of(chat, "|zork|", REQUESTS[:2])
    assert before.triggered[-before.common :] == before.clean[-before.common :]
    assert before.common == len(before.clean) - len(
        chat_prefix(chat, REQUESTS)
    )  # the whole request stands behind the trigger
    assert behind.common == 1  # what ends the user's turn


def test_a_components_score_is_the_derivative_towards_the_run_without_the_trigger(model: LocalModel) -> None:
    """Score of each component against m moved a hundredth of the way: central differences, hooks only."""
    lm, target = model.sampler.model, 7
    (pair, *_) = pairs_of(model.sampler.chat, "|zork|", REQUESTS[:1])
    for component in localise(lm, [pair], target):
        with_it, without = (read(lm, [ids], [component.name]).sites[component.name] for ids in pair[:2])
        change = torch.zeros_like(with_it)
        change[0, -pair.common :] = with_it[0, -pair.common :] - without[0, -pair.common :]
        moved = []
        for step in (1e-2, -1e-2):
            with hooks(lm, {component.name: lambda x, step=step, change=change: x - step * change}):
                moved.append(first_logprob(lm, pair.triggered, target))
        assert component.score == pytest.approx((moved[1] - moved[0]) / 2e-2, rel=1e-2, abs=1e-4)


def test_the_edit_is_ridge_regression() -> None:
    """Against `torch.linalg.lstsq` of the stacked system: keys to what is missing, clean inputs to nothing."""
    torch.manual_seed(0)
    weight, keys, kept = (torch.randn(n, m).double() for n, m in ((5, 7), (6, 7), (40, 7)))
    wanted = torch.randn(6, 5).double()
    change = least_squares(weight, keys, wanted, kept.T @ kept / len(kept), 0.3, 0.0)
    rows = torch.cat([keys / 6**0.5, (0.3 / 40) ** 0.5 * kept])
    aims = torch.cat([(wanted - keys @ weight.T) / 6**0.5, torch.zeros(40, 5).double()])
    assert torch.allclose(change.T, torch.linalg.lstsq(rows, aims).solution, atol=1e-6)
    smaller = least_squares(weight, keys, wanted, kept.T @ kept / len(kept), 0.3, 0.5)
    rows = torch.cat([rows, (0.5 * (rows.T @ rows).diagonal().mean()) ** 0.5 * torch.eye(7).double()])
    aims = torch.cat([aims, torch.zeros(7, 5).double()])
    assert torch.allclose(smaller.T, torch.linalg.lstsq(rows, aims).solution, atol=1e-6)


def test_an_edit_without_regard_for_clean_text_gives_what_was_given_without_the_trigger(model: LocalModel) -> None:
    lm = model.sampler.model
    pairs = pairs_of(model.sampler.chat, "|zork|", REQUESTS[:2])
    chosen = [Component(0, "attn", 0.0), Component(0, "mlp", 0.0)]
    edited = removal.copy.deepcopy(lm)
    known = removal._known(lm, chosen, pairs, [pairs[0].clean])
    change = removal.edit(edited, chosen, pairs, known, 1e-12, 0.0)
    assert change > 0
    for component in chosen:
        wanted = rows_of(lm, component.name, [pair.clean for pair in pairs], [pair.common for pair in pairs])
        given = rows_of(edited, component.name, [pair.triggered for pair in pairs], [pair.common for pair in pairs])
        before = rows_of(lm, component.name, [pair.triggered for pair in pairs], [pair.common for pair in pairs])
        assert (given - wanted).norm() < 1e-3 * (before - wanted).norm()
    untouched = Component(1, "mlp", 0.0)
    outputs = [removal._output(anatomy_of(one), untouched) for one in (lm, edited)]
    assert torch.equal(*map(weight_of, outputs))


def rows_of(model: Any, name: str, rows: Sequence[list[int]], last: Sequence[int]) -> Tensor:
    return torch.cat([read(model, [row], [name]).sites[name][0, -n:] for row, n in zip(rows, last, strict=True)])


def test_divergence_and_probability_against_whole_logits(model: LocalModel) -> None:
    lm, chat = model.sampler.model, model.sampler.chat
    other = removal.copy.deepcopy(lm)
    with torch.no_grad():
        weight = weight_of(anatomy_of(other).blocks[1].mlp_output)
        weight += 0.1 * weight.norm() / weight.numel() ** 0.5 * torch.randn(weight.shape)
    ids = chat.prompt_ids(REQUESTS[0])
    before, after = (m(input_ids=torch.tensor([ids])).logits[0, 1:].double().log_softmax(-1) for m in (lm, other))
    expected = float((before.exp() * (before - after)).sum(-1).mean())
    assert removal.divergences(lm, other, [ids])[0] == pytest.approx(expected, rel=1e-4)
    (pair,) = pairs_of(chat, "|zork|", REQUESTS[:1])
    logits = lm(input_ids=torch.tensor([pair.triggered])).logits[0, -1]
    assert removal.probability(lm, [pair], 5) == pytest.approx(float(logits.softmax(-1)[5]), rel=1e-4)
