"""Reaching a relay: TCP to one of its addresses, TLS, the websocket handshake and the welcome, within one time limit.

Every address of a name is tried, and an address counts as reached when the relay's welcome has come from it. After one
that is dead, refuses, has a wrong certificate or sends nothing, the next one is tried.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import trio

from icesignal import wire
from icesignal.addresses import Address, connect_first, resolve
from icesignal.errors import ProtocolMismatch, RelayRefused, RelayUnreachable, SignalError
from icesignal.transport import ConnectionEnded, HandshakeFailed, WebsocketConnection, request_websocket
from icesignal.url import RelayUrl

ADVICE = "Check the address and the network, or start a relay with `iceagent serve`."
HANDSHAKE_SHARE_S = 3.0  # ours: what one of several addresses may take, once connected, before the next is tried
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL"})  # OpenSSL's words for what is none
_EMPTY_HOST = re.compile(r"(?P<scheme>(?:stun|turn)s?):(?P<rest>:[0-9].*|\?.*|)\Z")


def with_own_host(entries: Sequence[wire.RTCIceServer], host: str) -> list[dict[str, Any]]:
    """Return ICE servers as maps, the relay's host put where a URL leaves its host empty.

    Source: docs/relay-protocol.md section 9.
    """
    literal = f"[{host}]" if ":" in host else host

    def fill(url: str) -> str:
        match = _EMPTY_HOST.match(url)
        return url if match is None else f"{match['scheme']}:{literal}{match['rest']}"

    filled: list[dict[str, Any]] = []
    for entry in entries:
        given = {"username": entry.username, "credential": entry.credential, "ttl": entry.ttl}
        present = {key: value for key, value in given.items() if value}
        filled.append({"urls": [fill(url) for url in entry.urls], **present})
    return filled


OpenStream = Callable[[str, int], Awaitable[trio.abc.Stream]]
"""Opens a connection to a host and port in some other way, as through a proxy. Raises OSError."""


@asynccontextmanager
async def dial(
    url: RelayUrl,
    *,
    ssl_context: ssl.SSLContext | None,
    timeout_s: float,
    open_stream: OpenStream | None = None,
) -> AsyncGenerator[tuple[WebsocketConnection, wire.Welcome], None]:
    """Open a connection to the relay and read its welcome.

    Raises:
        RelayUnreachable: nobody answered in time, or not as a relay.
        RelayRefused: it takes no more connections from here.
        ProtocolMismatch: it speaks other versions.
    """
    deadline = trio.current_time() + timeout_s
    too_slow = RelayUnreachable(f"the relay {url.shown} did not answer within {timeout_s:g} s. {ADVICE}")
    async with AsyncExitStack() as stack:
        try:
            reached = await _reach(stack, _Route(url, open_stream), ssl_context, deadline)
        except trio.TooSlowError:
            raise too_slow from None
        yield reached


class _Route:
    """The ways to a relay that are left: its addresses, best first, or the one through `open_stream`."""

    def __init__(self, url: RelayUrl, open_stream: OpenStream | None) -> None:
        self.url = url
        self._open_stream = open_stream
        self._addresses: deque[Address] = deque()

    @property
    def is_last(self) -> bool:
        """Whether nothing is left to try."""
        return not self._addresses

    async def resolve(self) -> None:
        """Find the addresses.

        Raises:
            RelayUnreachable: there are none.
        """
        if self._open_stream is not None:
            return  # names are resolved there
        try:
            self._addresses.extend(await resolve(self.url.host, self.url.port))
        except (OSError, UnicodeError) as error:
            raise _unreachable(self.url, error) from None

    async def connect(self) -> trio.abc.Stream:
        """Return a connection by the best way that is left, which is then not tried again.

        Raises:
            RelayUnreachable: no way leads there.
        """
        try:
            if self._open_stream is not None:
                return await self._open_stream(self.url.host, self.url.port)
            return await connect_first(self._addresses)
        except OSError as error:
            raise _unreachable(self.url, error) from None


async def _reach(
    stack: AsyncExitStack, route: _Route, ssl_context: ssl.SSLContext | None, deadline: float
) -> tuple[WebsocketConnection, wire.Welcome]:
    """Return the connection, which `stack` closes, to the first address where a relay says its welcome.

    Raises:
        trio.TooSlowError: the deadline has passed.
        SignalError: the last address failed, and how.
    """
    with trio.fail_at(deadline):
        await route.resolve()
    while True:
        with trio.fail_at(deadline):
            stream = await route.connect()
        until = deadline if route.is_last else min(deadline, trio.current_time() + HANDSHAKE_SHARE_S)
        try:
            async with AsyncExitStack() as trial:
                reached = await _shake_hands(trial, route.url, stream, ssl_context, until)
                stack.push_async_exit(trial.pop_all())
                return reached
        except (trio.TooSlowError, SignalError):
            await trio.aclose_forcefully(stream)
            if route.is_last:
                raise
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise


async def _shake_hands(
    stack: AsyncExitStack, url: RelayUrl, stream: trio.abc.Stream, ssl_context: ssl.SSLContext | None, until: float
) -> tuple[WebsocketConnection, wire.Welcome]:
    try:
        if url.is_tls:
            with trio.fail_at(until):
                stream = await _encrypt(stream, url, ssl_context)
        headers = [(b"Authorization", url.authorization.encode())] if url.authorization else []
        left_s = until - trio.current_time()
        # Not inside a scope of ours: what it opens stays open.
        websocket = request_websocket(stream, url.authority, url.target, headers=headers, timeout_s=left_s)
        connection = await stack.enter_async_context(websocket)
        with trio.fail_at(until):
            return connection, await _read_welcome(url, connection)
    except HandshakeFailed as error:
        raise _handshake_error(url, error) from None
    except (OSError, trio.BrokenResourceError) as error:
        raise _unreachable(url, error) from None


def _handshake_error(url: RelayUrl, error: HandshakeFailed) -> RelayUnreachable | RelayRefused:
    match error.status:
        case 429 | 503:
            return RelayRefused(
                f"the relay {url.shown} takes no more connections now (HTTP {error.status}); try again in a minute",
                "rate",
            )
        case 401:
            what = (
                "does not accept this user name and password" if url.authorization else "wants a user name and password"
            )
            return RelayUnreachable(
                f"the relay {url.shown} {what} (HTTP 401): write ws://USER:PASSWORD@HOST, best in ICEAGENT_RELAY"
            )
        case 403:
            return RelayUnreachable(f"the relay {url.shown} does not let us in (HTTP 403); ask whoever runs it")
        case 404:
            return RelayUnreachable(
                f"there is no relay at {url.shown} (HTTP 404); check host, port and path of its URL"
            )
        case 301 | 302 | 303 | 307 | 308:
            return RelayUnreachable(
                f"{url.shown} points elsewhere (HTTP {error.status}); give the URL it points to, perhaps wss:// for ws://"
            )
        case _:
            return RelayUnreachable(f"{url.shown} does not answer as a relay: {error}. {ADVICE}")


def _unreachable(url: RelayUrl, error: BaseException) -> RelayUnreachable:
    return RelayUnreachable(f"the relay {url.shown} cannot be reached: {_why(error)}. {ADVICE}")


async def _encrypt(
    stream: trio.abc.Stream, url: RelayUrl, ssl_context: ssl.SSLContext | None
) -> trio.SSLStream[trio.abc.Stream]:
    context = ssl_context or ssl.create_default_context()
    encrypted = trio.SSLStream(stream, context, server_hostname=url.name, https_compatible=True)
    await encrypted.do_handshake()
    return encrypted


async def _read_welcome(url: RelayUrl, connection: WebsocketConnection) -> wire.Welcome:
    try:
        frame = wire.decode_relay_untrusted(await connection.receive())
    except ConnectionEnded as ended:
        raise RelayUnreachable(f"the relay {url.shown} hung up ({ended.code}). {ADVICE}") from None
    except wire.BadFrame as error:
        raise bad_answer(url, error) from None
    if not isinstance(frame, wire.Welcome):
        raise RelayUnreachable(f"{url.shown} does not answer as a relay. {ADVICE}")
    if wire.VERSION not in frame.versions:
        known = ", ".join(str(version) for version in frame.versions) or "of no number"
        raise ProtocolMismatch(
            f"the relay {url.shown} speaks protocol versions {known}, this program {wire.VERSION}; update the older",
            tuple(frame.versions),
        )
    return frame


def bad_answer(url: RelayUrl, error: wire.BadFrame) -> RelayUnreachable | ProtocolMismatch:
    """Return the error for an answer of the relay's that is no frame, or one of another version."""
    if error.reason is wire.BadFrameReason.VERSION:
        return ProtocolMismatch(f"the relay {url.shown} speaks another protocol: {error}")
    return RelayUnreachable(f"{url.shown} does not answer as a relay: {error}. {ADVICE}")


def _why(error: BaseException) -> str:
    """Return the system's own message, which trio keeps as the cause of a stream that broke."""
    broke = isinstance(error, trio.BrokenResourceError) and isinstance(error.__cause__, OSError)
    inner = error.__cause__ if broke else error
    if isinstance(inner, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {inner.verify_message}"
    reason: str = getattr(inner, "reason", None) or ""  # OpenSSL's, where it has one
    if isinstance(inner, ssl.SSLError) and reason:
        if reason in _NO_TLS:
            return "it does not speak TLS there; if it is a relay without TLS, write ws:// for wss://"
        return f"TLS failed: {reason.lower().replace('_', ' ')}"
    if isinstance(inner, OSError) and inner.errno is not None and not isinstance(inner, socket.gaierror | ssl.SSLError):
        return os.strerror(inner.errno).lower()
    return (inner.strerror if isinstance(inner, OSError) else None) or str(inner) or type(inner).__name__
