"""Reaching a relay: its URL, TCP, TLS, the websocket handshake and the welcome, all within one time limit."""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import trio

from icesignal import wire
from icesignal.errors import ProtocolMismatch, RelayRefused, RelayUnreachable
from icesignal.transport import Connection, ConnectionEnded, HandshakeFailed, request_websocket

ADVICE = "Check the address and the network, or start a relay with `iceagent serve`."
_DEFAULT_PORTS = {"ws": 80, "wss": 443}
_EMPTY_HOST = re.compile(r"(?P<scheme>(?:stun|turn)s?):(?P<rest>:[0-9].*|\?.*|)\Z")


@dataclass(frozen=True, slots=True)
class RelayUrl:
    """A relay's URL, taken apart."""

    text: str
    host: str
    port: int
    path: str
    is_tls: bool

    @property
    def authority(self) -> str:
        """What the `Host` header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_relay_url(text: str) -> RelayUrl:
    """Return the parts of `ws://HOST[:PORT]` or `wss://…`; a bare `HOST:PORT` means `ws`.

    Raises:
        ValueError: it is no such URL.
    """
    try:
        parts = urlsplit(text if "://" in text else f"ws://{text}")
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
            raise ValueError("unknown scheme or no host")
        parts.hostname.encode("idna")  # as the system's resolver will; what cannot be is a UnicodeError, a ValueError
        port = parts.port or _DEFAULT_PORTS[parts.scheme]
    except ValueError:
        raise ValueError(
            f"{text!r} is not the URL of a relay, as in ws://192.0.2.1:8080 or wss://relay.example"
        ) from None
    return RelayUrl(text, parts.hostname, port, parts.path or "/", parts.scheme == "wss")


def with_own_host(entries: Sequence[wire.IceServer], host: str) -> list[dict[str, Any]]:
    """Return ICE servers as maps, the relay's host put where a URL leaves its host empty.

    Source: docs/relay-protocol.md section 9.
    """
    literal = f"[{host}]" if ":" in host else host

    def fill(url: str) -> str:
        match = _EMPTY_HOST.match(url)
        return url if match is None else f"{match['scheme']}:{literal}{match['rest']}"

    secrets: Mapping[str, str]
    filled: list[dict[str, Any]] = []
    for entry in entries:
        secrets = {"username": entry.username or "", "credential": entry.credential or ""}
        present = {key: value for key, value in secrets.items() if value}
        filled.append({"urls": [fill(url) for url in entry.urls], **present})
    return filled


@asynccontextmanager
async def dial(
    url: RelayUrl, *, ssl_context: ssl.SSLContext | None, timeout_s: float
) -> AsyncGenerator[tuple[Connection, wire.Welcome], None]:
    """Open a connection to the relay and read its welcome.

    Raises:
        RelayUnreachable: nobody answered in time, or not as a relay.
        RelayRefused: it takes no more connections from here.
        ProtocolMismatch: it speaks other versions.
    """
    deadline = trio.current_time() + timeout_s
    stream = await _open_stream(url, ssl_context, deadline, timeout_s)
    try:
        async with request_websocket(
            stream, url.authority, url.path, timeout_s=deadline - trio.current_time()
        ) as connection:
            yield connection, await _read_welcome(url, connection, deadline)
    except HandshakeFailed as error:
        if error.status in (429, 503):
            raise RelayRefused(
                f"the relay {url.text} takes no more connections now (HTTP {error.status}); try again in a minute",
                "rate",
            ) from None
        raise RelayUnreachable(f"{url.text} does not answer as a relay: {error}. {ADVICE}") from None


async def _open_stream(
    url: RelayUrl, ssl_context: ssl.SSLContext | None, deadline: float, timeout_s: float
) -> trio.abc.Stream:
    try:
        with trio.fail_at(deadline):
            tcp = await trio.open_tcp_stream(url.host, url.port)
            return await _encrypt(tcp, url, ssl_context) if url.is_tls else tcp
    except trio.TooSlowError:
        raise RelayUnreachable(f"the relay {url.text} did not answer within {timeout_s:g} s. {ADVICE}") from None
    except (OSError, trio.BrokenResourceError) as error:
        raise RelayUnreachable(f"the relay {url.text} cannot be reached: {_why(error)}. {ADVICE}") from None


async def _encrypt(tcp: trio.SocketStream, url: RelayUrl, ssl_context: ssl.SSLContext | None) -> trio.abc.Stream:
    context = ssl_context or ssl.create_default_context()
    encrypted = trio.SSLStream(tcp, context, server_hostname=url.host, https_compatible=True)
    try:
        await encrypted.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(tcp)
        raise
    return encrypted


async def _read_welcome(url: RelayUrl, connection: Connection, deadline: float) -> wire.Welcome:
    try:
        with trio.fail_at(deadline):
            frame = wire.decode_relay_untrusted(await connection.receive())
    except trio.TooSlowError:
        raise RelayUnreachable(f"the relay {url.text} did not say its welcome in time. {ADVICE}") from None
    except ConnectionEnded as ended:
        raise RelayUnreachable(f"the relay {url.text} hung up ({ended.code}). {ADVICE}") from None
    except wire.WireError as error:
        if error.reason is wire.WireErrorReason.VERSION:
            raise ProtocolMismatch(f"the relay {url.text} speaks another protocol: {error}") from None
        raise RelayUnreachable(f"{url.text} does not answer as a relay: {error}. {ADVICE}") from None
    if not isinstance(frame, wire.Welcome):
        raise RelayUnreachable(f"{url.text} does not answer as a relay. {ADVICE}")
    if wire.VERSION not in frame.versions:
        known = ", ".join(str(version) for version in frame.versions)
        raise ProtocolMismatch(
            f"the relay {url.text} speaks protocol versions {known}, this program {wire.VERSION}; update the older one",
            tuple(frame.versions),
        )
    return frame


def _why(error: BaseException) -> str:
    """Return the system's own words, from inside trio's summary of several attempts if need be."""
    cause = error.__cause__
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    inner = cause if isinstance(cause, OSError) else error
    if isinstance(inner, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {inner.verify_message}"
    if isinstance(inner, OSError) and inner.errno is not None and not isinstance(inner, socket.gaierror | ssl.SSLError):
        return os.strerror(inner.errno).lower()
    return (inner.strerror if isinstance(inner, OSError) else None) or str(inner) or type(inner).__name__
