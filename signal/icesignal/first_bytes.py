"""What a connection begins with: a PROXY header, TLS or none, then HTTP or, beside a TURN server, STUN. One port."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from icesignal import http
from icesignal.proxy import Client, ProxyHeaderError, begins_like_proxy_header, parse_proxy_header_untrusted
from icesignal.tls import HTTP
from icesignal.transport import PrefixedStream

TLS_HANDSHAKE = b"\x16"  # RFC 8446 section 5.1; no request of HTTP begins so
STUN_ALPN = "stun.turn"  # RFC 7443 section 4
MAX_STUN_BYTE = 0x03  # RFC 7983 section 7. Channel data cannot come first: a channel is bound by a STUN message


@dataclass(frozen=True, slots=True)
class StunConnection:
    """A connection over TLS that speaks STUN.

    Attributes:
        stream: gives everything from the first byte of STUN on.
        local, remote: host and port; where a trusted proxy named the client, the client's.
        settle: to be called once it has earned its place; until then it may be ended for others.
    """

    stream: trio.abc.Stream
    local: tuple[str, int]
    remote: tuple[str, int]
    settle: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Tls:
    """How a relay encrypts.

    Attributes:
        context: with certificate and key.
        is_required: whether connections without TLS are refused.
        serve_stun: serves connections that speak STUN after the handshake; None: they are no requests.
    """

    context: ssl.SSLContext
    is_required: bool = True
    serve_stun: Callable[[StunConnection], Awaitable[None]] | None = None


async def read_proxy_header(stream: trio.abc.ReceiveStream) -> tuple[Client | None, bytes]:
    """Return the client's address and port if a PROXY header has it, and the bytes that were read too far.

    Raises:
        http.BadRequest: it begins like one and is none.
    """
    data = b""
    while begins_like_proxy_header(data):
        try:
            parsed = parse_proxy_header_untrusted(data)
        except ProxyHeaderError as error:
            raise http.BadRequest(400, str(error)) from None
        if parsed is not None:
            return parsed[0], data[parsed[1] :]
        more = bytes(await stream.receive_some(http.RECEIVE_BYTES))
        if not more:
            break
        data += more
    return None, data


async def open_stream(raw: trio.SocketStream, prefix: bytes, tls: Tls | None) -> tuple[trio.abc.Stream, bytes, bool]:
    """Return the stream to talk over, what has been read of it already, and whether that is for a TURN server."""
    if tls is None:
        return raw, prefix, False
    if not tls.is_required:
        prefix = prefix or bytes(await raw.receive_some(http.RECEIVE_BYTES))
        if prefix[:1] != TLS_HANDSHAKE:
            return raw, prefix, False
    encrypted = trio.SSLStream(PrefixedStream(raw, prefix), tls.context, server_side=True, https_compatible=True)
    if tls.serve_stun is None:
        return encrypted, b"", False
    first = bytes(await encrypted.receive_some(http.RECEIVE_BYTES))
    return encrypted, first, _speaks_stun(encrypted, first)


def _speaks_stun(stream: trio.SSLStream[PrefixedStream], first: bytes) -> bool:
    """Return whether a connection is for a TURN server, by the name that its client gave or by its first byte."""
    named: str | None = stream.selected_alpn_protocol()
    if named in (STUN_ALPN, HTTP):
        return named == STUN_ALPN
    return bool(first) and first[0] <= MAX_STUN_BYTE
