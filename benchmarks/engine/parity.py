"""Record TRL's loss and gradient norm on a tiny random model, for tests/parity/test_trl.py.

    .venv/bin/python benchmarks/engine/parity.py --peer PYTHON-OF-AN-ENVIRONMENT-WITH-TRL

Model, adapter and ids are made on the spot from fixed seeds, so that the test needs neither TRL nor weights.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import workload
from compare import Side

RECORDED = workload.ROOT / "tests" / "parity" / "trl.json"
METHODS = {"sft": "sft-100-100", "dpo": "dpo-200-100", "reward": "reward-200-100", "grpo": "grpo-update"}
# The steps of the product's own stages, several of them: where the reference is the start, only later ones tell.
STAGES = {
    "dpo-stage": "dpo-200-100",
    "ipo-stage": "dpo-200-100",
    "kto-stage": "dpo-200-100",
    "reward-stage": "reward-200-100",
    "rloo-update": "grpo-update",
}
LENGTHS: dict[str, Any] = {"prompt": 13, "completion": 9, "steps": 1}


def prepare(folder: Path) -> tuple[Path, str]:
    """A tiny Gemma 3 and a starting adapter."""
    from steersman.data.formats import read
    from steersman.lm import tiny
    from steersman.types import Demonstration

    rows = read(workload.DEMONSTRATIONS, Demonstration)[:200]
    base = folder / "base"
    tiny.build(tiny.corpus(rows), base)
    return base, str(workload.start_adapter(base, folder))


def work_of(method: str, base: Path, folder: Path) -> dict[str, Any]:
    """A small workload, the same on both sides."""
    if method in STAGES:
        return workload.build(
            STAGES[method], base, folder, **LENGTHS | {"steps": 3, "method": method, "learning_rate": 0.02}
        )
    return workload.build(METHODS[method], base, folder, **LENGTHS)


def main() -> None:
    """The steps of each method by TRL."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", required=True, help="python of an environment with TRL")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base, adapter = prepare(folder)
        found: dict[str, Any] = {}
        for method in (*METHODS, *STAGES):
            work = work_of(method, base, folder)
            side = Side(arguments.peer, "peer.py", str(folder / f"{work['name']}.json"), adapter)
            steps = [side.step() for _ in work["steps"]]
            side.end()
            found[method] = [{"loss": step["loss"], "gradient_norm": step["gradient_norm"]} for step in steps]
            found["versions"] = side.about
        RECORDED.parent.mkdir(exist_ok=True)
        RECORDED.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
