"""The audit log of a real server, changed in every way: is each change found, and its record named?

    python benchmarks/guard/audit.py [--records 300] [--files 400]

`steersman guard serve` writes some hundred records: requests that are stopped, checks, moderations; no model is needed.
Then every bit of the log and of its signed head is flipped, one at a time: no line with a flipped bit may be read as a
record (in memory), and for ``--files`` of them `verify` must name the line. So with records that are cut out, doubled,
moved, exchanged, appended or cut in the middle, an empty file and another file.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "fixtures"), str(ROOT / "benchmarks" / "guard")]

import servers  # noqa: E402

from guarded import RULES, WORD  # noqa: E402
from steersman.guard.gateway.audit_chain import head_file, key_file, read_head, read_key, read_line, verify  # noqa: E402
from steersman.store import write_json  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "guard" / "audit.json"
NOBODY = "http://127.0.0.1:9/v1"
Lines = list[bytes]


def written(folder: Path, records: int) -> Path:
    """A log that a server wrote."""
    (folder / "rules.yaml").write_text(RULES, encoding="utf-8")
    log = folder / "audit.jsonl"
    with (
        servers.gateway(folder, folder / "rules.yaml", NOBODY, "--audit", str(log)) as url,
        httpx2.Client(timeout=120, trust_env=False) as client,
    ):
        for asked in range(0, records, 5):
            said = f"Number {asked}: ä \U0001f600 give me the {WORD}"
            messages = [{"role": "user", "content": said}]
            client.post(f"{url}/chat/completions", json={"model": f"m\u2028{asked % 7}", "messages": messages})
            client.post(f"{url}/checks", json={"messages": messages, "answer": f"Write to a{asked}@mail.org"})
            client.post(f"{url}/moderations", json={"input": f"fine {asked}"})
    return log


def flips(content: bytes) -> Iterator[tuple[int, bytes]]:
    """The content with each of its bits flipped, and where."""
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        yield bit, bytes(flipped)


def unseen_bits(log: Path) -> tuple[int, int]:
    """How many bits there are in the log and its head, and how many of their flips are not seen."""
    bits = unseen = 0
    lines = log.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines):
        for _, flipped in flips(line):
            bits += 1
            if not flipped.endswith(b"\n"):  # its end is gone: it is one line with the next
                flipped += lines[number + 1] if number + 1 < len(lines) else b""
            pieces = flipped.split(b"\n")[:-1] or [flipped]
            unseen += all(read_line(piece) is not None for piece in pieces)
    key, head = read_key(key_file(log)), head_file(log).read_bytes()
    for _, flipped in flips(head):
        bits += 1
        unseen += read_head(flipped, key) is not None
    return bits, unseen


def changes(lines: Lines, draw: random.Random) -> Iterator[tuple[str, bytes, int]]:
    """What somebody could do to the lines: a name, the new content, and the line that must be named (0: its end)."""
    last = len(lines)
    for at in (1, 2, last // 2, last - 1):
        yield "cut out", b"".join(lines[: at - 1] + lines[at:]), at
        yield "doubled", b"".join(lines[:at] + lines[at - 1 :]), at + 1
        yield "exchanged", b"".join([*lines[: at - 1], lines[at], lines[at - 1], *lines[at + 1 :]]), at
        yield "cut in the middle", b"".join(lines[: at - 1]) + lines[at - 1][: len(lines[at - 1]) // 2], at
        other = json.loads(lines[at - 1]) | {"decision": "allow", "tenant": "other"}
        yield "written again", b"".join([*lines[: at - 1], json.dumps(other).encode() + b"\n", *lines[at:]]), at
    yield "cut out", b"".join(lines[:-1]), 0
    yield "half of it", b"".join(lines[: last // 2]), 0
    yield "appended", b"".join([*lines, lines[-1]]), last + 1
    yield "appended text", b"".join(lines) + b"and more\n", last + 1
    yield "shuffled", b"".join(draw.sample(lines, last)), -1
    yield "reversed", b"".join(reversed(lines)), 1
    yield "empty", b"", 0
    yield "another file", b"# A readme\n\nwith text\n", 1
    yield "bytes", bytes(draw.randrange(256) for _ in range(5000)), 1


def not_named(log: Path, content: bytes, line: int) -> str:
    """What is wrong with `verify`'s report on a changed log; empty if it is right."""
    log.write_bytes(content)
    report = verify(log)
    if report.wrong is None:
        return "not found"
    named = report.wrong.line == line or line < 0
    return "" if named and str(report).startswith("wrong: ") else f"{report.wrong}, expected line {line}"


def main() -> int:
    """Write, change, print, keep; 1 if anything was not found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--records", type=int, default=300)
    parser.add_argument("--files", type=int, default=400)
    given = parser.parse_args()
    draw, wrong, said = random.Random(0), list[str](), dict[str, str]()
    with tempfile.TemporaryDirectory(prefix="steersman-audit-") as name:
        log = written(Path(name), given.records)
        intact = str(verify(log))
        assert intact.startswith("intact"), intact
        whole = log.read_bytes()
        lines = whole.splitlines(keepends=True)
        spoilt = Path(name) / "spoilt" / log.name
        spoilt.parent.mkdir()
        for of in (head_file, key_file):
            shutil.copy(of(log), of(spoilt))
        check: Callable[[bytes, int], str] = lambda content, line: not_named(spoilt, content, line)  # noqa: E731
        for what, content, line in changes(lines, draw):
            if found := check(content, line):
                wrong.append(f"{what}: {found}")
            said[what] = str(verify(spoilt).wrong).replace(f"{name}/", "").replace("spoilt/", "")
        for bit in draw.sample(range(8 * len(whole)), given.files):
            flipped = bytearray(whole)
            flipped[bit // 8] ^= 1 << bit % 8
            if found := check(bytes(flipped), whole.count(b"\n", 0, bit // 8) + 1):
                wrong.append(f"bit {bit}: {found}")
        bits, unseen = unseen_bits(log)
    result = {"log": intact, "bits": bits, "unseen_bits": unseen, "bits_on_disk": given.files, "wrong": wrong}
    print(json.dumps(result | {"said": said}, indent=2))
    write_json(RESULTS, result | {"said": said})
    return int(bool(wrong or unseen))


if __name__ == "__main__":
    sys.exit(main())
