"""The relay's plain HTTP: reads one request with h11, distinguishes websockets from pages, writes small answers.

A browser says which web page its connection comes from. Without a check any page could make its visitors try codes,
each from an address of its own. Source: RFC 6454 section 7, RFC 6455 section 10.2.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import html
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from urllib.parse import urlsplit

import h11
import trio

ANY = "*"
_DEFAULT_PORTS = {"http": 80, "https": 443}
_WEBSOCKET_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def parse_origins(texts: Sequence[str]) -> frozenset[str]:
    """Return origins in their canonical spelling.

    Args:
        texts: each `https://HOST[:PORT]`, `null` (a page without an origin) or `*` (every page).
    Raises:
        ValueError: one of them is none of these; a relay must not start with it.
    """
    return frozenset(_canonical(text) for text in texts)


def may_come_from(values: Sequence[bytes], allowed: frozenset[str]) -> bool:
    """Return whether a request with these values of `Origin` may be answered. Programs send none."""
    if ANY in allowed:
        return True
    try:
        return all(_canonical(value.decode("ascii")) in allowed for value in values)
    except ValueError:
        return False


def _canonical(text: str) -> str:
    if text in (ANY, "null"):
        return text
    try:
        parts = urlsplit(text.strip())
        port = parts.port
    except ValueError:
        raise ValueError(f"{text!r} is not an origin, as in https://page.example") from None
    scheme = parts.scheme.lower()
    if not scheme or not parts.hostname or parts.path not in ("", "/") or parts.query or "@" in parts.netloc:
        raise ValueError(f"{text!r} is not an origin, as in https://page.example")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    default = _DEFAULT_PORTS.get(scheme)
    return f"{scheme}://{host}" if port in (None, default) else f"{scheme}://{host}:{port}"


PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


def page(
    request: HttpRequest, statistics: Mapping[str, int] | None, metrics: Callable[[], str], *, is_ready: bool
) -> bytes:
    """Return the whole answer to a plain request.

    Args:
        request: what came.
        statistics: totals and gauges by name; None where neither they nor the metrics are to be shown.
        metrics: gives the metrics as Prometheus text.
        is_ready: whether the relay takes new rooms.
    """
    head = request.method == "HEAD"
    if request.method not in ("GET", "HEAD"):
        return response(405)
    match request.path:
        case "/healthz":
            return response(200, "ok\n", head=head)
        case "/readyz":
            return response(200 if is_ready else 503, "ready\n" if is_ready else "not ready\n", head=head)
        case "/metrics" if statistics is not None:
            return response(200, metrics(), content_type=PROMETHEUS, head=head)
        case "/":
            return response(200, status_page(statistics or {}), content_type="text/html; charset=utf-8", head=head)
        case "/v1":
            return response(426, "this is a websocket\n", head=head)
        case _:
            return response(404, head=head)


def status_page(statistics: Mapping[str, int]) -> str:
    """Return the statistics as a small page."""
    rows = "".join(
        f"<tr><td>{html.escape(name.replace('_', ' '))}</td><td>{value}</td></tr>"
        for name, value in sorted(statistics.items())
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>icesignal relay</title>"
        "<style>body{font:16px/1.5 system-ui;margin:3em auto;max-width:40em;padding:0 1em}"
        "td{padding:.1em 1em .1em 0}td+td{text-align:right;font-variant-numeric:tabular-nums}</style>"
        "<h1>icesignal relay</h1><p>It introduces peers to each other and sees only sealed messages.</p>"
        f"<table>{rows}</table></html>\n"
    )


MAX_REQUEST_BYTES = 16_384
RECEIVE_BYTES = 4_096
RESPONSE_TIMEOUT_S = 5.0


class BadRequest(Exception):
    """What came is not a request that this server answers with a page. `status` is what it answers instead."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One request: its line, its headers, and the bytes that came behind them."""

    method: str
    path: str
    headers: tuple[tuple[bytes, bytes], ...]
    trailing: bytes

    def values(self, name: bytes) -> list[bytes]:
        """Return the comma-separated values of a header, in order."""
        lines = [value for key, value in self.headers if key == name]
        return [part.strip() for line in lines for part in line.split(b",") if part.strip()]

    @property
    def wants_websocket(self) -> bool:
        """Whether it asks for the upgrade."""
        return b"websocket" in [value.lower() for value in self.values(b"upgrade")]


