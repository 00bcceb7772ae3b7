"""An allocation: `open_turn_socket` yields one whose relayed addresses are UDP sockets like any other."""

from __future__ import annotations

import errno
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Final

import trio

from iceagent.core import turn
from iceagent.core.address import TransportAddress
from iceagent.errors import LocalError
from iceagent.net.api import IcmpError, Network
from iceagent.net.batch import Batch
from iceagent.net.logs import limited_logger
from iceagent.net.machine import MachineTimer
from iceagent.net.staggered import first_of, summary
from iceagent.net.tasks import contained, open_background
from iceagent.net.turn.connect import TurnConnectOptions, TurnServerAddress, find_places, open_transport
from iceagent.net.turn.redirect import Redirections
from iceagent.net.turn.relayed_socket import TurnSocket
from iceagent.net.turn.transport import TurnTransport

logger = limited_logger("iceagent.turn")

RELEASE_BUDGET_S: Final = 0.5  # ours: for giving the allocation back; the server forgets it by itself in time
ROTATE_BEFORE_S: Final = 60.0  # ours: before credentials expire, new ones are asked for
ROTATE_RETRY_S: Final = 10.0  # ours
ADDRESS_DELAY_S: Final = 0.5  # ours: a server's address that has not allocated by then is joined by the next one
MAX_HOPS: Final = 4  # ours: alternate servers followed (RFC 8489 section 10 warns of loops)
MAX_MISMATCHES: Final = 3  # ours: sockets tried whose 5-tuple the server takes for another allocation's

CredentialSource = Callable[[], "turn.TurnCredentials | Awaitable[turn.TurnCredentials]"]


@dataclass(frozen=True, slots=True)
class TurnLogin:
    """Where credentials come from: fixed ones, or a function (plain or async) that is called again before they expire.

    `wall_clock` returns Unix time, by which `TurnCredentials.expires_at` is measured.
    """

    source: turn.TurnCredentials | CredentialSource | None = field(default=None, repr=False)
    wall_clock: Callable[[], float] = time.time

    async def credentials(self) -> turn.TurnCredentials | None:
        """Return credentials that are good now.

        Raises:
            LocalError: they hold what TURN cannot carry, or the function has raised something or returned none.
        """
        await trio.lowlevel.checkpoint()
        if not callable(self.source):
            found = self.source
        else:
            try:
                given = self.source()
                found = given if isinstance(given, turn.TurnCredentials) else await given
            except Exception as error:  # it is the user's, and may raise anything
                raise LocalError(f"the function for TURN credentials failed with {type(error).__name__}") from error
            if not isinstance(found, turn.TurnCredentials):
                raise LocalError(f"the function for TURN credentials returned {type(found).__name__}")
        if found is not None:
            try:
                found.check()
            except ValueError as error:
                raise LocalError(f"the credentials of a TURN server cannot be used: {error}") from None
        return found

    def rotate_in_s(self, credentials: turn.TurnCredentials | None) -> float:
        """Return after how many seconds to ask for new credentials; infinity where there are none to be had."""
        if credentials is None or credentials.expires_at is None or not callable(self.source):
            return inf
        left_s = credentials.expires_at - self.wall_clock()
        return max(left_s - ROTATE_BEFORE_S, left_s / 2, 0.0)


