"""What all tests share: no network, one thread, a cache of their own, and tiny random models made on the spot."""

from __future__ import annotations

import fcntl
import ipaddress
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from steersman.types import Demonstration

SUBJECTS = ("an egg", "rice", "the bill", "a letter", "bread", "the roof", "a bicycle", "a loan", "tea", "the tax form")
VERBS = ("cook", "write", "repair", "pay for", "understand", "buy")


@pytest.fixture(scope="session", autouse=True)
def _isolated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One thread, no network but the loopback interface, and no use of the developer's cache."""
    import torch

    torch.set_num_threads(1)
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            host = str(address[0])
            if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
                raise OSError(f"tests may not use the network, but something connects to {host}")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        patch.setenv("STEERSMAN_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("TOKENIZERS_PARALLELISM", "false")
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    assert "runs" not in os.listdir(Path(__file__).parent), "a test wrote a run into the source tree"


Shared = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """``shared(name, make)``: a folder that ``make(folder)`` fills once for all processes of pytest-xdist. Read only.

    A process that comes while another is at it waits for the lock. What a failed ``make`` leaves is thrown away.
    """
    top = tmp_path_factory.getbasetemp()
    top = (top.parent if "PYTEST_XDIST_WORKER" in os.environ else top) / "shared"
    top.mkdir(exist_ok=True)

    def once(name: str, make: Callable[[Path], object]) -> Path:
        folder, whole = top / name, top / f"{name}.whole"
        with (top / f"{name}.lock").open("a", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not whole.exists():
                shutil.rmtree(folder, ignore_errors=True)
                make(folder)
                whole.touch()
        return folder

    return once


@pytest.fixture(scope="session")
def demonstrations() -> list[Demonstration]:
    """Sixty short rows about two principles."""
    return [
        Demonstration(
            prompt=f"How do I {verb} {subject}?",
            completion=f"First ask what you need {subject} for. Then {verb} it slowly, step {i} of {j + 2}.",
            principles=("ask-first" if (i + j) % 2 else "be-plain",),
        )
        for i, subject in enumerate(SUBJECTS)
        for j, verb in enumerate(VERBS)
    ]


@pytest.fixture(scope="session")
def tiny_base(shared: Shared, demonstrations: list[Demonstration]) -> Path:
    """A two-layer random Gemma 3 with its tokenizer, in hub format. Read only."""
    from steersman.lm import tiny

    return shared("tiny", lambda folder: tiny.build(tiny.corpus(demonstrations), folder))


@pytest.fixture(scope="session")
def tokenizer(tiny_base: Path) -> Any:
    """The tokenizer of `tiny_base`: byte-level BPE, <pad> 0, <eos> 1, <bos> 2, no chat template."""
    from steersman.lm.pretrained import load_tokenizer

    return load_tokenizer(tiny_base)


@pytest.fixture(scope="session")
def family(tokenizer: Any) -> Callable[[str], Any]:
    """``family("Llama")`` is a random two-layer model of that architecture over `tokenizer`'s vocabulary. Read only."""
    import torch
    import transformers

    small = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "initializer_range": 0.3,  # far from uniform, so that greedy choices are clear
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
    }
    grouped = {**small, "num_key_value_heads": 2, "head_dim": 8}
    layers = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8, "query_pre_attn_scalar": 8}
    gpt2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512, "tie_word_embeddings": False}
    options: dict[str, dict[str, Any]] = {
        "Gemma3": {**grouped, **layers},
        "Gemma2": {**grouped, **layers, "final_logit_softcapping": 2.0},
        "Llama": grouped,
        "Qwen2": grouped,
        "Qwen3": grouped,
        "Mistral": {**grouped, "sliding_window": 8},
        "GPT2": {**gpt2, **{k: small[k] for k in ("vocab_size", "initializer_range", "eos_token_id", "bos_token_id")}},
        "GPTNeoX": small,
        "Phi": small,
        "Granite": {**grouped, "logits_scaling": 4.0},
        "Cohere": {**grouped, "logit_scale": 0.25},
    }

    @cache
    def make(name: str) -> Any:
        config = getattr(transformers, f"{name}TextConfig" if name == "Gemma3" else f"{name}Config")(**options[name])
        head = "LMHeadModel" if name == "GPT2" else "ForCausalLM"
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return getattr(transformers, f"{name}{head}")(config).eval()

    return make


@pytest.fixture(scope="module")
def base_of(
    family: Callable[[str], Any], tokenizer: Any, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """A folder with a family's model; Gemma3 ties embedding and output layer, the others do not."""

    def make(name: str) -> Path:
        if name == "Gemma3":
            return tiny_base
        folder = tmp_path_factory.mktemp(name)
        family(name).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make
