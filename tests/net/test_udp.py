from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from iceagent.core.address import TransportAddress
from iceagent.net import IcmpError, SystemNetwork, SystemUdpSocket, open_udp_socket
from iceagent.net.sockaddr import MAX_REMEMBERED, AddressBook
from iceagent.net.udp import MAX_ERRORS, MAX_RECEIVE_CALLS

Open = Callable[..., SystemUdpSocket]


@pytest.fixture(params=[True, False], ids=["gso-gro", "plain"])
def segmentation(request: pytest.FixtureRequest) -> bool:
    """Both paths pass the same suite."""
    return bool(request.param)


@pytest.fixture
def open_udp(segmentation: bool) -> Iterator[Open]:
    opened: list[SystemUdpSocket] = []

    def open_one(host: str = "127.0.0.1", port: int = 0) -> SystemUdpSocket:
        opened.append(open_udp_socket(host, port, segmentation=segmentation))
        return opened[-1]

    yield open_one
    for sock in opened:
        sock.close()


async def receive_datagrams(sock: SystemUdpSocket, count: int) -> list[tuple[TransportAddress, bytes]]:
    received: list[tuple[TransportAddress, bytes]] = []
    while len(received) < count:
        for batch in await sock.receive():
            received += [(batch.remote, datagram) for datagram in batch.datagrams()]
    return received


def closed_port() -> TransportAddress:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return TransportAddress(*sock.getsockname())


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_datagrams_keep_their_order_and_edges(open_udp: Open, host: str) -> None:
    """Runs, short tails, empty datagrams and the largest one: what goes in comes out."""
    a, b = open_udp(host), open_udp(host)
    sizes = [1200] * 130 + [17, 0, 0, 5, 5, 4, 1, 0, 65000, 1, 1, 1]
    sent = [bytes([number % 256]) * size for number, size in enumerate(sizes)]
    await a.send(sent, b.local_address)
    received = await receive_datagrams(b, len(sent))
    assert [datagram for _, datagram in received] == sent
    assert {remote for remote, _ in received} == {a.local_address}
    assert a.statistics().datagrams_sent == b.statistics().datagrams_received == len(sent)
    assert a.statistics().bytes_sent == b.statistics().bytes_received == sum(sizes)


async def test_a_run_of_equal_datagrams_is_one_batch(open_udp: Open, segmentation: bool) -> None:
    """The layers above see one object per 50 packets on either path; the system calls differ."""
    a, b = open_udp(), open_udp()
    await a.send([bytes(1200)] * 50, b.local_address)
    (batch,) = await b.receive()
    assert (len(batch), batch.segment_size) == (50, 1200)
    if a.uses_gso:
        assert a.statistics().send_calls == 1
    else:
        assert a.statistics().send_calls == 50
    assert segmentation or not (a.uses_gso or b.uses_gro)


async def test_replies_find_their_way(open_udp: Open) -> None:
    """The remote of a batch is an address one can send to."""
    a, b = open_udp("::1"), open_udp("::1")
    await a.send([b"ping"], b.local_address)
    ((remote, _),) = await receive_datagrams(b, 1)
    await b.send([b"pong"], remote)
    assert await receive_datagrams(a, 1) == [(b.local_address, b"pong")]


async def test_icmp_errors_are_per_destination(open_udp: Open) -> None:
    """Trap 28: one dead destination must not cost another one a datagram, nor the socket its life."""
    a, b = open_udp(), open_udp()
    dead = [closed_port(), closed_port()]
    for number in range(10):
        for remote in dead:
            assert a.send_nowait([b"anybody?"], remote) == 1
        assert a.send_nowait([bytes([number])], b.local_address) == 1
    received = await receive_datagrams(b, 10)
    assert [datagram for _, datagram in received] == [bytes([number]) for number in range(10)]
    assert await a.receive() == []
    errors = a.take_errors()
    assert {error.remote for error in errors} == set(dead)
    assert {error.errno for error in errors} == {errno.ECONNREFUSED}
    assert a.take_errors() == []
    assert a.statistics().icmp_errors == len(errors) == 20


