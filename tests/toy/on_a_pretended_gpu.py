"""What `test_hardware.py` runs in a process of its own: a whole run on a pretended GPU gives the numbers of the CPU.

Registering a backend changes PyTorch for the whole process, such as what checkpointing takes for the accelerator.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from pretend_gpu import NAME, OnDevice, PretendGpu
from steersman import pipeline
from steersman.lm import device
from steersman.lm.device import Hardware
from steersman.train import loop
from steersman.train.loop import OptimiserConfig

from .conftest import align_smoke

# What can be done in several ways is done otherwise than in the smoke recipe: more code sees the device.
OTHERWISE = (
    "examples.limit_comparisons=12",
    "sft.epochs=0.5",
    "sft.vocabulary=compact",
    "sft.compact.extra_rows=100",
    "dpo.vocabulary=compact",
    "dpo.compact.extra_rows=100",
    "reward_model.members=2",
    "reward_model.combine=weights",
    "reward_model.rater_reliability=true",
    "reward_model.style_control=true",
    "rl.algorithm=ppo",
    "rl.vocabulary=compact",
    "rl.compact.extra_rows=100",
    "rl.ptx_coef=0.5",
    "rl.steps=2",
)


@contextmanager
def on_the_device() -> Iterator[None]:
    with PretendGpu(), device.placed(Hardware.model_construct(device=NAME, dtype="float32")):
        yield


@pytest.fixture(autouse=True)
def _any_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hardware, "check", lambda self: None)


def learnt(run: Path) -> list[dict[str, Any]]:
    """The events of training and evaluation, without times."""
    events = [json.loads(line) for line in (run / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    kept = [event for event in events if event["event"] in ("setup", "train", "validation", "evaluation")]
    return [{k: v for k, v in event.items() if k != "time" and "second" not in k} for event in kept]


def answers(run: Path) -> list[str]:
    rows = (run / "aligned_answers" / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(row)["answer"] for row in rows]


def test_a_whole_run_on_another_device_gives_the_numbers_of_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    align_smoke(tmp_path / "cpu", *OTHERWISE)
    monkeypatch.setattr(pipeline, "placed", lambda _: on_the_device())
    align_smoke(tmp_path / "device", *OTHERWISE)
    ours, theirs = learnt(tmp_path / "device"), learnt(tmp_path / "cpu")
    assert {event["stage"] for event in theirs} >= {"sft", "reward_model", "dpo", "rl"}
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        numbers = {key: value for key, value in other.items() if isinstance(value, float)}
        assert {key: one[key] for key in numbers} == pytest.approx(numbers, rel=1e-3, abs=5e-4)  # Adam shows rounding
        assert one | numbers == other
    assert answers(tmp_path / "device") == answers(tmp_path / "cpu")


def test_tensors_of_two_devices_do_not_meet() -> None:
    with on_the_device():
        there = torch.ones(2, device=NAME)
        assert isinstance(there, OnDevice)
        assert (there * 3 + torch.tensor(1)).tolist() == [4, 4]
        with pytest.raises(RuntimeError, match="two devices"):
            there + torch.ones(2)
        with pytest.raises(RuntimeError, match="two devices"):
            torch.ones(2)[there.long()]


def test_a_checkpoint_goes_back_to_the_device(tmp_path: Path) -> None:
    def trained(start: dict[str, torch.Tensor], steps: int) -> torch.Tensor:
        """A weight after so many steps towards 1, from the checkpoint if there is one."""
        optimiser = loop.adamw(start, OptimiserConfig())
        loop.load_checkpoint(tmp_path, start, optimiser)
        for _ in range(steps):
            (start["w"] - 1).square().sum().backward()
            loop.optimiser_step(optimiser, start, 1.0, 0.1, 1.0)
        loop.save_checkpoint(tmp_path, steps, start, optimiser, {})
        return start["w"].detach().cpu()

    def fresh() -> dict[str, torch.Tensor]:
        return {"w": torch.zeros(3, device=NAME).requires_grad_()}

    with on_the_device():
        trained(fresh(), 2)
        resumed = trained(fresh(), 2)
    loop.drop_checkpoint(tmp_path)
    assert torch.equal(resumed, trained({"w": torch.zeros(3).requires_grad_()}, 4))
