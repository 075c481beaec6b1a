"""Starting the application's server: loopback unless told otherwise, and a word of warning when it is."""

from __future__ import annotations

import ipaddress
import socket
import sys

import uvicorn
from pydantic import Field

from steersman.errors import UserError
from steersman.rating.app import RatingApp
from steersman.types import Record

CONNECTIONS = 1000  # at once; what comes beyond gets 503


class Address(Record):
    """Where the server listens. ``url`` is how raters reach it, where that is not the address itself (a proxy)."""

    host: str = "127.0.0.1"
    port: int = Field(default=8642, ge=0, le=65535)  # 0: any that is free
    url: str | None = None

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def link(self, port: int) -> str:
        """What the links of raters begin with."""
        return (self.url or f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{port}").rstrip("/")

    @property
    def origin(self) -> str | None:
        """What the browser of somebody who came by ``url`` names as its origin; None without a ``url``."""
        if self.url is None:
            return None
        scheme, _, rest = self.url.lower().partition("://")
        return f"{scheme}://{rest.partition('/')[0].removesuffix(':443' if scheme == 'https' else ':80')}"

    def names(self) -> tuple[str, ...]:
        """The host names under which requests are taken.

        Raises:
            UserError: the server listens on all addresses and nobody said by which name it is reached.
        """
        if self.url is not None:
            own = self.url.partition("://")[2].partition("/")[0].rsplit(":", 1)[0]
            return (own, "127.0.0.1", "localhost")
        if self.host in ("0.0.0.0", "::"):
            raise UserError(
                f"--host {self.host} listens on every address of this machine, and no link can be made of it",
                expected="the address by which raters reach it",
                do="add --url, such as --url https://rating.example.org, or give that address as --host",
            )
        return (f"[{self.host}]" if ":" in self.host else self.host, "localhost") if self.loopback else (self.host,)


def warning(address: Address) -> str | None:
    """What whoever opens the server to others should know."""
    if address.loopback:
        return None
    secure = (address.url or "").startswith("https://")
    said = f"other machines can reach this server ({address.host}). Nobody rates or administers without a link's token"
    return f"{said}." if secure else f"{said}, but links, cookies and votes travel unencrypted: put TLS in front of it."


def listen(address: Address) -> socket.socket:
    """A socket on which connections wait already, so that a link may be opened as soon as it is printed.

    Raises:
        UserError: the address is taken, or not this machine's.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    # The protocol is named because asyncio switches Nagle's algorithm off only then: 40 ms between head and body.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((address.host, address.port))
        bound.listen(CONNECTIONS)
    except OSError as error:
        bound.close()
        raise UserError(
            f"the server cannot listen on {address.host}:{address.port} ({(error.strerror or str(error)).lower()})",
            do="choose another --port (0 takes any that is free), or stop what uses it",
        ) from error
    return bound


def serve(app: RatingApp, address: Address, bound: socket.socket) -> None:
    """Answer requests until interrupted. What was acknowledged is in the store at any moment."""
    if said := warning(address):
        print(f"warning: {said}", file=sys.stderr)
    config = uvicorn.Config(
        app.asgi(address.names()),
        log_level="warning",
        access_log=False,  # who answered what and when is not the log's business
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=20,
        timeout_graceful_shutdown=5,
    )
    uvicorn.Server(config).run(sockets=[bound])