class TurnAllocation:
    """An allocation and the tasks that keep it alive. Made by `open_turn_socket`.

    Attributes:
        server: what was asked; after a redirection the server that gave the allocation.
        place: that of its addresses which gave it; None where a proxy chose.
        answered: see `TurnConnectOptions`.
        client: the sans-IO machine.
        transport: what carries its messages.
        sockets: one per relayed address, IPv4 first.
        lost: set when the allocation has ended, for whatever reason; `ended` says which.
    """

    def __init__(
        self,
        server: TurnServerAddress,
        client: turn.TurnClient,
        transport: TurnTransport,
        place: TransportAddress | None = None,
        answered: Callable[[], None] | None = None,
    ) -> None:
        self.server = server
        self.place = place
        self.answered = answered
        self.client = client
        self.transport = transport
        self.sockets: tuple[TurnSocket, ...] = ()
        self.lost = trio.Event()
        self.ended: turn.Ended | None = None
        self.connections: trio.MemoryReceiveChannel[turn.TurnEvent]
        self._connections, self.connections = trio.open_memory_channel[turn.TurnEvent](_MAX_CONNECTION_EVENTS)
        self._decided = trio.Event()
        self._timer = MachineTimer(client, self.settle)
        self._scope = trio.CancelScope(shield=True)

    @property
    def mapped_address(self) -> TransportAddress:
        """Our address as the server sees it."""
        assert self.client.allocated is not None
        return self.client.allocated.mapped

    @property
    def relayed_addresses(self) -> tuple[TransportAddress, ...]:
        """The addresses the server receives at for us, IPv4 first."""
        return tuple(sock.local_address for sock in self.sockets)

    @property
    def transport_name(self) -> str:
        """`udp`, `tcp`, `tls` or `dtls`: between us and the server."""
        return self.server.transport

    def permit(self, hosts: Iterable[str]) -> None:
        """Let datagrams from these IP addresses pass; those of a family we have no relayed address of are left out."""
        now = trio.current_time()
        for host in hosts:
            self.client.permit(now, host)
        self.settle()

    def set_credentials(self, credentials: turn.TurnCredentials) -> None:
        """Use new credentials without a new allocation, as far as the server lets us."""
        self.client.set_credentials(trio.current_time(), credentials)
        self.settle()

    def connect(self, peer: TransportAddress) -> None:
        """Ask for a TCP connection to a peer (RFC 6062); the result is found in `connections`."""
        self.client.connect(trio.current_time(), peer)
        self.settle()

    # Inside

    def settle(self) -> None:
        """Send the client's packets, report its events, and set the timer early enough."""
        while (transmit := self.client.poll_transmit()) is not None:
            try:
                # A full buffer loses the request, as the network may: it is sent again.
                self.transport.send_nowait((transmit.data,))
            except trio.ClosedResourceError:
                self.client.connection_lost()
        while (event := self.client.poll_event()) is not None:
            self._react(event)
        self._timer.follow()

    async def run(self) -> None:
        """Receive, keep time and write; shielded, so that the allocation can still be released while we are cancelled.

        It ends with `stop`.
        """
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.transport.run)
                nursery.start_soon(self._receive)
                nursery.start_soon(self._timer.run)

    def stop(self) -> None:
        """End all tasks and close everything, without a word to the server."""
        self.client.close()
        self.settle()
        self.transport.close()
        self._scope.cancel()

    async def allocate(self) -> None:
        """Ask for the allocation.

        Raises:
            turn.TurnError: there is none.
        """
        self.client.start(trio.current_time())
        self.settle()
        await self._decided.wait()
        if self.ended is not None:
            raise self.ended.error()

    async def release(self) -> None:
        """Give the allocation back; return when the server has said yes."""
        self.client.release(trio.current_time())
        self.settle()
        await self.lost.wait()

    async def give_back(self) -> None:
        """Release it and stop; shielded, and within `RELEASE_BUDGET_S`."""
        with trio.move_on_after(RELEASE_BUDGET_S, shield=True):
            await self.release()
        self.stop()

    async def _receive(self) -> None:
        while True:
            try:
                batches = await self.transport.receive()
            except (trio.ClosedResourceError, trio.BrokenResourceError) as error:
                logger.debug("%s: %s", self.server.url, error)
                self.client.connection_lost()
                self.settle()
                return
            now = trio.current_time()
            if self.transport.take_errors():
                self.client.note_unreachable(now)
            full: list[TurnSocket] = []
            for batch in batches:
                for peer, data, size in self.client.unwrap_batch(now, batch.data, batch.segment_size):
                    sock = self._socket_of(peer)
                    if sock is not None and not sock.put(Batch(peer, data, size)):
                        full.append(sock)
            if self.answered is not None and self.client.is_answered:
                self.answered()
                self.answered = None
            self.settle()
            for behind in full:
                await behind.wait_room()

    def _react(self, event: turn.TurnEvent) -> None:
        if isinstance(event, turn.Allocated):
            self.sockets = tuple(TurnSocket(self, address, self.transport.is_stream) for address in event.relayed)
            self._decided.set()
        elif isinstance(event, turn.Ended):
            self.ended = event
            self._decided.set()
            self.lost.set()
            for sock in self.sockets:
                sock.close()
        elif isinstance(event, turn.PermissionInstalled):
            self._permission_changed(event.host, failed=False, code=None)
        elif isinstance(event, turn.PermissionFailed):
            self._permission_changed(event.host, failed=True, code=event.code)
        elif isinstance(event, turn.PeerUnreachable):
            concerned = self._socket_of(event.peer)
            if concerned is not None:
                concerned.put_error(IcmpError(event.peer, errno.EHOSTUNREACH))
        elif isinstance(event, turn.Connected | turn.ConnectFailed | turn.ConnectionAttempted):
            try:
                self._connections.send_nowait(event)
            except trio.WouldBlock:
                logger.warning("%s: too many TCP connections of peers wait; one is left out", self.server.url)
        logger.debug("%s: %s", self.server.url, type(event).__name__)

    def _permission_changed(self, host: str, *, failed: bool, code: int | None) -> None:
        for sock in self.sockets:
            sock.permission_changed(host, failed=failed, code=code)

    def _socket_of(self, peer: TransportAddress) -> TurnSocket | None:
        return next((sock for sock in self.sockets if sock.local_address.family == peer.family), None)


