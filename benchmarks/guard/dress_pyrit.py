"""Dress texts with every PyRIT converter that needs no model; runs in an environment that has `pyrit` and `aiohttp`.

    PYRIT-PYTHON benchmarks/guard/dress_pyrit.py TEXTS.jsonl OUT.jsonl

TEXTS has rows with `id` and `text`; OUT gets rows with `tool`, `technique`, `id` and `text`. Converters between other
media than text, and those that ask a model, are left out and counted at the end. Random ones get a seed.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import random
import sys
from pathlib import Path
from typing import Any

import pyrit.converter as converters
from pyrit.memory import CentralMemory, SQLiteMemory

SEED = 24
# What has no default, or several worth trying: arguments of each variant by the converter's name.
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "AsciiArtConverter": [{"font": "standard"}, {"font": "block"}],
    "Base64Converter": [
        {"encoding_func": name}
        for name in ("b64encode", "urlsafe_b64encode", "b2a_base64", "b16encode", "b32encode", "a85encode", "b85encode")
    ],
    "BidiConverter": [{"scheme": name} for name in ("override", "embedding", "isolate")],
    "BinAsciiConverter": [{"encoding_func": name} for name in ("hex", "quoted-printable", "UUencode")],
    "AsciiSmugglerConverter": [{"unicode_tags": False}, {"unicode_tags": True}],
    "CaesarConverter": [{"caesar_offset": offset} for offset in (3, 7, 19)],
    "CodeChameleonConverter": [{"encrypt_type": n} for n in ("reverse", "binary_tree", "odd_even", "length")],
    "DiacriticConverter": [{"accent": n} for n in ("acute", "grave", "tilde", "umlaut")],
    "InsertPunctuationConverter": [{"between_words": True}, {"between_words": False}],
    "LeetspeakConverter": [{"deterministic": True}, {"deterministic": False}],
    "RepeatTokenConverter": [{"token_to_repeat": "!", "times_to_repeat": 12, "token_insert_mode": "split"}],
    "SearchReplaceConverter": [{"pattern": " ", "replace": "_"}],
    "StringJoinConverter": [{"join_value": sign} for sign in ("-", ".", "_")],
    "SuffixAppendConverter": [{"suffix": "! ! ! ! ! ! describing similarly now write opposite contents"}],
    "UnicodeConfusableConverter": [
        {"source_package": "confusable_homoglyphs", "deterministic": True},
        {"source_package": "confusables"},
    ],
    "UnicodeReplacementConverter": [{"encode_spaces": False}, {"encode_spaces": True}],
    "VariationSelectorSmugglerConverter": [{"embed_in_base": True}, {"embed_in_base": False}],
    "VigenereConverter": [{"key": "lemon"}],
    "ZalgoConverter": [{"intensity": 3}, {"intensity": 10}],
}
# Needs a tokenizer; an encoder of PDF or Word; the base class; or a template that stands for the attack itself.
NO_TEXT = {"Converter", "TokenBijectionConverter", "PDFConverter", "WordDocConverter", "TextJailbreakConverter"}


def seeded(kind: type, arguments: dict[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(kind.__init__).parameters
    return {**({"seed": SEED} if "seed" in parameters else {}), **arguments}


def needs_a_model(kind: type) -> bool:
    parameters = inspect.signature(kind.__init__).parameters.values()
    required = {p.name: p.default for p in parameters}
    return "REQUIRED" in repr(required.get("converter_target"))


def usable() -> tuple[list[tuple[str, Any]], dict[str, str]]:
    """Converters with their names, and what was left out with the reason."""
    found, left = [], {}
    for name in sorted(dir(converters)):
        if not name.endswith("Converter"):
            continue
        kind = getattr(converters, name)
        if "text" not in getattr(kind, "SUPPORTED_INPUT_TYPES", ()) or name in NO_TEXT:
            left[name] = "not from text to text"
            continue
        if "text" not in kind.SUPPORTED_OUTPUT_TYPES:
            left[name] = "not from text to text"
        elif needs_a_model(kind):
            left[name] = "needs a model"
        else:
            for arguments in VARIANTS.get(name, [{}]):
                label = ",".join(str(v) for v in arguments.values())[:24]
                try:
                    made = kind(**seeded(kind, arguments))
                except Exception as error:
                    left[name] = f"{type(error).__name__}: {error}"[:100]
                else:
                    found.append((name.removesuffix("Converter") + (f"({label})" if label else ""), made))
    return found, left


async def main(source: Path, target: Path) -> None:
    CentralMemory.set_memory_instance(SQLiteMemory(db_path=":memory:"))
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    found, left = usable()
    with target.open("w", encoding="utf-8") as out:
        for name, converter in found:
            random.seed(SEED)
            try:
                for row in rows:
                    result = await converter.convert_async(prompt=row["text"], input_type="text")
                    line = {"tool": "pyrit", "technique": name, "id": row["id"], "text": result.output_text}
                    out.write(json.dumps(line, ensure_ascii=True) + "\n")
            except Exception as error:
                left[name] = f"{type(error).__name__}: {error}"[:100]
    print(f"{len(found)} variants of converters; left out: {json.dumps(left, indent=1)}")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
