"""`steersman guard`: stand before a model, or judge one text."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steersman.cli.options import Json, print_json

if TYPE_CHECKING:
    from steersman.guard.gateway.operation import OperationSettings
    from steersman.guard.gateway.state import GatewaySettings
    from steersman.guard.gateway.upstream import Upstream
    from steersman.guard.guard import Guard
    from steersman.guard.verdict import Rail

guard_app = typer.Typer(help="Enforce a constitution on what goes into a model and comes out.", no_args_is_help=True)
Source = Annotated[
    str,
    typer.Argument(metavar="GUARD", help="Run or folder with a trained guard, or a constitution: its file or name."),
]
KEY_VARIABLE = "UPSTREAM_API_KEY"
STOPPED = 1  # the exit code of `guard check` for what the guard stops


@guard_app.command("serve")
def guard_serve(
    source: Source = "assistant",
    upstream: Annotated[
        str, typer.Option(help="Address of the model, such as http://127.0.0.1:8000/v1; or a run, served here too.")
    ] = "",
    key_variable: Annotated[
        str | None, typer.Option(help=f"Environment variable with the upstream's key. Default: {KEY_VARIABLE}, if set.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes any free one.")] = 4000,
    url: Annotated[str | None, typer.Option(help="Public URL, where a proxy stands in front of this server.")] = None,
    blocks: Annotated[str, typer.Option(help="What a stopped request gets: message, or error (a 400).")] = "message",
    shadow: Annotated[list[str] | None, typer.Option(help="Rail that only logs; repeat for several.")] = None,
    tenants: Annotated[str | None, typer.Option(help="File of tenants: keys, limits, and a guard for each.")] = None,
    audit: Annotated[str | None, typer.Option(help="File of the audit log.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Setting as KEY=VALUE, such as body_bytes=1000000; repeat for several."),
    ] = None,
) -> None:
    """Stand before an OpenAI-compatible model: judge every request and every answer."""
    from steersman.errors import UserError
    from steersman.guard.gateway.app import create_app
    from steersman.guard.gateway.operation import Operation, with_operation
    from steersman.guard.gateway.state import GatewayState
    from steersman.guard.gateway.tenants import check_reachable
    from steersman.guard.gateway.upstream import HttpUpstream
    from steersman.http_server import Address, listen, serve, warning

    if not upstream:
        raise UserError(
            "no model is named that the guard could stand before",
            where="--upstream",
            expected="the address of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1, or a run's folder",
        )
    settings, operated = _settings(set_ or [], blocks=blocks, tenants=tenants, audit=audit)
    key = _key(key_variable)
    behind, rails = _behind(upstream, key, source)
    address = Address(host=host, port=port, url=url)
    operation = Operation(
        operated,
        _warm(load_guard(source, shadow or [], rails)),
        load=_guard_of_tenant,
        make_upstream=lambda base_url, variable: HttpUpstream(base_url, _key(variable) if variable else None),
    )
    check_reachable(address, operation.reloader.now)
    state = with_operation(GatewayState(operation.first_guard, behind, settings), operation)
    names = address.names() if not address.loopback else ("127.0.0.1", "localhost", "[::1]")
    bound = listen(address)
    if warned := warning(address, "Keys keep strangers out"):
        print(f"warning: {warned}", file=sys.stderr)
    link = address.link(bound.getsockname()[1])
    print(f"{state.guard.constitution.title} stands before {upstream}: {link}/v1", flush=True)
    try:
        serve(create_app(state, names), bound, ended="The guard has stopped.")
    finally:
        if operation.log is not None:
            print(
                f"audit log {operation.log.path} ends with {operation.log.head}; keep this elsewhere", file=sys.stderr
            )


@guard_app.command("check")
def guard_check(
    text: Annotated[str, typer.Argument(help="A request to a model; - reads it from standard input.")],
    answer: Annotated[str | None, typer.Option(help="The model's answer, judged as the reply to the request.")] = None,
    source: Annotated[
        str, typer.Option("--guard", metavar="GUARD", help="Run, folder or constitution. Default: assistant.")
    ] = "assistant",
    shadow: Annotated[list[str] | None, typer.Option(help="Rail that only logs; repeat for several.")] = None,
    json: Json = False,
) -> None:
    """Judge one request, and an answer to it. Exit code 0: both may pass; 1: one is stopped or changed."""
    from steersman.guard.gateway.local import side_json, verdict_line
    from steersman.guard.streaming import judged, stricter
    from steersman.guard.verdict import Exchange, Part

    request = _standard_input() if text == "-" else text
    guard = _warm(load_guard(source, shadow or []))
    parts = (Part("messages[0].content", "user", request),)
    exchanges = [Exchange(parts), *([Exchange(parts, answer=answer)] if answer is not None else [])]
    rulings = [judged(guard, exchange) for exchange in exchanges]
    strictest = rulings[0] if len(rulings) == 1 else stricter(*rulings)
    if json:
        sides: dict[str, Any] = {"decision": strictest.decision, "stops": strictest.stops}
        for exchange, ruling in zip(exchanges, rulings, strict=True):
            sides[exchange.side] = side_json(ruling, exchange, guard.constitution)
        print_json(sides)
    else:
        for exchange, ruling in zip(exchanges, rulings, strict=True):
            typer.echo(f"{exchange.side}: {ruling.decision}")
            for verdict in ruling.verdicts:
                if verdict.decision != "allow":
                    typer.echo("  " + verdict_line(verdict) + (" (shadow)" if verdict.rail in ruling.shadowed else ""))
    guard.close()
    if strictest.stops:
        raise typer.Exit(STOPPED)


@guard_app.command("verify")
def guard_verify(
    log: Annotated[Path, typer.Argument(metavar="LOG", help="The audit log: the file that --audit named.")],
    key: Annotated[Path | None, typer.Option(help="File with the log's key. Default: LOG.key.")] = None,
    head: Annotated[
        list[str] | None,
        typer.Option(help="SEQ:DIGEST that was kept elsewhere, and that the log must hold; repeat for several."),
    ] = None,
) -> None:
    """Find any changed, missing, doubled, moved or cut record of an audit log; exit code 1 if there is one."""
    from steersman.guard.gateway.audit_chain import parse_head, verify

    report = verify(log, key=key, heads=[parse_head(text) for text in head or []])
    typer.echo(str(report))
    raise typer.Exit(report.exit_code)


@guard_app.command("key")
def guard_key(name: Annotated[str, typer.Argument(help="The tenant whose key it will be.")]) -> None:
    """Make a key: it is shown once, with the line for the file of tenants, which holds its digest alone."""
    from steersman.guard.gateway.tenants import key_lines

    typer.echo(key_lines(name))


def _standard_input() -> str:
    """The text of standard input.

    Raises:
        UserError: it is not UTF-8.
    """
    from steersman.errors import UserError

    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"byte {error.start + 1} is not UTF-8", where="standard input", expected="a text in UTF-8"
        ) from None


def _guard_of_tenant(folder: Path | None, constitution: str | None, shadow: tuple[str, ...]) -> Guard:
    return _warm(load_guard(str(folder if folder is not None else constitution), list(shadow)))


def _warm(guard: Guard) -> Guard:
    """The guard, ready to judge; what it lacks is told now, and so is what does not work in it and will block."""
    for rail, why in guard.off.items():
        print(f"note: no {rail} rail: {why}", file=sys.stderr)
    for verdict in guard.warm().verdicts:
        if verdict.decision == "failed":
            print(f"warning: the rail {verdict.rail} does not work: {verdict.note}", file=sys.stderr)
    return guard


def load_guard(source: str, shadow: list[str], rails: Sequence[Rail] = ()) -> Guard:
    """The guard that a word of the command line names: of a run, of a folder, or of a constitution.

    Args:
        rails: further ones.

    Raises:
        UserError: it names none, or a rail that the guard lacks.
    """
    from steersman.constitution.document import load
    from steersman.errors import UserError, closest
    from steersman.guard.guard import Guard

    if folder := _trained(source):
        guard = Guard.load(folder, shadow=shadow, rails=rails)
    elif Path(source).is_dir():
        raise UserError(
            "no trained guard is in this folder", where=source, expected="guard.json, as the stage `guard` writes it"
        )
    else:
        guard = Guard.from_constitution(load(source), shadow=shadow, rails=rails)
    known = [rail.name for rail in guard.rails]
    for name in shadow:
        if name not in known:
            raise UserError(f'the guard has no rail "{name}"', where="--shadow", do=closest(name, known))
    return guard


def _trained(source: str) -> Path | None:
    """The folder of a trained guard: a run's, or this one."""
    folders = (Path(source), Path(source) / "guard")
    return next((folder for folder in folders if (folder / "guard.json").is_file()), None)


