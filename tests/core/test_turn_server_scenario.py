"""The detailed example of RFC 8656 section 20, from the server's side, byte by byte.

The RFC gives attributes and transaction ids, not bytes, and leaves the password open; the expected messages are built
here by hand. Two things differ from the figure, on purpose: unauthenticated errors carry neither SOFTWARE nor a reason
phrase (they may hit somebody who asked for nothing), and peers in 192.0.2.0/24 have to be allowed.
"""

from __future__ import annotations

import hashlib
import hmac
import zlib

from turn_bench import Bench, config, error_of

from iceagent.core import stun
from iceagent.core.address import TransportAddress
from iceagent.core.turn.server import ClientPath, PeerPolicy, StaticUsers, TurnLimits

REALM, USER, PASSWORD = "example.com", "George", "The Rain"
CLIENT = TransportAddress("192.0.2.1", 7000)
SERVER = TransportAddress("192.0.2.15", 3478)
PEER_A = TransportAddress("192.0.2.150", 32102)
PEER_B = TransportAddress("192.0.2.210", 49191)
PATH = ClientPath("udp", SERVER, CLIENT)
SERVER_SOFTWARE = "Example server, version 1.17"
KEY = hashlib.sha256(f"{USER}:{REALM}:{PASSWORD}".encode()).digest()

CHALLENGED = "a56250d3f17abe679422de85"
ALLOCATED = "c271e932ad7446a32c234492"
PERMITTED = "e5913a8f460956ca277d3319"
SENT = "1278e9aca2711637ef7d3328"
BOUND = "6490d3bc175aff3d84513212"
STALE = "0864b3c27ade9354b4312414"
REFRESHED = "427bd3e625a85fc731dc4191"


def attribute(kind: int, value: bytes) -> bytes:
    return kind.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value + bytes(-len(value) % 4)


def header(kind: int, transaction: str, body: bytes) -> bytes:
    return kind.to_bytes(2, "big") + len(body).to_bytes(2, "big") + bytes.fromhex("2112a442" + transaction) + body


def sign(kind: int, transaction: str, body: bytes, *, sha1: bool = False) -> bytes:
    """Append MESSAGE-INTEGRITY if asked for, and MESSAGE-INTEGRITY-SHA256."""
    if sha1:
        covered = header(kind, transaction, body + bytes(24))[: 20 + len(body)]
        body += attribute(0x0008, hmac.digest(KEY, covered, "sha1"))
    covered = header(kind, transaction, body + bytes(36))[: 20 + len(body)]
    return header(kind, transaction, body + attribute(0x001C, hmac.digest(KEY, covered, "sha256")))


def xor_ipv4(kind: int, address: TransportAddress) -> bytes:
    number = int.from_bytes(bytes(map(int, address.host.split("."))), "big") ^ 0x2112A442
    return attribute(kind, b"\x00\x01" + (address.port ^ 0x2112).to_bytes(2, "big") + number.to_bytes(4, "big"))


SOFTWARE = attribute(0x8022, SERVER_SOFTWARE.encode())
CLIENT_SOFTWARE = attribute(0x8022, b"Example client, version 1.03")
MD5_AND_SHA256 = bytes.fromhex("0001 0000 0002 0000")
ASK = attribute(0x000D, bytes.fromhex("00000e10")) + attribute(0x0019, b"\x11\0\0\0") + attribute(0x001A, b"")


def credentials(nonce: bytes) -> bytes:
    return b"".join(
        (
            attribute(0x0006, USER.encode()),
            attribute(0x0014, REALM.encode()),
            attribute(0x0015, nonce),
            attribute(0x8002, MD5_AND_SHA256),
            attribute(0x001D, bytes.fromhex("0002 0000")),
        )
    )


def bench() -> Bench:
    made = Bench(
        config(
            realm=REALM,
            users=StaticUsers({USER: PASSWORD}, REALM),
            relay_hosts={SERVER.host: SERVER.host},
            policy=PeerPolicy(own=[SERVER.host], allow=["192.0.2.0/24"]),
            limits=TurnLimits(max_lifetime_s=1200),
            ports=(50000, 50000),
            nonce_lifetime_s=900.0,
            software=SERVER_SOFTWARE,
            algorithms=(stun.MD5, stun.SHA256),
        )
    )
    made.random.randbytes(1)
    return made


def nonce_of(data: bytes) -> bytes:
    nonce = stun.decode(data).get(stun.Nonce)
    assert nonce is not None
    return nonce.value.encode()


