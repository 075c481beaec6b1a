"""What the gateway answers without the upstream: moderations, checks, and its health.

``/v1/moderations`` has the constitution's principles as categories, beside the thirteen names that clients know. Such a
name is flagged where a principle that speaks of it is; the others are false with score 0: the constitution says nothing
about them. ``/v1/checks`` gives the whole ruling on a conversation, and on an answer to it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from steersman.constitution.document import Constitution, Principle
from steersman.guard.gateway import blocks
from steersman.guard.gateway.chat_api import BadRequest, read_chat, read_inputs
from steersman.guard.gateway.state import Call, GatewayState
from steersman.guard.refusals import refusal_of
from steersman.guard.spans import redacted
from steersman.guard.streaming import stricter
from steersman.guard.verdict import Exchange, Part, Ruling, Verdict

# The standard categories, each with words by which a principle's id and title speak of it.
STANDARD = {
    "harassment": r"harass|bully",
    "harassment/threatening": r"threat",
    "hate": r"hate|hatred|discriminat|slur",
    "hate/threatening": r"hateful threat",
    "illicit": r"illicit|illegal|crime|harm\b|dangerous",
    "illicit/violent": r"weapon|explosive|terror",
    "self-harm": r"self-harm|suicid|distress",
    "self-harm/intent": r"suicid|distress",
    "self-harm/instructions": r"self-harm instruction",
    "sexual": r"sexual",
    "sexual/minors": r"minors|child",
    "violence": r"violen",
    "violence/graphic": r"gore|graphic violence",
}
KINDS = ("text",)  # of input that is applied to categories


def standard_categories(principle: Principle) -> list[str]:
    """The standard names that a principle speaks of, by its id and title."""
    words = f"{principle.id} {principle.title}".lower()
    return [name for name, pattern in STANDARD.items() if re.search(pattern, words)]


async def moderations(state: GatewayState, call: Call, body: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to ``/v1/moderations``; every input is judged as a request and as an answer."""
    inputs = read_inputs(dict(body))
    model = body.get("model")
    if not (model is None or isinstance(model, str)):
        raise BadRequest("'model' is no name of a model", param="model")
    results = []
    for exchange in inputs:
        rulings = [await state.judge(call, exchange)]
        text = "\n".join(part.text for part in exchange.parts)
        if text:
            rulings.append(await state.judge(call, Exchange((), answer=text)))
        results.append(_moderation(call.guard.constitution, rulings))
    return {"id": f"modr-{call.id}", "model": model or call.guard.constitution.name, "results": results}


def _moderation(constitution: Constitution, rulings: list[Ruling]) -> dict[str, Any]:
    flags: dict[str, bool] = dict.fromkeys(STANDARD, False)
    flags |= {principle.id: False for principle in constitution.principles}
    scores: dict[str, float] = dict.fromkeys(flags, 0.0)
    standing = {principle.id: standard_categories(principle) for principle in constitution.principles}
    for ruling in rulings:
        for verdict in ruling.verdicts:
            if verdict.rail in ruling.shadowed:
                continue
            flagged = verdict.decision != "allow"
            score = verdict.score if verdict.score is not None else float(flagged)
            for name in (verdict.principle, *standing.get(verdict.principle, ())):
                flags[name] = flags.get(name, False) or flagged
                scores[name] = max(scores.get(name, 0.0), score)
    return {
        "flagged": any(flags.values()),
        "categories": flags,
        "category_scores": scores,
        "category_applied_input_types": {name: list(KINDS) for name in flags},
    }


async def checks(state: GatewayState, call: Call, body: dict[str, Any]) -> dict[str, Any]:
    """The answer to ``/v1/checks``: ``{messages, answer?}`` gives the ruling on each side."""
    answer = body.pop("answer", None)
    if not (answer is None or isinstance(answer, str)):
        raise BadRequest("'answer' is no text", param="answer")
    request = read_chat(body, trust_system=state.settings.trust_system, model=False)
    ruling = await state.judge(call, request.exchange)
    found = {"input": side_json(ruling, request.exchange, call.guard.constitution), "output": None}
    if answer is not None:
        exchange = Exchange(request.exchange.parts, answer=answer)
        behind = await state.judge(call, exchange)
        found["output"] = side_json(behind, exchange, call.guard.constitution)
        ruling = stricter(ruling, behind)
    status = "modified" if ruling.decision == "redact" else "blocked" if ruling.stops else "passed"
    return {
        "id": call.id,
        "object": "guard.check",
        "status": status,
        "decision": ruling.decision,
        "principle": ruling.verdict.principle if ruling.verdict else None,
        "rail": ruling.verdict.rail if ruling.verdict else None,
        "constitution": {"name": call.guard.constitution.name, "digest": call.guard.constitution.digest},
        **found,
    }


def side_json(ruling: Ruling, exchange: Exchange, constitution: Constitution) -> dict[str, Any]:
    """A ruling as JSON values, with the text that would be said or passed on in the place of what it stops."""
    texts = exchange.parts if exchange.answer is None else (Part("answer", "assistant", exchange.answer),)
    changed: dict[str, str] = {}
    if ruling.decision == "redact":
        found = [(part, redacted(part.text, ruling, part.where)) for part in texts]
        changed = {part.where: text for part, text in found if text is not None and text != part.text}
    return {
        "decision": ruling.decision,
        "stops": ruling.stops,
        "principle": ruling.verdict.principle if ruling.verdict else None,
        "rail": ruling.verdict.rail if ruling.verdict else None,
        "refusal": refusal_of(ruling, exchange, constitution) if ruling.stops and not changed else None,
        "redacted": changed,
        "verdicts": [blocks.verdict_json(verdict, verdict.rail in ruling.shadowed) for verdict in ruling.verdicts],
        "shadowed": list(ruling.shadowed),
        "not_run": [{"rail": rail, "why": why} for rail, why in ruling.not_run],
    }


def verdict_line(verdict: Verdict) -> str:
    """A verdict for a terminal."""
    score = "" if verdict.score is None else f", score {verdict.score:.3f}"
    places = ", ".join(
        f"{found.where}[{found.start}:{found.end}]" + (f" ({' > '.join(found.views)})" if found.views else "")
        for found in verdict.evidence[:5]
    )
    note = f": {verdict.note}" if verdict.note else ""
    return f"{verdict.decision:9} {verdict.principle} by {verdict.rail}{score}{f' at {places}' if places else ''}{note}"


def health(state: GatewayState) -> dict[str, Any]:
    """The answer to ``/health``: what is served, and what does not work."""
    more = state.hooks.health()
    degraded = [*more.pop("degraded", ()), *sorted(getattr(state.guard, "degraded", {}))]
    if state.last_upstream_error:
        degraded.append("upstream")
    constitution = state.guard.constitution
    return {
        "status": "degraded" if degraded else "ok",
        "live": True,
        "ready": True,
        "degraded": degraded,
        "constitution": {"name": constitution.name, "version": constitution.version, "digest": constitution.digest},
        "reach": state.guard.reach,
        "upstream": {"last_error": state.last_upstream_error or None},
        **more,
    }
