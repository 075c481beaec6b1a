"""The audit: all checks of a tier, one after the other, each on disk as soon as it is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from steersman.interp.audit import (
    ablation,
    amplified,
    askers,
    awareness,
    capability,
    deception,
    defection,
    drift,
    framing,
    leaks,
    lens,
    noise,
    paraphrase,
    persona,
    preference,
    sameness,
    shortcuts,
    style,
    sycophancy,
    topics,
)
from steersman.interp.audit.check import Check
from steersman.interp.audit.subject import Subject
from steersman.interp.audit.verdict import Audit, judge, measured_rates
from steersman.store import append_jsonl, cut_torn_tail, read_jsonl

CHECKED, AUDIT = "checks.jsonl", "audit.json"


class Entry(NamedTuple):
    """A check, and the tier from which on it is made."""

    name: str
    tier: int
    run: Callable[[Subject], Check]


CHECKS = (
    Entry("paraphrase", 2, paraphrase.check),
    Entry("framing", 1, framing.check),
    Entry("askers", 2, askers.check),
    Entry("sycophancy", 1, sycophancy.check),
    Entry("preference", 1, preference.check),
    Entry("style", 1, style.check),
    Entry("sameness", 1, sameness.check),
    Entry("capability", 1, capability.check),
    Entry("noise", 2, noise.check),
    Entry("leaks", 1, leaks.check),
    Entry("amplified", 2, amplified.check),
    Entry("drift", 2, drift.check),
    Entry("lens", 1, lens.check),
    Entry("shortcuts", 1, shortcuts.check),
    Entry("awareness", 2, awareness.check),
    Entry("topics", 2, topics.check),
    Entry("defection", 2, defection.check),
    Entry("deception", 2, deception.check),
    Entry("persona", 2, persona.check),
    Entry("ablation", 2, ablation.check),
)


def of_tier(tier: int) -> list[Entry]:
    """The checks of a tier, in their order."""
    return [entry for entry in CHECKS if entry.tier <= tier]


def run(
    subject: Subject,
    folder: Path | None = None,
    *,
    entries: Sequence[Entry] | None = None,
    tell: Callable[..., object] = lambda **_: None,
) -> list[Check]:
    """Make all checks of the subject's tier; those that a killed process has left in the folder are kept.

    Args:
        tell: called with ``check`` and ``finding`` after every check.
    """
    known: dict[str, Any] = {}
    if folder is not None:
        cut_torn_tail(folder / CHECKED)
        known = {row["name"]: row for row in read_jsonl(folder / CHECKED)}
    found = []
    for entry in of_tier(subject.tier) if entries is None else entries:
        if entry.name in known:
            check = Check.model_validate(known[entry.name])
        else:
            check = entry.run(subject)
            if folder is not None:
                append_jsonl(folder / CHECKED, [check.model_dump(mode="json")])
        found.append(check)
        tell(check=check.name, finding=check.finding)
    return found


def conclude(checks: Sequence[Check], subject: Subject) -> Audit:
    """The verdict, by the shipped error rates: those of whole audits, not of ones that a limit cuts down."""
    return judge(checks, subject.tier, {} if subject.limit else measured_rates())
