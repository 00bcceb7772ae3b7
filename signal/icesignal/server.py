"""The relay: it listens, looks at each request, serves pages itself and hands websockets to sessions.

Source: docs/relay-protocol.md sections 2, 9, 10 and 11.
"""

from __future__ import annotations

import logging
import ssl
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from typing import Any

import msgspec
import trio

from icesignal import http, pages, wire
from icesignal.engines import Engine, MemoryEngine
from icesignal.peer import RelayPeer
from icesignal.proxy import (
    ProxyHeaderError,
    begins_like_proxy_header,
    forwarded_for,
    parse_proxy_header_untrusted,
)
from icesignal.sources import IPNetwork, Limits, Source, SourceTable, is_within, parse_networks, source_of
from icesignal.tasks import open_background
from icesignal.transport import HandshakeFailed, PrefixedStream, accept_websocket

logger = logging.getLogger("icesignal.server")
RESPONSE_TIMEOUT_S = 5.0
FREE_PORT_ATTEMPTS = 5
WEBSOCKET_PATHS = frozenset({"/", "/v1"})
WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not bound to


class Server:
    """A running relay."""

    def __init__(
        self,
        engine: Engine,
        limits: Limits,
        ice_servers: Callable[[str], list[wire.IceServer]],
        ssl_context: ssl.SSLContext | None,
        proxies: Sequence[IPNetwork],
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.addresses: list[tuple[str, int]] = []
        self.ice_servers = ice_servers
        self._engine = engine
        self._limits = limits
        self._ssl_context = ssl_context
        self._proxies = proxies
        self._sources = SourceTable(limits)
        self._peers: set[RelayPeer] = set()
        self._open = 0
        self._draining = False

    @property
    def port(self) -> int:
        """The port of the first listening socket."""
        return self.addresses[0][1]

    @property
    def url(self) -> str:
        """Where a client of this machine reaches the relay; a wildcard address is shown as loopback."""
        host, port = self.addresses[0]
        host = WILDCARDS.get(host, host)
        scheme = "ws" if self._ssl_context is None else "wss"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    def statistics(self) -> Mapping[str, int]:
        """Return the totals of the relay and its engine, and the gauges `connections_open` and `sources`."""
        gauges = {"connections_open": self._open, "sources": len(self._sources)}
        engine = {f"engine_{name}": value for name, value in self._engine.statistics().items()}
        return {**self.counters, **gauges, **engine}

    @property
    def is_ready(self) -> bool:
        """Whether the relay takes new rooms."""
        return not self._draining and self._engine.is_ready() and self._open < self._limits.max_connections

    def drain(self) -> None:
        """Tell every client that the relay goes away, and take no new one."""
        self._draining = True
        for peer in list(self._peers):
            peer.close(wire.CloseCode.GOING_AWAY)

    # -- one connection

    async def handle_stream(self, stream: trio.SocketStream) -> None:
        """Serve one accepted connection to its end. Never raises but for cancellation."""
        if self._open >= self._limits.max_connections or self._draining:
            self.counters["connections_over_limit"] += 1
            await trio.aclose_forcefully(stream)
            return
        self._open += 1
        self.counters["connections"] += 1
        try:
            await self._serve(stream)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError, HandshakeFailed):
            self.counters["connections_broken"] += 1
        except Exception:
            # One connection must never end the relay. The traceback names code, not what the client sent.
            self.counters["internal_errors"] += 1
            logger.exception("a connection ended by an error of the relay")
        finally:
            self._open -= 1
            await trio.aclose_forcefully(stream)

    async def _serve(self, raw: trio.SocketStream) -> None:
        host: str = raw.socket.getpeername()[0]
        is_proxy = is_within(host, self._proxies)
        with ExitStack() as holding:
            # A direct client is known at once, so that slow headers, too, count against it and nobody else.
            source = None if is_proxy else await self._admit(raw, host, holding)
            if source is None and not is_proxy:
                return
            stream, request, host = await self._read_request(raw, host, is_proxy=is_proxy)
            if request is None:
                return
            if source is None:
                host = forwarded_for(host, request.values(b"x-forwarded-for"), self._proxies)
                source = await self._admit(stream, host, holding)
            if source is not None:
                await self._answer(stream, request, source)

    async def _admit(self, stream: trio.abc.Stream, host: str, holding: ExitStack) -> Source | None:
        """Return the source of a connection, which counts it from now on; None when it has been refused."""
        now = trio.current_time()
        source = self._sources.get(now, source_of(host))
        full = source.open_connections >= self._limits.max_connections_per_source
        if source.connections.take(now) and not full:
            holding.enter_context(source.hold())
            return source
        self.counters["connections_refused"] += 1
        await self._respond(stream, http.response(429))
        return None

    async def _read_request(
        self, raw: trio.SocketStream, host: str, *, is_proxy: bool
    ) -> tuple[trio.abc.Stream, http.Request | None, str]:
        """Return the stream, decrypted if need be, its request (None: answered here) and the client's address."""
        stream: trio.abc.Stream = raw
        bad = http.BadRequest(408, "the request took too long")
        with trio.move_on_after(self._limits.header_timeout_s) as scope:
            try:
                prefix = b""
                if is_proxy:
                    host, prefix = await self._read_proxy_header(raw, host)
                if self._ssl_context is not None:
                    encrypted = PrefixedStream(raw, prefix)
                    stream = trio.SSLStream(encrypted, self._ssl_context, server_side=True, https_compatible=True)
                    prefix = b""
                return stream, await http.read_request(stream, prefix), host
            except http.BadRequest as error:
                bad = error
        self.counters["headers_too_slow" if scope.cancelled_caught else "bad_requests"] += 1
        await self._respond(stream, http.response(bad.status, f"{bad}\n"))
        return stream, None, host

    @staticmethod
    async def _read_proxy_header(stream: trio.SocketStream, host: str) -> tuple[str, bytes]:
        """Return the client's address as far as a PROXY header tells it, and the bytes that were read too far."""
        data = b""
        while begins_like_proxy_header(data):
            try:
                parsed = parse_proxy_header_untrusted(data)
            except ProxyHeaderError as error:
                raise http.BadRequest(400, str(error)) from None
            if parsed is not None:
                return parsed[0] or host, data[parsed[1] :]
            more = bytes(await stream.receive_some(http.RECEIVE_BYTES))
            if not more:
                break
            data += more
        return host, data

    async def _answer(self, stream: trio.abc.Stream, request: http.Request, source: Source) -> None:
        if not (request.wants_websocket and request.path in WEBSOCKET_PATHS):
            self.counters["pages"] += 1
            await self._respond(stream, pages.page(request, self.statistics(), is_ready=self.is_ready))
            return
        try:
            upgrade = http.canonical_upgrade(request)
        except http.BadRequest as error:
            self.counters["bad_requests"] += 1
            await self._respond(stream, http.response(error.status, f"{error}\n"))
            return
        async with accept_websocket(stream, upgrade, allow=partial(self._allow, source)) as connection:
            self.counters["websockets"] += 1
            ice_servers = partial(self.ice_servers, source.name)
            peer = RelayPeer(connection, self._engine, source, self._limits, ice_servers, self.counters)
            self._peers.add(peer)
            try:
                await peer.run()
            finally:
                self._peers.discard(peer)

    def _allow(self, source: Source, size: int, pings: int) -> bool:
        now = trio.current_time()
        if not source.bytes.take(now, size):
            self.counters["bytes_over_limit"] += 1
            return False
        if pings and not source.messages.take(now, pings):
            self.counters["pings_over_limit"] += 1
            return False
        return True

    async def _respond(self, stream: trio.abc.Stream, answer: bytes) -> None:
        with trio.move_on_after(RESPONSE_TIMEOUT_S):
            await stream.send_all(answer)
            if isinstance(stream, trio.SocketStream):
                # Let the client read the answer before the socket goes: what it still sends would reset the connection.
                await stream.send_eof()
                for _ in range(16):
                    if not await stream.receive_some(http.RECEIVE_BYTES):
                        break
            else:
                await stream.aclose()


