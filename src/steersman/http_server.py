"""Where our HTTP servers listen (on loopback by default, with a warning for any other address), and serving there."""

from __future__ import annotations

import ipaddress
import re
import signal
import socket
import sys
from types import FrameType
from typing import Any, NamedTuple

import uvicorn
from pydantic import Field

from steersman.errors import UserError
from steersman.types import Record

CONNECTIONS = 1000  # at once; what comes beyond gets 503
DEFAULT_PORTS = {"http": 80, "https": 443}
_SEGMENT = r"/(?!\.{1,2}(?:/|$))(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})+"
ENCODED = re.compile(r"(?:%[0-9A-Fa-f]{2})+")
PATH = re.compile(f"(?:{_SEGMENT})*/?")


class PublicUrl(NamedTuple):
    """A public URL, taken apart: as browsers write its parts, the path without a slash at its end."""

    scheme: str
    host: str  # lower case, international names in ASCII, IPv6 in brackets
    port: int | None  # None: the scheme's own
    path: str

    @property
    def origin(self) -> str:
        """What browsers send as the origin of its pages."""
        return f"{self.scheme}://{self.host}" + (f":{self.port}" if self.port else "")


def parse_url(url: str) -> PublicUrl:
    """The parts of ``--url``.

    Raises:
        UserError: it is no address that a browser could open, or has more than scheme, host, port and path.
    """

    def wrong(found: str) -> UserError:
        return UserError(
            f"{url[:80]!r} {found}",
            where="--url",
            expected="https://HOST or https://HOST/PATH, as browsers reach this server",
        )

    scheme, separator, rest = url.partition("://")
    if not separator:
        raise wrong("has no scheme")
    if scheme.lower() not in DEFAULT_PORTS:
        raise wrong(f"has the scheme {scheme[:20]!r}")
    for sign, name in {"?": "a query", "#": "a fragment"}.items():
        if sign in rest:
            raise wrong(f"has {name}")
    authority, slash, path = rest.partition("/")
    if "@" in authority:
        raise wrong("has a user name before its host")
    named = re.fullmatch(r"(\[[^\]]*\]|[^:\[\]]*)(?::(\d{1,5}))?", authority)
    host = _browsers_host(named[1]) if named else None
    port = int(named[2]) if named and named[2] else None
    if host is None or (port is not None and not 0 < port < 65536):
        raise wrong(f"has no host that a browser could reach ({authority[:40]!r})")
    if not PATH.fullmatch(slash + path.rstrip("/")):
        raise wrong("has a path that is none: no spaces, '//' or '..', and other letters than ASCII as %XX")
    port = None if port == DEFAULT_PORTS[scheme.lower()] else port
    return PublicUrl(scheme.lower(), host, port, (slash + path).rstrip("/"))


def _decoded(encoded: re.Match[str]) -> str:
    return bytes.fromhex(encoded[0].replace("%", "")).decode("utf-8", "replace")


def _browsers_host(text: str) -> str | None:
    """A host as browsers send it; None if it is none."""
    try:
        if text.startswith("["):
            return f"[{ipaddress.IPv6Address(text[1:-1])}]"
        if re.fullmatch(r"[\d.]+", text):
            return str(ipaddress.IPv4Address(text))
        ascii_name = text.encode("idna").decode().lower()
    except ValueError:  # UnicodeError too
        return None
    labels = ascii_name.removesuffix(".").split(".")
    fine = len(ascii_name) < 254 and all(re.fullmatch(r"(?!-)[a-z0-9_-]{1,63}(?<!-)", label) for label in labels)
    return ascii_name if fine else None


class Address(Record):
    """Where a server listens, and how its clients reach it."""

    host: str = Field(default="127.0.0.1", description="Host name or IP address to listen on.")
    port: int = Field(default=8642, ge=0, le=65535, description="TCP port; 0 takes any free one.")
    url: str | None = Field(
        default=None,
        description="Public URL of a proxy in front of the server, with its path if that is not the root; "
        "null: clients use host and port.",
    )

    @property
    def public(self) -> PublicUrl | None:
        """The parts of ``url``; None without one.

        Raises:
            UserError: ``url`` is wrong.
        """
        return None if self.url is None else parse_url(self.url)

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def link(self, port: int) -> str:
        """The beginning of all links to the server."""
        if self.public is not None:
            return self.public.origin + self.public.path
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{port}"

    @property
    def origin(self) -> str | None:
        """The origin that browsers send to a server behind ``url``; None without a ``url``."""
        return None if self.public is None else self.public.origin

    @property
    def prefix(self) -> str:
        """The path below which browsers see the pages, such as /user/ann/proxy/8642; empty for the root."""
        return "" if self.public is None else ENCODED.sub(_decoded, self.public.path)

    def names(self) -> tuple[str, ...]:
        """The host names under which requests are accepted.

        Raises:
            UserError: ``url`` is wrong; or the server listens on all addresses, and no ``url`` says under which name.
        """
        if self.public is not None:
            return (self.public.host, "127.0.0.1", "localhost")
        if self.host in ("0.0.0.0", "::"):
            raise UserError(
                f"--host {self.host} listens on every address of this machine, and no link can be made of it",
                expected="the address by which others reach it",
                do="add --url, such as --url https://rating.example.org, or give that address as --host",
            )
        return (f"[{self.host}]" if ":" in self.host else self.host, "localhost") if self.loopback else (self.host,)


def warning(address: Address, protection: str) -> str | None:
    """The warning about a server that other machines can reach.

    Args:
        protection: what keeps strangers out, as a sentence without its full stop.
    """
    if address.loopback:
        return None
    secure = address.public is not None and address.public.scheme == "https"
    text = f"other machines can reach this server ({address.host}). {protection}"
    return f"{text}." if secure else f"{text}, but all that is sent travels unencrypted: put TLS in front of it."


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


def serve(app: Any, bound: socket.socket, *, ended: str, connections: int = CONNECTIONS) -> None:
    """Answer requests until Ctrl-C or SIGTERM; requests under way are finished first, within five seconds.

    Args:
        app: an ASGI application.
        ended: what is printed after Ctrl-C.
        connections: at once; what comes beyond gets 503.

    Raises:
        SystemExit: after SIGTERM, with 143.
    """
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,  # no log of who asked what and when
        server_header=False,
        limit_concurrency=connections,
        timeout_keep_alive=20,
        timeout_graceful_shutdown=5,
    )
    # uvicorn finishes its requests and then raises the signal again, for the handler that was there before.
    signal.signal(signal.SIGTERM, _terminated)
    try:
        uvicorn.Server(config).run(sockets=[bound])
    except KeyboardInterrupt:
        print(f"\n{ended}", file=sys.stderr)


def _terminated(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)
