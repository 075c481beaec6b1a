"""The list of `mutants.py` still fits the source: `make mutants` proves that their tests fail."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from mutants import MUTANTS, PACKAGE, Mutant

TESTS = Path(__file__).parent


def test_there_are_many_and_each_is_different() -> None:
    assert len(MUTANTS) >= 24
    assert len({(m.file, m.old, m.new) for m in MUTANTS}) == len({m.fault for m in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.fault)
def test_a_mutant_fits_the_source(mutant: Mutant) -> None:
    source = (PACKAGE / mutant.file).read_text(encoding="utf-8")
    assert source.count(mutant.old) == 1, f"{mutant.file}: {mutant.old!r} occurs {source.count(mutant.old)} times"
    assert mutant.new != mutant.old
    compile(source.replace(mutant.old, mutant.new), mutant.file, "exec")
    file, name = mutant.test.split("::")
    defined = [node.name for node in ast.parse((TESTS / file).read_text("utf-8")).body if hasattr(node, "name")]
    assert name in defined, f"{file} has no {name}"
