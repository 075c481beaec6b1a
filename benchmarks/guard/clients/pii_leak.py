"""`pii-leak-benchmark` against the gateway: the request side (v1 `ci`) and the answer's stream (v2, every split).

    python benchmarks/guard/clients/pii_leak.py --programs ENVIRONMENT/bin [--guard CONSTITUTION] [--out DIR]

Starts a gateway of its own before the benchmark's capture server, with `rules.yaml`, which replaces personal data and
secrets on both sides. First the benchmark's negative control, which must leak.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import servers  # noqa: E402

CAPTURE = 8799


def ask(command: list[str]) -> None:
    print("$", " ".join(Path(command[0]).name if part is command[0] else part for part in command), flush=True)
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    print(f"{done.stdout[-6000:]}{done.stderr[-2000:]}\nexit code {done.returncode}\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--programs", type=Path, required=True)
    parser.add_argument("--guard", type=Path, default=HERE / "rules.yaml")
    parser.add_argument("--out", type=Path, default=Path("runs/guard-pii"))
    parser.add_argument("--oracle", default="exhaustive-2-part")
    given = parser.parse_args()
    first, second = (str(given.programs / name) for name in ("pii-leak-benchmark", "pii-leak-benchmark-v2"))
    capture = ["--capture-port", str(CAPTURE), "--duty", "anonymize"]
    ask([first, "ci", "--target-base-url", "capture://self", *capture, "--out", str(given.out / "control")])
    with servers.gateway(given.out, given.guard, f"http://127.0.0.1:{CAPTURE}/v1") as url:
        for profile in ("pii-v1", "pii-secrets-v1"):
            out = str(given.out / profile)
            ask([first, "ci", "--target-base-url", url, *capture, "--profile", profile, "--out", out])
        options = ["--validate", "--only", "steersman", "--gateway-url", f"{url}/chat/completions", "--upstream-port"]
        options += [str(CAPTURE), "--oracle", given.oracle, "--partial-emission", "--out", str(given.out / "v2")]
        ask([second, *options])


if __name__ == "__main__":
    main()
