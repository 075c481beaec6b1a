"""Control vectors as llama.cpp and repeng read them, and safetensors bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader, GGUFWriter

from decoder_families import family
from steersman.errors import DataError
from steersman.interp.activations import hooks, read
from steersman.interp.directions import Direction, adding
from steersman.interp.saved_vectors import load, load_gguf, load_safetensors, save_gguf, save_safetensors


def drawn(name: str, layer: int, position: int | None = -2, width: int = 24) -> Direction:
    vector = torch.randn(width, generator=torch.Generator().manual_seed(layer))
    return Direction(name, vector, layer, position, 3.25, model="a" * 64, data="b" * 64)


def test_a_control_vector_says_what_llama_cpp_and_repeng_ask(tmp_path: Path) -> None:
    """The checks of llama.cpp's common_control_vector_load_one, and repeng's import_gguf, on the file itself."""
    save_gguf(tmp_path / "v.gguf", [drawn("refusal", 5), drawn("other", 2)], "gemma3_text", coefficient=-2.0)
    reader = GGUFReader(tmp_path / "v.gguf")
    assert reader.fields["general.architecture"].contents() == "controlvector"
    assert str(bytes(reader.fields["controlvector.model_hint"].parts[-1]), encoding="utf-8") == "gemma3_text"
    assert reader.fields["controlvector.layer_count"].contents() == 2
    by_layer = {int(tensor.name.removeprefix("direction.")): tensor for tensor in reader.tensors}
    assert sorted(by_layer) == [1, 4]  # block 4 puts out what layer 5 reads
    assert {(tensor.tensor_type.name, tensor.data.shape) for tensor in reader.tensors} == {("F32", (24,))}
    np.testing.assert_allclose(by_layer[4].data, -2 * 3.25 * drawn("refusal", 5).vector.numpy(), rtol=1e-6)


def test_added_behind_the_block_that_the_file_names_it_is_our_addition(tmp_path: Path) -> None:
    model, one = family("Gemma3"), drawn("refusal", 2)
    save_gguf(tmp_path / "v.gguf", [one], "gemma3_text", coefficient=0.5)
    (tensor,) = GGUFReader(tmp_path / "v.gguf").tensors
    block, final = int(tensor.name.split(".")[1]), "ln_final.hook_normalized"
    push = torch.from_numpy(np.array(tensor.data))
    with hooks(model, {f"blocks.{block}.hook_resid_post": lambda x: x + push}):  # as llama.cpp's build_cvec does
        theirs = read(model, [[1, 5, 9]], [final]).sites[final]
    with adding(model, one.layer, one.difference, 0.5):
        ours = read(model, [[1, 5, 9]], [final]).sites[final]
    torch.testing.assert_close(ours, theirs)
    assert (ours - read(model, [[1, 5, 9]], [final]).sites[final]).abs().max() > 1e-3


def test_round_trips(tmp_path: Path) -> None:
    kept = [drawn("refusal", 5), drawn("malice", 2, position=None)]
    save_safetensors(tmp_path / "v.safetensors", kept)
    save_gguf(tmp_path / "v.gguf", kept, "llama")
    exact = load_safetensors(tmp_path / "v.safetensors")
    for before, after in zip(sorted(kept, key=lambda one: one.layer), load_gguf(tmp_path / "v.gguf"), strict=True):
        assert torch.equal(exact[before.name].vector, before.vector)
        torch.testing.assert_close(after.vector, before.vector)
        assert after.norm == pytest.approx(before.norm)
        for field in ("name", "layer", "position", "model", "data"):
            assert getattr(after, field) == getattr(before, field) == getattr(exact[before.name], field)
    assert load(tmp_path / "v.gguf", "malice").position is None
    with pytest.raises(DataError, match=r"no direction 'refusl'(?s:.*)did you mean refusal"):
        load(tmp_path / "v.safetensors", "refusl")


def test_a_vector_of_another_program_is_read(tmp_path: Path) -> None:
    """What repeng's export_gguf writes."""
    writer = GGUFWriter(tmp_path / "theirs.gguf", "controlvector")
    writer.add_string("controlvector.model_hint", "mistral")
    writer.add_uint32("controlvector.layer_count", 1)
    writer.add_tensor("direction.7", np.array([3.0, 0.0, 4.0], dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (one,) = load_gguf(tmp_path / "theirs.gguf")
    assert (one.layer, one.norm, one.name, one.model) == (8, 5.0, "direction.7", "")
    torch.testing.assert_close(one.vector, torch.tensor([0.6, 0.0, 0.8]))


def test_what_the_formats_cannot_hold_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "v.gguf"
    for wrong in ([], [drawn("x", 1)], [drawn("x", 3), drawn("y", 3)]):
        with pytest.raises(DataError, match="no control vector"):
            save_gguf(path, wrong, "llama")
    assert not path.exists()
    with pytest.raises(DataError, match="different names"):
        save_safetensors(tmp_path / "v.safetensors", [drawn("x", 1), drawn("x", 2)])
    path.write_bytes(b"GGML")
    (tmp_path / "v.safetensors").write_bytes(b"{}")
    with pytest.raises(DataError, match="no GGUF file"):
        load_gguf(path)
    with pytest.raises(DataError, match="no safetensors file"):
        load_safetensors(tmp_path / "v.safetensors")
