"""Every figure of the guard, from one command; each part can be run alone.

    python benchmarks/guard.py --guard RUN-OR-FOLDER --envs FOLDER [--parts obfuscation latency clients ...] [--quick]

A part is a script of benchmarks/guard/ that can be run by itself with more options; each writes a small JSON file under
benchmarks/results/guard/. `--envs` holds the environments of the outside tools, made by `benchmarks/guard/envs.sh`;
a part whose environment is absent is skipped and named. Parts, on two quiet cores:

    card         what the trained guard's own card says: recall, false positives, calibration        (seconds)
    obfuscation  attack success, over-refusal and recall under every disguise, in three arms         (10 minutes)
    latency      the guard alone, the proxy beside LiteLLM's, streams with and without               (5 minutes)
    chunks       chunk-invariance on our StreamGuard                                                 (1 minute)
    faults       every kind of fault around the gateway, `guard_faults.py`                           (5 minutes)
    load         a hundred streams at once, and what they leave in memory, `guard_load.py`           (11 minutes)
    clients      openai, LangChain, LiteLLM in front, PyRIT, Inspect, garak, pii-leak-benchmark      (10 minutes)
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"
HERE = BENCHMARKS / "guard"
CLIENTS = HERE / "clients"
RESULTS = BENCHMARKS / "results" / "guard"
WORK = ROOT / "runs" / "guard-benchmarks"
PARTS = ("card", "obfuscation", "latency", "chunks", "faults", "load", "clients")
Command = list[str]


def python_of(envs: Path, name: str) -> str | None:
    path = envs / name / "bin" / "python"
    return str(path) if path.exists() else None


def call(
    command: Command, log: Path | None = None, environment: dict[str, str] | None = None, folder: Path = ROOT
) -> int:
    """Run a script; what it prints goes to the terminal, or to a file of its own."""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", **(environment or {})}
    print("$", " ".join(part.replace(f"{ROOT}/", "") for part in command), flush=True)
    if log is None:
        return subprocess.run(command, env=env, cwd=folder).returncode
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as out:
        return subprocess.run(command, env=env, cwd=folder, stdout=out, stderr=subprocess.STDOUT).returncode


def folder_of(guard: Path) -> Path:
    """The folder of a trained guard: itself, or the stage `guard` of a run."""
    for folder in (guard, guard / "guard"):
        if (folder / "guard.json").exists():
            return folder
    raise SystemExit(
        f"{guard} has no guard.json: expected a run with the stage `guard`, or a folder of a trained guard"
    )


def card(folder: Path) -> int:
    """The guard's own card, which its training wrote, kept beside the other figures."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = (folder / "card.json").read_text(encoding="utf-8")
    (RESULTS / "card.json").write_text(json.dumps(json.loads(text), indent=1) + "\n", encoding="utf-8")
    return 0


def obfuscation(folder: Path, envs: Path, quick: bool) -> int:
    command = [sys.executable, str(HERE / "obfuscation.py"), "--guard", str(folder)]
    for option, name in (("pyrit", "pyrit"), ("garak", "garak"), ("casefold", "chunk"), ("oracle", "oracle")):
        python = python_of(envs, name)
        if python:
            command += [f"--{option}", python]
        else:
            print(f"left out: {name} (no environment in {envs})")
    count = "15" if quick else "60"
    digest = hashlib.sha256((folder / "guard.json").read_bytes()).hexdigest()[:8]
    return call(
        [*command, "--harmful", count, "--benign", count, "--work", str(WORK / f"obfuscation-{digest}-{count}")]
    )


def latency(folder: Path, envs: Path, quick: bool) -> int:
    command = [sys.executable, str(HERE / "latency.py"), "--guard", str(folder), "--work", str(WORK / "latency")]
    program = envs / "litellm" / "bin" / "litellm"
    command += ["--litellm", str(program)] if program.exists() else []
    return call(command + (["--rounds", "1", "--seconds", "2", "--times", "200"] if quick else []))


