"""The audit log: nothing can be done to it unseen, and nothing is answered without its record."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from audit_logs import ALLOW, rows, some
from steersman.errors import UserError
from steersman.guard.gateway import audit
from steersman.guard.gateway.audit import AuditLog
from steersman.guard.gateway.audit_chain import (
    BEGIN,
    Head,
    canonical_ascii,
    head_file,
    key_file,
    line_of,
    parse_head,
    read_head,
    read_key,
    read_line,
    segments,
    verify,
)
from steersman.guard.verdict import Evidence, Ruling, Verdict

BLOCK = Verdict(
    rail="patterns",
    principle="no-harm",
    decision="block",
    score=0.98765432,
    evidence=(Evidence(where="answer", start=1, end=4, views=("base64", "rot13")),),
    ms=1.25,
)
SHADOW = Verdict(rail="judge", principle="no-harm", decision="block", score=0.5, ms=9.0)
RULING = Ruling("block", BLOCK, (BLOCK, SHADOW), ("judge",), (("probe", "the model is not ours"),))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def written(path: Path, records: int = 3, **settings: Any) -> Path:
    log = AuditLog(path, **settings)
    some(log, records)
    log.close()
    return path


# ── what a record holds ──────────────────────────────────────────────────────────────────────────────────────────────
def test_a_record_holds_what_happened_and_no_text(path: Path) -> None:
    log = AuditLog(path)
    secret = "my number is 4111 1111 1111 1111 \ud800"  # half a character, as a client can send it
    for tenant in ("acme", "acme", "other"):
        entry = log.entry(
            RULING, request="req", tenant=tenant, model="m" * 999, side="output", ms=12.5, text=secret, streamed=True
        )
        log.record_now(entry)
    log.close()
    assert "4111" not in path.read_text()
    opened, first, again, other, closed = rows(path)
    assert (opened["event"], closed["event"]) == ("opened", "closed")
    assert (opened["seq"], opened["previous"], first["previous"]) == (1, "0" * 64, opened["digest"])
    assert first["decision"] == "block"
    assert (first["principle"], first["rail"]) == ("no-harm", "patterns")
    assert first["scores"] == {"patterns/no-harm": 0.987654, "judge/no-harm": 0.5}
    assert first["views"] == ["base64", "rot13"]
    assert first["ms_by_rail"] == {"patterns": 1.25, "judge": 9.0}
    assert first["shadow"] == [{"rail": "judge", "principle": "no-harm", "decision": "block"}]
    assert first["not_run"] == [["probe", "the model is not ours"]]
    assert first["streamed"] is True
    assert len(first["model"]) == 200
    assert first["text_hmac"] == again["text_hmac"] != other["text_hmac"]  # tenants' texts cannot be compared
    assert first["time"].endswith("Z")
    assert verify(path).exit_code == 0


def test_a_text_is_kept_only_redacted(path: Path) -> None:
    log = AuditLog(path, texts="redacted", redact=lambda text: text.replace("4111", "[card]"))
    some(log, 1, text="card 4111 " + "x" * 9000)
    log._redact = lambda text: text[10**9]
    some(log, 1, text="card 4111")
    log.close()
    _, kept, left_out, _ = rows(path)
    assert kept["text"].startswith("card [card] x")
    assert len(kept["text"]) == audit.TEXT_CHARACTERS
    assert (kept["characters"], left_out.get("text")) == (9010, None)
    assert left_out["text_left_out"] == "redaction failed (IndexError)"
    with pytest.raises(UserError, match="redacts"):
        AuditLog(path, texts="redacted")


def test_numbers_that_json_lacks_are_written_as_null() -> None:
    line, head = line_of({"ms": float("nan"), "a": "ä\u2028\ud800"}, BEGIN)
    assert (line.count(b"\n"), line.isascii(), head.seq) == (1, True, 1)
    assert read_line(line[:-1])["ms"] is None  # type: ignore[index]


# ── what was done to it is found ─────────────────────────────────────────────────────────────────────────────────────
def flips(content: bytes) -> Iterator[tuple[int, bytes]]:
    for position in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[position // 8] ^= 1 << position % 8
        yield position, bytes(flipped)


def test_every_flipped_bit_of_a_record_or_a_head_is_found(path: Path) -> None:
    """In memory: no line with a flipped bit is read as a record, and no such head as signed.

    A flip can leave the meaning as it was: 1e-07 and 1E-07, \\u00e4 and \\u00E4.
    """
    log = AuditLog(path)
    log.record_now(log.entry(ALLOW, request="ä", tenant="t", model="m", side="input", ms=0, more=1e-7))
    log.close()
    line = path.read_bytes().splitlines()[1]
    assert b"1e-07" in line
    assert b"u00e4" in line
    assert read_line(line)
    for position, flipped in flips(line):
        assert read_line(flipped) is None, position
    key, head = read_key(key_file(path)), head_file(path).read_bytes()
    assert read_head(head, key)
    for position, flipped in flips(head):
        assert read_head(flipped, key) is None, position


@pytest.mark.parametrize("stride", [97, pytest.param(1, marks=pytest.mark.slow)])
def test_every_flipped_bit_of_the_files_is_found_and_its_line_named(path: Path, stride: int) -> None:
    """On the disk, with `verify`: the log and its signed head (10,000 bits and more; one of 97 in the fast tier)."""
    written(path, 1)
    for file in (path, head_file(path)):
        content = file.read_bytes()
        assert len(content) > 200
        for position, flipped in islice(flips(content), 0, None, stride):
            with file.open("r+b") as changed:  # much faster than writing it anew
                changed.seek(position // 8)
                changed.write(flipped[position // 8 : position // 8 + 1])
            report = verify(path)
            assert report.wrong is not None, f"{file.name}: bit {position}"
            assert report.wrong.file == file
            assert report.wrong.line == content.count(b"\n", 0, position // 8) + 1  # a lost line end joins two
            with file.open("r+b") as changed:
                changed.seek(position // 8)
                changed.write(content[position // 8 : position // 8 + 1])
        assert file.read_bytes() == content
    assert verify(path).exit_code == 0


def test_every_deleted_doubled_and_moved_record_is_found(path: Path) -> None:
    written(path, 6)
    lines = path.read_bytes().splitlines(keepends=True)
    tried = 0

    def found(changed: list[bytes]) -> Any:
        nonlocal tried
        tried += 1
        path.write_bytes(b"".join(changed))
        report = verify(path)
        assert report.wrong is not None
        assert report.exit_code == 1
        return report.wrong

    for i in range(len(lines)):
        gone = found(lines[:i] + lines[i + 1 :])
        assert gone.line == (i + 1 if i < len(lines) - 1 else 0)
        assert "missing" in gone.what or "begins" in gone.what
        for j in range(len(lines) + 1):
            doubled = found([*lines[:j], lines[i], *lines[j:]])
            assert doubled.line in (j + 1, j + 2) if j == i else j + 1
            if j < len(lines) and i != j:
                swapped = list(lines)
                swapped[i], swapped[j] = swapped[j], swapped[i]
                assert found(swapped).line == min(i, j) + 1
    for end in range(len(lines)):
        assert found(lines[:end]).line == 0
    assert "reordered" in found([lines[0], lines[2], lines[1], *lines[3:]]).what
    assert tried > 100


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: [lines[0], lines[1].replace(b"r0", b"r9"), *lines[2:]], ":2: record 2 was changed\n"),
        (lambda lines: [*lines[:2], lines[2][:40]], ":3: record 3 is cut off\n"),
        (lambda lines: [*lines[:2], lines[2][:40] + b"\n", *lines[3:]], ":3: record 3 was changed\n"),
        (lambda lines: [lines[0], *lines[2:]], ":2: record 2 is missing before record 3\n"),
        (lambda lines: [], ": its end was cut off: records 1 to 5 are missing\n"),
        (lambda lines: [b"# A readme\n"], ":1: record 1 was changed, or this is no audit log\n"),
        (lambda lines: [b"\x00\xff" * 99], ":1: record 1 is cut off, or this is no audit log\n"),
    ],
)
def test_the_message_says_which_record(path: Path, change: Any, said: str) -> None:
    written(path)
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))
    assert f"wrong: {path}{said}" in f"{verify(path)}\n"


def test_every_cut_of_the_end_is_found(path: Path) -> None:
    content = written(path, 2).read_bytes()
    ends = [size for size in range(len(content)) if size % 37 == 0 or b"\n" in content[size - 1 : size + 1]]
    for size in ends:
        path.write_bytes(content[:size])
        assert verify(path).exit_code == 1, size
    path.unlink()
    assert "cut off: records 1 to 4" in str(verify(path))


def test_a_log_written_anew_is_found_without_the_key_and_by_a_kept_head_with_it(path: Path) -> None:
    """A chain is no secret: who writes it anew with right digests is found by the signature."""
    log = AuditLog(path)
    some(log, 3)
    head = parse_head(log.status()["head"])
    log.close()
    assert verify(path, heads=[head]).exit_code == 0
    after, forged = BEGIN, b""
    for row in rows(path):
        row |= {"decision": "allow"}
        line, after = line_of({k: v for k, v in row.items() if k not in ("seq", "previous", "digest")}, after)
        forged += line
    path.write_bytes(forged)
    assert "written anew" in str(verify(path))
    head_file(path).write_bytes(canonical_ascii({"seq": after.seq, "digest": after.digest, "time": "", "closed": True}))
    assert "signed head was changed" in str(verify(path))
    head_file(path).unlink()
    assert "is missing; whether the log's end was cut" in str(verify(path))
    # With the key it can be forged, and only what was kept elsewhere tells.
    for file in path.parent.iterdir():
        if file != key_file(path):
            file.unlink()
    written(path, 9)
    assert verify(path).exit_code == 0
    assert "the log was written anew" in str(verify(path, heads=[head]))
    assert "records are missing there" in str(verify(path, heads=[Head(99, "0" * 64)]))


def test_an_older_log_put_back_is_found_by_a_kept_head(path: Path) -> None:
    written(path, 2)
    shutil.copytree(path.parent, old := path.parent / "old")
    log = AuditLog(path)
    some(log, 2)
    head = log.close()
    for file in old.iterdir():
        shutil.copy(file, path.parent / file.name)
    assert verify(path).exit_code == 0
    assert verify(path, heads=[head]).exit_code == 1


def test_records_added_by_hand_are_found(path: Path) -> None:
    head = AuditLog(path).close()
    with path.open("ab") as file:
        file.write(line_of({"event": "ruling"}, head)[0])
    assert "follow the signed end" in str(verify(path))
    with pytest.raises(UserError, match="records follow the signed end"):
        AuditLog(path)


def test_without_the_key_the_end_is_vouched_for_by_a_kept_head_alone(path: Path) -> None:
    log = AuditLog(path)
    end = log.close()
    key_file(path).rename(path.parent / "elsewhere")
    assert "cannot be checked without the key" in str(verify(path))
    assert verify(path, heads=[end]).exit_code == 0
    assert verify(path, key=path.parent / "elsewhere").exit_code == 0
    with pytest.raises(UserError, match="its key is not"):
        AuditLog(path)


@pytest.mark.parametrize("text", ["", "x", "1:", "-1:" + "0" * 64, "1:" + "g" * 64, "٣:" + "0" * 64, "9" * 99 + ":"])
def test_what_is_no_head_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="no head"):
        parse_head(text)


# ── full files ───────────────────────────────────────────────────────────────────────────────────────────────────────
def test_the_chain_goes_on_across_full_files(path: Path) -> None:
    written(path, 20, segment_bytes=2000)
    files = segments(path)
    assert len(files) > 3
    assert files[-1] == path
    whole = verify(path)
    assert (whole.exit_code, whole.records) == (0, 22)
    for file in files:
        file.rename(path.parent / "away")
        assert verify(path).exit_code == 1, file
        (path.parent / "away").rename(file)
    # Old files that were deleted on purpose: the head at their end must have been kept.
    last = rows(files[0])[-1]
    files[0].unlink()
    assert "begins the file" in str(verify(path))
    kept = verify(path, heads=[Head(last["seq"], last["digest"])])
    assert (kept.exit_code, kept.first) == (0, last["seq"] + 1)
    some(log := AuditLog(path, segment_bytes=2000), 5)  # and the gateway goes on
    log.close()
