"""The relay: it listens, looks at each request, serves pages itself and hands websockets to sessions.

Source: docs/relay-protocol.md sections 2, 9, 10 and 11.
"""

from __future__ import annotations

import base64
import hmac
import logging
import ssl
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import trio

from icesignal import http, wire
from icesignal.engines import Engine, MemoryEngine
from icesignal.expect import expect, expect_list
from icesignal.http import may_come_from, parse_origins
from icesignal.listener import accept_forever, connections_possible, listen
from icesignal.logs import FewLines
from icesignal.peer import RelayPeer, ServedClient
from icesignal.proxy import (
    ProxyHeaderError,
    begins_like_proxy_header,
    forwarded_for,
    forwarded_values,
    parse_proxy_header_untrusted,
)
from icesignal.sources import IPNetwork, Limits, Party, SourceTable, is_within, parse_networks
from icesignal.tasks import open_background
from icesignal.transport import HandshakeFailed, PrefixedStream, accept_websocket

logger = logging.getLogger("icesignal.server")
errors = logging.getLogger("icesignal.server.errors")  # limited: a client may have found a way to cause them
errors.addFilter(FewLines())
RESPONSE_TIMEOUT_S = 5.0
REFUSAL_S = 0.01  # ours: a client of this machine gets its answer; at 1,000 refusals a second 10 descriptors are busy
REFUSAL_TIMEOUT_S = 0.1  # for a refusal that has to go through TLS or to a configured proxy
OWNER = "owner"
WEBSOCKET_PATHS = frozenset({"/", "/v1"})
WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not bound to


@dataclass(frozen=True, slots=True)
class Access:
    """Who may do what: which proxies are trusted, which web pages may connect, who may make rooms."""

    proxies: tuple[IPNetwork, ...] = ()
    origins: frozenset[str] = frozenset()
    owner: bytes | None = None

    @classmethod
    def parse(cls, proxies: Sequence[str], origins: Sequence[str], owner_password: str | None) -> Access:
        """Return what is configured.

        Raises:
            ValueError: a network or an origin is malformed.
        """
        owner = None if owner_password is None else b"Basic " + base64.b64encode(f"{OWNER}:{owner_password}".encode())
        return cls(parse_networks(proxies), parse_origins(origins), owner)

    def may_make_rooms(self, request: http.HttpRequest) -> bool:
        """Return whether who sent the request may make rooms: anybody where there is no owner."""
        if self.owner is None:
            return True
        return any(hmac.compare_digest(value, self.owner) for value in request.values(b"authorization"))


