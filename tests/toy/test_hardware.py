"""Other hardware than a CPU in float32: a pretended GPU, on which a run must give the CPU's numbers, and bfloat16."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import pretend_vllm
from steersman import pipeline
from steersman.errors import ModelError, RecipeError
from steersman.lm import device, pretrained, vllm_engine
from steersman.lm.adapters import load_policy
from steersman.lm.device import Hardware
from steersman.recipe import load_recipe
from steersman.runs import open_run
from steersman.store import Run

from .conftest import align_smoke
from .test_pipeline import ran, reason

pytestmark = pytest.mark.slow


@pytest.mark.long
def test_a_run_on_another_device_is_that_of_the_cpu() -> None:
    file = Path(__file__).with_name("on_a_pretended_gpu.py")
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


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
    with device.placed(Hardware(dtype="bfloat16")):
        policy = load_policy(open_run(run.path).base, run.path / "sft")
    kinds = {name.split(".")[-2]: p.dtype for name, p in policy.named_parameters() if "q_proj" in name}
    assert kinds == {"base_layer": torch.bfloat16, "default": torch.float32}
    open_run(run.path).export(tmp_path / "exported", merged=True)
    exported, merged = (
        pretrained.load_model(tmp_path / "exported"),
        load_policy(open_run(run.path).base, run.path / "rl"),
    )
    for (_, one), (_, other) in zip(exported.named_parameters(), merged.named_parameters(), strict=True):
        assert torch.equal(one, other)


def test_another_precision_is_another_model(copy: Run) -> None:
    said = align_smoke(copy.path, BFLOAT16, until="sft")
    assert ran(said) == ["sft"]
    assert reason(said, "sft").startswith("changed: inputs.base")


def test_what_cannot_be_done_there_is_refused_at_once() -> None:
    with pytest.raises(RecipeError, match=r"bfloat16 is for frozen weights \(sft.method: lora\)"):
        pipeline.prepare(load_recipe("laptop", ["dpo=null", "sft.vocabulary=full", "sft.method=full", BFLOAT16]))
    with pytest.raises(RecipeError, match=r"rl\.rollouts\.int8 quantises float32 weights on a CPU") as refused:
        pipeline.prepare(load_recipe("reinforced", ["hardware.device=cuda", "rl.rollouts.int8=true"]))
    assert "set rl.rollouts.int8: false" in str(refused.value)
    with pytest.raises(RecipeError, match=r"hardware.device=warp: .*cpu\|cuda"):
        load_recipe("laptop", ["hardware.device=warp"])


# ── a GPU that is not here ───────────────────────────────────────────────────────────────────────────────────────────
def test_without_the_gpu_a_run_does_not_begin_but_its_model_answers(
    copy: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelError, match=r"there is no device cuda: PyTorch .* sees 0 GPUs") as refused:
        align_smoke(tmp_path / "run", "hardware.device=cuda")
    assert "hardware.device=cpu" in str(refused.value)
    assert not (tmp_path / "run").exists()
    recipe = copy.path / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("device: cpu", "device: cuda:1"))
    model = open_run(copy.path).aligned()
    assert model.sampler.model.device.type == "cpu"
    assert "this run was made on cuda:1, which this machine lacks: using the CPU" in capsys.readouterr().err


def test_the_number_of_a_gpu_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    Hardware(device="cuda").check()
    Hardware(device="cuda:1").check()
    with pytest.raises(ModelError, match="no device cuda:2") as refused:
        Hardware(device="cuda:2").check()
    assert "cuda:0 to cuda:1" in str(refused.value)


# ── vLLM ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_rollouts_come_from_vllm(copy: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_vllm.installed(monkeypatch)
    said = align_smoke(copy.path, "rl.rollouts.engine=vllm")
    assert ran(said)[0] == "rl"
    assert reason(said, "rl").startswith("changed: config.rollouts.engine")
    (started,) = pretend_vllm.LLM.started
    assert started.ended
    assert len(started.adapters) == len(Run(copy.path).events("rl", "train")) + len(
        Run(copy.path).events("rl", "evaluation")
    )
    assert "aligned_answers: reused" in " ".join(align_smoke(copy.path, "rl.rollouts.engine=vllm"))


def test_a_run_does_not_begin_without_the_vllm_that_it_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_engine.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ModelError, match="vLLM is not installed"):
        align_smoke(tmp_path / "run", "rl.rollouts.engine=vllm")
    assert not (tmp_path / "run").exists()
