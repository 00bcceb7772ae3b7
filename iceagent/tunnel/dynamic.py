"""A local port that takes programs wherever they want on the other side (`-D`): SOCKS 5, SOCKS 4a and HTTP CONNECT.

The far side resolves names and decides what may be reached. Datagrams (UDP ASSOCIATE) have a socket of their own beside
the program's connection, and end with it.
"""

from __future__ import annotations

import socket

import trio

from iceagent.errors import IceError
from iceagent.net.logs import limited_logger
from iceagent.net.sockaddr import SockAddr, bind_sockaddr
from iceagent.net.tasks import open_background
from iceagent.session.session import Session
from iceagent.tunnel import wire
from iceagent.tunnel.datagrams import Origin, PlainUdpSocket
from iceagent.tunnel.errors import FailedError, RefusedError
from iceagent.tunnel.opening import connect_through
from iceagent.tunnel.proxy_protocol import (
    ProxyProtocol,
    Reply,
    Unacceptable,
    Wanted,
    address_size,
    read_address,
    write_address,
)
from iceagent.tunnel.pump import RESET_TUNNEL, break_off, disarm, pump
from iceagent.tunnel.spec import TcpTarget, UdpTarget
from iceagent.tunnel.targets import explain_os_error
from iceagent.tunnel.traffic import Traffic
from iceagent.tunnel.udp import FlowTable

REQUEST_S = 30.0  # from the connection to the end of its request
LAST_WORDS_S = 2.0  # for a program to take the answer after which its connection ends
_CHUNK = 4096  # bytes read at once before it is known what is wanted
_MOST_IGNORED = 64 * 1024  # bytes that are read and dropped, so that the system does not reset what was just answered

_REPLIES = {
    "refused": Reply.REFUSED,
    "network": Reply.NO_NETWORK,
    "timeout": Reply.TOO_SLOW,
    "busy": Reply.FAILED,
}

_log = limited_logger(__name__)