async def test_the_ttl_of_one_datagram_is_its_own(open_udp: Open) -> None:
    """Low-TTL openers go from sockets that also carry checks; and errors tell who raised them."""
    a, b = open_udp(), open_udp()
    assert a.send_limited(b"near", b.local_address, 1)
    assert a.send_nowait([b"usual"], b.local_address) == 1
    assert [datagram for _, datagram in await receive_datagrams(b, 2)] == [b"near", b"usual"]
    dead = closed_port()
    assert a.send_limited(b"anybody?", dead, 3)
    assert await a.receive() == []
    (error,) = a.take_errors()
    assert (error.remote, error.reporter) == (dead, "127.0.0.1")
    a.close()
    with pytest.raises(trio.ClosedResourceError):
        a.send_limited(b"late", dead, 3)


async def test_a_datagram_of_few_hops_outlives_the_error_of_the_one_before(open_udp: Open) -> None:
    """Every second of a series was lost, since the error of each failed the next: traces had holes, and misled."""
    a, b = open_udp(), open_udp()
    dead = closed_port()
    for number in range(6):
        assert a.send_limited(b"dies", dead, 3)
        assert a.send_limited(b"arrives %d" % number, b.local_address, 3)
    received = await receive_datagrams(b, 6)
    assert [data for _, data in received] == [b"arrives %d" % number for number in range(6)]


async def test_a_waiting_receiver_hears_of_icmp_errors_and_of_data_after_them(open_udp: Open) -> None:
    """The error queue wakes the receiver once; then it waits for data again instead of spinning."""
    a, b = open_udp(), open_udp()
    results: list[Any] = []

    async def receive_twice() -> None:
        results.append(await a.receive())
        results.append(await a.receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive_twice)
        await wait_all_tasks_blocked()
        dead = closed_port()
        a.send_nowait([b"anybody?"], dead)
        await wait_all_tasks_blocked()
        assert results == [[]]
        assert a.take_errors() == [IcmpError(dead, errno.ECONNREFUSED)]
        await b.send([b"data"], a.local_address)
    assert [batch.data for batch in results[1]] == [b"data"]


async def test_the_error_list_is_bounded(open_udp: Open) -> None:
    """A scan of closed ports must not grow memory."""
    a = open_udp()
    dead = closed_port()
    for _ in range(3):
        for _ in range(MAX_ERRORS):
            a.send_nowait([b"x"], dead)
        await a.receive()
    assert len(a.take_errors()) == MAX_ERRORS


async def test_one_wake_is_bounded(open_udp: Open) -> None:
    """A flood at one socket leaves the other tasks their turn."""
    a, b = open_udp(), open_udp()
    for number in range(3 * MAX_RECEIVE_CALLS):
        a.send_nowait([bytes(number % 7 + 1)], b.local_address)
    first = await b.receive()
    assert sum(map(len, first)) == MAX_RECEIVE_CALLS
    assert len(await receive_datagrams(b, 2 * MAX_RECEIVE_CALLS)) == 2 * MAX_RECEIVE_CALLS


async def test_what_comes_after_a_pause_comes_whole(open_udp: Open, mock_clock: trio.testing.MockClock) -> None:
    """After a pause one short datagram is taken for the only one; those behind it follow at once."""
    a, b = open_udp(), open_udp()
    a.send_nowait([b"first"], b.local_address)
    assert len(await receive_datagrams(b, 1)) == 1
    mock_clock.jump(0.6)
    texts = [bytes([number]) * (number % 5 + 1) for number in range(20)]
    for text in texts:
        a.send_nowait([text], b.local_address)
    assert [text for _, text in await receive_datagrams(b, 20)] == texts


