"""Batched UDP on Trio: one system call and one wait per batch, not per datagram.

Where the kernel offers it (Linux), a run of equal datagrams leaves in one `sendmsg` with UDP_SEGMENT and arrives in one
`recvmsg` with UDP_GRO; elsewhere the same batches move through a non-blocking loop. Both paths look alike from outside.
"""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Sequence

import trio

from iceagent.core.address import TransportAddress
from iceagent.net import options
from iceagent.net.api import IcmpError, SocketStatistics
from iceagent.net.batch import MAX_PAYLOAD, Arrival, Batch, join_arrivals, run_end, segment_cmsg
from iceagent.net.options import Ancillary, read_ancillary, read_error_queue, source_cmsg
from iceagent.net.sockaddr import AddressBook, SockAddr, bind_sockaddr, local_address

MAX_RECEIVE_CALLS = 64
"""Receive calls per wake: other tasks run at least every 64 datagrams or `_SCRATCH_SIZE` bytes."""
MAX_ERRORS = 64
"""ICMP errors kept for `take_errors`."""

_MAX_READ = 65535
_SCRATCH_SIZE = 5 * _MAX_READ
_ANCILLARY_SPACE = 128  # a segment size and an address of ours
_SEND_ATTEMPTS = 3
_SHORT = 256  # ours: bytes, as checks and their answers have
_QUIET_S = 0.5  # ours: a socket that was not readable for so long is not in the middle of a flow
_GSO_REFUSALS = {errno.EINVAL, errno.EIO, errno.EMSGSIZE, errno.EOPNOTSUPP, errno.ENOPROTOOPT}


