"""Sockets bound to a wildcard: which address of ours was asked, and answers that leave from there."""

from __future__ import annotations

import socket
import struct

import pytest

from iceagent.core.address import TransportAddress
from iceagent.net import SystemUdpSocket, open_udp_socket, options
from iceagent.net.options import read_ancillary, source_cmsg

pytestmark = pytest.mark.skipif(options.IP_PKTINFO != 8, reason="127.0.0.0/8 is all ours on Linux only")
V4 = struct.pack("=i", 1) + bytes([127, 0, 0, 9, 127, 0, 0, 9])


def test_a_missing_or_senseless_gro_size_means_one_datagram() -> None:
    """The kernel names a size only when it merged; zero would divide by zero later."""
    assert read_ancillary([], 700) == (700, None)
    assert read_ancillary([], 0) == (1, None)
    assert read_ancillary([(17, 104, bytes(4))], 700) == (700, None)
    assert read_ancillary([(17, 104, b"\x64\0\0\0")], 700) == (100, None)
    assert read_ancillary([(1, 29, bytes(16)), (17, 104, b"\x64")], 700) == (700, None)


def test_the_address_that_was_asked_is_read_beside_a_segment_size() -> None:
    """Bulk that came to a second address must be answered from it, too."""
    assert read_ancillary([(0, 8, V4), (17, 104, b"\x64\0\0\0")], 700) == (100, "127.0.0.9")
    assert read_ancillary([(0, 8, V4[:7])], 700) == (700, None)


def test_groups_and_nothing_are_no_addresses_to_answer_from() -> None:
    """The system would refuse to send from there; it then chooses itself."""
    for address in ("ff02::1", "::"):
        packed = socket.inet_pton(socket.AF_INET6, address) + struct.pack("=I", 1)
        assert read_ancillary([(41, socket.IPV6_PKTINFO, packed)], 9) == (9, None)
    assert read_ancillary([(0, 8, bytes(12))], 9) == (9, None)


def test_link_local_addresses_keep_their_zone_both_ways() -> None:
    """fe80::1 is on every link: without its zone an answer goes nowhere."""
    index = socket.if_nametoindex("lo")
    packed = socket.inet_pton(socket.AF_INET6, "fe80::1") + struct.pack("=I", index)
    assert read_ancillary([(41, socket.IPV6_PKTINFO, packed)], 9) == (9, "fe80::1%lo")
    assert source_cmsg("fe80::1%lo") == [(41, socket.IPV6_PKTINFO, packed)]
    with pytest.raises(OSError):
        source_cmsg("no address")


async def _asked(wildcard: SystemUdpSocket, client: SystemUdpSocket, host: str, datagrams: list[bytes]) -> None:
    """Ask at `host`, answer, and expect the answer from there."""
    asked = TransportAddress(host, wildcard.local_address.port)
    await client.send(datagrams, asked)
    got = b""
    while len(got) < sum(map(len, datagrams)):
        for batch in await wildcard.receive():
            assert batch.local == host
            got += batch.data
            assert wildcard.send_nowait(batch.datagrams(), batch.remote, source=batch.local) == len(batch)
    back = b""
    while len(back) < len(got):
        for batch in await client.receive():
            assert batch.remote == asked
            back += batch.data
    assert back == got == b"".join(datagrams)


@pytest.mark.parametrize("segmentation", [True, False], ids=["gso-gro", "plain"])
async def test_trap_69_answers_leave_from_the_address_that_was_asked(segmentation: bool) -> None:
    """One datagram and bulk alike; 127.0.0.9 is not what the system would choose."""
    wildcard = open_udp_socket("0.0.0.0", segmentation=segmentation)
    client = open_udp_socket("127.0.0.1", segmentation=segmentation)
    assert wildcard.tells_local
    assert not client.tells_local
    for host in ("127.0.0.9", "127.0.0.1", "127.3.2.1"):
        await _asked(wildcard, client, host, [b"question"])
        await _asked(wildcard, client, host, [bytes([n]) * 1200 for n in range(50)])
    wildcard.close()
    client.close()


async def test_an_address_that_is_not_ours_loses_the_answer_and_nothing_else() -> None:
    """It went away since it was asked: the socket, its GSO and other answers go on."""
    wildcard, client = open_udp_socket("0.0.0.0"), open_udp_socket("127.0.0.1")
    had_gso = wildcard.uses_gso
    for source in ("192.0.2.1", "not an address"):
        assert wildcard.send_nowait([b"x" * 9] * 3, client.local_address, source=source) == 3
    assert wildcard.statistics().send_errors == 6
    assert wildcard.uses_gso == had_gso
    await _asked(wildcard, client, "127.0.0.9", [b"still"])
    wildcard.close()
    client.close()


async def test_without_packet_info_the_system_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has none: answers go out all the same, and nothing claims to know."""
    monkeypatch.setattr(options, "IP_PKTINFO", None)
    wildcard, client = open_udp_socket("0.0.0.0"), open_udp_socket("127.0.0.1")
    assert not wildcard.tells_local
    await client.send([b"x"], TransportAddress("127.0.0.1", wildcard.local_address.port))
    (batch,) = await wildcard.receive()
    assert batch.local is None
    assert wildcard.send_nowait([b"y"], batch.remote, source="127.0.0.9") == 1
    assert (await client.receive())[0].remote.host == "127.0.0.1"
    wildcard.close()
    client.close()