def _settings(given: list[str], **flags: Any) -> tuple[GatewaySettings, OperationSettings]:
    """The gateway's settings and those of its operation; errors name the key.

    Args:
        flags: options of their own; None: not given.
    """
    from pydantic import ValidationError

    from steersman.errors import UserError, closest
    from steersman.guard.gateway.operation import OperationSettings
    from steersman.guard.gateway.state import GatewaySettings

    fields = [name for name in (GatewaySettings.model_fields | OperationSettings.model_fields) if name not in flags]
    values: dict[str, Any] = {name: value for name, value in flags.items() if value is not None}
    for pair in given:
        key, mark, value = pair.partition("=")
        if not mark or key not in fields:
            raise UserError(f"{pair[:60]!r} is no setting", where="--set", do=closest(key, fields))
        values[key] = tuple(filter(None, value.split(","))) if key == "models" else value
    own = {name: value for name, value in values.items() if name in GatewaySettings.model_fields}
    rest = {name: value for name, value in values.items() if name not in own}
    try:
        return GatewaySettings.model_validate(own), OperationSettings.model_validate(rest)
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        name = str(wrong["loc"][0])
        where = f"--{name}" if name in flags else f"--set {name}"
        raise UserError(f"found {str(wrong['input'])[:40]!r}: {wrong['msg'].lower()}", where=where) from None


def _behind(upstream: str, key: str | None, source: str) -> tuple[Upstream, Sequence[Rail]]:
    """The model behind the guard: an address, or a run, whose models are served and read along in this process."""
    from steersman.guard.gateway.upstream import HttpUpstream, is_encrypted_or_local

    if (Path(upstream) / "run.json").is_file():
        from steersman.cli.in_process import upstream_of_run

        return upstream_of_run(upstream, _trained(source))
    if key and not is_encrypted_or_local(upstream):
        print(f"warning: {upstream} has no TLS: others on the network can read texts and the key", file=sys.stderr)
    return HttpUpstream(upstream, key), ()


def _key(variable: str | None) -> str | None:
    """The upstream's key from the environment.

    Raises:
        UserError: the variable that was named is not set, or holds no key.
    """
    import os

    from steersman.errors import UserError

    value = os.environ.get(variable or KEY_VARIABLE, "").strip()
    if (variable and not value) or not value.isascii() or (value and not value.isprintable()):
        raise UserError(
            f"the environment variable {(variable or KEY_VARIABLE)[:60]} holds no key",
            where="--key-variable",
            expected="the name of a variable that holds the upstream's key",
            do="export it in the shell that runs this; a key is never written on the command line",
        )
    return value or None
