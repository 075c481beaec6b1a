"""Dress texts with garak's encodings, homoglyphs and buffs; runs in an environment that has `garak`.

    GARAK-PYTHON benchmarks/guard/dress_garak.py TEXTS.jsonl OUT.jsonl

Rows as for `dress_pyrit.py`. Each of garak's encoders is used with two of its own templates: the bare code, and the
one that calls it a secure system message.
"""

from __future__ import annotations

import importlib
import inspect
import json
import random
import sys
from pathlib import Path
from typing import Any

from garak import _config

SEED = 24
_config.load_config()


def encoders() -> list[tuple[str, Any, str, bool]]:
    """Name of the probe, encoder, the encoding's name, and whether it takes bytes."""
    module = importlib.import_module("garak.probes.encoding")
    found = []
    for name, kind in inspect.getmembers(module, inspect.isclass):
        if name.startswith("Inject"):
            probe = kind()
            found += [
                (name.removeprefix("Inject") + (f"({i})" if i else ""), encode, probe.encoding_name, probe.use_bytes)
                for i, encode in enumerate(probe.encoding_funcs)
            ]
    return found


def encoded(encode: Any, text: str, use_bytes: bool) -> str:
    out = encode(text.encode() if use_bytes else text)
    return out.decode() if isinstance(out, bytes) else str(out)


def dressed(texts: list[dict[str, str]]) -> list[dict[str, str]]:
    templates = importlib.import_module("garak.probes.encoding").TEMPLATES
    rows, left = [], {}

    def add(technique: str, row: dict[str, str], text: str) -> None:
        rows.append({"tool": "garak", "technique": technique, "id": row["id"], "text": text})

    for name, encode, label, use_bytes in encoders():
        random.seed(SEED)
        try:
            for row in texts:
                code = encoded(encode, row["text"], use_bytes)
                add(name, row, code)
                wrapped = templates[3].replace("{encoding_name}", label).replace("{encoded_text}", code)
                add(f"{name}, as a system message", row, wrapped)
        except Exception as error:
            left[name] = f"{type(error).__name__}: {error}"[:100]
    smuggling = importlib.import_module("garak.probes.smuggling")
    maps = {key: value for key, value in vars(smuggling).items() if isinstance(value, dict) and "a" in value}
    for key, glyphs in maps.items():
        for row in texts:
            add(
                f"Homoglyphs({key.strip('_').lower()})",
                row,
                smuggling._homoglyph_replace(row["text"], glyphs, seed=SEED),
            )
    buffs = importlib.import_module("garak.buffs.encoding")
    for name, kind in inspect.getmembers(buffs, inspect.isclass):
        if kind.__module__ == buffs.__name__:
            left[name] = "a buff: it changes attempts and wraps what the encodings above hold already"
    print(f"{len({row['technique'] for row in rows})} techniques; left out: {json.dumps(left, indent=1)}")
    return rows


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:3])
    made = dressed([json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()])
    target.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
