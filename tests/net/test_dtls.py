"""DTLS as a state machine: handshakes without a network, whatever is lost, forged or junk."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from OpenSSL import SSL
from turn_wire import make_certificate

from iceagent.net import dtls
from iceagent.net.dtls import DtlsConnection, DtlsDoor, handshake_of, is_client_hello, prepare

ENDS = ("198.51.100.1:5349", "203.0.113.9:40000")
ENCRYPTED_HANDSHAKE = 22, b"\0\1"  # type, epoch


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> DtlsDoor:
    files = make_certificate(tmp_path_factory.mktemp("dtls"))
    context = prepare(SSL.Context(SSL.DTLS_METHOD))
    context.use_certificate_file(str(files.certificate))
    context.use_privatekey_file(str(files.key))
    return DtlsDoor(context)


def client() -> DtlsConnection:
    return DtlsConnection.connect(prepare(SSL.Context(SSL.DTLS_METHOD)))


def admit(door: DtlsDoor, client_hello: bytes) -> tuple[DtlsConnection | None, list[bytes]]:
    """Answer a ClientHello, as a server does that has a place."""
    connection, answers = door.admit(client_hello, ENDS)
    if connection is not None:
        connection.advance()
        answers = connection.take_datagrams()
    return connection, answers


def each_record(datagrams: list[bytes]) -> Iterator[bytes]:
    """Send every record in a datagram of its own, as some stacks do."""
    for datagram in datagrams:
        at = 0
        while at < len(datagram):
            end = at + 13 + int.from_bytes(datagram[at + 11 : at + 13], "big")
            yield datagram[at:end]
            at = end


def shake_hands(
    door: DtlsDoor, arrives: Callable[[bytes], bool] = lambda _: True
) -> tuple[DtlsConnection, DtlsConnection]:
    """Carry datagrams, one record each, between a client and a server until nothing moves; return both ends."""
    one, other = client(), None
    moved = True
    while moved:
        moved = False
        for datagram in filter(arrives, each_record(one.take_datagrams())):
            moved = True
            if other is None or (is_client_hello(datagram) and not other.is_open):
                admitted, answers = admit(door, datagram)
                other = other or admitted
            else:
                other.handle_datagram(datagram)
                answers = other.take_datagrams()
            for answer in filter(arrives, each_record(answers)):
                one.handle_datagram(answer)
    assert other is not None
    return one, other


def carry_both_ways(one: DtlsConnection, other: DtlsConnection) -> bool:
    there = other.handle_datagram(one.encrypt(b"there"))
    return [*there, *one.handle_datagram(other.encrypt(b"back"))] == [b"there", b"back"]


def test_messages_go_both_ways_whole_and_one_to_a_datagram(door: DtlsDoor) -> None:
    """As long as a record may be."""
    one, other = shake_hands(door)
    for message in (b"x", bytes(1200), bytes(range(256)) * 64):
        assert other.handle_datagram(one.encrypt(message)) == [message]
        assert one.handle_datagram(other.encrypt(message)) == [message]


def test_an_encrypted_record_is_no_client_hello_whatever_its_bytes(door: DtlsDoor) -> None:
    """The first encrypted byte of a Finished is 1, the type of a ClientHello, once in 256 handshakes."""
    seen: list[bytes] = []

    def watch(datagram: bytes) -> bool:
        if (datagram[0], datagram[3:5]) == ENCRYPTED_HANDSHAKE:
            seen.append(datagram)
        return True

    while not any(datagram[13] == 1 for datagram in seen):
        seen.clear()
        one, other = shake_hands(door, watch)
        assert one.is_open
        assert other.is_open
        assert not any(map(is_client_hello, seen))
    assert carry_both_ways(one, other)


class Lossy:
    """A handshake of which one datagram is lost, the `lost`-th; both timers run, as they do in the shells."""

    def __init__(self, door: DtlsDoor, lost: int) -> None:
        self.door = door
        self.lost = lost
        self.sent = 0
        self.one = client()
        self.other: DtlsConnection | None = None

    @property
    def ends(self) -> list[DtlsConnection]:
        return [self.one] if self.other is None else [self.one, self.other]

    def arriving(self, datagrams: list[bytes]) -> Iterator[bytes]:
        for datagram in each_record(datagrams):
            self.sent += 1
            if self.sent - 1 != self.lost:
                yield datagram

    def carry(self) -> None:
        """Carry what is there to be carried."""
        before = -1
        while before != self.sent:
            before = self.sent
            for datagram in self.arriving(self.one.take_datagrams()):
                if self.other is None:
                    self.other, answers = admit(self.door, datagram)
                    for answer in self.arriving(answers):
                        self.one.handle_datagram(answer)
                else:
                    self.other.handle_datagram(datagram)
            if self.other is not None:
                for answer in self.arriving(self.other.take_datagrams()):
                    self.one.handle_datagram(answer)


def test_a_lost_datagram_is_sent_again(door: DtlsDoor) -> None:
    """Each one of a handshake in its turn."""
    handshakes = [Lossy(door, lost) for lost in range(12)]
    for _ in range(4):
        for handshake in handshakes:
            handshake.carry()
        waits = [wait for handshake in handshakes for end in handshake.ends if (wait := end.timeout()) is not None]
        if not waits:
            break
        time.sleep(max(waits))  # OpenSSL's timer knows no other clock
        for handshake in handshakes:
            for end in handshake.ends:
                end.handle_timeout()
    for handshake in handshakes:
        assert handshake.sent > handshake.lost
        assert handshake.other is not None
        assert carry_both_ways(handshake.one, handshake.other), handshake.lost


def test_nothing_is_kept_of_who_shows_no_cookie(door: DtlsDoor) -> None:
    """And the answer has fewer bytes than the question; RFC 6347 section 4.2.1."""
    (hello,) = client().take_datagrams()
    assert is_client_hello(hello)
    connection, answers = door.admit(hello, ENDS)
    assert connection is None
    assert sum(map(len, answers)) < len(hello)


def hello_with_cookie(door: DtlsDoor) -> bytes:
    one = client()
    (first,) = one.take_datagrams()
    for answer in door.admit(first, ENDS)[1]:
        one.handle_datagram(answer)
    (second,) = one.take_datagrams()
    assert handshake_of(first) == handshake_of(second)
    return second


def test_a_cookie_is_good_for_its_address_and_for_a_while(door: DtlsDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever had an address an hour ago cannot have a certificate chain sent there now."""
    hello = hello_with_cookie(door)
    assert door.admit(hello, ENDS)[0] is not None
    assert door.admit(hello, ("198.51.100.1:5349", "203.0.113.9:40001"))[0] is None
    now = dtls.time.monotonic()
    monkeypatch.setattr(dtls.time, "monotonic", lambda: now + dtls.COOKIE_LIFE_S)
    assert door.admit(hello, ENDS)[0] is not None
    monkeypatch.setattr(dtls.time, "monotonic", lambda: now + 2 * dtls.COOKIE_LIFE_S)
    assert door.admit(hello, ENDS)[0] is None


