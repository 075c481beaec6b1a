"""Names to folders: what is found and what is refused; digests; the Hub; terminators that were never trained."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file
from transformers import Gemma3ForCausalLM

import tiny_gguf
from steersman.errors import DiskFull, ModelError
from steersman.lm import pretrained, tiny
from steersman.lm.device import Hardware, placed
from steersman.lm.limits import untrained_terminators
from steersman.lm.pretrained import digest, load_model, load_tokenizer, resolve
from tiny_gguf import TEXTS


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STEERSMAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


# ── a tiny model in hub format ───────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture(scope="module")
def _hub_master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "model"
    tiny.build(TEXTS, folder)
    return folder


@pytest.fixture
def hub(_hub_master: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(_hub_master, tmp_path / "hub"))


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


# ── terminators ──────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture(scope="module")
def gemma() -> Gemma3ForCausalLM:
    return tiny_gguf.model()


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