def challenge(kind: int, transaction: str, number: int, nonce: bytes) -> bytes:
    """Return the small error that tells a client how to authenticate."""
    body = attribute(0x0009, bytes((0, 0, 4, number))) + attribute(0x0014, REALM.encode())
    return header(kind, transaction, body + attribute(0x0015, nonce) + attribute(0x8002, MD5_AND_SHA256))


def allocate(made: Bench) -> bytes:
    """Play the first two exchanges; return the nonce."""
    data = made.give(PATH, header(0x0003, CHALLENGED, CLIENT_SOFTWARE + ASK))
    assert data is not None
    nonce = nonce_of(data)
    assert data == challenge(0x0113, CHALLENGED, 1, nonce)
    assert nonce.startswith(b"obMatJos2wAAA")
    answer = made.give(PATH, sign(0x0003, ALLOCATED, CLIENT_SOFTWARE + ASK + credentials(nonce), sha1=True))
    lifetime, relayed = attribute(0x000D, (1200).to_bytes(4, "big")), TransportAddress("192.0.2.15", 50000)
    body = SOFTWARE + lifetime + xor_ipv4(0x0016, relayed) + xor_ipv4(0x0020, CLIENT)
    assert answer == sign(0x0103, ALLOCATED, body)
    return nonce


def test_rfc_8656_section_20_allocation() -> None:
    """Challenge, SHA-256 chosen over MD5, an hour asked for and twenty minutes given."""
    allocate(bench())


def test_rfc_8656_section_20_permission_send_and_data() -> None:
    """Peer A by permission: a Send with DONT-FRAGMENT out, a Data indication back."""
    made = bench()
    nonce = allocate(made)
    request = xor_ipv4(0x0012, TransportAddress(PEER_A.host, 0)) + credentials(nonce)
    assert made.give(PATH, sign(0x0008, PERMITTED, request)) == sign(0x0108, PERMITTED, SOFTWARE)
    indication = xor_ipv4(0x0012, PEER_A) + attribute(0x001A, b"") + attribute(0x0013, b"hello, A")
    assert made.give(PATH, header(0x0016, SENT, indication)) is None
    (out,) = made.to_peers
    assert (out.relay.address.port, out.peer, out.data, out.dont_fragment) == (50000, PEER_A, b"hello, A", True)
    relay = made.server.allocations[PATH].relays[0]
    (data,) = made.server.forward_to_client(made.now, relay, PEER_A, b"hello, client", 13)
    transaction = data[8:20].hex()
    body = xor_ipv4(0x0012, PEER_A) + attribute(0x0013, b"hello, client")
    assert data == header(0x0017, transaction, body)


def test_rfc_8656_section_20_channel() -> None:
    """Peer B by channel 0x4000."""
    made = bench()
    nonce = allocate(made)
    request = attribute(0x000C, bytes.fromhex("40000000")) + xor_ipv4(0x0012, PEER_B) + credentials(nonce)
    assert made.give(PATH, sign(0x0009, BOUND, request)) == sign(0x0109, BOUND, SOFTWARE)
    allocation = made.server.allocations[PATH]
    (out,) = made.server.forward_to_peer(made.now, allocation, b"\x40\x00\x00\x08hello, B", 12)
    assert (out.peer, out.datagrams) == (PEER_B, [b"hello, B"])
    back = made.server.forward_to_client(made.now, allocation.relays[0], PEER_B, b"hello, client", 13)
    assert back == [b"\x40\x00\x00\x0dhello, client"]


def test_rfc_8656_section_20_stale_nonce_and_refresh() -> None:
    """After the nonce's time 438 brings another one, and the allocation goes on with it."""
    made = bench()
    nonce = allocate(made)
    made.wait(1000)
    data = made.give(PATH, sign(0x0004, STALE, credentials(nonce)))
    assert data is not None
    fresh = nonce_of(data)
    assert data == challenge(0x0114, STALE, 38, fresh)
    assert fresh != nonce
    answer = made.give(PATH, sign(0x0004, REFRESHED, credentials(fresh)))
    assert answer == sign(0x0104, REFRESHED, SOFTWARE + attribute(0x000D, (600).to_bytes(4, "big")))
    assert error_of(stun.decode(answer)) is None
    assert zlib.crc32(answer) == zlib.crc32(sign(0x0104, REFRESHED, SOFTWARE + attribute(0x000D, b"\0\0\x02\x58")))
