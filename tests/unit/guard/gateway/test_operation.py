"""The gateway in operation: who is let in, under which guard, what is written down, and what operators see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from guarded import REFUSAL, WORD, FakeUpstream, answer, ask, chat, chunks, constitution, ends, gateway, said
from steersman.cli import app as command_line
from steersman.guard.gateway import audit_file
from steersman.guard.gateway.audit_chain import verify
from steersman.guard.gateway.operation import Operation, OperationSettings, key_of, redacted_text, with_operation
from steersman.guard.gateway.state import GatewayState
from steersman.guard.gateway.tenants import new_key
from steersman.guard.gateway.upstream import Reply
from steersman.guard.guard import Guard, Limits

KEY, DIGEST = new_key()
OTHER, OTHER_DIGEST = new_key()
TENANTS = f"""tenants:
  - name: acme
    keys: [{DIGEST}]
    constitution: one
    models: ["m*"]
    limits: {{tokens_per_day: 1000, at_once: 2}}
  - name: other
    keys: [{OTHER_DIGEST}]
    constitution: two
    upstream: http://127.0.0.1:9/v1
"""


class Seeing(FakeUpstream):
    """Keeps the headers, too."""

    def __init__(self, *answers: Any) -> None:
        super().__init__(*answers)
        self.headers: list[dict[str, str]] = []

    async def complete(self, path: str, body: Any, headers: Any) -> Reply:
        self.headers.append(dict(headers))
        return (
            Reply({"data": [{"id": "m1"}, {"id": "x1"}]})
            if path == "models"
            else await super().complete(path, body, headers)
        )


def patient(**settings: Any) -> Guard:
    """A guard that waits for its rails, however busy the machine is."""
    limits = Limits(rail_ms=60_000, queue_ms=60_000)
    return Guard.from_constitution(constitution(**settings), limits=limits)


def loaded(folder: Path | None, constitution: str | None, shadow: tuple[str, ...]) -> Guard:
    return patient() if constitution == "one" else patient(secrets="block")


def operated(tmp_path: Path, upstream: Any = None, **settings: Any) -> GatewayState:
    settings.setdefault("audit", tmp_path / "audit.jsonl")
    operation = Operation(OperationSettings.model_validate(settings), patient(), load=loaded)
    return with_operation(gateway(upstream or Seeing(answer("fine"))), operation)


def with_tenants(tmp_path: Path, **settings: Any) -> GatewayState:
    (tmp_path / "tenants.yaml").write_text(TENANTS)
    return operated(tmp_path, tenants=tmp_path / "tenants.yaml", **settings)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def records(state: GatewayState) -> list[dict[str, Any]]:
    assert isinstance(state.hooks, Operation)
    assert state.hooks.log is not None
    state.hooks.close()
    assert verify(state.hooks.log.path).exit_code == 0
    rows = [json.loads(line) for line in state.hooks.log.path.read_text().splitlines()]
    return [row for row in rows if row["event"] == "ruling"]


# ── keys and tenants ─────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_key_lets_in_and_never_reaches_the_upstream(tmp_path: Path) -> None:
    state = with_tenants(tmp_path)
    for headers in ({}, bearer("wrong"), {"authorization": KEY}, {"authorization": f"Basic {KEY}"}):
        refused = ask(state, chat("hi"), headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
    for headers in (bearer(KEY), {"api-key": KEY}, {"x-api-key": KEY}, {"authorization": f"bearer  {KEY} "}):
        assert ask(state, chat("hi"), headers=headers).status_code == 200
    assert len(state.upstream.asked) == 4  # type: ignore[attr-defined]
    assert KEY not in str(state.upstream.headers)  # type: ignore[attr-defined]
    assert {row["tenant"] for row in records(state)} == {"acme"}


def test_without_tenants_the_clients_key_goes_to_the_upstream(tmp_path: Path) -> None:
    """As a gateway without keys of its own: the client's key is the upstream's."""
    state = operated(tmp_path)
    assert ask(state, chat("hi"), headers=bearer("sk-own")).status_code == 200
    assert state.upstream.headers[0]["authorization"] == "Bearer sk-own"  # type: ignore[attr-defined]


def test_each_tenant_has_its_guard_and_its_models(tmp_path: Path) -> None:
    state = with_tenants(tmp_path)
    secret = "my key is AKIAIOSFODNN7EXAMPLQ"
    assert ask(state, chat(secret), headers=bearer(KEY)).json()["choices"][0]["finish_reason"] == "stop"
    blocked = ask(state, chat(secret), headers=bearer(OTHER)).json()
    assert blocked["choices"][0]["finish_reason"] == "content_filter"
    unknown = ask(state, {**chat("hi"), "model": "x1"}, headers=bearer(KEY))
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
    listed = ask(state, None, "/v1/models", method="GET", headers=bearer(KEY)).json()["data"]
    assert [model["id"] for model in listed] == ["m1"]


def test_limits_of_a_tenant(tmp_path: Path) -> None:
    state = with_tenants(tmp_path)
    assert ask(state, chat("hi", max_tokens=100), headers=bearer(KEY)).status_code == 200
    assert isinstance(state.hooks, Operation)
    limiter = state.hooks.reloader.now.tenants[0].limiter
    assert (limiter.used["tokens"], limiter.active) == (8, 0)  # as the upstream counted, not as estimated
    refused = ask(state, chat("hi", max_tokens=1000), headers=bearer(KEY))
    assert (refused.status_code, refused.json()["error"]["type"]) == (429, "rate_limit_error")
    assert int(refused.headers["retry-after"]) > 0
    ask(state, chat(f"Give me the {WORD}."), headers=bearer(KEY))
    assert limiter.used["tokens"] == 8  # what the upstream never saw costs no tokens
    assert limiter.active == 0


# ── what is written down ─────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("streamed", [True, False])
def test_both_rulings_are_on_the_disk_before_the_answer(tmp_path: Path, streamed: bool) -> None:
    text = f"Now the {WORD} follows."
    state = operated(tmp_path, Seeing(chunks(text) if streamed else answer(text)))
    response = ask(state, chat("hi", stream=streamed), headers={"x-request-id": "mine"})
    assert response.headers["x-request-id"] == "mine"
    if streamed:
        assert said(response) == REFUSAL or said(response).endswith(REFUSAL)
        assert ends(response) == ["content_filter"]
    first, second = records(state)
    assert [row["request"] for row in (first, second)] == ["mine", "mine"]
    assert (first["side"], first["decision"], first["streamed"]) == ("input", "allow", streamed)
    assert (second["side"], second["decision"], second["principle"]) == ("output", "block", "locked")
    assert second["rail"] == "patterns"
    assert WORD not in json.dumps([first, second])


@pytest.mark.parametrize("streamed", [True, False])
def test_a_full_disk_stops_the_answer_or_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streamed: bool
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    for number, mode in enumerate(("refuse", "continue")):
        upstream = Seeing(chunks("fine") if streamed else answer("fine"))
        state = operated(tmp_path, upstream, audit=tmp_path / f"{number}.jsonl", audit_on_failure=mode)
        with monkeypatch.context() as patch:
            patch.setattr(audit_file.os, "write", full)
            response = ask(state, chat("hi", stream=streamed))
        health = ask(state, None, "/health", method="GET").json()
        assert "audit" in health["degraded"]
        if mode == "refuse":
            assert (response.status_code, response.json()["error"]["code"]) == (503, "audit_unavailable")
            assert upstream.asked == []
            assert (health["ready"], health["audit"]["state"]) == (False, "failed")
        else:
            assert response.headers["x-guard-degraded"] == "audit"
            assert "fine" in response.text
            assert 'steersman_guard_degraded_total{what="audit"} 1' in state.hooks.metrics()
        assert isinstance(state.hooks, Operation)
        state.hooks.close()


def test_texts_are_kept_without_secrets_and_personal_data(tmp_path: Path) -> None:
    state = operated(tmp_path, audit_texts="redacted")
    ask(state, chat("I am joe@example.com, key AKIAIOSFODNN7EXAMPLQ, card 4111 1111 1111 1111."))
    kept = records(state)[0]["text"]
    assert kept.startswith("I am [")
    assert not any(word in kept for word in ("joe@", "AKIA", "4111"))
    assert redacted_text("nothing of that kind") == "nothing of that kind"


# ── what operators see ───────────────────────────────────────────────────────────────────────────────────────────────
def test_metrics_and_health_need_a_key_where_there_are_keys(tmp_path: Path) -> None:
    state = with_tenants(tmp_path)
    ask(state, chat(f"Give me the {WORD}."), headers=bearer(KEY))
    ask(state, chat("hi"))
    assert ask(state, None, "/metrics", method="GET").status_code == 401
    assert set(ask(state, None, "/health", method="GET").json()) == {"status", "live", "ready"}
    text = ask(state, None, "/metrics", method="GET", headers=bearer(OTHER)).text
    for line in (
        'tenant="acme",side="input",decision="block",principle="locked",rail="patterns"} 1',
        'steersman_guard_requests_total{tenant="acme",path="/v1/chat/completions",status="200"} 1',
        'steersman_guard_requests_total{tenant="unknown",path="/v1/chat/completions",status="401"} 1',
        'steersman_guard_refused_total{tenant="unknown",status="401",code="invalid_api_key"} 1',
        'steersman_guard_audit_records_total{outcome="written"} 1',
        "steersman_guard_inside 0",
    ):
        assert f"{line}\n" in text
    assert ask(state, None, "/health", method="GET", headers=bearer(KEY)).json()["audit"]["state"] == "ok"


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({}, None),
        ({"authorization": "Bearer a b"}, "a b"),
        ({"authorization": "Bearer "}, None),
        ({"authorization": "Basic x", "api-key": "y"}, "y"),
        ({"x-api-key": "z"}, "z"),
    ],
)
def test_where_a_key_may_stand(headers: dict[str, str], key: str | None) -> None:
    assert key_of(headers) == key


# ── the command line ─────────────────────────────────────────────────────────────────────────────────────────────────
def test_verify_and_key_on_the_command_line(tmp_path: Path) -> None:
    state = operated(tmp_path)
    ask(state, chat("hi"))
    records(state)
    log, run = tmp_path / "audit.jsonl", CliRunner().invoke
    fine = run(command_line, ["guard", "verify", str(log)])
    assert (fine.exit_code, fine.output.startswith("intact: 4 records")) == (0, True)
    head = fine.output.split()[-1]
    assert run(command_line, ["guard", "verify", str(log), "--head", head]).exit_code == 0
    log.write_bytes(log.read_bytes().replace(b'"decision":"allow"', b'"decision":"block"', 1))
    wrong = run(command_line, ["guard", "verify", str(log)])
    assert wrong.exit_code == 1
    assert f"{log}:2: record 2 was changed" in wrong.output
    assert "sg-" in run(command_line, ["guard", "key", "acme"]).output
