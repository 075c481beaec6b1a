"""A GGUF file by a converter that is given: what it does wrong is said, and its ids are asked."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import tiny_bpe_gguf
from steersman.errors import ModelError
from steersman.lm import pretrained
from steersman.lm.chat_format import SPELLED_OUT
from steersman.lm.gguf_export import export_gguf
from steersman.lm.pretrained import resolve

FAILS = "import sys; print('NotImplementedError: unknown pre-tokenizer', file=sys.stderr); sys.exit(3)"
COPIES = "import shutil, sys; shutil.copy({source!r}, sys.argv[sys.argv.index('--outfile') + 1])"


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """The same tiny Llama with two pre-tokenizers, and a folder in Hub format of the first."""
    monkeypatch.setenv("STEERSMAN_CACHE", str(tmp_path / "cache"))
    model = tiny_bpe_gguf.model()
    for pre in ("smollm", "gpt-2"):
        tiny_bpe_gguf.write(model, tmp_path / f"{pre}.gguf", pre)
    shutil.copytree(resolve(str(tmp_path / "smollm.gguf"), notify=lambda _: None), tmp_path / "merged")
    return {"merged": tmp_path / "merged", **{pre: tmp_path / f"{pre}.gguf" for pre in ("smollm", "gpt-2")}}


def converter(folder: Path, code: str) -> Path:
    script = folder / "convert_hf_to_gguf.py"
    script.write_text(code)
    return folder


def test_a_file_with_the_models_ids_is_kept_and_read_again(files: dict[str, Path], tmp_path: Path) -> None:
    own = converter(tmp_path, COPIES.format(source=str(files["smollm"])))
    out = export_gguf(files["merged"], tmp_path / "out.gguf", own)
    again = pretrained.load_tokenizer(resolve(str(out), notify=lambda _: None))
    text = "How do I boil 12 eggs?"
    assert again(text).input_ids == pretrained.load_tokenizer(files["merged"])(text).input_ids
    assert (tmp_path / "out.Modelfile").read_text().startswith("FROM ./out.gguf\n")


def test_a_file_with_other_ids_is_not_left(files: dict[str, Path], tmp_path: Path) -> None:
    own = converter(tmp_path, COPIES.format(source=str(files["gpt-2"])))
    with pytest.raises(ModelError, match=r"other token ids than the model's tokenizer for \d+ of \d+ texts"):
        export_gguf(files["merged"], tmp_path / "out.gguf", own)
    assert not (tmp_path / "out.gguf").exists()


def test_a_file_with_an_unknown_tokenizer_is_not_left(files: dict[str, Path], tmp_path: Path) -> None:
    tiny_bpe_gguf.write(tiny_bpe_gguf.model(), tmp_path / "odd.gguf", "somebody-else")
    own = converter(tmp_path, COPIES.format(source=str(tmp_path / "odd.gguf")))
    with pytest.raises(ModelError, match="pre-tokenizer"):
        export_gguf(files["merged"], tmp_path / "out.gguf", own)
    assert not (tmp_path / "out.gguf").exists()


def test_what_the_converter_said_is_passed_on(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="unknown pre-tokenizer"):
        export_gguf(files["merged"], tmp_path / "out.gguf", converter(tmp_path, FAILS))
    with pytest.raises(ModelError, match="there is no converter"):
        export_gguf(files["merged"], tmp_path / "out.gguf", tmp_path / "nowhere")


def test_spelled_out_roles_are_written_for_ollama(files: dict[str, Path], tmp_path: Path) -> None:
    tokenizer = pretrained.load_tokenizer(files["merged"])
    tokenizer.chat_template = SPELLED_OUT
    tokenizer.save_pretrained(files["merged"])
    own = converter(tmp_path, COPIES.format(source=str(files["smollm"])))
    export_gguf(files["merged"], tmp_path / "out.gguf", own)
    text = (tmp_path / "out.Modelfile").read_text()
    assert text.endswith('{{ end }}{{ $m.Content }}{{ end }}\nAssistant:"""\n')
    assert 'PARAMETER stop "\nUser:"\n' in text
