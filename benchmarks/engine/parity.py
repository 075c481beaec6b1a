"""Record TRL's loss and gradient norm on a tiny random model, for tests/parity/test_trl.py.

    .venv/bin/python benchmarks/engine/parity.py --peer PYTHON-OF-AN-ENVIRONMENT-WITH-TRL --ppo-peer ...-WITH-TRL-1.10

TRL 1.16 has no PPO any more; 1.10 has. `--only ppo-update` records one method again. Model, adapter and ids are made on
the spot from fixed seeds, so that the test needs neither TRL nor weights.
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
    "kto-unpaired-stage": "dpo-200-100",
    "reward-stage": "reward-200-100",
    "rloo-update": "grpo-update",
}
PPO = "ppo-update"  # several updates on one batch
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
    if method == PPO:
        changes = LENGTHS | {"method": method, "learning_rate": 0.01}
        return workload.build("grpo-update", base, folder, **changes)
    if method in STAGES:
        return workload.build(
            STAGES[method], base, folder, **LENGTHS | {"steps": 3, "method": method, "learning_rate": 0.02}
        )
    return workload.build(METHODS[method], base, folder, **LENGTHS)


def steps_of(method: str, work: dict[str, Any]) -> int:
    """How many a workload has."""
    return workload.UPDATES if method == PPO else len(work["steps"])


def main() -> None:
    """The steps of each method by TRL."""
    every = [*METHODS, *STAGES, PPO]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", help="python of an environment with TRL")
    parser.add_argument("--ppo-peer", help="the same with TRL 1.10")
    parser.add_argument("--only", nargs="+", choices=every, default=every)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base, adapter = prepare(folder)
        found: dict[str, Any] = json.loads(RECORDED.read_text(encoding="utf-8")) if RECORDED.exists() else {}
        for method in arguments.only:
            work, python = work_of(method, base, folder), arguments.ppo_peer if method == PPO else arguments.peer
            if python is None:
                raise SystemExit(f"{method} needs {'--ppo-peer' if method == PPO else '--peer'}")
            side = Side(python, "peer.py", str(folder / f"{work['name']}.json"), adapter)
            steps = [side.step() for _ in range(steps_of(method, work))]
            side.end()
            found[method] = [{"loss": step["loss"], "gradient_norm": step["gradient_norm"]} for step in steps]
            found["ppo_versions" if method == PPO else "versions"] = side.about
        RECORDED.parent.mkdir(exist_ok=True)
        RECORDED.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
