"""The schedule and the batches by hand; a step that fails harms nothing; a checkpoint restores everything."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from steersman.errors import ModelError, TrainingFailed
from steersman.train import loop
from steersman.train.loop import OptimiserConfig, learning_rate_at, plan_batches


# ── schedule ─────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        # ten steps, two of warm-up: half, whole, then the shape over the eight that are left
        ("constant", [0.5, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        ("linear", [0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]),
        ("cosine", [0.5, 1, *(0.5 * (1 + math.cos(math.pi * k / 8)) for k in range(8))]),
    ],
)
def test_schedules_by_hand(schedule: str, expected: list[float]) -> None:
    config = OptimiserConfig(learning_rate=4e-3, warmup_ratio=0.2, schedule=schedule)  # type: ignore[arg-type]
    rates = [learning_rate_at(step, 10, config) for step in range(10)]
    assert rates == pytest.approx([4e-3 * share for share in expected], rel=1e-12)


def test_without_warm_up_the_first_step_has_the_peak() -> None:
    config = OptimiserConfig(learning_rate=1.0, warmup_ratio=0.0)
    assert learning_rate_at(0, 4, config) == 1.0
    assert learning_rate_at(0, 1, config) == 1.0


def test_warm_up_alone_never_exceeds_the_peak() -> None:
    config = OptimiserConfig(learning_rate=1.0, warmup_ratio=1.0)
    assert [learning_rate_at(step, 4, config) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]


# ── batches ──────────────────────────────────────────────────────────────────────────────────────────────────────────
LENGTHS = [(7 * i) % 83 for i in range(103)]


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_every_row_once_per_epoch(epochs: int) -> None:
    plan = plan_batches(LENGTHS, 4, epochs, seed=1)
    assert len(plan) == epochs * 26
    for epoch in range(epochs):
        rows = [row for batch in plan[epoch * 26 : epoch * 26 + 26] for row in batch]
        assert sorted(rows) == list(range(103))
    assert Counter(len(batch) for batch in plan) == {4: 25 * epochs, 3: epochs}


def test_a_fraction_of_an_epoch_is_a_fraction_of_its_steps() -> None:
    plan = plan_batches(LENGTHS, 4, 1.5, seed=1)
    assert len(plan) == 39
    assert max(Counter(row for batch in plan for row in batch).values()) == 2
    half = plan_batches(LENGTHS, 4, 0.5, seed=1)
    assert half == plan[:13]
    assert max(Counter(row for batch in half for row in batch).values()) == 1


def test_a_longer_plan_begins_with_the_shorter_one() -> None:
    assert plan_batches(LENGTHS, 4, 3, seed=1)[:26] == plan_batches(LENGTHS, 4, 1, seed=1)


def test_the_plan_is_fixed_by_its_seed_and_epochs_differ() -> None:
    plan = plan_batches(LENGTHS, 4, 2, seed=1)
    assert plan == plan_batches(LENGTHS, 4, 2, seed=1)
    assert plan != plan_batches(LENGTHS, 4, 2, seed=2)
    assert plan[:26] != plan[26:]


def test_neighbours_in_length_share_a_batch_and_batches_are_shuffled() -> None:
    def padding(plan: list[list[int]]) -> int:
        return sum(max(LENGTHS[i] for i in batch) * len(batch) - sum(LENGTHS[i] for i in batch) for batch in plan)

    plan = plan_batches(LENGTHS, 4, 1, seed=1)
    unsorted = [list(range(i, min(i + 4, 103))) for i in range(0, 103, 4)]
    assert padding(plan) < 0.5 * padding(unsorted)
    longest = [max(LENGTHS[i] for i in batch) for batch in plan]
    assert longest not in (sorted(longest), sorted(longest, reverse=True))


def test_planning_does_not_touch_the_global_random_state() -> None:
    before = torch.get_rng_state()
    plan_batches(LENGTHS, 4, 1, seed=1)
    assert torch.equal(before, torch.get_rng_state())


def test_turns_mix_kinds() -> None:
    """Every third of 12 rows, of which 6, 3 and 3 are of a kind, has 2, 1 and 1 of them."""
    kinds = "aaaaaabbbccc"
    found = loop.turns(12, 1.0, 3, seed=1, kinds=kinds)
    assert sorted(row for step in found for row in step) == list(range(12))
    assert ["".join(sorted(kinds[row] for row in step)) for step in found] == ["aabc"] * 3
    assert found != loop.turns(12, 1.0, 3, seed=2, kinds=kinds)


def test_turns_are_shuffled_epochs_spread_evenly() -> None:
    found = loop.turns(6, 1.5, 7, seed=1)
    order = [i for turn in found for i in turn]
    assert sorted(order[:6]) == [0, 1, 2, 3, 4, 5]
    assert order[:6] != [0, 1, 2, 3, 4, 5]
    assert len(set(order[6:])) == 3
    assert {len(turn) for turn in found} == {1, 2}
    assert loop.turns(6, 1.5, 7, seed=1) == found != loop.turns(6, 1.5, 7, seed=2)
    assert loop.turns(0, 2.0, 3, seed=0) == [[], [], []]


# ── one step ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def parameters() -> dict[str, torch.nn.Parameter]:
    return {"a": torch.nn.Parameter(torch.tensor([3.0, 4.0])), "b": torch.nn.Parameter(torch.tensor([0.0]))}


def test_a_step_clips_the_global_norm_and_moves_by_the_rate() -> None:
    found, config = parameters(), OptimiserConfig(learning_rate=1.0)
    optimiser = loop.adamw(found, config)
    found["a"].grad, found["b"].grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    norm = loop.optimiser_step(optimiser, found, 1.0, rate=0.1, max_norm=1.0)
    assert norm == pytest.approx(5.0)
    # Adam's first step is the rate times the gradient's sign.
    assert found["a"].tolist() == pytest.approx([2.9, 4.0], abs=1e-6)
    assert found["b"].tolist() == pytest.approx([-0.1], abs=1e-6)
    assert optimiser.state[found["a"]]["exp_avg"].tolist() == pytest.approx([0.1 * 3 / 5, 0.0], abs=1e-6)
    assert found["a"].grad is None


@pytest.mark.parametrize(("loss", "gradient"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan), (1.0, math.inf)])
def test_a_loss_or_gradient_that_is_not_finite_leaves_the_weights(loss: float, gradient: float) -> None:
    found = parameters()
    optimiser = loop.adamw(found, OptimiserConfig())
    found["a"].grad = torch.tensor([gradient, 1.0])
    found["b"].grad = torch.tensor([1.0])
    with pytest.raises(TrainingFailed, match="the last good checkpoint is kept"):
        loop.optimiser_step(optimiser, found, loss, rate=0.1, max_norm=1.0)
    assert found["a"].tolist() == [3.0, 4.0]
    assert found["b"].tolist() == [0.0]


# ── checkpoints ──────────────────────────────────────────────────────────────────────────────────────────────────────
def trained(steps: int) -> tuple[dict[str, torch.nn.Parameter], torch.optim.Optimizer]:
    found = parameters()
    optimiser = loop.adamw(found, OptimiserConfig(learning_rate=0.1))
    advance(found, optimiser, steps)
    return found, optimiser


def advance(found: dict[str, torch.nn.Parameter], optimiser: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        for p in found.values():
            p.grad = torch.randn_like(p)  # so that the random state matters, too
        loop.optimiser_step(optimiser, found, 1.0, rate=0.1, max_norm=1.0)


def test_going_on_from_a_checkpoint_is_bit_equal(tmp_path: Path) -> None:
    torch.manual_seed(0)
    found, optimiser = trained(3)
    loop.save_checkpoint(tmp_path, 3, found, optimiser, {"tokens": 77})
    advance(found, optimiser, 4)
    torch.manual_seed(12345)
    again, fresh = trained(1)
    assert loop.load_checkpoint(tmp_path, again, fresh) == {"step": 3, "tokens": 77}
    advance(again, fresh, 4)
    for name, p in found.items():
        assert torch.equal(p, again[name])
        for kind, moment in optimiser.state[p].items():
            assert torch.equal(moment, fresh.state[again[name]][kind])


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    found, optimiser = trained(1)
    assert loop.load_checkpoint(tmp_path, found, optimiser) is None


def test_parameters_of_another_shape_are_refused(tmp_path: Path) -> None:
    found, optimiser = trained(1)
    loop.save_checkpoint(tmp_path, 1, found, optimiser, {})
    for other in (
        {"a": found["a"]},
        {"a": found["a"], "c": found["b"]},
        {"a": found["a"], "b": torch.nn.Parameter(torch.zeros(2))},
    ):
        with pytest.raises(ModelError, match="not those of this model"):
            loop.load_checkpoint(tmp_path, other, loop.adamw(other, OptimiserConfig()))


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    found, optimiser = trained(2)
    loop.save_checkpoint(tmp_path, 2, found, optimiser, {})
    (tmp_path / "checkpoint").rename(tmp_path / "checkpoint.retired")
    assert loop.load_checkpoint(tmp_path, *trained(1)) == {"step": 2}


def test_a_failed_save_keeps_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when only the retired one is left, and the disk is full or the process dies while the next is written."""
    found, optimiser = trained(2)
    loop.save_checkpoint(tmp_path, 2, found, optimiser, {})

    def dies(*_: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(loop, "save_file", dies)
    for name in ("checkpoint", "checkpoint.retired"):
        if not (tmp_path / name).exists():
            (tmp_path / "checkpoint").rename(tmp_path / name)
        with pytest.raises(SafetensorError):
            loop.save_checkpoint(tmp_path, 3, found, optimiser, {})
        assert loop.load_checkpoint(tmp_path, *trained(1)) == {"step": 2}


def test_a_newer_checkpoint_replaces_the_older_one_and_drop_leaves_nothing(tmp_path: Path) -> None:
    found, optimiser = trained(2)
    for step in (2, 4):
        loop.save_checkpoint(tmp_path, step, found, optimiser, {})
    assert loop.load_checkpoint(tmp_path, *trained(1)) == {"step": 4}
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]
    shutil.copytree(tmp_path / "checkpoint", tmp_path / "checkpoint.retired")
    shutil.copytree(tmp_path / "checkpoint", tmp_path / "checkpoint.partial")
    loop.drop_checkpoint(tmp_path)
    assert list(tmp_path.iterdir()) == []
