"""KTO on rows with one labelled answer: the formula, rows of both kinds, what is refused and said, and resuming."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from steersman.errors import DataError
from steersman.lm import pretrained
from steersman.lm.chat_format import chat_format
from steersman.lm.shared_prefix import Group
from steersman.store import StageFolder
from steersman.train import dpo, kto
from steersman.train.dpo import DpoConfig
from steersman.train.loop import OptimiserConfig
from steersman.types import Comparison

from .conftest import Stopped, recorder
from .test_dpo import FAST, comparisons, gradients, plain_log_ratios, prepared, starts  # noqa: F401

KTO = FAST.model_copy(update={"loss": "kto", "desirable_weight": 1.5, "undesirable_weight": 0.8})


@pytest.fixture(scope="module")
def alone(comparisons: list[Comparison]) -> list[Comparison]:  # noqa: F811
    """One labelled answer a row: two good ones, then a bad one, and so on."""
    return [
        Comparison(prompt=row.prompt, options=(row.options[i % 3 == 2],), desirable=i % 3 != 2)
        for i, row in enumerate(comparisons)
    ]


def test_step_and_gradients_are_those_of_the_formula(
    tiny_base: Path,
    starts: Path,  # noqa: F811
    alone: list[Comparison],
    comparisons: list[Comparison],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Equation 7 of the paper as TRL writes it, on separate rows: means over answers, a shared z without gradient."""
    mixed = [*alone[:4], comparisons[5].model_copy(update={"weight": 2.0})]  # a pair is an answer of each kind
    trainer, _ = prepared(KTO, tiny_base, starts / "lora", mixed)
    pairs, _ = dpo.encode(mixed, chat_format(pretrained.load_tokenizer(tiny_base)), KTO)
    ours = gradients(trainer, [], monkeypatch, pairs, scale=1.1)
    trainer.optimiser.zero_grad()
    trainer.model.eval()

    def ratios(groups: list[Group]) -> torch.Tensor:
        return torch.cat([plain_log_ratios(tiny_base, trainer, starts / "lora", group) for group in groups])

    groups = [pair.group for pair in pairs]
    foreign = [Group(own.prompt, other.completions) for own, other in zip(groups, groups[-1:] + groups, strict=False)]
    with torch.no_grad():
        z = max(0.0, float(ratios(foreign).mean()))
    labels, weights = [True, True, False, True, True, False], [1, 1, 1, 1, 2, 2]
    losses = [
        w * (1.5 * (1 - torch.sigmoid(0.1 * (r - z))) if good else 0.8 * (1 - torch.sigmoid(0.1 * (z - r))))
        for r, good, w in zip(ratios(groups), labels, weights, strict=True)
    ]
    loss = torch.stack(losses).sum() / sum(weights)
    loss.backward()
    assert z > 0.01
    assert float(ours["loss"]) == pytest.approx(loss.item(), rel=1e-5)
    for name, parameter in trainer.parameters.items():
        if parameter.grad is not None:
            torch.testing.assert_close(ours[name], parameter.grad, atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("counts", "weights", "said"),
    [
        ((3, 3), (1.0, 1.0), ""),
        ((4, 3), (1.0, 1.0), ""),
        ((300, 100), (1.0, 3.0), ""),
        ((300, 100), (1.0, 1.0), "count 3 : 1, .* set dpo.undesirable_weight between 2.25 and 3"),
        ((100, 300), (1.0, 1.0), r"count 0.33 : 1, .* set dpo.desirable_weight between 3 and 4\."),
        ((7, 0), (1.0, 1.0), "All 7 answers are desirable: KTO moves them all up"),
        ((0, 7), (1.0, 1.0), "All 7 answers are undesirable: KTO moves them all down"),
    ],
)
def test_numbers_out_of_balance_are_told(counts: tuple[int, int], weights: tuple[float, float], said: str) -> None:
    found = kto.balance(*counts, weights)
    if said:
        assert re.search(said, found), found
    else:
        assert not found


def test_two_rows_in_every_step() -> None:
    assert kto.at_least_two([[1, 2], [3], [4, 5]]) == [[1, 2, 3], [4, 5]]
    assert kto.at_least_two([[3], [1, 2]]) == [[3, 1, 2]]
    for plan in ([[1]], [[1], [2]]):
        with pytest.raises(DataError, match="every optimiser step has one pair"):
            kto.at_least_two(plan)


def test_other_losses_refuse_single_answers(alone: list[Comparison]) -> None:
    for loss in ("dpo", "ipo", "simpo", "orpo"):
        with pytest.raises(DataError, match=f"24 of 24 comparisons have one answer with a label, and dpo.loss: {loss}"):
            dpo.refuse_labelled(alone, loss)
    dpo.refuse_labelled(alone, "kto")


def run(config: DpoConfig, base: Path, start: Path, folder: Path, rows: Any, stop: int | None = None) -> list[Any]:
    events, emit = recorder(stop)
    folder.mkdir(exist_ok=True)
    dpo.run(config, base, start, rows[6:], StageFolder(folder, "dpo", emit), held_out=rows[:6])
    return [{k: v for k, v in event.items() if k != "tokens_per_second"} for event in events]


def test_training_on_both_kinds_resumes_to_the_bit(
    tiny_base: Path,
    starts: Path,  # noqa: F811
    alone: list[Comparison],
    comparisons: list[Comparison],  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [*alone, comparisons[3], comparisons[4]]
    config = KTO.model_copy(update={"optimiser": OptimiserConfig(learning_rate=3e-3), "epochs": 3})
    whole = run(config, tiny_base, starts / "lora", tmp_path / "whole", rows)
    with pytest.raises(Stopped):
        run(config, tiny_base, starts / "lora", tmp_path / "killed", rows, stop=4)
    again = run(config, tiny_base, starts / "lora", tmp_path / "killed", rows)
    assert again[0]["resumed_at_step"] > 0
    assert again[1:] == whole[len(whole) - len(again) + 1 :]
    setup, held_out = whole[0], whole[-1]
    assert (setup["comparisons"], setup["without_order"], setup["pairs_per_epoch"]) == (20, 0, 2)
    assert (setup["desirable"], setup["undesirable"]) == (14, 8)
    assert "count 3.3 : 1" in setup["balance"]
    assert (held_out["event"], held_out["desirable"], held_out["undesirable"]) == ("held_out_answers", 4, 2)
    assert held_out["desirable_log_ratio_nats"] > held_out["undesirable_log_ratio_nats"]


def test_one_label_alone_is_learnt_and_told(
    tiny_base: Path,
    starts: Path,  # noqa: F811
    alone: list[Comparison],
    tmp_path: Path,
) -> None:
    config = KTO.model_copy(update={"epochs": 1, "nll_weight": 0.5})
    bad = [row for row in alone if not row.desirable]
    events = run(config, tiny_base, starts / "lora", tmp_path / "out", [*bad[:6], *bad])
    assert events[0]["balance"].startswith("All 8 answers are undesirable")
    steps = [event for event in events if event["event"] == "train"]
    assert steps
    assert all("chosen_log_ratio_nats" not in step and "accuracy" not in step for step in steps)
