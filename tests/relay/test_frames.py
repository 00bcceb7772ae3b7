"""The frames of the relay's websockets, beside those of another implementation."""

from __future__ import annotations

import itertools
import os
from contextlib import suppress

import pytest
from client_frames import frame
from hypothesis import given
from hypothesis import strategies as st
from icesignal.frames import BadFrames, FrameReader, Opcode, encode, encode_close, read_close
from icesignal.wire import MAX_MESSAGE_BYTES
from wsproto import frame_protocol


def read_all(*pieces: bytes) -> list[tuple[Opcode, bytes]]:
    reader, found = FrameReader(), list[tuple[Opcode, bytes]]()
    for piece in pieces:
        reader.feed(piece)
        while (one := reader.next()) is not None:
            found.append(one)
    return found


def test_the_examples_of_the_rfc() -> None:
    """RFC 6455 section 5.7: a masked text, a ping and its pong, 256 and 65,536 bytes."""
    assert read_all(bytes.fromhex("818537fa213d7f9f4d5158")) == [(Opcode.TEXT, b"Hello")]
    assert encode(Opcode.PING, b"Hello") == bytes.fromhex("890548656c6c6f")
    assert read_all(bytes.fromhex("8a8537fa213d7f9f4d5158")) == [(Opcode.PONG, b"Hello")]
    assert encode(Opcode.BINARY, bytes(256)) == bytes.fromhex("827e0100") + bytes(256)
    assert encode(Opcode.BINARY, bytes(65_536)) == bytes.fromhex("827f0000000000010000") + bytes(65_536)


@given(
    st.lists(
        st.tuples(st.sampled_from([Opcode.TEXT, Opcode.BINARY, Opcode.PING]), st.integers(0, 125), st.integers(1, 3)),
        max_size=6,
    ),
    st.lists(st.integers(0, 2_000), max_size=8),
)
def test_what_another_library_sends_is_read_however_it_is_cut(
    messages: list[tuple[Opcode, int, int]], cuts: list[int]
) -> None:
    """Whole and in fragments, control frames between the messages."""
    client = frame_protocol.FrameProtocol(client=True, extensions=[])
    data, expected = b"", []
    for opcode, size, parts in messages:
        payload = os.urandom(size).hex().encode()[:size] if opcode is Opcode.TEXT else os.urandom(size)
        expected.append((opcode, payload))
        if opcode is Opcode.PING:
            data += client.ping(payload)
            continue
        step = size // parts + 1
        pieces = [payload[at : at + step] for at in range(0, max(size, 1), step)]
        for number, piece in enumerate(pieces):
            sent: bytes | str = piece.decode() if opcode is Opcode.TEXT else piece
            data += client.send_data(sent, fin=number == len(pieces) - 1)
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    assert read_all(*(data[a:b] for a, b in itertools.pairwise(edges))) == expected


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536])
def test_what_is_sent_is_what_another_library_reads(size: int) -> None:
    """Each of the three ways to write a length."""
    payload = os.urandom(size)
    reader = frame_protocol.FrameProtocol(client=True, extensions=[])
    reader.receive_bytes(encode(Opcode.BINARY, payload))
    payloads = [one.payload for one in reader.received_frames()]
    assert b"".join(bytes(one) for one in payloads if not isinstance(one, (str, tuple))) == payload


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(b"\x82\x01x", 1002, id="not masked"),
        pytest.param(frame(0xC2, b"x"), 1002, id="a reserved bit"),
        pytest.param(frame(0x83, b"x"), 1002, id="an unknown kind of data"),
        pytest.param(frame(0x8B), 1002, id="an unknown kind of control frame"),
        pytest.param(frame(0x09), 1002, id="a ping in fragments"),
        pytest.param(frame(0x89, bytes(126)), 1002, id="a long ping"),
        pytest.param(frame(0x80, b"x"), 1002, id="the rest of nothing"),
        pytest.param(frame(0x02, b"x") + frame(0x82, b"x"), 1002, id="a message within a message"),
        pytest.param(frame(0x82, b"x", size=b"\x7e\x00\x01"), 1002, id="16 bits where 7 do"),
        pytest.param(frame(0x82, size=b"\x7f" + (65_535).to_bytes(8, "big")), 1002, id="64 bits where 16 do"),
        pytest.param(frame(0x82, size=b"\x7f" + (65_537).to_bytes(8, "big")), 1009, id="a byte too many"),
        pytest.param(frame(0x82, size=b"\x7f" + b"\xff" * 8), 1009, id="as many as can be written"),
        pytest.param(frame(0x02, bytes(65_535)) + frame(0x80, bytes(2)), 1009, id="too many in fragments"),
    ],
)
def test_what_breaks_the_rules_is_refused(data: bytes, code: int) -> None:
    """With the code that RFC 6455 section 7.4.1 has for it, and before what is too long has come."""
    with pytest.raises(BadFrames) as caught:
        read_all(data)
    assert caught.value.code == code


def test_a_message_may_be_as_long_as_the_protocol_says() -> None:
    """The limit itself is good, whole and in fragments."""
    size = b"\x7f" + MAX_MESSAGE_BYTES.to_bytes(8, "big")
    assert read_all(frame(0x82, bytes(MAX_MESSAGE_BYTES), size=size)) == [(Opcode.BINARY, bytes(MAX_MESSAGE_BYTES))]
    assert read_all(frame(0x02, bytes(65_535)), frame(0x80, b"x")) == [(Opcode.BINARY, bytes(65_535) + b"x")]


def test_empty_fragments_take_no_memory() -> None:
    """However many there are: their sender is stopped by the bytes that they take on the wire."""
    reader = FrameReader(frame(0x02, b"a"))
    for _ in range(10_000):
        reader.feed(frame(0x00))
        assert reader.next() is None
    assert reader._fragments == b"a"
    reader.feed(frame(0x80))
    assert reader.next() == (Opcode.BINARY, b"a")


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    """Whatever comes is a message, a part of one, or refused."""
    reader = FrameReader()
    with suppress(BadFrames):
        for at in range(0, len(data), 7):
            reader.feed(data[at : at + 7])
            while (found := reader.next()) is not None:
                if found[0] is Opcode.CLOSE:
                    read_close(found[1])


def test_close_frames_say_why() -> None:
    """The code, the reason, and nothing that RFC 6455 section 7.4.2 forbids."""
    assert read_close(b"") == (1005, "")
    assert read_close((4003).to_bytes(2, "big") + "zu langsam ü".encode()) == (4003, "zu langsam ü")
    for bad in (
        b"\x03",
        (999).to_bytes(2, "big"),
        (1005).to_bytes(2, "big"),
        (1006).to_bytes(2, "big"),
        b"\x03\xe8\xff",
    ):
        with pytest.raises(BadFrames):
            read_close(bad)
    sent = encode_close(4003, "ü" * 100)
    assert len(sent) == 2 + 2 + 122
    assert sent[:4] == b"\x88\x7c\x0f\xa3"
    assert sent[4:].decode() == "ü" * 61
