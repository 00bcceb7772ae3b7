"""One UDP port that many ICE sessions use at once: for servers that hold thousands of them.

`SharedPort` has one socket per local address and one receive loop per socket; `attach` gives each session a
`SharedSocket`, which is an `iceagent.net.api.UdpSocket` like any other. `net.demultiplexer` decides whose a datagram
is.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import trio

from iceagent.core.address import TransportAddress
from iceagent.errors import LocalError
from iceagent.net.api import IcmpError, Network, SocketStatistics, UdpSocket
from iceagent.net.batch import Batch
from iceagent.net.demultiplexer import Demultiplexer, PortMember
from iceagent.net.options import bound_to
from iceagent.net.tasks import log_unforeseen

QUEUE_LIMIT: Final = 256 * 1024  # ours: bytes of one session that may wait for its receive loop
MAX_ERRORS: Final = 64

_BATCH_OVERHEAD: Final = 128  # bytes charged per batch, so that a flood of empty datagrams is bounded, too
_LAST_STUN_BYTE: Final = 3  # RFC 7983 section 7
_WILDCARDS: Final = frozenset(("0.0.0.0", "::"))  # noqa: S104 (to be compared with)
NOBODY_THERE: Final = "address-without-sessions"

Take = Callable[[Sequence[Batch]], None]


class SharedSocket:
    """One session's share of a socket; see `iceagent.net.api.UdpSocket`. Closing it leaves the socket open.

    What is received waits in a bounded queue; what comes when it is full is dropped and counted, so that one slow
    session keeps nobody else waiting. Or it is handed over at once: see `divert`.
    """

    __slots__ = (
        "_closed",
        "_demultiplexer",
        "_errors",
        "_lot",
        "_member",
        "_queue",
        "_size",
        "_sock",
        "_source",
        "_statistics",
        "_take",
        "datagrams_dropped",
    )

    def __init__(self, sock: UdpSocket, demultiplexer: Demultiplexer[SharedSocket], source: str | None = None) -> None:
        self._sock = sock
        self._source = source  # which address it is at, where the socket is bound to a wildcard
        self._demultiplexer = demultiplexer
        self._member: PortMember[SharedSocket] = demultiplexer.join(self)
        self._queue: deque[Batch] | None = None
        self._size = 0
        self._errors: list[IcmpError] = []
        self._lot: trio.lowlevel.ParkingLot | None = None
        self._take: Take | None = None
        self._statistics = SocketStatistics()
        self._closed = False
        self.datagrams_dropped = 0

    @property
    def local_address(self) -> TransportAddress:
        """The address of the socket that is shared, or the one within its wildcard that the session is at."""
        return bound_to(self._sock.local_address, self._source)

    # Whose datagrams it gets

    def add_ufrag(self, ufrag: str) -> None:
        """Receive the requests that name this username fragment, too.

        Raises:
            LocalError: another session of this port has the same one.
        """
        try:
            self._demultiplexer.add_ufrag(self._member, ufrag)
        except ValueError as error:
            raise LocalError(f"{error}; let each agent make its own credentials") from error

    def note_authenticated(self, now: float, remote: TransportAddress, datagram: bytes, *, valid: bool) -> None:
        """Take note that a STUN message from `remote` was authentic; see `Demultiplexer.note_authenticated`."""
        self._demultiplexer.note_authenticated(now, self._member, remote, datagram, valid=valid)

    def divert(self, take: Take) -> None:
        """Hand what arrives to `take` from now on, right in the port's loop: it must not fail, and `receive` gets none.

        That saves a task per session and a wake-up per arrival. It is called without batches when ICMP errors came.
        """
        self._take = take
        if self._queue or self._errors:
            waiting = list(self._queue or ())
            self._queue, self._size = None, 0
            take(waiting)

    # Receiving

    def deliver(self, batch: Batch) -> None:
        """Give the session a batch that is its own."""
        self._statistics.receive_calls += 1
        self._statistics.datagrams_received += len(batch)
        self._statistics.bytes_received += len(batch.data)
        if self._take is not None:
            self._take((batch,))
            return
        cost = len(batch.data) + _BATCH_OVERHEAD
        if self._closed or self._size + cost > QUEUE_LIMIT:
            self.datagrams_dropped += len(batch)
            return
        if self._queue is None:
            self._queue = deque()
        self._queue.append(batch)
        self._size += cost
        if self._lot is not None:
            self._lot.unpark_all()

    def deliver_error(self, error: IcmpError) -> None:
        """Give the session an ICMP error that concerns it."""
        self._statistics.icmp_errors += 1
        if len(self._errors) >= MAX_ERRORS:
            del self._errors[0]
        self._errors.append(error)
        if self._take is not None:
            self._take(())
        elif self._lot is not None:
            self._lot.unpark_all()

    async def receive(self) -> list[Batch]:
        """Wait for datagrams or ICMP errors; return all that is at hand, oldest first.

        Raises:
            trio.ClosedResourceError: it was closed here, or the port was.
        """
        await trio.lowlevel.checkpoint()
        while not self._queue and not self._errors:
            self._check_open()
            if self._lot is None:
                self._lot = trio.lowlevel.ParkingLot()
            await self._lot.park()
        self._check_open()
        batches = list(self._queue or ())
        self._queue, self._size = None, 0
        return batches

    def take_errors(self) -> list[IcmpError]:
        """Return and forget the ICMP errors that arrived, oldest first, at most `MAX_ERRORS`."""
        errors, self._errors = self._errors, []
        return errors

    # Sending

    def send_nowait(self, datagrams: Sequence[bytes], remote: TransportAddress, *, source: str | None = None) -> int:
        """Send what the socket takes at once; return how many, refused ones included.

        Raises:
            trio.ClosedResourceError: it was closed here, or the port was.
        """
        self._check_open()
        self._note_sent(datagrams, remote)
        taken = self._sock.send_nowait(datagrams, remote, source=source or self._source)
        self._count_sent(datagrams if taken == len(datagrams) else datagrams[:taken])
        return taken

    async def send(self, datagrams: Sequence[bytes], remote: TransportAddress, *, source: str | None = None) -> None:
        """Send all, waiting while the buffer is full, in turn with the other sessions.

        Raises:
            trio.ClosedResourceError: it was closed here, or the port was.
        """
        self._check_open()
        self._note_sent(datagrams, remote)
        await self._sock.send(datagrams, remote, source=source or self._source)
        self._count_sent(datagrams)

    def _note_sent(self, datagrams: Sequence[bytes], remote: TransportAddress) -> None:
        if datagrams and datagrams[0] and datagrams[0][0] <= _LAST_STUN_BYTE:
            self._demultiplexer.note_sent(trio.current_time(), self._member, remote, datagrams[0])

    def _count_sent(self, datagrams: Sequence[bytes]) -> None:
        self._statistics.send_calls += 1
        self._statistics.datagrams_sent += len(datagrams)
        self._statistics.bytes_sent += sum(map(len, datagrams))

    # Housekeeping

    def statistics(self) -> SocketStatistics:
        """Return the live counters of this session alone."""
        return self._statistics

    def close(self) -> None:
        """Leave the port; whoever waits in `receive` gets `trio.ClosedResourceError`. Idempotent."""
        self._closed = True
        self._take = None
        self._queue, self._size = None, 0
        self._errors.clear()
        self._demultiplexer.leave(self._member)
        if self._lot is not None:
            self._lot.unpark_all()

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this share of a UDP port is closed")


class SharedPort:
    """The sockets of one port number and the sessions on them. Made by `iceagent.open_shared_port`.

    Args:
        network: where the sockets come from; agents at this port use the same.
        sockets: bound to addresses, or to a wildcard that stands for all others of its family; owned from now on.
    """

    def __init__(self, network: Network, sockets: Sequence[UdpSocket]) -> None:
        self.network = network
        self._sockets = {sock.local_address.host: sock for sock in sockets}
        self._tables: dict[str, Demultiplexer[SharedSocket]] = {
            host: Demultiplexer() for host in self._sockets if host not in _WILDCARDS
        }
        self._nobodys: Counter[str] = Counter()
        self._closed = False

    @property
    def addresses(self) -> tuple[TransportAddress, ...]:
        """The bound addresses, all with the same port number."""
        return tuple(sock.local_address for sock in self._sockets.values())

    @property
    def sessions(self) -> int:
        """How many sessions there are; one at two addresses counts once."""
        return max(map(len, self._tables.values()), default=0)

    @property
    def counters(self) -> Counter[str]:
        """How many datagrams were nobody's, by reason."""
        total: Counter[str] = Counter(self._nobodys)
        for table in self._tables.values():
            total.update({reason.value: count for reason, count in table.counters.items()})
        return total

    def statistics(self) -> list[SocketStatistics]:
        """Return the live counters of the sockets, in the order of `addresses`."""
        return [sock.statistics() for sock in self._sockets.values()]

    def attach(self, host: str, ufrag: str) -> SharedSocket | None:
        """Return a new session's share of the socket at `host`; None where the port has none there.

        Args:
            host: a local address: one of `addresses`, or any of this machine where a wildcard is bound.
            ufrag: the session's own username fragment; `SharedSocket.add_ufrag` adds those of restarts.

        Raises:
            LocalError: the port is full or closed, or another session has the same username fragment.
        """
        if self._closed:
            raise LocalError("this shared port is closed; open agents inside its `async with`")
        sock, source = self._sockets.get(host), None
        if sock is None:
            sock, source = self._sockets.get("::" if ":" in host else "0.0.0.0"), host  # noqa: S104 (a key)
        if sock is None:
            return None
        try:
            share = SharedSocket(sock, self._table_of(host), source)
        except ValueError as error:
            raise LocalError(f"{error}; open another shared port") from error
        try:
            share.add_ufrag(ufrag)
        except LocalError:
            share.close()
            raise
        return share

    def _table_of(self, host: str) -> Demultiplexer[SharedSocket]:
        """Return the table of an address; a new one within a wildcard takes the place of those that nobody is at."""
        table = self._tables.get(host)
        if table is None:
            for other in [one for one, known in self._tables.items() if not len(known) and one not in self._sockets]:
                gone = self._tables.pop(other)
                self._nobodys.update({reason.value: count for reason, count in gone.counters.items()})
            table = self._tables[host] = Demultiplexer()
        return table

    async def serve(self) -> None:
        """Receive at all sockets until they are closed."""
        async with trio.open_nursery() as nursery:
            for host, sock in self._sockets.items():
                receive = self._receive_at_all if host in _WILDCARDS else self._receive_from
                nursery.start_soon(receive, sock)

    def close(self) -> None:
        """Close the sockets. Sessions still here find their shares closed. Idempotent."""
        self._closed = True
        for table in self._tables.values():
            for share in table.sessions():
                share.close()
        for sock in self._sockets.values():
            sock.close()

    async def _receive_from(self, sock: UdpSocket) -> None:
        table = self._tables[sock.local_address.host]
        while True:
            try:
                batches = await sock.receive()
            except trio.ClosedResourceError:
                return
            for error in sock.take_errors():
                share = table.asker(error.remote)
                if share is not None:
                    share.deliver_error(error)
            now = trio.current_time()
            for batch in batches:
                try:
                    _sort(now, table, batch)
                except Exception as error:  # what one stranger sent concerns no session of this port
                    log_unforeseen("a datagram", error)

    async def _receive_at_all(self, sock: UdpSocket) -> None:
        """Receive at a wildcard: each address of this machine has a table of its own, as it has with a socket."""
        while True:
            try:
                batches = await sock.receive()
            except trio.ClosedResourceError:
                return
            for error in sock.take_errors():
                # The system does not say which of our addresses sent what could not be delivered: whoever did.
                remote = _in_one_zone(error.remote)
                shares = [table.asker(remote) for table in self._tables.values()]
                for share in filter(None, shares):
                    share.deliver_error(replace(error, remote=remote))
            now = trio.current_time()
            for batch in batches:
                table = None if batch.local is None else self._tables.get(batch.local)
                if table is None:
                    self._nobodys[NOBODY_THERE] += len(batch)
                elif "%" in batch.remote.host:
                    _sort(now, table, replace(batch, remote=_in_one_zone(batch.remote)))
                else:
                    _sort(now, table, batch)


def _in_one_zone(remote: TransportAddress) -> TransportAddress:
    """Return a peer's address without its zone, which is that of the local address: so candidates have it, too."""
    bare, percent, _ = remote.host.partition("%")
    return TransportAddress(bare, remote.port) if percent else remote


def _sort(now: float, table: Demultiplexer[SharedSocket], batch: Batch) -> None:
    """Hand a batch on whole if it is all data, else in runs of data and single STUN messages, in order."""
    data, size, remote = batch.data, batch.segment_size, batch.remote
    kinds = data[::size]
    if data and min(kinds) > _LAST_STUN_BYTE:
        share = table.route_data(remote, len(kinds))
        if share is not None:
            share.deliver(batch)
        return
    if len(data) <= size:
        share = table.route(now, remote, data)
        if share is not None:
            share.deliver(batch)
        return
    start = 0
    for index, kind in enumerate(kinds):
        if kind > _LAST_STUN_BYTE:
            continue
        if start < index:
            _sort(now, table, Batch(remote, data[start * size : index * size], size))
        single = data[index * size : (index + 1) * size]
        _sort(now, table, Batch(remote, single, len(single)))
        start = index + 1
    if start < len(kinds):
        _sort(now, table, Batch(remote, data[start * size :], size))