def test_a_cookie_is_good_for_its_handshake_alone(door: DtlsDoor) -> None:
    """Whoever has seen a ClientHello and forges its source would end the client's association with one of his own."""
    hello = hello_with_cookie(door)
    forged = bytearray(hello)
    forged[30] ^= 1
    assert is_client_hello(bytes(forged))
    assert door.admit(bytes(forged), ENDS)[0] is None
    assert door.admit(hello, ENDS)[0] is not None


def test_a_place_is_taken_before_a_handshake_is_paid_for(door: DtlsDoor) -> None:
    """A good cookie alone draws no certificate and no signature."""
    connection, answers = door.admit(hello_with_cookie(door), ENDS)
    assert connection is not None
    assert answers == connection.take_datagrams() == []
    connection.advance()
    assert connection.take_datagrams()


def test_junk_is_dropped_before_and_after_the_handshake(door: DtlsDoor) -> None:
    """Bytes of anybody, and true datagrams with one bit wrong."""
    randomly = random.Random(6347)
    hello = hello_with_cookie(door)
    one, other = shake_hands(door)
    true = [hello, one.encrypt(b"true"), other.encrypt(b"true")]
    for _ in range(2000):
        junk = randomly.randbytes(randomly.randrange(80))
        if randomly.random() < 0.5:
            bent = bytearray(randomly.choice(true))
            bent[randomly.randrange(len(bent))] ^= 1 << randomly.randrange(8)
            junk = bytes(bent)
        if is_client_hello(junk):
            door.admit(junk, ENDS)
        assert one.handle_datagram(junk) == other.handle_datagram(junk) == []
        one.take_datagrams(), other.take_datagrams()
        stranger = client()
        stranger.handle_datagram(junk)
        stranger.take_datagrams()
    assert carry_both_ways(one, other)


def test_what_cannot_be_sent_is_refused_in_a_sentence(door: DtlsDoor) -> None:
    """Too long, empty, too early, too late."""
    with pytest.raises(OSError, match="handshake is not done"):
        client().encrypt(b"early")
    one, other = shake_hands(door)
    for message in (b"", bytes(dtls.MAX_MESSAGE + 1)):
        with pytest.raises(ValueError, match=r"1 to 16384 bytes"):
            one.encrypt(message)
    one.close()
    one.close()
    (goodbye,) = one.take_datagrams()
    assert other.handle_datagram(goodbye) == []
    assert other.ended == "the other side closed it"
    for end in (one, other):
        assert end.handle_datagram(goodbye) == []
        assert end.timeout() is None
        with pytest.raises(OSError, match="closed"):
            end.encrypt(b"late")


def test_a_handshake_that_fails_says_why(tmp_path: Path) -> None:
    """No cipher in common."""
    files = make_certificate(tmp_path)
    context = prepare(SSL.Context(SSL.DTLS_METHOD))
    context.use_certificate_file(str(files.certificate))
    context.use_privatekey_file(str(files.key))
    context.set_cipher_list(b"ECDHE-ECDSA-AES256-GCM-SHA384")
    door = DtlsDoor(context)
    mine = prepare(SSL.Context(SSL.DTLS_METHOD))
    mine.set_cipher_list(b"ECDHE-ECDSA-CHACHA20-POLY1305")
    one = DtlsConnection.connect(mine)
    for _ in range(2):
        (hello,) = one.take_datagrams()
        other, answers = admit(door, hello)
        for answer in answers:
            one.handle_datagram(answer)
    assert other is not None
    assert other.ended == "no shared cipher"
    assert "handshake failure" in str(one.ended)