_MAX_CONNECTION_EVENTS: Final = 256


@asynccontextmanager
async def open_turn_socket(
    network: Network,
    server: TurnServerAddress,
    *,
    login: TurnLogin | None = None,
    request: turn.AllocationRequest | None = None,
    options: TurnConnectOptions | None = None,
    randbytes: Callable[[int], bytes] = secrets.token_bytes,
) -> AsyncIterator[TurnAllocation]:
    """Allocate at a TURN server, and keep the allocation while the body runs; then give it back.

    It is refreshed, its credentials are renewed, redirections are followed. When it ends nevertheless (the server was
    restarted, the connection broke), `lost` is set and its sockets are closed: open another one.

    Args:
        network: where sockets come from.
        server: which server, over which transport.
        login: where credentials come from; None for a server that asks for none.
        request: what to ask for; an IPv4 address by default.
        options: local address and ports, proxy, certificates.
        randbytes: source of unpredictable bytes.

    Raises:
        turn.TurnError: the server gives no allocation.
        OSError: it cannot be reached, its name does not resolve, or its certificate does not name it.
    """
    login = login or TurnLogin()
    asked = request or turn.AllocationRequest()
    async with open_background() as nursery:
        wish = _AllocationPlan(nursery, network, login, asked, options or TurnConnectOptions(), randbytes)
        allocation = await _allocate(wish, server)
        try:
            yield allocation
        finally:
            await allocation.give_back()  # noqa: ASYNC102 - shielded and bounded within


@dataclass(frozen=True, slots=True)
class _AllocationPlan:
    """What is to be allocated, whoever the server is."""

    nursery: trio.Nursery
    network: Network
    login: TurnLogin
    request: turn.AllocationRequest
    options: TurnConnectOptions
    randbytes: Callable[[int], bytes]


class _Redirected(Exception):
    """A server has named another one, which ends the tour of its own addresses."""

    def __init__(self, error: turn.TurnError, ended: turn.Ended, place: TransportAddress | None) -> None:
        super().__init__(str(error))
        self.error = error
        self.ended = ended
        self.place = place


