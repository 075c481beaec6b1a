"""The classifier that was trained from the constitution, as a rail.

On the input side it asks of every text of the request, in every view of it, whether it asks to break a principle; on
the output side, whether the answer breaks one given the request. A text is read as a whole and by its sentences, what
stands in quotes, and what was decoded in it, so that a request is not lost in what surrounds it: a sentence in front of
it, or a story around it, hid most of them before. Each piece is one more chance of a false alarm, which a few sentences
may have; in a longer text the scores of sentences are lowered by what the tail of harmless scores says that so many
chances are worth.
"""

from __future__ import annotations

import functools
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from steersman.constitution.document import Constitution
from steersman.errors import ModelError
from steersman.guard.activations import ActivationReader
from steersman.guard.cache import TextCache
from steersman.guard.normalise import View, Views
from steersman.guard.normalise import views as all_views
from steersman.guard.rails.probe import Probe, TokenProbe, TokenRail
from steersman.guard.scorer import ABOUT, HARM, OFF, Layout, Scorer
from steersman.guard.scorer import Part as PromptPart
from steersman.guard.trained import FORMAT, Cascade, SideRule
from steersman.guard.verdict import ANSWER, STRICTNESS, Evidence, Exchange, Side, Verdict
from steersman.store import read_json

WHOLE = 60  # characters of a text that is read as a whole only
SHORTEST, LONGEST = 16, 240  # characters of a piece of a longer one
FREE = 6  # pieces of a text whose scores are not lowered
TURNS = 6  # of the user, the last ones, that are read as one text
REMEMBERED = 256  # requests whose activations are kept
CACHED_CHARACTERS = 1_000_000  # of texts whose scores are kept
REACH = 400  # characters of an answer that may be on their way before the exchange is judged with them
INSTRUCTIONS = frozenset({"system", "developer"})
# A system prompt says what not to do. Such a sentence names harm, and does not ask for it.
_FORBIDS = re.compile(
    r"[^.!?\n]*\b(?:never|not|n't|don't|refuse|decline|avoid|forbidden|prohibited|unsafe|harmful|nicht|niemals|keine?n?"
    r"|ne|jamais|refuse[rz]|nunca|jamás|evit\w+|no)\b[^.!?\n]*[.!?\n]?",
    re.IGNORECASE,
)


# A colon ends a sentence too, where a space follows: "consider this: ...". Not in a time or an address.
_SENTENCE = re.compile(r"(?:[^.!?:\n\u3002\uff01\uff1f]|:(?=\S))*[.!?:\n\u3002\uff01\uff1f]*\s*")
_QUOTED = re.compile(rf"(?<!\w)[\"'\u201c\u2018\u00ab\u201e]([^\n]{{{SHORTEST},}}?)[\"'\u201d\u2019\u00bb\u201c](?!\w)")


class Found(NamedTuple):
    """The highest score of a text, with where it stands."""

    scores: Mapping[str, float]
    evidence: Evidence | None
    text: str = ""  # the piece that has it


class ClassifierRail:
    """A guard's n-gram models, and the probe that they ask where they are unsure. Threads may share one.

    Args:
        probe, cascade, activations: the second step; without all three the words decide alone.
    """

    name = "classifier"
    reach: int | None = REACH
    waits = False

    def __init__(
        self,
        constitution: Constitution,
        scorer: Scorer,
        rules: Mapping[str, Sequence[SideRule]],
        probe: Probe | None = None,
        cascade: Cascade | None = None,
        activations: ActivationReader | None = None,
    ) -> None:
        self.scorer, self.rules = scorer, rules
        self.probe, self.cascade, self.activations = probe, cascade, activations
        self.probed = bool(probe and cascade and activations)
        self._ahead: dict[str, Any] = {}  # what `read_ahead` has read
        self._found: TextCache[Found] = TextCache(CACHED_CHARACTERS)
        self._prompts: TextCache[PromptPart] = TextCache(CACHED_CHARACTERS)
        self._said = functools.lru_cache(maxsize=REMEMBERED)(self._ask)  # a stream is judged many times
        self._actions = {p.id: p.enforced for p in constitution.principles}
        tails = [rule.threshold.tail for side in rules.values() for rule in side if math.isfinite(rule.threshold.tail)]
        self._tail = max(tails, default=0.0)

    @classmethod
    def load(
        cls, folder: Path, constitution: Constitution, *, base: Path | None = None, policy: Path | None = None
    ) -> ClassifierRail:
        """A trained guard's classifier.

        Args:
            base, policy: the model whose activations the probe reads, if it is elsewhere than at training. Where there
                is no such folder the guard works without its probe, at thresholds of their own (`probed`).

        Raises:
            ModelError: the folder holds no guard, a damaged one, one of another format, or that of another
                constitution.
        """
        about = _about(folder)
        if about["constitution_digest"] != constitution.digest:
            raise ModelError(
                f'the guard was trained from another constitution than "{constitution.name}" as it is now',
                where=str(folder),
                expected=f"the digest {constitution.digest[:12]}, found {str(about['constitution_digest'])[:12]}",
                do="train the guard again",
            )
        try:
            layout = Layout.model_validate(about["layout"])
            rules = {side: [SideRule.model_validate(r) for r in of_side] for side, of_side in about["rules"].items()}
            cascade = Cascade.model_validate(about["cascade"]) if about["cascade"] else None
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"guard.json cannot be read: {error}", where=str(folder), do=_AGAIN) from error
        scorer = Scorer.of_arrays(layout, _arrays(folder / "ngrams.safetensors"), folder / "ngrams.safetensors")
        model = base or (Path(about["base"]) if about["base"] else None)
        trained = (policy or Path(about["policy"])) if about["policy"] else None
        if cascade is None or model is None:
            return cls(constitution, scorer, rules)
        if gone := [path for path in (model, trained) if path and not path.exists()]:
            print(f"note: the guard works without its probe, whose model is gone: {gone[0]}", file=sys.stderr)
            return cls(constitution, scorer, rules)
        path = folder / "probe.safetensors"
        probe = Probe.of_arrays(layout.probe_heads, _arrays(path), path)
        activations = ActivationReader(model, trained)
        if list(activations.layers) != about["layers"] or activations.width * len(activations.layers) != len(
            probe.arrays["mean"]
        ):
            raise ModelError("the probe was trained on another model", where=str(model), do=_AGAIN)
        activations.read(["How do I boil an egg?"])  # a model's first pass is slow: not while a request waits
        return cls(constitution, scorer, rules, probe, cascade, activations)

    def settled(self, answer: str, views: Views) -> int:
        """See `verdict.Rail`: half of a short answer, and of a longer one all but the last `REACH` characters."""
        return len(answer) - min(REACH, len(answer) // 2)

    # ── judging ──────────────────────────────────────────────────────────────────────────────────────────────────────
    def check(self, exchange: Exchange, views: dict[str, Views]) -> Sequence[Verdict]:
        """See `verdict.Rail`. The verdicts have the scores of all principles that are judged on this side."""
        said, found = self._request(exchange, views)
        if exchange.answer is not None:
            found = self._answer(said, views.get(ANSWER) or all_views(exchange.answer), found.scores)
            if self.probed:
                found = found._replace(scores=self._on_subject(said, found.scores))
        elif self.probed:
            found = found._replace(scores=self._combined(said, found))
        if not all(math.isfinite(score) for score in found.scores.values()):
            raise ArithmeticError("the classifier gave NaN")
        return list(self._verdicts(exchange.side, found))

    def _combined(self, said: str, found: Found) -> Mapping[str, float]:
        """A request's scores by both steps; the probe is asked only where the words leave it open."""
        assert self.cascade
        if found.scores[HARM] < self.cascade.low:
            return {**found.scores, HARM: float(self.cascade.of_request(found.scores[HARM], None))}
        probed = self._said(tuple(dict.fromkeys(text for text in (found.text, said) if text.strip())))
        scores = {name: score + probed.get(name, 0.0) for name, score in found.scores.items()}
        return {**scores, HARM: float(self.cascade.of_request(found.scores[HARM], probed[HARM]))}

    def _on_subject(self, said: str, scores: Mapping[str, float]) -> Mapping[str, float]:
        """An answer's scores, with the probe's word on each subject on which the words find a breach."""
        found = {rule.about_head for rule in self.rules["output"] if rule.about is not None and rule.over(scores)}
        probed = self._said((said,)) if found else {}
        about = {name: probed[name] if name in found else OFF for name in scores if name.startswith(ABOUT)}
        return {**scores, **about}

    def _ask(self, texts: tuple[str, ...]) -> Mapping[str, float]:
        """What the probe says of a request: the scores of the text with the highest."""
        assert self.probe
        assert self.activations
        known = [self._ahead[text] for text in texts if text in self._ahead]
        complete = len(known) == len(texts)
        scores = np.stack(known) if complete else self.probe.scores(self.activations.read(texts))
        highest = scores[int(np.argmax(scores[:, self.probe.heads.index(HARM)]))]
        return dict(zip(self.probe.heads, highest.tolist(), strict=True))

    def read_ahead(self, requests: Sequence[str]) -> None:
        """Let the probe read many requests at once, several times as fast as one by one; `check` then knows them."""
        if not self.probed:
            return
        assert self.probe
        assert self.cascade
        assert self.activations
        wanted: dict[str, None] = {}
        for request in requests:
            said, found = self._request(Exchange.of(request), {})
            if found.scores[HARM] >= self.cascade.low:
                wanted |= dict.fromkeys(text for text in (found.text, said) if text.strip())
        texts = [text for text in wanted if text not in self._ahead]
        if texts:
            self._ahead.update(zip(texts, self.probe.scores(self.activations.read(texts)), strict=True))

    def _verdicts(self, side: Side, found: Found) -> Iterator[Verdict]:
        rules = self.rules[f"{side}+probe" if self.probed else side]
        shared = [rule for rule in rules if rule.head == HARM]
        top = max(shared, key=lambda rule: found.scores.get(rule.principle, -math.inf), default=None)
        for rule in rules:
            score = found.scores[rule.head]
            chance = float(rule.calibration(score))
            if rule.head == HARM and rule is not top:
                chance *= _share(found.scores, rule.principle, [r.principle for r in shared])
            action = getattr(self._actions[rule.principle], side)
            over = bool(rule.over(found.scores)) and (rule.head != HARM or rule is top)
            yield Verdict(
                rail=self.name,
                principle=rule.principle,
                decision=action if over else "allow",
                score=round(chance, 6),
                threshold=round(float(rule.calibration(rule.threshold.score)), 6),
                evidence=(found.evidence,) if over and found.evidence else (),
            )

    def _request(self, exchange: Exchange, views: dict[str, Views]) -> tuple[str, Found]:
        """What the user said, and the highest score over all texts of a request."""
        best = Found(dict.fromkeys(self.scorer.request.heads, -math.inf), None)
        said: list[str] = []
        for part in exchange.parts:
            of_part = views.get(part.where) or all_views(part.text)
            if part.role == "user":
                said.append(of_part.canonical.text)
            bans = part.role in INSTRUCTIONS
            best = _higher(best, self._text(part.where, f"{bans:d}{part.text}", of_part, bans))
        words = "\n".join(said[-TURNS:])
        if len(said) > 1:
            best = _higher(best, self._text("", f"-{words}", [View(words)])._replace(evidence=None))
        if best.scores[HARM] == -math.inf:
            best = Found(self.scorer.of_request(""), None)
        return words, best

    def _text(self, where: str, key: str, views: Sequence[View], bans: bool = False) -> Found:
        """The highest score of a text, remembered for its next turn under a key; bans: what it forbids is left out."""
        found = self._found.get(key)
        if found is None:
            found = self._highest([_without_bans(view) for view in views] if bans else views)
            self._found.put(key, found)
        if found.evidence is None or found.evidence.where == where:
            return found
        return found._replace(evidence=found.evidence.model_copy(update={"where": where}))

    def _highest(self, views: Sequence[View]) -> Found:
        best = Found(dict.fromkeys(self.scorer.request.heads, -math.inf), None)
        for text, view in {view.text.casefold().strip(): view for view in reversed(views)}.items():
            if not text:
                continue
            decoded = [run for run in view.decoded() if run[1] - run[0] >= SHORTEST]
            places = [place for place in pieces(view.text) if place not in decoded]
            loss = self._tail * math.log(max(1.0, len(places) / FREE))
            scored = self.scorer.of_pieces(view.text, [*places, *decoded])
            for (start, end), scores in zip([*places, *decoded], scored, strict=True):
                if (start, end) != (0, len(view.text)) and (start, end) not in decoded:
                    scores[HARM] -= loss  # a sentence is one chance more; the whole, and what was hidden, are none
                if scores[HARM] > best.scores[HARM]:
                    origin = view.span(start, end)
                    evidence = Evidence(where="", start=origin[0], end=origin[1], views=view.trace)
                    best = Found(scores, evidence, view.text[start:end])
        return best

    def _answer(self, prompt: str, views: Views, asked: Mapping[str, float]) -> Found:
        """The highest score of each head over the answer's views.

        Args:
            asked: the scores of the request by its words.
        """
        best: dict[str, float] = {}
        evidence: Evidence | None = None
        of_prompt = self._prompts.get(prompt)
        if of_prompt is None:
            of_prompt = self.scorer.of_prompt(prompt)
            self._prompts.put(prompt, of_prompt)
        for text, view in {view.text.casefold().strip(): view for view in reversed(views)}.items():
            if not text and best:
                continue
            scores = self.scorer.of_exchange(prompt, view.text, asked, of_prompt)
            if not best or scores[HARM] > best[HARM]:
                start, end = view.span(0, len(view.text))
                evidence = Evidence(where=ANSWER, start=start, end=end, views=view.trace)
            best = {name: max(score, best.get(name, -math.inf)) for name, score in scores.items()}
        return Found(best, evidence)


def token_probe(folder: Path) -> TokenProbe | None:
    """The part of a guard's probe that reads along while a model writes; None for a guard without one.

    Raises:
        ModelError: the folder holds no guard, or a damaged one.
    """
    about, path = _about(folder), folder / "probe.safetensors"
    if not about.get("cascade"):
        return None
    layers = about["layers"]
    probe = Probe.of_arrays(Layout.model_validate(about["layout"]).probe_heads, _arrays(path), path)
    weight, bias = probe.arrays["token.weight"], float(probe.arrays["token.bias"][0])
    return TokenProbe(layers[len(layers) // 2] - 1, weight, bias, float(about["token_threshold"]))


def token_rail(folder: Path) -> tuple[TokenRail, Path, Path | None] | None:
    """The rail of `token_probe`, with the base model that it reads and what was trained on it.

    A high score is a breach of a principle that blocks requests: the first one that blocks answers too is named.

    Raises:
        ModelError: the folder holds no guard, or a damaged one.
    """
    probe, about = token_probe(folder), _about(folder)
    if probe is None or not about["base"]:
        return None
    shared = {rule["principle"] for rule in about["rules"]["input"] if rule["head"] == HARM}
    own = [p for p in constitution_of(folder).principles if p.id in shared]
    first = max(own, key=lambda principle: STRICTNESS[principle.enforced.output])
    policy = Path(about["policy"]) if about["policy"] else None
    return TokenRail(probe, first.id, first.enforced.output), Path(about["base"]), policy


def constitution_of(folder: Path) -> Constitution:
    """The constitution that a guard was trained from.

    Raises:
        ModelError: the folder holds no guard, or a damaged one.
    """
    about = _about(folder)
    try:
        found = Constitution.model_validate(about["constitution"])
    except (KeyError, ValueError) as error:
        raise ModelError(
            f"its constitution cannot be read: {error}", where=str(folder / "guard.json"), do=_AGAIN
        ) from error
    if found.digest != about["constitution_digest"]:
        raise ModelError("its constitution was changed", where=str(folder / "guard.json"), do=_AGAIN)
    return found


def pieces(text: str) -> Iterator[tuple[int, int]]:
    """Beginnings and ends of what is read of a text: all of it, and of a longer one its sentences and quotations.

    Short sentences are read with the next one, and a long one in parts.
    """
    yield from dict.fromkeys(_pieces(text))


def _pieces(text: str) -> Iterator[tuple[int, int]]:
    yield 0, len(text)
    for quoted in _QUOTED.finditer(text):
        yield quoted.span(1)
    if len(text) <= WHOLE:
        return
    start = 0
    for sentence in _SENTENCE.finditer(text):
        while sentence.end() - start > LONGEST:
            yield start, start + LONGEST
            start += LONGEST // 2
        if sentence.end() - start >= SHORTEST:
            yield start, sentence.end()
            start = sentence.end()
    if start < len(text):
        yield start, len(text)


_AGAIN = "train the guard again"


def _about(folder: Path) -> dict[str, Any]:
    path = folder / "guard.json"
    if not path.exists():
        raise ModelError("no trained guard", where=str(folder), expected="a folder with guard.json")
    try:
        about = read_json(path)
    except ValueError as error:
        raise ModelError(f"cannot be read: {error}", where=str(path), do=_AGAIN) from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        found = about.get("format") if isinstance(about, dict) else None
        raise ModelError(f"format {found!r}", where=str(path), expected=f"format {FORMAT}", do=_AGAIN)
    models = {name: str(folder / about[name]) if about.get(name) else None for name in ("base", "policy")}
    return about | models


def _arrays(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot be read: {error}", where=str(path), do=_AGAIN) from error


def _without_bans(view: View) -> View:
    """A view of the same length without the sentences that say what not to do."""
    return replace(view, text=_FORBIDS.sub(lambda found: " " * len(found[0]), view.text))


def _higher(first: Found, second: Found) -> Found:
    return second if second.scores[HARM] > first.scores[HARM] else first


def _share(scores: Mapping[str, float], id: str, ids: Sequence[str]) -> float:
    highest = max(scores[other] for other in ids)
    weights = {other: math.exp(scores[other] - highest) for other in ids}
    return weights[id] / sum(weights.values())
