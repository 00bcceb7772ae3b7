"""The relay: it listens, looks at each request, serves pages itself and hands websockets to sessions.

Source: docs/relay-protocol.md sections 2, 9, 10 and 11.
"""

from __future__ import annotations

import logging
import math
import secrets
import socket
import ssl
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import trio

from icesignal import http, metrics, wire
from icesignal.access import Access, IceServers, OwnersMeetings, servers_for_each
from icesignal.admin import AdminDesk
from icesignal.engines import Engine, MemoryEngine
from icesignal.expect import expect, expect_list
from icesignal.first_bytes import TLS_HANDSHAKE, StunConnection, Tls, open_stream, read_proxy_header
from icesignal.http import may_come_from
from icesignal.listener import accept_forever, adopted, connections_possible, listen_all
from icesignal.logs import FewLines
from icesignal.outcomes import Outcomes
from icesignal.peer import Encoder, Host, RelayPeer
from icesignal.peer import logger as clients
from icesignal.proxy import forwarded_for, forwarded_values
from icesignal.pseudonyms import Pseudonyms
from icesignal.sources import Limits, Party, SourceTable, is_within
from icesignal.status.desk import StatusDesk
from icesignal.systemd import ADMIN
from icesignal.tasks import open_background
from icesignal.toll import Claims, Pressure, tries_for_claim
from icesignal.transport import PrefixedStream
from icesignal.websocket import ServedWebsocket, Websockets

logger = logging.getLogger("icesignal.server")
errors = logging.getLogger("icesignal.server.errors")  # limited: a client may have found a way to cause them
errors.addFilter(FewLines())
REFUSAL_S = 0.01  # ours: a client of this machine gets its answer; at 1,000 refusals a second 10 descriptors are busy
LEAVING_S = 5.0  # ours: a client that was told to go has its close frame answered by then, or never
REFUSAL_TIMEOUT_S = 0.1  # for a refusal that has to go through TLS or to a configured proxy
_random = secrets.SystemRandom().random
WEBSOCKET_PATHS = frozenset({"/", "/v1"})
WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not bound to


@dataclass(slots=True)
class Arrival:
    """A connection of which nothing is known but where it comes from; `party` is None while a proxy may name it.

    `host` and `port` are the client's as soon as a PROXY header has named them. `settle` keeps it from being ended when
    others need its place.
    """

    raw: trio.SocketStream
    host: str
    port: int
    settle: Callable[[], None]
    party: Party | None = None