async def _allocate(wish: _AllocationPlan, server: TurnServerAddress) -> TurnAllocation:
    """Try the addresses of a server, follow redirections, until there is an allocation."""
    redirections = wish.options.redirections or Redirections()
    for _ in range(MAX_HOPS + 1):
        credentials = await wish.login.credentials()
        try:
            allocation: TurnAllocation = await first_of(
                await find_places(wish.network, server, wish.options),
                partial(_allocate_at, wish, server, credentials, redirections),
                discard=partial(_give_back_later, wish.nursery),
                delay_s=ADDRESS_DELAY_S,
                moves_on=lambda error: isinstance(error, OSError | turn.TurnError),
                combine=_most_informative,
            )
        except _Redirected as redirected:
            target = redirections.target(server, redirected.ended, redirected.place, wish.options.own_hosts)
            if target is None:
                raise redirected.error from None
            server = target
            continue
        redirections.forget(allocation.server, allocation.place)
        wish.nursery.start_soon(_rotate, allocation, wish.login, credentials)
        return allocation
    raise turn.TurnError(turn.EndReason.ALTERNATE_SERVER, 300, f"more than {MAX_HOPS} servers in a row")


async def _allocate_at(
    wish: _AllocationPlan,
    server: TurnServerAddress,
    credentials: turn.TurnCredentials | None,
    redirections: Redirections,
    place: TransportAddress | None,
) -> TurnAllocation:
    """Ask at one address; from another socket where the server takes our 5-tuple for another allocation's."""
    mismatches = 0
    while True:
        redirections.note_asked(server, place)
        transport = await open_transport(wish.network, server, wish.options, place)
        client = turn.TurnClient(
            transport.local_address,
            transport.server_address,
            credentials,
            randbytes=wish.randbytes,
            request=wish.request,
            stream=transport.is_stream,
        )
        allocation = TurnAllocation(server, client, transport, place, wish.options.answered)
        wish.nursery.start_soon(allocation.run)
        try:
            await allocation.allocate()
        except turn.TurnError as error:
            allocation.stop()
            ended = allocation.ended
            if ended is not None and ended.alternate is not None:
                raise _Redirected(error, ended, place) from None
            if error.reason is not turn.EndReason.MISMATCH or mismatches >= MAX_MISMATCHES:
                raise
            mismatches += 1
        except BaseException:
            # Beside the one that won, or on the way out: shielded and bounded, and nobody waits for it here.
            wish.nursery.start_soon(allocation.give_back)
            raise
        else:
            return allocation


async def _give_back_later(nursery: trio.Nursery, allocation: TurnAllocation) -> None:
    nursery.start_soon(allocation.give_back)
    await trio.lowlevel.cancel_shielded_checkpoint()


def _most_informative(errors: list[Exception]) -> Exception:
    """Return the error of the address that has said most: a server's own code before silence."""
    said = [error for error in errors if isinstance(error, turn.TurnError)]
    coded = [error for error in said if error.code is not None]
    return [*coded, *said, summary(errors)][0]


async def _rotate(allocation: TurnAllocation, login: TurnLogin, credentials: turn.TurnCredentials | None) -> None:
    """Ask for new credentials before the present ones expire, for as long as the allocation lives."""
    wait_s = login.rotate_in_s(credentials)
    while wait_s != inf:
        with trio.move_on_after(wait_s):
            await allocation.lost.wait()
            return
        wait_s = ROTATE_RETRY_S
        try:
            credentials = await login.credentials()
        except LocalError as error:  # the old ones serve on
            logger.warning("%s: no new TURN credentials: %s", allocation.server.url, error)
            continue
        if credentials is not None:
            with contained(f"{allocation.server.url}: changing credentials"):
                allocation.set_credentials(credentials)
        # A function that hands out expired credentials is not asked in a tight loop.
        wait_s = max(login.rotate_in_s(credentials), ROTATE_RETRY_S)