IceServers = Sequence[Mapping[str, Any]] | Callable[[str], Sequence[Mapping[str, Any]]]
"""ICE servers for everybody, or what makes them anew for each member that joins, given its source (`source_of`)."""


def _ice_servers(servers: IceServers) -> Callable[[str], list[wire.IceServer]]:
    """Return what gives the entries for a source; a fixed list is checked at once."""
    if callable(servers):
        make = servers
        return lambda source: _checked(make(source))
    fixed = _checked(servers)
    return lambda _: fixed


def _checked(entries: Sequence[Mapping[str, Any]]) -> list[wire.IceServer]:
    try:
        return msgspec.convert([dict(entry) for entry in entries], list[wire.IceServer])
    except msgspec.ValidationError as error:
        raise ValueError(f'an ICE server looks like {{"urls": ["stun:host:3478"]}}: {error}') from None


async def _listen(host: str | None, port: int) -> list[trio.SocketListener]:
    """Return listening sockets, all of one port: a host of several addresses must not get a free port for each."""
    for attempts_left in reversed(range(FREE_PORT_ATTEMPTS)):
        listeners = await trio.open_tcp_listeners(port, host=host)
        ports = {listener.socket.getsockname()[1] for listener in listeners}
        if len(ports) == 1:
            return listeners
        for listener in listeners:
            await listener.aclose()
        try:
            return await trio.open_tcp_listeners(ports.pop(), host=host)
        except OSError:
            if not attempts_left:
                raise
    raise AssertionError("unreachable")


@asynccontextmanager
async def serve(
    *,
    host: str | None = "127.0.0.1",
    port: int = 0,
    limits: Limits | None = None,
    ice_servers: IceServers = (),
    ssl_context: ssl.SSLContext | None = None,
    engine: Engine | None = None,
    trusted_proxies: Sequence[str] = (),
) -> AsyncGenerator[Server, None]:
    """Run a relay while the block lasts.

    Args:
        host: address or name to bind; None for all addresses of both families.
        port: TCP port; 0 for any free one.
        limits: what a source may ask for.
        ice_servers: what members of a room are told: maps with `urls` and perhaps `username` and `credential`. A URL
            with an empty host, as in `stun::3478`, means the host under which the client reached this relay. A function
            is called for each member that joins or resumes, so that credentials can be of its own and short-lived.
        ssl_context: with a certificate, for `wss`.
        engine: where the rooms are kept; in memory by default.
        trusted_proxies: addresses or networks whose `X-Forwarded-For` and PROXY headers are believed.
    Raises:
        OSError: the address cannot be bound, as it came from the system.
        ValueError: an entry of `ice_servers` or `trusted_proxies` is malformed.
    """
    rooms = engine or MemoryEngine()
    server = Server(rooms, limits or Limits(), _ice_servers(ice_servers), ssl_context, parse_networks(trusted_proxies))
    listeners = await _listen(host, port)
    server.addresses = [listener.socket.getsockname()[:2] for listener in listeners]
    async with rooms.run(), open_background() as nursery:
        await nursery.start(partial(trio.serve_listeners, server.handle_stream, listeners))
        try:
            yield server
        finally:
            server.drain()
