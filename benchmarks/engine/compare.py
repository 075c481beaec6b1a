"""Steersman against TRL on this machine: the same weights, adapter and ids, parity first, then A/B/A/B.

    .venv/bin/python benchmarks/engine/compare.py --peer PYTHON-OF-AN-ENVIRONMENT-WITH-TRL [--only sft-100-100 ...]

Both sides run as processes of their own that stay loaded and take one step when they are asked, in turn, so that a slow
minute of the machine falls on both. The first pairs are warm-up. Reported are the median of the ratios of neighbouring
steps with their quartiles, tokens per second and the processes' peak memory; loss and gradient norm of step 0 of the
exact mode must agree (1e-5 and 1e-4 relative). Results go to benchmarks/results/engine.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import workload

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "results" / "engine.json"
WARM_UP, PAIRS = 2, 5
OWN_THREADS = {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}


class Side:
    """A process that takes one step for every line that it is sent."""

    def __init__(self, python: str, script: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [python, str(HERE / script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | OWN_THREADS,
        )
        self.about = self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args} ended: run it alone to see why")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def step(self) -> dict[str, Any]:
        """Ask for one and wait."""
        assert self.process.stdin is not None
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        return self._answer()

    def end(self) -> None:
        """Let it go."""
        self.process.kill()
        self.process.wait()


def measure(a: Side, b: Side, tokens: int) -> dict[str, Any]:
    """Alternate A and B; A is ours."""
    steps = [(a.step(), b.step()) for _ in range(WARM_UP + PAIRS)]
    timed = steps[WARM_UP:]
    ratios = sorted(theirs["seconds"] / ours["seconds"] for ours, theirs in timed)
    seconds = [[side["seconds"] for side in sides] for sides in zip(*timed, strict=True)]
    first_ours, first_theirs = steps[0]
    return {
        "speedup": round(statistics.median(ratios), 2),
        "quartiles": [round(ratios[len(ratios) // 4], 2), round(ratios[-1 - len(ratios) // 4], 2)],
        "tokens_per_second": [round(tokens / statistics.median(s), 1) for s in seconds],
        "seconds": seconds,
        "peak_mb": [round(side["peak_mb"]) for side in timed[-1]],
        "first_loss": [first_ours["loss"], first_theirs["loss"]],
        "first_gradient_norm": [first_ours["gradient_norm"], first_theirs["gradient_norm"]],
    }


def relative(pair: list[float | None]) -> float | None:
    """|a - b| / |b|, None where nothing was measured."""
    ours, theirs = pair
    return None if ours is None or theirs is None else abs(ours - theirs) / abs(theirs)


def main() -> None:
    """All shapes, modes and layers asked for; results are added to the file as they come."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", required=True, help="python of an environment with TRL")
    parser.add_argument("--base", type=Path, required=True, help="gemma-3-270m in hub format")
    parser.add_argument("--only", nargs="+", choices=workload.SHAPES, default=list(workload.SHAPES))
    parser.add_argument("--vocabulary", nargs="+", choices=["full", "compact"], default=["full", "compact"])
    parser.add_argument("--layers", nargs="+", type=int, default=[0], help="trainable upper layers, 0 for all")
    parser.add_argument("--defaults", action="store_true", help="the peer at its defaults (gradient checkpointing)")
    arguments = parser.parse_args()
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"rows": []}
    with tempfile.TemporaryDirectory() as folder:
        adapter = str(workload.start_adapter(arguments.base, Path(folder)))
        for name in arguments.only:
            work = workload.build(name, arguments.base, Path(folder))
            own_prompts = 1 if work["method"] == "rollouts" else work["group"]
            completions = work["rows"] * work["group"] * work["completion"]
            tokens = completions + (0 if work["method"] == "rollouts" else work["rows"] * own_prompts * work["prompt"])
            for vocabulary in arguments.vocabulary:
                for layers in arguments.layers:
                    file = str(Path(folder) / f"{name}.json")
                    limit = ["--layers", str(layers)] if layers else []
                    ours = Side(sys.executable, "ours.py", file, adapter, "--vocabulary", vocabulary, *limit)
                    peer = Side(arguments.peer, "peer.py", file, adapter, *["--defaults"] * arguments.defaults)
                    row = {
                        "work": name,
                        "vocabulary": vocabulary,
                        "trainable_layers": layers or "all",
                        "peer": f"TRL {peer.about['trl']}, {'defaults' if arguments.defaults else 'best settings'}",
                        **measure(ours, peer, tokens),
                        "versions": {"ours": ours.about, "peer": peer.about},
                        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
                        "date": datetime.now(UTC).date().isoformat(),
                    }
                    ours.end()
                    peer.end()
                    print(
                        f"{name:15} {vocabulary:8} layers {layers or 'all':4} {row['speedup']:6} x {row['quartiles']}  "
                        f"tokens/s {row['tokens_per_second']}  MB {row['peak_mb']}  "
                        f"d loss {relative(row['first_loss'])}  d norm {relative(row['first_gradient_norm'])}",
                        flush=True,
                    )
                    key = ("work", "vocabulary", "trainable_layers", "peer")
                    found["rows"] = [r for r in found["rows"] if any(r[k] != row[k] for k in key)] + [row]
                    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