class Server:
    """A running relay."""

    def __init__(
        self,
        engine: Engine,
        limits: Limits,
        ice_servers: Callable[[str], list[wire.RTCIceServer]],
        ssl_context: ssl.SSLContext | None,
        access: Access,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.addresses: list[tuple[str, int]] = []
        self.ice_servers = ice_servers
        self._engine = engine
        self._limits = limits
        self._max_connections = connections_possible(limits.max_connections)
        self._ssl_context = ssl_context
        self._access = access
        self._sources = SourceTable(limits)
        self._peers: set[RelayPeer] = set()
        self._unsettled: dict[trio.CancelScope, None] = {}  # connections that are in no room, the oldest first
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
        return not self._draining and self._engine.is_ready() and self._open < self._max_connections

    def drain(self) -> None:
        """Inform every client that the relay goes away, and take no new one."""
        self._draining = True
        for peer in list(self._peers):
            peer.close(wire.CloseCode.GOING_AWAY)

    # -- one connection

    async def handle_stream(self, stream: trio.SocketStream) -> None:
        """Serve one accepted connection to its end. Never raises but for cancellation."""
        try:
            await self._handle_stream(stream)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError, HandshakeFailed):
            self.counters["connections_broken"] += 1
        except Exception:
            # One connection must never end the relay. The traceback names code, not what the client sent.
            self.counters["internal_errors"] += 1
            errors.exception("a connection ended by an error of the relay")
        finally:
            await trio.aclose_forcefully(stream)

    async def _handle_stream(self, stream: trio.SocketStream) -> None:
        host: str = stream.socket.getpeername()[0]
        with ExitStack() as holding:
            # A direct client is known at once, so that slow headers, too, count against it and nobody else. And whoever
            # has had enough goes before anything is held for him.
            party = None
            if not is_within(host, self._access.proxies):
                party = self._admit(host, holding)
                if party is None:
                    await self._turn_away(stream, 429)
                    return
            if self._draining or not self._make_place():
                self.counters["connections_over_limit"] += 1
                await self._turn_away(stream, 503)
                return
            self._open += 1
            self.counters["connections"] += 1
            with trio.CancelScope() as scope:
                self._unsettled[scope] = None
                try:
                    await self._serve(stream, host, party, holding, scope)
                finally:
                    self._unsettled.pop(scope, None)
                    self._open -= 1

    def _make_place(self) -> bool:
        """Return whether another connection has place, if need be that of the oldest which is in no room."""
        return self._open < self._max_connections or self.shed_oldest()

    def shed_oldest(self) -> bool:
        """End the oldest connection that is in no room; return whether there was one."""
        oldest = next(iter(self._unsettled), None)
        if oldest is None:
            return False
        del self._unsettled[oldest]
        oldest.cancel()
        self.counters["connections_shed"] += 1
        return True

    async def _serve(
        self, raw: trio.SocketStream, host: str, party: Party | None, holding: ExitStack, scope: trio.CancelScope
    ) -> None:
        stream, request, party = await self._read_request(raw, host, party, holding)
        if request is None:
            return
        if party is None:
            chain = forwarded_values(request.values(b"x-forwarded-for"), request.values(b"forwarded"))
            party = self._admit(forwarded_for(host, chain, self._access.proxies), holding)
        if party is None:
            await self._turn_away(stream, 429, REFUSAL_TIMEOUT_S)
            return
        await self._answer(stream, request, party, scope)

    def _admit(self, host: str, holding: ExitStack) -> Party | None:
        """Return who is connected, which counts the connection from now on; None when there are too many."""
        now = trio.current_time()
        party = self._sources.party(now, host)
        if not party.is_full and party.take("connections", now):
            holding.enter_context(party.hold())
            return party
        self.counters["connections_refused"] += 1
        return None

    async def _turn_away(self, stream: trio.abc.Stream, status: int, patience_s: float = REFUSAL_S) -> None:
        """Say no in no time: a refused connection must not hold a descriptor.

        What the client says at once is read, since to close with that unread resets the connection, and the answer may
        be lost.
        """
        if isinstance(stream, trio.SocketStream) and self._ssl_context is not None:
            return  # nothing can be said before the handshake
        with trio.move_on_after(patience_s):
            await stream.send_all(http.response(status))
            if isinstance(stream, trio.SocketStream):
                await stream.send_eof()
                await stream.receive_some(http.MAX_REQUEST_BYTES)

    async def _read_request(
        self, raw: trio.SocketStream, host: str, party: Party | None, holding: ExitStack
    ) -> tuple[trio.abc.Stream, http.HttpRequest | None, Party | None]:
        """Return the stream, decrypted if need be, its request (None: answered here) and who sent it, if known yet."""
        stream: trio.abc.Stream = raw
        bad = http.BadRequest(408, "the request took too long")
        with trio.move_on_after(self._limits.header_timeout_s) as scope:
            try:
                prefix = b""
                if party is None:
                    client, prefix = await self._read_proxy_header(raw)
                    if client is not None:
                        party = self._admit(client, holding)
                        if party is None:
                            raise http.BadRequest(429, "too many connections")
                if self._ssl_context is not None:
                    encrypted = PrefixedStream(raw, prefix)
                    stream = trio.SSLStream(encrypted, self._ssl_context, server_side=True, https_compatible=True)
                    prefix = b""
                return stream, await http.read_request(stream, prefix), party
            except http.BadRequest as error:
                bad = error
        if bad.status == 429:
            await self._turn_away(stream, bad.status, REFUSAL_TIMEOUT_S)
        else:
            self.counters["headers_too_slow" if scope.cancelled_caught else "bad_requests"] += 1
            await self._respond(stream, http.response(bad.status, f"{bad}\n"))
        return stream, None, party

    @staticmethod
    async def _read_proxy_header(stream: trio.SocketStream) -> tuple[str | None, bytes]:
        """Return the client's address if a PROXY header has it, and the bytes that were read too far."""
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

    async def _answer(
        self, stream: trio.abc.Stream, request: http.HttpRequest, party: Party, scope: trio.CancelScope
    ) -> None:
        if not (request.wants_websocket and request.path in WEBSOCKET_PATHS):
            self.counters["pages"] += 1
            await self._respond(stream, http.page(request, self.statistics(), is_ready=self.is_ready))
            return
        try:
            upgrade = http.canonical_upgrade(request)
            if not may_come_from(request.values(b"origin"), self._access.origins):
                self.counters["origins_refused"] += 1
                raise http.BadRequest(403, "this relay is not for that web page; its operator may allow the origin")
        except http.BadRequest as error:
            self.counters["bad_requests"] += 1
            await self._respond(stream, http.response(error.status, f"{error}\n"))
            return
        async with accept_websocket(stream, upgrade, allow=partial(self._allow, party)) as connection:
            self.counters["websockets"] += 1
            settle = partial(self._unsettled.pop, scope, None)
            client = ServedClient(party, self._access.may_make_rooms(request), settle)
            ice_servers = partial(self.ice_servers, party.name)
            peer = RelayPeer(connection, self._engine, client, self._limits, ice_servers, self.counters)
            self._peers.add(peer)
            try:
                await peer.run()
            finally:
                self._peers.discard(peer)

    def _allow(self, party: Party, size: int, pings: int) -> bool:
        now = trio.current_time()
        if not party.take("bytes", now, size):
            self.counters["bytes_over_limit"] += 1
            return False
        if pings and not party.take("messages", now, pings):
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