def chunks(envs: Path, folder: Path | None) -> int:
    packages = next(iter((envs / "chunk" / "lib").glob("python*/site-packages")), None)
    if packages is None:
        print(f"left out: chunk-invariance (no environment in {envs})")
        return 0
    command = [sys.executable, str(CLIENTS / "chunks.py"), "--packages", str(packages)]
    rules = call(command, RESULTS / "chunks.txt")
    return rules or (call([*command, "--guard", str(folder)], RESULTS / "chunks-trained.txt") if folder else 0)


def load(folder: Path | None, quick: bool) -> int:
    command = [sys.executable, str(BENCHMARKS / "guard_load.py"), *(["--guard", str(folder)] if folder else [])]
    return call(command + (["--minutes", "1", "--streams", "20"] if quick else []))


def clients(envs: Path, quick: bool) -> int:
    """Every outside tool against the servers of `stand.py`; what each printed is kept as it is."""
    stand = [sys.executable, str(CLIENTS / "stand.py"), "--oracle", python_of(envs, "oracle") or sys.executable]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    servers = subprocess.Popen([*stand, "--ready", str(WORK / "ready")], env=environment, cwd=ROOT)
    failed = 0
    try:
        for _ in range(600):
            if (WORK / "ready").exists() or servers.poll() is not None:
                break
            time.sleep(0.2)
        for name, script, extra in (
            ("openai", "openai_client.py", []),
            ("langchain", "langchain_chat.py", []),
            ("litellm", "litellm_front.py", []),
            ("pyrit", "pyrit_attack.py", []),
            ("garak", "garak_scan.py", ["--cap", "2" if quick else "6", "--work", str(WORK / "garak")]),
        ):
            python = python_of(envs, name)
            if python is None:
                print(f"left out: {name} (no environment in {envs})")
                continue
            failed += call([python, str(CLIENTS / script), *extra], RESULTS / f"{name}.txt") != 0
        inspect = envs / "inspect" / "bin" / "inspect"
        if inspect.exists():
            gateway = {"GW_BASE_URL": "http://127.0.0.1:4000/v1", "GW_API_KEY": "none"}
            command = [str(inspect), "eval", "inspect_task.py", "--model", "openai-api/gw/oracle"]
            command += ["-M", "stream=true", "--display", "plain", "--log-dir", str(WORK / "inspect")]
            failed += call(command, RESULTS / "inspect.txt", gateway, CLIENTS) != 0
    finally:
        servers.terminate()
        servers.wait(20)
        (WORK / "ready").unlink(missing_ok=True)
    if (envs / "pii" / "bin").exists():
        command = [sys.executable, str(CLIENTS / "pii_leak.py"), "--programs", str(envs / "pii" / "bin")]
        failed += call([*command, "--out", str(WORK / "pii")], RESULTS / "pii.txt") != 0
    return failed


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--guard", type=Path, help="a run with the stage `guard`, or the folder of a trained guard")
    parser.add_argument("--envs", type=Path, default=ROOT / "envs", help="folder of the outside tools' environments")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--quick", action="store_true", help="a quarter of the requests: to see that all works")
    given = parser.parse_args()
    folder = folder_of(given.guard) if given.guard else None
    steps = {
        "card": lambda: card(folder) if folder else None,
        "obfuscation": lambda: obfuscation(folder, given.envs, given.quick) if folder else None,
        "latency": lambda: latency(folder, given.envs, given.quick) if folder else None,
        "chunks": lambda: chunks(given.envs, folder),
        "faults": lambda: call([sys.executable, str(BENCHMARKS / "guard_faults.py"), *(("--each", "5") * given.quick)]),
        "load": lambda: load(folder, given.quick),
        "clients": lambda: clients(given.envs, given.quick),
    }
    bad = 0
    for part in given.parts:
        began = time.monotonic()
        done = steps[part]()
        state = "skipped: it needs --guard" if done is None else "done" if done == 0 else "FAILED"
        bad += bool(done)
        print(f"{part}: {state}, {time.monotonic() - began:.0f} s", flush=True)
    return bad


if __name__ == "__main__":
    sys.exit(main())
