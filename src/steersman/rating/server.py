"""The application's server: its address, on loopback by default, and a warning for any other."""

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
    """Where the server listens, and how raters reach it."""

    host: str = Field(default="127.0.0.1", description="Host name or IP address to listen on.")
    port: int = Field(default=8642, ge=0, le=65535, description="TCP port; 0 takes any free one.")
    url: str | None = Field(
        default=None, description="Public URL of a proxy in front of the server; null: raters use host and port."
    )

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def link(self, port: int) -> str:
        """The beginning of the raters' links."""
        return (self.url or f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{port}").rstrip("/")

    @property
    def origin(self) -> str | None:
        """The origin that browsers send to a server behind ``url``; None without a ``url``."""
        if self.url is None:
            return None
        scheme, _, rest = self.url.lower().partition("://")
        return f"{scheme}://{rest.partition('/')[0].removesuffix(':443' if scheme == 'https' else ':80')}"

    def names(self) -> tuple[str, ...]:
        """The host names under which requests are accepted.

        Raises:
            UserError: the server listens on all addresses, and ``url`` does not say under which name.
        """
        if self.url is not None:
            public = self.url.partition("://")[2].partition("/")[0].rsplit(":", 1)[0]
            return (public, "127.0.0.1", "localhost")
        if self.host in ("0.0.0.0", "::"):
            raise UserError(
                f"--host {self.host} listens on every address of this machine, and no link can be made of it",
                expected="the address by which raters reach it",
                do="add --url, such as --url https://rating.example.org, or give that address as --host",
            )
        return (f"[{self.host}]" if ":" in self.host else self.host, "localhost") if self.loopback else (self.host,)


def warning(address: Address) -> str | None:
    """The warning about a server that other machines can reach."""
    if address.loopback:
        return None
    secure = (address.url or "").startswith("https://")
    text = f"other machines can reach this server ({address.host}). Nobody rates or administers without a link's token"
    return f"{text}." if secure else f"{text}, but links, cookies and votes travel unencrypted: put TLS in front of it."


def listen(address: Address) -> socket.socket:
    """A listening socket, so that a link works as soon as it is printed.

    Raises:
        UserError: the address is taken, or not this machine's.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    # With the protocol named, asyncio switches Nagle's algorithm off, which would put 40 ms between head and body.
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
    """Answer requests until interrupted. Acknowledged votes are durable at any moment."""
    if text := warning(address):
        print(f"warning: {text}", file=sys.stderr)
    config = uvicorn.Config(
        app.asgi(address.names()),
        log_level="warning",
        access_log=False,  # no log of who answered what and when
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=20,
        timeout_graceful_shutdown=5,
    )
    uvicorn.Server(config).run(sockets=[bound])