def _ice_servers(servers: IceServers) -> Callable[[str], list[wire.RTCIceServer]]:
    """Return what gives the entries for a source; a fixed list is checked at once."""
    if callable(servers):
        make = servers
        return lambda source: _checked(make(source))
    fixed = _checked(servers)
    return lambda _: fixed


def _checked(entries: Sequence[Mapping[str, Any]]) -> list[wire.RTCIceServer]:
    try:
        return msgspec.convert([dict(entry) for entry in entries], list[wire.RTCIceServer])
    except msgspec.ValidationError as error:
        raise ValueError(f'an ICE server looks like {{"urls": ["stun:host:3478"]}}: {error}') from None


@asynccontextmanager
async def serve(
    *,
    host: str | Sequence[str] | None = "127.0.0.1",
    port: int = 0,
    limits: Limits | None = None,
    ice_servers: IceServers = (),
    ssl_context: ssl.SSLContext | None = None,
    engine: Engine | None = None,
    trusted_proxies: Sequence[str] = (),
    allow_origins: Sequence[str] = (),
    owner_password: str | None = None,
) -> AsyncGenerator[Server, None]:
    """Run a relay while the block lasts.

    Args:
        host: address or name to bind, or several; None for all addresses of both families.
        port: TCP port; 0 for any free one.
        limits: what a source may ask for.
        ice_servers: what members of a room get: maps with `urls` and perhaps `username` and `credential`. A URL
            with an empty host, as in `stun::3478`, means the host under which the client reached this relay. A function
            is called for each member that joins or resumes, so that credentials can be of its own and short-lived.
        ssl_context: with a certificate, for `wss`.
        engine: where the rooms are kept; in memory by default.
        trusted_proxies: addresses or networks whose `X-Forwarded-For`, `Forwarded` and PROXY headers are believed.
        allow_origins: web pages that may use the relay, each `https://HOST[:PORT]`, or `*`; none by default.
        owner_password: where given, only who has it in the URL, as in `ws://owner:PASSWORD@HOST`, makes rooms, and
            everybody else may only join them.
    Raises:
        OSError: the address cannot be bound, as it came from the system.
        ValueError: an entry of `ice_servers`, `trusted_proxies` or `allow_origins` is malformed.
    """
    expect(int, port=port)
    expect(Limits, None, limits=limits)
    expect(ssl.SSLContext, None, ssl_context=ssl_context)
    expect(str, None, owner_password=owner_password)
    expect_list(trusted_proxies=trusted_proxies, allow_origins=allow_origins)
    expect(str, list, tuple, None, host=host)
    rooms = engine or MemoryEngine()
    access = Access.parse(trusted_proxies, allow_origins, owner_password)
    server = Server(rooms, limits or Limits(), _ice_servers(ice_servers), ssl_context, access)
    listeners = await listen(host, port)
    server.addresses = [listener.socket.getsockname()[:2] for listener in listeners]
    async with rooms.run(), open_background() as nursery:
        for listener in listeners:
            nursery.start_soon(accept_forever, listener, server.handle_stream, server.shed_oldest)
        try:
            yield server
        finally:
            server.drain()
