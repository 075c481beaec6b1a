"""What a small sparse autoencoder on gemma-3-270m reaches, beside random directions and principal components.

    .venv/bin/python benchmarks/interp_features.py WORK TEXTS RUN --tokens 200000

TEXTS is a JSON Lines file, gzipped, with the fields instruction and output (LIMA, which is not in the repository); the
autoencoder is trained on it and measured on texts of it that it was not trained on. RUN is a finished run, from whose
own demonstrations the examples of features come: they are ours and may be shown. What is read is kept in WORK and read
again. The figures go to benchmarks/results/interp_features.json.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from steersman.interp.sae import SparseAutoencoder, describe, features, measure, random_dictionary
from steersman.interp.sae_formats import save_sae
from steersman.interp.sae_training import DictionaryConfig, collect, fit
from steersman.lm import pretrained
from steersman.store import read_json, write_json

RESULTS = Path(__file__).resolve().parent / "results" / "interp_features.json"
SITE, CONTEXT, HELD_OUT, SCORED = "blocks.9.hook_resid_post", 128, 30, 8
CONFIG = DictionaryConfig(features=2048, k=32, epochs=3, learning_rate=1e-3)
OWN_TEXTS, DESCRIBED = 150, 40


def rows_of(texts: list[str], tokenizer: Any) -> list[list[int]]:
    """Each text's tokens in pieces, each behind the token that begins texts."""
    rows = []
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        pieces = [ids[start : start + CONTEXT - 1] for start in range(0, len(ids), CONTEXT - 1)]
        rows += [[tokenizer.bos_token_id, *piece] for piece in pieces if len(piece) > 15]
    return rows


def principal(x: torch.Tensor, k: int) -> SparseAutoencoder:
    """The first k principal components, each as two features, of which one is active."""
    mean = x.mean(0)
    axes = torch.linalg.eigh(((x - mean).T @ (x - mean)).double()).eigenvectors[:, -k:].float()
    both = torch.cat([axes, -axes], 1)
    return SparseAutoencoder(SITE, both, torch.zeros(2 * k), both.T.contiguous(), mean)


def activations(model: Any, rows: list[list[int]], kept: Path) -> tuple[torch.Tensor, dict[str, float]]:
    """What is kept, or is read and kept now; and how long reading took."""
    if not kept.exists():
        start = time.perf_counter()
        x, left_out = collect(model, SITE, rows)
        kept.parent.mkdir(parents=True, exist_ok=True)
        save_file({"x": x}, kept)
        write_json(kept.with_suffix(".json"), {"left_out": left_out, "reading": round(time.perf_counter() - start)})
    return load_file(kept)["x"], read_json(kept.with_suffix(".json"))


def described_on(rows: list[list[int]], model: Any, sae: SparseAutoencoder, tokenizer: Any) -> dict[str, Any]:
    """Of the features that are active at 0.1 to 2 % of our own tokens, those with the largest mean activation."""
    every = torch.cat([features(model, sae, [row]).values[0, 1:] for row in rows])
    share, size = (every > 0).float().mean(0), every.sum(0) / (every > 0).sum(0).clamp(min=1)
    chosen = torch.where((share > 0.001) & (share < 0.02), size, -1).topk(DESCRIBED).indices.tolist()
    described = describe(model, sae, rows, tokenizer.decode, chosen)
    return {
        "own_tokens": len(every),
        "never_active_on_own_texts": float((share == 0).float().mean()),
        "described": [{**one._asdict(), "examples": [e._asdict() for e in one.examples]} for one in described],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("texts", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--tokens", type=int, default=200_000)
    arguments = parser.parse_args()
    base = pretrained.resolve("gemma-3-270m")
    tokenizer, model = pretrained.load_tokenizer(base), pretrained.load_model(base).eval().requires_grad_(False)
    with gzip.open(arguments.texts, "rt", encoding="utf-8") as file:
        texts = [f"{row['instruction']}\n{row['output']}" for row in map(json.loads, file)]
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0)).tolist()
    held_out, rows = (
        rows_of([texts[place] for place in places], tokenizer) for places in (order[:HELD_OUT], order[HELD_OUT:])
    )
    while sum(map(len, rows)) > arguments.tokens:
        rows.pop()
    x, reading = activations(model, rows, arguments.work / f"activations_{arguments.tokens}.safetensors")
    start = time.perf_counter()
    found = fit(CONFIG, x, SITE)
    seconds = {"reading": reading["reading"], "training": round(time.perf_counter() - start)}
    print(f"trained: {seconds}, {found.losses[0]:.3f} to {found.losses[-1]:.3f}, dead {found.dead:.3f}", flush=True)
    save_sae(found.sae, arguments.work / "sae")
    trained = measure(model, found.sae, held_out, SCORED)
    active = round(trained.active)
    chance = measure(model, random_dictionary(x[:20_000], CONFIG.features, active, SITE), held_out, SCORED)
    dense = measure(model, principal(x, active), held_out, SCORED)
    quality = {"trained": trained, "random": chance, "principal components": dense}
    print({name: (one, one.recovered) for name, one in quality.items()}, flush=True)
    with (arguments.run / "data" / "train.jsonl").open(encoding="utf-8") as file:
        own = [row for row in map(json.loads, file) if isinstance(row["prompt"], str)]
    own = own[:: len(own) // OWN_TEXTS][:OWN_TEXTS]
    own_rows = rows_of([f"{row['prompt']}\n{row['completion']}" for row in own], tokenizer)
    figures = {
        "site": SITE,
        "config": CONFIG.model_dump(),
        "tokens": len(x),
        "left_out": reading["left_out"],
        "seconds": seconds,
        "loss_first": found.losses[0],
        "loss_last": sum(found.losses[-20:]) / 20,
        "dead_in_training": found.dead,
        "held_out": {name: {**one._asdict(), "recovered": one.recovered} for name, one in quality.items()},
        "scored_texts": SCORED,
        **described_on(own_rows, model, found.sae, tokenizer),
    }
    write_json(RESULTS, figures)


if __name__ == "__main__":
    main()
