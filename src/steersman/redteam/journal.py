"""What a campaign has asked and heard, on disk before it counts: a killed campaign goes on and asks nothing twice.

One JSON Lines file, only appended to. A line holds what was asked as a digest, and what came of it:

    answer    the reply of a model         check   what a guard did with one side
    consult   the attacker's own model     work    a computation of an attack
    judged    what the judge said

Replies, consultations and work are synced to disk before anybody sees them. Checks and judgements cost next to
nothing: they are written with the next of those. Since all that is asked follows from the plan and the answers, a
resumed campaign writes the same lines in the same order: its file is that of a campaign which nobody killed.

Batches are cut the same way each time, too: what a model samples depends, in the last digits, on its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from steersman.redteam.attack import Goal, WhiteBox
from steersman.redteam.attacks.prompt_extraction import extracted
from steersman.redteam.judge import Judge, Judgement
from steersman.redteam.plan import key_of
from steersman.redteam.target import Checked, Guard, Query, Reply, Target
from steersman.store import append_jsonl, cut_torn_tail, disk_full_is_explained, read_jsonl
from steersman.types import Text, plain_text

Kind = Literal["answer", "check", "consult", "work", "judged"]
_OF_A_REPLY = ("text", "stopped", "tokens", "failed", "cut")
BATCH = 128  # queries whose replies are written at once: what a kill costs at most


def text_key(prompt: Text) -> Any:
    """A prompt as a JSON value."""
    return prompt if isinstance(prompt, str) else [message.model_dump(mode="json") for message in prompt]


class Journal:
    """The lines of a file, by kind and key. The first line of a key holds.

    Raises:
        RunError: a line that is not JSON, but for the last one, which a kill may have torn.
    """

    def __init__(self, file: Path) -> None:
        cut_torn_tail(file)
        self.file = file
        self._held: list[Mapping[str, Any]] = []
        self._rows: dict[tuple[str, str], Mapping[str, Any]] = {}
        for row in read_jsonl(file) if file.exists() else ():
            self._rows.setdefault((row["kind"], row["key"]), row)

    def get(self, kind: Kind, key: str) -> Mapping[str, Any] | None:
        """What came of it; None if it was not asked."""
        return self._rows.get((kind, key))

    def hold(self, kind: Kind, key: str, **fields: Any) -> Mapping[str, Any]:
        """Keep a line that is written with the next ones; one that is there already holds."""
        row = {"kind": kind, "key": key, **fields}
        if (kind, key) not in self._rows:
            self._rows[kind, key] = row
            self._held.append(row)
        return self._rows[kind, key]

    def write(self) -> None:
        """Put everything on disk."""
        if self._held:
            with disk_full_is_explained(self.file):
                append_jsonl(self.file, self._held)
            self._held = []

    def __len__(self) -> int:
        return len(self._rows)


class Remembered:
    """A model that is asked through a journal: each conversation, temperature and seed once.

    Args:
        target: the model.
        together: a batch of which a line is missing is answered as a whole, as a model in this process needs it; else
            what is missing is asked alone.
        answered: called with the number of replies that are there, batch by batch.
    """

    def __init__(
        self,
        target: Target,
        journal: Journal,
        *,
        together: bool,
        batch: int = BATCH,
        answered: Callable[[int], object] = lambda count: None,
    ) -> None:
        self.name, self.target, self.journal = target.name, target, journal
        self.together, self.batch, self.answered = together, batch, answered
        self._counted: set[str] = set()  # what this process has asked for, whoever answered it

    def answer(self, queries: Sequence[Query]) -> Iterator[Reply]:
        """See `Target`; replies in the order of the queries."""
        keys = [key_of(self.name, text_key(q.prompt), q.temperature, q.seed) for q in queries]
        fresh: dict[str, Query] = {}
        for key, query in zip(keys, queries, strict=True):
            if query.reply is None and key not in self._counted:
                fresh.setdefault(key, query)
        order = sorted(fresh, key=lambda key: (len(plain_text(fresh[key].prompt)), key))
        for batch in (order[i : i + self.batch] for i in range(0, len(order), self.batch)):
            self._ask({key: fresh[key] for key in batch})
        for key, query in zip(keys, queries, strict=True):
            if query.reply is not None:
                yield Reply(query.number, query.reply, tokens=0)
                continue
            row = self.journal.get("answer", key)
            assert row is not None
            yield Reply(query.number, **{name: row[name] for name in _OF_A_REPLY})

    def _ask(self, batch: Mapping[str, Query]) -> None:
        missing = [key for key in batch if self.journal.get("answer", key) is None]
        if missing:
            asked = list(batch) if self.together else missing
            renumbered = [batch[key]._replace(number=place) for place, key in enumerate(asked)]
            found = {reply.number: reply for reply in self.target.answer(renumbered)}
            for place, key in enumerate(asked):
                self.journal.hold("answer", key, **{name: getattr(found[place], name) for name in _OF_A_REPLY})
            self.journal.write()
        self._counted.update(batch)
        self.answered(len(batch))

    @property
    def weights(self) -> WhiteBox | None:
        """The model's."""
        return self.target.weights


class RememberedGuard:
    """A guard that judges each conversation, and each answer to it, once; so do all the arms that it guards."""

    def __init__(self, guard: Guard, journal: Journal) -> None:
        self.guard, self.journal = guard, journal

    def check(self, prompt: Text, answer: str | None = None) -> Checked:
        """See `Guard`."""
        key = key_of("guard", text_key(prompt), answer)
        row = self.journal.get("check", key)
        if row is None:
            found = self.guard.check(prompt, answer)
            # What passes unchanged is not written a second time.
            text = None if found.text == answer else found.text
            row = self.journal.hold("check", key, stopped=found.stopped, text=text)
        return Checked(row["stopped"], (answer or "") if row["text"] is None else row["text"])


class RememberedJudge:
    """A judge that is asked about each goal and reply once.

    Whether a secret came out needs no judge of harm: it is in the reply, or not (`prompt_extraction.extracted`).
    """

    def __init__(self, judge: Judge, journal: Journal) -> None:
        self.name, self.version, self.inner, self.journal = judge.name, judge.version, judge, journal

    def judge(self, goal: Goal, reply: str) -> Judgement:
        """See `Judge`."""
        key = key_of(self.name, self.version, list(goal), reply)
        row = self.journal.get("judged", key)
        if row is None:
            found = self.inner.judge(goal, reply)
            held = {"harm": bool(found.harm), "refused": bool(found.refused), "score": float(found.score)}
            row = self.journal.hold("judged", key, **held)
        if goal.secret:
            out = extracted(goal.secret, reply)
            return Judgement(out, row["refused"] and not out, float(out))
        return Judgement(row["harm"], row["refused"], row["score"])
