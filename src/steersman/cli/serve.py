"""`steersman serve`: the models of a run, or any model, behind an OpenAI-compatible API."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steersman.cli.options import Deployment
from steersman.errors import UserError

if TYPE_CHECKING:
    from steersman.runs import OpenRun
    from steersman.serving.engine import Engine, EngineConfig
    from steersman.serving.probing import Probe

KEYS = "STEERSMAN_API_KEYS"  # names the environment variable
RAW, ALIGNED = "raw", "aligned"


def serve(
    what: Annotated[
        str, typer.Argument(metavar="RUN", help="Folder of a run; or a model: a folder, a Hub id, a GGUF file.")
    ],
    model: Annotated[
        list[str] | None,
        typer.Option(help="Model of the run: raw, aligned, a stage such as sft; repeat for several. Default: all."),
    ] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="On a CPU: int8 weights, compact vocabulary. Other probabilities, faster.")
    ] = False,
    rows: Annotated[int, typer.Option(min=1, help="Answers that are decoded at once.")] = 32,
    queue: Annotated[int, typer.Option(min=1, help="Answers that may wait; what comes beyond gets 429.")] = 128,
    context: Annotated[int, typer.Option(min=32, help="Most tokens of a prompt with its answer.")] = 4096,
    cache_gb: Annotated[float, typer.Option(min=0.01, help="Memory for keys and values, in GB.")] = 4.0,
    keys_file: Annotated[
        Path | None, typer.Option(help=f"File with one API key a line. Default: ${KEYS}, separated by commas.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; other than loopback needs keys.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes any free one.")] = 8000,
    url: Annotated[str | None, typer.Option(help="Public URL of a proxy in front of the server.")] = None,
    deployment: Deployment = None,
) -> None:
    """Serve a run's models, or any model, behind an OpenAI-compatible API."""
    from steersman import http_server
    from steersman.serving.app import App
    from steersman.serving.engine import EngineConfig
    from steersman.serving.service import Service

    address = http_server.Address(host=host, port=port, url=url)
    keys = api_keys(keys_file, address)
    told = system_texts(what, deployment) if deployment else None
    with http_server.listen(address) as bound:
        config = EngineConfig(rows=rows, queue=queue, context=context, cache_gb=cache_gb)
        engine = load_engine(what, model or (), config, fast=fast).start()
        app = App(Service(engine, told), keys, address.names() if address.loopback else None)
        if said := http_server.warning(address, "Whoever has a key can use the models"):
            print(f"warning: {said}", file=sys.stderr)
        print(f"{address.link(bound.getsockname()[1])}/v1 serves {', '.join(engine.models)}. Ctrl-C ends it.")
        sys.stdout.flush()
        http_server.serve(app.asgi, bound, ended="The server has ended.")


def api_keys(file: Path | None, address: object) -> list[str]:
    """The keys that clients send.

    Raises:
        UserError: there are none, and other machines can reach the server.
    """
    from steersman.http_server import Address

    assert isinstance(address, Address)
    lines = file.read_text(encoding="utf-8").splitlines() if file else os.environ.get(KEYS, "").split(",")
    keys = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if file is not None and not keys:
        raise UserError("there is no key in this file", where=str(file), expected="one key a line")
    if not keys and (not address.loopback or address.public is not None):
        raise UserError(
            f"other machines can reach this server ({address.public.host if address.public else address.host}), and "
            "there is no key that keeps strangers out",
            expected=f"keys in ${KEYS} or in a file",
            do="give --keys-file FILE with one key a line, or listen on 127.0.0.1",
        )
    return keys


def system_texts(what: str, deployment: Path) -> dict[str, str]:
    """What the models of a run are told before every chat, by name.

    Raises:
        UserError: this is no run, which alone has a constitution; the deployment is wrong or decides what it may not.
    """
    from steersman.cli.model import effective_of
    from steersman.runs import open_run

    if not (Path(what) / "run.json").exists():
        raise UserError("a deployment is about a constitution, and this is a model and no run", where="--deployment")
    effective, names = effective_of(Path(what), deployment, ()), models_of(open_run(what))
    return {name: effective.system_text(trained=name != RAW) for name in names}


def load_engine(
    what: str,
    names: tuple[str, ...] | list[str],
    config: EngineConfig,
    *,
    fast: bool = False,
    probes: Mapping[str, Probe] | None = None,
) -> Engine:
    """An engine with the models of a run, or with any model under its own name.

    Args:
        names: which of the run's models; none for all.
        probes: by the name of the model that they read.

    Raises:
        UserError: the run has no such model, or there is no such run or model.
    """
    from steersman.lm import pretrained
    from steersman.runs import open_run
    from steersman.serving import models
    from steersman.serving.engine import Engine

    if not (Path(what) / "run.json").exists():
        base = pretrained.resolve(what)
        if names:
            raise UserError("this is a model and no run, so there is one to serve", do="leave out --model")
        name = Path(what).name if Path(what).exists() else what
        return Engine(models.load(base, {name: None}, fast=fast), config, probes or {})
    run = open_run(what)
    offered = models_of(run)
    for name in names:
        if name not in offered:
            raise UserError(f"this run has no model {name!r}", where=what, expected=", ".join(offered))
    chosen = {name: folder for name, folder in offered.items() if not names or name in names}
    from steersman.stages.inputs import TRAIN

    with run.on_its_hardware():
        loaded = models.load(run.base, chosen, fast=fast, examples=run[TRAIN] if fast else ())
        return Engine(loaded, config, probes or {})


def models_of(run: OpenRun) -> dict[str, Path | None]:
    """The folders of a run's models by name: raw, each stage that trained a policy, and the last one as aligned."""
    from steersman.lm.adapters import ADAPTER, FULL
    from steersman.stages.inputs import POLICY

    found: dict[str, Path | None] = {RAW: None}
    for stage in POLICY.names:
        folder = run.path / stage
        if stage in run.present and ((folder / ADAPTER).is_dir() or (folder / FULL).is_dir()):
            found[stage] = folder
    if run.trains_a_policy and (last := run.about.get("policy", "sft")) in found:
        found[ALIGNED] = found[last]
    return found
