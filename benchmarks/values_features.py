"""Frozen features of public texts on which raters disagree: gemma-3-270m's hidden states at the last token, cached.

    .venv/bin/python benchmarks/values_features.py --data FOLDER --cache FOLDER [--only NAME ...] [--seconds 200]

FOLDER of --data holds POPQUORN and LeWiDi as JSON lines (`rater_disagreement`). Texts never enter the repository, and
the cache holds vectors alone. Each text is followed by a question, so that the last token has read what is asked;
vectors are those behind layer 12 of 18, [N, 640]. With --seconds the work stops in time and goes
on from there in the next call: pieces of a few minutes on a shared machine.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from steersman.lm import pretrained
from steersman.lm.head import trunk

QUESTION, LAYERS, TOKENS, BATCH = "\nIs this offensive? Answer:", 12, 64, 16
# Texts read of a training set; all of a development set.
MOST = {"MD-Agreement": 3000, "HS-Brexit": 784, "ConvAbuse": 2398}
SETS = ("popquorn", *(f"{name}_{split}" for name in MOST for split in ("train", "dev")))


def rows_of(folder: Path, name: str) -> list[dict[str, Any]]:
    """The rows of a file of the public folder."""
    file = folder / (f"{name}_offensiveness.jsonl.gz" if name == "popquorn" else f"lewidi_{name}.jsonl.gz")
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def sample(folder: Path, name: str) -> list[dict[str, Any]]:
    """The rows that are used: of a long training set a sample drawn with a fixed seed."""
    rows = rows_of(folder, name)
    most = MOST.get(name.removesuffix("_train"), len(rows))
    return rows if len(rows) <= most else random.Random(f"values {name}").sample(rows, most)


def spelled(text: Any) -> str:
    """A text; of a dialogue its turns, the user's last one at the end."""
    if isinstance(text, str) and text.startswith("{"):
        turns = json.loads(text)
        text = "\n".join(f"{key.removeprefix('prev_').title()}: {turns[key]}" for key in turns if turns[key])
    return str(text)


def texts(folder: Path, name: str) -> list[str]:
    """The different texts of a set, in a fixed order."""
    return sorted({spelled(row["text"]) for row in sample(folder, name)})


def read(model: Any, tokenizer: Any, some: list[str]) -> np.ndarray:
    """[B, 640]: hidden states at the last token."""
    asked = tokenizer(QUESTION, add_special_tokens=False)["input_ids"]
    rows = [tokenizer(text)["input_ids"][: TOKENS - len(asked)] + asked for text in some]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    with torch.no_grad():
        found = trunk(model)(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    return found[torch.arange(len(rows)), mask.sum(1) - 1].float().numpy()


@functools.cache
def _table() -> tuple[Any, torch.Tensor]:
    base = pretrained.resolve("gemma-3-270m")
    with safe_open(base / "model.safetensors", "pt") as file:
        table = file.get_tensor(next(name for name in file.keys() if "embed_tokens" in name))  # noqa: SIM118
    return pretrained.load_tokenizer(base), table


def embeddings(wanted: list[str]) -> np.ndarray:
    """[N, 640]: mean token embeddings, rare tokens weighing more (Arora et al. 2017); cheap, and without context."""
    tokenizer, table = _table()
    ids = [tokenizer(text)["input_ids"] or [0] for text in wanted]
    counts = np.bincount([i for row in ids for i in row], minlength=len(table)) / sum(map(len, ids))
    weights = [torch.tensor(1e-3 / (1e-3 + counts[row]), dtype=torch.float32) for row in ids]
    rows = [(w[:, None] * table[row].float()).sum(0) / w.sum() for row, w in zip(ids, weights, strict=True)]
    return torch.stack(rows).numpy()


def pieces(model: Any, tokenizer: Any, wanted: list[str]) -> Iterator[tuple[list[int], np.ndarray]]:
    """Batches of similar length, with the places of their texts."""
    order = sorted(range(len(wanted)), key=lambda i: len(wanted[i]))
    for i in range(0, len(order), BATCH):
        some = order[i : i + BATCH]
        yield some, read(model, tokenizer, [wanted[j] for j in some])


def main() -> None:
    """Read what is not there yet, until the time is up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=SETS)
    parser.add_argument("--seconds", type=float, default=200.0)
    arguments = parser.parse_args()
    start, base = time.perf_counter(), pretrained.resolve("gemma-3-270m")
    tokenizer, model = pretrained.load_tokenizer(base), pretrained.load_model(base).eval()
    trunk(model).layers = trunk(model).layers[:LAYERS]
    for name in arguments.only:
        file, wanted = arguments.cache / f"{name}.npy", texts(arguments.data, name)
        found = np.load(file) if file.exists() else np.full((len(wanted), 0), np.nan, dtype=np.float32)
        if found.shape[1] == 0:
            found = np.full((len(wanted), 640), np.nan, dtype=np.float32)
        missing = [i for i in range(len(wanted)) if np.isnan(found[i, 0])]
        for some, vectors in pieces(model, tokenizer, [wanted[i] for i in missing]):
            found[[missing[j] for j in some]] = vectors
            if time.perf_counter() - start > arguments.seconds:
                break
        np.save(file, found)
        left = int(np.isnan(found[:, 0]).sum())
        print(f"{name}: {len(wanted)} texts, {left} left, {time.perf_counter() - start:.0f} s", flush=True)
        if left:
            return
    print("all read")


if __name__ == "__main__":
    main()
