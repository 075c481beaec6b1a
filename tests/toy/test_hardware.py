"""Other hardware than a CPU in float32: a pretended GPU, on which a run must give the CPU's numbers, and bfloat16."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from steersman import pipeline, talk
from steersman.errors import ModelError, RecipeError
from steersman.lm import hardware, pretrained
from steersman.lm.hardware import Hardware
from steersman.lm.model import load_policy
from steersman.recipe import load_recipe
from steersman.store import Run
from steersman.train import loop
from steersman.train.loop import OptimiserConfig

from .conftest import align_smoke
from .test_pipeline import ran, reason

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fixtures"))
from pretend_gpu import NAME, OnDevice, PretendGpu

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
    "reward_model.trust_raters=true",
    "reward_model.without_style=true",
    "rl.algorithm=ppo",
    "rl.vocabulary=compact",
    "rl.compact.extra_rows=100",
    "rl.demonstration_weight=0.5",
    "rl.steps=2",
)


@contextmanager
def on_the_device() -> Iterator[None]:
    with PretendGpu(), hardware.placed(Hardware.model_construct(device=NAME, dtype="float32")):
        yield


@pytest.fixture(autouse=True)
def _any_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hardware, "check", lambda self: None)


def learnt(run: Path) -> list[dict[str, Any]]:
    """What training and looking said, without times."""
    events = [json.loads(line) for line in (run / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    kept = [event for event in events if event["event"] in ("setup", "train", "validation", "look")]
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
        assert {key: one[key] for key in numbers} == pytest.approx(numbers, rel=1e-4, abs=1e-5)
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


# ── bfloat16 ─────────────────────────────────────────────────────────────────────────────────────────────────────────
BFLOAT16 = "hardware.dtype=bfloat16"


def test_in_bfloat16_what_learns_stays_in_float32(tmp_path: Path, finished: Path) -> None:
    """The losses are those of float32 up to its rounding of a 256th, and export rounds nothing."""
    align_smoke(tmp_path / "run", BFLOAT16, until="rl")
    run = Run(tmp_path / "run")
    for stage in ("sft", "dpo", "rl", "reward_model/member-0"):
        weights = load_file(run.path / stage / "adapter" / "adapter_model.safetensors")
        assert {weight.dtype for weight in weights.values()} == {torch.float32}
    mine, exact = ([e["loss_nats_per_token"] for e in Run(r).events("sft", "train")] for r in (run.path, finished))
    assert mine != exact
    assert mine == pytest.approx(exact, rel=2**-8)
    with hardware.placed(Hardware(dtype="bfloat16")):
        policy = load_policy(talk.base_of(run.path), run.path / "sft")
    kinds = {name.split(".")[-2]: p.dtype for name, p in policy.named_parameters() if "q_proj" in name}
    assert kinds == {"base_layer": torch.bfloat16, "default": torch.float32}
    talk.export(run.path, tmp_path / "exported", merged=True)
    exported, merged = (
        pretrained.load_model(tmp_path / "exported"),
        load_policy(talk.base_of(run.path), run.path / "rl"),
    )
    for (_, one), (_, other) in zip(exported.named_parameters(), merged.named_parameters(), strict=True):
        assert torch.equal(one, other)


def test_another_precision_is_another_model(copy: Run) -> None:
    said = align_smoke(copy.path, BFLOAT16, until="sft")
    assert ran(said) == ["raw_answers", "raw_capability", "sft"]
    assert reason(said, "sft").startswith("changed: inputs.base")


def test_what_cannot_be_done_there_is_refused_at_once() -> None:
    with pytest.raises(RecipeError, match=r"bfloat16 is for frozen weights \(sft.method: lora\)"):
        load_recipe("laptop", ["dpo=null", "sft.vocabulary=full", "sft.method=full", BFLOAT16])
    with pytest.raises(RecipeError, match="int8 rounds float32 weights on a cpu: elsewhere set it to false"):
        load_recipe("reinforced", ["hardware.device=cuda", "rl.rollouts.int8=true"])
    with pytest.raises(RecipeError, match=r"hardware.device=warp: .*cpu\|cuda"):
        load_recipe("laptop", ["hardware.device=warp"])


# ── a GPU that is not here ───────────────────────────────────────────────────────────────────────────────────────────
def test_without_the_gpu_a_run_does_not_begin_but_its_model_answers(
    copy: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelError, match=r"there is no device cuda: PyTorch .* sees 0 GPUs") as refused:
        align_smoke(tmp_path / "run", "hardware.device=cuda")
    assert "hardware.device=cpu" in str(refused.value)
    assert not (tmp_path / "run").exists()
    recipe = copy.path / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("device: cpu", "device: cuda:1"))
    speaker = talk.speaker(copy.path, aligned=True)
    assert speaker.model.model.device.type == "cpu"
    assert "this run was made on cuda:1, which is not here: the CPU answers" in capsys.readouterr().err


def test_the_number_of_a_gpu_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    Hardware(device="cuda").check()
    Hardware(device="cuda:1").check()
    with pytest.raises(ModelError, match="no device cuda:2") as refused:
        Hardware(device="cuda:2").check()
    assert "cuda:0 to cuda:1" in str(refused.value)