class _Scratch(threading.local):
    """The receive buffer. Nothing awaits while it is in use, so all sockets of a thread share one."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(_SCRATCH_SIZE))


_scratch = _Scratch()


class SystemUdpSocket:
    """A bound UDP socket of the system; see `iceagent.net.api.UdpSocket` for what each method promises.

    Args:
        sock: a bound, non-blocking datagram socket, owned from now on.
        segmentation: False keeps to the plain path even where the kernel has GSO and GRO.
    """

    def __init__(self, sock: socket.socket, *, segmentation: bool = True) -> None:
        self._sock = sock
        self._local = local_address(sock)
        self._book = AddressBook(sock.getsockname())
        self._gso = segmentation and options.enable_gso(sock)
        self._gro = segmentation and options.enable_gro(sock)
        self._tells_local = self._local.ip.is_unspecified and options.enable_packet_info(sock)
        self._statistics = SocketStatistics()
        self._errors: list[IcmpError] = []
        self._errors_are_new = False
        self._more_at_hand = False
        self._quiet_until = float("inf")
        self._writable_lock = trio.StrictFIFOLock()
        self._closed = False

    @property
    def local_address(self) -> TransportAddress:
        """The bound address, with its zone if link-local."""
        return self._local

    @property
    def uses_gso(self) -> bool:
        """Whether runs of datagrams leave in one call; turns False for good when the kernel or device refuses."""
        return self._gso

    @property
    def uses_gro(self) -> bool:
        """Whether datagrams that arrived together come merged."""
        return self._gro

    @property
    def tells_local(self) -> bool:
        """Whether batches say which of our addresses they came to, and answers can leave from there."""
        return self._tells_local

    def statistics(self) -> SocketStatistics:
        """Return the live counters."""
        return self._statistics

    def allow_fragments(self) -> None:
        """Let the system cut datagrams that are too large for one packet, instead of refusing them."""
        options.allow_fragments(self._sock)

    def forbid_fragments(self) -> None:
        """Have DF set again, as it is from the start."""
        options.forbid_fragments(self._sock)

    def take_errors(self) -> list[IcmpError]:
        """Return and forget the ICMP errors that arrived, oldest first, at most `MAX_ERRORS`."""
        errors, self._errors = self._errors, []
        return errors

    def close(self) -> None:
        """Close at once; whoever waits gets `trio.ClosedResourceError`. Idempotent."""
        if self._closed:
            return
        self._closed = True
        # Outside of Trio (the run is over) nobody can be waiting.
        if trio.lowlevel.in_trio_run():
            trio.lowlevel.notify_closing(self._sock)
        self._sock.close()

    def send_limited(self, datagram: bytes, remote: TransportAddress, ttl: int) -> bool:
        """Send one datagram that passes at most `ttl - 1` routers; return False when the buffer is full.

        Where datagrams are to die on the way, ICMP errors are what comes back: see `_attempt` for what they do.

        Raises:
            trio.ClosedResourceError: the socket was closed here.
        """
        self._check_open()
        for _ in range(_SEND_ATTEMPTS):
            self._statistics.send_calls += 1
            try:
                options.send_with_ttl(self._sock, datagram, self._book.sockaddr(remote), ttl)
            except BlockingIOError:
                return False
            except OSError:
                continue
            self._count_sent(1, len(datagram))
            return True
        self._statistics.send_errors += 1
        return True

    # Receiving

    async def receive(self) -> list[Batch]:
        """Wait for datagrams or ICMP errors; return all that is at hand (bounded), oldest first.

        Raises:
            trio.ClosedResourceError: the socket was closed here.
        """
        while True:
            self._check_open()
            if self._more_at_hand:
                await trio.lowlevel.checkpoint()
            else:
                await trio.lowlevel.wait_readable(self._sock)
            self._check_open()
            now = trio.current_time()
            was_quiet, self._quiet_until = now > self._quiet_until, now + _QUIET_S
            batches = self._drain(lone=was_quiet)
            if batches or self._errors_are_new:
                self._errors_are_new = False
                return batches

    def fileno(self) -> int:
        """Return the descriptor, for who waits for many sockets at once and then calls `receive_nowait`."""
        return self._sock.fileno()

    def receive_nowait(self, calls: int = MAX_RECEIVE_CALLS) -> list[Batch]:
        """Return what is at hand, perhaps nothing, with at most `calls` system calls; there may be more.

        Raises:
            trio.ClosedResourceError: the socket was closed here.
        """
        self._check_open()
        return self._drain(calls)

    def _drain(self, calls: int = MAX_RECEIVE_CALLS, *, lone: bool = False) -> list[Batch]:
        """Read what is at hand.

        Where a socket has been quiet, a short datagram (`lone`) nearly always is the only one: the call that would find
        no more is saved. If there is more all the same, Trio says so at once.
        """
        view = _scratch.view
        arrivals: list[Arrival] = []
        at = 0
        self._more_at_hand = True
        for _ in range(calls):
            if at + _MAX_READ > _SCRATCH_SIZE:
                break
            try:
                length, size, source, local = self._receive_into(view[at : at + _MAX_READ])
            except BlockingIOError:
                self._more_at_hand = False
                break
            except OSError:
                # The system reports an earlier send's ICMP error here; it says nothing about the socket.
                self._collect_errors()
                continue
            arrivals.append((self._book.address(source), size, at, at + length, local))
            at += length
            if lone and at == length <= _SHORT:
                self._more_at_hand = False
                break
        if not arrivals:
            # Nothing to read although woken: the error queue is what woke us.
            self._collect_errors()
            return []
        self._statistics.receive_calls += len(arrivals)
        self._statistics.bytes_received += at
        batches = join_arrivals(view, arrivals)
        self._statistics.datagrams_received += sum(map(len, batches))
        return batches

    def _receive_into(self, buffer: memoryview) -> tuple[int, int, SockAddr, str | None]:
        """Return length, segment size and source of what one call read, and the address of ours that it came to."""
        if self._gro or self._tells_local:  # only where the system has recvmsg
            length, ancillary, _flags, source = self._sock.recvmsg_into((buffer,), _ANCILLARY_SPACE)
            size, local = read_ancillary(ancillary, length) if ancillary else (length or 1, None)
            return length, size, source, local
        length, source = self._sock.recvfrom_into(buffer)
        return length, length or 1, source, None

    def _collect_errors(self) -> None:
        errors = read_error_queue(self._sock, self._book)
        if errors:
            self._errors = (self._errors + errors)[-MAX_ERRORS:]
            self._errors_are_new = True
            self._statistics.icmp_errors += len(errors)

    # Sending

    async def send(self, datagrams: Sequence[bytes], remote: TransportAddress, *, source: str | None = None) -> None:
        """Send all, waiting while the buffer is full; any number of tasks may send at once.

        Raises:
            trio.ClosedResourceError: the socket was closed here.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        done = self.send_nowait(datagrams, remote, source=source)
        if done == len(datagrams):
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        async with self._writable_lock:  # Trio lets one task wait for a socket's writability
            while done < len(datagrams):
                self._check_open()
                await trio.lowlevel.wait_writable(self._sock)
                taken = self.send_nowait(datagrams[done:], remote, source=source)
                if not taken:
                    # An unread ICMP error also wakes a waiting sender; left there it would wake us for ever.
                    self._collect_errors()
                done += taken

    def send_nowait(self, datagrams: Sequence[bytes], remote: TransportAddress, *, source: str | None = None) -> int:
        """Send what the socket takes at once; return how many, refused ones included.

        Raises:
            trio.ClosedResourceError: the socket was closed here.
        """
        self._check_open()
        try:
            target = self._book.sockaddr(remote)
            origin = source_cmsg(source) if source is not None and self._tells_local else []
        except OSError:
            self._statistics.send_errors += len(datagrams)
            return len(datagrams)
        at = 0
        while at < len(datagrams):
            end = run_end(datagrams, at) if self._gso else at + 1
            if end - at == 1:
                taken = self._send_one(datagrams[at], target, origin)
            else:
                taken = self._send_run(datagrams[at:end], target, origin)
            at += taken
            if at < end:
                break
        return at

    def _send_one(self, datagram: bytes, target: SockAddr, origin: list[Ancillary]) -> int:
        """Return 1, or 0 when the buffer is full."""
        if len(datagram) > MAX_PAYLOAD:
            self._statistics.send_errors += 1
            return 1
        refusal = self._attempt((datagram,), target, origin)
        if refusal == errno.EAGAIN:
            return 0
        if refusal:
            self._statistics.send_errors += 1
        else:
            self._count_sent(1, len(datagram))
        return 1

    def _send_run(self, run: Sequence[bytes], target: SockAddr, origin: list[Ancillary]) -> int:
        """Send equal datagrams in one call; return how many were taken. A refused run goes out singly."""
        refusal = self._attempt(run, target, [*origin, *segment_cmsg(len(run[0]))])
        if refusal == errno.EAGAIN:
            return 0
        if not refusal:
            self._count_sent(len(run), len(run[0]) * (len(run) - 1) + len(run[-1]))
            return len(run)
        if refusal not in _GSO_REFUSALS:
            self._statistics.send_errors += len(run)
            return len(run)
        errors_before = self._statistics.send_errors
        for taken, datagram in enumerate(run):
            if not self._send_one(datagram, target, origin):
                return taken
        # What is too large singly too says nothing about GSO; what only GSO refused will be refused again.
        if self._statistics.send_errors == errors_before:
            self._gso = False
        return len(run)

    def _attempt(self, run: Sequence[bytes], target: SockAddr, ancillary: list[Ancillary]) -> int:
        """Return 0, or the errno of the refusal.

        A pending ICMP error of any earlier destination fails the next call without sending, once each; so a call is
        refused only when it fails repeatedly.
        """
        refusal = 0
        for _ in range(_SEND_ATTEMPTS):
            self._statistics.send_calls += 1
            try:
                if ancillary:
                    self._sock.sendmsg(run, ancillary, 0, target)
                else:
                    self._sock.sendto(run[0], target)
            except BlockingIOError:
                return errno.EAGAIN
            except OSError as error:
                refusal = error.errno or errno.EIO
                if refusal in _GSO_REFUSALS:
                    return refusal
            else:
                return 0
        return refusal

    def _count_sent(self, datagrams: int, size: int) -> None:
        self._statistics.datagrams_sent += datagrams
        self._statistics.bytes_sent += size

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this UDP socket is closed")


def open_udp_socket(host: str, port: int = 0, *, segmentation: bool = True) -> SystemUdpSocket:
    """Bind a UDP socket to an IP literal (IPv6 with zone if link-local; IPv6 sockets never carry IPv4).

    Args:
        host: the address to bind, `0.0.0.0` and `::` included.
        port: 0 lets the system choose.
        segmentation: False keeps to the plain path (no GSO, no GRO).
    Raises:
        OSError: the address is not ours or the port is taken.
        ValueError: `host` is not an IP literal.
    """
    family, address = bind_sockaddr(host, port)
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        options.configure(sock)
        sock.bind(address)
        return SystemUdpSocket(sock, segmentation=segmentation)
    except BaseException:
        sock.close()
        raise
