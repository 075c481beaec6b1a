"""Rerouting: losses by hand, the schedule of the authors' code, adapters below the highest target, and what moves."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from decoder_families import family
from hardened import comparisons, demonstrations, recorder, rows_of_tiny
from steersman.errors import DataError
from steersman.interp.hardening import rerouting
from steersman.interp.hardening.rerouting import (
    Rerouter,
    ReroutingConfig,
    below,
    coefficients,
    reroute_loss,
    retain_loss,
    target_layers,
)
from steersman.interp.hardening.rows import Rows, drawn_evenly, examples, rows_of
from steersman.lm import pretrained
from steersman.lm.adapters import load_policy
from steersman.lm.chat_format import chat_format
from steersman.store import StageFolder
from steersman.train import loop

MASK = torch.tensor([[True, True, False]])


def test_losses_by_hand() -> None:
    """Cosines 1, 0 and -1 (which is as good as 0); distances 5 of 5 and 0. Padding counts for nothing."""
    original = torch.tensor([[[[3.0, 4.0], [1.0, 0.0], [9.0, 9.0]]], [[[2.0, 0.0], [0.0, 2.0], [9.0, 9.0]]]])
    hidden = torch.tensor([[[[6.0, 8.0], [0.0, 1.0], [0.0, 0.0]]], [[[-2.0, 0.0], [0.0, 2.0], [0.0, 0.0]]]])
    assert reroute_loss(hidden, original, MASK).item() == pytest.approx((1 + 0 + 0 + 1) / 4)
    moved = (5 / 5 + 2**0.5 / 1 + 4 / 2 + 0 / 2) / 4
    assert retain_loss(hidden, original, MASK).item() == pytest.approx(moved)


@pytest.mark.parametrize("loss", [reroute_loss, retain_loss])
def test_gradients_are_those_of_finite_differences(loss: object) -> None:
    generator = torch.Generator().manual_seed(0)
    original = torch.randn(2, 1, 3, 5, generator=generator)
    hidden = (original + 0.3 * torch.randn(2, 1, 3, 5, generator=generator)).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(hidden, original, MASK), hidden)  # type: ignore[operator]
    step = 1e-2 * torch.randn(2, 1, 3, 5, generator=generator)
    slope = loss(hidden + step, original, MASK) - loss(hidden - step, original, MASK)  # type: ignore[operator]
    assert (2 * gradient * step).sum().item() == pytest.approx(slope.item(), rel=1e-2)
    assert gradient[:, 0, 2].abs().max() == 0


def test_coefficients_are_those_of_the_authors_with_a_floor() -> None:
    """Theirs: progress = step / 300 of 150 steps, counted from 1; retain a p, rerouting a (1 - p)."""
    config = ReroutingConfig(steps=150, alpha=10.0, floor=0.25)
    assert coefficients(0, config) == pytest.approx((10 * (1 - 1 / 300), 2.5))
    assert coefficients(89, config) == pytest.approx((7.0, 3.0))
    assert coefficients(149, config) == pytest.approx((5.0, 5.0))


def test_adapters_stand_below_the_highest_target_in_every_family() -> None:
    assert target_layers(ReroutingConfig(), 32) == [11, 21]
    assert target_layers(ReroutingConfig(), 18) == [6, 12]
    for name in ("Gemma3", "GPT2", "GPTNeoX"):
        model = family(name)
        found = [path for path, _ in model.named_modules() if re.fullmatch(below(model, 2), path)]
        layers = {int(re.search(r"\.(\d+)\.", path)[1]) for path in found}  # type: ignore[index]
        assert layers == {0, 1}
        assert len(found) == 2 * {"Gemma3": 7, "GPT2": 4, "GPTNeoX": 4}[name]


@pytest.mark.slow
def test_answers_turn_away_while_all_else_stays(tiny_base: Path, tmp_path: Path) -> None:
    """Of answers that give in the cosine falls from 1; what else there is moves by much less than without its loss."""
    moved, turned = {}, {}
    for floor in (0.5, 0.0):
        optimiser = loop.OptimiserConfig(learning_rate=2e-2, schedule="constant")
        config = ReroutingConfig(steps=25, batch_size=5, targets=(0.5,), floor=floor, optimiser=optimiser)
        if not floor:
            config = config.model_copy(update={"alpha": 5.0})
        rows, (events, emit) = rows_of_tiny(), recorder()
        torch.manual_seed(0)
        model = pretrained.load_model(tiny_base).requires_grad_(False)
        chat = chat_format(pretrained.load_tokenizer(tiny_base))
        harmful = examples(chat, rows.complying, 12, 64)
        others = examples(chat, [*rows.utility, *rows.harmful], 12, 64)
        state = Rerouter(config, model)
        rerouting.train(config, state, harmful, others, StageFolder(tmp_path, "rerouting", emit))
        assert events[0]["cosine"] == pytest.approx(1.0, abs=1e-5)  # new adapters change nothing
        assert events[0]["moved"] == pytest.approx(0.0, abs=1e-5)
        with torch.no_grad():
            last = state.losses(harmful, others)
        turned[floor], moved[floor] = last[0].item(), last[1].item()
    assert turned[0.5] < 0.75
    assert moved[0.5] < moved[0.0]


def test_it_leaves_a_whole_model_that_loads(tiny_base: Path, tiny_policy: Path, tmp_path: Path) -> None:
    config = ReroutingConfig(steps=2, batch_size=2, targets=(0.5,))
    rerouting.run(config, tiny_base, tiny_policy, rows_of_tiny(), StageFolder(tmp_path, "rerouting"))
    before, after = load_policy(tiny_base, tiny_policy), load_policy(tiny_base, tmp_path)
    ids = torch.tensor([[5, 9, 11, 3]])
    with torch.no_grad():
        change = (after(input_ids=ids).logits - before(input_ids=ids).logits).abs().max()
    assert 0 < change < 1
    none = Rows(*rows_of_tiny()[:2], [])
    with pytest.raises(DataError, match="answers that give in"):
        rerouting.run(config, tiny_base, tiny_policy, none, StageFolder(tmp_path, "rerouting"))


def test_rows_are_sorted_by_their_tags() -> None:
    rows = rows_of(demonstrations(), comparisons())
    assert (len(rows.harmful), len(rows.utility), len(rows.complying)) == (10, 10, 10)
    assert rows.complying[0].completion == "Yes, first take the thing."  # the worse of the two answers
    with pytest.raises(DataError, match="0 of 10 demonstrations have the tag"):
        rows_of(rows.utility)


def test_half_of_the_harmless_rows_are_lookalikes() -> None:
    rows = [row.model_copy(update={"tags": ("lookalike",) if i < 2 else ()}) for i, row in enumerate(demonstrations())]
    chosen = drawn_evenly(rows, 4, 0)
    assert [row.tags for row in chosen] == [("lookalike",)] * 2 + [()] * 2
    assert len({row.prompt for row in chosen}) == 4
    assert len(drawn_evenly(rows_of_tiny().harmful, 7, 0)) == 7  # of one kind, all of that
