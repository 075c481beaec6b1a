"""vLLM behind the call of our own sampler: the same texts and log-probs, always of the policy as it is now.

Everything is asked of a stand-in and, where it is installed, of vLLM itself.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import pretend_vllm
from steersman.errors import ModelError
from steersman.lm import pretrained, vllm_engine
from steersman.lm.adapters import LoraConfig, add_lora
from steersman.lm.chat_format import ChatFormat, chat_format
from steersman.lm.device import Hardware, placed
from steersman.lm.sampling import Completion, Sampler, SamplingConfig
from steersman.lm.vllm_engine import VllmEngine

pytestmark = pytest.mark.filterwarnings("ignore")  # vLLM's own

REAL = importlib.util.find_spec("vllm") is not None
STARTS = [[2, 40, 50, 60], [2, 300], [2, 40, 50, 60], [2, *range(100, 130)]]
GREEDY = SamplingConfig(max_new_tokens=12, max_prompt_tokens=16)
DRAWN = SamplingConfig(max_new_tokens=6, max_prompt_tokens=16, temperature=0.7, seed=3)


@pytest.fixture(scope="module")
def chat(tokenizer: Any) -> ChatFormat:
    return chat_format(tokenizer)


@pytest.fixture(scope="module")
def policy(tiny_base: Path) -> Any:
    """A policy whose adapters, "default" and "other", say something else than the base model, and than each other."""
    found = add_lora(pretrained.load_model(tiny_base), LoraConfig(rank=4), "x")
    found = add_lora(found, LoraConfig(rank=4, trainable_layers=1), "x", "other").eval()
    move(found, 0)
    return found


def move(policy: Any, seed: int) -> None:
    """Let adapters say something else."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)


@pytest.fixture(
    params=["a stand-in", pytest.param("vLLM", marks=pytest.mark.skipif(not REAL, reason="vLLM is not installed"))]
)
def engine(request: pytest.FixtureRequest, tiny_base: Path) -> Iterator[VllmEngine]:
    if request.param == "vLLM":
        yield request.getfixturevalue("real")
        return
    with pytest.MonkeyPatch.context() as patch:
        pretend_vllm.installed(patch)
        own = VllmEngine(tiny_base, 4, 64, 0.25)
        yield own
        own.close()


@pytest.fixture(scope="module")
def real(tiny_base: Path) -> Iterator[VllmEngine]:
    """Starts once, because that takes a minute."""
    found = VllmEngine(tiny_base, 4, 64, 0.25)
    yield found
    found.close()


def ours(policy: Any, chat: ChatFormat, config: SamplingConfig, name: str = "default") -> list[Completion]:
    """What our own sampler answers."""
    policy.set_adapter(name)
    found = Sampler(policy.base_model.model, chat).continue_ids(STARTS, config, indices=range(len(STARTS)))
    return sorted(found, key=lambda completion: completion.index)


def theirs(engine: VllmEngine, policy: Any, chat: ChatFormat, config: SamplingConfig) -> list[Completion]:
    return engine.continue_ids(policy, chat, STARTS, config, name="default", indices=range(len(STARTS)))


def same(one: list[Completion], other: list[Completion]) -> None:
    for mine, yours in zip(one, other, strict=True):
        assert mine.logprobs == pytest.approx(yours.logprobs, abs=1e-5)
        assert {**vars(mine), "logprobs": None} == {**vars(yours), "logprobs": None}


def test_its_best_answers_are_those_of_our_own_sampler(engine: VllmEngine, policy: Any, chat: ChatFormat) -> None:
    found = theirs(engine, policy, chat, GREEDY)
    same(found, ours(policy, chat, GREEDY))
    assert found[3].truncated_prompt_tokens == 15


def test_it_always_samples_from_the_policy_as_it_is_now(engine: VllmEngine, policy: Any, chat: ChatFormat) -> None:
    move(policy, 0)
    before = theirs(engine, policy, chat, GREEDY)
    move(policy, 1)
    after = theirs(engine, policy, chat, GREEDY)
    same(after, ours(policy, chat, GREEDY))
    other = engine.continue_ids(policy, chat, STARTS, GREEDY, name="other", indices=range(len(STARTS)))
    same(other, ours(policy, chat, GREEDY, "other"))
    policy.set_adapter("default")
    assert len({tuple(answers[0].token_ids) for answers in (before, after, other)}) == 3
    assert not list(Path(engine.folder.name).iterdir())  # adapters of large models would fill the disk