async def serve_program(session: Session, near: trio.SocketStream, traffic: Traffic) -> None:
    """Serve one connection of a program; closes it. What goes wrong is answered, and logged; `traffic` counts."""
    protocol = ProxyProtocol()
    try:
        wanted = await _read_request(near, protocol)
        if wanted is None:
            return
        if wanted.command == "udp":
            await _associate(session, near, protocol, wanted, traffic)
        else:
            await _connect(session, near, protocol, wanted, traffic)
    except wire.WireError as error:
        _log.warning("%s", error)
    except (IceError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
        _log.info("a connection of a program broke off: %s", error)
    finally:
        break_off(near)  # a connection that ended well is closed already


async def _read_request(near: trio.SocketStream, protocol: ProxyProtocol) -> Wanted | None:
    """Return what a program wants; None once it has been told that it is refused, or has gone or said too little."""
    with trio.move_on_after(REQUEST_S):
        while protocol.wanted is None:
            data = await near.receive_some(_CHUNK)
            if not data:
                await _end_with(near, b"")
                return None
            answer = protocol.receive(bytes(data))
            if protocol.refusal is not None:
                _log.warning("refused a connection of a program: %s", protocol.refusal)
                await _end_with(near, answer)
                return None
            if answer:
                await near.send_all(answer)
        return protocol.wanted
    _log.warning("a program has not said within %g s where it wants to; its connection was reset", REQUEST_S)
    return None


async def _end_with(near: trio.SocketStream, answer: bytes) -> None:
    """Send a last answer, and close once the program has read it, or does not want to."""
    disarm(near)
    with trio.move_on_after(LAST_WORDS_S):
        if answer:
            await near.send_all(answer)
        await near.send_eof()
        ignored = 0
        while ignored < _MOST_IGNORED and (data := await near.receive_some(_CHUNK)):
            ignored += len(data)
        await near.aclose()


async def _connect(
    session: Session, near: trio.SocketStream, protocol: ProxyProtocol, wanted: Wanted, traffic: Traffic
) -> None:
    try:
        far = await connect_through(session, TcpTarget(wanted.host, wanted.port))
    except RefusedError as error:
        _log.warning("%s", error)
        await _end_with(near, protocol.answer(Reply.NOT_ALLOWED, reason=str(error)))
        return
    except FailedError as error:
        _log.warning("%s", error)
        reply = _REPLIES.get(error.cause, Reply.NO_HOST)
        await _end_with(near, protocol.answer(reply, reason=str(error)))
        return
    try:
        await near.send_all(protocol.answer(Reply.GRANTED))
        if protocol.rest:
            await far.send_all(protocol.rest)
            traffic.sent += len(protocol.rest)
    except BaseException:
        far.reset(RESET_TUNNEL)
        raise
    await pump(near, far, traffic=traffic)


async def _associate(
    session: Session, near: trio.SocketStream, protocol: ProxyProtocol, wanted: Wanted, traffic: Traffic
) -> None:
    """Carry datagrams of the program, until its connection ends. Source: RFC 1928 section 7."""
    if near.socket.family not in {socket.AF_INET, socket.AF_INET6}:
        await _end_with(near, protocol.answer(Reply.NO_SUCH_COMMAND))  # no address by which it could send datagrams
        return
    try:
        host, there = _literal(near.socket.getsockname()), near.socket.getpeername()
        sock = _bound_socket(host)
    except OSError as error:
        _log.warning("a program gets no socket for its datagrams: %s", explain_os_error(error))
        await _end_with(near, protocol.answer(Reply.FAILED))
        return
    with sock:
        association = _Association(session, PlainUdpSocket(sock), (there[0], wanted.port), traffic)
        async with open_background() as nursery:
            nursery.start_soon(association.run)
            await near.send_all(protocol.answer(Reply.GRANTED, host=host, port=sock.getsockname()[1]))
            while await near.receive_some(_CHUNK):
                pass
    disarm(near)
    await near.aclose()


def _literal(name: SockAddr) -> str:
    """Return the address of a socket's name, with its zone if it has one."""
    bare = name[0].partition("%")[0]
    return f"{bare}%{name[3]}" if len(name) == 4 and name[3] else bare


def _bound_socket(host: str) -> socket.socket:
    family, address = bind_sockaddr(host, 0)
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


class _Association:
    """The datagrams of one program, each behind the address that it goes to or, coming back, that it was sent to.

    Only the program's own datagrams are taken: from the machine that its connection comes from and, as long as it
    lasts, from one port, the one that it named or else that of its first datagram. So nobody else of this machine can
    use it, or answer in its name.
    """

    def __init__(self, session: Session, sock: PlainUdpSocket, source: tuple[str, int], traffic: Traffic) -> None:
        """`source`: the program's host, and the port that it said it would send from, 0 if it does not know."""
        self._socket = sock
        self._host, self._port = source
        self._origin: Origin | None = None
        self._table = FlowTable[UdpTarget](session, self._deliver, traffic)

    async def run(self) -> None:
        """Carry datagrams until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                for data, origin in await self._socket.receive():
                    if self._is_programs(origin) and (split := split_datagram_untrusted(data)) is not None:
                        self._origin, self._port = origin, origin.source[1]
                        target, payload = split
                        self._table.put(payload, target, target, nursery)

    def _is_programs(self, origin: Origin) -> bool:
        return origin.source[0] == self._host and self._port in {0, origin.source[1]}

    def _deliver(self, data: bytes, target: UdpTarget) -> None:
        if self._origin is not None:
            self._socket.send(b"\0\0\0" + write_address(target.host, target.port) + data, self._origin)


def split_datagram_untrusted(data: bytes) -> tuple[UdpTarget, bytes] | None:
    """Return where a program's datagram goes, and its payload; None for a fragment and for what is malformed."""
    if len(data) < 5 or data[:3] != b"\0\0\0":
        return None
    size = address_size(data[3], data[4])
    if size is None or len(data) < 3 + size:
        return None
    try:
        host, port = read_address(data[3 : 3 + size])
        return (UdpTarget(host, port), data[3 + size :]) if port else None
    except (Unacceptable, ValueError):
        return None
