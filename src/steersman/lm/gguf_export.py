"""An exported model as a GGUF file, by llama.cpp's own converter, checked by reading it back.

The converter is a script of the llama.cpp repository and no package, so that its place is given. It knows a tokenizer
by a fingerprint of its ids, and refuses what it does not know; whether the file that it wrote makes the ids of the
model's tokenizer is asked here on texts that differ where tokenizers differ.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from steersman.errors import ModelError
from steersman.lm import gguf_file, pretrained
from steersman.lm.ollama import modelfile
from steersman.terminal import working

SCRIPT = "convert_hf_to_gguf.py"
HARD_TEXTS = (
    "How do I boil an egg?", " leading and trailing ", "two\n\nlines\r\nand a\ttab", "12,345.67 + 8 = 2026",
    "don't can't I'LL he's", "Zwölf Boxkämpfer jagen Viktor", "¿Dónde está el baño?", "C'est l'été, n'est-ce pas ?",
    "日本語の文章", "русский текст", "हिन्दी", "مرحبا", "🙂👩‍👩‍👧 ❤️", "def f(x):\n    return [x, 2]  # ok\n",
    "https://example.org/a?b=c&d=%20", "a   b    c", "\u00a0\u200b\ufeff", "HTTPServer helloWorld snake_case", "½ Ⅳ ٣٤",
    "e\u0301 é", "...!!!???", "1. one\n2. two\n- three", "<b>bold</b> &amp;", "User: hi\nAssistant:",
)  # fmt: skip


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
            f"the file would make other token ids than the model's tokenizer for {len(differing)} of {len(HARD_TEXTS)} "
            f"texts, the first is {differing[0]!r}",
            where=str(target),
            do="use a newer llama.cpp, or another file format",
        )
    adds_bos = bool(gguf_file.Header(target).get("tokenizer.ggml.add_bos_token"))
    (target.parent / f"{target.stem}.Modelfile").write_text(modelfile(merged, target, adds_bos), encoding="utf-8")
    return target


def different_ids(merged: Path, gguf: Path) -> list[str]:
    """The `HARD_TEXTS` that the file's own tokenizer cuts into other ids."""
    ours = pretrained.load_tokenizer(merged)
    header = gguf_file.Header(gguf)
    gguf_file.check(header, str(gguf))
    with tempfile.TemporaryDirectory() as folder:  # the reader wants the file under a name of its own
        place = Path(folder) / "model.gguf"
        try:
            os.link(gguf, place)
        except OSError:
            shutil.copy(gguf, place)
        kind = pretrained.configuration(merged).get_text_config().model_type
        with pretrained.foreign(str(gguf)):
            theirs: Any = gguf_file.tokenizer(place, header, kind, str(gguf))
    return [text for text in HARD_TEXTS if _ids(ours, text) != _ids(theirs, text)]


def _ids(tokenizer: Any, text: str) -> Sequence[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids
