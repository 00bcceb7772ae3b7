"""The detailed example of RFC 8656 section 20, the client's half, byte by byte.

What the client sends is compared with messages put together here by hand, from the attribute numbers of the RFCs and
`struct` and `hmac` alone. One difference: the example's second Allocate carries both integrity attributes, whereas
RFC 8489 section 9.2.5 wants MESSAGE-INTEGRITY-SHA256 alone once the server has offered algorithms.
"""

from __future__ import annotations

import hashlib
import hmac
import struct

from iceagent.core import turn
from iceagent.core.address import TransportAddress, make_address

LOCAL = make_address("10.1.1.2", 49721)
SERVER = make_address("192.0.2.15", 3478)
PEER_A = make_address("192.0.2.150", 32102)
PEER_B = make_address("192.0.2.210", 49191)
NONCE = b"obMatJos2gAAAadl7W7PeDU4hKE72jda"
NEW_NONCE = b"obMatJos2gAAAqvbAMcr6h39smAAAAAA"
KEY = hashlib.sha256(b"George:example.com:secret").digest()
COOKIE = 0x2112A442

ALLOCATE_1 = bytes.fromhex("A56250D3F17ABE679422DE85")
ALLOCATE_2 = bytes.fromhex("C271E932AD7446A32C234492")
PERMISSION = bytes.fromhex("E5913A8F460956CA277D3319")
SEND = bytes.fromhex("1278E9ACA2711637EF7D3328")
DATA = bytes.fromhex("8231AE8F9242DA9FF287FEFF")
CHANNEL = bytes.fromhex("E5913A8F46091637EF7D3328")
REFRESH_1 = bytes.fromhex("0864B3C27ADE9354B4312414")
REFRESH_2 = bytes.fromhex("427BD3E625A85FC731DC4191")

SOFTWARE = (0x8022, b"Example client, version 1.03")
SERVER_SOFTWARE = (0x8022, b"Example server, version 1.17")
REALM = (0x0014, b"example.com")
ALGORITHMS = (0x8002, bytes.fromhex("0001000000020000"))


def message(kind: int, transaction_id: bytes, *attributes: tuple[int, bytes], key: bytes | None = None) -> bytes:
    body = b"".join(
        struct.pack("!HH", number, len(value)) + value + bytes(-len(value) % 4) for number, value in attributes
    )
    length = len(body) + (36 if key else 0)
    start = struct.pack("!HHI", kind, length, COOKIE) + transaction_id + body
    if key is None:
        return start
    return start + struct.pack("!HH", 0x001C, 32) + hmac.digest(key, start, "sha256")


def xor(address: TransportAddress) -> bytes:
    host = int.from_bytes(address.ip.packed, "big") ^ COOKIE
    return struct.pack("!BBHI", 0, 1, address.port ^ COOKIE >> 16, host)


def authentication(nonce: bytes) -> list[tuple[int, bytes]]:
    return [(0x0006, b"George"), REALM, (0x0015, nonce), ALGORITHMS, (0x001D, bytes.fromhex("00020000"))]


def test_the_example_of_rfc_8656_section_20():
    """If the bytes differ from the RFC's example, some server out there will refuse them."""
    ids = iter((ALLOCATE_1, ALLOCATE_2, PERMISSION, SEND, CHANNEL, REFRESH_1, REFRESH_2))
    request = turn.AllocationRequest(lifetime_s=3600, dont_fragment=True, software="Example client, version 1.03")
    credentials = turn.TurnCredentials("George", "secret")
    client = turn.TurnClient(LOCAL, SERVER, credentials, randbytes=lambda size: next(ids), request=request)

    def sent() -> bytes:
        transmit = client.poll_transmit()
        assert transmit is not None
        assert (transmit.local, transmit.remote) == (LOCAL, SERVER)
        return transmit.data

    # Allocate, challenged and repeated
    wanted = [SOFTWARE, (0x000D, (3600).to_bytes(4, "big")), (0x0019, b"\x11\0\0\0"), (0x001A, b"")]
    client.start(0.0)
    padded = (0x8022, SOFTWARE[1].ljust(127))  # where we deviate: see `client_requests._padded`
    assert sent() == message(0x0003, ALLOCATE_1, padded, *wanted[1:])
    unauthorized = (0x0009, b"\0\0\x04\x01Unauthorized")
    challenge = [SERVER_SOFTWARE, unauthorized, REALM, (0x0015, NONCE), ALGORITHMS]
    assert client.unwrap(0.1, message(0x0113, ALLOCATE_1, *challenge)) is None
    assert sent() == message(0x0003, ALLOCATE_2, *wanted, *authentication(NONCE), key=KEY)
    relayed, mapped = make_address("192.0.2.15", 50000), make_address("192.0.2.1", 7000)
    granted = [SERVER_SOFTWARE, (0x000D, (1200).to_bytes(4, "big")), (0x0016, xor(relayed)), (0x0020, xor(mapped))]
    client.unwrap(0.2, message(0x0103, ALLOCATE_2, *granted, key=KEY))
    assert client.poll_event() == turn.Allocated((relayed,), mapped, 1200)

    # CreatePermission for peer A, whose datagram waits for it
    assert client.wrap(1.0, PEER_A, [b"\0"]) is None
    any_port = (0x0012, xor(make_address("192.0.2.150", 0)))
    assert sent() == message(0x0008, PERMISSION, any_port, *authentication(NONCE), key=KEY)
    client.unwrap(1.1, message(0x0108, PERMISSION, key=KEY))
    assert client.poll_event() == turn.PermissionInstalled("192.0.2.150")

    # Send and Data indications
    peer_a = (0x0012, xor(PEER_A))
    assert client.wrap(2.0, PEER_A, [b"\0"]) == [message(0x0016, SEND, peer_a, (0x001A, b""), (0x0013, b"\0"))]
    indication = message(0x0017, DATA, peer_a, (0x0013, b"data"))
    assert client.unwrap(2.1, indication) == (PEER_A, b"data")

    # ChannelBind for peer B, ChannelData both ways; here its permission is asked for, too
    client._peers.want_channel(3.0, PEER_B)
    number = (0x000C, b"\x40\0\0\0")
    assert sent() == message(0x0009, CHANNEL, number, (0x0012, xor(PEER_B)), *authentication(NONCE), key=KEY)
    client.unwrap(3.1, message(0x0109, CHANNEL, key=KEY))
    assert client.poll_event() == turn.ChannelBound(PEER_B, 0x4000)
    assert client.wrap(3.2, PEER_B, [b"data"]) == [b"\x40\0\0\x04data"]
    assert client.unwrap(3.3, b"\x40\0\0\x05reply") == (PEER_B, b"reply")

    # Refresh, the nonce being stale
    client._refresh(10.0)
    assert sent() == message(0x0004, REFRESH_1, SOFTWARE, *authentication(NONCE), key=KEY)
    stale = [SERVER_SOFTWARE, (0x0009, b"\0\0\x04\x26Stale Nonce"), REALM, (0x0015, NEW_NONCE), ALGORITHMS]
    client.unwrap(10.1, message(0x0114, REFRESH_1, *stale))
    assert sent() == message(0x0004, REFRESH_2, SOFTWARE, *authentication(NEW_NONCE), key=KEY)
