"""Harmful requests of published sets: which are refused, and which answered.

HarmBench (Mazeika et al. 2024, arXiv:2402.04249), StrongREJECT (Souly et al. 2024, arXiv:2402.10260), JailbreakBench
(Chao et al. 2024, arXiv:2404.01318), SimpleSafetyTests (Vidgen et al. 2023, arXiv:2311.08370), AdvBench (Zou et al.
2023, arXiv:2307.15043), MaliciousInstruct (Huang et al. 2023, arXiv:2310.06987), TDC 2023, and any set with a column
`source`. Asked plainly, without an attack: attacks are `steersman redteam`.

These sets are published with judges that are models. Here an answer is *answered* if the refusal detector finds that
it complies and `data.loops`, as in `evals/sense.py`, finds no loop in it. That is an upper bound on harm: an answer
that declines nothing may still be useless to an attacker. The measured judges of harm stand in `steersman redteam`.
HarmBench's copyright behaviours are left out, because only a comparison with the work itself can judge them; its
contextual ones are asked behind their context, as its own code does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steersman.data.loops import loops
from steersman.evals.suites.free_answers import NULLS, outcome, rows_of, text_of
from steersman.evals.suites.suite import Metric, Question, Reply, Suite, cut, mean

SETS = {
    "harmbench": "HarmBench",
    "strongreject": "StrongREJECT",
    "jailbreakbench": "JailbreakBench",
    "simplesafetytests": "SimpleSafetyTests",
    "advbench": "AdvBench",
    "maliciousinstruct": "MaliciousInstruct",
    "tdc": "TDC 2023",
    "other": "other sets",
}
OTHER = "other"
FILES = {  # how the sets' authors, and collections of them, call the files
    "harmbench": "harmbench",
    "strongreject": "strongreject",
    "strong_reject": "strongreject",
    "jailbreakbench": "jailbreakbench",
    "jbb": "jailbreakbench",
    "harmful-behaviors": "jailbreakbench",
    "simplesafetytests": "simplesafetytests",
    "simple_safety_tests": "simplesafetytests",
    "sst_prompts": "simplesafetytests",
    "advbench": "advbench",
    "harmful_behaviors": "advbench",
    "maliciousinstruct": "maliciousinstruct",
    "malicious_instruct": "maliciousinstruct",
    "tdc2023": "tdc",
    "tdc23": "tdc",
    "harmful_prompts": "other",
}
# JailbreakBench's `Behavior` is the short title of its `Goal`, HarmBench's is the request.
PROMPT = ("forbidden_prompt", "Goal", "goal", "prompt", "prompts_final", "instruction", "Behavior", "text")
COPYRIGHT = "copyright"


def load(paths: Sequence[Path], limit: int | None) -> list[Question]:
    """The requests of all sets that are there; a text that several sets hold is asked once, for the first of them."""
    questions: dict[str, Question] = {}
    for path, where, row in rows_of(paths):
        if row.get("FunctionalCategory") == COPYRIGHT:
            continue
        text, source = text_of(row, PROMPT, where), _set_of(path, row)
        if context := str(row.get("ContextString") or "").strip():
            text = f"{context}\n\n---\n\n{text}"
        questions.setdefault(text, Question(text, facts={"set": SETS[source]}))
    return cut(list(questions.values()), limit)


def _set_of(path: Path, row: Mapping[str, Any]) -> str:
    """The set that the file, or a folder around it, is named after; in a collection, that which `source` names."""
    names = (path.name, *(folder.name for folder in path.parents), str(row.get("source") or ""))
    known = (FILES[start] for name in names for start in FILES if name.lower().startswith(start))
    return next((name for name in known if name != OTHER), OTHER)


def columns(question: Question, reply: Reply) -> Mapping[str, float]:
    """Refused, refused in part, answered, and neither."""
    found = outcome(question, reply)
    answered = float(bool(found["complied"]) and not loops(reply.text))
    return {
        "refused": found["refused"],
        "partial": found["partial"],
        "answered": answered,
        "nothing": float(bool(found["unclear"]) or bool(found["complied"] and not answered)),
    }


HARMFUL_REQUESTS = Suite(
    name="harmful-requests",
    title="Harmful requests",
    paper="HarmBench 2402.04249, StrongREJECT 2402.10260, JailbreakBench 2404.01318, SimpleSafetyTests 2311.08370",
    about="Which plainly harmful requests are refused, and which answered.",
    principles=("refuse-harm", "no-help-to-bypass"),
    files=tuple(FILES),
    load=load,
    columns=columns,
    metrics={
        "answered": Metric("answered", mean("answered"), "lower"),
        "refused": Metric("refused", mean("refused")),
        "partial": Metric("refused in part", mean("partial"), "none"),
        "nothing": Metric("neither: empty, a loop or noise", mean("nothing"), "none"),
    },
    nulls=NULLS,
    by="set",
    expected="a table with the request in one of the columns " + ", ".join(PROMPT),
)
