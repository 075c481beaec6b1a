"""An exported model as a GGUF file, by llama.cpp's own converter, checked by reading it back.

The converter is a script of the llama.cpp repository and no package, so that its place is given. It knows a tokenizer
by a fingerprint of its ids, and refuses what it does not know; whether the file that it wrote makes the ids of the
model's tokenizer is asked here on texts that differ where tokenizers differ.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from steersman.errors import ModelError
from steersman.lm import gguf_file, pretrained
from steersman.lm.ollama import modelfile
from steersman.terminal import working

SCRIPT = "convert_hf_to_gguf.py"


@working("checking the GGUF file")
def export_gguf(merged: Path, target: Path, converter: Path, kind: str = "f16", python: str = sys.executable) -> Path:
    """Convert a merged export to a GGUF file, with an Ollama Modelfile beside it.

    Args:
        merged: a folder of `export` with ``merged``.
        target: the file to write.
        converter: llama.cpp's `convert_hf_to_gguf.py`, or the folder that holds it.
        kind: the converter's ``--outtype``: f32, f16, bf16, q8_0.
        python: an interpreter with what the converter needs.

    Raises:
        ModelError: no such converter, it failed, or the file makes other token ids than the model's tokenizer.
    """
    script = converter / SCRIPT if converter.is_dir() else converter
    if not script.is_file():
        raise ModelError(
            "there is no converter",
            where=str(script),
            expected=f"llama.cpp's {SCRIPT}",
            do="clone llama.cpp, name its folder",
        )
    if target.exists():
        raise ModelError("the file exists", where=str(target), do="choose another name")
    with tempfile.TemporaryDirectory() as folder, working("llama.cpp's converter"):
        source = _with_sentencepiece(merged, Path(folder))
        command = [python, str(script), str(source), "--outfile", str(target), "--outtype", kind]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    if done.returncode or not target.is_file():
        said = [line for line in done.stderr.splitlines() if line.strip()][-4:]
        target.unlink(missing_ok=True)
        raise ModelError(
            "\n  ".join(["llama.cpp's converter failed:", *said]),
            where=str(script),
            do="install its requirements.txt (such as sentencepiece), or see what it knows",
        )
    try:
        differing = different_ids(merged, target)
    except ModelError:  # the converter gave it a tokenizer that we do not know
        target.unlink()
        raise
    if differing:
        target.unlink()
        raise ModelError(
            "the file would make other token ids than the model's tokenizer for "
            f"{len(differing)} of {len(gguf_file.HARD_TEXTS)} texts, the first is {differing[0]!r}",
            where=str(target),
            do="use a newer llama.cpp, or another file format",
        )
    adds_bos = bool(gguf_file.Header(target).get("tokenizer.ggml.add_bos_token"))
    (target.parent / f"{target.stem}.Modelfile").write_text(modelfile(merged, target, adds_bos), encoding="utf-8")
    return target


def _with_sentencepiece(merged: Path, folder: Path) -> Path:
    """The merged model; with a ``tokenizer.model`` in ``folder``, if its tokenizer is SentencePiece's and lacks one.

    The converter reads the scores of tokens from that file, which `transformers` does not keep. They are only compared
    with each other, so that the place of a token's first merge says the same.
    """
    path = merged / "tokenizer.json"
    read: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if not read.get("model", {}).get("byte_fallback") or (merged / "tokenizer.model").exists():
        return merged
    added = {token["id"]: {"content": token["content"], "special": token["special"]} for token in read["added_tokens"]}
    cutting = json.dumps([read["normalizer"], read["pre_tokenizer"]])
    prefix = any(f'"{word}"' in cutting for word in ("Prepend", "first", "always"))
    settings = json.loads((merged / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings |= {"add_prefix_space": prefix, "added_tokens_decoder": added}
    for file in merged.iterdir():
        if file.name != "tokenizer_config.json":
            (folder / file.name).symlink_to(file.absolute())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "tokenizer.model").write_bytes(_sentencepiece_model(read["model"], added, prefix))
    return folder


def _sentencepiece_model(model: dict[str, Any], added: dict[int, dict[str, Any]], prefix: bool) -> bytes:
    """SentencePiece's ModelProto (its sentencepiece_model.proto has the numbers of the fields)."""
    kinds = {f"<0x{byte:02X}>": gguf_file.BYTE for byte in range(256)}
    kinds |= {t["content"]: gguf_file.CONTROL if t["special"] else gguf_file.USER_DEFINED for t in added.values()}
    kinds[model["unk_token"]] = gguf_file.UNKNOWN
    score = dict.fromkeys(kinds, 0.0)
    for rank, (left, right) in enumerate(model["merges"]):
        score.setdefault(left + right, -float(rank))
    ids = {**model["vocab"], **{token["content"]: index for index, token in added.items()}}
    pieces = []
    for text in sorted(ids, key=lambda text: ids[text]):
        number = b"\x15" + struct.pack("<f", score.get(text, -float(len(model["merges"]))))
        pieces.append(_field(1, _field(1, text.encode()) + number + _field(3, kinds.get(text, gguf_file.NORMAL))))
    trainer = _field(3, 2) + _field(35, 1)  # model_type BPE, byte_fallback
    normalizer = _field(1, b"identity") + _field(3, int(prefix)) + _field(4, 0)  # no extra spaces are removed
    return b"".join(pieces) + _field(2, trainer) + _field(3, normalizer)


def _field(number: int, value: bytes | int) -> bytes:
    """A field of a protocol buffer: a whole number, or bytes with their length."""
    body = _varint(value) if isinstance(value, int) else _varint(len(value)) + value
    return _varint(number << 3 | (0 if isinstance(value, int) else 2)) + body


def _varint(value: int) -> bytes:
    groups = [value >> shift & 127 for shift in range(0, max(1, value.bit_length()), 7)]
    return bytes([group | 128 for group in groups[:-1]] + groups[-1:])


def different_ids(merged: Path, gguf: Path) -> list[str]:
    """The texts of `gguf_file.HARD_TEXTS` that the file's own tokenizer cuts into other ids."""
    header = gguf_file.Header(gguf)
    gguf_file.check_tokenizer(header, str(gguf))
    return gguf_file.different_ids(pretrained.load_tokenizer(merged), gguf_file.tokenizer(header, str(gguf)))
