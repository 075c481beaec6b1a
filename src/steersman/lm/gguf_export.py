"""An exported model as a GGUF file, by llama.cpp's own converter, checked by reading it back.

The converter is a script of the llama.cpp repository and no package, so that its place is given. It knows a tokenizer
by a fingerprint of its ids, and refuses what it does not know; whether the file that it wrote makes the ids of the
model's tokenizer is asked here on texts that differ where tokenizers differ.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from steersman.errors import ModelError
from steersman.lm import gguf_file, pretrained
from steersman.lm.ollama import modelfile
from steersman.terminal import working

SCRIPT = "convert_hf_to_gguf.py"


@working("checking the GGUF file")
def export_gguf(merged: Path, target: Path, converter: Path, kind: str = "f16") -> Path:
    """Convert a merged export to a GGUF file, with an Ollama Modelfile beside it.

    Args:
        merged: a folder of `export` with ``merged``.
        target: the file to write.
        converter: llama.cpp's `convert_hf_to_gguf.py`, or the folder that holds it.
        kind: the converter's ``--outtype``: f32, f16, bf16, q8_0.

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
    command = [sys.executable, str(script), str(merged), "--outfile", str(target), "--outtype", kind]
    with working("llama.cpp's converter"):
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


def different_ids(merged: Path, gguf: Path) -> list[str]:
    """The texts of `gguf_file.HARD_TEXTS` that the file's own tokenizer cuts into other ids."""
    header = gguf_file.Header(gguf)
    gguf_file.check_tokenizer(header, str(gguf))
    return gguf_file.different_ids(pretrained.load_tokenizer(merged), gguf_file.tokenizer(header, str(gguf)))