def test_log_probs_are_of_the_distribution_drawn_from(engine: VllmEngine, policy: Any, chat: ChatFormat) -> None:
    """Also: rows that begin alike go on differently, and a row's draws do not depend on its batch."""
    policy.set_adapter("default")
    found = theirs(engine, policy, chat, DRAWN)
    for start, completion in zip(STARTS, found, strict=True):
        prompt = start if len(start) <= 16 else start[:1] + start[-15:]
        ids = torch.tensor([prompt + completion.token_ids])
        with torch.inference_mode():
            logits = policy(input_ids=ids).logits[0, len(prompt) - 1 : -1]
        said = (logits / 0.7).log_softmax(-1).gather(1, ids[0, len(prompt) :, None])[:, 0]
        assert completion.logprobs == pytest.approx(said.tolist(), abs=1e-5)
    assert found[0].token_ids != found[2].token_ids
    (alone,) = engine.continue_ids(policy, chat, STARTS[2:3], DRAWN, name="default", indices=[2])
    same([alone], found[2:3])


def test_answers_end_where_our_own_sampler_ends_them(
    engine: VllmEngine, policy: Any, chat: ChatFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a stop id, which is not the model's own end, or at a stop string."""
    policy.set_adapter("default")
    whole = ours(policy, chat, GREEDY)
    third = whole[0].token_ids[2]
    stopped = ChatFormat(**{**vars(chat), "stop_ids": frozenset({third})})
    found = theirs(engine, policy, stopped, GREEDY)
    same(found, ours(policy, stopped, GREEDY))
    assert found[0].finish_reason == "stop"
    assert found[0].token_ids == whole[0].token_ids[: whole[0].token_ids.index(third) + 1]
    monkeypatch.setattr(ChatFormat, "stop_strings", (chat.tokenizer.decode([third]),))
    found = theirs(engine, policy, chat, GREEDY)
    same(found, ours(policy, chat, GREEDY))
    assert found[0].finish_reason == "stop_string"


# ── what it is started with, and what it refuses ─────────────────────────────────────────────────────────────────────
@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_vllm.installed(monkeypatch)


@pytest.mark.usefixtures("pretended")
def test_it_is_started_for_the_policy_and_the_hardware_and_reports_to_nobody(tiny_base: Path) -> None:
    with placed(Hardware(dtype="bfloat16")):
        engine = VllmEngine(tiny_base, 5, 64, 0.5)
    (started,) = pretend_vllm.LLM.started
    wanted = {"model": str(tiny_base), "dtype": "bfloat16", "max_lora_rank": 8, "kv_cache_memory_bytes": 2**29}
    assert wanted.items() <= started.settings.items()
    assert os.environ["VLLM_NO_USAGE_STATS"] == os.environ["VLLM_DO_NOT_TRACK"] == "1"
    folder = Path(engine.folder.name)
    engine.close()
    assert started.ended
    assert not folder.exists()


@pytest.mark.usefixtures("pretended")
def test_what_it_cannot_do_is_refused(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="rank 513"):
        VllmEngine(tiny_base, 513, 64, 0.25)
    with pytest.raises(ModelError, match=r"did not start \(ValueError: No available memory"):
        VllmEngine(tiny_base, 4, 64, 1e-9)
    pretend_vllm.installed(monkeypatch, device="cuda")
    with pytest.raises(ModelError, match="this vLLM samples on cuda"):
        VllmEngine(tiny_base, 4, 64, 0.25)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ModelError, match="torchrun has started several"):
        vllm_engine.check()


def test_without_it_there_is_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ModelError, match="vLLM is not installed"):
        vllm_engine.check()


@pytest.mark.slow
def test_what_was_started_does_not_outlive_a_killed_run() -> None:
    started = subprocess.Popen(["sleep", "600"])
    code = f"""
import time
from steersman.lm.vllm_engine import end_with_us
guard = end_with_us([{started.pid}])
print("ready", flush=True)
time.sleep(600)
"""
    run = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert run.stdout is not None
    assert run.stdout.readline() == b"ready\n"
    assert started.poll() is None
    run.kill()
    run.communicate()
    assert started.wait(timeout=60) == -signal.SIGKILL
