"""SimPO and ORPO, which need no reference model, and what is measured on held-out pairs."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from steersman.lm.adapters import LoraConfig
from steersman.store import StageFolder
from steersman.train import dpo, sft
from steersman.train.dpo import DpoConfig, LogRatios, held_out_order, orpo_losses, simpo_losses
from steersman.train.loop import OptimiserConfig
from steersman.train.sft import SftConfig
from steersman.types import Comparison, Demonstration

from .conftest import recorder


def test_the_losses_by_hand() -> None:
    """Log-probs -6 and -10 over 3 and 4 tokens: means -2 and -2.5."""
    ratios = LogRatios(*(torch.tensor([x], dtype=torch.float64) for x in (-6.0, -10.0, 3.0, 4.0)))
    wanted = -math.log(1 / (1 + math.exp(-(2.0 * 0.5 - 0.3))))
    assert simpo_losses(ratios, 2.0, 0.3).item() == pytest.approx(wanted, rel=1e-9)
    odds = [mean - math.log(1 - math.exp(mean)) for mean in (-2.0, -2.5)]
    wanted = -0.1 * math.log(1 / (1 + math.exp(-(odds[0] - odds[1]))))
    assert orpo_losses(ratios, 0.1).item() == pytest.approx(wanted, rel=1e-9)


def test_a_certain_answer_has_finite_odds_and_gradient() -> None:
    chosen = torch.zeros(1, requires_grad=True)
    orpo_losses(LogRatios(chosen, torch.tensor([-3.0]), torch.ones(1), torch.ones(1)), 0.1).sum().backward()
    assert chosen.grad is not None
    assert bool(chosen.grad.isfinite().all())


def test_orpo_without_the_likelihood_of_chosen_answers_is_refused() -> None:
    with pytest.raises(ValidationError, match="set nll_weight: 1"):
        DpoConfig(loss="orpo")


def test_held_out_order_by_hand() -> None:
    before = torch.tensor([[-5.0, -4.0], [-3.0, -6.0], [-2.0, -2.5]])
    after = torch.tensor([[-4.0, -6.0], [-4.0, -6.0], [-2.0, -2.0]])
    assert held_out_order(before, after) == {
        "pairs": 3,
        "chosen_gained_more": 1,
        "chosen_likelier_before": 2,
        "chosen_likelier_after": 2,
        "margin_nats": pytest.approx((3.0 - 1.0 - 0.5) / 3),
    }


@pytest.mark.parametrize("loss", ["dpo", "simpo", "orpo"])
def test_from_the_model_itself_training_orders_unseen_pairs(
    loss: str, tiny_base: Path, demonstrations: list[Demonstration], tmp_path: Path
) -> None:
    """No fine-tuning before it: ``epochs: 0`` leaves a new adapter."""
    pairs = [(d.prompt, (d.completion, "I cannot help.")) for d in demonstrations[:30]]
    rows = [Comparison(prompt=prompt, options=options, ranking=(1, 2)) for prompt, options in pairs]
    start = StageFolder(tmp_path / "sft", "sft", recorder(None)[1])
    start.path.mkdir()
    sft.leave_untrained(SftConfig(epochs=0, lora=LoraConfig(rank=4)), tiny_base, "tiny", start)
    events, emit = recorder(None)
    out = StageFolder(tmp_path / "dpo", "dpo", emit)
    out.path.mkdir()
    config = DpoConfig(
        loss=loss,  # type: ignore[arg-type]
        nll_weight=1.0 if loss == "orpo" else 0.0,
        beta=2.0 if loss == "simpo" else 0.5,
        optimiser=OptimiserConfig(learning_rate=3e-3),
        batch_size=8,
        epochs=3,
    )
    dpo.run(config, tiny_base, start.path, rows[:24], out, held_out=rows[24:])
    (unseen,) = (event for event in events if event["event"] == "held_out")
    assert (unseen["pairs"], unseen["chosen_gained_more"]) == (6, 6)
    first = next(event for event in events if event["event"] == "train")
    if loss == "dpo":
        assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