class Server:
    """A running relay."""

    def __init__(
        self,
        engine: Engine,
        limits: Limits,
        ice_servers: Callable[[str], list[wire.RTCIceServer]],
        tls: Tls | None,
        access: Access,
        more_metrics: Callable[[], str] | None = None,
        status_token: str | None = None,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.websockets = Websockets()
        self.outcomes = Outcomes()
        self._pseudonyms = Pseudonyms()
        self.addresses: list[tuple[str, int]] = []
        self.admin_addresses: list[tuple[str, int]] = []
        self.ice_servers = ice_servers
        self._engine = engine
        self._limits = limits
        self._max_connections = connections_possible(limits.max_connections)
        self._tls = tls
        self._more_metrics = more_metrics or (lambda: "")
        self._access = access
        self._sources = SourceTable(limits)
        self._host = Host(
            engine=engine,
            limits=limits,
            counters=self.counters,
            outcomes=self.outcomes,
            encode=Encoder().encode,
            ice_servers=self._servers_for,
            pseudonym=self._pseudonyms.of,
            meetings=None if access.owner is None else OwnersMeetings(),
            claims=Claims(),
            is_draining=lambda: self._draining,
            pressure=self._pressure,
        )
        self._peers: set[RelayPeer] = set()
        self._unsettled: dict[trio.CancelScope, None] = {}  # connections that are in no room, the oldest first
        self._open = 0
        self._draining = False
        self._left = trio.Event()
        self._status: StatusDesk | None = None
        if status_token is not None:
            self._status = StatusDesk(status_token.encode(), self.metrics, lambda: self.state, self.counters)
        page = partial(self._page, is_admin=True)
        self._admin = AdminDesk(page, self._status, access.proxies, self.counters, limits.header_timeout_s)

    @property
    def port(self) -> int:
        """The port of the first listening socket."""
        return self.addresses[0][1]

    @property
    def url(self) -> str:
        """Where a client of this machine reaches the relay; a wildcard address is shown as loopback."""
        host, port = self.addresses[0]
        host = WILDCARDS.get(host, host)
        scheme = "wss" if self._tls is not None and self._tls.is_required else "ws"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    def statistics(self) -> Mapping[str, int]:
        """Return the totals of the relay and its engine, and gauges such as `connections_open` and `sources`."""
        gauges = {
            "connections_open": self._open,
            "connections_limit": self._max_connections,
            "sources": len(self._sources),
            "work_tries": tries_for_claim(self._limits, self._pressure()),
        }
        engine = {f"engine_{name}": value for name, value in self._engine.statistics().items()}
        return {**self.counters, **gauges, **engine}

    @property
    def is_ready(self) -> bool:
        """Whether the relay takes new rooms."""
        return self.state == "ready"

    @property
    def state(self) -> Literal["ready", "full", "draining", "store-away"]:
        """Whether the relay takes new rooms, or why not."""
        if self._draining:
            return "draining"
        if self._engine.statistics().get("store_away"):
            return "store-away"
        return "ready" if self._open < self._max_connections and self._engine.is_ready() else "full"

    @property
    def is_draining(self) -> bool:
        """Whether it takes neither connections nor rooms any more."""
        return self._draining

    def drain(self) -> None:
        """Inform every client that the relay goes away, and take no new one."""
        self._draining = True
        for peer in list(self._peers):
            peer.close(wire.CloseCode.GOING_AWAY)

    async def drain_within(self, spread_s: float, jitter: Callable[[], float] = _random) -> None:
        """Take nothing new, and send the clients away one by one: all at once they would all come back at once.

        Returns when they are gone, at the latest `LEAVING_S` after the last one was told.

        Args:
            spread_s: within how many seconds they are told.
            jitter: gives numbers from 0 to 1.
        """
        self._draining = True
        began_at = trio.current_time()
        turns = sorted(((began_at + spread_s * jitter(), peer) for peer in self._peers), key=lambda turn: turn[0])
        for at, peer in turns:
            await trio.sleep_until(at)
            peer.close(wire.CloseCode.GOING_AWAY)
        self.drain()  # who was being let in as it began
        with trio.move_on_after(LEAVING_S):
            while self._peers:
                self._left = trio.Event()
                await self._left.wait()

    def metrics(self) -> str:
        """Return all that is counted, as Prometheus' text."""
        return metrics.render(self.statistics(), self.outcomes.families()) + self._more_metrics()

    def _page(self, request: http.HttpRequest, *, is_admin: bool) -> bytes:
        return http.page(request, self.statistics() if is_admin else None, self.metrics, is_ready=self.is_ready)

    def start(
        self,
        nursery: trio.Nursery,
        listeners: Sequence[trio.SocketListener],
        admins: Sequence[trio.SocketListener],
    ) -> None:
        """Serve in a nursery what comes to the listeners, those of the relay and those of its operator."""
        self.addresses = [listener.socket.getsockname()[:2] for listener in listeners]
        self.admin_addresses = [listener.socket.getsockname()[:2] for listener in admins]
        for listener in listeners:
            nursery.start_soon(accept_forever, listener, self.handle_stream, self.shed_oldest)
        for listener in admins:
            nursery.start_soon(accept_forever, listener, self._admin.handle_stream, self.shed_oldest)
        if self._status is not None:
            nursery.start_soon(self._status.run)

    # -- one connection

    async def handle_stream(self, stream: trio.SocketStream) -> None:
        """Serve one accepted connection to its end. Never raises but for cancellation."""
        try:
            await self._handle_stream(stream)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError, trio.TooSlowError):
            self.counters["connections_broken"] += 1
        except Exception:
            # One connection must never end the relay. The traceback names code, not what the client sent.
            self.counters["internal_errors"] += 1
            errors.exception("a connection ended by an error of the relay")
        finally:
            stream.socket.close()

    async def _handle_stream(self, stream: trio.SocketStream) -> None:
        host, port = stream.socket.getpeername()[:2]
        scope = trio.CancelScope()
        arrival = Arrival(stream, host, port, partial(self._settle, scope))
        try:
            # A direct client is known at once, so that slow headers, too, count against it and nobody else. And whoever
            # has had enough goes before anything is held for him.
            if not (is_within(host, self._access.proxies) or self._admit(arrival, host)):
                await self._turn_away(stream, 429, is_unread=True)
                return
            if self._draining or not self._make_place():
                self.counters["connections_over_limit"] += 1
                await self._turn_away(stream, 503, is_unread=True)
                return
            self._open += 1
            self.counters["connections"] += 1
            with scope:
                self._unsettled[scope] = None
                try:
                    await self._serve(arrival)
                finally:
                    self._unsettled.pop(scope, None)
                    self._open -= 1
        finally:
            if arrival.party is not None:
                arrival.party.count_connections(-1)

    def _settle(self, scope: trio.CancelScope) -> None:
        self._unsettled.pop(scope, None)

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

    async def _serve(self, arrival: Arrival) -> None:
        stream, request = await self._read_request(arrival)
        if request is None:
            return
        if arrival.party is None:
            chain = forwarded_values(request.values(b"x-forwarded-for"), request.values(b"forwarded"))
            self._admit(arrival, forwarded_for(arrival.host, chain, self._access.proxies))
        if arrival.party is None:
            await self._turn_away(stream, 429, REFUSAL_TIMEOUT_S)
            return
        websocket = await self._answer(stream, request, arrival.party)
        if websocket is not None:
            may_make_rooms = self._access.may_make_rooms(request)
            del request  # which takes more than all else, and the websocket may last for days
            peer = RelayPeer(websocket, self._host, arrival.party, arrival.settle, may_make_rooms=may_make_rooms)
            await self._run(peer, websocket)

    def _admit(self, arrival: Arrival, host: str) -> bool:
        """Note who is connected, which counts the connection from now on; return False when there are too many."""
        now = trio.current_time()
        party = self._sources.party(now, host)
        if not party.is_full and party.take("connections", now):
            party.count_connections(1)
            arrival.party = party
            return True
        self.counters["connections_refused"] += 1
        source = self._pseudonyms.of(party.name)
        extra = {"event": "connections_refused", "source": source}
        clients.info("%s has too many connections; another one is refused", source, extra=extra)
        return False

    async def _turn_away(
        self, stream: trio.abc.Stream, status: int, patience_s: float = REFUSAL_S, *, is_unread: bool = False
    ) -> None:
        """Say no in no time: a refused connection must not hold a descriptor.

        What the client says at once is read, since to close with that unread resets the connection, and the answer may
        be lost. Of what `is_unread` the first byte is looked at: nobody can be told anything before his handshake.
        """
        is_raw = isinstance(stream, trio.SocketStream)
        if is_raw and self._tls is not None and self._tls.is_required:
            return  # nothing can be said before the handshake
        with trio.move_on_after(patience_s):
            if (
                is_raw
                and is_unread
                and self._tls is not None
                and (await stream.receive_some(1)) in (b"", TLS_HANDSHAKE)
            ):
                return
            await stream.send_all(http.response(status))
            if isinstance(stream, trio.SocketStream):
                await stream.send_eof()
                await stream.receive_some(http.MAX_REQUEST_BYTES)

    async def _read_request(self, arrival: Arrival) -> tuple[trio.abc.Stream, http.HttpRequest | None]:
        """Return the stream, decrypted if need be, and its request; None if it was none and is served here."""
        stream: trio.abc.Stream = arrival.raw
        bad = http.BadRequest(408, "the request took too long")
        with trio.move_on_after(self._limits.header_timeout_s) as scope:
            try:
                first = await self._read_proxy_header(arrival) if arrival.party is None else b""
                stream, first, is_stun = await open_stream(arrival.raw, first, self._tls)
                if not is_stun:
                    return stream, await http.read_request(stream, first)
                scope.deadline = math.inf
                await self._serve_stun(arrival, PrefixedStream(stream, first))
                return stream, None
            except http.BadRequest as error:
                bad = error
        if bad.status == 429:
            await self._turn_away(stream, bad.status, REFUSAL_TIMEOUT_S)
        else:
            self.counters["headers_too_slow" if scope.cancelled_caught else "bad_requests"] += 1
            await http.respond(stream, http.response(bad.status, f"{bad}\n"))
        return stream, None

    async def _read_proxy_header(self, arrival: Arrival) -> bytes:
        """Note whom a trusted proxy names, if it does; return the bytes that were read too far."""
        client, first = await read_proxy_header(arrival.raw)
        if client is not None:
            arrival.host, arrival.port = client
            if not self._admit(arrival, arrival.host):
                raise http.BadRequest(429, "too many connections")
        return first

    async def _serve_stun(self, arrival: Arrival, stream: trio.abc.Stream) -> None:
        """Hand a connection over to the TURN server on our port; it counts as one of ours to its end."""
        if arrival.party is None and not self._admit(arrival, arrival.host):
            return
        if self._tls is None or self._tls.serve_stun is None:
            return
        self.counters["stun_connections"] += 1
        local, remote = arrival.raw.socket.getsockname()[:2], (arrival.host, arrival.port)
        await self._tls.serve_stun(StunConnection(stream, local, remote, arrival.settle))

    async def _answer(self, stream: trio.abc.Stream, request: http.HttpRequest, party: Party) -> ServedWebsocket | None:
        """Return the websocket that is asked for; None where it was something else, or is refused, and is answered."""
        if not (request.wants_websocket and request.path in WEBSOCKET_PATHS):
            self.counters["pages"] += 1
            await http.respond(stream, self._page(request, is_admin=not self.admin_addresses))
            return None
        try:
            answer = http.upgrade(request)
            if not may_come_from(request.values(b"origin"), self._access.origins):
                self.counters["origins_refused"] += 1
                raise http.BadRequest(403, "this relay is not for that web page; its operator may allow the origin")
        except http.BadRequest as error:
            self.counters["bad_requests"] += 1
            await http.respond(stream, http.response(error.status, f"{error}\n"))
            return None
        return self.websockets.accept(stream, answer, request.trailing, allow=partial(self._allow, party))

    async def _run(self, peer: RelayPeer, websocket: ServedWebsocket) -> None:
        async with websocket:
            self.counters["websockets"] += 1
            self._peers.add(peer)
            try:
                await peer.run()
            finally:
                self._peers.discard(peer)
                self._left.set()

    def _pressure(self) -> Pressure:
        """Return how hard we are pressed: by guesses, and by what is nearest to its end, rooms or connections in them.

        Connections in no room make place for others, and would have honest people work for theirs.
        """
        pressure = self._engine.pressure()
        members = self._open - len(self._unsettled)
        return replace(pressure, load=max(pressure.load, members / max(1, self._max_connections)))

    def _servers_for(self, source: str) -> list[wire.RTCIceServer]:
        """Return the ICE servers of a member; none where they cannot be made: its place in the room is worth more."""
        try:
            return self.ice_servers(source)
        except Exception:
            self.counters["servers_failed"] += 1
            errors.exception("ICE servers could not be made; a member is told of none")
            return []

    def _allow(self, party: Party, size: int, pings: int) -> bool:
        now = trio.current_time()
        if not party.take("bytes", now, size):
            self.counters["bytes_over_limit"] += 1
            return False
        if pings and not party.take("messages", now, pings):
            self.counters["pings_over_limit"] += 1
            return False
        return True


