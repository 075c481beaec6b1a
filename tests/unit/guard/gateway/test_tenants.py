"""Tenants: keys, the file's mistakes, and a changed file that takes effect without a moment without a guard."""

from __future__ import annotations

import asyncio
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest

from steersman.errors import UserError
from steersman.guard.gateway import tenants as module
from steersman.guard.gateway.limits import Refused, Usage
from steersman.guard.gateway.tenants import (
    Reloader,
    Tenants,
    check_reachable,
    digest_of_key,
    key_lines,
    load_tenants,
    new_key,
)
from steersman.http_server import Address

KEY, DIGEST = new_key()
OTHER, OTHER_DIGEST = new_key()


class FakeGuard:
    def __init__(self, content: str) -> None:
        self.content = content


def fake(folder: Path | None, constitution: str | None, shadow: tuple[str, ...]) -> Any:
    content = (folder / "guard.json").read_text() if folder else str(constitution)
    if "broken" in content:
        raise UserError("the guard is broken")
    return FakeGuard(content)


TEXT = f"""tenants:
  - name: acme
    keys: [{DIGEST}]
    guard: guards/acme
    limits: {{requests_per_minute: 60}}
    shadow: [judge]
    models: ["gemma-*", tiny]
  - name: other
    keys:
      - {OTHER_DIGEST}
    constitution: assistant
    upstream: http://127.0.0.1:9/v1
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "guards" / "acme").mkdir(parents=True)
    (tmp_path / "guards" / "acme" / "guard.json").write_text("one")
    (tmp_path / "tenants.yaml").write_text(TEXT)
    return tmp_path / "tenants.yaml"


def load(file: Path, before: Tenants | None = None) -> Tenants:
    return load_tenants(file, Usage(), guard=fake, before=before)


# ── keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_key_finds_its_tenant(file: Path) -> None:
    tenants = load(file)
    acme, key = tenants.of(KEY)
    assert (acme.name, acme.guard.content, acme.limiter.limits.requests_per_minute) == ("acme", "one", 60)
    assert key == f"acme/{DIGEST[7:15]}"
    assert KEY not in repr(tenants)
    assert tenants.of(OTHER).tenant.upstream == "http://127.0.0.1:9/v1"
    assert (acme.allows("gemma-3"), acme.allows("tiny"), acme.allows("Gemma-3"), acme.allows("x")) == (1, 1, 0, 0)


@pytest.mark.parametrize(
    "key",
    [None, "", "x", KEY[:-1], KEY + "x", DIGEST, KEY.upper(), "\udcff", "sg-" + "0" * 10**6],
    ids=["none", "empty", "short", "cut", "longer", "its digest", "upper case", "half a character", "very long"],
)
def test_no_other_key_does(file: Path, key: str | None) -> None:
    with pytest.raises(Refused) as caught:
        load(file).of(key)
    assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")
    assert key is None or len(key) < 3 or key not in str(caught.value)


def test_a_new_key_is_shown_once_with_the_line_for_the_file() -> None:
    printed = key_lines("acme")
    key, line = re.search(r"(sg-\S{43})", printed), re.search(r"keys: \[(\S+)\]", printed)
    assert key is not None
    assert line is not None
    assert digest_of_key(key[1]) == line[1]
    assert key_lines("acme") != printed


def test_without_a_file_everybody_on_this_machine_may_ask_and_nobody_else(file: Path) -> None:
    single = Tenants.single(FakeGuard("x"))
    for key in (None, "", "x"):
        assert single.of(key).tenant.name == "local"
    check_reachable(Address(host="127.0.0.1"), single)
    check_reachable(Address(host="0.0.0.0", url="https://guard.example.org"), load(file))
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        with pytest.raises(UserError, match="asks for no key"):
            check_reachable(Address(host=host), single)


# ── the file ─────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("name: other", "name: acme", 8, 'the tenant "acme" a second time (first on line 2)'),
        (OTHER_DIGEST, DIGEST, 10, "a key of acme a second time"),
        (DIGEST, KEY, 3, "item 1, keys, item 1: this is no digest of a key"),
        ("guard: guards/acme", "guard: guards/none", 4, "there is no folder guards/none"),
        ("    guard: guards/acme\n", "", 2, "found neither of guard and constitution"),
        ("    guard: guards/acme\n", "    guard: guards/acme\n    constitution: assistant\n", 2, "found both"),
        ("requests_per_minute: 60", "requests_per_minute: -1", 5, "expected greater than 0"),
        ("requests_per_minute", "request_per_minute", 5, "did you mean requests_per_minute"),
        ("name: other", "nome: other", 8, 'unknown key "nome"'),
        (f"keys: [{DIGEST}]", "keys: []", 3, "acme: found no keys"),
        ("tenants:", "tenants", 2, "found a second `: ` in one value"),
        ("name: acme", 'name: "Ä b"', 2, "small letters and digits"),
    ],
    ids=range(12),
)
def test_mistakes_are_said_with_their_line(file: Path, old: str, new: str, line: int, words: str) -> None:
    assert old in TEXT
    file.write_text(TEXT.replace(old, new))
    with pytest.raises(UserError) as caught:
        load(file)
    assert f"{file}:{line}" in str(caught.value)
    assert words in str(caught.value)
    assert KEY not in str(caught.value)
    assert len(str(caught.value).splitlines()) == (2 if "nome" in new else 1)  # it lacks its name, too


def test_all_mistakes_are_said_at_once_and_that_of_a_guard_with_its_tenant(file: Path) -> None:
    file.write_text(TEXT.replace("guards/acme", "none").replace(OTHER_DIGEST, DIGEST))
    with pytest.raises(UserError) as caught:
        load(file)
    assert len(str(caught.value).splitlines()) == 2
    file.write_text(TEXT.replace("constitution: assistant", "constitution: broken"))
    with pytest.raises(UserError, match=r"tenants.yaml:8 \(other\): the guard is broken"):
        load(file)


# ── reloading ────────────────────────────────────────────────────────────────────────────────────────────────────────
def reloader(file: Path, **settings: Any) -> Reloader:
    usage = Usage()
    first = load_tenants(file, usage, guard=fake)
    return Reloader(first, lambda old: load_tenants(file, usage, guard=fake, before=old), **settings)


def test_a_changed_file_takes_effect_and_a_broken_one_changes_nothing(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    held, guard_file = reloader(file), file.parent / "guards" / "acme" / "guard.json"

    async def work() -> None:
        old = held.now
        assert await held.look() is False
        guard_file.write_text("two")
        assert await held.look() is True
        assert held.now.of(KEY).tenant.guard.content == "two"
        assert old.of(KEY).tenant.guard.content == "one"  # a request under way keeps what it took
        assert held.now.of(OTHER).tenant.guard is old.of(OTHER).tenant.guard  # nothing about it has changed
        assert held.now.of(KEY).tenant.limiter is old.of(KEY).tenant.limiter  # nor is what was used forgotten
        for broken in ("tenants:\n  - name: x\n", "", "\x00", TEXT.replace("guards/acme", "elsewhere")):
            now = held.now
            file.write_text(broken)
            assert await held.look() is False
            assert held.now is now
            assert str(file) in held.problem
            assert await held.look() is False  # told once
        guard_file.write_text("broken")
        file.write_text(TEXT)
        assert await held.look() is False
        assert "the guard is broken" in held.problem
        guard_file.write_text("three")
        assert await held.look() is True
        assert (held.problem, held.now.of(KEY).tenant.guard.content) == ("", "three")
        guard_file.unlink()
        assert await held.look() is False
        assert held.now.of(KEY).tenant.guard.content == "three"

    asyncio.run(work())
    assert caplog.text.count("the old guard stays") == 6


def test_equal_time_and_size_do_not_hide_a_change(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two writes within one tick of the clock; and a file long unchanged is not read again."""
    held, guard_file = reloader(file), file.parent / "guards" / "acme" / "guard.json"
    read = 0
    real = module.digests

    def counted(files: Any) -> Any:
        nonlocal read
        read += 1
        return real(files)

    async def work() -> None:
        assert await held.look() is False
        status = guard_file.stat()
        guard_file.write_text("two")
        os.utime(guard_file, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert await held.look() is True
        for path in held.now.seen:
            os.utime(path, (time.time() - 60, time.time() - 60))
        await held.look()
        monkeypatch.setattr(module, "digests", counted)
        for _ in range(5):
            assert await held.look() is False
        assert read == 0
        os.utime(guard_file)  # touched, the same: read, and nothing loaded
        assert await held.look() is False
        assert (read, held.reloads) == (1, 1)

    asyncio.run(work())


def test_a_change_while_it_is_loaded_is_seen_at_the_next_look(file: Path) -> None:
    guard_file, usage, changed = file.parent / "guards" / "acme" / "guard.json", Usage(), False

    def slow(folder: Path | None, constitution: str | None, shadow: tuple[str, ...]) -> Any:
        nonlocal changed
        ready = fake(folder, constitution, shadow)
        if folder and not changed and ready.content == "two":
            changed = True
            folder.joinpath("guard.json").write_text("three")
        return ready

    held = Reloader(
        load_tenants(file, usage, guard=slow), lambda old: load_tenants(file, usage, guard=slow, before=old)
    )

    async def work() -> None:
        guard_file.write_text("two")
        assert await held.look() is True
        assert await held.look() is True
        assert held.now.of(KEY).tenant.guard.content == "three"
        assert await held.look() is False

    asyncio.run(work())


def test_never_a_moment_without_a_guard_and_sighup_is_at_once(file: Path) -> None:
    heard: list[str] = []
    held = reloader(file, every_s=60, on_change=heard.append)

    async def work() -> None:
        watching = asyncio.create_task(held.watch())
        for number in range(20):
            (file.parent / "guards" / "acme" / "guard.json").write_text("broken" if number % 3 == 1 else str(number))
            held.soon()
            for _ in range(50):
                assert held.now.of(KEY).tenant.guard.content
                await asyncio.sleep(0.001)
                if len(heard) > number:
                    break
        watching.cancel()
        assert [bool(text) for text in heard] == [number % 3 == 1 for number in range(20)]
        assert held.now.of(KEY).tenant.guard.content == "18"

    asyncio.run(work())


def test_what_was_missing_is_tried_again(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that the file names before it is there: no later change of the file is needed."""
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    held = reloader(file)

    async def work() -> None:
        file.write_text(TEXT.replace("guards/acme", "guards/new"))
        assert await held.look() is False
        (file.parent / "guards" / "acme").rename(file.parent / "guards" / "new")
        assert await held.look() is True
        assert held.problem == ""

    asyncio.run(work())


def test_watching_survives_anything(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = reloader(file, every_s=0.001)

    def raises(files: Any) -> Any:
        raise MemoryError

    async def work() -> None:
        watching = asyncio.create_task(held.watch())
        monkeypatch.setattr(module, "_stamps", raises)
        await asyncio.sleep(0.05)
        assert "MemoryError" in held.problem
        monkeypatch.undo()
        monkeypatch.setattr(module, "RETRY_S", 0.0)
        await asyncio.sleep(0.1)
        assert not watching.done()
        assert held.problem == ""
        watching.cancel()

    asyncio.run(work())