async def test_closing_wakes_whoever_waits(open_udp: Open) -> None:
    """Teardown must not hang on a receive loop."""
    a = open_udp()

    async def receive() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await a.receive()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        a.close()
    a.close()
    with pytest.raises(trio.ClosedResourceError):
        a.send_nowait([b"x"], closed_port())
    with pytest.raises(trio.ClosedResourceError):
        await a.send([b"x"], closed_port())
    with pytest.raises(trio.ClosedResourceError):
        await a.receive()


async def test_what_cannot_be_sent_is_counted_and_harms_nothing(open_udp: Open) -> None:
    """Too large, wrong family, a zone that is not there: UDP promises nothing, so nothing is raised."""
    a, b = open_udp(), open_udp()
    assert a.send_nowait([bytes(65508)], b.local_address) == 1
    assert a.send_nowait([b"x"] * 3, TransportAddress("::1", 9)) == 3
    assert a.send_nowait([b"x"], TransportAddress("fe80::1%nowhere0", 9)) == 1
    assert a.send_nowait([b"x"], TransportAddress("255.255.255.255", 9)) == 1
    assert a.statistics().send_errors == 6
    await a.send([b"fine"], b.local_address)
    assert (await receive_datagrams(b, 1))[0][1] == b"fine"


async def test_ipv6_sockets_carry_no_ipv4(open_udp: Open) -> None:
    """An IPv4-mapped source would be a second name of the same peer."""
    six = open_udp("::")
    four = open_udp("0.0.0.0", six.local_address.port)
    sender = open_udp()
    await sender.send([b"x"], TransportAddress("127.0.0.1", six.local_address.port))
    assert await receive_datagrams(four, 1) == [(sender.local_address, b"x")]
    assert six.statistics().datagrams_received == 0
    six.send_nowait([b"x"], TransportAddress("127.0.0.1", four.local_address.port))
    assert six.statistics().send_errors == 1


async def test_link_local_addresses_work_with_and_without_zone(open_udp: Open) -> None:
    """A peer's candidate has no zone of ours; a socket that is bound to a link-local address knows its own."""
    hosts = [entry.host for entry in SystemNetwork().interfaces() if entry.is_link_local and ":" in entry.host]
    if not hosts:
        pytest.skip("no IPv6 link-local address here")
    a, b = open_udp(hosts[0]), open_udp(hosts[0])
    assert a.local_address.host == hosts[0]
    bare = hosts[0].partition("%")[0]
    await a.send([b"with"], b.local_address)
    await a.send([b"without"], TransportAddress(bare, b.local_address.port))
    received = await receive_datagrams(b, 2)
    assert received == [(TransportAddress(bare, a.local_address.port), data) for data in (b"with", b"without")]
    wildcard = open_udp("::")
    await a.send([b"seen"], TransportAddress(bare, wildcard.local_address.port))
    assert await receive_datagrams(wildcard, 1) == [(a.local_address, b"seen")]


async def test_datagrams_above_the_interface_mtu_are_counted_and_leave_gso_on(
    open_udp: Open, segmentation: bool
) -> None:
    """DF is set, so EMSGSIZE happens; it is about the size, not about the socket nor about GSO."""
    hosts = [entry.host for entry in SystemNetwork().interfaces() if not entry.is_loopback and ":" not in entry.host]
    if not hosts:
        pytest.skip("only loopback here, which takes everything")
    a = open_udp(hosts[0])
    before = a.uses_gso
    assert a.send_nowait([bytes(20_000)] * 3, TransportAddress("203.0.113.1", 9)) == 3
    assert a.statistics().send_errors == 3
    assert a.uses_gso == before


class Faulty(socket.socket):
    """A socket whose next send calls fail as told."""

    sendmsg_errno = 0
    sendto_failures: int = 0
    sendto_errno = errno.EAGAIN

    def sendmsg(self, *args: Any) -> int:
        if self.sendmsg_errno:
            raise OSError(self.sendmsg_errno, "injected")
        return super().sendmsg(*args)

    def sendto(self, *args: Any) -> int:
        if self.sendto_failures:
            self.sendto_failures -= 1
            raise OSError(self.sendto_errno, "injected")
        return super().sendto(*args)