@asynccontextmanager
async def serve(
    *,
    host: str | Sequence[str] | None = "127.0.0.1",
    port: int = 0,
    limits: Limits | None = None,
    ice_servers: IceServers = (),
    ssl_context: ssl.SSLContext | Tls | None = None,
    engine: Engine | None = None,
    trusted_proxies: Sequence[str] = (),
    allow_origins: Sequence[str] = (),
    owner_password: str | None = None,
    admin: tuple[str | Sequence[str] | None, int] | None = None,
    more_metrics: Callable[[], str] | None = None,
    status_token: str | None = None,
    sockets: Mapping[str, Sequence[socket.socket]] | None = None,
    listeners: Sequence[trio.abc.Listener[Any]] = (),
) -> AsyncGenerator[Server, None]:
    """Run a relay while the block lasts.

    Args:
        host: address or name to bind, or several; None for all addresses of both families.
        port: TCP port; 0 for any free one.
        limits: what a source may ask for.
        ice_servers: what members of a room get: maps with `urls` and perhaps `username` and `credential`. A URL
            with an empty host, as in `stun::3478`, means the host under which the client reached this relay. A function
            is called for each member that joins or resumes, so that credentials can be short-lived; and at first.
        ssl_context: with a certificate, for `wss`; a `Tls` where `ws` or STUN are to be served on the same port.
        engine: where the rooms are kept; in memory by default.
        trusted_proxies: addresses or networks whose `X-Forwarded-For`, `Forwarded` and PROXY headers are believed.
        allow_origins: web pages that may use the relay, each `https://HOST[:PORT]`, or `*`; none by default.
        owner_password: where given, only who has it in the URL, as in `ws://owner:PASSWORD@HOST`, makes rooms, and
            everybody else may only join them.
        admin: host and port of a listener of its own for `/metrics` and the other pages, which strangers must not
            reach; `/metrics` and `/` are on no other one then.
        more_metrics: gives further text for `/metrics`.
        status_token: where given, `/status` of the operator's listener is a page for whoever has it.
        sockets: listening ones to use instead of `host` and `port` (`relay`) and of `admin`.
        listeners: those of a virtual network, instead of `host` and `port`.
    Raises:
        OSError: the address cannot be bound, as it came from the system.
        ValueError: `ice_servers`, `trusted_proxies` or `allow_origins` is malformed, or `status_token` has no `admin`.
    """
    expect(int, port=port)
    expect(Limits, None, limits=limits)
    expect(ssl.SSLContext, Tls, None, ssl_context=ssl_context)
    expect(str, None, owner_password=owner_password, status_token=status_token)
    expect_list(trusted_proxies=trusted_proxies, allow_origins=allow_origins)
    expect(str, list, tuple, None, host=host)
    rooms = engine or MemoryEngine()
    access = Access.parse(trusted_proxies, allow_origins, owner_password)
    tls = Tls(ssl_context) if isinstance(ssl_context, ssl.SSLContext) else ssl_context
    _check_status(status_token, has_listener=admin is not None or bool((sockets or {}).get(ADMIN)))
    server = Server(rooms, limits or Limits(), servers_for_each(ice_servers), tls, access, more_metrics, status_token)
    found, admins = await listen_all(host, port, admin, sockets or {}, adopted(listeners))
    async with rooms.run(), server.websockets.run(), open_background() as nursery:
        server.start(nursery, found, admins)
        try:
            yield server
        finally:
            server.drain()


def _check_status(token: str | None, *, has_listener: bool) -> None:
    if token is None:
        return
    if not token.strip():
        raise ValueError("status_token is empty: everybody would have it")
    if not has_listener:
        raise ValueError("a status page is for operators: give them a listener of their own (--admin-listen)")
