"""Two processes under torchrun train the model that one trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

PROGRAM = (sys.executable, "-c", "from steersman.cli import main; main()")
# Everything that an optimiser step can hold: whole rows, prefixes, replayed text, a compact vocabulary's choices.
SETTINGS = (
    "examples.limit_demonstrations=40",
    "examples.limit_comparisons=24",
    "examples.limit_evaluation=4",
    "capability.knowledge_items=4",
    "capability.neutral_passages=1",
    "sft.vocabulary=compact",
    "sft.compact={extra_rows: 20, full_share: 0.3}",
    "sft.micro_batch_size=3",
    "sft.lora={rank: 4, alpha: 8, trainable_layers: 1}",
    "sft.replay={rows: 6, tokens: 12, weight: 0.5}",
    "sft.prefix={tokens: 4, weight: 2, upsample: {personal-finance: 1}}",
    "sft.checkpoint_every_steps=2",
    "sft.epochs=1",
    "dpo.loss=kto",
    "dpo.vocabulary=compact",
    "dpo.compact={extra_rows: 20, full_share: 0.3}",
    "dpo.batch_size=8",
    "dpo.micro_batch_size=3",
    "reward_model.members=1",
    "reward_model.batch_size=6",
    "reward_model.micro_batch_size=2",
    "rl={algorithm: ppo, steps: 2, updates: 2, micro_batch_size: 2, ptx_coef: 0.1, vocabulary: compact, "
    "compact: {extra_rows: 20, full_share: 0.3}, rollouts: {prompts: 3, answers: 3, max_new_tokens: 6}, "
    "evaluation: {every_steps: 2, prompts: 4}, constraint: {behaviours: [refuses]}}",
)
KEYS = ("loss_nats_per_token", "replay_kl_nats_per_token", "loss", "accuracy", "gradient_norm")
KEYS += ("score", "reward", "cost", "multiplier", "k1_nats_per_answer", "value_loss", "kl_nats_per_answer", "gold")


def trained(out: Path, *launcher: str, **environment: str) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    """The training events and the adapter of `steersman align smoke --until rl`."""
    words = [word for setting in SETTINGS for word in ("--set", setting)]
    command = [*launcher, *PROGRAM, "align", "smoke", "--until", "rl", "--out", str(out), *words]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"} | environment
    )
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in (out / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    adapter = load_file(out / "sft" / "adapter" / "adapter_model.safetensors")
    return [event for event in events if event["event"] in ("train", "validation", "evaluation")], adapter


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this build of PyTorch has no torch.distributed")
@pytest.mark.long
def test_two_processes_train_what_one_trains(tmp_path: Path) -> None:
    alone, adapter = trained(tmp_path / "one")
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--no-python")
    loopback = ("--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1")
    together, shared = trained(tmp_path / "two", *torchrun, *loopback)
    assert [event["event"] for event in together] == [event["event"] for event in alone]  # written by one of them
    for ours, wanted in zip(together, alone, strict=True):
        numbers = {key: wanted[key] for key in KEYS if key in wanted}
        # An answer's KL is the sum of eight differences of log-probs, each with a rounding error of 5e-7.
        assert {key: ours[key] for key in numbers} == pytest.approx(numbers, rel=1e-4, abs=4e-6), wanted
    first, wanted = together[1], alone[1]
    assert wanted["event"] == "train"
    assert wanted["step"] == 0
    assert first["loss_nats_per_token"] == pytest.approx(wanted["loss_nats_per_token"], rel=1e-6)
    assert first["gradient_norm"] == pytest.approx(wanted["gradient_norm"], rel=1e-5)
    # As a whole: Adam makes a full step of a gradient that is nothing but rounding.
    error = sum(float((shared[name] - weights).square().sum()) for name, weights in adapter.items())
    assert error < 1e-6 * sum(float(weights.square().sum()) for weights in adapter.values())
