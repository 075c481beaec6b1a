"""Mutation testing by hand: one-line faults, each with the one test that must fail when it is in the code.

    make mutants                              # all of them, with a table
    python tests/mutants.py leases stats      # those whose fault, file or test contains one of these words

The package is copied to a temporary folder, one mutant is applied to the copy, and its test runs against the copy; the
working tree is never changed. Before that, all these tests must pass unchanged. A mutant whose test still passes
*survives*: the test shows less than it claims, or the code is not needed. `tests/test_mutants.py` checks in the fast
tier that every mutant still fits the source.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from io import StringIO
from multiprocessing import get_context
from pathlib import Path

import pytest

from mutants_attacks import ATTACKS
from mutants_campaign import CAMPAIGN
from mutants_core import CORE, Mutant
from mutants_evidence import EVIDENCE
from mutants_group_models import GROUP_MODELS
from mutants_guard import GUARD
from mutants_interp_audit import INTERP_AUDIT
from mutants_interp_circuits import INTERP_CIRCUITS
from mutants_interp_directions import INTERP_DIRECTIONS
from mutants_interp_features import INTERP_FEATURES
from mutants_interp_hardening import INTERP_HARDENING
from mutants_interp_organisms import INTERP_ORGANISMS
from mutants_interp_page import INTERP_PAGE
from mutants_interp_probes import INTERP_PROBES
from mutants_redteam import REDTEAM
from mutants_suites import SUITES
from mutants_values_raters import VALUES_RATERS
from mutants_values_rules import VALUES_RULES
from mutants_values_statements import VALUES_STATEMENTS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "steersman"
TEST_TIMEOUT_S = 120  # a mutant that hangs is caught too
CAUGHT, SURVIVED = "caught", "SURVIVED"
HEAVY = ("torch", "transformers", "peft", "scipy.stats", "sqlalchemy", "starlette.testclient", "choix")

MUTANTS = (
    *CORE,
    *EVIDENCE,
    *GROUP_MODELS,
    *GUARD,
    *ATTACKS,
    *CAMPAIGN,
    *REDTEAM,
    *SUITES,
    *INTERP_AUDIT,
    *INTERP_CIRCUITS,
    *INTERP_DIRECTIONS,
    *INTERP_FEATURES,
    *INTERP_ORGANISMS,
    *INTERP_PROBES,
    *INTERP_HARDENING,
    *INTERP_PAGE,
    *VALUES_RULES,
    *VALUES_STATEMENTS,
    *VALUES_RATERS,
)


# ── running them ─────────────────────────────────────────────────────────────────────────────────────────────────────
def tested(package_parent: Path, *tests: str) -> tuple[int, str]:
    """Run tests, given below tests/, on the package in a folder; this process imports it, so it can do so once.

    Returns:
        pytest's exit status and what it printed.
    """
    sys.path.insert(0, str(package_parent))
    sys.dont_write_bytecode = True
    os.environ |= {"PYTHONPATH": str(package_parent), "PYTHONDONTWRITEBYTECODE": "1"}
    os.chdir(ROOT)
    words = ["-x", "-p", "no:cacheprovider", "-p", "no:xdist", f"--timeout={TEST_TIMEOUT_S}"]
    words += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of plug-ins that were imported before
    with redirect_stdout(StringIO()) as said, redirect_stderr(said):
        status = pytest.main([*words, *(f"tests/{test}" for test in tests)])
    return int(status), said.getvalue()


def outcome(mutant: Mutant) -> tuple[str, float]:
    """What becomes of a mutant, and in how many seconds."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="steersman-mutant-") as folder:
        copy = Path(shutil.copytree(PACKAGE, Path(folder) / "steersman", ignore=shutil.ignore_patterns("__pycache__")))
        file = copy / mutant.file
        source = file.read_text(encoding="utf-8")
        if source.count(mutant.old) != 1:
            return f"its text occurs {source.count(mutant.old)} times", 0.0
        changed = source.replace(mutant.old, mutant.new)
        compile(changed, mutant.file, "exec")
        file.write_text(changed, encoding="utf-8")
        status, said = tested(copy.parent, mutant.test)
    seconds = time.perf_counter() - start
    if status == pytest.ExitCode.TESTS_FAILED and re.search(r"^FAILED tests/", said, flags=re.MULTILINE):
        return CAUGHT, seconds
    return (SURVIVED if status == pytest.ExitCode.OK else f"pytest: {status}\n{said[-2000:]}"), seconds


def main(words: Sequence[str]) -> int:
    """Run the mutants that hold one of the words (all without any); 0 if each was caught, 2 if none holds a word."""
    chosen = [m for m in MUTANTS if not words or any(word in " ".join((m.fault, m.file, m.test)) for word in words)]
    if not chosen:  # pytest without a test's name would run them all
        print(f"no mutant's fault, file or test contains {' or '.join(map(repr, words))}")
        return 2
    tests = list(dict.fromkeys(mutant.test for mutant in chosen))
    print(f"{len(chosen)} mutants; first their {len(tests)} tests without any ...", flush=True)
    for name in HEAVY:
        import_module(name)
    results = []
    # Forks of a process that has imported what takes long, but not the package: each imports its own copy, and ends.
    with get_context("fork").Pool(len(os.sched_getaffinity(0)), maxtasksperchild=1) as pool:
        status, said = pool.apply(tested, (PACKAGE.parent, *tests))
        if status:
            print(said)
            return 1
        for mutant, (result, seconds) in zip(chosen, pool.imap(outcome, chosen, chunksize=1), strict=True):
            print(f"{result:8}  {seconds:4.0f} s  {mutant.file:24} {mutant.fault}", flush=True)
            results.append(result)
    caught = results.count(CAUGHT)
    print(f"{caught} of {len(chosen)} mutants caught")
    return 0 if caught == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