def open_faulty(*, segmentation: bool) -> tuple[Faulty, SystemUdpSocket]:
    raw = Faulty(socket.AF_INET, socket.SOCK_DGRAM)
    raw.setblocking(False)
    raw.bind(("127.0.0.1", 0))
    return raw, SystemUdpSocket(raw, segmentation=segmentation)


@pytest.mark.parametrize("refusal", [errno.EINVAL, errno.EIO])
async def test_a_refused_run_goes_out_singly_and_gso_stays_off(open_udp: Open, refusal: int) -> None:
    """Some devices and old kernels accept the option and refuse the call: found out once, nothing lost."""
    raw, a = open_faulty(segmentation=True)
    if not a.uses_gso:
        pytest.skip("this kernel has no GSO")
    raw.sendmsg_errno = refusal
    b = open_udp()
    sent = [bytes([number]) * 100 for number in range(20)]
    await a.send(sent, b.local_address)
    await a.send(sent, b.local_address)
    assert [datagram for _, datagram in await receive_datagrams(b, 40)] == sent * 2
    assert not a.uses_gso
    assert a.statistics().send_errors == 0
    a.close()


async def test_a_full_buffer_is_waited_for(open_udp: Open) -> None:
    """`send` takes its time, `send_nowait` tells how far it came."""
    raw, a = open_faulty(segmentation=False)
    b = open_udp()
    raw.sendto_failures = 1
    assert a.send_nowait([b"1", b"2"], b.local_address) == 0
    raw.sendto_failures = 3
    async with trio.open_nursery() as nursery:
        nursery.start_soon(a.send, [b"1", b"2"], b.local_address)
        nursery.start_soon(a.send, [b"3"], b.local_address)
    assert {datagram for _, datagram in await receive_datagrams(b, 3)} == {b"1", b"2", b"3"}
    assert a.statistics().send_errors == 0
    a.close()


async def test_a_pending_error_of_another_destination_is_retried_but_not_for_ever(open_udp: Open) -> None:
    """The kernel hands an old ICMP error to the next send; a lasting refusal is this datagram's own."""
    raw, a = open_faulty(segmentation=False)
    b = open_udp()
    raw.sendto_errno = errno.ECONNREFUSED
    raw.sendto_failures = 2
    assert a.send_nowait([b"arrives"], b.local_address) == 1
    assert a.statistics().send_errors == 0
    raw.sendto_failures = 1000
    assert a.send_nowait([b"refused"], b.local_address) == 1
    assert a.statistics().send_errors == 1
    a.close()


async def test_cancelling_a_receive_loses_nothing(open_udp: Open) -> None:
    """A cancelled waiter has not taken datagrams with it."""
    a, b = open_udp(), open_udp()
    with trio.CancelScope() as scope:
        scope.cancel()
        await b.receive()
    await a.send([b"kept"], b.local_address)
    with trio.CancelScope() as scope:
        scope.cancel()
        await b.receive()
    assert (await receive_datagrams(b, 1))[0][1] == b"kept"


async def test_a_taken_port_is_an_os_error(open_udp: Open) -> None:
    """The caller tries the next port of its range."""
    a = open_udp()
    with pytest.raises(OSError, match="in use"):
        open_udp(port=a.local_address.port)
    with pytest.raises(OSError):
        open_udp("192.0.2.251")
    with pytest.raises(ValueError, match="does not appear"):
        open_udp("localhost")


def test_remembered_addresses_are_bounded() -> None:
    """A flood of forged sources costs conversions, not memory."""
    book = AddressBook(("127.0.0.1", 1))
    for port in range(1, 3 * MAX_REMEMBERED):
        book.address(("127.0.0.1", port))
        book.sockaddr(TransportAddress("127.0.0.1", port))
    assert len(book._addresses) <= MAX_REMEMBERED
    assert len(book._sockaddrs) <= MAX_REMEMBERED