async def read_request(stream: trio.abc.ReceiveStream, prefix: bytes = b"") -> HttpRequest | None:
    """Return the request that comes; None when the client says nothing and leaves.

    Raises:
        BadRequest: it is no HTTP/1.1, or too long.
        trio.BrokenResourceError: the connection broke.
    """
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_REQUEST_BYTES)
    data, received = prefix, 0
    while True:
        received += len(data)
        try:
            if data:
                parser.receive_data(data)
            event = parser.next_event()
        except h11.RemoteProtocolError as error:
            raise BadRequest(error.error_status_hint, "not a request") from None
        if isinstance(event, h11.Request):
            path = event.target.decode("ascii", "replace").partition("?")[0]
            headers = tuple((bytes(name), bytes(value)) for name, value in event.headers)
            return HttpRequest(event.method.decode("ascii", "replace"), path, headers, parser.trailing_data[0])
        if isinstance(event, h11.ConnectionClosed):
            return None
        data = bytes(await stream.receive_some(RECEIVE_BYTES))
        if not data:
            if received:
                raise BadRequest(400, "half a request")
            return None


def upgrade(request: HttpRequest) -> bytes:
    """Return the answer to a websocket's request. Extensions are left out: nothing is ever compressed.

    Raises:
        BadRequest: it is no websocket request of version 13.

    Source: RFC 6455 section 4.2.
    """
    if request.method != "GET":
        raise BadRequest(405, "a websocket begins with GET")
    if b"upgrade" not in [value.lower() for value in request.values(b"connection")]:
        raise BadRequest(400, "Connection: Upgrade is missing")
    if request.values(b"sec-websocket-version") != [b"13"]:
        raise BadRequest(426, "Sec-WebSocket-Version: 13 is missing")
    keys = request.values(b"sec-websocket-key")
    try:
        valid = len(keys) == 1 and len(base64.b64decode(keys[0], validate=True)) == 16
    except binascii.Error:
        valid = False
    if not valid:
        raise BadRequest(400, "Sec-WebSocket-Key is missing or malformed")
    accepted = base64.b64encode(hashlib.sha1(keys[0] + _WEBSOCKET_GUID, usedforsecurity=False).digest())
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accepted + b"\r\n\r\n"
    )


_REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    426: "Upgrade Required",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


PLAIN_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def response(
    status: int,
    body: str = "",
    *,
    content_type: str = "text/plain; charset=utf-8",
    head: bool = False,
    policy: str = PLAIN_POLICY,
) -> bytes:
    """Return a whole answer that ends the connection.

    Args:
        status: one of those in docs/relay-protocol.md section 2; to operators 401, too.
        body: its text; the reason phrase when empty.
        content_type: of the body.
        head: leave the body out, as HEAD wants it.
        policy: what a browser may do with it. Source: Content Security Policy Level 3.
    """
    reason = _REASONS.get(status, "Error")
    payload = (body or reason + "\n").encode()
    lines = [
        f"HTTP/1.1 {status} {reason}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(payload)}",
        "Cache-Control: no-store",
        f"Date: {formatdate(time.time(), usegmt=True)}",
        "X-Content-Type-Options: nosniff",
        f"Content-Security-Policy: {policy}",
        "X-Frame-Options: DENY",
        "Referrer-Policy: no-referrer",
        "Cross-Origin-Resource-Policy: same-origin",
        "Connection: close",
        *(["Retry-After: 10"] if status in (429, 503) else []),
        *(["WWW-Authenticate: Bearer"] if status == 401 else []),
        *(["Sec-WebSocket-Version: 13"] if status == 426 else []),
    ]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + (b"" if head else payload)


async def respond(stream: trio.abc.Stream, answer: bytes) -> None:
    """Send a whole answer, in a bounded time, and end a connection so that the client can read it."""
    with trio.move_on_after(RESPONSE_TIMEOUT_S):
        await stream.send_all(answer)
        if isinstance(stream, trio.SocketStream):
            # Let the client read the answer before the socket goes: what it still sends would reset the connection.
            await stream.send_eof()
            for _ in range(16):
                if not await stream.receive_some(RECEIVE_BYTES):
                    break
        else:
            await stream.aclose()
