"""Faults of all around the guard's gateway: is any unscreened byte sent, is there one clear answer, does it leak?

    python benchmarks/guard_faults.py [--seed 0] [--only rail] [--each 60]

A gateway in operation (patterns, secrets, personal data, audit log, limits) stands between a client and an upstream on
loopback, over sockets and by its ASGI interface. Rails, upstream, client, disk, reload, queue and requests fail, each
in several kinds, at places drawn from the seed; so do pairs of them. The upstream, or the request, plants a canary that
a rail objects to. For each fault are counted: bytes of the canary, or (where a rail cannot judge) of the upstream's
text, that came through; whether the client got one right answer or one clear error; and what is left of tasks, files
and threads when all has come to rest. `tests/unit/guard/test_faults.py` runs some of each family.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "fixtures"))

from gateway_fault_families import FAMILIES, run, table  # noqa: E402
from steersman.store import write_json  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "guard" / "faults.json"
EACH = 140  # faults of each family


def main() -> int:
    """Run, print the table, keep it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--each", type=int, default=EACH)
    parser.add_argument("--only", nargs="*", choices=list(FAMILIES), default=list(FAMILIES))
    given = parser.parse_args()
    began = time.monotonic()
    found = asyncio.run(run(given.seed, given.each, given.only, print))
    rows = table(found)
    print(f"{'family':10} {'faults':>7} {'kinds':>6} {'unscreened':>11} {'wrong answer':>13} {'left behind':>12}")
    for row in rows:
        print("{family:10} {faults:7} {kinds:6} {leaked:11} {wrong:13} {left:12}".format(**row))
    kinds = Counter(f"{row['family']}: {row['kind']}" for row in found)
    faulty = [row for row in found if row["leaked"] or row["wrong"] or row["left"]]
    print(f"{len(found)} faults, {len(faulty)} not as they should be, {time.monotonic() - began:.0f} s")
    if given.only == list(FAMILIES):
        summary = {"seed": given.seed, "faults": len(found), "families": rows, "kinds": dict(sorted(kinds.items()))}
        write_json(RESULTS, summary | {"not_as_they_should_be": faulty})
    return 1 if faulty else 0


if __name__ == "__main__":
    sys.exit(main())
