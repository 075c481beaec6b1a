"""Steersman against TRL on this machine: the same weights, adapter and ids, parity first, then A/B/A/B.

    .venv/bin/python benchmarks/engine/compare.py --peer PYTHON-OF-AN-ENVIRONMENT-WITH-TRL [--only sft-100-100 ...]

All sides (our modes, then the peer) are processes that stay loaded and take one step when they are asked, in turn, so
that a slow minute of the machine falls on all. The first round is warm-up. Reported are the median of the peer's time
by ours in the same round, with quartiles, tokens per second and the processes' peak memory; loss and gradient norm of
step 0 of the exact mode must agree (1e-5 and 1e-4 relative). Results go to benchmarks/results/engine.json.
"""

from __future__ import annotations

import argparse
import itertools
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
WARM_UP = 1
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
        """Let it go, and what it started."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def measure(sides: dict[str, Side], tokens: int, count: int) -> dict[str, dict[str, Any]]:
    """Let all sides step in turn, the peer last, ``count`` timed rounds; what each of ours has to say beside it."""
    rounds = [{name: side.step() for name, side in sides.items()} for _ in range(WARM_UP + count)]
    timed, found = rounds[WARM_UP:], {}
    for name in sides:
        if name == "peer":
            continue
        ratios = sorted(r["peer"]["seconds"] / r[name]["seconds"] for r in timed)
        seconds = [[r[side]["seconds"] for r in timed] for side in (name, "peer")]
        found[name] = {
            "speedup": round(statistics.median(ratios), 2),
            "quartiles": [round(ratios[len(ratios) // 4], 2), round(ratios[-1 - len(ratios) // 4], 2)],
            "tokens_per_second": [round(tokens / statistics.median(s), 1) for s in seconds],
            "seconds": seconds,
            "peak_mb": [round(timed[-1][side]["peak_mb"]) for side in (name, "peer")],
            "first_loss": [rounds[0][side]["loss"] for side in (name, "peer")],
            "first_gradient_norm": [rounds[0][side]["gradient_norm"] for side in (name, "peer")],
        }
    return found


def relative(pair: list[float | None]) -> float | None:
    """|a - b| / |b|, None where nothing was measured."""
    ours, theirs = pair
    return None if ours is None or theirs is None else abs(ours - theirs) / abs(theirs)


def main() -> None:
    """All shapes, modes and layers asked for; results are added to the file as they come."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--peer", required=True, help="python of an environment with TRL, or with --vllm of one with it"
    )
    parser.add_argument("--vllm", action="store_true", help="the peer is vLLM, for rollouts")
    parser.add_argument("--base", type=Path, required=True, help="gemma-3-270m in hub format")
    parser.add_argument("--only", nargs="+", choices=workload.SHAPES, default=list(workload.SHAPES))
    parser.add_argument("--vocabulary", nargs="+", choices=["full", "compact"], default=["full", "compact"])
    parser.add_argument("--layers", nargs="+", type=int, default=[0], help="trainable upper layers, 0 for all")
    parser.add_argument(
        "--weights", nargs="+", choices=["fp32", "int8"], default=["fp32"], help="in our rollouts; training is fp32"
    )
    parser.add_argument("--rounds", type=int, default=5, help="timed ones, after one of warm-up")
    parser.add_argument("--defaults", action="store_true", help="the peer at its defaults (gradient checkpointing)")
    arguments = parser.parse_args()
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"rows": []}
    with tempfile.TemporaryDirectory() as folder:
        adapter = str(workload.start_adapter(arguments.base, Path(folder)))
        for name in arguments.only:
            for row in compared(name, arguments, Path(folder), adapter):
                print(
                    f"{name:15} {row['vocabulary']:8} {row['weights']} layers {row['trainable_layers']:4} "
                    f"{row['speedup']:6} x "
                    f"{row['quartiles']}  tokens/s {row['tokens_per_second']}  MB {row['peak_mb']}  "
                    f"d loss {relative(row['first_loss'])}  d norm {relative(row['first_gradient_norm'])}",
                    flush=True,
                )
                key = ("work", "vocabulary", "weights", "trainable_layers", "peer", "machine")
                found["rows"] = [r for r in found["rows"] if any(r[k] != row[k] for k in key)] + [row]
                RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def compared(name: str, arguments: argparse.Namespace, folder: Path, adapter: str) -> list[dict[str, Any]]:
    """A row of results for each vocabulary and number of layers, all beside the same steps of the peer."""
    work = workload.build(name, arguments.base, folder)
    sampled = work["method"] in ("rollouts", "grpo", "grpo-update")  # there, completion tokens are what is counted
    tokens = work["rows"] * work["group"] * (work["completion"] + (0 if sampled else work["prompt"]))
    file = str(folder / f"{name}.json")
    modes = list(itertools.product(arguments.vocabulary, arguments.weights, arguments.layers))
    sides = {
        f"{vocabulary} {weights} {layers}": Side(
            sys.executable,
            "ours.py",
            *(file, adapter, "--vocabulary", vocabulary),
            *(["--layers", str(layers)] if layers else []),
            *(["--int8"] if weights == "int8" else []),
        )
        for vocabulary, weights, layers in modes
    }
    script, options = ("peer_vllm.py", []) if arguments.vllm else ("peer.py", ["--defaults"] * arguments.defaults)
    sides["peer"] = Side(arguments.peer, script, file, adapter, *options)
    about = sides["peer"].about
    peer = f"vLLM {about['vllm']}" if arguments.vllm else f"TRL {about['trl']}"
    measured = measure(sides, tokens, arguments.rounds)
    for side in sides.values():
        side.end()
    return [
        {
            "work": name,
            "vocabulary": vocabulary,
            "weights": weights,
            "trainable_layers": layers or "all",
            "peer": f"{peer}, {'defaults' if arguments.defaults else 'best settings'}",
            **measured[f"{vocabulary} {weights} {layers}"],
            "versions": {
                "torch": sides[f"{vocabulary} {weights} {layers}"].about["torch"],
                "peer": about,
            },
            "machine": processor(),
            "date": datetime.now(UTC).date().isoformat(),
        }
        for vocabulary, weights, layers in modes
    ]


def processor() -> dict[str, Any]:
    """What the times were taken on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    flags = next((line for line in lines if line.startswith("flags")), "")
    wide = [flag for flag in ("avx2", "avx512f", "amx_bf16") if flag in flags.split()]
    return {"processor": (names or [platform.machine()])[0], "cores": os.cpu_count(), "instructions": wide}


if __name__ == "__main__":
    main()
